"""Cases from a table: columns ``case``, ``image``, ``image2`` and so on, ``label``, and ``patient`` if known.

Paths are relative to the table. Unlike those of a ``dataset.json``, which travels with its folder, they may lead anywhere:
a user writes the table to point at files where they lie.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from medunet.errors import DatasetError
from medunet.tasks.case import Case
from medunet.tasks.task import suggest

_MAX_BYTES = 64 * 2**20
_DELIMITERS = (",", ";", "\t")  # spreadsheets write semicolons where the comma is the decimal sign
_NAMES = ("case", "image", "label", "patient")
_SAFE_CASE_ID = re.compile(r"(?!\.)[^/\\]{1,150}")


def list_csv_cases(path: Path) -> list[Case]:
    """The cases of a table, in its order; no volume is opened.

    Raises:
        DatasetError: If the file is no table, a column is missing, unknown or double, a row is incomplete, a case or an
            image is listed twice, or a file is missing.
    """
    text = _read_text(path)
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=_find_delimiter(text)))
    except csv.Error as error:
        msg = f"The table {path} is no CSV ({error}); expected the columns case, image, label. Save it again."
        raise DatasetError(msg) from error
    return _build_cases(path, rows)


def _read_text(path: Path) -> str:
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        msg = f"The table {path} {what}; expected a CSV file with the columns case, image, label."
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
        msg = f"The table {path} {'holds zero bytes' if text.strip() else 'is empty'}; expected the columns case, image, label."
        raise DatasetError(msg)
    return text


def _find_delimiter(text: str) -> str:
    header = text.lstrip().splitlines()[0]
    return max(_DELIMITERS, key=header.count)


def _build_cases(path: Path, rows: Sequence[Sequence[str]]) -> list[Case]:
    numbered = [(number, [cell.strip() for cell in row]) for number, row in enumerate(rows, start=1)]
    numbered = [(number, row) for number, row in numbered if any(row)]
    columns = _check_columns(path, [cell.lower() for cell in numbered[0][1]])
    cases: dict[str, Case] = {}
    owners: dict[Path, Case] = {}
    for number, row in numbered[1:]:
        cells = _check_row(path, number, row, columns)
        case = _build_case(path, number, cells)
        if case.case_id in cases:
            msg = (
                f"{path} lists the case '{case.case_id}' twice, again in row {number}. Give each row a name of its own."
            )
            raise DatasetError(msg)
        _check_files_are_new(path, number, case, owners)
        cases[case.case_id] = case
    if not cases:
        msg = f"The table {path} holds no labelled case; expected a row per case below {', '.join(columns)}."
        raise DatasetError(msg)
    return list(cases.values())


def _check_columns(path: Path, columns: list[str]) -> list[str]:
    num_images = sum(bool(re.fullmatch(r"image\d*", name)) for name in columns)
    images = [_name_image(index) for index in range(max(num_images, 1))]
    for name in ("case", *images, "label"):
        if name not in columns:
            msg = f"{path} has no column '{name}'; it has {', '.join(columns)[:200]}. Expected case, image, label."
            raise DatasetError(msg)
    for name in columns:
        if columns.count(name) > 1:
            msg = f"{path} has the column '{name[:40]}' twice. Remove one."
            raise DatasetError(msg)
        # A column that is passed over in silence could be a misspelt 'patient', whose scans would then be divided.
        if name not in (*images, *_NAMES):
            msg = f"{path} has the unknown column '{name[:40]}'; {suggest(name[:40], [*_NAMES, *images[1:]])}"
            raise DatasetError(msg)
    return columns


def _name_image(index: int) -> str:
    return "image" if index == 0 else f"image{index + 1}"


def _check_row(path: Path, number: int, row: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    if len(row) != len(columns):
        msg = f"{path} has {len(row)} cells in row {number}; expected {len(columns)} ({', '.join(columns)})."
        raise DatasetError(msg)
    for name, cell in zip(columns, row, strict=True):
        if not cell:
            msg = f"{path} has no {name} in row {number}; expected every cell to be filled. Complete or remove the row."
            raise DatasetError(msg)
    return dict(zip(columns, row, strict=True))


def _build_case(path: Path, number: int, cells: dict[str, str]) -> Case:
    if not _SAFE_CASE_ID.fullmatch(cells["case"]) or not cells["case"].isprintable():
        msg = (
            f"{path} names a case {cells['case'][:40]!r} in row {number}; expected a name without slashes that does not "
            "start with a dot, as files are named after it."
        )
        raise DatasetError(msg)
    images = [name for name in cells if name.startswith("image")]
    return Case(
        case_id=cells["case"],
        images=tuple(_resolve(path, number, cells[name], may_be_folder=True) for name in sorted(images, key=_count)),
        labels=_resolve(path, number, cells["label"], may_be_folder=False),
        group=cells.get("patient"),
    )


def _count(name: str) -> int:
    return int(name.removeprefix("image") or 1)


def _resolve(path: Path, number: int, cell: str, *, may_be_folder: bool) -> Path:
    """A file beside the table, or anywhere; a folder where DICOM slices may lie."""
    found = path.parent / cell
    try:
        is_folder = found.is_dir()
        is_there = found.is_file() or is_folder
    except OSError as error:  # no permission to look, or a name that no file can have
        msg = f"{path} lists {cell[:200]!r} in row {number}, which cannot be looked at: {error.strerror}. Correct the row."
        raise DatasetError(msg) from error
    if not is_there or (is_folder and not may_be_folder):
        what = "is a folder; expected a file" if is_folder else "does not exist or is no regular file"
        msg = f"{path} lists {cell!r} in row {number}, which {what} (paths are relative to the table). Correct the row."
        raise DatasetError(msg)
    return found


def _check_files_are_new(path: Path, number: int, case: Case, owners: dict[Path, Case]) -> None:
    """Refuse a file in two rows: the same image would train and validate.

    One label map for two images of one patient is sound, as long as the patient keeps them together.
    """
    for file in _iterate_files(case):
        owner = owners.setdefault(file.resolve(), case)
        is_shared_label = file == case.labels and owner.group is not None and owner.group == case.group
        if owner is not case and not is_shared_label:
            msg = (
                f"{path} lists {file.name} of case '{owner.case_id}' again in row {number}, for case '{case.case_id}'; "
                "expected other files for every case. Correct the row."
            )
            raise DatasetError(msg)


def _iterate_files(case: Case) -> Iterator[Path]:
    yield from case.images
    yield case.labels
