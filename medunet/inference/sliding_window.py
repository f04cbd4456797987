"""A network that sees patches, applied to a whole volume: overlapping tiles, Gaussian weights, exact sums, plane by plane.

Tiles advance along one axis in rows. Behind a row no tile begins any more, so the planes there are finished and leave; the sums
of the others move to the front. So much is in memory at a time, whatever the length of the scan:

```text
axis ->     0        s        2s                      planes
row 0       [========|========]
row 1                [========|========]              s: step between rows
after row 0  finished |  kept  |  new                  sums of one row: channels x depth of a tile x plane
```

Sums are float32 whatever the network computes in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medunet.device import is_out_of_memory
from medunet.inference.at_once import AtOnce
from medunet.inference.tiling import STEP_FRACTION, Box, Tiling, plan_tiles
from medunet.volume import Shape3

PredictTiles = Callable[[Tensor], Tensor]
"""``(B, C, *patch_size)`` to logits ``(B, outputs, *patch_size)``."""
CropTile = Callable[[Tensor, Box], Tensor]
"""The image ``(C, I, J, K)`` and a box to what the network sees of the part of the box that lies in the image; what comes of one
channel lies side by side."""
OnTiles = Callable[[int, int], None]
"""Called with the number of finished tiles and of all."""


def crop_tile(image: Tensor, box: Box) -> Tensor:
    """The voxels of the box and nothing else."""
    return image[(slice(None), *box)]


@dataclass(frozen=True, kw_only=True)
class Slab:
    """Finished planes of a volume; the axis along which they come stands first.

    Neighbouring slabs share a plane, so that what lies between planes can be interpolated within one slab.

    Attributes:
        logits: ``(outputs, planes, P, Q)`` float32, a view that is overwritten once the next slab is asked for; P and Q
            are the other two axes in their order.
        first: Number of the first plane.
    """

    logits: Tensor
    first: int

    @property
    def stop(self) -> int:
        """Number of the plane behind the last."""
        return self.first + self.logits.shape[1]


def stream_sliding_window(
    image: Tensor,
    predict: PredictTiles,
    tiling: Tiling,
    fill: Tensor,
    *,
    device: torch.device | None = None,
    axis: int | None = None,
    batch_size: int | AtOnce = 1,
    needed: Callable[[Box], bool] | None = None,
    crop: CropTile = crop_tile,
    on_tiles: OnTiles | None = None,
) -> Iterator[Slab]:
    """Weighted mean of the predictions of all tiles, in slabs that leave as soon as they are finished.

    Args:
        image: ``(C, I, J, K)`` float32. It stays where it is, only tiles are moved.
        predict: Sees tiles of the size of the tiling.
        tiling: Of the image's spatial shape.
        fill: ``(C,)``: what a volume smaller than a tile is padded with.
        device: That computes; None is the image's.
        axis: Along which the slabs come; None takes the one that needs the least memory.
        batch_size: Tiles at once; halved when memory does not suffice. An `AtOnce` is shared with whatever else computes the scan.
        needed: Whether a tile has to be computed; logits are 0 where all tiles are left out, and too small beside
            them. None computes all.
        crop: What the network sees of a tile; it may see what lies around it, too.
        on_tiles: Called with the number of finished tiles and of all that are computed.

    Yields:
        Slabs that cover all planes in order; empty where no tile is needed.
    """
    axis = tiling.streaming_axis if axis is None else axis
    device = image.device if device is None else device
    at_once = AtOnce.of(batch_size)
    shape: Shape3 = (image.shape[1], image.shape[2], image.shape[3])
    rows = [
        [box for box in tiling.list_row(axis, start) if needed is None or needed(box)] for start in tiling.starts[axis]
    ]
    counter = _Counter(sum(map(len, rows)), on_tiles)
    batches = _Batches(image, tiling.patch_size, fill, crop, device)
    tiles = _Tiles(batches, predict, at_once, counter)
    computed = tiles.compute([box for row in rows for box in row])  # batches may begin in one row and end in the next
    sums: _RowSums | None = None
    for start, boxes, following in zip(
        tiling.starts[axis], rows, [*tiling.starts[axis][1:], tiling.padded_shape[axis]], strict=True
    ):
        for box, logits in itertools.islice(computed, len(boxes)):
            if sums is None:
                sums = _RowSums(tiling, axis, shape, len(logits), device, at_once)
                sums.advance(start)
            sums.add(box, logits)
            del logits  # or the whole batch would stay while the next one is computed
        if sums is not None:
            if (slab := sums.finish(following)) is not None:
                yield slab
            sums.advance(following)


def apply_sliding_window(
    image: Tensor,
    predict: PredictTiles,
    patch_size: Shape3,
    fill: Tensor,
    *,
    device: torch.device | None = None,
    step_fraction: float = STEP_FRACTION,
    batch_size: int | AtOnce = 1,
    needed: Callable[[Box], bool] | None = None,
    crop: CropTile = crop_tile,
    on_tiles: OnTiles | None = None,
) -> Tensor:
    """`stream_sliding_window` with all planes kept.

    Args:
        image: ``(C, I, J, K)`` float32.
        predict: ``(B, C, *patch_size)`` to logits ``(B, outputs, *patch_size)``.
        patch_size: Of a tile.
        fill: ``(C,)``: what a volume smaller than a tile is padded with.
        device: That computes; None is the image's.
        step_fraction: Largest step between tiles as a share of the tile.
        batch_size: Tiles at once.
        needed: Whether a tile has to be computed; None computes all. The first tile is always computed.
        crop: What the network sees of a tile.
        on_tiles: Called with the number of finished tiles and of all.

    Returns:
        Logits ``(outputs, I, J, K)`` float32 on the device that computes; on the CPU where they do not fit there.
    """
    shape: Shape3 = (image.shape[1], image.shape[2], image.shape[3])
    tiling = plan_tiles(shape, patch_size, step_fraction=step_fraction)
    axis = tiling.streaming_axis
    first = tiling.list_boxes()[0]
    at_once = AtOnce.of(batch_size)
    whole: Tensor | None = None
    for slab in stream_sliding_window(
        image,
        predict,
        tiling,
        fill,
        device=device,
        axis=axis,
        batch_size=at_once,
        needed=None if needed is None else lambda box: box == first or needed(box),
        crop=crop,
        on_tiles=on_tiles,
    ):
        if whole is None:
            whole = _allocate((len(slab.logits), *shape), slab.logits.device)
            if whole.device.type != slab.logits.device.type:
                at_once.warn_once(
                    f"The logits of a whole scan do not fit on {slab.logits.device}; they are kept on the CPU."
                )
        whole.movedim(1 + axis, 1)[:, slab.first : slab.stop] = slab.logits
    assert whole is not None  # there is a first tile
    return whole


class _RowSums:
    """Weighted sums of the tiles of one row, and what earlier rows have added to the same planes.

    One more plane stands in front: the last that is finished, which the next slab begins with.
    """

    def __init__(
        self, tiling: Tiling, axis: int, shape: Shape3, num_outputs: int, device: torch.device, at_once: AtOnce
    ) -> None:
        others = [other for other in range(3) if other != axis]
        self._order = [axis, *others]
        self._shape = [shape[number] for number in self._order]
        size = (
            num_outputs,
            1 + tiling.patch_size[axis],
            *(tiling.padded_shape[number] for number in others),
        )
        window = tiling.compute_window().permute(self._order)
        weights = tiling.compute_weight_sums()
        factors = [1 / weights[number] for number in self._order]
        is_full = False
        try:
            self._hold(size, window, factors, device)
        except RuntimeError as error:
            # Not here: until this clause is left, the error's traceback holds what was being made.
            is_full = device.type != "cpu" and is_out_of_memory(error)
            if not is_full:
                raise
        if is_full:
            self._hold(size, window, factors, torch.device("cpu"))
        if self._sums.device.type != device.type:
            at_once.warn_once(f"The sums of the tiles do not fit on {device}; they are kept on the CPU.")
        self._start = 0  # of the planes behind the one in front

    def _hold(self, size: tuple[int, ...], window: Tensor, factors: Sequence[Tensor], device: torch.device) -> None:
        """Take all memory now: once tiles advance, a device that has become full costs nothing."""
        self._sums = _allocate(size, device)
        where = self._sums.device
        self._window = window.to(where)
        self._factors = [one.to(where) for one in factors]
        self._line = torch.empty(size[2], device=where)
        self._plane = torch.empty(size[2:], device=where)

    def add(self, box: Box, logits: Tensor) -> None:
        """Add the logits ``(outputs, *patch_size)`` of a tile of the present row."""
        _, p, q = (box[number] for number in self._order)
        moved = logits.permute(0, *(1 + number for number in self._order)).to(self._sums.device, torch.float32)
        self._sums[:, 1:, p, q].addcmul_(moved, self._window)

    def finish(self, stop: int) -> Slab | None:
        """The planes in front of ``stop``, as means; None where these are only padding."""
        stop = min(stop, self._shape[0])
        num_planes = stop - self._start
        if num_planes <= 0:
            return None
        along, p, q = self._factors
        for number in range(num_planes):
            torch.mul(p, along[self._start + number], out=self._line)
            torch.mul(self._line[:, None], q[None, :], out=self._plane)
            self._sums[:, 1 + number].mul_(self._plane)
        front = 0 if self._start > 0 else 1  # before the first plane there is none
        logits = self._sums[:, front : 1 + num_planes, : self._shape[1], : self._shape[2]]
        return Slab(logits=logits, first=self._start + front - 1)

    def advance(self, start: int) -> None:
        """Let go of the planes in front of ``start`` but the last."""
        moved = start - self._start
        depth = self._sums.shape[1]
        if moved <= 0:
            return
        kept = max(0, depth - moved)
        for first in range(0, kept, moved):  # in parts that do not overlap with where they go
            stop = min(first + moved, kept)
            self._sums[:, first:stop] = self._sums[:, first + moved : stop + moved]
        self._sums[:, kept:] = 0
        self._start = start


class _Batches:
    """Tiles of a volume, put together where the volume lies and moved to the device that computes.

    Args:
        image: ``(C, I, J, K)``.
        patch_size: Of a tile.
        fill: ``(C,)``: what lies in a tile beyond the end of the volume.
        crop: What the network sees of a tile.
        device: That computes.
    """

    def __init__(self, image: Tensor, patch_size: Shape3, fill: Tensor, crop: CropTile, device: torch.device) -> None:
        self._image = image
        self._patch_size = patch_size
        self._fill = fill.to(image)
        self._crop = crop
        self._device = device
        self._is_pinned = device.type == "cuda" and image.device.type == "cpu"

    def build(self, boxes: Sequence[Box]) -> Tensor:
        """Tiles ``(B, C, *patch_size)``, larger with surroundings, a copy of their own."""
        parts = [self._crop(self._image, box) for box in boxes]  # cut off at the end of the volume
        num_channels = len(parts[0])
        # What is seen with its surroundings is larger than a tile.
        i, j, k = (max(size, n) for size, n in zip(self._patch_size, parts[0].shape[1:], strict=True))
        size = (i, j, k)
        batch = torch.empty(
            (len(parts), num_channels, *size),
            dtype=self._image.dtype,
            device=self._image.device,
            pin_memory=self._is_pinned,
        )
        for tile, part in zip(batch, parts, strict=True):
            _, i, j, k = part.shape
            if (i, j, k) != size:
                fill = self._fill.repeat_interleave(num_channels // len(self._fill))
                tile.copy_(fill[:, None, None, None].expand_as(tile))
            tile[:, :i, :j, :k] = part
        return batch.to(self._device, non_blocking=self._is_pinned)


class _Tiles:
    """Tiles of a volume, through the network in batches."""

    def __init__(self, batches: _Batches, predict: PredictTiles, at_once: AtOnce, counter: _Counter) -> None:
        self._batches = batches
        self._predict = predict
        self._at_once = at_once
        self._counter = counter

    def compute(self, boxes: list[Box]) -> Iterator[tuple[Box, Tensor]]:
        """Every tile with its logits; where memory does not suffice, fewer at a time from there on."""
        position = 0
        while position < len(boxes):
            batch = boxes[position : position + self._at_once.batch_size]
            try:
                logits = self._predict(self._batches.build(batch))
            except (RuntimeError, MemoryError) as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
            else:
                position += len(batch)
                self._counter.count(len(batch))
                yield from zip(batch, logits, strict=True)
                del logits
                continue
            self._at_once.take_fewer(len(batch))


class _Counter:
    """Tells how many tiles are done."""

    def __init__(self, num_all: int, on_tiles: OnTiles | None) -> None:
        self._num_all = num_all
        self._num_done = 0
        self._on_tiles = on_tiles

    def count(self, num_tiles: int) -> None:
        self._num_done += num_tiles
        if self._on_tiles:
            self._on_tiles(self._num_done, self._num_all)


def _allocate(size: Iterable[int], device: torch.device) -> Tensor:
    """Zeros on the device; on the CPU where the device has no room."""
    try:
        return torch.zeros(tuple(size), device=device)
    except RuntimeError as error:
        if device.type == "cpu" or not is_out_of_memory(error):
            raise
    return torch.zeros(tuple(size))
