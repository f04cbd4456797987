"""Charts show the numbers of the reports: the figures behind the pictures hold them as data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medunet.checking import CaseFacts, ChannelFacts, DatasetReport, GridFacts, LabelFacts
from medunet.evaluation import LabelScore, build_evaluation, compare_evaluations
from medunet.reporting import box_plot, comparison_chart, dataset_charts, score_charts
from medunet.reporting.chart import BLUE, RED, build_chart
from medunet.reporting.comparison_chart import draw_differences
from medunet.reporting.dataset_charts import draw_charts
from medunet.reporting.palette import get_label_colours
from medunet.reporting.score_charts import draw_metric
from medunet.tasks import Task

LABELS = ("liver", "spleen", "lesion")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures behind the charts."""
    figures: list[Any] = []

    def build(*size: float) -> Any:
        figures.append(build_chart(*size))
        return figures[-1]

    for module in (box_plot, comparison_chart, dataset_charts):
        monkeypatch.setattr(module, "build_chart", build)
    return figures


def score(case: int, label: str, dice: float | None, status: Any = "ok") -> LabelScore:
    return LabelScore(
        case_id=f"p{case}", label=label, dice=dice, status=status, reference_ml=1.0, prediction_ml=1.0, tp=1, fp=1, fn=1
    )


# ---- scores ------------------------------------------------------------------------------------------------------------


def test_a_box_plot_holds_every_case(drawn: list[Any]) -> None:
    dices = {"liver": [0.9, 0.8, 0.7, 0.85, 0.1], "spleen": [0.5, 0.6, 0.0]}
    scores = [score(n, label, dice) for label, of_label in dices.items() for n, dice in enumerate(of_label)]
    scores[-1] = score(2, "spleen", 0.0, "missed")
    scores += [score(0, "lesion", None, "both-empty")]
    picture = draw_metric(scores, "dice", LABELS)
    assert picture is not None
    (figure,) = drawn
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["liver", "spleen"]  # no case has a lesion
    assert axes.get_xlim() == (0, 1)
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [line.get_xdata().tolist() for line in dots] == [[0.9, 0.8, 0.7, 0.85, 0.1], [0.5, 0.6]]
    assert all(abs(line.get_ydata() - row).max() < 0.3 for row, line in enumerate(dots))
    colours = get_label_colours(LABELS)
    assert [line.get_color() for line in dots] == [colours["liver"], colours["spleen"]]
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert (cross.get_xdata().tolist(), cross.get_color()) == ([0.0], RED)
    medians = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "None"]
    assert medians == [0.8, 0.5]
    boxes = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches if bar.get_alpha() == 0.3]
    assert boxes == [pytest.approx(np.percentile(of_label, (25, 75))) for of_label in dices.values()]
    whiskers = [lines.get_segments()[0][:, 0].tolist() for lines in axes.collections]
    assert whiskers == [[0.7, 0.9], [0.0, 0.6]]  # 0.1 is more than 1.5 boxes below the lower quartile
    assert "Medians: liver 0.8; spleen 0.5." in picture.description


def test_of_many_labels_the_worst_are_drawn(drawn: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_charts, "MAX_LABELS", 2)
    scores = [score(0, label, dice) for label, dice in zip(LABELS, (0.5, 0.9, 0.4), strict=True)]
    picture = draw_metric(scores, "dice", LABELS)
    assert picture is not None
    assert picture.description.endswith("The 2 worst of 3 labels.")
    assert [text.get_text() for text in drawn[0].axes[0].get_yticklabels()] == ["liver", "lesion"]
    assert draw_metric(scores, "hd95_mm", LABELS) is None


def test_differences_are_drawn_with_their_intervals(drawn: list[Any]) -> None:
    """Of the liver the first set is better in every case, of the spleen now and then."""
    rng = np.random.default_rng(0)
    first = build_evaluation(
        score(n, label, 0.7 + 0.01 * float(rng.random())) for n in range(9) for label in ("liver", "spleen")
    )
    second = build_evaluation(
        score(n, label, 0.5 if label == "liver" else 0.7 + 0.01 * float(rng.random()))
        for n in range(9)
        for label in ("liver", "spleen")
    )
    comparison = compare_evaluations({"one": first, "two": second}, ["dice"])
    assert draw_differences(comparison).startswith(b"\x89PNG")
    ((axes,),) = (figure.axes for figure in drawn)
    assert [text.get_text() for text in axes.get_yticklabels()] == [row.label for row in comparison.differences]
    assert axes.get_xlabel() == "one less two: mean, 95 % interval"
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    intervals = [line.get_xydata().tolist() for line in axes.lines[1:] if line.get_marker() == "None"]
    assert len(dots) == len(intervals) == len(comparison.differences)
    for height, (row, dot, interval) in enumerate(zip(comparison.differences, dots, intervals, strict=True)):
        assert dot.get_xydata().tolist() == [[row.mean_difference, height]]
        assert interval == [[row.interval_low, height], [row.interval_high, height]]
        assert row.p_holm is not None
        assert dot.get_markerfacecolor() == (BLUE if row.p_holm < 0.05 else "white")
    assert {dot.get_markerfacecolor() for dot in dots} == {BLUE, "white"}


