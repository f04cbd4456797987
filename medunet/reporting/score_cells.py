"""Scores as cells of a table on a page: what metrics look like, and what is set off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medunet.evaluation import METRICS, LabelScore, MetricSummary
from medunet.reporting.page import UNDEFINED, Cell, Table, number_cell
from medunet.reporting.palette import Colour, to_hex

POOR_DICE = 0.5
"""Below it a Dice is set off."""
_COMPUTED = ("specificity", "accuracy")  # which a missed structure does not make the worst there is
SUMMARY_HEADINGS = (
    "mean",
    "95 % interval",
    "median",
    "quartiles",
    "cases",
    "missed",
    "invented",
    "neither has it",
    "worst case",
)


def label_cell(name: str, colours: Mapping[str, Colour]) -> Cell:
    """A label with its colour."""
    return Cell(text=name, order=name, swatch=to_hex(colours[name]) if name in colours else "")


def metric_cell(metric: str, value: float | None) -> Cell:
    """A value with the digits that its metric deserves; it sorts by all of them."""
    tone = "bad" if metric == "dice" and value is not None and value < POOR_DICE else "plain"
    return number_cell(value, count_digits(metric), tone=tone)  # type: ignore[arg-type]


def count_digits(metric: str) -> int:
    """Three for shares, two for millimetres and millilitres."""
    return 3 if METRICS[metric].better == "higher" else 2


def range_cell(metric: str, low: float | None, high: float | None) -> Cell:
    """Two ends; sorts by the lower one."""
    if low is None or high is None:
        return Cell(text=UNDEFINED)
    digits = count_digits(metric)
    joint = " to " if low < 0 else "–"  # a dash between minus signs is hard to read
    return Cell(text=f"{low:.{digits}f}{joint}{high:.{digits}f}", order=low)


def count_cell(number: int, *, is_fault: bool = False) -> Cell:
    """A number of cases; faults are set off where there are any."""
    return Cell(text=str(number), order=number, tone="bad" if is_fault and number else "plain")


def build_summary_cells(summary: MetricSummary, anchors: dict[str, str]) -> list[Cell | str]:
    """The cells below `SUMMARY_HEADINGS`.

    Args:
        summary: Of one label and metric.
        anchors: Case id -> where the page shows the case.
    """
    worst = summary.worst_cases[0] if summary.worst_cases else UNDEFINED
    return [
        metric_cell(summary.metric, summary.mean),
        range_cell(summary.metric, summary.interval_low, summary.interval_high),
        metric_cell(summary.metric, summary.median),
        range_cell(summary.metric, summary.lower_quartile, summary.upper_quartile),
        count_cell(summary.num_scored),
        count_cell(summary.num_missed, is_fault=True),
        count_cell(summary.num_invented, is_fault=True),
        count_cell(summary.num_both_empty),
        Cell(text=worst, order=worst, anchor=anchors.get(worst, "")),
    ]


def score_cell(score: LabelScore | None) -> Cell:
    """The Dice of a case and label, or what became of the structure."""
    if score is None or score.dice is None:
        return number_cell(None, tone="faint")
    if score.status in ("missed", "invented"):
        return Cell(text=score.status, order=0.0, tone="bad")
    return metric_cell("dice", score.dice)


def build_empty_sides_table(metrics: Sequence[str]) -> Table:
    """What counts where a side is empty: of the metrics on the page."""
    rows = []
    for name in metrics:
        metric = METRICS[name]
        is_distance = name.endswith("_mm")
        is_share_of_structure = metric.better == "higher" and name not in _COMPUTED
        lost = "diagonal of the image" if is_distance else "0" if is_share_of_structure else "computed"
        rows.append([metric.title, lost, lost, "not counted"])
    return Table(headings=["metric", "missed: only the reference", "invented: only the mask", "neither"], rows=rows)
