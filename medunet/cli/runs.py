"""``medunet runs``, ``medunet runs show`` and ``medunet runs diff``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from medunet.cli.options import JsonOption
from medunet.cli.terminal import build_console, print_json, print_wide_table
from medunet.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from medunet.runs import CaseDifference, DocumentDifference, LabelDifference, Run, RunDifference, RunList

_SHOWN_CASES = 8
_UNKNOWN = "-"


class _ListByDefault(TyperGroup):
    """``medunet runs FOLDER`` is ``medunet runs list FOLDER``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "--help"):
            args = ["list", *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


app = typer.Typer(
    cls=_ListByDefault,
    help="List training runs, show one, or say what differs between two. `medunet runs FOLDER` lists those below a folder.",
)


@app.command("list")
def list_all(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="That holds runs; default: $MEDUNET_HOME or ./runs.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Only runs of this task.")] = None,
    sort: Annotated[str, typer.Option("--sort", help="date (newest first), dice (best first) or time.")] = "date",
    as_json: JsonOption = False,
) -> None:
    """List training runs: task, network, plan, budget, state, Dice, time."""
    from medunet.runs import list_runs

    if sort not in ("date", "dice", "time"):
        msg = f"There is no --sort {sort}; expected date, dice or time."
        raise InputError(msg)
    found = list_runs(folder, task=task, sort=sort)  # type: ignore[arg-type]  # just checked
    if as_json:
        print_json(found)
        return
    _print_list(found)


@app.command()
def show(run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")], as_json: JsonOption = False) -> None:
    """Show one run in detail."""
    from medunet.runs import read_run

    found = read_run(run)
    if as_json:
        print_json(found)
        return
    table = _start_table([], [], ["", ""])
    for name, value in _list_facts(found):
        table.add_row(_plain(name), _plain(value))
    build_console().print(table)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="Run folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    as_json: JsonOption = False,
) -> None:
    """Say what differs between two runs: settings, plan, task, versions, cases, and the Dice of every label."""
    from medunet.runs import compare_runs

    found = compare_runs(first, second)
    if as_json:
        print_json(found)
        return
    _print_difference(found)


def _print_list(found: RunList) -> None:
    console = build_console()
    if not found.runs:
        console.print(_plain(f"No runs in {found.folder}."), soft_wrap=True)
    else:
        print_wide_table(console, [_list_cells(run, found.folder) for run in found.runs])
    for damaged in found.damaged:
        console.print(_plain(f"warning: {damaged.reason}"), soft_wrap=True)


def _list_cells(run: Run, folder: Path) -> dict[str, str]:
    """Heading -> cell; what a narrow terminal has no room for comes last."""
    from medunet.cli.durations import format_duration

    return {
        "run": str(run.folder.relative_to(folder)) if run.folder != folder else run.name,
        "state": run.state,
        "task": run.task or _UNKNOWN,
        "Dice": _format_dice(run.mean_dice) if run.mean_dice is not None else _format_look(run),
        "cases": _UNKNOWN if run.mean_dice is None else str(run.num_cases),
        "budget": run.budget or _UNKNOWN,
        "time": format_duration(run.seconds),
        "patch": _join(run.patch_size),
        "mm": _join(run.spacing),
        "channels": _UNKNOWN if run.features is None else "–".join(map(str, run.features)),
        "network": " ".join(filter(None, (run.configuration, run.network))) or _UNKNOWN,
        "fold": _UNKNOWN if run.fold is None else str(run.fold),
        "iterations": str(run.num_iterations),
        "95 % interval": _format_interval(run.interval_low, run.interval_high),
        "when": _format_when(run.when),
        "device": _shorten_device(run.device),
    }


def _list_facts(run: Run) -> Iterable[tuple[str, str]]:
    from medunet.cli.durations import format_duration

    yield "folder", str(run.folder)
    yield "state", run.state if run.holder is None else f"running: process {run.holder.process} on {run.holder.host}"
    if run.reason is not None:
        yield "failed because", run.reason
    yield "task", run.task or _UNKNOWN
    yield "network", " ".join(filter(None, (run.configuration, run.network))) or _UNKNOWN
    yield "patch", f"{_join(run.patch_size)} voxels of {_join(run.spacing)} mm"
    yield "channels", _UNKNOWN if run.features is None else " to ".join(map(str, run.features))
    yield "fold", _UNKNOWN if run.fold is None else str(run.fold)
    yield "networks", f"{run.num_networks} finished"
    yield "dataset", f"{run.dataset or _UNKNOWN}{' (synthetic)' if run.is_synthetic else ''}"
    yield "budget", run.budget or _UNKNOWN
    yield "done", f"{run.num_iterations} iterations in {format_duration(run.seconds)} min"
    interval = _format_interval(run.interval_low, run.interval_high)
    yield "mean Dice", f"{_format_dice(run.mean_dice)} (95 % interval {interval}, {run.num_cases} cases)"
    if run.watched_dice is not None:
        yield "last look", f"Dice {run.watched_dice:.3f} on a few validation cases"
    yield "device", run.device or _UNKNOWN
    yield "medunet", run.medunet_version or _UNKNOWN
    yield "last change", _format_when(run.when)


