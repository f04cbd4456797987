"""Box plots in which every case can be seen: a dot per case, a box from quartile to quartile, a stroke at the median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medunet.reporting.chart import FAINT, INK, LINE, RED, build_chart, embed_chart, shorten, style_axes
from medunet.reporting.page import Picture
from medunet.reporting.palette import Colour
from medunet.volume import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW_INCHES = 0.26
_WHISKER = 1.5  # interquartile ranges, after Tukey


@dataclass(frozen=True, kw_only=True)
class Box:
    """One row.

    Attributes:
        name: Beside the axis.
        values: One per case, at least one.
        is_lost: Whether the structure of a case was missed or invented, whose value is the worst there is.
        colour: Of the label.
    """

    name: str
    values: Sequence[float]
    is_lost: Sequence[bool]
    colour: Colour


def draw_boxes(
    boxes: Sequence[Box], title: str, *, limits: tuple[float, float] | None = None, note: str = ""
) -> Picture | None:
    """A row per label; lost cases are red crosses.

    Args:
        boxes: From top to bottom.
        title: Of the chart; also begins the description for readers who do not see it.
        limits: Of the axis; None ends it at the largest value of a case that is not lost, and puts the crosses there.
        note: What the description ends with.

    Returns:
        None without a box.
    """
    if not boxes:
        return None
    limits = limits or (0.0, _find_limit(boxes))
    figure = build_chart(8.0, 0.9 + _ROW_INCHES * max(2, len(boxes)))
    axes = figure.add_subplot()
    jitter = np.random.default_rng(0)
    for row, box in enumerate(boxes):
        values = np.clip(np.asarray(box.values, dtype=np.float64), *limits)
        _draw_box(axes, row, values, box.colour)
        heights = row + jitter.uniform(-0.24, 0.24, len(values))
        is_lost = np.asarray(box.is_lost, dtype=bool)
        axes.plot(
            values[~is_lost],
            heights[~is_lost],
            ".",
            color=box.colour,
            markersize=4,
            markeredgecolor=INK,
            markeredgewidth=0.2,
            clip_on=False,
            zorder=3,
        )
        if is_lost.any():
            axes.plot(values[is_lost], heights[is_lost], "x", color=RED, markersize=5, clip_on=False)
    axes.set_yticks(range(len(boxes)), [shorten(box.name) for box in boxes], parse_math=False)
    axes.set_ylim(max(2, len(boxes)) - 0.4, -0.6)
    axes.set_xlim(*limits)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    style_axes(axes, title)
    medians = "; ".join(f"{box.name} {np.median(box.values):.4g}" for box in boxes)
    return embed_chart(
        figure,
        f"{title}: a dot per case, a box from quartile to quartile, a stroke at the median. Medians: {medians}.{note}",
    )


def _draw_box(axes: Axes, row: int, values: Array, colour: Colour) -> None:
    low, median, high = np.percentile(values, (25, 50, 75))
    reach = _WHISKER * (high - low)
    inside = values[(values >= low - reach) & (values <= high + reach)]
    axes.hlines(row, inside.min(), inside.max(), colors=FAINT, linewidth=0.8, zorder=1)
    axes.barh(
        row, high - low, left=low, height=0.62, color="white", linewidth=0, zorder=1
    )  # the whisker ends at the box
    axes.barh(row, high - low, left=low, height=0.62, color=colour, alpha=0.3, linewidth=0)
    axes.plot([median, median], [row - 0.36, row + 0.36], color=INK, linewidth=1.4)


def _find_limit(boxes: Sequence[Box]) -> float:
    kept = [value for box in boxes for value, lost in zip(box.values, box.is_lost, strict=True) if not lost]
    largest = max(kept) if kept else max(value for box in boxes for value in box.values)
    return 1.05 * largest if largest > 0 else 1.0
