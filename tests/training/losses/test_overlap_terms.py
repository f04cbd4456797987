"""Dice, Tversky and generalised Dice against numbers worked out by hand and against MONAI."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from made_up_patches import CLASSES, REGIONS, TASKS, build_task, make_codes, make_logits, make_noise
from monai.losses import DiceCELoss, DiceLoss, GeneralizedDiceLoss, TverskyLoss
from torch import Tensor
from torch.nn import functional as F

from medunet.tasks import Task, compute_membership
from medunet.training.losses import LossName, build_loss

CPU = torch.device("cpu")
ONE_LABEL = build_task("a")
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def compute(name: LossName, task: Task, logits: Tensor, codes: Tensor) -> float:
    return build_loss(name, task, CPU)([logits], codes).total.item()


def compute_with_monai(loss: Any, task: Task, logits: Tensor, codes: Tensor, **options: Any) -> float:
    """MONAI takes one-hot targets; sigmoid and all outputs for regions, softmax without background for classes."""
    targets = torch.from_numpy(compute_membership(task))[:, codes.long()].movedim(0, 1)
    activation = "sigmoid" if task.has_regions else "softmax"
    return loss(batch=True, **{activation: True}, **options)(logits, targets).item()


# Two voxels, background and one class; the probabilities of the class are 1/4 and 3/4: overlap 3/4, sizes 1 and 1.
LOGITS = torch.tensor([[0.0, 0.0], [-math.log(3), math.log(3)]]).reshape(1, 2, 1, 1, 2)
CODES = torch.tensor([0, 1], dtype=torch.uint8).reshape(1, 1, 1, 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dice-ce", 1 - 2 * 0.75 / 2 - math.log(0.75)),
        ("dice-focal", 1 - 2 * 0.75 / 2 - 0.25**2 * math.log(0.75)),
        ("tversky", 1 - 0.75 / (0.75 + 0.3 * 0.25 + 0.7 * 0.25)),
        ("generalized-dice", 1 - 2 * (0.75 + 0.75) / (2 + 2)),  # background and class are as large as each other
        ("topk-ce", -math.log(0.75)),  # 10 % of two voxels is none, so one
        ("boundary-ce", -math.log(0.75)),  # one object: every voxel weighs the same
    ],
)
def test_softmax_by_hand(name: LossName, expected: float) -> None:
    assert compute(name, ONE_LABEL, LOGITS, CODES) == pytest.approx(expected, abs=2e-5)


def test_sigmoid_by_hand() -> None:
    # One voxel of each code 0 to 3, every probability 1/2. Sizes of the regions: 3, 2 and 1; of the predictions: 2.
    codes = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 1, 4)
    logits = torch.zeros(1, 3, 1, 1, 4)
    dice = (2 * 1.5 / 5 + 2 * 1.0 / 4 + 2 * 0.5 / 3) / 3
    assert compute("dice-ce", REGIONS, logits, codes) == pytest.approx(1 - dice + math.log(2), abs=1e-5)
    tversky = sum(overlap / (overlap + 0.3 * (2 - overlap) + 0.7 * overlap) for overlap in (1.5, 1.0, 0.5)) / 3
    assert compute("tversky", REGIONS, logits, codes) == pytest.approx(1 - tversky, abs=2e-5)
    weights = [1 / 9, 1 / 4, 1]
    overlap = sum(weight * size / 2 for weight, size in zip(weights, (3, 2, 1), strict=True))
    size = sum(weight * (size + 2) for weight, size in zip(weights, (3, 2, 1), strict=True))
    assert compute("generalized-dice", REGIONS, logits, codes) == pytest.approx(1 - 2 * overlap / size, abs=1e-5)


def test_softmax_and_regions_differ_where_they_must() -> None:
    # Adding the same number to all logits changes nothing for classes, and everything for regions.
    for task, changes in ((CLASSES, False), (REGIONS, True)):
        codes = make_codes(task)
        logits = make_logits(task, codes, 1.0)
        first, second = (compute("dice-ce", task, logits + x, codes) for x in (0, 5))
        assert (abs(first - second) > 0.5) is changes
        assert changes or first == pytest.approx(second, rel=1e-4)


def test_dice_ce_is_that_of_monai() -> None:
    codes = make_codes(CLASSES)
    logits = make_noise(CLASSES, codes).detach()
    expected = compute_with_monai(DiceCELoss, CLASSES, logits, codes, include_background=False)
    assert compute("dice-ce", CLASSES, logits, codes) == pytest.approx(expected, rel=1e-6)


def test_dice_ce_of_regions_is_monais_dice_and_binary_cross_entropy() -> None:
    # MONAI's DiceCELoss takes a softmax for the cross-entropy of several outputs, even with sigmoid=True.
    codes = make_codes(REGIONS)
    logits = make_noise(REGIONS, codes).detach()
    targets = torch.from_numpy(compute_membership(REGIONS))[:, codes.long()].movedim(0, 1)
    expected = compute_with_monai(DiceLoss, REGIONS, logits, codes)
    expected += F.binary_cross_entropy_with_logits(logits, targets).item()
    assert compute("dice-ce", REGIONS, logits, codes) == pytest.approx(expected, rel=1e-6)


@every_task
def test_tversky_is_that_of_monai(task: Task) -> None:
    codes = make_codes(task)
    logits = make_noise(task, codes).detach()
    options = {"include_background": task.has_regions, "alpha": 0.3, "beta": 0.7}
    expected = compute_with_monai(TverskyLoss, task, logits, codes, **options)
    assert compute("tversky", task, logits, codes) == pytest.approx(expected, rel=1e-6)


@every_task
@pytest.mark.parametrize("absent", [None, 2])
def test_generalised_dice_is_that_of_monai(task: Task, absent: int | None) -> None:
    codes = make_codes(task)
    codes[codes == absent] = 0
    logits = make_noise(task, codes).detach()
    # Without smoothing, as MONAI's counts more the larger the patch; ours is a part in a million here.
    expected = compute_with_monai(GeneralizedDiceLoss, task, logits, codes, smooth_nr=0.0, smooth_dr=0.0)
    assert compute("generalized-dice", task, logits, codes) == pytest.approx(expected, rel=1e-5)


def test_generalised_dice_makes_a_small_label_count() -> None:
    # A label of one voxel that is missed costs far more than one of its voxels among the many of another.
    codes = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    codes[:, :4] = 1
    codes[:, 7, 7, 7] = 2
    right = make_logits(CLASSES, codes, 20.0)
    missed, wrong = right.clone(), right.clone()
    missed[0, :, 7, 7, 7] = torch.tensor([20.0, -20.0, -20.0])
    wrong[0, :, 0, 0, 0] = torch.tensor([20.0, -20.0, -20.0])
    assert compute("generalized-dice", CLASSES, missed, codes) > 0.9
    assert compute("generalized-dice", CLASSES, wrong, codes) < 0.01


def test_dice_is_taken_over_the_whole_batch() -> None:
    # The class is in the second patch only. Alone, the first patch would score it 0 for the slightest probability.
    codes = torch.zeros(2, 4, 4, 4, dtype=torch.uint8)
    codes[1] = 1
    logits = make_logits(ONE_LABEL, codes, 3.0)
    loss = build_loss("dice-ce", ONE_LABEL, CPU)
    assert loss([logits], codes).soft_dice.item() > 0.99
    assert loss([logits[:1]], codes[:1]).soft_dice.item() < 0.01


def test_an_absent_class_that_is_not_predicted_scores_one() -> None:
    codes = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    loss = build_loss("dice-ce", CLASSES, CPU)([make_logits(CLASSES, codes, 60.0)], codes)
    assert loss.soft_dice.item() == pytest.approx(1)
