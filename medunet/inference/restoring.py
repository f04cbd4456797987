"""From the network's grid back to the scan's: logits become a label map where the scan has its voxels.

Networks of one plan share a grid, and the mean of their logits is restored slab by slab while the sliding window goes on. The
grids of different plans meet only on the scan: there the mean of the probabilities decides, as in nnU-Net
(doi:10.1038/s41592-020-01008-z). Classes are handled one after the other, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from medunet.device import is_out_of_memory
from medunet.errors import ModelError
from medunet.inference.at_once import SMALLEST_BLOCK, AtOnce, Experience
from medunet.inference.boundary import (
    Positions,
    build_positions,
    find_positive_between,
    find_winners_between,
    snap_places,
)
from medunet.inference.prediction import Prediction
from medunet.inference.sliding_window import Slab
from medunet.preprocessing import compute_axis_mapping, find_winner, resample_linear
from medunet.tasks import Task, list_class_values
from medunet.volume import Affine, Array, Shape3, Volume

_T = TypeVar("_T")

_ROUNDED = 0.25
"""Of the network's voxels: what rounding their number may leave uncovered at each end of a box."""


class LabelPainter:
    """Makes a label map on the scan's grid of slabs on the network's, as they come.

    Args:
        grid: The network's.
        axis: Along which the slabs come.
        scan: Gives the grid of the result; voxels outside the network's grid are background.
        task: Gives the values.
        at_once: How many logits are turned at a time (`find_winners_between`); None takes as many as are turned fast.
    """

    def __init__(self, grid: Volume, axis: int, scan: Volume, task: Task, *, at_once: AtOnce | None = None) -> None:
        self._at_once = at_once or AtOnce.of(1)
        self._is_on_cpu = False
        self._scan = scan
        self._task = task
        self._way = SlabWay(grid, axis, scan)
        self._array = np.zeros(scan.spatial_shape, dtype=_choose_dtype(task))
        self._values = np.array(list_class_values(task), dtype=self._array.dtype)
        self._are_numbers = self._values.tolist() == list(range(len(self._values)))

    def add(self, slab: Slab) -> None:
        """Paint what lies within a slab; where memory does not suffice, in smaller blocks, and then on the CPU.

        Raises:
            ModelError: If a logit is NaN or infinite.
        """
        while True:
            where = slab.logits.device
            try:
                self._paint(slab)
            except (RuntimeError, MemoryError) as error:
                if not (is_out_of_memory(error) and self._has_another_way(where)):
                    raise
            else:
                return
            # Outside the clause: until it is left, the error's traceback holds what was being made.
            if not self._at_once.take_smaller_blocks():
                self._at_once.warn_once(f"Finished planes cannot become labels on {where}; they do on the CPU.")
                self._is_on_cpu = True

    def _has_another_way(self, where: torch.device) -> bool:
        return self._at_once.block_logits > SMALLEST_BLOCK or (where.type != "cpu" and not self._is_on_cpu)

    def _paint(self, slab: Slab) -> None:
        if self._is_on_cpu:
            slab = replace(slab, logits=slab.logits.cpu())
        check_is_finite(slab.logits)
        passage = self._way.find_passage(slab)
        if passage is None:
            return
        block_logits = self._at_once.block_logits
        if self._task.has_regions:
            painted = _paint_regions(
                # A logit above 0 is a probability above one half.
                lambda output: find_positive_between(slab.logits[output], passage.positions, block_logits=block_logits),
                passage.shape,
                self._task,
            )
        else:
            winners = find_winners_between(slab.logits, passage.positions, block_logits=block_logits).cpu().numpy()
            painted = winners if self._are_numbers else self._values[winners]
        self._array[passage.box] = painted.transpose(passage.axes)

    def finish(self) -> Volume:
        """The label map ``(1, I, J, K)``."""
        return Volume(self._array[None], self._scan.affine)


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Where the points of a part of a scan lie within a slab.

    Attributes:
        positions: Along the axes of the slab.
        axes: Which axis of the slab each axis of the scan is.
        box: The points' voxels in the scan.
    """

    positions: tuple[Positions, Positions, Positions]
    axes: tuple[int, int, int]
    box: tuple[slice, slice, slice]

    @property
    def shape(self) -> Shape3:
        """Number of points along the axes of the slab."""
        i, j, k = map(len, self.positions)
        return i, j, k


class SlabWay:
    """The way from slabs on the network's grid to the scan's voxels; every voxel is reached from exactly one slab."""

    def __init__(self, grid: Volume, axis: int, scan: Volume) -> None:
        self._place = _find_place([grid], scan)
        order = [axis, *(other for other in range(3) if other != axis)]
        lengths = [grid.spatial_shape[number] for number in order]
        self._axes, scales, shifts = compute_axis_mapping(grid.affine[:, [*order, 3]], self._place.affine)
        self._places = [
            snap_places(torch.arange(num_points, dtype=torch.float64) * scale + shift, lengths[slab_axis])
            for num_points, scale, shift, slab_axis in zip(self._place.shape, scales, shifts, self._axes, strict=True)
        ]

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The scan's voxels that the network has seen."""
        return self._place.box

    @property
    def scan_axis(self) -> int:
        """The scan's axis along which the slabs come."""
        return self._axes.index(0)

    def find_passage(self, slab: Slab) -> Passage | None:
        """The scan's voxels that lie between the planes of a slab and of no slab before; None where there are none."""
        along = self.scan_axis
        places = self._places[along]
        # The first plane of a slab is the last of the one before.
        inside = ((places > slab.first) | (slab.first == 0)) & (places <= slab.stop - 1)
        chosen = torch.nonzero(inside)[:, 0]
        if len(chosen) == 0:
            return None
        device = slab.logits.device
        begin, end = int(chosen[0]), int(chosen[-1]) + 1  # places rise or fall, so these are neighbours
        box = [slice(edge.start, edge.stop) for edge in self._place.box]
        box[along] = slice(self._place.box[along].start + begin, self._place.box[along].start + end)
        positions: list[Positions] = []
        for slab_axis in range(3):
            scan_axis = self._axes.index(slab_axis)
            if slab_axis == 0:
                positions.append(build_positions(places[begin:end] - slab.first, device))
            else:
                positions.append(build_positions(self._places[scan_axis], device))
        return Passage(positions=_triple(positions), axes=self._axes, box=_triple(box))


