"""What is hidden, what is shown in its place, and what a network's answers are compared with."""

from __future__ import annotations

import pytest
import torch
from tiny_training import build_tiny_batch, build_tiny_plan
from torch import Tensor, distributed

from medunet.training.pretraining.masking import draw_hidden, find_block
from medunet.training.pretraining.restoring import Restoring, fill_hidden


def draw(patch: tuple[int, int, int], block: tuple[int, int, int], share: float = 0.6, **more: int) -> Tensor:
    options = {"seed": 0, "iteration": 0} | more
    return draw_hidden(patch, block, share, positions=[0, 1], **options)


def build(**changes: object) -> Restoring:
    return Restoring(**({"block": (4, 4, 4), "hidden_share": 0.6, "distance": "l1", "seed": 3} | changes))  # type: ignore[arg-type]


# ---- what is hidden ----------------------------------------------------------------------------------------------------


def test_whole_blocks_are_hidden_and_as_many_as_asked_for() -> None:
    hidden = draw((8, 12, 16), (4, 4, 4))
    assert (hidden.shape, hidden.dtype) == ((2, 1, 8, 12, 16), torch.bool)
    blocks = hidden.reshape(2, 2, 4, 3, 4, 4, 4).movedim((2, 4, 6), (-3, -2, -1)).flatten(-3)
    assert (blocks.all(-1) | ~blocks.any(-1)).all()
    assert blocks.all(-1).flatten(1).sum(1).tolist() == [14, 14]  # 0.6 of 24
    assert not torch.equal(hidden[0], hidden[1])


def test_the_same_patch_has_the_same_holes() -> None:
    first = draw((8, 12, 16), (4, 4, 4), iteration=5)
    assert torch.equal(first, draw((8, 12, 16), (4, 4, 4), iteration=5))
    assert not torch.equal(first, draw((8, 12, 16), (4, 4, 4), iteration=6))
    assert not torch.equal(first, draw((8, 12, 16), (4, 4, 4), iteration=5, seed=1))
    alone = draw_hidden((8, 12, 16), (4, 4, 4), 0.6, seed=0, iteration=5, positions=[1])
    assert torch.equal(first[1:], alone)  # whichever process draws it


@pytest.mark.parametrize(("share", "expected"), [(0.001, 1), (0.999, 7), (0.5, 4)])
def test_something_is_hidden_and_something_shown(share: float, expected: int) -> None:
    assert draw((2, 2, 2), (1, 1, 1), share)[0].sum() == expected


def test_blocks_are_cut_off_at_the_end_of_a_patch() -> None:
    assert draw((10, 9, 1), (4, 4, 1)).shape == (2, 1, 10, 9, 1)


def test_a_patch_of_one_block_is_refused() -> None:
    with pytest.raises(ValueError, match="is a single block"):
        draw((4, 4, 4), (4, 4, 4))


def test_a_block_is_a_voxel_of_the_coarsest_grid() -> None:
    assert find_block(build_tiny_plan().network) == (4, 4, 4)
    assert find_block(build_tiny_plan(spatial_dims=2).network) == (4, 4, 1)


# ---- what is shown -----------------------------------------------------------------------------------------------------


def test_holes_hold_the_mean_of_what_is_shown() -> None:
    image = torch.tensor([1.0, 3, 10, 20]).reshape(1, 1, 4, 1, 1)
    hidden = torch.tensor([False, False, True, True]).reshape(1, 1, 4, 1, 1)
    assert fill_hidden(image, hidden).flatten().tolist() == [1, 3, 2, 2]


def test_channels_have_the_same_holes_and_means_of_their_own() -> None:
    batch = build_tiny_batch(build_tiny_plan())
    batch = type(batch)(**batch.__dict__ | {"image": torch.cat([batch.image, batch.image + 5], dim=1)})
    restoring = build()
    shown = restoring.show(batch)
    hidden = restoring.draw(batch).expand_as(shown)
    assert torch.equal(shown[~hidden], batch.image[~hidden])
    torch.testing.assert_close(shown[:, 1], shown[:, 0] + 5)
    assert 0.55 < hidden.float().mean() < 0.65


# ---- what it is compared with ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("distance", "expected"), [("l1", 0.5), ("l2", 0.25)])
def test_only_what_was_hidden_counts(distance: str, expected: float) -> None:
    batch = build_tiny_batch(build_tiny_plan())
    restoring = build(distance=distance)
    hidden = restoring.draw(batch)
    answer = torch.where(hidden, batch.image + 0.5, torch.full_like(batch.image, 99.0)).requires_grad_()
    loss = restoring.compute_loss([answer], batch)
    assert loss.total.item() == pytest.approx(expected, rel=1e-4)
    assert loss.soft_dice is None
    (gradient,) = torch.autograd.grad(loss.total, answer)
    assert not gradient[~hidden].any()
    assert (gradient[hidden] > 0).all()
    assert restoring.compute_loss([batch.image], batch).total.item() == 0


def test_a_coarse_scale_is_compared_with_means_and_counts_half() -> None:
    batch = build_tiny_batch(build_tiny_plan())
    restoring = build()
    coarse = torch.nn.functional.avg_pool3d(batch.image, 2)
    assert restoring.compute_loss([batch.image, coarse], batch).total.item() == pytest.approx(0, abs=1e-6)
    fine_wrong = restoring.compute_loss([batch.image + 3, coarse], batch).total.item()
    coarse_wrong = restoring.compute_loss([batch.image, coarse + 3], batch).total.item()
    assert (fine_wrong, coarse_wrong) == pytest.approx((2, 1), rel=1e-4)


def test_a_process_draws_its_own_patches_and_a_twin_changes_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = build_tiny_batch(build_tiny_plan())
    first, second = build(), build(first_position=2)
    assert not torch.equal(first.draw(batch), second.draw(batch))
    answer = (batch.image + 1).requires_grad_()
    alone = first.compute_loss([answer], batch).total
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda values: values.mul_(2))
    assert first.compute_loss([answer], batch).total.item() == pytest.approx(alone.item())


def test_half_precision_answers_are_summed_in_full() -> None:
    batch = build_tiny_batch(build_tiny_plan())
    answer = (batch.image + 300).half()
    assert build().compute_loss([answer], batch).total.item() == pytest.approx(300, rel=1e-3)


def test_the_name_says_what_a_resumed_training_must_keep() -> None:
    assert build().name == "restoring-l1 0.6 of 4x4x4"
    assert build(hidden_share=0.75, distance="l2").name == "restoring-l2 0.75 of 4x4x4"
