"""Which images of a series make its volume.

Nothing is stacked that does not belong together: localizers and scouts are left out and named; two patients, sizes, spacings
or units are errors that name two files.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from medunet.errors import VolumeError
from medunet.io.dicom.frames import Frame, read_frames
from medunet.io.dicom.header import Instance, find_number, get_text
from medunet.io.dicom.stack import DicomStack, build_stack, group_by_position
from medunet.io.dicom.volumes import choose_volume
from medunet.io.scan import ReadOptions

_ORIENTATION_TOLERANCE = 1e-4
_SPACING_TOLERANCE = 1e-4


def build_series_stack(instances: list[Instance], options: ReadOptions) -> DicomStack:
    """Put the slices of one series in order.

    Args:
        instances: All images of the series.
        options: Which volume, and whether gaps are allowed.

    Raises:
        VolumeError: If they do not make one volume, with the files that speak against it.
    """
    instances, found = _drop_localizers(instances)
    _check_same_patient(instances)
    frames = [frame for instance in instances for frame in read_frames(instance)]
    frames, more = _choose_orientation(frames)
    found += more
    _check_same_spacing(frames)
    _check_same_rescale(frames)
    groups, more = choose_volume(group_by_position(frames), options.volume_index)
    found += more
    stack = build_stack(groups, allow_gaps=options.allow_gaps)
    found += _find_signs_of_loss(instances, len(stack.frames))
    return replace(stack, notes=(*found, *stack.notes, *_compare_stated_spacing(stack)))


def is_localizer_image(header: Any) -> bool:
    """Whether ImageType says so."""
    return "LOCALIZER" in get_text(header, "ImageType").upper().split("\\")


def _drop_localizers(instances: list[Instance]) -> tuple[list[Instance], list[str]]:
    slices = [instance for instance in instances if not is_localizer_image(instance.header)]
    if not slices or len(slices) == len(instances):
        return instances, []
    dropped = [instance.file.name for instance in instances if is_localizer_image(instance.header)]
    return slices, [f"{len(dropped)} localizer(s) among the slices were left out: {', '.join(dropped[:4])}."]


def _check_same_patient(instances: list[Instance]) -> None:
    """One series UID, one patient, one frame of reference; anything else is somebody's mistake. Values are not quoted."""
    first = instances[0]
    for keyword, what in (
        ("PatientID", "patient"),
        ("PatientName", "patient"),
        ("PatientBirthDate", "patient"),
        ("SOPClassUID", "image class"),
        ("FrameOfReferenceUID", "frame of reference"),
        ("StudyInstanceUID", "study"),
    ):
        expected = get_text(first.header, keyword)
        for other in instances[1:]:
            if get_text(other.header, keyword) != expected:
                msg = (
                    f"{first.file} and {other.file} have the same SeriesInstanceUID but another {keyword}: they are not "
                    f"of one {what}. Separate them first."
                )
                raise VolumeError(msg)


def _choose_orientation(frames: list[Frame]) -> tuple[list[Frame], list[str]]:
    """The slices of one orientation and size; single pictures of another are scouts and are left out and named."""
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            if frame.shape == group[0].shape and _has_same_orientation(frame, group[0]):
                group.append(frame)
                break
        else:
            groups.append([frame])
    if len(groups) == 1:
        return frames, []
    groups.sort(key=len, reverse=True)
    main, others = groups[0], groups[1:]
    turned = [group for group in others if not _has_same_orientation(group[0], main[0])]
    if len(main) >= 3 and len(turned) == len(others) and all(len(group) <= 2 for group in others):
        names = [str(frame) for group in others for frame in group]
        return main, [f"{len(names)} slice(s) of another orientation were left out: {', '.join(names[:4])}."]
    described = "; ".join(
        f"{len(group)} slices of {group[0].shape[0]}x{group[0].shape[1]} along {_describe_normal(group[0])}, such as {group[0]}"
        for group in groups[:4]
    )
    kind = "orientations" if turned else "sizes"
    msg = f"The series mixes {len(groups)} {kind}: {described}. They do not make one volume; separate them first."
    raise VolumeError(msg)


def _has_same_orientation(frame: Frame, other: Frame) -> bool:
    difference = frame.plane[:3, :2] / frame.spacing - other.plane[:3, :2] / other.spacing
    return bool(np.abs(difference).max() <= _ORIENTATION_TOLERANCE)


def _describe_normal(frame: Frame) -> str:
    normal = np.abs(frame.normal)
    return ("sagittal", "coronal", "axial")[int(normal.argmax())] + (" (oblique)" if normal.max() < 0.999 else "")


def _check_same_spacing(frames: list[Frame]) -> None:
    first = frames[0]
    for other in frames[1:]:
        if not np.allclose(other.spacing, first.spacing, rtol=_SPACING_TOLERANCE, atol=0):
            msg = (
                f"{first} has PixelSpacing {first.spacing[1]:g}x{first.spacing[0]:g} mm, {other} {other.spacing[1]:g}x"
                f"{other.spacing[0]:g} mm; expected the same in one series. Separate them first."
            )
            raise VolumeError(msg)


def _check_same_rescale(frames: list[Frame]) -> None:
    """Refuse a slice without the rescale that the others have: its intensities would be in other units."""
    without = [frame for frame in frames if not frame.has_rescale]
    if without and len(without) < len(frames):
        other = next(frame for frame in frames if frame.has_rescale)
        msg = (
            f"{without[0]} has no RescaleSlope and RescaleIntercept, {other} has; expected all slices in the same units. "
            "Export the series again."
        )
        raise VolumeError(msg)


def _find_signs_of_loss(instances: list[Instance], num_slices: int) -> list[str]:
    """Counts that the files give and that do not fit: a series cut at its end has even distances all the same."""
    notes = []
    for keyword in ("ImagesInAcquisition", "NumberOfSlices"):
        numbers = {find_number(instance.header, keyword, instance.file) for instance in instances} - {None}
        if len(numbers) == 1 and (promised := int(numbers.pop() or 0)) > num_slices and len(instances) > 1:
            notes.append(f"The series may be incomplete: {keyword} says {promised}, {num_slices} slices are there.")
    texts = [get_text(instance.header, "InstanceNumber") for instance in instances]
    numbers_found = sorted({int(text) for text in texts if re.fullmatch(r"\s*\d{1,9}\s*", text)})
    if len(numbers_found) == len(instances) > 1:
        missing = numbers_found[-1] - numbers_found[0] + 1 - len(numbers_found)
        if missing:
            notes.append(
                f"The series may be incomplete: InstanceNumber runs from {numbers_found[0]} to {numbers_found[-1]} with "
                f"{missing} missing."
            )
    return notes


def _compare_stated_spacing(stack: DicomStack) -> list[str]:
    """A stated distance of slices that is not the one found: every second slice of a series has even distances too."""
    if len(stack.frames) < 2 or stack.regrid is not None:
        return []
    stated = {find_number(frame.header, "SpacingBetweenSlices", frame.file) for frame in stack.frames}
    found_mm = float(np.linalg.norm(stack.affine[:3, 2]))
    stated_mm = abs(stated.pop() or 0.0) if len(stated) == 1 else 0.0
    if stated_mm == 0 or abs(stated_mm - found_mm) <= 0.05 * found_mm:
        return []
    return [f"SpacingBetweenSlices says {stated_mm:g} mm, the slices lie {found_mm:.4g} mm apart; the positions count."]
