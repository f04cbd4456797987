"""Focal loss and the cross-entropy of the hardest voxels against MONAI and plain sorting."""

from __future__ import annotations

import pytest
import torch
from made_up_patches import CLASSES, REGIONS, TASKS, make_codes, make_noise
from monai.losses import DiceLoss, FocalLoss
from torch.nn import functional as F

from medunet.tasks import IGNORE_CODE, Task, compute_membership
from medunet.training.losses import SegmentationLoss, build_loss
from medunet.training.losses.entropy import CrossEntropy, Focal, TopCrossEntropy
from medunet.training.losses.term import Term

CPU = torch.device("cpu")
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def build(task: Task, term: Term) -> SegmentationLoss:
    membership = torch.from_numpy(compute_membership(task))
    return SegmentationLoss(terms=(term,), membership=membership, has_regions=task.has_regions)


@every_task
def test_dice_focal_is_that_of_monai(task: Task) -> None:
    codes = make_codes(task)
    logits = make_noise(task, codes).detach()
    targets = torch.from_numpy(compute_membership(task))[:, codes.long()].movedim(0, 1)
    if task.has_regions:
        focal = FocalLoss(gamma=2.0, use_softmax=False)(logits, targets)
        dice = DiceLoss(sigmoid=True, batch=True)(logits, targets)
    else:
        # MONAI divides by the number of classes too, though a voxel has one; its DiceFocalLoss would take sigmoids here.
        focal = FocalLoss(gamma=2.0, use_softmax=True)(logits, targets) * targets.shape[1]
        dice = DiceLoss(softmax=True, batch=True, include_background=False)(logits, targets)
    loss = build_loss("dice-focal", task, CPU)([logits], codes).total.item()
    assert loss == pytest.approx(focal.item() + dice.item(), rel=1e-5)


@every_task
def test_focal_without_focus_is_cross_entropy(task: Task) -> None:
    codes = make_codes(task)
    codes[0, 0] = IGNORE_CODE
    logits = make_noise(task, codes)
    focal, plain = (build(task, term)([logits], codes).total.item() for term in (Focal(gamma=0.0), CrossEntropy()))
    assert focal == pytest.approx(plain, rel=1e-6)


def test_focal_of_a_certain_voxel_has_a_finite_gradient() -> None:
    codes = torch.zeros(1, 1, 1, 2, dtype=torch.uint8)
    logits = torch.tensor([[200.0, 1.0], [0.0, 0.0], [0.0, 0.0]]).reshape(1, 3, 1, 1, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(build(CLASSES, Focal())([logits], codes).total, logits)
    assert torch.isfinite(gradient).all()
    assert not gradient[..., 0].any()
    assert gradient[..., 1].any()


@pytest.mark.parametrize("percent", [1, 10, 37])
def test_the_hardest_voxels_are_the_largest_after_sorting(percent: int) -> None:
    codes = make_codes(CLASSES, shape=(2, 4, 5, 6))
    codes[0, 1:] = IGNORE_CODE  # 30 of 120 voxels of the first patch count
    logits = make_noise(CLASSES, codes)
    entropy = F.cross_entropy(logits, codes.long(), reduction="none", ignore_index=IGNORE_CODE).flatten(1)
    num_hardest = [max(30 * percent // 100, 1), max(120 * percent // 100, 1)]
    hardest = [row.sort(descending=True).values[:number] for row, number in zip(entropy, num_hardest, strict=True)]
    loss = build(CLASSES, TopCrossEntropy(percent=percent))([logits], codes).total.item()
    assert loss == pytest.approx(torch.cat(hardest).mean().item(), rel=1e-5)


def test_each_region_has_its_own_hardest_voxels() -> None:
    codes = make_codes(REGIONS, shape=(1, 4, 5, 5))
    logits = make_noise(REGIONS, codes)
    targets = torch.from_numpy(compute_membership(REGIONS))[:, codes.long()].movedim(0, 1)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(2)
    expected = entropy.sort(dim=2, descending=True).values[:, :, :10].mean().item()
    assert build_loss("topk-ce", REGIONS, CPU)([logits], codes).total.item() == pytest.approx(expected, rel=1e-5)


@every_task
def test_all_voxels_are_cross_entropy(task: Task) -> None:
    codes = make_codes(task)
    codes[0, 0] = IGNORE_CODE
    logits = make_noise(task, codes)
    top, plain = (build(task, t)([logits], codes).total.item() for t in (TopCrossEntropy(percent=100), CrossEntropy()))
    assert top == pytest.approx(plain, rel=1e-6)


def test_easy_voxels_have_no_gradient() -> None:
    codes = make_codes(CLASSES, shape=(1, 5, 5, 4))
    logits = make_noise(CLASSES, codes)
    (gradient,) = torch.autograd.grad(build_loss("topk-ce", CLASSES, CPU)([logits], codes).total, logits)
    assert gradient.any(1).sum().item() == 10
