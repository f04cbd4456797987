"""Paired differences between sets of masks as a picture: a dot per label and pair of sets, with its interval."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medunet.evaluation import METRICS, Comparison, PairedDifference
from medunet.reporting.chart import BLUE, FAINT, INK, LINE, build_chart, shorten, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW_INCHES = 0.28
_PANEL_INCHES = 3.2
_SURE = 0.05


def draw_differences(comparison: Comparison) -> bytes:
    """A panel per metric; what Holm's correction leaves below 0.05 is filled, the rest is hollow.

    Returns:
        A PNG; panels stand side by side, rows are labels, one below the other per pair of sets.
    """
    metrics = list(dict.fromkeys(row.metric for row in comparison.differences))
    rows_per_metric = {metric: [row for row in comparison.differences if row.metric == metric] for metric in metrics}
    num_rows = max(len(rows) for rows in rows_per_metric.values())
    row_inches = _ROW_INCHES if len(comparison.names) == 2 else 1.5 * _ROW_INCHES  # names of two lines
    figure = build_chart(2.4 + _PANEL_INCHES * len(metrics), 1.1 + row_inches * num_rows)
    for place, metric in enumerate(metrics, start=1):
        axes = figure.add_subplot(1, len(metrics), place)
        _draw_panel(axes, rows_per_metric[metric], comparison.names, is_named=place == 1)
        better = {"higher": "more is better", "lower": "less is better"}.get(METRICS[metric].better, "0 is best")
        style_axes(axes, f"{METRICS[metric].title} ({better})")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _draw_panel(axes: Axes, rows: list[PairedDifference], sets: Sequence[str], *, is_named: bool) -> None:
    axes.axvline(0, color=LINE, linewidth=1.2)
    for height, row in enumerate(rows):
        if row.mean_difference is None:
            continue
        if row.interval_low is not None and row.interval_high is not None:
            axes.plot([row.interval_low, row.interval_high], [height, height], color=BLUE, linewidth=1.6)
        is_sure = row.p_holm is not None and row.p_holm < _SURE
        axes.plot(
            [row.mean_difference], [height], "o", markersize=5, color=BLUE, markerfacecolor=BLUE if is_sure else "white"
        )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    is_pair = len(sets) == 2  # which is said once, below
    names = [shorten(row.label) + ("" if is_pair else f"\n{_say_pair(row.first, row.second)}") for row in rows]
    axes.set_yticks(range(len(rows)), names if is_named else [""] * len(rows), parse_math=False, color=INK)
    said = f"{_say_pair(*sets)}: " if is_pair else ""
    axes.set_xlabel(f"{said}mean, 95 % interval", fontsize=8, color=FAINT, parse_math=False)
    axes.grid(axis="x", color=LINE, linewidth=0.6)


def _say_pair(first: str, second: str) -> str:
    return f"{shorten(first)} less {shorten(second)}"
