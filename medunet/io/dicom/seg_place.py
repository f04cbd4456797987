"""Where the frames of a DICOM SEG lie: on the slices of a scan, or on the grid that they make themselves.

Every frame must lie on a slice of the scan or on a plane of its grid, in whatever axis order or direction; nothing is
resampled.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medunet.errors import GeometryError, LabelError, MedunetError
from medunet.io.affine import LPS_FROM_RAS
from medunet.io.dicom.header import (
    find_number,
    get_text,
)
from medunet.io.dicom.seg_file import SegmentInfo, SegObject, find_item, naming_damage
from medunet.io.dicom.stack import JITTER_MM, TILT_DEGREES, DicomStack
from medunet.volume import GRID_TOLERANCE_MM, Affine, Array, Shape3, Volume, build_grid, describe_grid

logger = logging.getLogger(__name__)

_MAX_SLICES = 4096  # two metres at half a millimetre; positions that need more are wrong


@dataclass(frozen=True)
class _Place:
    """Where a frame lies in an array: pixel ``(row, column)`` -> ``origin + row * row_step + column * column_step``."""

    origin: tuple[int, int, int]
    row_axis: int = 1
    column_axis: int = 2
    is_row_flipped: bool = False
    is_column_flipped: bool = False

    def paste(self, target: Array, frame: Array) -> bool:
        """Put the frame into the array; False where a pixel that is not 0 would fall outside."""
        if self.is_row_flipped:
            frame = frame[::-1]
        if self.is_column_flipped:
            frame = frame[:, ::-1]
        depth_axis = 3 - self.row_axis - self.column_axis
        slices = target.transpose(depth_axis, self.row_axis, self.column_axis)
        depth, row, column = (self.origin[axis] for axis in (depth_axis, self.row_axis, self.column_axis))
        # The part of the frame that lies inside.
        rows = slice(max(0, -row), max(0, min(frame.shape[0], slices.shape[1] - row)))
        columns = slice(max(0, -column), max(0, min(frame.shape[1], slices.shape[2] - column)))
        inside = frame[rows, columns]
        is_there = 0 <= depth < slices.shape[0]
        if not is_there or inside.shape != frame.shape:
            if np.count_nonzero(frame) > (np.count_nonzero(inside) if is_there else 0):
                return False
            if not is_there:
                return True
        slices[depth, row + rows.start : row + rows.stop, column + columns.start : column + columns.stop] = inside
        return True


@dataclass(frozen=True, eq=False, kw_only=True)
class Canvas:
    """Arrays in which frames are collected, and how they become a volume.

    Attributes:
        shape: Of the arrays, ``(slice, row, column)``.
        places: Of each plane of the segmentation.
        affine: Of the volume, RAS+ mm.
        to_grid: One array -> ``(I, J, K)`` of the volume.
        outside: The error for voxels that fall outside.
    """

    shape: Shape3
    places: tuple[_Place, ...]
    affine: Affine
    to_grid: Callable[[Array], Array]
    outside: GeometryError

    def finish(self, layers: Array) -> Volume:
        """Layers ``(L, slice, row, column)`` as a volume."""
        return Volume(np.stack([self.to_grid(layer) for layer in layers]), self.affine)


def iterate_masks(
    seg: SegObject, canvas: Canvas, segments: Collection[SegmentInfo]
) -> Iterator[tuple[SegmentInfo, NDArray[np.bool_]]]:
    """The mask of one segment after the other, ``(slice, row, column)`` of the canvas; a fresh array each."""
    if seg.kind == "LABELMAP":
        labels = read_labelmap(seg, canvas, segments)
        yield from ((segment, labels == segment.number) for segment in segments)
        return
    for segment in segments:
        mask = np.zeros(canvas.shape, dtype=np.bool_)
        for index, number in enumerate(seg.segment_of_frame):
            if number == segment.number:
                frame = seg.get_frame(index)
                if frame.any() and not canvas.places[seg.plane_of_frame[index]].paste(mask, frame):
                    raise canvas.outside
        yield segment, mask


def read_labelmap(seg: SegObject, canvas: Canvas, segments: Collection[SegmentInfo]) -> Array:
    """Labels ``(slice, row, column)`` of the canvas; values of segments that were not chosen become 0."""
    known = np.array([0, *(segment.number for segment in seg.segments)])
    kept = {segment.number for segment in segments}
    dropped = [number for number in known.tolist() if number and number not in kept]
    labels = np.zeros(canvas.shape, dtype=np.uint8 if known.max() < 256 else np.uint16)
    for index, plane in enumerate(seg.plane_of_frame):
        frame = seg.get_frame(index)
        unknown = np.setdiff1d(np.flatnonzero(np.bincount(frame.ravel())), known)
        if unknown.size:
            msg = f"{seg.file} holds value {unknown[0]}, which it does not describe as a segment. Export it again."
            raise LabelError(msg)
        if dropped:
            frame = np.where(np.isin(frame, dropped), 0, frame)
        if not canvas.places[plane].paste(labels, frame):
            raise canvas.outside
    return labels


def place_on_stack(seg: SegObject, stack: DicomStack) -> Canvas:
    """Find the frames of a segmentation on the slices of a scan, or else on its grid.

    Raises:
        GeometryError: If the frame of reference differs, or a frame lies on neither within 0.01 mm.
    """
    own, other = get_text(seg.header, "FrameOfReferenceUID"), stack.frame_of_reference_uid
    if own and other and own != other:
        msg = (
            f"{seg.file} and the scan have different frames of reference (FrameOfReferenceUID ends in ...{own[-8:]} and "
            f"...{other[-8:]}), so the one has no place in the other. Give the scan on which it was drawn."
        )
        raise GeometryError(msg)
    outside = _describe_misfit(seg, stack, "has voxels outside the scan")
    onto_slices = _find_places(seg, lambda plane: _fit_slice(plane, seg.shape, stack))
    if onto_slices is not None:
        shape = (len(stack.frames), *stack.frames[0].shape)
        return Canvas(
            shape=shape, places=onto_slices, affine=stack.affine, to_grid=stack.labels_from_frames, outside=outside
        )
    grid_lps = (LPS_FROM_RAS @ stack.affine)[:, [2, 1, 0, 3]]
    onto_grid = _find_places(seg, lambda plane: _fit(plane, seg.shape, grid_lps))
    if onto_grid is None:
        raise _describe_misfit(seg, stack, "lies on another grid than the scan")
    shape = (stack.shape[2], stack.shape[1], stack.shape[0])
    return Canvas(shape=shape, places=onto_grid, affine=stack.affine, to_grid=_reverse_axes, outside=outside)


def _reverse_axes(array: Array) -> Array:
    return np.ascontiguousarray(array.transpose())


def _find_places(seg: SegObject, fit: Callable[[Affine], _Place | None]) -> tuple[_Place, ...] | None:
    places = []
    for plane in seg.planes:
        place = fit(plane)
        if place is None:
            return None
        places.append(place)
    return tuple(places)


def _fit_slice(plane: Affine, shape: tuple[int, int], stack: DicomStack) -> _Place | None:
    """The place of a frame in ``(slice, row, column)`` of a stack; None if it lies on none of its slices.

    All slices count as parallel to the first, as they do in the volume: their directions may differ by a rounding.
    """
    first = stack.frames[0].plane
    centre = (plane @ [(shape[1] - 1) / 2, (shape[0] - 1) / 2, 0, 1])[:3]
    origins = np.array([frame.plane[:3, 3] for frame in stack.frames])
    nearest = int(np.argmin(np.abs((centre - origins) @ first[:3, 2])))
    place = _fit(plane, shape, np.column_stack([first[:, [2, 1, 0]], stack.frames[nearest].plane[:, 3]]))
    if place is None or place.origin[0] != 0 or {place.row_axis, place.column_axis} != {1, 2}:
        return None
    return replace(place, origin=(nearest, *place.origin[1:]))


def _fit(plane: Affine, shape: tuple[int, int], affine_lps: Affine) -> _Place | None:
    """The place of a frame in an array ``(slice, row, column)``; None if its pixels are not voxels of the array.

    Args:
        plane: ``(column, row, 0, 1)`` -> LPS mm.
        shape: Rows and columns.
        affine_lps: ``(slice, row, column, 1)`` -> LPS mm.
    """
    exact = np.linalg.solve(affine_lps, plane)[:3, [1, 0, 3]]  # voxels per row, per column; the first pixel
    steps, origin = np.rint(exact[:, :2]).astype(int), np.rint(exact[:, 2])
    if np.abs(origin).max() > 1e6 or (np.abs(steps).sum(axis=0) != 1).any() or (np.abs(steps).sum(axis=1) > 1).any():
        return None
    error = exact - np.column_stack([steps, origin])
    last_row, last_column = shape[0] - 1, shape[1] - 1
    corners = np.array([(0, 0, 1), (last_row, 0, 1), (0, last_column, 1), (last_row, last_column, 1)]).T
    errors_mm = np.linalg.norm(affine_lps[:3, :3] @ error @ corners, axis=0)
    if errors_mm.max() > min(GRID_TOLERANCE_MM, 0.1 * float(np.linalg.norm(affine_lps[:3, :3], axis=0).min())):
        return None
    row_axis, column_axis = (int(axis) for axis in np.abs(steps).argmax(axis=0))
    is_row_flipped, is_column_flipped = bool(steps[row_axis, 0] < 0), bool(steps[column_axis, 1] < 0)
    first = origin.astype(int)
    first[row_axis] -= last_row * is_row_flipped
    first[column_axis] -= last_column * is_column_flipped
    return _Place(
        (int(first[0]), int(first[1]), int(first[2])), row_axis, column_axis, is_row_flipped, is_column_flipped
    )


def _describe_misfit(seg: SegObject, stack: DicomStack, problem: str) -> GeometryError:
    try:
        canvas = place_on_own_grid(seg)
        own, shape = canvas.affine, canvas.shape[::-1]
    except MedunetError:
        own, shape = LPS_FROM_RAS @ seg.planes[0], (*seg.shape[::-1], len(seg.planes))
    grid, scan = (
        describe_grid(build_grid(shape, affine)) for shape, affine in ((shape, own), (stack.shape, stack.affine))
    )
    return GeometryError(f"{seg.file} {problem}: {grid} against {scan}. Give the scan on which it was drawn.")


def place_on_own_grid(seg: SegObject) -> Canvas:
    """The grid that the frames of a segmentation make by themselves.

    Raises:
        GeometryError: If they have several orientations, are tilted, or lie at uneven distances.
    """
    first = seg.planes[0]
    corner = np.array([seg.shape[1] - 1, seg.shape[0] - 1, 0, 0])
    for plane in seg.planes:
        if np.linalg.norm((plane - first) @ corner) > GRID_TOLERANCE_MM:
            msg = f"{seg.file} has frames of several orientations or spacings; expected one. Give the scan that it belongs to."
            raise GeometryError(msg)
    positions = np.array([plane[:3, 3] for plane in seg.planes])
    depths = positions @ first[:3, 2]
    order = np.argsort(depths)
    counts = _count_steps(seg, depths[order])
    slices = np.empty(len(order), dtype=int)
    slices[order] = np.concatenate([[0], np.cumsum(counts)])
    affine = first.copy()
    affine[:3, 3] = positions[order[0]]
    affine[:3, 2] = _find_step(seg, positions[order], int(slices.max()))
    _check_straight(seg, positions, slices, affine)
    return Canvas(
        shape=(int(slices.max()) + 1, *seg.shape),
        places=tuple(_Place((int(k), 0, 0)) for k in slices),
        affine=LPS_FROM_RAS @ affine,
        to_grid=_reverse_axes,
        outside=GeometryError(f"{seg.file} has voxels outside its own grid."),
    )


def _count_steps(seg: SegObject, depths: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many slice distances lie between neighbouring frames: more than one where empty frames were left out."""
    gaps = np.diff(depths)
    if not gaps.size:
        return np.zeros(0, dtype=np.int64)
    stated = _find_stated_spacing(seg, ("SpacingBetweenSlices",))
    for step in (stated, float(np.median(gaps)), float(gaps.min())):
        if step is None or step <= 1e-4:
            continue
        counts = np.maximum(np.rint(gaps / step).astype(np.int64), 1)
        mean = float(gaps.sum() / counts.sum())
        tolerance = np.maximum(0.01 * mean * counts, min(2 * JITTER_MM, 0.2 * mean))
        if (np.abs(gaps - counts * mean) <= tolerance).all() and counts.sum() < _MAX_SLICES:
            return counts
    msg = (
        f"{seg.file} has frames at uneven distances ({gaps.min():.3f} to {gaps.max():.3f} mm); expected multiples of one "
        "distance. Give the scan that it belongs to."
    )
    raise GeometryError(msg)