# ---- datasets ----------------------------------------------------------------------------------------------------------


def make_report(num_cases: int = 12) -> tuple[DatasetReport, Task]:
    """Cases with numbers drawn by chance; the last one has no spleen."""
    rng = np.random.default_rng(3)
    cases = []
    for n in range(num_cases):
        shape, spacing = (100 + n, 120, 40 + 2 * n), (0.8 + 0.01 * n, 0.9, 3.0 if n % 2 else 5.0)
        grid = GridFacts(shape=shape, spacing=spacing, orientation="RAS", ras_shape=shape, ras_spacing=spacing)
        low, median, high = sorted(rng.normal(100, 30, 3).tolist())
        channel = ChannelFacts(
            minimum=low - 1, percentile_00_5=low, median=median, percentile_99_5=high, maximum=high + 1,
            labelled_median=median + 5, share_negative=0.0, share_air=0.0, share_offset_tissue=0.0, sha256="",
        )  # fmt: skip
        labels = {}
        for label in ("liver", "spleen")[: 1 if n == num_cases - 1 else 2]:
            volume_ml = float(rng.lognormal(3 if label == "liver" else 1, 0.5))
            labels[label] = LabelFacts(
                num_voxels=9, volume_ml=volume_ml, centroid_mm=(0, 0, 0), num_parts=1, largest_part_voxels=9,
                num_islands=0, island_voxels=0, cropped_voxels=0, borders=(),
            )  # fmt: skip
        cases.append(CaseFacts(case_id=f"p{n}", grid=grid, channels=(channel,), labels=labels))
    task = Task(
        name="organs", title="", modality="MR", channels=("t1",), labels={"liver": [1], "spleen": [2]}, intensity="zscore"
    )  # fmt: skip
    return DatasetReport(dataset="d", layout="l", task=task.name, cases=tuple(cases), findings=()), task


def read_histogram(patch: Any) -> tuple[np.ndarray, np.ndarray]:
    values, edges, _ = patch.get_data()
    return np.asarray(values), np.asarray(edges)


def test_voxel_sizes_and_extents_are_counted(drawn: list[Any]) -> None:
    report, task = make_report()
    assert len(draw_charts(report, task)) == len(drawn) == 4
    grids = [facts.grid for facts in report.cases if facts.grid is not None]
    for figure, values in zip(
        drawn[:2], ([grid.ras_spacing for grid in grids], [grid.ras_extent_mm for grid in grids]), strict=True
    ):
        for axis, axes in enumerate(figure.axes):
            column = [of_case[axis] for of_case in values]
            counts, edges = read_histogram(axes.patches[0])
            assert counts.tolist() == np.histogram(column, bins=edges)[0].tolist()
            assert counts.sum() == len(column)
            assert f"median {np.median(column):.4g}" in axes.get_title(loc="right")


def test_intensities_are_counted_beside_a_line_per_case(drawn: list[Any]) -> None:
    report, task = make_report()
    channels = sorted((facts.channels[0] for facts in report.cases), key=lambda channel: channel.percentile_99_5)
    draw_charts(report, task)
    axes, beside = drawn[2].axes
    segments = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    assert segments == [[channel.percentile_00_5, channel.percentile_99_5] for channel in channels]
    medians = [channel.labelled_median for channel in channels]
    assert axes.lines[0].get_ydata().tolist() == medians
    counts, edges = read_histogram(beside.patches[0])
    assert counts.tolist() == np.histogram(medians, bins=edges)[0].tolist()
    assert counts.sum() == len(medians)
    assert beside.get_ylim() == axes.get_ylim()


def test_volumes_are_counted_per_label(drawn: list[Any]) -> None:
    report, task = make_report()
    draw_charts(report, task)
    (axes,) = drawn[3].axes
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["liver", "spleen"]
    for row, label in enumerate(task.labels):
        volumes = [facts.labels[label].volume_ml for facts in report.cases if label in facts.labels]
        assert len(volumes) == len(report.cases) - row
        tops, edges = read_histogram(axes.patches[row])
        counts = np.histogram(volumes, bins=edges)[0]
        assert counts.sum() == len(volumes)
        assert (row + 0.4 - tops) / 0.8 == pytest.approx(counts / counts.max())
        dots, stroke = axes.lines[2 * row : 2 * row + 2]
        assert dots.get_xdata().tolist() == volumes
        assert stroke.get_xdata() == pytest.approx([np.median(volumes)] * 2)


def test_without_labels_the_medians_of_all_voxels_are_counted(drawn: list[Any]) -> None:
    report, task = make_report(3)
    cases = tuple(
        facts.model_copy(
            update={
                "labels": {},
                "channels": (
                    facts.channels[0].model_copy(update={"labelled_median": None, "percentile_99_5": 10.0 ** (n + 3)}),
                ),
            }
        )
        for n, facts in enumerate(report.cases)
    )
    charts = draw_charts(report.model_copy(update={"cases": cases}), task)
    assert len(charts) == 3
    assert "a histogram of the medians of all voxels" in charts[2].description
    counts, _ = read_histogram(drawn[2].axes[1].patches[0])
    assert counts.sum() == 3
