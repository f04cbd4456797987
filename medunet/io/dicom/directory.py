"""DICOMDIR: the table of contents of a DICOM medium, as a list of the files that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medunet.errors import VolumeError
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.header import is_deflated, quiet_pydicom, read_instance

_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


def list_dicomdir(path: Path) -> list[DicomFile] | None:
    """The files that a DICOMDIR names; None where ``path`` is another file.

    Raises:
        VolumeError: If it is damaged, names a file outside its folder, or one that is missing.
    """
    with DicomFile(path).open() as stream:
        # No medium has a deflated table of contents, and to inflate a bomb takes a second.
        if is_deflated(stream.read(4096)):
            return None
    instance = read_instance(DicomFile(path))
    if instance is None or instance.sop_class != _DIRECTORY_CLASS:
        return None
    if not instance.is_whole:
        msg = f"{path} is cut short: it does not end where its last attribute ends. Copy the whole medium again."
        raise VolumeError(msg)
    names = _read_names(instance.header, path)
    files = []
    for parts in names:
        if any(part in ("", ".", "..") or "/" in part or "\\" in part or "\0" in part for part in parts):
            msg = f"{path} names a file outside its folder; only files below it are read."
            raise VolumeError(msg)
        target = _find(path.parent, parts)
        if target is None:
            msg = f"{path} names {'/'.join(parts)}, which is missing in {path.parent}. Copy the whole medium again."
            raise VolumeError(msg)
        files.append(DicomFile(target))
    return sorted(set(files), key=lambda file: file.path)


def _read_names(header: Any, path: Path) -> list[list[str]]:
    try:
        with quiet_pydicom():
            names = []
            for record in header.get("DirectoryRecordSequence") or []:
                value = record.get("ReferencedFileID")
                if value:
                    names.append([value] if isinstance(value, str) else [str(part) for part in value])
    except Exception as error:  # the parser raises whatever it meets; its texts quote values
        msg = (
            f"{path} is a damaged DICOM file ({type(error).__name__} while parsing it). Copy it from its source again."
        )
        raise VolumeError(msg) from None
    return names


def _find(folder: Path, parts: list[str]) -> Path | None:
    """The file, in whatever case the copying system wrote its name."""
    target = folder
    for part in parts:
        if not target.is_dir():
            return None
        exact = target / part
        if not exact.exists():
            matches = [
                entry for entry in target.iterdir() if entry.name.lower() in (part.lower(), f"{part.lower()}.dcm")
            ]
            if len(matches) != 1:
                return None
            exact = matches[0]
        target = exact
    return target if target.is_file() else None
