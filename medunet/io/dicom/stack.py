"""`DicomStack`: the slices of one DICOM volume in the order of space, the grid that they make, and what speaks against it.

Slices are ordered by their position along the normal, never by name or InstanceNumber. Every distance is checked: an
error names the two files between which a slice is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.errors import VolumeError
from medunet.io.affine import LPS_FROM_RAS
from medunet.io.dicom.frames import Frame
from medunet.io.dicom.header import find_number, get_items
from medunet.io.dicom.regrid import Regrid, build_regrid
from medunet.volume import Affine, Array, Shape3, Volume, build_grid

JITTER_MM = 0.05
"""Positions may be off an even spacing by this much: scanners round, and no structure is smaller."""
TILT_DEGREES = 0.5
"""Slices that drift by more than this from their normal are resampled; below, the affine holds the exact shear."""
_MAX_TILT_DEGREES = 45.0  # gantries tilt by up to 30


@dataclass(frozen=True, eq=False, kw_only=True)
class DicomStack:
    """The slices of one volume.

    Attributes:
        frames: Rising along the normal of the slices (cross product of the directions of rows and columns).
        shape: ``(I, J, K)`` of the volume: columns, rows, slices.
        affine: Of the volume, RAS+ mm.
        regrid: How slices that are tilted or unevenly spaced become the rectangular grid; None where voxel
            ``(i, j, k)`` is column ``i``, row ``j`` of ``frames[k]``.
        notes: What was found odd or changed, one sentence each.
        remarks: What lay beside the slices and was left out, one sentence each.
    """

    frames: tuple[Frame, ...]
    shape: Shape3
    affine: Affine
    regrid: Regrid | None = None
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def grid(self) -> Volume:
        """Shape and affine of the volume, without voxels."""
        return build_grid(self.shape, self.affine)

    def labels_to_frames(self, labels: Array) -> Array:
        """Labels of the volume on the original slices.

        Args:
            labels: ``(I, J, K)`` integers or bool.

        Returns:
            ``(num_frames, rows, columns)``, in the order of ``frames``.
        """
        if self.regrid is not None:
            return self.regrid.labels_to_frames(labels)
        return labels.transpose(2, 1, 0)

    def labels_from_frames(self, labels: Array) -> Array:
        """Labels of the original slices ``(num_frames, rows, columns)`` on the grid of the volume ``(I, J, K)``."""
        if self.regrid is not None:
            return self.regrid.labels_from_frames(labels)
        return labels.transpose(2, 1, 0)

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID; empty where the files have none."""
        return str(self.frames[0].header.get("SeriesInstanceUID", ""))

    @property
    def frame_of_reference_uid(self) -> str:
        """FrameOfReferenceUID; empty where the files have none."""
        return str(self.frames[0].header.get("FrameOfReferenceUID", ""))


def compute_depths_mm(frames: list[Frame]) -> NDArray[np.float64]:
    """Position of each slice along the normal of the first, mm."""
    normal = frames[0].normal
    return np.array([float(frame.position @ normal) for frame in frames])


def group_by_position(frames: list[Frame]) -> list[list[Frame]]:
    """Slices at the same place, rising along the normal."""
    depths = compute_depths_mm(frames)
    order = np.argsort(depths, kind="stable")
    steps = np.diff(depths[order])
    real_steps = steps[steps > 1e-3]
    same = min(0.1 * float(_median(real_steps)), 2 * JITTER_MM) if len(real_steps) else 0.01
    groups: list[list[Frame]] = []
    last = -math.inf
    for index in order:
        if depths[index] - last > max(same, 1e-4):
            groups.append([])
        groups[-1].append(frames[index])
        last = depths[index]
    return groups


