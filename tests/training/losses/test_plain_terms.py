"""Dice, cross-entropy and binary cross-entropy by themselves and put together, by hand: 2D and 3D, classes and regions."""

from __future__ import annotations

import math

import pytest
import torch
from made_up_patches import CLASSES, REGIONS, TASKS, build_task, make_codes, make_noise
from torch.nn import functional as F

from medunet.tasks import IGNORE_CODE, Task
from medunet.training.losses import LossName, build_loss

CPU = torch.device("cpu")
FLAT, SOLID = (2, 5, 6, 1), (2, 4, 5, 3)
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
every_shape = pytest.mark.parametrize("shape", [FLAT, SOLID], ids=["2d", "3d"])


def compute(name: LossName, task: Task, logits: torch.Tensor, codes: torch.Tensor) -> float:
    return build_loss(name, task, CPU)([logits], codes).total.item()


def log_odds(*probabilities: float) -> torch.Tensor:
    """Logits whose softmax is this, one voxel after the other along the last axis but one: ``(1, classes, n, 1, 1)``."""
    return torch.tensor(probabilities).log()


def test_one_voxel_by_hand() -> None:
    # Probabilities 0.5, 0.3 and 0.2 of background, a and b; the voxel is a.
    logits = log_odds(0.5, 0.3, 0.2).reshape(1, 3, 1, 1, 1)
    codes = torch.ones(1, 1, 1, 1, dtype=torch.uint8)
    assert compute("ce", CLASSES, logits, codes) == pytest.approx(-math.log(0.3))
    binary = -(math.log(0.5) + math.log(0.3) + math.log(0.8)) / 3  # background: not, a: yes, b: not
    assert compute("bce", CLASSES, logits, codes) == pytest.approx(binary)
    dice = 1 - (2 * 0.3 / 1.3 + 0) / 2  # b is absent, and a little of it is predicted
    assert compute("dice", CLASSES, logits, codes) == pytest.approx(dice, abs=1e-4)
    assert compute("dice-bce", CLASSES, logits, codes) == pytest.approx(dice + binary, abs=1e-4)


def test_one_voxel_of_regions_by_hand() -> None:
    # Sigmoids 0.9, 0.6 and 0.2 of whole, core and seed; the voxel is core, which lies within the whole.
    logits = torch.tensor([0.9, 0.6, 0.2]).logit().reshape(1, 3, 1, 1, 1)
    codes = torch.full((1, 1, 1, 1), 2, dtype=torch.uint8)
    binary = -(math.log(0.9) + math.log(0.6) + math.log(0.8)) / 3
    assert compute("bce", REGIONS, logits, codes) == pytest.approx(binary)
    assert compute("ce", REGIONS, logits, codes) == pytest.approx(binary)
    dice = 1 - (2 * 0.9 / 1.9 + 2 * 0.6 / 1.6 + 0) / 3
    assert compute("dice", REGIONS, logits, codes) == pytest.approx(dice, abs=1e-4)


@every_shape
def test_of_two_classes_binary_cross_entropy_is_cross_entropy(shape: tuple[int, ...]) -> None:
    task = build_task("a")
    codes = make_codes(task, shape=shape)
    codes[0, 0] = IGNORE_CODE
    logits = make_noise(task, codes)
    assert compute("bce", task, logits, codes) == pytest.approx(compute("ce", task, logits, codes), rel=1e-5)


@every_shape
def test_binary_cross_entropy_is_that_of_pytorch(shape: tuple[int, ...]) -> None:
    codes = make_codes(CLASSES, shape=shape)
    logits = make_noise(CLASSES, codes)
    targets = F.one_hot(codes.long(), 3).movedim(-1, 1).double()
    expected = F.binary_cross_entropy(logits.double().softmax(1), targets).item()
    assert compute("bce", CLASSES, logits, codes) == pytest.approx(expected, rel=1e-5)


@every_task
@every_shape
def test_a_combination_is_the_sum_of_its_parts(task: Task, shape: tuple[int, ...]) -> None:
    codes = make_codes(task, shape=shape)
    codes[1, 1] = IGNORE_CODE
    logits = make_noise(task, codes)
    parts: dict[LossName, tuple[LossName, ...]] = {
        "dice-ce": ("dice", "ce"),
        "patch-dice-ce": ("patch-dice", "ce"),
        "dice-bce": ("dice", "bce"),
        "dice-boundary-ce": ("dice", "boundary-ce"),
    }
    for whole, names in parts.items():
        expected = sum(compute(name, task, logits, codes) for name in names)
        assert compute(whole, task, logits, codes) == pytest.approx(expected, rel=1e-6), whole


@every_shape
def test_dice_is_over_the_batch_or_over_each_patch(shape: tuple[int, ...]) -> None:
    task = build_task("a")
    codes = torch.zeros(shape, dtype=torch.uint8)
    codes[0, 0] = 1  # the second patch holds nothing
    half = torch.zeros(shape[0], 2, *shape[1:])
    num_right, num_voxels = int((codes == 1).sum()), codes[0].numel()
    batch = 2 * num_right / 2 / (num_right + num_voxels)
    assert compute("dice", task, half, codes) == pytest.approx(1 - batch, rel=1e-4)
    patch = 2 * num_right / 2 / (num_right + num_voxels / 2)
    assert compute("patch-dice", task, half, codes) == pytest.approx(1 - patch / 2, rel=1e-4)


@every_task
def test_borders_weigh_in_two_dimensions_too(task: Task) -> None:
    codes = torch.zeros(1, 1, 9, 1, dtype=torch.uint8)
    codes[0, 0, :2], codes[0, 0, 3:5] = 1, 1
    logits = torch.zeros(1, task.num_outputs, 1, 9, 1, requires_grad=True)
    for name in ("boundary-ce", "boundary-bce", "dice-boundary-ce"):
        (gradient,) = torch.autograd.grad(build_loss(name, task, CPU)([logits], codes).total, logits)
        in_the_gap, far_away = gradient[0, 0, 0, [2, 8], 0].abs().tolist()
        assert in_the_gap > 2 * far_away, name


def test_a_certain_mistake_still_has_a_gradient() -> None:
    """Where p is 1 to the last digit, log(1 - p) taken as it stands is infinite."""
    codes = torch.ones(1, 1, 1, 1, dtype=torch.uint8)
    logits = torch.tensor([60.0, 0.0, -3.0]).reshape(1, 3, 1, 1, 1).requires_grad_()
    loss = build_loss("bce", CLASSES, CPU)([logits], codes).total
    assert loss.item() == pytest.approx((60 + 60 - math.log1p(math.exp(-3))) / 3, rel=1e-3)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0, 0].item() == pytest.approx(2 / 3, rel=1e-3)
    assert torch.isfinite(gradient).all()


def test_what_a_case_does_not_annotate_makes_nothing_infinite() -> None:
    codes = torch.tensor([0, 1, IGNORE_CODE], dtype=torch.uint8).reshape(1, 3, 1, 1)
    logits = torch.tensor([[90.0, 0, 0], [0, 90.0, 0], [0, 0, 90.0]]).reshape(1, 3, 3, 1, 1).requires_grad_()
    nothing = torch.tensor([[True, False, False]])
    loss = build_loss("bce", CLASSES, CPU)([logits], codes, nothing).total
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(gradient).all()