def _print_difference(found: RunDifference) -> None:
    console = build_console()
    console.print(
        _plain(f"A: {found.first.folder} ({found.first.state})\nB: {found.second.folder} ({found.second.state})")
    )
    for title, rows in (
        ("Settings", found.settings),
        ("Plan", found.plan),
        ("Task", found.task),
        ("Versions", found.versions),
    ):
        console.print()
        if not rows:
            console.print(_plain(f"{title}: no difference"))
            continue
        console.print(_build_document_table(title, rows))
    console.print()
    for line in _describe_cases(found.cases):
        console.print(_plain(line), soft_wrap=True)
    console.print()
    if found.labels:
        console.print(_build_label_table(found.labels))
        console.print(
            _plain("Differences are B less A, paired over the cases that both validated; p by Wilcoxon, Holm.")
        )
    else:
        console.print(_plain("Dice: neither run has scores."))


def _build_document_table(title: str, rows: Iterable[DocumentDifference]) -> Table:
    from medunet.runs.documents import format_value

    table = _start_table([], [], [title, "A", "B"])
    for row in rows:
        table.add_row(_plain(row.path), _plain(format_value(row.first)), _plain(format_value(row.second)))
    return table


def _build_label_table(rows: Iterable[LabelDifference]) -> Table:
    table = _start_table(["Dice"], ["A", "cases", "B", "cases", "B less A", "95 % interval", "pairs", "p"], [])
    for row in rows:
        pair = row.paired
        difference = [_UNKNOWN, _UNKNOWN, "0", _UNKNOWN]
        if pair is not None and pair.mean_difference is not None:
            p_value = _UNKNOWN if pair.p_holm is None else "< 0.001" if pair.p_holm < 0.001 else f"{pair.p_holm:.3f}"
            interval = _format_interval(pair.interval_low, pair.interval_high, joint=" to ", sign="+")
            difference = [f"{pair.mean_difference:+.3f}", interval, str(pair.num_cases), p_value]
        table.add_row(
            _plain(row.label),
            _format_dice(row.first_mean),
            str(row.first_cases),
            _format_dice(row.second_mean),
            str(row.second_cases),
            *difference,
        )
    return table


def _describe_cases(cases: CaseDifference | None) -> Iterable[str]:
    if cases is None:
        yield "Cases: not known, because one of the runs has saved nothing yet."
        return
    yield f"Cases: {cases.num_shared} in both"
    for what, ids in (
        ("only in A", cases.only_first),
        ("only in B", cases.only_second),
        ("learnt from in one, only validated in the other", cases.other_role),
        ("with other voxels or labels", cases.other_content or ()),
    ):
        if ids:
            rest = f" and {len(ids) - _SHOWN_CASES} more" if len(ids) > _SHOWN_CASES else ""
            yield f"  {len(ids)} {what}: {', '.join(ids[:_SHOWN_CASES])}{rest}"
    if not cases.num_shared:
        return
    if cases.other_content is None:
        yield "  Whether the shared ones have the same voxels and labels is not known."
    elif not cases.other_content:
        yield "  Those of which both kept a checksum have the same voxels and labels."


def _start_table(names: list[str], numbers: list[str], others: list[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_header=any((*names, *numbers, *others)))
    for heading in names:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right")
    for heading in others:
        table.add_column(heading, overflow="fold")
    return table


def _plain(text: str) -> Any:
    """Text, not str: a name may hold what rich would read as markup."""
    from rich.text import Text

    return Text(text)


def _join(values: tuple[float, ...] | None) -> str:
    return _UNKNOWN if values is None else "x".join(f"{value:.3g}" for value in values)


def _format_dice(dice: float | None) -> str:
    return _UNKNOWN if dice is None else f"{dice:.3f}"


def _format_look(run: Run) -> str:
    return _UNKNOWN if run.watched_dice is None else f"({run.watched_dice:.3f})"


def _format_interval(low: float | None, high: float | None, *, joint: str = "–", sign: str = "") -> str:
    if low is None or high is None:
        return _UNKNOWN
    return f"{low:{sign}.3f}{joint}{high:{sign}.3f}"


def _shorten_device(device: str | None) -> str:
    """Without the number of threads, which a table has no room for."""
    return _UNKNOWN if device is None else device.split(" (")[0]


def _format_when(when: str) -> str:
    """In the time of this machine."""
    import datetime

    try:
        return datetime.datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return when
