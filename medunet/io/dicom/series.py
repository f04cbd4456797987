"""Which series a folder holds, which of them is meant, and which of its slices make the volume.

Nothing is stacked that does not belong together: other image classes, localizers, colour pictures and damaged files are
left out and named, or refused. Every doubt is an error that names two files.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medunet.errors import InputError, VolumeError
from medunet.io.dicom.directory import list_dicomdir
from medunet.io.dicom.files import DicomFile, list_dicom_candidates
from medunet.io.dicom.frames import Frame, get_num_frames, read_frames
from medunet.io.dicom.header import Instance, describe_file, find_number, get_text, read_instance, to_line
from medunet.io.dicom.stack import DicomStack, build_stack, group_by_position
from medunet.io.dicom.volumes import choose_volume
from medunet.io.scan import ReadOptions

IMAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # enhanced
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",  # legacy converted enhanced
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}
LABEL_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",  # label map
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
}
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
_DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
_ORIENTATION_TOLERANCE = 1e-4
_SPACING_TOLERANCE = 1e-4


@dataclass(eq=False, kw_only=True)
class _Series:
    """The images of one SeriesInstanceUID."""

    uid: str
    instances: list[Instance] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SeriesInfo:
    """What is known of a series without its voxels.

    Attributes:
        uid: SeriesInstanceUID.
        number: SeriesNumber; None where the files have none.
        modality: ``"CT"``, ``"MR"``, ``"PT"``.
        description: SeriesDescription, as the scanner's user wrote it.
        num_slices: Slices at distinct or equal places.
        shape: Columns, rows, slices of the volume; None where there is none.
        spacing: mm, same order.
        orientation: Such as ``"LPS"``.
        problems: Why it cannot be read as it is, or what is odd about it; empty for a sound series.
        is_usable: Whether it can be read without further options.
    """

    uid: str
    number: int | None
    modality: str
    description: str
    num_slices: int
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    orientation: str = ""
    problems: tuple[str, ...] = ()
    is_usable: bool = False

    @property
    def label(self) -> str:
        """How messages call it: by its number, else by its UID."""
        return f"series {self.number if self.number is not None else self.uid or 'without a number'}"

    def __str__(self) -> str:
        return f"{self.label} ({self.modality}, '{self.description}', {self.num_slices} slices)"


@dataclass(frozen=True, kw_only=True)
class DicomFolder:
    """What a folder, zip or file holds.

    Attributes:
        series: Image series, by number.
        num_files: Files seen.
        notes: What was passed over.
    """

    series: tuple[SeriesInfo, ...]
    num_files: int
    notes: tuple[str, ...] = ()


def list_series(path: str | Path, options: ReadOptions | None = None) -> DicomFolder:
    """The image series below a path; headers are read, and pixels only where two slices lie at one place.

    Raises:
        VolumeError: If the path cannot be listed, or holds no DICOM file.
    """
    content = _read_content(Path(path))
    if not content.series and not content.faults:
        raise _describe_nothing(Path(path), content)
    infos = [_examine(series, options or ReadOptions())[0] for series in content.series.values()]
    infos.sort(key=lambda info: (info.number is None, info.number or 0, info.uid))
    return DicomFolder(series=tuple(infos), num_files=content.num_files, notes=(*content.notes, *content.faults))


def find_stack(path: Path, options: ReadOptions, *, files: list[DicomFile] | None = None) -> DicomStack:
    """The slices of the one series that is meant, checked and in order; no voxel is read yet.

    Args:
        path: Folder, zip, DICOMDIR or file.
        options: Which series, which volume, whether gaps are allowed.
        files: Read these instead of what lies at ``path``.

    Raises:
        VolumeError: If there is no such series, or several; if files are damaged; if slices do not make a volume.
    """
    content = _read_content(path, files)
    if content.faults:
        more = f" ({len(content.faults) - 1} more files are damaged)" if len(content.faults) > 1 else ""
        raise VolumeError(content.faults[0] + more)
    if not content.series:
        raise _describe_nothing(path, content)
    candidates = _filter(list(content.series.values()), options, path)
    if len(candidates) == 1:
        return _build(candidates[0], options, content.notes)
    # Without the volume index: it belongs to a series that was chosen, and must not choose one.
    examined = [(series, *_examine(series, replace(options, volume_index=None))) for series in candidates]
    usable = [(info, stack) for _, info, stack in examined if stack is not None]
    volumes = [(info, stack) for info, stack in usable if len(stack.frames) > 1] or usable
    if len(volumes) == 1 and options.series is None:
        info, stack = volumes[0]
        others = [
            f"{other} was passed over: {other.problems[0] if other.problems else 'it has one slice'}"
            for _, other, _ in examined
            if other is not info
        ]
        return _with_notes(stack, (*content.notes, *others))
    found = "; ".join(str(info) for _, info, _ in sorted(examined, key=lambda item: (item[1].number or 0, item[1].uid)))
    what = f" that match '{options.series}'" if options.series is not None else ""
    msg = f"{path} holds {len(candidates)} series{what}: {found}. Choose one with --series UID, number or description."
    if not volumes:
        problem = examined[0][1].problems[0]
        msg = f"{path} holds {len(candidates)} series{what}, none of which can be read: {found}. The first: {problem}"
    raise VolumeError(msg)


def find_objects(folder: Path) -> list[tuple[Path, str, str]]:
    """DICOM SEG and RTSTRUCT files below a folder.

    Returns:
        Path, ``"SEG"`` or ``"RTSTRUCT"``, and the UID of the image series that it refers to (empty where it does not
        say), sorted by path.
    """
    found = []
    for file in list_dicom_candidates(folder)[0]:
        instance = read_instance(file)
        if instance is not None and instance.sop_class in LABEL_CLASSES:
            found.append((file.path, LABEL_CLASSES[instance.sop_class], find_referenced_series(instance.header)))
    return found


def find_referenced_series(header: Any) -> str:
    """The image series that a SEG or RTSTRUCT refers to; empty where it does not say, or names several."""
    uids = [str(item.get("SeriesInstanceUID", "")) for item in header.get("ReferencedSeriesSequence") or []]
    for frame in header.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            uids += [str(item.get("SeriesInstanceUID", "")) for item in study.get("RTReferencedSeriesSequence") or []]
    unique = {uid for uid in uids if uid}
    return unique.pop() if len(unique) == 1 else ""


# ---- what lies there -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Content:
    series: dict[tuple[str, str], _Series] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    num_files: int = 0


def _read_content(path: Path, files: list[DicomFile] | None = None) -> _Content:
    content = _Content()
    num_hidden = 0
    if files is None:
        files, content.notes, num_hidden = _list_files(path)
    content.num_files = len(files) + num_hidden
    foreign: list[DicomFile] = []
    left_out: dict[str, int] = {}
    names: set[tuple[str, str]] = set()
    for file in files:
        try:
            instance = read_instance(file)
            kind = None if instance is None else _classify(instance)
        except VolumeError as error:
            content.faults.append(str(error))
            continue
        if instance is None:
            foreign.append(file)
            continue
        names.add(_name_pattern(file))
        if _is_cut_short(instance):
            msg = f"{file} ends before its pixel data: it is cut short, or not an image. Copy it from its source again."
            content.faults.append(msg)
            continue
        if kind is None:
            uid = get_text(instance.header, "SeriesInstanceUID")
            key = get_text(instance.header, "StudyInstanceUID"), uid
            content.series.setdefault(key, _Series(uid=uid)).instances.append(instance)
        else:
            left_out[kind] = left_out.get(kind, 0) + 1
    content.notes += [f"{count} file(s) were left out: {kind}." for kind, count in sorted(left_out.items())]
    content.faults += _find_nameless(list(content.series.values()))
    lost = [file for file in foreign if _looks_lost(file, names)]
    content.faults += [
        f"{file} is damaged: its name says DICOM, its content is {describe_file(file)}. Copy it from its source again."
        for file in lost
    ]
    num_ignored = len(foreign) - len(lost) + num_hidden
    if num_ignored:
        content.notes.append(f"{num_ignored} file(s) that are no DICOM files were ignored.")
    return content


def _list_files(path: Path) -> tuple[list[DicomFile], list[str], int]:
    listed = list_dicomdir(path) if path.is_file() else None
    return (listed, [], 0) if listed is not None else list_dicom_candidates(path)


def _find_nameless(series: list[_Series]) -> list[str]:
    """Slices without a SeriesInstanceUID beside others that have one: to which do they belong?"""
    if len(series) == 1:
        return []
    return [
        f"{instance.file} has no SeriesInstanceUID, other files have; expected one in each. Export the series again."
        for one in series
        if not one.uid
        for instance in one.instances
    ]


def _looks_lost(file: DicomFile, names: set[tuple[str, str]]) -> bool:
    """Whether a file that is no DICOM file was one: by its name, or empty among files without extension like itself."""
    if file.name.lower().endswith(_DICOM_SUFFIXES) or _name_pattern(file) in names:
        return True
    has_such_neighbours = any(folder == file.folder and "." not in pattern for folder, pattern in names)
    if "." in file.name or not has_such_neighbours:
        return False
    with file.open() as stream:
        return not any(stream.read(132))


def _name_pattern(file: DicomFile) -> tuple[str, str]:
    """Folder and name without its numbers: ``I10`` and ``I20`` are of one kind, ``DIRFILE`` is not."""
    return file.folder, re.sub(r"\d+", "#", file.name)


def _is_cut_short(instance: Instance) -> bool:
    """Whether a file lost its end before it said enough to be left out or assigned to a series."""
    if instance.pixel_tag:
        return False
    return not instance.is_whole or not instance.sop_class or instance.sop_class in IMAGE_CLASSES


def _classify(instance: Instance) -> str | None:
    """None for a slice of a volume; else what it is, for people."""
    header, sop_class = instance.header, instance.sop_class
    if sop_class == _DIRECTORY_CLASS:
        return "a DICOM directory"
    if sop_class in LABEL_CLASSES:
        return f"a {LABEL_CLASSES[sop_class]} object"
    if sop_class and sop_class not in IMAGE_CLASSES:
        from pydicom.uid import UID

        return UID(sop_class).name if sop_class.startswith("1.2.840.10008.") else "an object of a private class"
    if not sop_class and get_text(header, "Modality") not in ("CT", "MR", "PT"):
        return "an object without a class"
    samples = find_number(header, "SamplesPerPixel", instance.file) or 1
    if samples > 1 and not get_text(header, "PhotometricInterpretation").startswith("MONOCHROME"):
        return "a colour picture"
    return None


def _describe_nothing(path: Path, content: _Content) -> VolumeError:
    notes = f" {' '.join(content.notes)}" if content.notes else ""
    msg = f"No DICOM images in {path} ({content.num_files} files seen).{notes} Expected the slices of a CT, MR or PET series."
    return VolumeError(msg)


# ---- which series ----------------------------------------------------------------------------------------------------


def _filter(series: list[_Series], options: ReadOptions, path: Path) -> list[_Series]:
    candidates = [one for one in series if options.modality is None or _get_modality(one) == options.modality]
    if options.series is not None:
        chosen = [one for one in series if _matches(one, options.series)]
        if not chosen:
            found = "; ".join(str(_describe(one)) for one in series)
            msg = f"{path} holds no series that matches '{options.series}'; it holds {found}."
            raise VolumeError(msg)
        exact = [one for one in chosen if options.series in (one.uid, str(_get_number(one)))]
        return exact or chosen
    if not candidates:
        found = "; ".join(str(_describe(one)) for one in series)
        msg = f"{path} holds no series of modality {options.modality}; it holds {found}."
        raise VolumeError(msg)
    # A localizer or a single picture beside a volume is not what is meant.
    return [one for one in candidates if not _is_localizer(one)] or candidates


def _matches(series: _Series, wanted: str) -> bool:
    if wanted == series.uid or wanted == str(_get_number(series)):
        return True
    return bool(wanted) and wanted.lower() in get_text(series.instances[0].header, "SeriesDescription").lower()


def _get_modality(series: _Series) -> str:
    first = series.instances[0]
    return IMAGE_CLASSES.get(first.sop_class) or get_text(first.header, "Modality")


def _get_number(series: _Series) -> int | None:
    text = get_text(series.instances[0].header, "SeriesNumber")
    return int(text) if re.fullmatch(r"\s*-?\d{1,12}\s*", text) else None


def _is_localizer(series: _Series) -> bool:
    return all(_is_localizer_image(instance.header) for instance in series.instances)


def _is_localizer_image(header: Any) -> bool:
    return "LOCALIZER" in get_text(header, "ImageType").upper().split("\\")


def _describe(series: _Series) -> SeriesInfo:
    header = series.instances[0].header
    frames = [get_num_frames(instance.header) or 1 for instance in series.instances]
    return SeriesInfo(
        uid=series.uid,
        number=_get_number(series),
        modality=_get_modality(series),
        description=to_line(get_text(header, "SeriesDescription")),
        num_slices=sum(max(count, 0) for count in frames),
    )


def _examine(series: _Series, options: ReadOptions) -> tuple[SeriesInfo, DicomStack | None]:
    """What is known about a series, and its stack where it makes a volume."""
    from medunet.volume import Volume

    info = _describe(series)
    try:
        stack = _build(series, options, [])
    except InputError as error:
        return replace(info, problems=(str(error),)), None
    grid = Volume(np.broadcast_to(np.uint8(0), (1, *stack.shape)), stack.affine)
    return replace(
        info,
        shape=stack.shape,
        spacing=grid.spacing,
        orientation=grid.orientation,
        problems=stack.notes,
        is_usable=True,
    ), stack


# ---- which slices ----------------------------------------------------------------------------------------------------


def _build(series: _Series, options: ReadOptions, notes: Iterable[str]) -> DicomStack:
    """Slices of one series to a stack; raises `VolumeError` where they do not make one volume."""
    instances, found = _drop_localizers(series.instances)
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
    return _with_notes(stack, (*notes, *found))


def _with_notes(stack: DicomStack, notes: Iterable[str]) -> DicomStack:
    return replace(stack, notes=(*notes, *stack.notes))


def _drop_localizers(instances: list[Instance]) -> tuple[list[Instance], list[str]]:
    slices = [instance for instance in instances if not _is_localizer_image(instance.header)]
    if not slices or len(slices) == len(instances):
        return instances, []
    dropped = [instance.file.name for instance in instances if _is_localizer_image(instance.header)]
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
        for other in instances[1:]:
            if get_text(first.header, keyword) != get_text(other.header, keyword):
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
        steps = {b - a for a, b in itertools.pairwise(numbers_found)}
        if missing and len(steps) > 1:
            notes.append(
                f"The series may be incomplete: InstanceNumber runs from {numbers_found[0]} to {numbers_found[-1]} with "
                f"{missing} missing."
            )
    return notes
