"""2.5D from a scan to a mask: a network that looks at one neighbour channel gives the shifted volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import ORACLE_HU, ORACLE_TASK, build_plan_for, build_record
from torch import Tensor, nn

from medunet.inference import InferenceSettings, Segmenter, apply_sliding_window
from medunet.inference.logits import choose_crop, compute_logits
from medunet.models import Model
from medunet.planning import Plan
from medunet.tasks import Task
from medunet.volume import Volume, to_orientation

SPACING = (0.75, 1.25, 3.0)


class NearestInChannel(nn.Module):
    """Class ``n`` wins where one of the channels is closest to ``centres[n]``."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel
        self.centres = nn.Parameter(torch.tensor(ORACLE_HU))

    def forward(self, patches: Tensor) -> Tensor:
        seen = patches[:, self.channel : self.channel + 1]
        return -((seen - self.centres.reshape(1, -1, 1, 1, 1)) ** 2)


def build_plan(task: Task, number: int, patch_size: Any = (12, 16, 1)) -> Plan:
    plan = build_plan_for(task, SPACING, patch_size)
    network = plan.network.model_copy(update={"in_channels": len(task.channels) * (2 * number + 1)})
    return plan.model_copy(update={"configuration": "2.5d", "num_neighbour_slices": number, "network": network})


def build_model(channel: int, number: int, patch_size: Any = (12, 16, 1)) -> Model:
    return Model(
        folder=Path("oracle"),
        task=ORACLE_TASK,
        plan=build_plan(ORACLE_TASK, number, patch_size),
        training=build_record(),
        metrics={},
        network=NearestInChannel(channel),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("channel", "offset"), [(0, -2), (1, -1), (2, 0), (4, 2)])
def test_a_network_that_reads_one_neighbour_gives_the_shifted_volume(
    make_densities: Any, channel: int, offset: int
) -> None:
    scan, expected = make_densities(spacing=SPACING)
    segmenter = Segmenter(build_model(channel, 2), "cpu", settings=InferenceSettings(skip_air=False, locate="never"))
    found = to_orientation(segmenter.segment(scan).labels).array
    reference = to_orientation(expected).array
    # Preprocessing crops to the body: within it, slices follow each other as in the scan; at its ends the nearest is repeated.
    slices = np.clip(np.arange(reference.shape[3]) + offset, 0, reference.shape[3] - 1)
    assert np.array_equal(found, reference[:, :, :, slices])


def test_slices_across_another_axis_and_several_channels() -> None:
    task = ORACLE_TASK.model_copy(update={"channels": ("a", "b")})
    plan = build_plan(task, 1, patch_size=(1, 8, 8))
    image = torch.randn((2, 5, 19, 12), generator=torch.Generator().manual_seed(0))

    class Second(nn.Module):  # "b +1"
        def forward(self, patches: Tensor) -> Tensor:
            assert patches.shape[1:] == (6, 1, 8, 8)
            return patches[:, 5:6]

    logits = compute_logits(Second(), Volume(image.numpy(), np.eye(4)), plan, torch.device("cpu"), "32-true")
    torch.testing.assert_close(logits[0], image[1][[1, 2, 3, 4, 4]], atol=1e-5, rtol=0)


def test_slices_smaller_than_a_tile_are_filled_channel_by_channel() -> None:
    task = ORACLE_TASK.model_copy(update={"channels": ("a", "b")})
    plan = build_plan(task, 1, patch_size=(8, 8, 1))
    fills = torch.tensor([-7.0, 3.0])
    image = torch.randn((2, 5, 8, 4), generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []

    def predict(tiles: Tensor) -> Tensor:
        seen.append(tiles)
        return tiles[:, :1]

    apply_sliding_window(image, predict, plan.patch_size, fills, crop=choose_crop(plan))
    assert [tiles.shape for tiles in seen] == [(1, 6, 8, 8, 1)] * 4
    for number, tiles in enumerate(seen):
        slices = [max(0, number - 1), number, min(3, number + 1)]
        for channel in range(2):
            for place, index in enumerate(slices):
                tile = tiles[0, 3 * channel + place, :, :, 0]
                assert torch.equal(tile[:5], image[channel, :, :, index])
                assert (tile[5:] == fills[channel]).all()
