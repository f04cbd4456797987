"""Distributions of a dataset as small charts: histograms of voxel sizes, extents, intensities and label volumes.

Beside the histograms of intensities and volumes every case is one mark, so that the one case that differs can be seen; a
histogram of five hundred hides it in a bar of height one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medunet.checking import CaseFacts, DatasetReport
from medunet.reporting.chart import BLUE, FAINT, INK, LINE, build_chart, embed_chart, shorten, style_axes
from medunet.reporting.page import Picture
from medunet.reporting.palette import get_label_colours
from medunet.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_INCHES = 5.4
_AXES = ("left-right", "posterior-anterior", "inferior-superior")
_NUM_BINS = 24
_WIDE_RATIO = 20.0  # from here on a linear scale shows a line along the axis
_MAX_LABELS = 30


def draw_charts(report: DatasetReport, task: Task) -> list[Picture]:
    """The charts for which there are data; none where no image can be read."""
    readable = [facts for facts in report.cases if facts.grid is not None and facts.channels]
    if not readable:
        return []
    grids = [facts.grid for facts in readable if facts.grid is not None]
    charts = [
        _draw_axes_chart("Voxel size, mm", [grid.ras_spacing for grid in grids]),
        _draw_axes_chart("Size of the image, mm", [grid.ras_extent_mm for grid in grids]),
    ]
    charts += [_draw_intensities(readable, index, name) for index, name in enumerate(task.channels)]
    volumes = {
        label: [facts.labels[label].volume_ml for facts in readable if label in facts.labels] for label in task.labels
    }
    held = {label: of_label for label, of_label in volumes.items() if of_label}
    return charts + ([_draw_volumes(held, task)] if held else [])


def _draw_axes_chart(title: str, values: Sequence[Sequence[float]]) -> Picture:
    """A histogram per anatomical axis, one below the other, on one scale."""
    figure = build_chart(_WIDTH_INCHES, 2.6)
    columns = np.array(values, dtype=np.float64)  # (cases, 3)
    low, high = float(columns.min()), float(columns.max())
    room = max(0.05 * (high - low), 0.05 * high)
    bins = np.linspace(max(0.0, low - room), high + room, _NUM_BINS + 1)
    for axis, name in enumerate(_AXES):
        axes = figure.add_subplot(3, 1, axis + 1)
        counts, edges = np.histogram(columns[:, axis], bins=bins)
        axes.stairs(counts, edges, fill=True, color=BLUE)
        axes.set_xlim(bins[0], bins[-1])
        axes.set_ylim(0, 1.15 * int(counts.max()))
        axes.set_yticks([int(counts.max())])
        median = float(np.median(columns[:, axis]))
        axes.set_title(f"{name}, median {median:.4g}", fontsize=8, color=FAINT, loc="right", pad=2)
        style_axes(axes)
        if axis < 2:
            axes.set_xticklabels([])
    return _finish(figure, title, f"{title}: cases per bin, along each axis of the patient.")


def _draw_intensities(cases: Sequence[CaseFacts], index: int, name: str) -> Picture:
    """A vertical line per case from the 0.5th to the 99.5th percentile, with a dot at the median of what is labelled.

    The histogram beside counts cases by these medians, or by those of all voxels where no case has a label.
    """
    channels = [facts.channels[index] for facts in cases if index < len(facts.channels)]
    channels.sort(key=lambda channel: (channel.percentile_99_5, channel.median))
    figure = build_chart(_WIDTH_INCHES, 2.6)
    grid = figure.add_gridspec(1, 2, width_ratios=(4, 1))
    axes = figure.add_subplot(grid[0])
    places = range(1, len(channels) + 1)
    low = [channel.percentile_00_5 for channel in channels]
    high = [channel.percentile_99_5 for channel in channels]
    axes.vlines(places, low, high, colors=BLUE, linewidth=max(0.6, min(4.0, 160 / len(channels))), alpha=0.45)
    medians = [(place, channel.labelled_median) for place, channel in zip(places, channels, strict=True)]
    known = [(place, median) for place, median in medians if median is not None]
    axes.plot([place for place, _ in known], [median for _, median in known], ".", color=INK, markersize=3)
    if max(high) > _WIDE_RATIO * float(np.median(high)) > 0:
        axes.set_yscale("symlog", linthresh=max(1e-6, min(map(abs, high))))
    axes.set_xlabel("cases, by their 99.5th percentile", fontsize=8, color=FAINT)
    axes.set_xlim(0, len(channels) + 1)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    style_axes(axes)
    counted = [median for _, median in known] or [channel.median for channel in channels]
    _draw_beside(axes, figure.add_subplot(grid[1], sharey=axes), counted)
    title = f"Intensity, {shorten(name)}"
    return _finish(
        figure,
        title,
        f"{title}: per case the range from the 0.5th to the 99.5th percentile, and the median of the labels; beside it "
        f"a histogram of the medians{'' if known else ' of all voxels'}.",
    )


def _draw_beside(axes: Axes, beside: Axes, values: Sequence[float]) -> None:
    """A histogram along the vertical axis of a chart, whose scale may be logarithmic: bars are equally high as drawn."""
    scale = axes.yaxis.get_transform()
    low, high = scale.transform(axes.get_ylim())
    edges = scale.inverted().transform(np.linspace(low, high, _NUM_BINS + 1))
    counts, _ = np.histogram(values, bins=edges)
    beside.stairs(counts, edges, orientation="horizontal", fill=True, color=BLUE)
    beside.set_xlim(0, 1.15 * max(1, int(counts.max())))
    beside.set_xticks([int(counts.max())])
    beside.set_xlabel("cases", fontsize=8, color=FAINT)
    beside.tick_params(labelleft=False)
    style_axes(beside)


def _draw_volumes(volumes: Mapping[str, Sequence[float]], task: Task) -> Picture:
    """A histogram per label on a logarithmic scale that all share, with a dot per case and a stroke at the median."""
    from matplotlib.ticker import LogLocator, NullFormatter

    shown = list(volumes)[:_MAX_LABELS]
    colours = get_label_colours(task.labels)
    figure = build_chart(_WIDTH_INCHES, max(2.6, 0.22 * len(shown) + 0.9))
    axes = figure.add_subplot()
    jitter = np.random.default_rng(0)
    everything = np.concatenate([volumes[label] for label in shown])
    bins = np.geomspace(0.9 * everything.min(), 1.1 * everything.max(), _NUM_BINS + 1)
    for row, label in enumerate(shown):
        counts, _ = np.histogram(volumes[label], bins=bins)
        # Rows run downwards: a bar stands on the lower edge of its row, the highest one fills the row.
        axes.stairs(
            row + 0.4 - 0.8 * counts / counts.max(),
            bins,
            baseline=row + 0.4,
            fill=True,
            color=colours[label],
            alpha=0.3,
        )
        heights = row + jitter.uniform(-0.28, 0.28, len(volumes[label]))
        axes.plot(volumes[label], heights, ".", color=colours[label], markersize=3.5, alpha=0.8)
        axes.plot([float(np.median(volumes[label]))] * 2, [row - 0.4, row + 0.4], color=INK, linewidth=1.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda ml, _: f"{ml:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(shown)), [shorten(label) for label in shown], parse_math=False)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    style_axes(axes)
    more = f" The first {_MAX_LABELS} of {len(volumes)} labels." if len(volumes) > _MAX_LABELS else ""
    title = "Label volume, ml"
    return _finish(figure, title, f"{title}: a histogram per label, a dot per case, a stroke at the median.{more}")


def _finish(figure: Figure, title: str, caption: str) -> Picture:
    figure.suptitle(title, x=0.02, ha="left", fontsize=9.5, color=INK, weight="bold", parse_math=False)
    return embed_chart(figure, caption)
