"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from medunet.errors import OutputError

_PARTIAL = ".partial"
_FULL = "free some space or choose another place"
_NO_PERMISSION = "no permission to write there; choose another place"
_FILE_IN_PATH = "a part of the path is a file, not a folder; choose another place"
_REMEDIES = {
    errno.ENOSPC: f"the disk is full; {_FULL}",
    errno.EDQUOT: f"the disk quota is used up; {_FULL}",
    errno.EFBIG: "the file is larger than the file system or the user's limit (ulimit -f) allows; choose another place",
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EIO: "the disk reports a fault; choose another place",
    errno.ENOTDIR: _FILE_IN_PATH,
    errno.EEXIST: _FILE_IN_PATH,
    errno.EISDIR: "this is a folder; give the path of a file",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
    errno.ELOOP: "its links run in a circle; choose another place",
}


@contextlib.contextmanager
def open_atomic(path: Path, *, keep_older_as: Path | None = None) -> Iterator[BinaryIO]:
    """A file that is written in pieces, and is there only when the block has ended without an error.

    The folder of ``path`` is made when it is missing. An older file at ``path`` stays untouched until the new one is
    complete.

    Args:
        path: The file.
        keep_older_as: In the same folder: the name that the older file goes on under. None gives it up.

    Raises:
        OutputError: If the folder or the file cannot be written (no space, no permission, not a folder).
    """
    _refuse_special(path)
    temporary = _name_temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep_older_as is not None and path.exists():
            _keep_as(path, keep_older_as)
        temporary.replace(path)
    except OutputError:
        raise
    except OSError as error:
        raise describe_write_error(path, error) from error
    finally:
        # Gone already after the rename; after a failure, Ctrl-C included, nothing half-written may stay.
        with contextlib.suppress(OSError):
            temporary.unlink()
    _flush_folder(path.parent)


def write_bytes_atomic(path: Path, content: bytes, *, keep_older_as: Path | None = None) -> None:
    """Write a file so that a reader, a crash or a full disk never leaves half of it.

    Args:
        path: As `open_atomic`.
        content: All of it.
        keep_older_as: As `open_atomic`.

    Raises:
        OutputError: As `open_atomic`.
    """
    with open_atomic(path, keep_older_as=keep_older_as) as file:
        file.write(content)


@contextlib.contextmanager
def open_scratch(path: Path) -> Iterator[BinaryIO]:
    """A nameless file on the disk of ``path``, for what is put together before it is written there.

    It is gone when the block ends; on Linux and macOS also when the process is killed.

    Raises:
        OutputError: As `open_atomic`, with the name of ``path``.
    """
    _refuse_special(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(prefix=".", suffix=_PARTIAL, dir=path.parent)  # noqa: SIM115 - closed below
    except OSError as error:
        raise describe_write_error(path, error) from error
    with file:
        yield file


def remove_partial_files(path: Path) -> None:
    """Remove what earlier writes of a file left behind when they were killed; nobody else may be writing it."""
    with contextlib.suppress(OSError):  # they only take room
        for left in path.parent.glob(f"{glob.escape(_start_temporary_name(path))}*{_PARTIAL}"):
            left.unlink()


def write_text_atomic(path: Path, content: str) -> None:
    """`write_bytes_atomic` for text, in UTF-8; what UTF-8 cannot hold (odd bytes of a file name) is escaped."""
    write_bytes_atomic(path, content.encode("utf-8", "backslashreplace"))


def write_json_atomic(path: Path, content: Any) -> None:
    """`write_bytes_atomic` for a JSON document, indented for people; NaN is refused because JSON has none."""
    write_text_atomic(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def describe_write_error(path: Path, error: OSError) -> OutputError:
    """Turn what the system says into one line that names the file and the remedy."""
    remedy = _REMEDIES.get(error.errno or 0, error.strerror or type(error).__name__)
    return OutputError(f"Cannot write {path}: {remedy}. Nothing was changed.")


def check_output(path: Path, inputs: Iterable[Path] = (), *, overwrite: bool = False) -> None:
    """Refuse an output path before any work is done.

    Args:
        path: The file that will be written.
        inputs: Files that are read; none of them may be the output, not even through a link.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If the output is one of the inputs, is a folder, a pipe or a device, exists and may not be
            replaced, or lies where nothing can be written.
    """
    try:
        for source in inputs:
            if path.exists() and source.exists() and path.samefile(source):
                msg = f"The output {path} is the input {source}; it was left as it is. Choose another output path."
                raise OutputError(msg)
        if path.is_dir():
            msg = f"The output {path} is a folder; give the path of a file, for example {path / 'mask.nii.gz'}."
            raise OutputError(msg)
        _refuse_special(path)
        if os.path.lexists(path) and not overwrite:
            msg = f"The output {path} exists already; it was left as it is. Allow replacing it with --overwrite."
            raise OutputError(msg)
        _check_writable_folder(path)
    except OutputError:
        raise
    except OSError as error:
        raise describe_write_error(path, error) from error


def _refuse_special(path: Path) -> None:
    """A rename over /dev/null or a pipe would replace it for every program on the machine."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise describe_write_error(path, error) from error
    except ValueError as error:
        msg = f"Cannot write {str(path)!r}: the name holds a zero byte. Nothing was changed. Choose another name."
        raise OutputError(msg) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        msg = f"Cannot write {path}: it is a pipe or a device. Nothing was changed. Give the path of a regular file."
        raise OutputError(msg)


def _check_writable_folder(path: Path) -> None:
    """Ask the nearest folder that exists, so that a read-only place shows before hours of work."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission", str(folder))


def _keep_as(path: Path, kept: Path) -> None:
    """Give a file a second name, so that a whole file lies at ``path`` at every moment."""
    link = _name_temporary(kept)
    try:
        link.hardlink_to(path)
    except OSError:  # FAT and some network shares know one name per file: for a moment only ``kept`` is there
        path.replace(kept)
        return
    try:
        link.replace(kept)
    finally:
        # Where both were the same file already, POSIX renames nothing and leaves the link.
        link.unlink(missing_ok=True)


def _name_temporary(path: Path) -> Path:
    """A hidden name beside ``path``."""
    return path.with_name(f"{_start_temporary_name(path)}{secrets.token_hex(4)}{_PARTIAL}")


def _start_temporary_name(path: Path) -> str:
    """File systems allow 255 bytes (some 143), and a letter may take four. A letter that is cut is left out, and in a locale
    that knows only ASCII every other one, because no name could be made of it there."""
    return f".{os.fsencode(path.name)[:80].decode(sys.getfilesystemencoding(), 'ignore')}."


def _flush_folder(folder: Path) -> None:
    """Make the rename outlive a power cut. Some file systems (network, Windows) cannot; the file is whole anyway."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
