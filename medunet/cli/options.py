"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medunet.errors import OutputError

_PAGE_SUFFIXES = (".html", ".htm")

DataOption = Annotated[Path, typer.Option("--data", "-d", help="Dataset folder or CSV table.")]
TaskOption = Annotated[str, typer.Option("--task", "-t", help="Built-in task (see `medunet tasks`) or a YAML file.")]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", help='Name in SEG or RTSTRUCT labels for a label: "CTV_p=prostate". May be repeated.'),
]
SplitsOption = Annotated[
    Path | None,
    typer.Option("--splits", help="Own folds: splits_final.json of nnU-Net, or .csv with case and fold."),
]
BudgetOption = Annotated[
    str | None,
    typer.Option("--budget", "-b", help="10min, 2h, 5000it, or full (nnU-Net's recipe); default: the task's."),
]
ConfigurationOption = Annotated[
    str, typer.Option("--configuration", "-c", help="auto, 2d, 2.5d, 3d, 3d-low or cascade.")
]
NeighbourSlicesOption = Annotated[
    int | None,
    typer.Option("--neighbour-slices", help="Slices on each side that a 2.5d network sees as channels; default: 2."),
]
PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        help="nnU-Net's networks: default, M, L, XL, or residual for M, L or XL by the memory; needs --budget full.",
    ),
]
FoldOption = Annotated[
    str, typer.Option("--fold", help="Fold kept for validation, 0 to 4; all: none is; cv: every one in turn.")
]
LocateOption = Annotated[
    str, typer.Option("--locate", help="A small network that finds the structures first: auto or never.")
]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", help="Model folder to begin with; what fits is taken over, the rest listed."),
]
PrecisionOption = Annotated[str, typer.Option("--precision", help="auto, bf16, fp16 or fp32.")]
NetworkOption = Annotated[
    str,
    typer.Option(
        "--network", help="auto, or a network of `medunet networks`, as wide as the planned U-Net's cost allows."
    ),
]
NetworkSettingOption = Annotated[
    list[str] | None,
    typer.Option("--network-option", help="Setting of that network: width=32, norm=instance. May be repeated."),
]
MemoryOption = Annotated[
    float | None,
    typer.Option(
        "--memory-gb",
        help="Memory that the plan may use; default: the preset's; for a time 8, on the CPU 6, or what is free.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout in place of text; messages go to stderr.")
]
JsonFileOption = Annotated[
    Path | None, typer.Option("--json-file", help="File for the document that --json prints, beside what is printed.")
]


def parse_fold(text: str) -> int | str:
    """What `FoldOption` says; whether there is such a fold is for the settings to check."""
    return int(text) if text.isdecimal() else text


def check_page_name(path: Path | None) -> None:
    """Refuse a page that would not open by a click.

    Raises:
        OutputError: If its name does not end in .html or .htm.
    """
    if path is not None and path.suffix.lower() not in _PAGE_SUFFIXES:
        msg = f"The page {path} would not open in a browser; expected a name ending in .html."
        raise OutputError(msg)
