"""Small JSON files that people write beside a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medunet.errors import DatasetError

_MAX_BYTES = 64 * 2**20


def read_json(path: Path, expected: str) -> Any:
    """What a JSON file holds.

    Args:
        path: The file.
        expected: What it should be, for messages.

    Raises:
        DatasetError: If the file is missing, no regular file, too large or no JSON.
    """
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        msg = f"{path} {what}; expected {expected}."
        raise DatasetError(msg)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        msg = f"{path} has {size} bytes; expected {_MAX_BYTES} at most. Is it {expected}?"
        raise DatasetError(msg)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        msg = f"{path} is no readable JSON ({str(error).splitlines()[0]}). Correct it."
        raise DatasetError(msg) from error
