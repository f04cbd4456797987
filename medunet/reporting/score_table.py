"""Tables of every metric, and of sets of masks beside each other, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medunet.evaluation import METRICS, Comparison, Evaluation, Ranking, summarize_instances, summarize_metrics

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_METRICS = ("dice", "nsd", "hd95_mm")
_UNDEFINED = "-"


def build_metric_table(evaluation: Evaluation, metrics: Sequence[str] = SHOWN_METRICS) -> Table:
    """Mean with its interval, median, quartiles and the worst case, a row per label and metric.

    "cases" are those in these numbers; those where neither side has the label are in none, and stand under "empty" where
    there are any.

    Args:
        evaluation: Scores that have these metrics; what they lack is left out.
        metrics: Names in `medunet.evaluation.METRICS`.
    """
    from rich.text import Text

    summaries = summarize_metrics(evaluation.scores, metrics)
    has_empty = any(summary.num_both_empty for summary in summaries)  # a column of zeros would cost room for names
    numbers = ["mean", "95 % interval", "median", "quartiles", "cases", *["empty"] * has_empty]
    table = _start_table(["label", "metric"], numbers, ["worst case"], gap=1)
    shown = None
    for summary in summaries:
        label = Text(
            "" if summary.label == shown else summary.label
        )  # not str: a name may hold what rich reads as markup
        shown = summary.label
        table.add_row(
            label,
            METRICS[summary.metric].title,
            _format(summary.metric, summary.mean),
            _format_range(summary.metric, summary.interval_low, summary.interval_high),
            _format(summary.metric, summary.median),
            _format_range(summary.metric, summary.lower_quartile, summary.upper_quartile),
            str(summary.num_scored),
            *[str(summary.num_both_empty)] * has_empty,
            Text(summary.worst_cases[0] if summary.worst_cases else _UNDEFINED),
        )
    return table


def say_agreement(evaluation: Evaluation) -> str:
    """The means of the pixel accuracy over cases, in a sentence; empty without files.

    Structures that were compared by name may overlap, so that a voxel has no one class.
    """
    if not evaluation.agreements:
        is_by_name = bool(evaluation.files) and evaluation.label_values is None
        return "No pixel accuracy: structures that are compared by name may overlap." if is_by_name else ""
    columns = [
        [value for one in evaluation.agreements if (value := getattr(one, name)) is not None]
        for name in ("pixel_accuracy", "mean_pixel_accuracy")
    ]
    shares, means = (f"{sum(values) / len(values):.3f}" if values else _UNDEFINED for values in columns)
    return f"Pixel accuracy {shares}, mean pixel accuracy over the classes of a case {means}: means of {len(columns[0])} case(s)."


def build_instance_table(evaluation: Evaluation, *, things: str = "lesions") -> Table:
    """Instances found and invented, and the quality of the matched ones, a row per label.

    PQ, AP50 and AP are means over the "scored" scans: those where a side has an instance.

    Args:
        evaluation: With instances.
        things: What they are: lesions, or objects that files number.
    """
    from rich.text import Text

    numbers = ["scans", things, "found", "sensitivity", "false per scan", "scored", "PQ", "AP50", "AP"]
    table = _start_table(["label"], numbers, [], gap=1)
    for summary in summarize_instances(evaluation.instances):
        table.add_row(
            Text(summary.label),
            str(summary.num_scans),
            str(summary.num_reference),
            str(summary.num_found),
            _format_share(summary.sensitivity),
            _format_share(summary.false_positives_per_scan),
            str(summary.num_scored),
            _format_share(summary.panoptic_quality),
            _format_share(summary.average_precision_50),
            _format_share(summary.average_precision),
        )
    return table


def build_difference_table(comparison: Comparison, metric: str) -> Table:
    """Paired differences of one metric, a row per label and pair of sets."""
    from rich.text import Text

    title = METRICS[metric].title
    table = _start_table(["label", f"{title} of"], ["less", "cases", "difference", "95 % interval", "p (Holm)"], [])
    table.columns[1].no_wrap = False  # a long title goes on two lines rather than that numbers are cut
    for row in comparison.differences:
        if row.metric == metric:
            table.add_row(
                Text(row.label),
                Text(row.first),
                Text(row.second),
                str(row.num_cases),
                _format_signed(metric, row.mean_difference),
                _format_range(metric, row.interval_low, row.interval_high),
                _format_p(row.p_holm),
            )
    return table


def build_ranking_table(rankings: Sequence[Ranking]) -> Table:
    """The order of the sets by each metric, and how often each keeps its place when cases are drawn anew.

    Equal sets share a place, "1="; "cases" are those in the means.
    """
    from rich.text import Text

    table = _start_table(["metric", "place", "set"], ["mean", "cases", "keeps its place"], [])
    for ranking in rankings:
        metric = METRICS[ranking.metric].ranked_title
        rows = zip(ranking.order, ranking.places, ranking.place_names, ranking.means, strict=True)
        for name, place, place_name, mean in rows:
            share = f"{100 * ranking.rank_shares[name][place - 1]:.0f} %"
            cases = str(ranking.num_cases)
            table.add_row(metric, place_name, Text(name), _format(ranking.metric, mean), cases, share)
            metric = ""
    return table


def _start_table(names: Sequence[str], numbers: Sequence[str], others: Sequence[str], *, gap: int = 2) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, gap, 0, 0), header_style="bold")  # it should fit 80 columns
    for heading in names:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in others:
        table.add_column(heading, overflow="fold")
    return table


def _format(metric: str, value: float | None) -> str:
    if value is None:
        return _UNDEFINED
    return f"{value:.3f}" if METRICS[metric].better == "higher" else f"{value:.2f}"


def _format_share(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.3f}"


def _format_signed(metric: str, value: float | None) -> str:
    text = _format(metric, value)
    return f"+{text}" if value is not None and value > 0 else text


def _format_range(metric: str, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return _UNDEFINED
    joint = " to " if low < 0 else "–"  # a dash between minus signs is hard to read
    return f"{_format(metric, low)}{joint}{_format(metric, high)}"


def _format_p(value: float | None) -> str:
    if value is None:
        return _UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
