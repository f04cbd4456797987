"""Where DICOM data lie: a file, a folder of files (nested, mixed, without extensions), a zip of them, a DICOMDIR."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from medunet.errors import VolumeError

_MAX_INFLATED_BYTES = 2**30
_MAX_RATIO = 200  # CT and MR slices compress two- to tenfold, empty ones thirtyfold


@dataclass(frozen=True)
class DicomFile:
    """A file on disk, a member of a zip archive, or bytes in memory.

    Attributes:
        path: The file or the archive; for bytes in memory a name for messages.
        member: Name inside the archive.
        archive: The opened archive.
        content: The bytes, where there is no file.
    """

    path: Path
    member: str | None = None
    archive: Any = field(default=None, compare=False, repr=False)
    content: bytes | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        name = str(self.path) if self.member is None else f"{self.path}!{self.member}"
        # A line break or an escape sequence in a name must not reach a terminal.
        return "".join(character if character.isprintable() else "?" for character in name)

    @property
    def name(self) -> str:
        """The name without folders."""
        return self.path.name if self.member is None else PurePosixPath(self.member).name

    @property
    def folder(self) -> str:
        """The folder, for telling neighbours."""
        return str(self.path.parent) if self.member is None else str(PurePosixPath(self.member).parent)

    @property
    def size(self) -> int:
        """Bytes."""
        if self.content is not None:
            return len(self.content)
        if self.archive is not None:
            return int(self.archive.getinfo(self.member).file_size)
        return self.path.stat().st_size

    def open(self) -> BinaryIO:
        """A seekable stream.

        Raises:
            VolumeError: If the file cannot be opened.
        """
        try:
            if self.content is not None:
                return io.BytesIO(self.content)
            if self.archive is not None:
                # Read whole, because seeking backwards in a compressed member inflates it again; pydicom seeks.
                with self.archive.open(self.member) as member:
                    return io.BytesIO(member.read(self.size + 1))  # bounded: the size may be a lie
            return self.path.open("rb")
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            msg = f"{self} is damaged or packed in a way that zip readers do not know. Unpack it by other means."
            raise VolumeError(msg) from error
        except OSError as error:
            msg = f"{self} cannot be opened: {error.strerror or type(error).__name__}. Check its permissions."
            raise VolumeError(msg) from error


def list_dicom_candidates(path: Path) -> tuple[list[DicomFile], list[str], int]:
    """Every regular file of a folder or zip, sorted by name; notes on what was passed over; the number of hidden files.

    A single file is a list of one. Links to folders below ``path`` are not followed: they may run in a circle.

    Raises:
        VolumeError: If the path is missing or cannot be listed, or a zip holds what it must not.
    """
    if path.is_dir():
        return _list_folder(path)
    if zipfile.is_zipfile(path):
        return _list_zip(path), [], 0
    return [DicomFile(path)], [], 0


def is_zip(path: Path) -> bool:
    """Whether the content is a zip archive."""
    return path.is_file() and zipfile.is_zipfile(path)


def _list_folder(folder: Path) -> tuple[list[DicomFile], list[str], int]:
    files, notes = [], []
    num_hidden = 0
    for path in sorted(_walk(folder)):
        if _is_of_system(path.name):
            num_hidden += 1
            continue
        try:
            mode = path.stat().st_mode
        except OSError as error:
            msg = f"{path} cannot be opened: {error.strerror}. Repair or remove it."
            raise VolumeError(msg) from error
        if stat.S_ISREG(mode):
            files.append(DicomFile(path))
        elif not stat.S_ISDIR(mode):
            notes.append(f"{path} is a pipe or a device and was passed over.")
    return files, notes, num_hidden


def _is_of_system(name: str) -> bool:
    """``.DS_Store``, and the ``._IM0001.dcm`` that macOS writes beside each file; other hidden files may be slices."""
    return name.startswith("._") or name == ".DS_Store"


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        msg = f"{error.filename} cannot be listed: {error.strerror}. Check its permissions."
        raise VolumeError(msg) from error

    for parent, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            yield Path(parent, name)


def _list_zip(path: Path) -> list[DicomFile]:
    try:
        archive = zipfile.ZipFile(path)
        members = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        msg = f"{path} is a damaged zip archive. Copy it from its source again."
        raise VolumeError(msg) from error
    _check_members(path, members)
    return [
        DicomFile(path, member=info.filename, archive=archive)
        for info in sorted(members, key=lambda info: info.filename)
        if not _is_of_system(PurePosixPath(info.filename).name) and not info.filename.startswith("__MACOSX/")
    ]


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse what a sound archive never holds. Nothing is ever unpacked onto the disk, but such an archive is an attack."""
    for info in members:
        name = info.filename.replace("\\", "/")
        if name.startswith("/") or ".." in PurePosixPath(name).parts or (len(name) > 1 and name[1] == ":"):
            msg = f"{path} holds a member whose name leads outside the archive ({name[:80]!r}); it was not opened."
            raise VolumeError(msg)
        if stat.S_ISLNK(info.external_attr >> 16):
            msg = f"{path} holds a link ({name[:80]!r}); expected plain files. It was not opened."
            raise VolumeError(msg)
        if info.flag_bits & 1:
            msg = f"{path} is encrypted. Unpack it with its password first."
            raise VolumeError(msg)
        _check_ratio(path, name, info)
    names = [info.filename for info in members]
    if len(set(names)) < len(names):
        msg = f"{path} holds several members of one name, of which only one could be read; expected unique names."
        raise VolumeError(msg)
    total = sum(info.file_size for info in members)
    if total > _MAX_INFLATED_BYTES and total > _MAX_RATIO * path.stat().st_size:
        msg = f"{path} would grow from {path.stat().st_size} to {total} bytes; expected less. Unpack it by hand if it is genuine."
        raise VolumeError(msg)


def _check_ratio(path: Path, name: str, info: zipfile.ZipInfo) -> None:
    if info.file_size > 2**28 and info.file_size > _MAX_RATIO * max(info.compress_size, 1):
        msg = (
            f"{path} holds {name[:80]!r}, which would grow from {info.compress_size} to {info.file_size} bytes; expected "
            "less. Unpack it by hand if it is genuine."
        )
        raise VolumeError(msg)
