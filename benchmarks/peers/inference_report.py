"""Tables and picture of ``bench_inference.py``."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_COLORS = {"medunet": "#0072B2", "medunet, equal": "#56B4E9", "nnU-Net": "#D55E00", "MONAI": "#7a7f85"}
_MAX_WIDTH = 150


@dataclass(frozen=True)
class DrawnRow:
    """What `draw` shows of one tool on one scan, read from a table; empty and None where nothing was measured.

    Attributes:
        whole: Median of the seconds of whole processes.
        peak_gib: The largest of them.
        warm: Median of the seconds of scans after the first in a process.
        floor: Seconds that the passes through the network alone take.
    """

    whole: Sequence[float]
    peak_gib: float | None
    warm: Sequence[float]
    floor: float | None


@dataclass(frozen=True)
class Goal:
    """A figure and what it should be.

    Attributes:
        name: Of the figure.
        found: As measured.
        wanted: The bound.
        relation: ``"<="`` or ``">="``.
        note: What else is to be known.
    """

    name: str
    found: float
    wanted: float
    relation: str
    note: str = ""

    @property
    def is_reached(self) -> bool:
        """Whether the figure keeps the bound; what was not measured does not.

        Example:
            >>> Goal("time", 1.1, 1.15, "<=").is_reached, Goal("ratio", float("nan"), 3, ">=").is_reached
            (True, False)
        """
        return self.found <= self.wanted if self.relation == "<=" else self.found >= self.wanted


def print_tables(rows: Mapping[tuple[str, int, str], Any], masks: Mapping[str, str], goals: Sequence[Goal]) -> None:
    """Print what was measured, how the masks compare, and which goals are reached."""
    console = Console(width=_MAX_WIDTH, highlight=False)
    table = Table(title="Seconds: medians, with the number of measurements in brackets")
    for name in ("scan", "classes", "tool"):
        table.add_column(name)
    for name in ("whole", "GiB", "warm", "GiB warm", "floor", "warm / floor", "patches x pass"):
        table.add_column(name, justify="right")
    table.add_column("stages, warm")
    for (scan, num_classes, way), row in rows.items():
        floor = row.floor
        ratio = f"{statistics.median(row.warm) / floor:.2f}" if row.warm and floor else ""
        passes = f"{row.patches} x {row.pass_seconds:.3f}" if row.pass_seconds else ""
        stages = "  ".join(f"{name} {seconds:.2f}" for name, seconds in row.stages.items())
        precision = row.about.get("computed by") or row.about.get("precision")
        last = "; ".join([*([stages] if stages else []), *([precision] if precision else []), *row.faults])
        peak, warm_peak = (f"{gib:.2f}" if gib else "" for gib in (row.peak_gib, row.warm_peak_gib))
        whole, warm = _describe(row.whole), _describe(row.warm)
        figures = [whole, peak, warm, warm_peak, f"{floor:.2f}" if floor else "", ratio, passes]
        table.add_row(scan, str(num_classes), way, *figures, last)
    console.print(table)
    for name, text in masks.items():
        console.print(f"masks, {name}: {text}")
    table = Table(title="Goals")
    table.add_column("figure")
    table.add_column("found", justify="right")
    table.add_column("goal", justify="right")
    table.add_column("reached")
    table.add_column("note")
    for goal in goals:
        wanted = f"{goal.relation} {goal.wanted:.2f}"
        table.add_row(goal.name, f"{goal.found:.2f}", wanted, "yes" if goal.is_reached else "no", goal.note)
    console.print(table)


def read_rows(path: Path) -> dict[tuple[str, int, str], DrawnRow]:
    """The rows of ``inference.csv``, by scan, number of classes and tool, in the order of the file."""
    with path.open(newline="", encoding="utf-8") as file:
        return {
            (line["scan"], int(line["classes"]), line["tool"]): DrawnRow(
                whole=[float(line["whole_s"])] if line["whole_s"] else [],
                peak_gib=float(line["peak_gib"]) if line["peak_gib"] else None,
                warm=[float(line["warm_s"])] if line["warm_s"] else [],
                floor=float(line["floor_s"]) if line["floor_s"] else None,
            )
            for line in csv.DictReader(file)
        }


def draw(rows: Mapping[tuple[str, int, str], Any], path: Path) -> None:
    """Bars: seconds of whole processes, their peak memory, and warm seconds beside the floor."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    places = list(dict.fromkeys((scan, number) for scan, number, _ in rows))
    ways = list(dict.fromkeys(way for _, _, way in rows))
    panels = (
        ("whole process, s", lambda row: statistics.median(row.whole) if row.whole else None),
        ("peak memory, GiB", lambda row: row.peak_gib or None),
        ("warm scan, s; line: floor", lambda row: statistics.median(row.warm) if row.warm else None),
    )
    figure, all_axes = pyplot.subplots(
        1, len(panels), figsize=(12, 1.2 + 0.22 * len(places) * (len(ways) + 1)), sharey=True, layout="constrained"
    )
    height = 0.8 / len(ways)
    for axes, (title, measure) in zip(all_axes, panels, strict=True):
        for index, way in enumerate(ways):
            for position, place in enumerate(places):
                row = rows.get((*place, way))
                value = measure(row) if row else None
                if value is None:
                    continue
                y = position + (index - (len(ways) - 1) / 2) * height
                axes.barh(y, value, height, color=_COLORS.get(way, "black"))
                was_stopped = title.startswith("peak") and not row.whole
                end = value
                if title.startswith("warm") and row.floor:
                    axes.plot([row.floor] * 2, [y - height / 2, y + height / 2], color="black", linewidth=1.5)
                    end = max(value, row.floor)
                axes.annotate(f" {'> ' * was_stopped}{value:.3g}", (end, y), va="center", fontsize=7)
        axes.set_title(title, loc="left", fontsize=9)
        axes.margins(x=0.15)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_yticks(range(len(places)), [f"{scan}\n{number} classes" for scan, number in places])
    all_axes[0].invert_yaxis()
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=_COLORS.get(way, "black")) for way in ways]
    figure.legend(handles, ways, loc="outside lower center", ncols=len(ways), fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _describe(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({len(seconds)})" if seconds else ""
