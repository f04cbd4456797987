"""Probabilities and uncertainty on the scan's grid, made slab by slab beside the label map.

A map goes to a sink: a file that waits on the disk (`medunet.io.MapWriter`), or an array in memory. Classes are handled one after
the other, so that of all probabilities only one slab is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medunet.inference.boundary import interpolate
from medunet.inference.restoring import Passage, SlabWay
from medunet.inference.sliding_window import Slab
from medunet.inference.uncertainty import compute_entropy_of_logits, compute_region_entropy_of_logits
from medunet.tasks import Task
from medunet.volume import Array, Volume

Box = tuple[slice, slice, slice]


class MapSink(Protocol):
    """Takes a map in pieces."""

    def put(self, slab: Array, planes: slice) -> None:
        """Planes ``(C, I, J, K)`` of the box that the networks have seen, counted along the axis from its start."""

    def close(self) -> None:
        """All planes have come."""

    def abandon(self) -> None:
        """No more will come."""


OpenSink = Callable[[int, int, Box], MapSink]
"""From the number of channels, the scan's axis along which planes come, and the box that they fill, to a sink."""


class MapPainter:
    """Listens to the slabs of one scan.

    Args:
        task: Labels.
        scan: Gives the grid of the maps.
        probabilities: Opens the sink of the class probabilities (softmax, background first; sigmoid for regions); None
            makes none.
        uncertainty: Opens the sink of the entropy, 0 to 1; None makes none.
    """

    def __init__(
        self, task: Task, scan: Volume, *, probabilities: OpenSink | None = None, uncertainty: OpenSink | None = None
    ) -> None:
        self._task = task
        self._scan = scan
        self._openers = {"probabilities": probabilities, "uncertainty": uncertainty}
        self._sinks: dict[str, MapSink] = {}
        self._way: SlabWay | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether any map is made."""
        return any(opener is not None for opener in self._openers.values())

    def add(self, slab: Slab, grid: Volume, axis: int) -> None:
        """Make what lies within a slab; see `medunet.inference.predictor.OnSlab`."""
        if not self.is_wanted:
            return
        if self._way is None:
            self._way = SlabWay(grid, axis, self._scan)
            self._open_sinks(self._way)
        passage = self._way.find_passage(slab)
        if passage is None:
            return
        if (sink := self._sinks.get("probabilities")) is not None:
            self._put(sink, passage, list(_iterate_probabilities(slab.logits, has_regions=self._task.has_regions)))
        if (sink := self._sinks.get("uncertainty")) is not None:
            compute = compute_region_entropy_of_logits if self._task.has_regions else compute_entropy_of_logits
            self._put(sink, passage, [lambda: compute(slab.logits)])

    def close(self) -> None:
        """All slabs have come: finish the maps."""
        for sink in self._sinks.values():
            sink.close()

    def abandon(self) -> None:
        """Something went wrong: no map is finished; nothing happens to those that are."""
        for sink in self._sinks.values():
            sink.abandon()

    def _open_sinks(self, way: SlabWay) -> None:
        for name, opener in self._openers.items():
            if opener is not None:
                num_channels = self._task.num_outputs if name == "probabilities" else 1
                self._sinks[name] = opener(num_channels, way.scan_axis, way.box)

    def _put(self, sink: MapSink, passage: Passage, maps: list[Callable[[], Tensor]]) -> None:
        assert self._way is not None
        axis = self._way.scan_axis
        shape = [passage.shape[slab_axis] for slab_axis in passage.axes]
        piece = np.empty((len(maps), *shape), np.float32)
        for number, compute in enumerate(maps):
            piece[number] = interpolate(compute(), passage.positions).permute(passage.axes).cpu().numpy()
        start = self._way.box[axis].start
        sink.put(piece, slice(passage.box[axis].start - start, passage.box[axis].stop - start))


class ArraySink:
    """A map in memory, float16: half the memory of float32, and exact to a two-thousandth.

    Args:
        num_channels: Of the map.
        axis: Along which planes come.
        box: That they fill.
        grid: Of the whole map.
        outside: The number of each channel outside the box.

    Attributes:
        volume: ``(C, I, J, K)`` on the grid.
    """

    def __init__(self, num_channels: int, axis: int, box: Box, *, grid: Volume, outside: list[float]) -> None:
        self._axis = axis
        self._box = box
        array = np.empty((num_channels, *grid.spatial_shape), np.float16)
        array[:] = np.array(outside, np.float16)[:, None, None, None]
        self.volume = Volume(array, grid.affine)

    def put(self, slab: Array, planes: slice) -> None:
        """See `MapSink`."""
        box = list(self._box)
        start = box[self._axis].start
        box[self._axis] = slice(start + planes.start, start + planes.stop)
        self.volume.array[(slice(None), *box)] = slab

    def close(self) -> None:
        """See `MapSink`."""

    def abandon(self) -> None:
        """See `MapSink`."""


class ProbabilityListener:
    """Keeps the probabilities of one scan in memory, float16, whatever else listens to its slabs.

    Args:
        task: Labels.
        scan: Gives the grid.
    """

    def __init__(self, task: Task, scan: Volume) -> None:
        self._outside = list_outside(task)
        self._scan = scan
        self._sink: ArraySink | None = None
        self._painter = MapPainter(task, scan, probabilities=self._open)

    def add(self, slab: Slab, grid: Volume, axis: int) -> None:
        """Take a slab; see `medunet.inference.predictor.OnSlab`."""
        self._painter.add(slab, grid, axis)

    def finish(self) -> Volume:
        """``(outputs, I, J, K)`` on the scan's grid; call it when all slabs have come."""
        self._painter.close()
        assert self._sink is not None  # a scan has a slab
        return self._sink.volume

    def _open(self, num_channels: int, axis: int, box: Box) -> MapSink:
        self._sink = ArraySink(num_channels, axis, box, grid=self._scan, outside=self._outside)
        return self._sink


def compute_certain_probabilities(labels: Volume, task: Task) -> Volume:
    """1 for the output that a label map shows, 0 for the others: what is known where networks share no probabilities.

    Args:
        labels: ``(1, I, J, K)`` with the values of the task.
        task: Without regions.
    """
    outputs = [(0,), *task.labels.values()]
    return Volume(np.stack([np.isin(labels.array[0], values) for values in outputs]).astype(np.float16), labels.affine)


def list_outside(task: Task) -> list[float]:
    """Probability of each output where nothing was looked at: background."""
    return [0.0] * task.num_outputs if task.has_regions else [1.0, *[0.0] * len(task.labels)]


def _iterate_probabilities(logits: Tensor, *, has_regions: bool) -> Iterator[Callable[[], Tensor]]:
    """How to compute the probability map of each output; softmax without a copy of all logits."""
    if has_regions:
        for logit in logits:
            yield lambda logit=logit: torch.sigmoid(logit)  # type: ignore[misc]
        return
    peak = logits.amax(dim=0)
    total = torch.zeros_like(peak)
    for logit in logits:
        total += torch.exp(logit - peak)
    for logit in logits:
        yield lambda logit=logit: torch.exp(logit - peak).div_(total)  # type: ignore[misc]
