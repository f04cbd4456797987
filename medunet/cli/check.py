"""``medunet check``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import (
    DataOption,
    JsonFileOption,
    JsonOption,
    MapOption,
    SplitsOption,
    TaskOption,
    check_page_name,
)
from medunet.cli.terminal import build_console, print_json
from medunet.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from medunet.checking import CaseFacts, DatasetReport
    from medunet.tasks import Dataset, Task

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def check(
    data: DataOption,
    task: TaskOption,
    mapping: MapOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML page with charts and a picture per case.")
    ] = None,
    as_json: JsonOption = False,
    json_file: JsonFileOption = None,
    splits: SplitsOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page and the JSON file.")] = False,
) -> None:
    """Examine a dataset before training: files, labels, sides, intensities, duplicates, outliers.

    The exit code is 1 when training would fail.
    """
    from medunet.checking import check_dataset
    from medunet.cli.case_progress import CaseProgress
    from medunet.device import count_workers
    from medunet.io import check_output, write_json_atomic, write_text_atomic
    from medunet.reporting.dataset_page import Thumbnails, render_dataset_page
    from medunet.tasks import load_task, parse_mapping, read_dataset

    recipe = load_task(task)
    dataset = read_dataset(data, mapping=parse_mapping(mapping or ()))
    check_page_name(output)
    own_files = [Path(task)] if splits is None else [Path(task), splits]
    for path in (output, json_file):
        if path is not None:
            check_output(path, [*_list_inputs(data, dataset), *own_files], overwrite=overwrite)
    if output is not None and output == json_file:
        msg = f"The page and the JSON file would both be written to {output}; give them different names."
        raise OutputError(msg)
    thumbnails = Thumbnails(recipe)
    with _quiet_warnings(), CaseProgress("reading", len(dataset.cases)) as progress:
        report = check_dataset(
            dataset,
            recipe,
            num_workers=count_workers(),
            splits=splits,
            on_case=progress.on_case,
            on_volumes=None if output is None else thumbnails,
        )
    content = report.model_dump(mode="json") | {"has_errors": report.has_errors}
    if json_file is not None:
        write_json_atomic(json_file, content)
    if output is not None:
        write_text_atomic(output, render_dataset_page(report, recipe, thumbnails))
    if as_json:
        print_json(content)
    else:
        _print(report, recipe, [path for path in (output, json_file) if path is not None])
    if report.has_errors:
        raise typer.Exit(1)


def _list_inputs(data: Path, dataset: Dataset) -> list[Path]:
    files = [path for case in dataset.cases for path in (*case.images, case.labels)]
    beside = [dataset.folder / name for name in ("dataset.json", "annotated.json")]
    return [data, *beside, *files]


@contextmanager
def _quiet_warnings() -> Iterator[None]:
    """What readers warn of is among the findings; lines between the bar and the table would say it twice."""
    handlers = logging.getLogger("medunet").handlers
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def _print(report: DatasetReport, task: Task, written: list[Path]) -> None:
    console = build_console()
    _print_cases(console, report, task)
    console.print()
    _print_labels(console, report, task)
    _print_findings(console, report)
    console.print()
    console.print(_summarize(report), style="bold", soft_wrap=True, highlight=False)
    for path in written:
        print(f"Written: {path}")


def _print_cases(console: Console, report: DatasetReport, task: Task) -> None:
    from rich.table import Table
    from rich.text import Text

    # It should fit 80 columns, which is what a log file gets.
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("case", overflow="fold", min_width=8)
    for name in ("size", "mm", "axes", "intensity", "labels"):
        table.add_column(name, no_wrap=True)
    for name in ("err", "warn", "note"):
        table.add_column(name, no_wrap=True, justify="right")
    for facts in report.cases:
        # Text, not str: an id may hold what rich would read as markup.
        table.add_row(Text(facts.case_id), *_describe(facts, task), *_count_findings(report, facts.case_id))
    console.print(table)


def _describe(facts: CaseFacts, task: Task) -> list[str]:
    grid = facts.grid
    geometry = ["-", "-", "-"]
    if grid is not None:
        geometry = ["x".join(map(str, grid.shape)), "x".join(f"{mm:.3g}" for mm in grid.spacing), grid.orientation]
    ranges = [f"{_say(channel.minimum)}..{_say(channel.maximum)}" for channel in facts.channels]
    labels = f"{len(facts.labels)}/{len(task.labels)}" if facts.is_usable else "-"
    return [*geometry, " ".join(ranges) or "-", labels]


def _say(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _count_findings(report: DatasetReport, case_id: str) -> list[str]:
    from medunet.checking import SEVERITIES

    found = [finding.severity for finding in report.list_findings(case_id)]
    return [str(found.count(severity) or "-") for severity in SEVERITIES]


def _print_labels(console: Console, report: DatasetReport, task: Task) -> None:
    import statistics

    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("label", overflow="fold")
    for name in ("values", "cases", "median ml", "smallest", "largest"):
        table.add_column(name, no_wrap=True, justify="right")
    for label, values in task.labels.items():
        volumes = [facts.labels[label].volume_ml for facts in report.cases if label in facts.labels]
        cells = (
            [f"{ml:.3g}" for ml in (statistics.median(volumes), min(volumes), max(volumes))] if volumes else ["-"] * 3
        )
        table.add_row(Text(label), ",".join(map(str, values)), f"{len(volumes)}/{report.num_usable}", *cells)
    console.print(table)


def _print_findings(console: Console, report: DatasetReport) -> None:
    from rich.text import Text

    for finding in report.findings:
        severity = Text(f"{finding.severity}: ", style=_STYLES[finding.severity])
        where = "" if finding.case_id is None else f"{finding.case_id}: "
        console.print(severity + Text(f"{where}{finding.text}"), soft_wrap=True)


def _summarize(report: DatasetReport) -> str:
    from medunet.checking import SEVERITIES

    counts = ", ".join(_count(report.count(severity), severity) for severity in SEVERITIES)
    if report.has_errors:
        verdict = "Training would fail: mend the errors first."
    elif report.count("warning"):
        verdict = "Training would run, and would learn what the warnings name."
    else:
        verdict = "Training can start."
    return f"{_count(len(report.cases), 'case')}: {counts}. {verdict}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