def check_is_finite(logits: Tensor) -> None:
    """Refuse logits among which there is no largest: of several NaN the first would win, the background.

    Args:
        logits: ``(outputs, I, J, K)``.

    Raises:
        ModelError: If one of them is NaN or infinite.
    """
    # A sum is NaN or infinite where one of its terms is, and is there in a fraction of the time of looking at each.
    if not bool(torch.isfinite(logits.sum(dim=(-2, -1))).all()):
        msg = (
            "The network answers with numbers that are not finite, so its mask would mean nothing. In float16 and bfloat16 "
            "numbers may grow too large: try --precision fp32. If that does not help, the weights are damaged; train the model anew."
        )
        raise ModelError(msg)


def restore_label_map(logits: Tensor, prepared: Volume, scan: Volume, task: Task) -> Volume:
    """Logits on the network's grid to a label map on the scan's.

    Args:
        logits: ``(num_outputs, I, J, K)``.
        prepared: The volume that the network saw: its affine places the logits.
        scan: Gives the grid of the result; voxels outside the network's grid are background.
        task: Gives the values.
    """
    painter = LabelPainter(prepared, 0, scan, task)
    painter.add(Slab(logits=logits, first=0))
    return painter.finish()


def restore_predictions(
    predictions: Sequence[Prediction], scan: Volume, task: Task, *, experience: Experience | None = None
) -> Volume:
    """The label map on which networks of one or several plans agree.

    Args:
        predictions: One per plan (`merge_predictions`). Several are averaged as probabilities (softmax, or sigmoid for
            regions) on the scan's grid, every network counting once.
        scan: Gives the grid of the result.
        task: Gives the values.
        experience: Of other scans: what was said then is not said again. None says it.

    Raises:
        ModelError: If a logit is NaN or infinite.
    """
    for prediction in predictions:
        check_is_finite(prediction.logits)
    if len(predictions) == 1:
        return restore_label_map(predictions[0].logits, predictions[0].grid, scan, task)
    try:
        return _restore_mean(predictions, scan, task)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or all(one.logits.device.type == "cpu" for one in predictions):
            raise
    (experience or Experience()).warn_once(
        f"The probabilities of a whole scan do not fit on {predictions[0].logits.device}; their mean is made on the CPU."
    )
    return _restore_mean([replace(one, logits=one.logits.cpu()) for one in predictions], scan, task)


