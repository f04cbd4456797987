"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medunet.errors import OutputError


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader, a crash or a full disk never leaves half of it.

    The folder of ``path`` is made when it is missing. An older file at ``path`` stays untouched until the new one is
    complete.

    Raises:
        OutputError: If the folder or the file cannot be written (no space, no permission, not a folder).
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise describe_write_error(path, error) from error
    finally:
        # Gone already after the rename; after a failure, Ctrl-C included, nothing half-written may stay.
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text_atomic(path: Path, content: str) -> None:
    """`write_bytes_atomic` for text, in UTF-8."""
    write_bytes_atomic(path, content.encode())


def write_json_atomic(path: Path, content: Any) -> None:
    """`write_bytes_atomic` for a JSON document, indented for people; NaN is refused because JSON has none."""
    write_text_atomic(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def describe_write_error(path: Path, error: OSError) -> OutputError:
    """Turn what the system says into one line that names the file and the remedy."""
    remedies = {
        errno.ENOSPC: "the disk is full; free some space or choose another place",
        errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
        errno.EACCES: "no permission to write there; choose another place",
        errno.EPERM: "no permission to write there; choose another place",
        errno.EROFS: "the file system is read-only; choose another place",
        errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
        errno.EEXIST: "a part of the path is a file, not a folder; choose another place",
        errno.EISDIR: "this is a folder; give the path of a file",
        errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
    }
    remedy = remedies.get(error.errno or 0, error.strerror or type(error).__name__)
    return OutputError(f"Cannot write {path}: {remedy}. Nothing was changed.")


def check_output(path: Path, inputs: Iterable[Path] = (), *, overwrite: bool = False) -> None:
    """Refuse an output path before any work is done.

    Args:
        path: The file that will be written.
        inputs: Files that are read; none of them may be the output, not even through a link.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: If the output is one of the inputs, is a folder, or exists and may not be replaced.
    """
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            msg = f"The output {path} is the input {source}; it was left as it is. Choose another output path."
            raise OutputError(msg)
    if path.is_dir():
        msg = f"The output {path} is a folder; give the path of a file, for example {path / 'mask.nii.gz'}."
        raise OutputError(msg)
    if path.exists() and not overwrite:
        msg = f"The output {path} exists already; it was left as it is. Allow replacing it with --overwrite."
        raise OutputError(msg)
