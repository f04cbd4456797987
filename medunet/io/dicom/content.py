"""What a folder, zip or DICOMDIR holds: files by series, what is left out, what is damaged.

A damaged file is never skipped: nobody knows which series it would have belonged to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medunet.errors import VolumeError
from medunet.io.dicom.directory import list_dicomdir
from medunet.io.dicom.files import DicomFile, list_dicom_candidates
from medunet.io.dicom.header import Instance, describe_file, find_number, get_items, get_text, read_instance, to_line

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


@dataclass(eq=False, kw_only=True)
class SeriesFiles:
    """The images of one SeriesInstanceUID."""

    uid: str
    instances: list[Instance] = field(default_factory=list)


@dataclass(eq=False)
class DicomContent:
    """What was found.

    Attributes:
        series: Images by StudyInstanceUID and SeriesInstanceUID.
        notes: What was left out.
        faults: Damaged files, one message each.
        num_files: Files seen.
    """

    series: dict[tuple[str, str], SeriesFiles] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    num_files: int = 0


def read_content(path: Path, files: list[DicomFile] | None = None) -> DicomContent:
    """Read the header of every file and sort the files into series.

    Args:
        path: Folder, zip, DICOMDIR or file.
        files: Read these instead of what lies at ``path``.

    Raises:
        VolumeError: If the path cannot be listed. Damaged files do not raise: they are ``faults``.
    """
    content = DicomContent()
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
        elif kind is None:
            uid = get_text(instance.header, "SeriesInstanceUID")
            key = get_text(instance.header, "StudyInstanceUID"), uid
            content.series.setdefault(key, SeriesFiles(uid=uid)).instances.append(instance)
        else:
            left_out[kind] = left_out.get(kind, 0) + 1
    content.notes += [f"{count} file(s) were left out: {kind}." for kind, count in sorted(left_out.items())]
    content.faults += _find_nameless(list(content.series.values()))
    content.faults += _find_divided(list(content.series.values()))
    num_lost = _add_lost(content, foreign, names)
    num_ignored = len(foreign) - num_lost + num_hidden
    if num_ignored:
        content.notes.append(f"{num_ignored} file(s) that are no DICOM files were ignored.")
    return content


def _add_lost(content: DicomContent, foreign: list[DicomFile], names: set[tuple[str, str]]) -> int:
    lost = [file for file in foreign if _looks_lost(file, names)]
    content.faults += [
        f"{file} is damaged: its name says DICOM, its content is {describe_file(file)}. Copy it from its source again."
        for file in lost
    ]
    return len(lost)


def _list_files(path: Path) -> tuple[list[DicomFile], list[str], int]:
    listed = list_dicomdir(path) if path.is_file() else None
    return (listed, [], 0) if listed is not None else list_dicom_candidates(path)


def _find_nameless(series: list[SeriesFiles]) -> list[str]:
    """Slices without a SeriesInstanceUID beside others that have one: to which do they belong?"""
    if len(series) == 1:
        return []
    return [
        f"{instance.file} has no SeriesInstanceUID, other files have; expected one in each. Export the series again."
        for one in series
        if not one.uid
        for instance in one.instances
    ]


def _find_divided(series: list[SeriesFiles]) -> list[str]:
    """One SeriesInstanceUID in two studies: somebody changed files one by one."""
    first_of: dict[str, SeriesFiles] = {}
    faults = []
    for one in series:
        first = first_of.setdefault(one.uid, one)
        if one.uid and first is not one:
            names = [
                f"{files.instances[0].file} ('{to_line(get_text(files.instances[0].header, 'SeriesDescription'))}')"
                for files in (first, one)
            ]
            faults.append(
                f"{names[0]} and {names[1]} have the same SeriesInstanceUID but another StudyInstanceUID; expected one series "
                "in one study. Separate them first."
            )
    return faults


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

        name = UID(sop_class).name
        return name if name != sop_class else "an object of an unknown or private class"
    if not sop_class and get_text(header, "Modality") not in ("CT", "MR", "PT"):
        return "an object without a class"
    samples = find_number(header, "SamplesPerPixel", instance.file) or 1
    if samples > 1 and not get_text(header, "PhotometricInterpretation").startswith("MONOCHROME"):
        return "a colour picture"
    return None


# ---- masks -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LabelObject:
    """A DICOM SEG or RTSTRUCT file.

    Attributes:
        path: Where it lies.
        kind: ``"SEG"`` or ``"RTSTRUCT"``.
        series: UID of the image series that it refers to; empty where it does not say.
        patient: PatientID, empty where there is none. To be compared, never to be written or shown.
    """

    path: Path
    kind: str
    series: str
    patient: str = field(repr=False)


def find_objects(folder: Path) -> list[LabelObject]:
    """DICOM SEG and RTSTRUCT files below a folder, sorted by path."""
    return [
        LabelObject(
            path=file.path,
            kind=LABEL_CLASSES[instance.sop_class],
            series=find_referenced_series(instance.header),
            patient=get_text(instance.header, "PatientID").strip(),
        )
        for file in list_dicom_candidates(folder)[0]
        if (instance := read_instance(file)) is not None and instance.sop_class in LABEL_CLASSES
    ]


def find_referenced_series(header: Any) -> str:
    """The image series that a SEG or RTSTRUCT refers to; empty where it does not say, or names several."""
    uids = [str(item.get("SeriesInstanceUID", "")) for item in _list_items(header, "ReferencedSeriesSequence")]
    for frame in _list_items(header, "ReferencedFrameOfReferenceSequence"):
        for study in _list_items(frame, "RTReferencedStudySequence"):
            uids += [
                str(item.get("SeriesInstanceUID", "")) for item in _list_items(study, "RTReferencedSeriesSequence")
            ]
    unique = {uid for uid in uids if uid}
    return unique.pop() if len(unique) == 1 else ""


def _list_items(header: Any, keyword: str) -> list[Any]:
    """The items of a sequence; none where the attribute is no sequence."""
    items = get_items(header, keyword, None)
    return [item for item in items if hasattr(item, "file_meta") or hasattr(item, "get_item")]
