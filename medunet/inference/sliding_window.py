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
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medunet.device import is_out_of_memory
from medunet.inference.tiling import STEP_FRACTION, Box, Tiling, plan_tiles
from medunet.volume import Shape3

logger = logging.getLogger(__name__)

PredictTiles = Callable[[Tensor], Tensor]
"""``(B, C, *patch_size)`` to logits ``(B, outputs, *patch_size)``."""
CropTile = Callable[[Tensor, Box], Tensor]
"""The image ``(C, I, J, K)`` and a box of it to what the network sees of the box."""
OnTiles = Callable[[int, int], None]
"""Called with the number of finished tiles and of all."""


def crop_tile(image: Tensor, box: Box) -> Tensor:
    """The box and nothing else."""
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
    axis: int | None = None,
    batch_size: int = 1,
    needed: Callable[[Box], bool] | None = None,
    crop: CropTile = crop_tile,
    on_tiles: OnTiles | None = None,
) -> Iterator[Slab]:
    """Weighted mean of the predictions of all tiles, in slabs that leave as soon as they are finished.

    Args:
        image: ``(C, I, J, K)`` float32 on the device that computes.
        predict: Sees tiles of the size of the tiling.
        tiling: Of the image's spatial shape.
        fill: ``(C,)``: what a volume smaller than a tile is padded with.
        axis: Along which the slabs come; None takes the one that needs the least memory.
        batch_size: Tiles at once; halved when memory does not suffice.
        needed: Whether a tile has to be computed; logits are 0 where all tiles are left out, and too small beside
            them. None computes all.
        crop: What the network sees of a tile; it may see what lies around it, too.
        on_tiles: Called with the number of finished tiles and of all that are computed.

    Yields:
        Slabs that cover all planes in order; empty where no tile is needed.
    """
    axis = tiling.streaming_axis if axis is None else axis
    shape: Shape3 = (image.shape[1], image.shape[2], image.shape[3])
    rows = [
        [box for box in tiling.list_row(axis, start) if needed is None or needed(box)] for start in tiling.starts[axis]
    ]
    counter = _Counter(sum(map(len, rows)), on_tiles)
    tiles = _Tiles(_pad(image, tiling.padded_shape, fill), predict, crop, batch_size, counter)
    computed = tiles.compute([box for row in rows for box in row])  # batches may begin in one row and end in the next
    sums: _RowSums | None = None
    for start, boxes, following in zip(
        tiling.starts[axis], rows, [*tiling.starts[axis][1:], tiling.padded_shape[axis]], strict=True
    ):
        for box, logits in itertools.islice(computed, len(boxes)):
            if sums is None:
                sums = _RowSums(tiling, axis, shape, len(logits), image.device)
                sums.advance(start)
            sums.add(box, logits)
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
    step_fraction: float = STEP_FRACTION,
    batch_size: int = 1,
    needed: Callable[[Box], bool] | None = None,
    crop: CropTile = crop_tile,
    on_tiles: OnTiles | None = None,
) -> Tensor:
    """`stream_sliding_window` with all planes kept.

    Args:
        image: ``(C, I, J, K)`` float32 on the device that computes.
        predict: ``(B, C, *patch_size)`` to logits ``(B, outputs, *patch_size)``.
        patch_size: Of a tile.
        fill: ``(C,)``: what a volume smaller than a tile is padded with.
        step_fraction: Largest step between tiles as a share of the tile.
        batch_size: Tiles at once.
        needed: Whether a tile has to be computed; None computes all. The first tile is always computed.
        crop: What the network sees of a tile.
        on_tiles: Called with the number of finished tiles and of all.

    Returns:
        Logits ``(outputs, I, J, K)`` float32 on the image's device.
    """
    shape: Shape3 = (image.shape[1], image.shape[2], image.shape[3])
    tiling = plan_tiles(shape, patch_size, step_fraction=step_fraction)
    axis = tiling.streaming_axis
    first = tiling.list_boxes()[0]
    whole: Tensor | None = None
    for slab in stream_sliding_window(
        image,
        predict,
        tiling,
        fill,
        axis=axis,
        batch_size=batch_size,
        needed=None if needed is None else lambda box: box == first or needed(box),
        crop=crop,
        on_tiles=on_tiles,
    ):
        if whole is None:
            whole = torch.zeros((len(slab.logits), *shape), device=slab.logits.device)
        whole.movedim(1 + axis, 1)[:, slab.first : slab.stop] = slab.logits
    assert whole is not None  # there is a first tile
    return whole


class _RowSums:
    """Weighted sums of the tiles of one row, and what earlier rows have added to the same planes.

    One more plane stands in front: the last that is finished, which the next slab begins with.
    """

    def __init__(self, tiling: Tiling, axis: int, shape: Shape3, num_outputs: int, device: torch.device) -> None:
        others = [other for other in range(3) if other != axis]
        self._order = [axis, *others]
        self._shape = [shape[number] for number in self._order]
        size = (
            num_outputs,
            1 + tiling.patch_size[axis],
            *(tiling.padded_shape[number] for number in others),
        )
        self._sums = _allocate(size, device)
        device = self._sums.device
        self._window = tiling.compute_window().permute(self._order).to(device)
        sums = tiling.compute_weight_sums()
        self._factors = [(1 / sums[number]).to(device) for number in self._order]
        self._start = 0  # of the planes behind the one in front

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
        factors = along[self._start : stop, None, None] * p[None, :, None] * q[None, None, :]
        self._sums[:, 1 : 1 + num_planes] *= factors
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


class _Tiles:
    """Tiles of a volume, through the network in batches."""

    def __init__(
        self, padded: Tensor, predict: PredictTiles, crop: CropTile, batch_size: int, counter: _Counter
    ) -> None:
        self._padded = padded
        self._predict = predict
        self._crop = crop
        self._batch_size = batch_size
        self._counter = counter

    def compute(self, boxes: list[Box]) -> Iterator[tuple[Box, Tensor]]:
        """Every tile with its logits; where memory does not suffice, fewer at a time from there on."""
        position = 0
        while position < len(boxes):
            batch = boxes[position : position + self._batch_size]
            tiles = torch.stack([self._crop(self._padded, box) for box in batch])  # (B, C, *patch_size)
            try:
                logits = self._predict(tiles)
            except (RuntimeError, MemoryError) as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                self._batch_size = len(batch) // 2
                logger.warning("Memory does not suffice for %d tiles; %d at a time.", len(batch), self._batch_size)
                continue
            position += len(batch)
            self._counter.count(len(batch))
            yield from zip(batch, logits, strict=True)


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
    except torch.OutOfMemoryError:
        if device.type == "cpu":
            raise
        logger.warning("The sums of the tiles do not fit on %s; they are kept on the CPU.", device)
        return torch.zeros(tuple(size))


def _pad(image: Tensor, shape: Shape3, fill: Tensor) -> Tensor:
    if tuple(image.shape[1:]) == shape:
        return image
    padded = fill.to(image)[:, None, None, None].expand(-1, *shape).clone()
    padded[:, : image.shape[1], : image.shape[2], : image.shape[3]] = image
    return padded
