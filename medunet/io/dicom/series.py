"""Which series a folder holds, and which of them is meant."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from medunet.errors import InputError, VolumeError
from medunet.io.dicom.content import IMAGE_CLASSES, DicomContent, SeriesFiles, read_content
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.frames import get_num_frames
from medunet.io.dicom.header import get_text, quiet_pydicom, to_line
from medunet.io.dicom.slices import build_series_stack, is_localizer_image
from medunet.io.dicom.stack import DicomStack
from medunet.io.scan import ReadOptions


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
        return f"series {self.number if self.number is not None else to_line(self.uid) or 'without a number'}"

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
    with quiet_pydicom():
        content = read_content(Path(path))
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
    content = read_content(path, files)
    if content.faults:
        more = f" ({len(content.faults) - 1} more files are damaged)" if len(content.faults) > 1 else ""
        raise VolumeError(content.faults[0] + more)
    if not content.series:
        raise _describe_nothing(path, content)
    candidates = _filter(list(content.series.values()), options, path)
    if len(candidates) == 1:
        return replace(build_series_stack(candidates[0].instances, options), remarks=tuple(content.notes))
    # Without the volume index: it belongs to a series that was chosen, and must not choose one.
    examined = [(series, *_examine(series, replace(options, volume_index=None))) for series in candidates]
    usable = [(info, stack) for _, info, stack in examined if stack is not None]
    volumes = [(info, stack) for info, stack in usable if len(stack.frames) > 1] or usable
    if len(volumes) == 1 and options.series is None and options.volume_index is None:
        info, stack = volumes[0]
        others = [
            f"{other} was passed over: {other.problems[0] if other.problems else 'it has one slice'}"
            for _, other, _ in examined
            if other is not info
        ]
        return replace(stack, notes=(*others, *stack.notes), remarks=tuple(content.notes))
    found = "; ".join(str(info) for _, info, _ in sorted(examined, key=lambda item: (item[1].number or 0, item[1].uid)))
    what = f" that match '{options.series}'" if options.series is not None else ""
    msg = f"{path} holds {len(candidates)} series{what}: {found}. Choose one with --series UID, number or description."
    if not volumes and options.volume_index is None:
        problem = examined[0][1].problems[0]
        msg = f"{path} holds {len(candidates)} series{what}, none of which can be read: {found}. The first: {problem}"
    raise VolumeError(msg)


def _describe_nothing(path: Path, content: DicomContent) -> VolumeError:
    notes = f" {' '.join(content.notes)}" if content.notes else ""
    msg = f"No DICOM images in {path} ({content.num_files} files seen).{notes} Expected the slices of a CT, MR or PET series."
    return VolumeError(msg)


# ---- which series ----------------------------------------------------------------------------------------------------


def _filter(series: list[SeriesFiles], options: ReadOptions, path: Path) -> list[SeriesFiles]:
    candidates = [one for one in series if options.modality is None or _get_modality(one) == options.modality]
    if options.series is not None:
        chosen = [one for one in series if _matches(one, options.series)]
        if not chosen:
            found = "; ".join(str(_describe(one)) for one in series)
            msg = f"{path} holds no series that matches '{options.series}'; it holds {found}."
            raise VolumeError(msg)
        exact = [one for one in chosen if options.series in (one.uid, _show_number(one))]
        return exact or chosen
    if not candidates:
        found = "; ".join(str(_describe(one)) for one in series)
        msg = f"{path} holds no series of modality {options.modality}; it holds {found}."
        raise VolumeError(msg)
    # A localizer or a single picture beside a volume is not what is meant.
    return [one for one in candidates if not _is_localizer(one)] or candidates


def _matches(series: SeriesFiles, wanted: str) -> bool:
    if wanted == series.uid or wanted == _show_number(series):
        return True
    return bool(wanted) and wanted.lower() in get_text(series.instances[0].header, "SeriesDescription").lower()


def _get_modality(series: SeriesFiles) -> str:
    first = series.instances[0]
    return IMAGE_CLASSES.get(first.sop_class) or get_text(first.header, "Modality")


def _get_number(series: SeriesFiles) -> int | None:
    text = get_text(series.instances[0].header, "SeriesNumber")
    return int(text) if re.fullmatch(r"\s*-?\d{1,12}\s*", text) else None


def _show_number(series: SeriesFiles) -> str:
    number = _get_number(series)
    return "" if number is None else str(number)


def _is_localizer(series: SeriesFiles) -> bool:
    return all(is_localizer_image(instance.header) for instance in series.instances)


def _describe(series: SeriesFiles) -> SeriesInfo:
    header = series.instances[0].header
    frames = [get_num_frames(instance.header) or 1 for instance in series.instances]
    return SeriesInfo(
        uid=series.uid,
        number=_get_number(series),
        modality=_get_modality(series),
        description=to_line(get_text(header, "SeriesDescription")),
        num_slices=sum(max(count, 0) for count in frames),
    )


def _examine(series: SeriesFiles, options: ReadOptions) -> tuple[SeriesInfo, DicomStack | None]:
    """What is known about a series, and its stack where it makes a volume."""

    info = _describe(series)
    try:
        stack = build_series_stack(series.instances, options)
    except InputError as error:
        return replace(info, problems=(str(error),)), None
    grid = stack.grid
    return replace(
        info,
        shape=stack.shape,
        spacing=grid.spacing,
        orientation=grid.orientation,
        problems=stack.notes,
        is_usable=True,
    ), stack
