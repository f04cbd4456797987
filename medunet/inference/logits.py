"""Networks over one preprocessed volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from medunet.device import Precision
from medunet.inference.at_once import AtOnce
from medunet.inference.backends import TorchBackend
from medunet.inference.sliding_window import (
    CropTile,
    OnTiles,
    PredictTiles,
    Slab,
    apply_sliding_window,
    crop_tile,
    stream_sliding_window,
)
from medunet.inference.surroundings import let_see_surroundings, surround
from medunet.inference.tiling import STEP_FRACTION, Box, plan_tiles
from medunet.planning import Plan
from medunet.preprocessing import compute_fill, crop_with_neighbours, find_neighbour_slices
from medunet.volume import Array, Volume


def compute_logits(
    network: torch.nn.Module,
    prepared: Volume,
    plan: Plan,
    device: torch.device,
    precision: Precision,
    *,
    on_tiles: OnTiles | None = None,
) -> Tensor:
    """Logits ``(num_outputs, I, J, K)`` float32 on the network's grid, all of them at once.

    Args:
        network: On ``device``, in evaluation mode.
        prepared: Result of `preprocess_image`; for a cascade, of `append_previous_labels`.
        plan: Patch size; says what lies around a volume that is smaller than a patch, as in training.
        device: That computes.
        precision: Of the network's arithmetic.
        on_tiles: Called with the number of finished tiles and of all.
    """
    return collect_logits(
        TorchBackend(let_see_surroundings(network, plan), device, precision),
        prepared,
        plan,
        device,
        batch_size=count_tiles_at_once(plan),
        on_tiles=on_tiles,
    )


def collect_logits(
    predict: PredictTiles,
    prepared: Volume,
    plan: Plan,
    device: torch.device,
    *,
    step_fraction: float = STEP_FRACTION,
    batch_size: int | AtOnce = 1,
    needed: Callable[[Box], bool] | None = None,
    on_tiles: OnTiles | None = None,
) -> Tensor:
    """`compute_logits` of whatever gives the logits of tiles; see `stream_sliding_window` for the arguments."""
    return apply_sliding_window(
        torch.from_numpy(prepared.array),
        predict,
        plan.patch_size,
        compute_around(prepared.array, plan),
        device=device,
        step_fraction=step_fraction,
        batch_size=batch_size,
        needed=needed,
        crop=choose_crop(plan),
        on_tiles=on_tiles,
    )


def stream_logits(
    predict: PredictTiles,
    prepared: Volume,
    plan: Plan,
    device: torch.device,
    *,
    axis: int,
    step_fraction: float = STEP_FRACTION,
    batch_size: int | AtOnce = 1,
    needed: Callable[[Box], bool] | None = None,
    on_tiles: OnTiles | None = None,
) -> Iterator[Slab]:
    """The logits of `compute_logits` in slabs; see `stream_sliding_window` for the arguments."""
    return stream_sliding_window(
        torch.from_numpy(prepared.array),
        predict,
        plan_tiles(prepared.spatial_shape, plan.patch_size, step_fraction=step_fraction),
        compute_around(prepared.array, plan),
        device=device,
        axis=axis,
        batch_size=batch_size,
        needed=needed,
        crop=choose_crop(plan),
        on_tiles=on_tiles,
    )


def choose_crop(plan: Plan) -> CropTile:
    """What the networks of a plan see of a tile: its voxels, in 2.5D the slices on either side as further channels, and without
    padding what lies around it.
    """
    neighbours = find_neighbour_slices(plan)
    return surround(crop_tile if neighbours is None else partial(crop_with_neighbours, neighbours=neighbours), plan)


def compute_around(array: Array, plan: Plan) -> Tensor:
    """What lies around a volume, per channel of the network, ``(C,)``: where nothing is, nothing was found before."""
    around = torch.zeros(len(array))
    num_channels = len(plan.normalization)
    around[:num_channels] = torch.from_numpy(compute_fill(array[:num_channels], plan))
    return around


def count_tiles_at_once(plan: Plan) -> int:
    """Tiles per batch: as many as training's batch holds would fit, half of them leave room for the sums."""
    return max(1, plan.batch_size // 2)
