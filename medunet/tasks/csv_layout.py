"""Cases from a table: columns ``case``, ``image``, ``image2`` and so on, ``label``; ``patient`` and ``annotated`` if known.

Paths are relative to the table. Unlike those of a ``dataset.json``, which travels with its folder, they may lead anywhere:
a user writes the table to point at files where they lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from medunet.errors import DatasetError
from medunet.tasks.case import Case
from medunet.tasks.suggestion import suggest
from medunet.tasks.table import check_width, read_table

_COLUMNS = "case, image, label"
_NAMES = ("case", "image", "label", "patient", "annotated")
_MAY_BE_EMPTY = "annotated"
_SAFE_CASE_ID = re.compile(r"(?!\.)[^/\\]{1,150}")


def list_csv_cases(path: Path) -> list[Case]:
    """The cases of a table, in its order; no volume is opened.

    Raises:
        DatasetError: If the file is no table, a column is missing, unknown or double, a row is incomplete, a case or an
            image is listed twice, or a file is missing.
    """
    columns, rows = read_table(path, _COLUMNS)
    _check_columns(path, columns)
    cases: dict[str, Case] = {}
    owners: dict[Path, Case] = {}
    for number, row in rows:
        case = _build_case(path, number, _check_row(path, number, row, columns))
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


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    num_images = sum(bool(re.fullmatch(r"image\d*", name)) for name in columns)
    images = [_name_image(index) for index in range(max(num_images, 1))]
    for name in ("case", *images, "label"):
        if name not in columns:
            msg = f"{path} has no column '{name}'; it has {', '.join(columns)[:200]}. Expected {_COLUMNS}."
            raise DatasetError(msg)
    for name in columns:
        if columns.count(name) > 1:
            msg = f"{path} has the column '{name[:40]}' twice. Remove one."
            raise DatasetError(msg)
        # A column that is passed over in silence could be a misspelt 'patient', whose scans would then be divided.
        if name not in (*images, *_NAMES):
            msg = f"{path} has the unknown column '{name[:40]}'; {suggest(name[:40], [*_NAMES, *images[1:]])}"
            raise DatasetError(msg)


def _name_image(index: int) -> str:
    return "image" if index == 0 else f"image{index + 1}"


def _check_row(path: Path, number: int, row: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    cells = check_width(path, number, row, columns)
    for name, cell in cells.items():
        if not cell and name != _MAY_BE_EMPTY:
            msg = f"{path} has no {name} in row {number}; expected every cell to be filled. Complete or remove the row."
            raise DatasetError(msg)
    return cells


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
        annotated=_parse_annotated(path, number, cells.get("annotated", "")),
    )


def _parse_annotated(path: Path, number: int, cell: str) -> frozenset[str] | None:
    """``"liver;spleen"``; an empty cell means all labels."""
    if not cell:
        return None
    labels = [label.strip() for label in cell.split(";")]
    if "" in labels or len(set(labels)) != len(labels):
        msg = (
            f"{path} has the annotated labels {cell[:80]!r} in row {number}; expected different names with semicolons "
            "between them, such as 'liver;spleen'. An empty cell means all."
        )
        raise DatasetError(msg)
    return frozenset(labels)


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
