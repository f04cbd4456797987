"""Rows of a small CSV table, as spreadsheets write them: comma, semicolon or tab, UTF-8 with or without its mark."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from medunet.errors import DatasetError

_MAX_BYTES = 64 * 2**20
_DELIMITERS = (",", ";", "\t")  # spreadsheets write semicolons where the comma is the decimal sign

Row = tuple[int, list[str]]


def read_table(path: Path, columns: str) -> tuple[list[str], list[Row]]:
    """The header and the rows that are not empty, each with its number in the file.

    Args:
        path: The file.
        columns: The columns that are expected, for messages.

    Returns:
        Names of the columns in lower case, and ``(number, cells)`` for each row; cells are stripped.

    Raises:
        DatasetError: If the file is missing, empty, too large, no text or no table.
    """
    text = _read_text(path, columns)
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=_find_delimiter(text)))
    except csv.Error as error:
        msg = f"The table {path} is no CSV ({error}); expected the columns {columns}. Save it again."
        raise DatasetError(msg) from error
    numbered = [(number, [cell.strip() for cell in row]) for number, row in enumerate(rows, start=1)]
    filled = [(number, row) for number, row in numbered if any(row)]
    if not filled:
        msg = f"The table {path} has only empty cells; expected the columns {columns}."
        raise DatasetError(msg)
    _, header = filled[0]
    return [cell.lower() for cell in header], filled[1:]


def check_width(path: Path, number: int, cells: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """The cells of a row by column.

    Raises:
        DatasetError: If there are more or fewer of them than columns.
    """
    if len(cells) != len(columns):
        msg = f"{path} has {len(cells)} cells in row {number}; expected {len(columns)} ({', '.join(columns)})."
        raise DatasetError(msg)
    return dict(zip(columns, cells, strict=True))


def _read_text(path: Path, columns: str) -> str:
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        msg = f"The table {path} {what}; expected a CSV file with the columns {columns}."
        raise DatasetError(msg)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        msg = f"The table {path} has {size} bytes; expected {_MAX_BYTES} at most. Is it a table of cases?"
        raise DatasetError(msg)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"The table {path} is no UTF-8 text. Save it as CSV in UTF-8."
        raise DatasetError(msg) from error
    except OSError as error:
        msg = f"The table {path} cannot be read: {error.strerror}. Check its permissions."
        raise DatasetError(msg) from error
    if not text.strip() or "\0" in text:
        msg = f"The table {path} {'holds zero bytes' if text.strip() else 'is empty'}; expected the columns {columns}."
        raise DatasetError(msg)
    return text


def _find_delimiter(text: str) -> str:
    header = text.lstrip().splitlines()[0]
    return max(_DELIMITERS, key=header.count)