def _restore_mean(predictions: Sequence[Prediction], scan: Volume, task: Task) -> Volume:
    place = _find_place([prediction.grid for prediction in predictions], scan)
    device = predictions[0].logits.device  # the others may have had no room on it
    parts = [_Probabilities(prediction, task) for prediction in predictions]
    num_networks = sum(prediction.num_networks for prediction in predictions)

    def compute_mean(output: int) -> Tensor:
        total = torch.zeros(place.shape, device=device)
        for part in parts:
            total += part.restore(output, place).to(device) * (part.prediction.num_networks / num_networks)
        return total

    if task.has_regions:
        return place.put(_paint_regions(lambda output: compute_mean(output) > 0.5, place.shape, task), scan)
    winners = find_winner(map(compute_mean, range(task.num_outputs)), place.shape)
    return place.put(_paint_winners(winners, task), scan)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """The part of a scan that networks have seen.

    Attributes:
        box: In the scan's voxels.
        affine: Of its first voxel.
        shape: Of the box.
    """

    box: tuple[slice, slice, slice]
    affine: Affine
    shape: Shape3

    def put(self, covered: Array, scan: Volume) -> Volume:
        """Put labels into a map of the whole scan, which is background elsewhere."""
        restored = np.zeros(scan.spatial_shape, dtype=covered.dtype)
        restored[self.box] = covered
        return Volume(restored[None], scan.affine)


class _Probabilities:
    """Softmax or sigmoid of a prediction, one map at a time: the logits stay as they are, and no copy of all is made."""

    def __init__(self, prediction: Prediction, task: Task) -> None:
        self.prediction = prediction
        self._has_regions = task.has_regions
        if not task.has_regions:
            self._peak = prediction.logits.amax(dim=0)
            self._total = torch.zeros_like(self._peak)
            for logits in prediction.logits:
                self._total += torch.exp(logits - self._peak)

    def restore(self, output: int, place: _Place) -> Tensor:
        """Probability of one output on the scan's grid."""
        logits = self.prediction.logits[output]
        probabilities = torch.sigmoid(logits) if self._has_regions else torch.exp(logits - self._peak).div_(self._total)
        return resample_linear(probabilities, self.prediction.grid.affine, place.affine, place.shape)


def _triple(values: Sequence[_T]) -> tuple[_T, _T, _T]:
    i, j, k = values
    return i, j, k


def _paint_winners(winners: Tensor, task: Task) -> Array:
    painted: Array = np.array(list_class_values(task), dtype=_choose_dtype(task))[winners.numpy()]
    return painted


def _paint_regions(is_inside: Callable[[int], Tensor], shape: Shape3, task: Task) -> Array:
    painted = np.zeros(shape, dtype=_choose_dtype(task))
    names = list(task.labels)
    for name, value in task.compute_region_values():
        painted[is_inside(names.index(name)).cpu().numpy()] = value
    return painted


def _choose_dtype(task: Task) -> type[np.integer[Any]]:
    return np.uint8 if max(task.all_values) <= 255 else np.int32


def _find_place(grids: Sequence[Volume], scan: Volume) -> _Place:
    """The smallest box that holds what every network has seen; their grids differ by rounding only."""
    boxes = [_find_covered_box(grid, scan) for grid in grids]
    i, j, k = (slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3))
    affine = scan.affine.copy()
    affine[:3, 3] += scan.affine[:3, :3] @ [i.start, j.start, k.start]
    return _Place(box=(i, j, k), affine=affine, shape=(i.stop - i.start, j.stop - j.start, k.stop - k.start))


def _find_covered_box(prepared: Volume, scan: Volume) -> tuple[slice, slice, slice]:
    """The scan's voxels whose centres lie within the network's grid, borders included.

    Half a voxel of the network belongs to its outermost plane, and a quarter more: whole voxels cover a box up to so much at
    each end (`compute_target_grid`), and the first and last slices of a scan must not be lost to that.
    """
    ends = [(-0.5 - _ROUNDED, n - 0.5 + _ROUNDED) for n in prepared.spatial_shape]
    corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1)
    to_scan = np.linalg.inv(scan.affine) @ prepared.affine
    positions = to_scan[:3, :3] @ corners + to_scan[:3, 3:]
    edges = []
    for axis, length in enumerate(scan.spatial_shape):
        # A tolerance, so that rounding of the affines does not cost a plane.
        first = int(np.clip(np.ceil(positions[axis].min() - 1e-3), 0, length - 1))
        last = int(np.clip(np.floor(positions[axis].max() + 1e-3), first, length - 1))
        edges.append(slice(first, last + 1))
    i, j, k = edges
    return i, j, k
