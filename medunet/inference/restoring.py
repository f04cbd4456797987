"""From the network's grid back to the scan's: logits become a label map where the scan has its voxels.

Networks of one plan share a grid, and the mean of their logits is restored like those of one. The grids of different plans
meet only on the scan: there the mean of the probabilities decides, as in nnU-Net (doi:10.1038/s41592-020-01008-z). Classes
are handled one after the other, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medunet.inference.prediction import Prediction
from medunet.preprocessing import find_winner, resample_linear, resample_winner
from medunet.tasks import Task, list_class_values
from medunet.volume import Affine, Array, Shape3, Volume


def restore_label_map(logits: Tensor, prepared: Volume, scan: Volume, task: Task) -> Volume:
    """Logits on the network's grid to a label map on the scan's.

    Args:
        logits: ``(num_outputs, I, J, K)``.
        prepared: The volume that the network saw: its affine places the logits.
        scan: Gives the grid of the result; voxels outside the network's grid are background.
        task: Gives the values.
    """
    place = _find_place([prepared], scan)
    if task.has_regions:
        return place.put(
            _paint_regions(
                # A logit above 0 is a probability above one half.
                lambda output: resample_linear(logits[output], prepared.affine, place.affine, place.shape) > 0,
                place.shape,
                task,
            ),
            scan,
        )
    winners = resample_winner(logits, prepared.affine, place.affine, place.shape)
    return place.put(_paint_winners(winners, task), scan)


def restore_predictions(predictions: Sequence[Prediction], scan: Volume, task: Task) -> Volume:
    """The label map on which networks of one or several plans agree.

    Args:
        predictions: One per plan (`merge_predictions`). Several are averaged as probabilities (softmax, or sigmoid for
            regions) on the scan's grid, every network counting once.
        scan: Gives the grid of the result.
        task: Gives the values.
    """
    if len(predictions) == 1:
        return restore_label_map(predictions[0].logits, predictions[0].grid, scan, task)
    place = _find_place([prediction.grid for prediction in predictions], scan)
    parts = [_Probabilities(prediction, task) for prediction in predictions]
    num_networks = sum(prediction.num_networks for prediction in predictions)

    def compute_mean(output: int) -> Tensor:
        total = torch.zeros(place.shape, device=predictions[0].logits.device)
        for part in parts:
            total += part.restore(output, place) * (part.prediction.num_networks / num_networks)
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
    """The scan's voxels whose centres lie within the network's grid, borders of half a voxel included."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in prepared.spatial_shape], indexing="ij")).reshape(3, -1)
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
