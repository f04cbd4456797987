"""What must hold for every loss, for classes and for regions."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from made_up_patches import CLASSES, TASKS, make_blocks, make_codes, make_logits, make_noise
from torch import Tensor

from medunet.errors import InputError
from medunet.tasks import IGNORE_CODE, Task
from medunet.training.losses import Loss, LossName, build_loss

CPU = torch.device("cpu")
NAMES = get_args(LossName)
every_loss = pytest.mark.parametrize("name", NAMES)
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def compute(name: LossName, task: Task, logits: Tensor, codes: Tensor, annotated: Tensor | None = None) -> Loss:
    return build_loss(name, task, CPU)([logits], codes, annotated)


def compute_gradient(loss: Loss, logits: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss.total, logits)
    return gradient


@every_task
@every_loss
def test_a_perfect_prediction_costs_nothing(name: LossName, task: Task) -> None:
    codes = make_codes(task)
    loss = compute(name, task, make_logits(task, codes, 30), codes)
    assert loss.total.item() == pytest.approx(0, abs=1e-5)
    assert loss.soft_dice.item() == pytest.approx(1, abs=1e-5)


@every_task
@every_loss
def test_a_better_prediction_costs_less(name: LossName, task: Task) -> None:
    codes = make_codes(task)
    losses = [compute(name, task, make_logits(task, codes, x), codes) for x in (-3, -1, 0, 0.5, 2, 8)]
    totals = [loss.total.item() for loss in losses]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1] + 0.5
    dices = [loss.soft_dice.item() for loss in losses]
    assert dices == sorted(dices)


@every_task
@every_loss
def test_a_step_against_the_gradient_lowers_the_loss(name: LossName, task: Task) -> None:
    codes = make_codes(task)
    logits = make_noise(task, codes)
    before = compute(name, task, logits, codes)
    gradient = compute_gradient(before, logits)
    after = compute(name, task, logits - 0.1 * gradient / gradient.abs().max(), codes)
    assert after.total.item() < before.total.item()


@every_task
@every_loss
def test_ignored_voxels_have_no_gradient_and_no_say(name: LossName, task: Task) -> None:
    codes = make_codes(task)
    codes[:, 1:3] = IGNORE_CODE
    logits = make_noise(task, codes)
    loss = compute(name, task, logits, codes)
    gradient = compute_gradient(loss, logits)
    assert not gradient[:, :, 1:3].any()
    assert gradient[:, :, 0].any()
    assert gradient[:, :, 3].any()
    changed = logits.detach().clone()
    changed[:, :, 1:3] = make_noise(task, codes[:, 1:3], seed=7).detach()
    again = compute(name, task, changed, codes)
    assert (again.total.item(), again.soft_dice.item()) == (loss.total.item(), loss.soft_dice.item())


@every_task
@pytest.mark.parametrize("name", [name for name in NAMES if "boundary" not in name])  # whose distances cross the gap
def test_ignored_voxels_could_as_well_be_cut_off(name: LossName, task: Task) -> None:
    codes = make_codes(task)
    codes[:, 1:3] = IGNORE_CODE
    logits = make_noise(task, codes)
    alone = compute(name, task, logits[:, :, [0, 3]], codes[:, [0, 3]])
    loss = compute(name, task, logits, codes)
    assert loss.total.item() == pytest.approx(alone.total.item(), rel=1e-5)
    assert loss.soft_dice.item() == pytest.approx(alone.soft_dice.item(), rel=1e-5)


@every_task
@every_loss
def test_a_patch_of_nothing_but_ignore_is_harmless(name: LossName, task: Task) -> None:
    codes = torch.full((1, 4, 4, 4), IGNORE_CODE, dtype=torch.uint8)
    logits = make_noise(task, codes)
    loss = compute(name, task, logits, codes)
    assert torch.isfinite(loss.total)
    assert not compute_gradient(loss, logits).any()


@every_task
@every_loss
def test_float16_logits_do_not_overflow(name: LossName, task: Task) -> None:
    # The sums over 64^3 voxels pass 65504, the largest float16.
    codes = make_blocks(task, size=64)
    logits = make_logits(task, codes, 1.49)
    half = compute(name, task, logits.half(), codes)
    full = compute(name, task, logits.half().float(), codes)
    assert half.total.dtype == half.soft_dice.dtype == torch.float32
    assert half.total.item() == full.total.item()
    assert 0.4 < half.soft_dice.item() < 0.99


@every_task
@every_loss
def test_scales_weigh_half_of_the_one_before(name: LossName, task: Task) -> None:
    codes = make_codes(task, shape=(1, 8, 8, 8))
    coarse = codes[:, 1::2, 1::2, 1::2]  # nearest-exact takes the upper of two voxels
    fine_wrong, fine_right = make_logits(task, codes, -2), make_logits(task, codes, 30)
    coarse_wrong, coarse_right = make_logits(task, coarse, -2), make_logits(task, coarse, 30)
    loss = build_loss(name, task, CPU)
    alone = loss([fine_wrong], codes).total.item()
    assert loss([fine_wrong, coarse_right], codes).total.item() == pytest.approx(alone * 2 / 3, rel=1e-4)
    assert loss([fine_right, coarse_right], codes).total.item() == pytest.approx(0, abs=1e-4)
    both = loss([fine_wrong, coarse_wrong], codes).total.item()
    other = loss([fine_right, coarse_wrong], codes)
    assert both == pytest.approx(alone * 2 / 3 + other.total.item(), rel=1e-4)
    assert other.soft_dice.item() == pytest.approx(1, abs=1e-4)  # of the finest scale


@every_task
@every_loss
def test_ignore_survives_shrinking(name: LossName, task: Task) -> None:
    codes = torch.full((1, 8, 8, 8), IGNORE_CODE, dtype=torch.uint8)
    codes[:, :4] = 1
    scales = [make_noise(task, codes), make_noise(task, codes[:, ::2, ::2, ::2])]
    (gradient,) = torch.autograd.grad(build_loss(name, task, CPU)(scales, codes).total, scales[1])
    assert gradient[:, :, :2].any()
    assert not gradient[:, :, 2:].any()


@every_task
@pytest.mark.parametrize("name", [name for name in NAMES if "boundary" not in name])
def test_nothing_waits_for_the_device(name: LossName, task: Task) -> None:
    # Tensors of the meta device have no values: whatever asks for one, such as item() or bool(), raises.
    meta = torch.device("meta")
    loss = build_loss(name, task, meta)
    logits = torch.zeros(2, task.num_outputs, 8, 8, 8, device=meta, requires_grad=True)
    coarse = torch.zeros(2, task.num_outputs, 4, 4, 4, device=meta, requires_grad=True)
    codes = torch.zeros(2, 8, 8, 8, dtype=torch.uint8, device=meta)
    annotated = torch.ones(2, task.num_outputs, dtype=torch.bool, device=meta)
    result = loss([logits, coarse], codes, annotated)
    result.total.backward()
    assert logits.grad is not None
    assert not result.soft_dice.requires_grad
    with pytest.raises((RuntimeError, NotImplementedError), match=r"[Mm]eta"):
        result.total.item()


def test_an_unknown_name() -> None:
    with pytest.raises(InputError, match="There is no loss 'dice_ce'; did you mean 'dice-ce'"):
        build_loss("dice_ce", CLASSES, CPU)  # type: ignore[arg-type]
