"""``medunet select``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import DeviceOption, JsonOption, MapOption
from medunet.cli.terminal import build_console, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from medunet.training.candidates import Candidate
    from medunet.training.selection import Selection

_MAX_LABEL_COLUMNS = 4
"""More would not fit a terminal; ``metrics.json`` holds them all."""


def select(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Two or more run folders of `medunet train --fold cv`.", metavar="RUN"),
    ],
    data: Annotated[Path, typer.Option("--data", "-d", help="Dataset that the runs learnt from.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model that is put together.")],
    mapping: MapOption = None,
    ensembles: Annotated[
        bool, typer.Option("--ensembles/--no-ensembles", help="Whether pairs of runs are tried too.")
    ] = True,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare cross-validations, and pairs of them as ensembles, and write the best as a model."""
    from medunet.cli.progress import ConsoleObserver
    from medunet.training.selection import select as select_best

    with ConsoleObserver(stderr=as_json) as observer:
        selection = select_best(
            runs,
            data,
            output=output,
            mapping=mapping or (),
            ensembles=ensembles,
            device=device,
            observer=observer,
        )
    if as_json:
        print_json(_describe(selection))
        return
    console = build_console()
    console.print(_build_table(selection))
    num_failed = len(selection.best.validation.failures)
    if num_failed:
        console.print(f"{num_failed} case(s) could not be scored and are in no mean; metrics.json says why.")
    console.print(f"Best: {selection.best.name}: {selection.reason}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"Model: {selection.folder}", soft_wrap=True, markup=False, highlight=False)
    use = f"Use it: medunet infer scan.nii.gz -o mask.nii.gz --model {selection.folder}"
    console.print(use, soft_wrap=True, markup=False, highlight=False)


def _describe(selection: Selection) -> dict[str, object]:
    """What ``metrics.json`` says of the candidates, and which was taken."""
    from medunet.models import read_records

    metrics = read_records(selection.folder).metrics
    return {
        "model": selection.folder,
        "best": selection.best.name,
        "reason": selection.reason,
        "mean_dice": selection.best.mean_dice,
        "candidates": metrics["candidates"],
        "failed": metrics["failed"],
    }


def _build_table(selection: Selection) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    labels = list(selection.task.labels)
    shown = labels if len(labels) <= _MAX_LABEL_COLUMNS else []
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("candidate")
    for heading in ("networks", "mean Dice", "95 % interval", "cases", *shown):
        table.add_column(Text(heading), justify="right")
    for candidate in selection.candidates:
        means = {summary.label: summary.mean for summary in candidate.validation.summaries}
        table.add_row(
            Text(candidate.name),
            str(candidate.num_networks),
            _format_dice(candidate.mean_dice, digits=4),
            _format_interval(candidate),
            str(candidate.validation.num_scored_cases),
            *[_format_dice(means.get(label), digits=3) for label in shown],
            style="bold" if candidate is selection.best else None,
        )
    return table


def _format_interval(candidate: Candidate) -> str:
    interval = candidate.compute_interval()
    return "-" if interval is None else "–".join(_format_dice(edge, digits=3) for edge in interval)


def _format_dice(dice: float | None, *, digits: int) -> str:
    return "-" if dice is None else f"{dice:.{digits}f}"
