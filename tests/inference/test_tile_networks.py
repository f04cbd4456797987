"""Mirrored passes and several networks are the mean that is defined, with left and right where they belong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from made_up_runs import TASK
from oracles import build_plan_for
from torch import Tensor

from medunet.inference import TileNetworks, list_flips
from medunet.inference.tile_networks import list_mirrored_channels
from medunet.tasks import Task, compute_mirrored_outputs

SIDES = Task.model_validate(TASK.model_dump() | {"laterality": (("left", "right"),)})
REGIONS = Task.model_validate(
    TASK.model_dump()
    | {"labels": {"whole": (1, 2, 3), "left": (1,), "right": (3,)}, "laterality": (("left", "right"),)}
)


def make_tiles(num_channels: int = 1) -> Tensor:
    return torch.randn(3, num_channels, 4, 5, 6, generator=torch.Generator().manual_seed(0))


def shift(tiles: Tensor) -> Tensor:
    """Three outputs that mirroring changes."""
    return torch.cat([tiles[:, :1], tiles[:, :1].roll(1, 2), tiles[:, :1].roll(2, 4)], 1)


def test_a_single_pass_of_one_network_is_that_network() -> None:
    tiles = make_tiles()
    assert torch.equal(TileNetworks([shift])(tiles), shift(tiles))


def test_mirrored_passes_are_the_mean_of_mirroring_back_one_by_one() -> None:
    tiles, flips = make_tiles(), [(), (0,), (2,), (0, 2)]
    one_by_one = []
    for axes in flips:
        moved = [2 + axis for axis in axes]
        one_by_one.append(shift(tiles.flip(moved)).flip(moved))
    found = TileNetworks([shift], flips, mirrored_outputs=(0, 1, 2))(tiles)
    torch.testing.assert_close(found, torch.stack(one_by_one).mean(0), rtol=0, atol=1e-6)
    assert not torch.allclose(found, shift(tiles), atol=1e-2)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_a_batch_of_flips_is_the_flips_one_by_one(batch_size: int) -> None:
    sizes: list[int] = []

    def watch(tiles: Tensor) -> Tensor:
        sizes.append(len(tiles))
        return shift(tiles)

    tiles, flips = make_tiles(), [(), (0,), (1,), (0, 1)]
    found = TileNetworks([watch], flips, mirrored_outputs=(0, 1, 2), batch_size=batch_size)(tiles)
    expected = sum(TileNetworks([shift], [axes], mirrored_outputs=(0, 1, 2))(tiles) for axes in flips) / len(flips)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert max(sizes) == min(batch_size, 12)


def test_left_and_right_swap_with_the_sides_of_the_patient() -> None:
    # A network that calls the lower half of the axis left and the upper half right, by place alone.
    def by_place(tiles: Tensor) -> Tensor:
        is_low = (torch.arange(4) < 2)[:, None, None].expand(len(tiles), 4, 5, 6).float()
        return torch.stack([torch.zeros_like(is_low), is_low, 1 - is_low], 1)

    tiles = make_tiles()
    outputs = compute_mirrored_outputs(SIDES)
    assert outputs == (0, 2, 1)
    found = TileNetworks([by_place], [(), (0,)], mirrored_outputs=outputs)(tiles)
    # Mirrored, low and high change places and so do their names: the answer stays.
    assert torch.equal(found, by_place(tiles))
    confused = TileNetworks([by_place], [(), (0,)], mirrored_outputs=(0, 1, 2))(tiles)
    assert torch.equal(confused[:, 1], torch.full_like(confused[:, 1], 0.5))
    along_another_axis = TileNetworks([by_place], [(), (2,)], mirrored_outputs=outputs)(tiles)
    assert torch.equal(along_another_axis, by_place(tiles))


def test_channels_of_an_earlier_stage_swap_too() -> None:
    plan = build_plan_for(SIDES, (1.0, 1.0, 1.0), (4, 5, 6)).model_copy(update={"num_previous_labels": 2})
    assert list_mirrored_channels(plan, SIDES) == (0, 2, 1)
    regions = plan.model_copy(update={"num_previous_labels": 3})
    assert list_mirrored_channels(regions, REGIONS) == (0, 1, 3, 2)
    assert list_mirrored_channels(plan.model_copy(update={"num_previous_labels": 0}), SIDES) == (0,)

    def take_left(tiles: Tensor) -> Tensor:
        """Says that left is where the earlier stage found left."""
        return torch.cat([torch.zeros_like(tiles[:, :1]), tiles[:, 1:2], tiles[:, 2:3]], 1)

    tiles = make_tiles(3)
    found = TileNetworks(
        [take_left], [(), (0,)], mirrored_channels=(0, 2, 1), mirrored_outputs=compute_mirrored_outputs(SIDES)
    )(tiles)
    torch.testing.assert_close(found, take_left(tiles))


def test_several_networks_count_alike_with_all_their_passes() -> None:
    networks = [shift, lambda tiles: 3 * shift(tiles), lambda tiles: shift(tiles) - 5]
    tiles, flips = make_tiles(), [(), (1,)]
    expected = sum(TileNetworks([one], flips, mirrored_outputs=(0, 1, 2))(tiles) for one in networks) / 3
    together = TileNetworks(networks, flips, mirrored_outputs=(0, 1, 2))
    torch.testing.assert_close(together(tiles), expected)
    assert together.num_passes == 6


def test_means_are_float32_whatever_the_networks_compute_in() -> None:
    found = TileNetworks([lambda tiles: tiles.bfloat16()] * 3)(torch.full((1, 1, 2, 2, 2), 1.0))
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.ones(1, 1, 2, 2, 2))


def test_members_are_told_as_they_lie_in_the_tile() -> None:
    told: list[tuple[int, list[Tensor], Tensor]] = []

    def listen(number: int, members: Sequence[Tensor], mean: Tensor) -> Callable[[], None]:
        return partial(told.append, (number, list(members), mean))

    tiles = make_tiles()
    networks = [shift, lambda tiles: 2 * shift(tiles)]
    TileNetworks(networks, [(), (0,)], mirrored_outputs=(0, 2, 1), on_members=listen)(tiles)
    assert [number for number, _, _ in told] == [0, 1]  # each network with its own passes
    for number, members, mean in told:
        assert torch.equal(members[0], networks[number](tiles))
        assert torch.equal(members[1], networks[number](tiles.flip(2)).flip(2)[:, [0, 2, 1]])
        torch.testing.assert_close(torch.stack(members).mean(0), mean)
    told.clear()
    whole = TileNetworks(networks, on_members=listen)(tiles)
    ((number, members, mean),) = told  # without mirrored passes, the networks themselves
    assert (number, len(members)) == (0, 2)
    assert torch.equal(mean, whole)
    told.clear()
    TileNetworks([shift], on_members=listen)(tiles)
    assert told == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [(), (0,)]),  # medunet's own training mirrors left and right only
        ({"augmentation": "nnunet"}, [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]),
        ({"augmentation": "nnunet", "patch_size": (4, 5, 1)}, [(), (0,), (1,), (0, 1)]),
        ({"patch_size": (1, 5, 6)}, [()]),
    ],
)
def test_tiles_are_mirrored_as_in_training(changes: dict[str, Any], expected: list[tuple[int, ...]]) -> None:
    plan = build_plan_for(TASK, (1.0, 1.0, 1.0), (4, 5, 6)).model_copy(update=changes)
    assert list_flips(plan) == expected


def test_row_69_mirrored_passes_step_down_when_memory_does_not_suffice() -> None:
    sizes: list[int] = []

    def predict(tiles: Tensor) -> Tensor:
        sizes.append(len(tiles))
        if len(tiles) > 2:
            msg = "CUDA out of memory"
            raise torch.OutOfMemoryError(msg)
        return shift(tiles)

    tiles, flips = make_tiles(), [(), (0,)]
    networks = TileNetworks([predict], flips, mirrored_outputs=(0, 1, 2), batch_size=6)
    expected = TileNetworks([shift], flips, mirrored_outputs=(0, 1, 2))(tiles)
    torch.testing.assert_close(networks(tiles), expected)
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    networks(tiles)
    assert sizes[8:] == [1] * 6
