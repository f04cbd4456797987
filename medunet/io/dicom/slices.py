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
from medunet.io.dicom.header import Instance, find_number, get_items, get_text
from medunet.io.dicom.stack import (
    DicomStack,
    build_stack,
    compute_depths_mm,
    find_spacing_between_slices,
    group_by_position,
)
from medunet.io.dicom.volumes import choose_volume
from medunet.io.scan import ReadOptions

_ORIENTATION_TOLERANCE = 1e-4
_SPACING_TOLERANCE = 1e-4
_CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
_PARALLEL = 0.99  # cosine; slices that are turned or mirrored within their planes are no scouts


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
    found += _note_missing_rescale(frames, instances)
    _check_concatenation(instances)
    found += _find_signs_of_loss(instances, len(stack.frames)) + _find_holes(stack)
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
        expected = get_text(first.header, keyword).rstrip("^ \0")  # empty parts of a name may be written or not
        for other in instances[1:]:
            if get_text(other.header, keyword).rstrip("^ \0") != expected:
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
    turned = [group for group in others if abs(float(group[0].normal @ main[0].normal)) < _PARALLEL]
    if len(main) >= 3 and len(turned) == len(others) and all(len(group) <= 2 for group in others):
        names = [str(frame) for group in others for frame in group]
        return main, [f"{len(names)} slice(s) of another orientation were left out: {', '.join(names[:4])}."]
    described = "; ".join(
        f"{len(group)} slices of {group[0].shape[0]}x{group[0].shape[1]} along {_describe_normal(group[0])}, such as {group[0]}"
        for group in groups[:4]
    )
    has_one_size = all(group[0].shape == main[0].shape for group in others)
    kind = "orientations" if turned or has_one_size else "sizes"
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
    for keyword in ("Units", "RescaleType"):
        first = frames[0]
        for frame in frames[1:]:
            if get_text(frame.header, keyword) != get_text(first.header, keyword):
                msg = f"{first} and {frame} have different {keyword}; expected all slices in the same units. Export them again."
                raise VolumeError(msg)


def _note_missing_rescale(frames: list[Frame], instances: list[Instance]) -> list[str]:
    if instances[0].sop_class not in _CT_CLASSES or frames[0].has_rescale:
        return []
    return ["The CT has no RescaleSlope and RescaleIntercept; its values were taken as they are, and may be no HU."]


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


def _check_concatenation(instances: list[Instance]) -> None:
    """A multi-frame object may be split into files, each of which says how many there are."""
    for instance in instances:
        total = find_number(instance.header, "InConcatenationTotalNumber", instance.file)
        uid = get_text(instance.header, "ConcatenationUID")
        parts = [other for other in instances if uid and get_text(other.header, "ConcatenationUID") == uid]
        if total is not None and parts and len(parts) < total:
            msg = (
                f"{instance.file} is one of {int(total)} parts of a multi-frame image, and {len(parts)} of them are there; "
                "expected all. Copy the others too."
            )
            raise VolumeError(msg)


def _find_holes(stack: DicomStack) -> list[str]:
    """Numbers of frames within their stack that are left out (enhanced multi-frame)."""
    numbers = []
    for frame in stack.frames:
        contents = [item for group in frame.groups for item in get_items(group, "FrameContentSequence", frame.file)[:1]]
        number = find_number(contents[0], "InStackPositionNumber", frame.file) if contents else None
        if number is None:
            return []
        numbers.append(int(number))
    missing = max(numbers) - min(numbers) + 1 - len(set(numbers))
    if len(set(numbers)) < len(numbers) or missing <= 0:
        return []
    return [f"The series may be incomplete: InStackPositionNumber leaves out {missing} of its numbers."]


def _compare_stated_spacing(stack: DicomStack) -> list[str]:
    """A stated distance of slices that is not the one found: every second slice of a series has even distances too."""
    if len(stack.frames) < 2:
        return []
    stated = {find_spacing_between_slices(frame) for frame in stack.frames}
    found_mm = float(np.diff(compute_depths_mm(list(stack.frames))).min())
    stated_mm = abs(stated.pop() or 0.0) if len(stated) == 1 else 0.0
    if stated_mm == 0 or abs(stated_mm - found_mm) <= 0.05 * found_mm:
        return []
    return [f"SpacingBetweenSlices says {stated_mm:g} mm, the slices lie {found_mm:.4g} mm apart; the positions count."]
