"""Calibration by hand, and beside the definitions written out plainly."""

import numpy as np
import pytest

from medunet.errors import GeometryError
from medunet.evaluation import compute_calibration


def stack(foreground):
    foreground = np.array(foreground, float).reshape(1, 1, 1, -1)
    return np.concatenate([1 - foreground, foreground])


def row(values):
    return np.array(values).reshape(1, 1, -1)


def test_by_hand():
    """Four voxels at confidence 0.75 of which two are right, one at 1.0 that is right."""
    found = compute_calibration(stack([0.75, 0.75, 0.25, 0.25, 1.0]), row([1, 0, 1, 0, 1]), num_bins=4)
    assert found.bin_counts.tolist() == [0, 0, 4, 1]
    assert found.bin_accuracy[2:].tolist() == [0.5, 1.0]
    assert found.bin_confidence[2:].tolist() == [0.75, 1.0]
    assert np.isnan(found.bin_accuracy[:2]).all()
    assert found.ece == pytest.approx(4 / 5 * 0.25)
    assert found.brier == pytest.approx(2 * (0.0625 * 2 + 0.5625 * 2) / 5)


def test_sure_and_right_is_0_sure_and_wrong_is_the_worst():
    right = compute_calibration(stack([1, 0]), row([1, 0]))
    wrong = compute_calibration(stack([1, 0]), row([0, 1]))
    assert (right.ece, right.brier) == (0, 0)
    assert (wrong.ece, wrong.brier) == (1, 2)


def test_the_definitions():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), (5, 6, 7)).transpose(3, 0, 1, 2)
    reference = rng.integers(0, 4, (5, 6, 7))
    found = compute_calibration(probabilities, reference, num_bins=10)
    one_hot = np.stack([reference == channel for channel in range(4)])
    assert found.brier == pytest.approx(((probabilities - one_hot) ** 2).sum(axis=0).mean())
    confidence = probabilities.max(axis=0)
    is_right = probabilities.argmax(axis=0) == reference
    ece = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        if inside.any():
            ece += inside.mean() * abs(is_right[inside].mean() - confidence[inside].mean())
    assert found.ece == pytest.approx(ece)


def test_only_the_mask_counts():
    probabilities, reference = stack([0.6, 0.6, 1.0]), row([1, 0, 0])
    found = compute_calibration(probabilities, reference, mask=row([True, True, False]))
    assert found.ece == pytest.approx(0.1)
    assert compute_calibration(probabilities, reference, mask=np.zeros((1, 1, 3), bool)) is None


@pytest.mark.parametrize(
    ("probabilities", "reference", "error", "message"),
    [
        (stack([0.5]), row([0, 1]), GeometryError, "on one grid"),
        (stack([2.0]), row([0]), ValueError, "not logits"),
        (stack([0.5]) / 2, row([0]), ValueError, "do not sum to 1"),
        (stack([0.5]), row([2]), ValueError, "expected their indices"),
        (stack([np.nan]), row([0]), ValueError, "not logits"),
    ],
)
def test_wrong_input_is_refused(probabilities, reference, error, message):
    with pytest.raises(error, match=message):
        compute_calibration(probabilities, reference)


def test_there_must_be_a_bin():
    with pytest.raises(ValueError, match="1 or more"):
        compute_calibration(stack([0.5]), row([0]), num_bins=0)