def build_stack(frames: list[Frame], *, allow_gaps: bool = False) -> DicomStack:
    """Check the distances of slices that lie at distinct places, and build the grid.

    Args:
        frames: At least one, rising along the normal, of the same shape, orientation and pixel spacing.
        allow_gaps: Whether uneven distances are resampled rather than refused.

    Raises:
        VolumeError: If distances are uneven (unless ``allow_gaps``), or slices are shifted within their planes by other
            than an even amount.
    """
    rows, columns = frames[0].shape
    if len(frames) == 1:
        return _build_single(frames[0])
    depths = compute_depths_mm(frames)
    # The lower of two middles: of the steps 2.5 and 5, the second is the gap.
    step = float(np.sort(np.diff(depths))[(len(depths) - 2) // 2])
    is_even = _check_steps(frames, depths, step, allow_gaps=allow_gaps)
    drift, tilt_degrees, deviations_mm = _measure_drift(frames, depths)
    worst = int(np.argmax(deviations_mm))
    if deviations_mm[worst] > 2 * JITTER_MM:
        msg = (
            f"{frames[worst]} is shifted within its plane by {deviations_mm[worst]:.2f} mm against the others; expected a "
            "straight or evenly tilted stack. The slices do not make one volume."
        )
        raise VolumeError(msg)
    if tilt_degrees > _MAX_TILT_DEGREES:
        msg = (
            f"From {frames[0]} to {frames[-1]} the slices move by {tilt_degrees:.0f} degrees off their normal; expected a gantry "
            f"tilt of {_MAX_TILT_DEGREES:g} at most. They do not make one volume."
        )
        raise VolumeError(msg)
    if is_even and tilt_degrees <= TILT_DEGREES:
        return _build_even(frames, depths, drift)
    notes = []
    if tilt_degrees > TILT_DEGREES:
        notes.append(
            f"The slices are tilted by {tilt_degrees:.1f} degrees (gantry tilt); they were sheared onto a rectangular grid."
        )
    if not is_even:
        notes.append(
            f"The slices lie at uneven distances ({_describe_steps(depths)} mm); they were resampled onto even ones."
        )
    regrid = build_regrid([frame.plane for frame in frames], (rows, columns), depths)
    return DicomStack(
        frames=tuple(frames),
        shape=regrid.shape,
        affine=LPS_FROM_RAS @ regrid.affine_lps,
        regrid=regrid,
        notes=tuple(notes),
    )


def _build_single(frame: Frame) -> DicomStack:
    """One slice, as thick as the file says."""
    notes = ["The series has one slice."]
    thickness = find_spacing_between_slices(frame) or _find_measure(frame, "SliceThickness")
    if thickness is None or thickness <= 0:
        thickness = 1.0
        notes.append("It does not say how thick it is; 1 mm is assumed.")
    affine = frame.plane.copy()
    affine[:3, 2] *= thickness
    return DicomStack(
        frames=(frame,),
        shape=(frame.shape[1], frame.shape[0], 1),
        affine=LPS_FROM_RAS @ affine,
        notes=tuple(notes),
    )


def find_spacing_between_slices(frame: Frame) -> float | None:
    """SpacingBetweenSlices in mm, from the frame's own group, the shared one, or the file; None where none has it."""
    return _find_measure(frame, "SpacingBetweenSlices")


def _find_measure(frame: Frame, keyword: str) -> float | None:
    for group in frame.groups:
        for holder in (*get_items(group, "PixelMeasuresSequence", frame.file)[:1], group):
            number = find_number(holder, keyword, frame.file)
            if number:
                return number
    return None


def _check_steps(frames: list[Frame], depths: NDArray[np.float64], step: float, *, allow_gaps: bool) -> bool:
    """Whether all distances are the same.

    A single step may be off by one percent or by the jitter of both its ends; the sum of many must not drift.
    """
    steps = np.diff(depths)
    tolerance = max(0.01 * step, min(2 * JITTER_MM, 0.2 * step))
    ideal = np.linspace(depths[0], depths[-1], len(depths))
    wrong = np.abs(steps - step) > tolerance + 1e-6
    is_even = not wrong.any() and float(np.abs(depths - ideal).max()) <= max(tolerance, 0.02 * step)
    if is_even or allow_gaps:
        return is_even
    if not wrong.any():
        msg = (
            f"The slice distances of {frames[0].file.path.parent} drift ({_describe_steps(depths)} mm); expected even ones. "
            "Allow resampling onto even ones with --allow-gaps."
        )
        raise VolumeError(msg)
    gap = (
        int(np.argmax(np.abs(steps - step) * (steps > step)))
        if (wrong & (steps > step)).any()
        else int(np.argmax(wrong))
    )
    more = f" and {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else ""
    msg = (
        f"There is a gap of {steps[gap]:.2f} mm between {frames[gap]} and {frames[gap + 1]} (expected {step:.2f} mm){more}: "
        "slices are missing or unevenly spaced. Find them, or allow resampling with --allow-gaps."
    )
    raise VolumeError(msg)


def _describe_steps(depths: NDArray[np.float64]) -> str:
    values, counts = np.unique(np.round(np.diff(depths), 2), return_counts=True)
    shown = [f"{value:g} ({count} times)" for value, count in zip(values[:4], counts[:4], strict=True)]
    return ", ".join(shown) + (", ..." if len(values) > 4 else "")


def _measure_drift(
    frames: list[Frame], depths: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """How far slices move within their planes per mm of depth, the tilt in degrees, and each slice's deviation in mm.

    The drift is the median over all pairs of neighbours (Theil and Sen): one displaced slice must not bend the line that
    tells it from the others.
    """
    offsets = np.array([frame.position - frames[0].position for frame in frames])
    along = depths - depths[0]
    sideways = offsets - np.outer(along, frames[0].normal)  # (N, 3) mm
    rough: NDArray[np.float64] = _median(np.diff(sideways, axis=0) / np.diff(along)[:, None])
    rest = sideways - np.outer(along, rough)
    rest -= _median(rest)
    sound = np.linalg.norm(rest, axis=1) <= 2 * JITTER_MM
    drift = rough if sound.sum() < 2 else _fit_line(along[sound], sideways[sound])
    rest = sideways - np.outer(along, drift)
    deviations: NDArray[np.float64] = np.linalg.norm(rest - _median(rest), axis=1)
    return drift, math.degrees(math.atan(float(np.linalg.norm(drift)))), deviations


def _median(values: Array) -> Array:
    """The upper median along the first axis; numpy's own first loads numpy.ma, which takes a tenth of a second."""
    middle: Array = np.sort(values, axis=0)[len(values) // 2]
    return middle


def _fit_line(along: NDArray[np.float64], sideways: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = along - along.mean()
    slope: NDArray[np.float64] = (sideways * centred[:, None]).sum(axis=0) / (centred**2).sum()
    return slope


def _build_even(frames: list[Frame], depths: NDArray[np.float64], drift: NDArray[np.float64]) -> DicomStack:
    notes = []
    step = (depths[-1] - depths[0]) / (len(frames) - 1)
    affine = frames[0].plane.copy()
    affine[:3, 2] = (frames[0].normal + drift) * step
    ideal = frames[0].position + np.outer(np.arange(len(frames)), affine[:3, 2])
    deviation = float(np.linalg.norm(np.array([frame.position for frame in frames]) - ideal, axis=1).max())
    if deviation > 0.01:
        notes.append(f"Slice positions jitter by up to {deviation:.3f} mm around even distances; that was evened out.")
    lateral_mm = float(np.linalg.norm(drift)) * float(depths[-1] - depths[0])
    if lateral_mm > 0.1:
        notes.append(
            f"The slices drift sideways by {lateral_mm:.2f} mm from the first to the last; the affine is sheared by that."
        )
    rows, columns = frames[0].shape
    return DicomStack(
        frames=tuple(frames),
        shape=(columns, rows, len(frames)),
        affine=LPS_FROM_RAS @ affine,
        notes=tuple(notes),
    )
