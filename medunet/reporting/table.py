"""Tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medunet.evaluation import Evaluation, Summary

if TYPE_CHECKING:
    from rich.table import Table

_UNDEFINED = "-"


def build_dice_table(evaluation: Evaluation) -> Table:
    """Dice per label with the interval of the mean, its cases, and how often the label was missed or invented.

    The last row is the mean over labels of their means, with the cases of which a label was scored. A label that no case
    has shows "-" and is in no mean; cases where neither side has a label stand under "empty" where there are any.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # No vertical lines and short headings: it must fit 80 columns, which is what a log file gets.
    has_empty = any(summary.num_both_empty for summary in evaluation.summaries)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=has_empty)
    table.add_column("label", no_wrap=True)
    for heading in ("Dice", "95 % interval", "median", "cases", *["empty"] * has_empty, "missed", "invented"):
        table.add_column(heading, justify="right")
    for summary in evaluation.summaries:
        # Text, not str: a label name may hold what rich would read as markup.
        table.add_row(Text(summary.label), *_format_summary(summary, with_empty=has_empty))
    table.add_section()
    counts = _count_cases(evaluation, with_empty=has_empty)
    table.add_row("mean", _format_dice(evaluation.mean_dice), "", "", *counts, style="bold")
    return table


def _format_summary(summary: Summary, *, with_empty: bool) -> list[str]:
    interval = _UNDEFINED
    if summary.interval_low is not None:
        interval = f"{_format_dice(summary.interval_low)}–{_format_dice(summary.interval_high)}"
    counts = [summary.num_scored, *[summary.num_both_empty] * with_empty, summary.num_missed, summary.num_invented]
    return [_format_dice(summary.mean), interval, _format_dice(summary.median), *[str(count) for count in counts]]


def _count_cases(evaluation: Evaluation, *, with_empty: bool) -> list[str]:
    num_empty = len(evaluation.mean_dice_per_case()) - evaluation.num_scored_cases
    num_missed = sum(summary.num_missed for summary in evaluation.summaries)
    num_invented = sum(summary.num_invented for summary in evaluation.summaries)
    counts = [evaluation.num_scored_cases, *[num_empty] * with_empty, num_missed, num_invented]
    return [str(count) for count in counts]


def _format_dice(dice: float | None) -> str:
    return _UNDEFINED if dice is None else f"{dice:.3f}"
