"""nnU-Net's loss, number for number.

The numbers are those of nnU-Net 2.8.1 (torch 2.13). For classes and regions, with the patches of `build_patches`:

    DC_and_CE_loss({"batch_dice": B, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, ignore_label=255 or None,
                   dice_class=MemoryEfficientSoftDiceLoss)(logits, codes[:, None].long())
    DC_and_BCE_loss({}, {"batch_dice": B, "do_bg": True, "smooth": 1e-5, "ddp": False})(logits, regions)

and the sum of the absolute gradient; `TopKLoss(k=10)` of the first patch of `make_waves`; and, over two or three of the
scales of 8, 4 and 2 voxels, `DeepSupervisionWrapper` with the weights of `nnUNetTrainer._build_loss`.
"""

from __future__ import annotations

import pytest
import torch
from made_up_patches import CLASSES, TASKS, make_waves
from torch import Tensor

from medunet.tasks import IGNORE_CODE, Task
from medunet.training.losses import LossName, build_loss

CPU = torch.device("cpu")
NAMES: dict[str, LossName] = {"patch": "patch-dice-ce", "batch": "dice-ce"}


def build_patches(task: Task, *, has_ignored: bool) -> tuple[Tensor, Tensor]:
    """Three patches; the first lacks the last label, so that Dice per patch and over the batch differ."""
    logits, codes = make_waves(task, (3, 4, 5, 6))
    codes[0][codes[0] == codes.max()] = 0
    if has_ignored:
        codes[:, 1] = IGNORE_CODE
    return logits, codes


@pytest.mark.parametrize(
    ("kind", "dice_over", "has_ignored", "expected", "gradient"),
    [
        ("classes", "patch", False, 1.688103, 1.472209),
        ("classes", "batch", False, 1.661671, 1.499260),
        ("classes", "patch", True, 1.771836, 1.502232),
        ("classes", "batch", True, 1.748424, 1.525977),
        ("regions", "patch", False, 0.752772, 0.594380),
        ("regions", "batch", False, 0.747738, 0.597842),
    ],
)
def test_dice_and_cross_entropy(kind: str, dice_over: str, has_ignored: bool, expected: float, gradient: float) -> None:
    logits, codes = build_patches(TASKS[kind], has_ignored=has_ignored)
    loss = build_loss(NAMES[dice_over], TASKS[kind], CPU)([logits], codes)
    assert loss.total.item() - 1 == pytest.approx(expected, abs=2e-6)  # its Dice is negative, ours 1 - Dice
    (found,) = torch.autograd.grad(loss.total, logits)
    assert found.abs().sum().item() == pytest.approx(gradient, abs=2e-6)


@pytest.mark.parametrize(("num_scales", "expected"), [(3, 1.882307), (2, 1.867849)])
def test_deep_supervision_without_the_coarsest_scale(num_scales: int, expected: float) -> None:
    """nnU-Net weighs the coarsest of its scales 0; medunet's plans have no head there."""
    patches = [make_waves(CLASSES, (2, size, size, size)) for size in (8, 4, 2)]
    scales = [logits for logits, _ in patches[: num_scales - 1]]
    loss = build_loss("patch-dice-ce", CLASSES, CPU)(scales, patches[0][1])
    assert loss.total.item() - 1 == pytest.approx(expected, abs=2e-6)


def test_top_k_of_one_patch() -> None:
    logits, codes = make_waves(CLASSES, (3, 4, 5, 6))
    loss = build_loss("topk-ce", CLASSES, CPU)([logits[:1]], codes[:1])
    (gradient,) = torch.autograd.grad(loss.total, logits)
    assert loss.total.item() == pytest.approx(5.411377, abs=2e-6)
    assert gradient.abs().sum().item() == pytest.approx(1.990193, abs=2e-6)
