"""Charts of a training: curves over its iterations, and the Dice of every case per label."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medunet.reporting.box_plot import Box, draw_boxes
from medunet.reporting.chart import BLUE, FAINT, LINE, ORANGE, build_chart, embed_chart, style_axes
from medunet.reporting.page import Picture
from medunet.reporting.palette import get_label_colours
from medunet.volume import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[str, Array]
"""Column of ``log.csv`` -> ``(N, 2)``: iteration and value, where there is one."""

_PANELS = (
    ("Loss", ("loss",), "log"),
    ("Dice: patches while training, watched cases", ("training_dice", "validation_dice"), "dice"),
    ("Learning rate", ("learning_rate",), "linear"),
    ("Waiting for data, share of the time", ("data_wait",), "share"),
    ("Seconds per iteration", ("seconds_per_iteration",), "from zero"),
)
_COLOURS = {"validation_dice": ORANGE}
_NAMES = {"training_dice": "patches (soft Dice)", "validation_dice": "watched cases"}
_MAX_POINTS = 1500  # more than a curve has pixels
MAX_STRIPS = 60


def read_curves(path: Path) -> Curves:
    """Every numeric column of a log, by its name; what is no number is passed over, a torn last line included.

    A run that was resumed may have repeated iterations; the later row counts.

    Returns:
        No curves when there is no log.
    """
    if not path.is_file():
        return {}
    curves: dict[str, dict[float, float]] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            iteration = _parse_number(row.get("iteration"))
            for name, text in row.items():
                value = _parse_number(text)
                if iteration is not None and value is not None:
                    curves.setdefault(name, {})[iteration] = value
    return {name: np.array(sorted(points.items())) for name, points in curves.items()}


def draw_curves(curves: Curves) -> Picture | None:
    """One panel per kind of number that the log holds, and how long an iteration took; None when it holds none."""
    curves = {**curves, **_compute_speed(curves)}
    panels = [(title, [name for name in names if name in curves], scale) for title, names, scale in _PANELS]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return None
    num_rows = -(-len(panels) // 2)
    figure = build_chart(10.0, 2.5 * num_rows)
    for place, (title, names, scale) in enumerate(panels, start=1):
        axes = figure.add_subplot(num_rows, 2, place)
        for name in names:
            _draw_curve(axes, curves[name], name)
        _set_scale(axes, scale, [curves[name][:, 1] for name in names])
        style_axes(axes, title)
        axes.set_xlabel("iteration", fontsize=8, color=FAINT)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        if len(names) > 1:
            axes.legend(fontsize=8, frameon=False, labelcolor=FAINT)
    shown = ", ".join(title for title, _, _ in panels)
    return embed_chart(figure, f"Curves over the iterations: {shown}.")


def draw_dice_strips(dices: Mapping[str, Sequence[float]]) -> Picture | None:
    """A row per label: a dot per case, a box from the lower to the upper quartile, a stroke at the median.

    Args:
        dices: Label -> Dice of the scored cases, all labels in the order of the task. Labels without a score have no
            row; of very many labels the worst are drawn.

    Returns:
        None when no label has a score.
    """
    colours = get_label_colours(dices)
    scored = [name for name, values in dices.items() if len(values)]
    worst = set(sorted(scored, key=lambda name: float(np.mean(dices[name])))[:MAX_STRIPS])
    shown = [name for name in scored if name in worst]
    more = f" The {MAX_STRIPS} worst of {len(scored)} labels." if len(scored) > len(shown) else ""
    boxes = [
        Box(name=name, values=dices[name], is_lost=[dice == 0 for dice in dices[name]], colour=colours[name])
        for name in shown
    ]
    return draw_boxes(boxes, "Dice per case", limits=(0.0, 1.0), note=more)


def _compute_speed(curves: Curves) -> Curves:
    """Seconds per iteration between two rows of the log; looks at validation cases count where they lie."""
    seconds = curves.get("seconds")
    if seconds is None or len(seconds) < 2:
        return {}
    steps = np.diff(seconds, axis=0)  # (rows - 1, 2): iterations and seconds
    return {"seconds_per_iteration": np.stack([seconds[1:, 0], steps[:, 1] / steps[:, 0]], axis=1)}


def _draw_curve(axes: Axes, points: Array, name: str) -> None:
    points = points[:: -(-len(points) // _MAX_POINTS)]
    marker = "o" if len(points) < 40 else ""
    axes.plot(
        *points.T,
        color=_COLOURS.get(name, BLUE),
        linewidth=1.2,
        marker=marker,
        markersize=2.5,
        label=_NAMES.get(name, name),
    )


def _set_scale(axes: Axes, scale: str, values: Sequence[Array]) -> None:
    lowest, highest = min(of_curve.min() for of_curve in values), max(of_curve.max() for of_curve in values)
    if scale == "dice":
        axes.set_ylim(0, 1)
    elif scale == "from zero":
        axes.set_ylim(0, 1.1 * highest if highest > 0 else 1)
    elif scale == "share":
        axes.set_ylim(0, max(0.1, 1.1 * highest))
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    elif scale == "log" and lowest > 0 and highest > 5 * lowest:
        axes.set_yscale("log", subs=(2, 5))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")


def _parse_number(text: object) -> float | None:
    """A finite number; rows with too few or too many cells hold None and lists."""
    try:
        number = float(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return number if number is not None and np.isfinite(number) else None
