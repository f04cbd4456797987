"""The page of a comparison: which set of masks is better, by how much, on which cases, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medunet.evaluation import (
    METRICS,
    Comparison,
    Evaluation,
    PairedDifference,
    Ranking,
    average_shared_labels,
    give_joint_advice,
    summarize_metrics,
)
from medunet.io import write_text_atomic
from medunet.reporting.comparison_chart import draw_differences
from medunet.reporting.evaluation_page import describe_software, list_labels
from medunet.reporting.page import UNDEFINED, Cell, Picture, Section, Table, Tone, embed_png, number_cell, render_page
from medunet.reporting.palette import get_label_colours
from medunet.reporting.score_cells import (
    SUMMARY_HEADINGS,
    build_summary_cells,
    count_cell,
    count_digits,
    label_cell,
    metric_cell,
    range_cell,
)

Fact = tuple[str, str]
Rows = list[Sequence[Cell | str]]

_SURE = 0.05
_MAX_CASES = 1000
_SECTIONS = {
    "rankings": "Ranking",
    "differences": "Differences",
    "cases": "Every case",
    "agreement": "Agreement",
    "left_out": "Left out",
    "made": "How it was made",
}


@dataclass(frozen=True, kw_only=True)
class TablePart:
    """A table with its heading."""

    title: str
    table: Table


def write_comparison_page(
    comparison: Comparison, evaluations: Mapping[str, Evaluation], path: Path | str, **options: Any
) -> Path:
    """Write the page of a comparison, whole or not at all.

    Args:
        comparison: From `medunet.evaluation.compare_evaluations`.
        evaluations: That it compares.
        path: The HTML file.
        **options: As `build_comparison_page`.

    Returns:
        The page.

    Raises:
        OutputError: If the page cannot be written.
    """
    path = Path(path)
    write_text_atomic(path, build_comparison_page(comparison, evaluations, **options))
    return path


def build_comparison_page(
    comparison: Comparison,
    evaluations: Mapping[str, Evaluation],
    *,
    title: str = "",
    raters: Mapping[str, Evaluation] | None = None,
    sources: Mapping[str, str] | None = None,
) -> str:
    """The page as HTML: one file that needs no network.

    Args:
        comparison: What was found.
        evaluations: Name of a set -> its scores.
        title: Of the page; default: the names of the sets.
        raters: Pair of sets -> their scores against each other.
        sources: What else is to be said of where the masks come from: name -> text, without paths.
    """
    metrics = list(dict.fromkeys(row.metric for row in comparison.differences))
    parts: dict[str, Any] = {
        "rankings": _build_ranking_table(comparison.rankings),
        "differences": [_build_difference_part(comparison, metric, evaluations) for metric in metrics],
        "cases": _build_case_table(comparison, evaluations),
        "agreement": [_build_agreement_part(name, found, metrics) for name, found in (raters or {}).items()],
        "left_out": comparison.left_out,
        "made": [*(sources or {}).items(), *describe_software()],
    }
    return render_page(
        "comparison.html",
        title=title or f"Comparison: {', '.join(comparison.names)}",
        sections=[Section(anchor=anchor, title=text) for anchor, text in _SECTIONS.items() if parts[anchor]],
        numbers=[(str(len(comparison.names)), "sets of masks"), (str(comparison.num_cases), "cases in all of them")],
        notices=_list_notices(comparison),
        advice=give_joint_advice(evaluations),
        chart=Picture(
            source=embed_png(draw_differences(comparison)),
            description="Mean paired differences with their 95 % intervals: "
            + "; ".join(_say_difference(row) for row in comparison.differences),
            is_chart=True,
        ),
        **parts,
    )


def _list_notices(comparison: Comparison) -> list[tuple[str, Tone]]:
    notices: list[tuple[str, Tone]] = []
    if comparison.left_out:
        notices.append((f"{len(comparison.left_out)} case(s) are not in every set and were left out.", "warning"))
    if not any(row.p_holm is not None and row.p_holm < _SURE for row in comparison.differences):
        notices.append(("No difference is sure: none has a corrected p value below 0.05.", "warning"))
    return notices


def _say_difference(row: PairedDifference) -> str:
    value = UNDEFINED if row.mean_difference is None else f"{row.mean_difference:+.{count_digits(row.metric)}f}"
    return f"{METRICS[row.metric].title} of {row.label}, {row.first} less {row.second}: {value}"


def _build_ranking_table(rankings: Sequence[Ranking]) -> Table | None:
    rows: Rows = []
    for ranking in rankings:
        places = zip(ranking.order, ranking.places, ranking.place_names, ranking.means, strict=True)
        for name, place, place_name, mean in places:
            share = ranking.rank_shares[name][place - 1]
            rows.append(
                [
                    METRICS[ranking.metric].ranked_title,
                    Cell(text=place_name, order=place),
                    name,
                    metric_cell(ranking.metric, mean),
                    count_cell(ranking.num_cases),
                    Cell(text=f"{100 * share:.0f} %", order=share),
                    Cell(text=f"{100 * ranking.stability:.0f} %", order=ranking.stability),
                ]
            )
    return (
        Table(
            headings=["metric", "place", "set", "mean", "cases", "keeps its place", "whole order stays"],
            rows=rows,
            numeric=(1, 3, 4, 5, 6),
            caption="Mean over cases of the mean over labels. How often a place, and the whole order, stays when cases are "
            "drawn anew. Equal sets share a place (1=).",
        )
        if rows
        else None
    )


def _build_difference_part(comparison: Comparison, metric: str, evaluations: Mapping[str, Evaluation]) -> TablePart:
    colours = get_label_colours(_list_all_labels(evaluations))
    rows: Rows = [
        [
            label_cell(row.label, colours),
            row.first,
            row.second,
            number_cell(row.num_cases, 0),
            metric_cell(metric, row.first_mean),
            metric_cell(metric, row.second_mean),
            _signed_cell(metric, row.mean_difference),
            range_cell(metric, row.interval_low, row.interval_high),
            _signed_cell(metric, row.median_difference),
            _p_cell(row.p_holm),
        ]
        for row in comparison.differences
        if row.metric == metric
    ]
    better = {"higher": "more is better", "lower": "less is better"}.get(METRICS[metric].better, "0 is best")
    return TablePart(
        title=f"{METRICS[metric].title} ({better})",
        table=Table(
            headings=[
                "label",
                "set",
                "less",
                "cases",
                "its mean",
                "the other's",
                "difference",
                "95 % interval",
                "median",
                "p (Holm)",
            ],
            rows=rows,
            numeric=range(3, 10),
        ),
    )


def _build_case_table(comparison: Comparison, evaluations: Mapping[str, Evaluation]) -> Table | None:
    """Mean Dice of every case in every set; where the sets differ most comes first."""
    scored = [{score.case_id for score in evaluations[name].scores} for name in comparison.names]
    common = set.intersection(*scored)
    dices = average_shared_labels({name: evaluations[name] for name in comparison.names})
    spread: dict[str, float] = {}
    for case_id in common:
        values = [of_set[case_id] for of_set in dices.values() if case_id in of_set]
        spread[case_id] = max(values) - min(values) if values else 0.0
    ranked = sorted(common, key=lambda case_id: (-spread[case_id], case_id))
    rows: Rows = [
        [
            case_id,
            *(metric_cell("dice", dices[name].get(case_id)) for name in comparison.names),
            number_cell(spread[case_id]),
        ]
        for case_id in ranked[:_MAX_CASES]
    ]
    hidden = len(ranked) - len(rows)
    return (
        Table(
            headings=["case", *comparison.names, "largest less least"],
            rows=rows,
            numeric=range(1, 2 + len(comparison.names)),
            caption="Mean Dice over the labels of a case for which every set has a number; where sets differ most comes first."
            + (f" {hidden} more cases are not shown." if hidden else ""),
        )
        if rows
        else None
    )


def _build_agreement_part(name: str, evaluation: Evaluation, metrics: Sequence[str]) -> TablePart:
    colours = get_label_colours(list_labels(evaluation))
    rows: Rows = [
        [label_cell(summary.label, colours), METRICS[summary.metric].title, *build_summary_cells(summary, {})]
        for summary in summarize_metrics(evaluation.scores, metrics)
    ]
    return TablePart(
        title=name, table=Table(headings=["label", "metric", *SUMMARY_HEADINGS], rows=rows, numeric=range(2, 10))
    )


def _list_all_labels(evaluations: Mapping[str, Evaluation]) -> list[str]:
    return list(dict.fromkeys(label for evaluation in evaluations.values() for label in list_labels(evaluation)))


def _signed_cell(metric: str, value: float | None) -> Cell:
    if value is None:
        return number_cell(None)
    return Cell(text=f"{value:+.{count_digits(metric)}f}", order=value)


def _p_cell(value: float | None) -> Cell:
    if value is None:
        return number_cell(None)
    tone: Tone = "good" if value < _SURE else "plain"
    return Cell(text="< 0.001" if value < 0.001 else f"{value:.3f}", order=value, tone=tone)
