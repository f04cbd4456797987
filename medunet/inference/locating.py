"""Where in a scan the structures are: a small network looks at the whole, and gives the box that the main one has to see.

The box is used only where nothing speaks against it: something was found, and what the main network finds within does not reach its
sides. Where it does, the box grows there, as long as it stays a small part of the scan; otherwise the whole scan is segmented, and
that is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from medunet.device import Precision
from medunet.inference.at_once import AtOnce, Experience, Portions
from medunet.inference.backends import FOLDER, build_backend
from medunet.inference.logits import collect_logits
from medunet.inference.memory_need import MemoryNeed, Work, estimate_memory, measure_axes
from medunet.inference.settings import InferenceSettings
from medunet.inference.skipping import find_needed_tiles
from medunet.models import Model
from medunet.planning import Plan
from medunet.preprocessing import compute_axis_mapping, preprocess_image
from medunet.volume import Array, Volume

Region = tuple[slice, slice, slice]
Found = TypeVar("Found")

MARGIN_MM = 20.0
"""Around what was found: several voxels of the coarse grid."""
_MAX_GROWTHS = 2
_GROWTH = 0.5
"""Of the edge of a box, by which it grows at a side that structures reach."""
_MAX_SHARE = 0.5
"""Of a scan, that a box that has grown may be; of more, all of it costs little more."""


def _ignore(reason: str) -> None:
    pass


class Locator:
    """The small network, ready on a device.

    Args:
        model: That `medunet train` put beside the main network.
        device: That computes.
        precision: Of the network's arithmetic.
        settings: Backend and air.
    """

    def __init__(self, model: Model, device: torch.device, precision: Precision, settings: InferenceSettings) -> None:
        self._plan = model.plan
        self._precision = precision
        self._weight_bytes = sum(parameter.nbytes for parameter in model.network.parameters())
        self._device = device
        self._settings = settings
        self._experience = Experience()
        self._network = build_backend(
            [model.network],
            model.plan,
            device,
            precision,
            name=settings.backend,
            cache=model.folder / FOLDER if model.folder.is_dir() else None,
        )

    def estimate_memory(self, image: Volume) -> MemoryNeed:
        """What looking for the box takes.

        Args:
            image: The whole scan; its voxels do not matter.
        """
        work = Work(
            plan=self._plan,
            backend=self._network.name,
            precision=self._precision,
            on_device=self._device.type != "cpu",
            weight_bytes=self._weight_bytes,
            finds_box=True,
        )
        return estimate_memory(
            *measure_axes(image),
            work,
            Portions(batch_size=1),
            num_channels=image.num_channels,
            voxel_bytes=image.array.dtype.itemsize,
        )

    def find_region(self, image: Volume, plan: Plan) -> Region | None:
        """The part of a scan that the main network has to see.

        Args:
            image: The whole scan, ``(C, I, J, K)``.
            plan: Of the main network; the region holds at least one of its patches, where the scan does.

        Returns:
            Voxels of the scan; None where nothing was found.
        """
        prepared = preprocess_image(image, self._plan)
        logits = collect_logits(
            self._network,
            prepared,
            self._plan,
            self._device,
            batch_size=AtOnce(self._experience.limit(Portions(batch_size=1)), self._experience),
            needed=find_needed_tiles(image, prepared, plan.modality) if self._settings.skip_air else None,
        )
        found = (logits[1] > logits[0]).cpu().numpy()
        if not found.any():
            return None
        return _to_region(found, prepared, image, plan)


def segment_located(
    find_region: Callable[[], Region | None] | None,
    segment: Callable[[Region | None], tuple[Volume, Found]],
    *,
    on_fallback: Callable[[str], None] = _ignore,
) -> tuple[Volume, Found]:
    """Segment the part of a scan in which the structures lie; all of it where nothing tells which part that is.

    Args:
        find_region: Looks for the part, such as `Locator.find_region`; None looks nowhere.
        segment: From the part, None for all, to labels ``(1, I, J, K)`` of the whole scan and what else is known of them.
        on_fallback: Told why the whole scan is segmented although a part was looked for.

    Returns:
        What ``segment`` gave last.
    """
    if find_region is None:
        return segment(None)
    region = find_region()
    if region is None:
        on_fallback("The small network found no structure; the whole scan is segmented.")
        return segment(None)
    for _ in range(1 + _MAX_GROWTHS):
        found = segment(region)
        larger = grow_region(region, found[0])
        if larger == region:
            return found
        region = larger
        if _count_voxels(region) > _MAX_SHARE * math.prod(found[0].spatial_shape):
            break
    on_fallback("Structures reach the side of the box in which they were found; the whole scan is segmented.")
    return segment(None)


def grow_region(region: Region, labels: Volume) -> Region:
    """A larger region, where labels touch a side that is no side of the scan: then more of them may lie beyond.

    Args:
        region: Voxels that were segmented.
        labels: ``(1, I, J, K)`` of the whole scan.

    Returns:
        The same region where no label touches such a side; else one that is longer by half at each of the sides touched,
        and ends where the scan ends.
    """
    inside = labels.array[0][region]
    edges = []
    for axis, edge in enumerate(region):
        more = math.ceil(_GROWTH * (edge.stop - edge.start))
        start, stop = edge.start, edge.stop
        if np.take(inside, 0, axis).any():
            start = max(0, start - more)
        if np.take(inside, -1, axis).any():
            stop = min(labels.spatial_shape[axis], stop + more)
        edges.append(slice(start, stop))
    i, j, k = edges
    return i, j, k


def _count_voxels(region: Region) -> int:
    return math.prod(edge.stop - edge.start for edge in region)


def _to_region(found: Array, grid: Volume, scan: Volume, plan: Plan) -> Region:
    """The box around what was found, with a margin, as voxels of the scan."""
    axes, scales, shifts = compute_axis_mapping(grid.affine, scan.affine)
    plan_axes = _find_plan_axes(scan)
    edges = []
    for scan_axis in range(3):
        axis = axes[scan_axis]
        inside = np.flatnonzero(found.any(axis=tuple(other for other in range(3) if other != axis)))
        ends = [(place - shifts[scan_axis]) / scales[scan_axis] for place in (inside[0] - 0.5, inside[-1] + 0.5)]
        mm, length = scan.spacing[scan_axis], scan.spatial_shape[scan_axis]
        patch_mm = plan.patch_size[plan_axes[scan_axis]] * plan.spacing[plan_axes[scan_axis]]
        first, last = min(ends) - MARGIN_MM / mm, max(ends) + MARGIN_MM / mm
        missing = max(0.0, patch_mm / mm + 1 - (last - first)) / 2
        edges.append(slice(max(0, math.floor(first - missing)), min(length, math.ceil(last + missing) + 1)))
    i, j, k = edges
    return i, j, k


def _find_plan_axes(scan: Volume) -> tuple[int, int, int]:
    """The axis of a plan (R, A, S) along which each axis of a scan runs."""
    from nibabel.orientations import io_orientation

    i, j, k = io_orientation(scan.affine)[:, 0].astype(int).tolist()
    return i, j, k
