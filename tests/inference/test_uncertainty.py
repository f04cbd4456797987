"""Entropy: the values that can be worked out by hand, and what must hold for all."""

from __future__ import annotations

import math

import pytest
import torch

from medunet.inference.uncertainty import (
    compute_entropy,
    compute_entropy_of_logits,
    compute_region_entropy,
    compute_region_entropy_of_logits,
)


def make_logits(num_classes: int = 5) -> torch.Tensor:
    return 4 * torch.randn(num_classes, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def test_entropy_by_hand() -> None:
    probabilities = torch.tensor([[1.0, 0.25, 0.5, 0.7], [0, 0.25, 0.5, 0.1], [0, 0.25, 0, 0.1], [0, 0.25, 0, 0.1]])
    by_hand = -(0.7 * math.log(0.7) + 3 * 0.1 * math.log(0.1)) / math.log(4)
    assert compute_entropy(probabilities).tolist() == pytest.approx([0, 1, 0.5, by_hand], abs=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3, 25])
def test_entropy_of_logits_is_that_of_softmax(num_classes: int) -> None:
    logits = make_logits(num_classes)
    entropy = compute_entropy_of_logits(logits)
    torch.testing.assert_close(entropy, compute_entropy(logits.softmax(dim=0)), atol=1e-5, rtol=0)
    torch.testing.assert_close(compute_entropy_of_logits(logits + 300), entropy, atol=1e-4, rtol=0)
    assert entropy.shape == (3, 4, 5)
    assert 0 <= entropy.min() < 0.2 < entropy.max() <= 1


def test_extreme_logits_give_no_nan() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    assert compute_entropy_of_logits(logits).tolist() == pytest.approx([0, 0, 1], abs=1e-6)
    assert compute_region_entropy_of_logits(logits).tolist() == pytest.approx([0, 0, 1], abs=1e-6)


def test_half_precision_is_summed_in_float32() -> None:
    logits = make_logits().half()
    entropy = compute_entropy_of_logits(logits)
    assert entropy.dtype == torch.float32
    torch.testing.assert_close(entropy, compute_entropy_of_logits(logits.float()), atol=1e-3, rtol=0)


def test_the_order_of_classes_does_not_matter() -> None:
    probabilities = make_logits().softmax(dim=0)
    torch.testing.assert_close(compute_entropy(probabilities.flip(0)), compute_entropy(probabilities))


def test_a_single_class_is_certain() -> None:
    assert compute_entropy(torch.ones(1, 2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_regions_by_hand() -> None:
    probabilities = torch.tensor([[1.0, 0.5, 0.9, 0.0], [0.0, 1.0, 0.8, 0.0]])
    by_hand = -(0.8 * math.log2(0.8) + 0.2 * math.log2(0.2))
    assert compute_region_entropy(probabilities).tolist() == pytest.approx([0, 1, by_hand, 0], abs=1e-6)


def test_regions_of_logits_are_those_of_sigmoid() -> None:
    logits = make_logits(3)
    torch.testing.assert_close(
        compute_region_entropy_of_logits(logits), compute_region_entropy(logits.sigmoid()), atol=1e-5, rtol=0
    )


def test_the_input_stays_as_it_was() -> None:
    logits = make_logits()
    before = logits.clone()
    compute_entropy(logits.softmax(dim=0))
    compute_entropy_of_logits(logits)
    compute_region_entropy_of_logits(logits)
    assert torch.equal(logits, before)
