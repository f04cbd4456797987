"""Tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medunet.evaluation import Evaluation, Summary

if TYPE_CHECKING:
    from rich.table import Table

_UNDEFINED = "-"


def build_dice_table(evaluation: Evaluation) -> Table:
    """Dice per label with the interval of the mean, and how often the label was missed or invented.

    The last row is the mean over labels of their means. A label that no case has shows "-" and is in no mean.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # No vertical lines and short headings: it must fit 80 columns, which is what a log file gets.
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("label", no_wrap=True)
    for heading in ("Dice", "95 % interval", "median", "cases", "missed", "invented"):
        table.add_column(heading, justify="right")
    for summary in evaluation.summaries:
        # Text, not str: a label name may hold what rich would read as markup.
        table.add_row(Text(summary.label), *_format_summary(summary))
    table.add_section()
    table.add_row("mean", _format_dice(evaluation.mean_dice), "", "", "", *_count_failures(evaluation), style="bold")
    return table


def _format_summary(summary: Summary) -> list[str]:
    interval = _UNDEFINED
    if summary.interval_low is not None:
        interval = f"{_format_dice(summary.interval_low)}–{_format_dice(summary.interval_high)}"
    counts = [summary.num_scored, summary.num_missed, summary.num_invented]
    return [_format_dice(summary.mean), interval, _format_dice(summary.median), *[str(count) for count in counts]]


def _count_failures(evaluation: Evaluation) -> list[str]:
    num_missed = sum(summary.num_missed for summary in evaluation.summaries)
    num_invented = sum(summary.num_invented for summary in evaluation.summaries)
    return [str(num_missed), str(num_invented)]


def _format_dice(dice: float | None) -> str:
    return _UNDEFINED if dice is None else f"{dice:.3f}"
