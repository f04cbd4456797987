"""What a case does not annotate is neither rewarded nor punished: as if the task did not have that label."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from made_up_patches import CLASSES, REGIONS, TASKS, build_task, make_codes, make_noise
from torch import Tensor

from medunet.tasks import IGNORE_CODE, Task
from medunet.training.losses import LossName, SegmentationLoss, build_loss

CPU = torch.device("cpu")
NAMES = get_args(LossName)
every_loss = pytest.mark.parametrize("name", NAMES)


def build(name: LossName, task: Task) -> SegmentationLoss:
    return build_loss(name, task, CPU)


def annotate(*rows: str) -> Tensor:
    """``"101"``: the second output is not annotated."""
    return torch.tensor([[mark == "1" for mark in row] for row in rows])


@every_loss
def test_classes_that_are_not_annotated_are_background(name: str) -> None:
    """The loss is that of the smaller task, whose background has the probability of both."""
    codes = make_codes(CLASSES)
    codes[1, 2] = IGNORE_CODE
    logits = make_noise(CLASSES, codes)
    merged = torch.stack([logits[:, [0, 2]].logsumexp(1), logits[:, 1]], 1)
    smaller = build(name, build_task("a"))([merged], codes.masked_fill(codes == 2, 0))
    if "boundary" in name:
        codes[codes == 2] = 0  # it would be an object
    loss = build(name, CLASSES)([logits], codes, annotate("110", "110"))
    assert loss.total.item() == pytest.approx(smaller.total.item(), rel=1e-5)
    assert loss.soft_dice.item() == pytest.approx(smaller.soft_dice.item(), rel=1e-5)


@every_loss
def test_a_class_may_be_predicted_anywhere_in_background_that_does_not_annotate_it(name: str) -> None:
    codes = make_codes(CLASSES, shape=(1, 4, 5, 6))
    codes[codes == 2] = 0
    certain = torch.full((1, 3, 4, 5, 6), -30.0)
    certain[:, 1, codes[0] == 1] = 30.0
    background, other = certain.clone(), certain.clone()
    background[:, 0] += 40.0
    other[:, 2] += 40.0
    loss = build(name, CLASSES)
    partial = [loss([logits], codes, annotate("110")).total.item() for logits in (background, other)]
    assert partial == pytest.approx([0, 0], abs=1e-3)
    full = [loss([logits], codes).total.item() for logits in (background, other)]
    assert full[1] > full[0] + 0.3


@every_loss
def test_regions_that_are_not_annotated_do_not_exist(name: str) -> None:
    """The loss is that of a task without the region, and its logits have no gradient."""
    two = Task.model_validate(REGIONS.model_dump() | {"labels": {"whole": [1, 2, 3], "core": [2, 3]}})
    codes = make_codes(REGIONS)
    codes[1, 2] = IGNORE_CODE
    logits = make_noise(REGIONS, codes)
    smaller = build(name, two)([logits[:, :2]], codes)
    loss = build(name, REGIONS)([logits], codes, annotate("110", "110"))
    assert loss.total.item() == pytest.approx(smaller.total.item(), rel=1e-5)
    assert loss.soft_dice.item() == pytest.approx(smaller.soft_dice.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss.total, logits)
    assert not gradient[:, 2].any()
    assert gradient[:, :2].any()


@every_loss
def test_only_the_case_that_does_not_annotate_is_spared(name: str) -> None:
    codes = make_codes(REGIONS)
    logits = make_noise(REGIONS, codes)
    loss = build(name, REGIONS)([logits], codes, annotate("111", "110"))
    (gradient,) = torch.autograd.grad(loss.total, logits)
    assert gradient[0, 2].any()
    assert not gradient[1, 2].any()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@every_loss
def test_annotating_everything_is_the_usual_loss(name: str, task: Task) -> None:
    codes = make_codes(task)
    logits = make_noise(task, codes)
    loss = build(name, task)
    full, usual = loss([logits], codes, annotate("111", "111")), loss([logits], codes)
    assert full.total.item() == pytest.approx(usual.total.item(), rel=1e-6)
    assert full.soft_dice.item() == pytest.approx(usual.soft_dice.item(), rel=1e-6)


def test_a_mixed_batch_by_hand() -> None:
    # Two patches of two voxels; probabilities of background, a and b are 1/2, 1/4 and 1/4 everywhere. The first patch
    # holds a and b and annotates both; the second holds background and a, and annotates a alone.
    codes = torch.tensor([[1, 2], [0, 1]], dtype=torch.uint8).reshape(2, 1, 1, 2)
    logits = torch.tensor([math.log(2), 0.0, 0.0]).reshape(1, 3, 1, 1, 1).expand(2, 3, 1, 1, 2)
    loss = build_loss("dice-ce", CLASSES, CPU)([logits], codes, annotate("111", "110"))
    dice_a = 2 * (0.25 + 0.25) / (4 * 0.25 + 2)  # both patches
    dice_b = 2 * 0.25 / (2 * 0.25 + 1)  # the first alone
    entropy = -(math.log(0.25) + math.log(0.25) + math.log(0.5 + 0.25) + math.log(0.25)) / 4
    assert loss.soft_dice.item() == pytest.approx((dice_a + dice_b) / 2, abs=1e-5)
    assert loss.total.item() == pytest.approx(1 - (dice_a + dice_b) / 2 + entropy, abs=1e-5)


def test_background_is_annotated_whatever_is_said() -> None:
    codes = make_codes(CLASSES)
    logits = make_noise(CLASSES, codes)
    loss = build_loss("generalized-dice", CLASSES, CPU)
    without, with_it = (loss([logits], codes, annotate(row, row)).total.item() for row in ("011", "111"))
    assert without == with_it


def test_a_batch_that_annotates_no_region_is_harmless() -> None:
    codes = make_codes(REGIONS)
    logits = make_noise(REGIONS, codes)
    for name in NAMES:
        loss = build(name, REGIONS)([logits], codes, annotate("000", "000"))
        (gradient,) = torch.autograd.grad(loss.total, logits)
        assert torch.isfinite(loss.total)
        assert not gradient.any()


def test_partial_labels_hold_at_every_scale() -> None:
    codes = make_codes(CLASSES, shape=(1, 8, 8, 8))
    codes[codes == 2] = 0
    scales = [make_noise(CLASSES, codes), make_noise(CLASSES, codes[:, ::2, ::2, ::2], seed=2)]
    merged = [torch.stack([logits[:, [0, 2]].logsumexp(1), logits[:, 1]], 1) for logits in scales]
    smaller = build_loss("dice-ce", build_task("a"), CPU)(merged, codes).total.item()
    loss = build_loss("dice-ce", CLASSES, CPU)(scales, codes, annotate("110")).total.item()
    assert loss == pytest.approx(smaller, rel=1e-5)
