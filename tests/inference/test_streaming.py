"""Planes that leave early are the planes of the whole, and so are the labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from made_up_runs import REGIONS, TASK
from oracles import build_plan_for
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from medunet.inference import (
    InferenceSettings,
    LabelPainter,
    Slab,
    apply_sliding_window,
    paint_labels,
    plan_tiles,
    restore_label_map,
    stream_sliding_window,
)
from medunet.inference import sliding_window as sliding_window_module
from medunet.inference.at_once import AtOnce
from medunet.tasks import Task
from medunet.volume import Volume, build_grid

CPU = torch.device("cpu")
axes = st.tuples(st.integers(1, 23), st.integers(1, 19), st.integers(1, 29))
patches = st.tuples(st.integers(1, 13), st.integers(1, 16), st.integers(1, 11))
steps = st.floats(0.15, 1.0)


def make_image(shape: tuple[int, int, int], *, num_channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(num_channels, *shape, generator=torch.Generator().manual_seed(seed))


def look_around(tiles: Tensor) -> Tensor:
    """Logits of three classes that depend on where in its tile a voxel lies, so that every seam shows."""
    ramp = torch.linspace(-1, 1, tiles.shape[2])[:, None, None]
    return torch.cat([tiles, tiles.flip(2) + ramp, tiles.roll(1, 3) * tiles.flip(4) - ramp], dim=1)


def collect(image: Tensor, axis: int, **options: Any) -> Tensor:
    shape = tuple(image.shape[1:])
    whole = torch.full((3, *shape), torch.nan)
    for slab in stream_sliding_window(image, look_around, options.pop("tiling"), torch.zeros(1), axis=axis, **options):
        whole.movedim(1 + axis, 1)[:, slab.first : slab.stop] = slab.logits
    return whole


@hypothesis_settings(max_examples=60)
@given(shape=axes, patch_size=patches, step_fraction=steps, axis=st.integers(0, 2))
def test_slabs_put_together_are_the_whole(
    shape: tuple[int, int, int], patch_size: tuple[int, int, int], step_fraction: float, axis: int
) -> None:
    image = make_image(shape)
    tiling = plan_tiles(shape, patch_size, step_fraction=step_fraction)
    # The definition: weighted sums over all tiles and a volume of counters.
    padded = torch.zeros(1, *tiling.padded_shape)
    padded[:, : shape[0], : shape[1], : shape[2]] = image
    sums, counter = torch.zeros(3, *tiling.padded_shape), torch.zeros(tiling.padded_shape)
    window = tiling.compute_window()
    for box in tiling.list_boxes():
        sums[(slice(None), *box)] += look_around(padded[(slice(None), *box)][None])[0] * window
        counter[box] += window
    expected = (sums / counter)[:, : shape[0], : shape[1], : shape[2]]
    torch.testing.assert_close(collect(image, axis, tiling=tiling), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "patch_size", "axis"),
    [
        ((21, 17, 30), (12, 16, 8), 2),
        ((21, 17, 30), (12, 16, 8), 0),
        ((9, 19, 29), (6, 7, 5), 1),
        ((40, 13, 11), (8, 8, 8), 0),
        ((5, 23, 3), (8, 8, 8), 1),
    ],
)
def test_streaming_is_exactly_what_is_not_streamed(
    shape: tuple[int, int, int], patch_size: tuple[int, int, int], axis: int
) -> None:
    """The definition with everything in memory: tiles are added to a whole volume row by row, and all sums are divided at the end."""
    image, tiling = make_image(shape), plan_tiles(shape, patch_size)
    padded = torch.zeros(1, *tiling.padded_shape)
    padded[:, : shape[0], : shape[1], : shape[2]] = image
    sums, window = torch.zeros(3, *tiling.padded_shape), tiling.compute_window()
    for start in tiling.starts[axis]:
        for box in tiling.list_row(axis, start):
            tile = padded[(slice(None), *box)]
            sums[(slice(None), *box)].addcmul_(look_around(tile[None])[0], window)
    order = [axis, *(other for other in range(3) if other != axis)]
    along, p, q = ((1 / tiling.compute_weight_sums()[number]) for number in order)
    means = sums.permute(0, *(1 + number for number in order))
    means *= along[:, None, None] * p[None, :, None] * q[None, None, :]  # in place: of the sums
    expected = sums[:, : shape[0], : shape[1], : shape[2]]
    assert torch.equal(collect(image, axis, tiling=tiling), expected)
    if axis == tiling.streaming_axis:
        assert torch.equal(apply_sliding_window(image, look_around, patch_size, torch.zeros(1)), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbouring_slabs_share_one_plane(axis: int) -> None:
    shape = (21, 17, 30)
    tiling = plan_tiles(shape, (6, 8, 8))
    image, stop, last = make_image(shape), 0, None
    for slab in stream_sliding_window(image, look_around, tiling, torch.zeros(1), axis=axis):
        assert slab.first == max(0, stop - 1)
        if last is not None:
            assert torch.equal(slab.logits[:, 0], last)
        stop, last = slab.stop, slab.logits[:, -1].clone()
    assert stop == shape[axis]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_memory_is_one_row_whatever_the_length(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    allocate = sliding_window_module._allocate

    def note(size: Any, device: torch.device) -> Tensor:
        sizes.append(tuple(size))
        return allocate(sizes[-1], device)

    monkeypatch.setattr(sliding_window_module, "_allocate", note)
    for length in (20, 90):
        shape = [9, 10, 11]
        shape[axis] = length
        tiling = plan_tiles((shape[0], shape[1], shape[2]), (6, 6, 6))
        assert tiling.streaming_axis == axis
        for _ in stream_sliding_window(make_image(tuple(shape)), look_around, tiling, torch.zeros(1)):  # type: ignore[arg-type]
            pass
    short, long = sizes
    assert short == long
    assert short[:2] == (3, 7)  # classes, planes of a tile and the one before them


def test_batches_go_over_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def predict(tiles: Tensor) -> Tensor:
        seen.append(len(tiles))
        return look_around(tiles)

    image, tiling = make_image((3, 8, 50)), plan_tiles((3, 8, 50), (3, 8, 1), step_fraction=1.0)
    for _ in stream_sliding_window(image, predict, tiling, torch.zeros(1), batch_size=12):  # one tile per row
        pass
    assert seen == [12, 12, 12, 12, 2]


def test_row_69_too_little_memory_for_a_batch_takes_smaller_ones_from_there_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sizes: list[int] = []

    def predict(tiles: Tensor) -> Tensor:
        sizes.append(len(tiles))
        if len(tiles) > 2:
            msg = "CUDA out of memory"
            raise torch.OutOfMemoryError(msg)
        return look_around(tiles)

    image, tiling = make_image((12, 8, 30)), plan_tiles((12, 8, 30), (8, 8, 8))
    expected = collect(image, 2, tiling=tiling)
    whole = torch.full((3, 12, 8, 30), torch.nan)
    for slab in stream_sliding_window(image, predict, tiling, torch.zeros(1), axis=2, batch_size=8):
        whole.movedim(3, 1)[:, slab.first : slab.stop] = slab.logits
    assert sizes[:3] == [8, 4, 2]
    assert set(sizes[3:]) == {2}
    assert torch.equal(whole, expected)
    assert [record.getMessage() for record in caplog.records] == [
        "Memory does not suffice for 8 tiles; 4 at a time.",
        "Memory does not suffice for 4 tiles; 2 at a time.",
    ]


def test_row_69_sums_that_do_not_fit_on_a_gpu_are_kept_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make = torch.zeros

    def make_on_full_gpu(*size: Any, device: Any = None, **options: Any) -> Tensor:
        if device is not None and torch.device(device).type == "cuda":
            msg = "CUDA out of memory"
            raise torch.OutOfMemoryError(msg)
        return make(*size, device=device, **options)

    monkeypatch.setattr(torch, "zeros", make_on_full_gpu)
    image, tiling = make_image((12, 8, 8)), plan_tiles((12, 8, 8), (8, 8, 8))
    at_once = AtOnce.of(1)
    for _ in range(2):  # of two scans, which is said once
        sums = sliding_window_module._RowSums(tiling, 0, (12, 8, 8), 3, torch.device("cuda"), at_once)
    whole = torch.full((3, 12, 8, 8), torch.nan)
    for box, stop in zip(tiling.list_boxes(), (4, 12), strict=True):
        sums.advance(box[0].start)
        sums.add(box, look_around(image[(slice(None), *box)][None])[0])
        slab = sums.finish(stop)
        assert slab is not None
        whole[:, slab.first : slab.stop] = slab.logits
    torch.testing.assert_close(whole, collect(image, 0, tiling=tiling), rtol=0, atol=1e-6)
    assert [record.getMessage() for record in caplog.records] == [
        "The sums of the tiles do not fit on cuda; they are kept on the CPU."
    ]


def test_a_tile_that_does_not_fit_alone_is_an_error() -> None:
    def fail(tiles: Tensor) -> Tensor:
        msg = "CUDA out of memory"
        raise torch.OutOfMemoryError(msg)

    with pytest.raises(torch.OutOfMemoryError):
        apply_sliding_window(make_image((9, 9, 9)), fail, (8, 8, 8), torch.zeros(1), batch_size=4)


# ---- labels ----------------------------------------------------------------------------------------------------------


def paint(logits: Tensor, grid: Volume, scan: Volume, task: Task, axis: int, cuts: list[int]) -> np.ndarray:
    """Label map from slabs with these ends."""
    painter = LabelPainter(grid, axis, scan, task)
    moved = logits.movedim(1 + axis, 1)
    first = 0
    for stop in [*cuts, moved.shape[1]]:
        painter.add(Slab(logits=moved[:, first:stop], first=first))
        first = stop - 1
    return painter.finish().array


@pytest.mark.parametrize("task", [TASK, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("orientation", ["RAS", "PSL", "IRP"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_where_slabs_end_changes_no_label(make_volume: Any, task: Task, orientation: str, axis: int) -> None:
    scan = make_volume(shape=(15, 9, 21), spacing=(1.1, 2.1, 0.9), orientation=orientation)
    grid = build_grid((12, 11, 13), np.diag([1.7, 1.9, 1.3, 1.0]) @ np.eye(4))
    affine = grid.affine.copy()
    affine[:3, 3] = scan.affine[:3, :3] @ (np.array(scan.spatial_shape) / 2) + scan.affine[:3, 3] - [9.0, 10.0, 8.0]
    grid = build_grid((12, 11, 13), affine)
    logits = torch.randn(task.num_outputs, 12, 11, 13, generator=torch.Generator().manual_seed(5))
    expected = restore_label_map(logits, grid, scan, task).array
    assert len(np.unique(expected)) > 2
    length = (12, 11, 13)[axis]
    for cuts in ([], [1], [3, 4, 9], list(range(2, length))):
        assert np.array_equal(paint(logits, grid, scan, task, axis, cuts), expected)


def test_settings_reach_the_tiles(make_volume: Any) -> None:
    scan = make_volume(shape=(20, 18, 30), spacing=(1.0, 1.0, 1.0), orientation="RAS")
    plan = build_plan_for(TASK, (1.0, 1.0, 1.0), (8, 8, 8))
    counts: dict[float, int] = {}

    class Three(nn.Module):
        def forward(self, tiles: Tensor) -> Tensor:
            counts[step] = counts.get(step, 0) + len(tiles)
            return look_around(tiles)

    for step in (1.0, 0.5):
        settings = InferenceSettings(step_fraction=step, batch_size=3)
        paint_labels(Three(), scan, scan, plan, TASK, CPU, settings)
        assert counts[step] == len(plan_tiles((20, 18, 30), (8, 8, 8), step_fraction=step))


def test_what_lies_beside_the_sums_brings_them_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make, full = torch.empty, torch.device("meta")

    def make_on_full_device(*size: Any, device: Any = None, **options: Any) -> Tensor:
        if device == full and size == ((8, 8),):  # there is room for the sums and no more
            msg = "CUDA out of memory"
            raise torch.OutOfMemoryError(msg)
        return make(*size, device=device, **options)

    monkeypatch.setattr(torch, "empty", make_on_full_device)
    tiling = plan_tiles((12, 8, 8), (8, 8, 8))
    sums = sliding_window_module._RowSums(tiling, 0, (12, 8, 8), 3, full, AtOnce.of(1))
    sums.add(tiling.list_boxes()[0], torch.ones(3, 8, 8, 8))
    slab = sums.finish(4)
    assert slab is not None
    torch.testing.assert_close(slab.logits, torch.ones(3, 4, 8, 8))
    assert [record.getMessage() for record in caplog.records] == [
        "The sums of the tiles do not fit on meta; they are kept on the CPU."
    ]


class Watch(TorchDispatchMode):
    """Where the tensors lie that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if result.ndim > 0:  # numbers come as tensors, too
            self.places.add(result.untyped_storage().data_ptr())
        return result


def test_sums_take_no_memory_once_tiles_advance() -> None:
    """Nor does it cost a bit: the factors are those of three lines multiplied in their order."""
    tiling = plan_tiles((9, 10, 12), (4, 6, 5))
    tile = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(3))
    sums = sliding_window_module._RowSums(tiling, 2, (9, 10, 12), 3, torch.device("cpu"), AtOnce.of(1))
    with Watch() as watch:
        for box in tiling.list_row(2, 0):
            sums.add(box, tile)
    before = sums._sums.clone()
    with watch:
        slab = sums.finish(2)
        sums.advance(2)
    held = [sums._sums, sums._window, sums._line, sums._plane, *sums._factors, tile]
    assert watch.places <= {tensor.untyped_storage().data_ptr() for tensor in held}
    along, p, q = (1 / tiling.compute_weight_sums()[axis] for axis in (2, 0, 1))
    factors = along[:2, None, None] * p[None, :, None] * q[None, None, :]
    assert slab is not None
    assert torch.equal(sums._sums[:, 0, :9, :10], (before[:, 1:3] * factors)[:, 1, :9, :10])
