"""Refuse what is no plain file before it is opened: a pipe would hang, a device never ends."""

from __future__ import annotations

import stat
from pathlib import Path

from medunet.errors import VolumeError


def check_regular_file(path: Path) -> None:
    """Refuse what is missing, a folder, a pipe or a device, without opening it (a pipe would hang).

    Raises:
        VolumeError: With what was found.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        what = "is a link to a file that is gone" if path.is_symlink() else "does not exist"
        raise VolumeError(f"{path} {what}; expected a file. Check the path.") from error  # noqa: EM102
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise VolumeError(f"{path!s} cannot be opened: {reason}. Check the path and its permissions.") from error  # noqa: EM102
    if stat.S_ISDIR(mode):
        msg = f"{path} is a folder; expected a file. Give the path of one file."
        raise VolumeError(msg)
    if not stat.S_ISREG(mode):
        msg = f"{path} is a pipe or a device; expected a regular file. Copy it to a file first."
        raise VolumeError(msg)
