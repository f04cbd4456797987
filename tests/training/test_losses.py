"""Losses against numbers worked out by hand, and the properties that a loss must have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medunet.tasks import IGNORE_CODE, compute_membership, load_task
from medunet.training.losses import compute_dice_ce_loss, compute_scaled_loss

THREE_CLASSES = torch.eye(3)
REGIONS = torch.from_numpy(compute_membership(load_task("brain-tumour-mr")))  # codes 0 to 3, three nested regions


def make_codes(num_codes: int, *, shape: tuple[int, ...] = (2, 4, 5, 6), seed: int = 0) -> Tensor:
    return torch.randint(0, num_codes, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def make_logits(codes: Tensor, membership: Tensor, certainty: float) -> Tensor:
    """Logits that are right everywhere, by so much."""
    return (2 * membership[:, codes.long()].movedim(0, 1) - 1) * certainty


@pytest.mark.parametrize(("membership", "has_regions"), [(THREE_CLASSES, False), (REGIONS, True)])
def test_a_perfect_prediction_costs_nothing(membership: Tensor, has_regions: bool) -> None:
    codes = make_codes(membership.shape[1])
    loss = compute_dice_ce_loss(make_logits(codes, membership, 30), codes, membership, has_regions=has_regions)
    assert loss.total.item() == pytest.approx(0, abs=1e-5)
    assert loss.soft_dice.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("membership", "has_regions"), [(THREE_CLASSES, False), (REGIONS, True)])
def test_a_better_prediction_costs_less(membership: Tensor, has_regions: bool) -> None:
    codes = make_codes(membership.shape[1])
    losses = [
        compute_dice_ce_loss(make_logits(codes, membership, x), codes, membership, has_regions=has_regions)
        for x in (-3, -1, 0, 0.5, 2, 8)
    ]
    totals = [loss.total.item() for loss in losses]
    assert totals == sorted(totals, reverse=True)
    dices = [loss.soft_dice.item() for loss in losses]
    assert dices == sorted(dices)


def test_softmax_by_hand() -> None:
    # Two voxels, background and one class; the probabilities of the class are 1/4 and 3/4.
    logits = torch.tensor([[0.0, 0.0], [-math.log(3), math.log(3)]]).reshape(1, 2, 1, 1, 2)
    codes = torch.tensor([0, 1], dtype=torch.uint8).reshape(1, 1, 1, 2)
    loss = compute_dice_ce_loss(logits, codes, torch.eye(2), has_regions=False)
    dice = 2 * 0.75 / (1.0 + 1.0)
    assert loss.soft_dice.item() == pytest.approx(dice, abs=1e-5)
    assert loss.total.item() == pytest.approx(1 - dice - math.log(0.75), abs=1e-5)


def test_sigmoid_by_hand() -> None:
    # Whole {1, 2} and core {2}; one voxel of each code 0, 1 and 2; every probability is 1/2.
    membership = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    codes = torch.tensor([0, 1, 2], dtype=torch.uint8).reshape(1, 1, 1, 3)
    loss = compute_dice_ce_loss(torch.zeros(1, 2, 1, 1, 3), codes, membership, has_regions=True)
    dice = (2 * 1.0 / (1.5 + 2) + 2 * 0.5 / (1.5 + 1)) / 2
    assert loss.soft_dice.item() == pytest.approx(dice, abs=1e-5)
    assert loss.total.item() == pytest.approx(1 - dice + math.log(2), abs=1e-5)


def test_softmax_and_regions_differ_where_they_must() -> None:
    # Adding the same number to all logits changes nothing for classes, and everything for regions.
    codes = make_codes(3)
    logits = make_logits(codes, THREE_CLASSES, 1.0)
    classes = [compute_dice_ce_loss(logits + x, codes, THREE_CLASSES, has_regions=False).total.item() for x in (0, 5)]
    assert classes[0] == pytest.approx(classes[1], rel=1e-4)
    regions = [compute_dice_ce_loss(logits + x, codes, THREE_CLASSES, has_regions=True).total.item() for x in (0, 5)]
    assert abs(regions[0] - regions[1]) > 0.5


@pytest.mark.parametrize(("membership", "has_regions"), [(THREE_CLASSES, False), (REGIONS, True)])
def test_ignored_voxels_have_no_gradient_and_no_say(membership: Tensor, has_regions: bool) -> None:
    codes = make_codes(membership.shape[1])
    codes[:, 1:3] = IGNORE_CODE
    logits = torch.randn(2, len(membership), 4, 5, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = compute_dice_ce_loss(logits, codes, membership, has_regions=has_regions)
    loss.total.backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, 1:3].any()
    assert logits.grad[:, :, [0, 3]].any()
    kept = [0, 3]
    alone = compute_dice_ce_loss(logits[:, :, kept], codes[:, kept], membership, has_regions=has_regions)
    assert loss.total.item() == pytest.approx(alone.total.item(), rel=1e-5)


def test_a_patch_of_nothing_but_ignore_is_harmless() -> None:
    logits = torch.randn(1, 3, 4, 4, 4).requires_grad_()
    loss = compute_dice_ce_loss(
        logits, torch.full((1, 4, 4, 4), IGNORE_CODE, dtype=torch.uint8), THREE_CLASSES, has_regions=False
    )
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_float16_logits_do_not_overflow() -> None:
    # The sums over 64^3 voxels pass 65504, the largest float16.
    codes = make_codes(3, shape=(1, 64, 64, 64))
    logits = make_logits(codes, THREE_CLASSES, 2.0)
    half = compute_dice_ce_loss(logits.half(), codes, THREE_CLASSES, has_regions=False)
    full = compute_dice_ce_loss(logits, codes, THREE_CLASSES, has_regions=False)
    assert half.total.dtype == torch.float32
    assert half.total.item() == pytest.approx(full.total.item(), rel=1e-3)
    assert 0.5 < half.soft_dice.item() < 0.99


def test_dice_is_taken_over_the_whole_batch() -> None:
    # The class is in the second patch only. Alone, the first patch would score it 0 for the slightest probability.
    codes = torch.zeros(2, 4, 4, 4, dtype=torch.uint8)
    codes[1] = 1
    logits = make_logits(codes, torch.eye(2), 3.0)
    together = compute_dice_ce_loss(logits, codes, torch.eye(2), has_regions=False).soft_dice.item()
    alone = compute_dice_ce_loss(logits[:1], codes[:1], torch.eye(2), has_regions=False).soft_dice.item()
    assert together > 0.99
    assert alone < 0.01


def test_an_absent_class_that_is_not_predicted_scores_one() -> None:
    codes = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    logits = make_logits(codes, THREE_CLASSES, 60.0)
    assert compute_dice_ce_loss(logits, codes, THREE_CLASSES, has_regions=False).soft_dice.item() == pytest.approx(1)


def test_scales_weigh_half_of_the_one_before() -> None:
    codes = make_codes(3, shape=(1, 8, 8, 8))
    coarse = codes[:, 1::2, 1::2, 1::2]  # nearest-exact takes the upper of two voxels
    perfect, wrong = make_logits(codes, THREE_CLASSES, 30), make_logits(codes, THREE_CLASSES, -2)
    perfect_coarse, wrong_coarse = make_logits(coarse, THREE_CLASSES, 30), make_logits(coarse, THREE_CLASSES, -2)

    def compute(scales: list[Tensor]) -> float:
        return compute_scaled_loss(scales, codes, THREE_CLASSES, has_regions=False).total.item()

    fine_alone = compute_dice_ce_loss(wrong, codes, THREE_CLASSES, has_regions=False).total.item()
    coarse_alone = compute_dice_ce_loss(wrong_coarse, coarse, THREE_CLASSES, has_regions=False).total.item()
    assert compute([wrong]) == pytest.approx(fine_alone)
    assert compute([perfect, perfect_coarse]) == pytest.approx(0, abs=1e-4)
    assert compute([wrong, perfect_coarse]) == pytest.approx(fine_alone * 2 / 3, rel=1e-4)
    assert compute([perfect, wrong_coarse]) == pytest.approx(coarse_alone / 3, rel=1e-4)


def test_ignore_survives_shrinking() -> None:
    codes = torch.full((1, 8, 8, 8), IGNORE_CODE, dtype=torch.uint8)
    codes[:, :4] = 1
    scales = [torch.zeros(1, 3, 8, 8, 8), torch.zeros(1, 3, 4, 4, 4).requires_grad_()]
    compute_scaled_loss(scales, codes, THREE_CLASSES, has_regions=False).total.backward()
    assert scales[1].grad is not None
    assert scales[1].grad[:, :, :2].any()
    assert not scales[1].grad[:, :, 2:].any()
