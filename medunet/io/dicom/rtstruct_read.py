"""RT structure sets (RTSTRUCT) to `StructureSet`: closed planar contours filled on the slices they were drawn on.

All contours of a structure on a slice are filled together by the even-odd rule; a pixel belongs where its centre lies
inside (`contours.fill_contours`). Nothing is interpolated between slices. What cannot become voxels is left out and
said: points and open contours, contours beyond the slices, contours of a denser series. What would make a wrong mask is
refused: contours that are not parallel to the slices, another frame of reference, coordinates that are no numbers.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medunet.errors import GeometryError, VolumeError
from medunet.io.dicom.contours import Mask, Points, fill_contours
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.rtstruct_file import Roi, explain_failures, iterate_referenced_series, open_rtstruct, parse_rois
from medunet.io.dicom.stack import DicomStack
from medunet.io.structures import StructureSet, from_masks
from medunet.volume import Volume, build_grid

logger = logging.getLogger(__name__)

_PLANE_TOLERANCE_MM = 0.1
"""How far the points of a contour may lie from a common plane, and that plane from its slice without a note. Some
systems write one decimal, which moves a point by up to 0.05 mm along each axis."""


def read_rtstruct(
    source: Path | DicomFile | Any, stack: DicomStack, *, names: Collection[str] | None = None
) -> StructureSet:
    """Fill the contours of an RT structure set on the slices of a series.

    Structures that overlap come in several layers. Structures without a contour, or whose contours enclose no pixel's
    centre, stay listed without a voxel. The contours may have been drawn on another series of the same frame of
    reference (a PET beside its CT): their coordinates are the patient's, so this is a note. Contours may reach beyond
    the slices (a body outline on a cropped scan), so what lies outside is a note too, with its count.

    Args:
        source: The file, or a pydicom ``Dataset``.
        stack: The slices; the result lies on the grid of their volume.
        names: Only these structures, by ROI name; None for all.

    Returns:
        In the order of the file. ROI names that occur twice have the ROI number appended: ``"GTV (3)"``.

    Raises:
        VolumeError: If the file is damaged or no RT structure set, has coordinates that are no numbers, or contours
            that are not parallel to the slices.
        GeometryError: If the contours belong to another frame of reference, or nothing says to which.
        LabelError: If one of ``names`` is not in the file.
    """
    label, dataset = open_rtstruct(source)
    rois, notes = parse_rois(dataset, label, names)
    notes += _check_same_space(dataset, rois, stack, label)
    slices = build_slices(stack)

    def fill() -> Iterator[tuple[str, Mask]]:
        for roi in rois:
            mask, roi_notes = fill_roi(roi, slices, label)
            notes.extend(roi_notes)
            yield roi.name, mask

    # Layers are made on the slices and turned onto the grid one by one, rather than every mask by itself.
    on_slices = from_masks(
        fill(),
        build_grid(slices.shape, np.eye(4)),
        codes={roi.name: roi.code for roi in rois if roi.code is not None},
        colors={roi.name: roi.color for roi in rois if roi.color is not None},
    )
    layers = np.stack([stack.labels_from_frames(layer) for layer in on_slices.layers.array])
    structures = StructureSet(layers=Volume(layers, stack.affine), structures=on_slices.structures)
    for note in notes:
        logger.warning(note)
    return structures


# ---- filling ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Slices:
    """Where the slices lie, in the form that contours need.

    Attributes:
        shape: Slices, rows and columns.
        normal: Unit vector across the slices, LPS.
        positions_mm: Of each slice along the normal, rising.
        reaches_mm: How far from each slice a contour may lie and still belong to it: half the way to its nearer
            neighbour.
        from_lps: LPS mm to ``(column, row, ...)`` of each slice, ``(N, 4, 4)``.
    """

    shape: tuple[int, int, int]
    normal: Points
    positions_mm: Points
    reaches_mm: Points
    from_lps: Points


def build_slices(stack: DicomStack) -> Slices:
    """The geometry of a stack's original slices."""
    planes = np.stack([frame.plane for frame in stack.frames])
    normal = planes[0, :3, 2]
    positions_mm = planes[:, :3, 3] @ normal
    gaps_mm = np.diff(positions_mm)
    if gaps_mm.size == 0:
        gaps_mm = np.array([np.linalg.norm(stack.affine[:3, 2])])
    nearer_mm = np.minimum(np.append(gaps_mm, np.inf), np.append(np.inf, gaps_mm)) if len(planes) > 1 else gaps_mm
    return Slices(
        shape=(len(planes), *stack.frames[0].shape),
        normal=normal,
        positions_mm=positions_mm,
        reaches_mm=nearer_mm / 2,
        from_lps=np.linalg.inv(planes).astype(np.float64),
    )