def _find_stated_spacing(seg: SegObject, keywords: tuple[str, ...]) -> float | None:
    groups = [seg.header.PerFrameFunctionalGroupsSequence[0], *(seg.header.get("SharedFunctionalGroupsSequence") or [])]
    with naming_damage(seg.file):
        item = find_item(tuple(groups), "PixelMeasuresSequence", seg.file)
        for keyword in keywords:
            value = abs(find_number(item, keyword, seg.file) or 0)
            if value > 0:
                return value
    return None


def _find_step(seg: SegObject, positions: NDArray[np.float64], num_steps: int) -> NDArray[np.float64]:
    """From one slice to the next, LPS mm; frames at one place only say it in words, if at all."""
    if num_steps:
        step: NDArray[np.float64] = (positions[-1] - positions[0]) / num_steps
        return step
    thickness = _find_stated_spacing(seg, ("SpacingBetweenSlices", "SliceThickness"))
    if thickness is None:
        thickness = 1.0
        logger.warning("%s has one slice and does not say how thick it is; 1 mm is assumed.", seg.file)
    return np.asarray(seg.planes[0][:3, 2] * thickness)


def _check_straight(seg: SegObject, positions: NDArray[np.float64], slices: NDArray[np.int64], affine: Affine) -> None:
    """Refuse frames that are shifted within their planes; a slight even drift is kept as a sheared affine, as in scans."""
    step, normal = affine[:3, 2], seg.planes[0][:3, 2]
    tilt_degrees = math.degrees(math.acos(min(1.0, abs(float(step @ normal)) / float(np.linalg.norm(step)))))
    deviation_mm = float(np.linalg.norm(affine[:3, 3] + np.outer(slices, step) - positions, axis=1).max())
    if tilt_degrees > TILT_DEGREES or deviation_mm > max(4 * JITTER_MM, 0.01 * float(np.linalg.norm(step))):
        msg = (
            f"{seg.file} has frames that are tilted by {tilt_degrees:.1f} degrees or {deviation_mm:.2f} mm off a straight "
            "path, which make no rectangular grid. Give the scan that it belongs to."
        )
        raise GeometryError(msg)
