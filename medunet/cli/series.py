"""``medunet series``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import JsonOption
from medunet.cli.reading import AllowGaps
from medunet.cli.terminal import build_console, print_json

if TYPE_CHECKING:
    from medunet.io.dicom.series import DicomFolder, SeriesInfo


def series(
    path: Annotated[Path, typer.Argument(help="DICOM folder (nested, mixed), zip, DICOMDIR or file.")],
    allow_gaps: AllowGaps = False,
    as_json: JsonOption = False,
) -> None:
    """List the DICOM series of a folder, and what speaks against reading each."""
    from medunet.io import ReadOptions
    from medunet.io.dicom.series import list_series
    from medunet.io.regular_file import check_regular_file

    if not path.is_dir():
        check_regular_file(path)
    folder = list_series(path, ReadOptions(allow_gaps=allow_gaps))
    if as_json:
        print_json(_describe_folder(folder))
        return
    _print_table(folder)


def _print_table(folder: DicomFolder) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("series", "kind", "slices", "size", "mm", "axes", "usable"):
        table.add_column(name, no_wrap=True)
    table.add_column("description", overflow="fold")
    for info in folder.series:
        table.add_row(
            "-" if info.number is None else str(info.number),
            info.modality,
            str(info.num_slices),
            "x".join(map(str, info.shape)) if info.shape else "-",
            "x".join(f"{mm:.3g}" for mm in info.spacing) if info.spacing else "-",
            info.orientation or "-",
            "yes" if info.is_usable else "no",
            Text(info.description),  # as it is: no markup, no emoji codes
        )
    console = build_console()
    console.print(table)
    for info in folder.series:
        for problem in info.problems:
            console.print(Text(f"{info.label}: {problem}"), soft_wrap=True)
    for note in folder.notes:
        console.print(Text(note), soft_wrap=True)


def _describe_folder(folder: DicomFolder) -> dict[str, object]:
    return {
        "num_files": folder.num_files,
        "notes": list(folder.notes),
        "series": [_describe(info) for info in folder.series],
    }


def _describe(info: SeriesInfo) -> dict[str, object]:
    return {
        "uid": info.uid,
        "number": info.number,
        "modality": info.modality,
        "description": info.description,
        "num_slices": info.num_slices,
        "shape": info.shape,
        "spacing_mm": info.spacing,
        "orientation": info.orientation,
        "is_usable": info.is_usable,
        "problems": list(info.problems),
    }