def fill_roi(roi: Roi, slices: Slices, label: str) -> tuple[Mask, list[str]]:
    """The voxels of one structure on the original slices.

    Returns:
        ``(N, rows, columns)``, and notes on what was left out or found odd.

    Raises:
        VolumeError: If a contour is not parallel to the slices.
    """
    mask = np.zeros(slices.shape, dtype=bool)
    polygons, notes = _assign_contours(roi, slices, label)
    num_outside = 0
    last = np.array(slices.shape[:0:-1]) - 1.0  # (columns, rows)
    for n, contours in polygons.items():
        points = [_to_pixels(contour, slices.from_lps[n]) for contour in contours]
        num_outside += sum(bool((xy < -1).any() or (xy > last + 1).any()) for xy in points)
        mask[n] = fill_contours(points, slices.shape[1:])
    if num_outside:
        notes.append(f"{num_outside} contour(s) reach beyond the image and are cut off at its border")
    if roi.num_open:
        notes.append(f"{roi.num_open} contour(s) are points or open lines, which enclose nothing, and were left out")
    if not mask.any():
        notes.append("it has no voxel on this series")
    elif num_skipped := _count_skipped(mask):
        notes.append(f"{num_skipped} slice(s) between its first and last are empty")
    return mask, [f"{label}: ROI '{roi.name}': {note}." for note in notes]


def _assign_contours(roi: Roi, slices: Slices, label: str) -> tuple[dict[int, list[Points]], list[str]]:
    """The contours of each slice: those of the one plane that lies nearest to it.

    Contours of a denser series may bring two planes to one slice; even-odd filling would cancel one by the other.
    """
    planes: dict[int, list[tuple[float, float, Points]]] = defaultdict(list)
    num_beyond = 0
    for contour in roi.contours:
        depth_mm = _measure_depth(contour, slices, roi, label)
        distances_mm = np.abs(slices.positions_mm - depth_mm)
        # In rounded fractions, so that planes half way between slices all go to the same side.
        n = int(np.round(distances_mm / slices.reaches_mm.min(), 3).argmin())
        if distances_mm[n] > 1.001 * slices.reaches_mm[n]:
            num_beyond += 1
        else:
            planes[n].append((float(distances_mm[n]), depth_mm, contour))

    polygons: dict[int, list[Points]] = {}
    farthest_mm = 0.0
    for n, candidates in planes.items():
        distance_mm, nearest_mm, _ = min(candidates, key=lambda candidate: candidate[0])
        tolerance_mm = _get_tolerance(slices, n)
        polygons[n] = [points for _, depth_mm, points in candidates if abs(depth_mm - nearest_mm) <= tolerance_mm]
        farthest_mm = max(farthest_mm, distance_mm)

    notes = []
    if num_beyond:
        notes.append(f"{num_beyond} contour(s) lie beyond the slices or in a gap between them and were left out")
    num_doubled = len(roi.contours) - num_beyond - sum(map(len, polygons.values()))
    if num_doubled:
        notes.append(
            f"{num_doubled} contour(s) lie between slices, nearer ones take their place; they were drawn on a denser series"
        )
    if farthest_mm > _PLANE_TOLERANCE_MM:
        notes.append(f"contours lie up to {farthest_mm:.2f} mm from their slices; each was filled on the nearest slice")
    return polygons, notes


def _measure_depth(contour: Points, slices: Slices, roi: Roi, label: str) -> float:
    """Where along the normal a contour lies."""
    depths_mm = contour @ slices.normal
    depth_mm = float(depths_mm.min() + depths_mm.max()) / 2
    deviation_mm = float(depths_mm.max()) - depth_mm
    n = int(np.abs(slices.positions_mm - depth_mm).argmin())
    if deviation_mm > _get_tolerance(slices, n):
        msg = (
            f"{label}: ROI '{roi.name}' has a contour that is not parallel to the slices (its points lie up to "
            f"{deviation_mm:.2f} mm off a plane parallel to them); expected contours drawn on this series. Give the "
            "series on which it was drawn."
        )
        raise VolumeError(msg)
    return depth_mm


def _get_tolerance(slices: Slices, n: int) -> float:
    """Less where slices are thinner than the usual tolerance, as under a microscope."""
    return min(_PLANE_TOLERANCE_MM, float(slices.reaches_mm[n]) / 2)


def _to_pixels(contour: Points, from_lps: Points) -> Points:
    pixels: Points = contour @ from_lps[:2, :3].T + from_lps[:2, 3]
    return pixels


def _count_skipped(mask: Mask) -> int:
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    return int(filled[-1] - filled[0] + 1 - filled.size)


def _check_same_space(dataset: Any, rois: Iterable[Roi], stack: DicomStack, label: str) -> list[str]:
    """Refuse contours that belong elsewhere; gives a note where they were drawn on another series of the same space."""
    series = f"the series of {stack.frames[0].file}"
    own_uid = stack.frame_of_reference_uid
    with explain_failures(label):
        is_own_series = bool(stack.series_uid) and stack.series_uid in set(iterate_referenced_series(dataset))
    for roi in rois:
        if own_uid and roi.frame_of_reference_uid not in ("", own_uid):
            msg = (
                f"{label}: ROI '{roi.name}' lies in another frame of reference than {series}: their coordinates cannot be "
                "compared. Give the series on which it was drawn, or register the two first."
            )
            raise GeometryError(msg)
        if not is_own_series and not (own_uid and roi.frame_of_reference_uid):
            msg = (
                f"{label}: nothing says that ROI '{roi.name}' belongs to {series} (no frame of reference, and another or "
                "no referenced series). Give the series on which it was drawn."
            )
            raise GeometryError(msg)
    if is_own_series:
        return []
    return [f"{label} was drawn on another series than {series}; both share one frame of reference, so it was used."]
