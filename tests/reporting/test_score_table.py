"""Tables of every metric and of comparisons, as they look in a terminal of 80 columns."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from rich.console import Console

from medunet.evaluation import Evaluation, LabelScore, build_evaluation, compare_evaluations
from medunet.reporting.score_table import build_difference_table, build_metric_table, build_ranking_table


def make_evaluation(dices: dict[str, list[float | None]]) -> Evaluation:
    return build_evaluation(
        LabelScore(
            case_id=f"p{number}", label=label, dice=dice, status="both-empty" if dice is None else "ok",
            reference_ml=1, prediction_ml=1, tp=1, fp=1, fn=1,
        )
        for label, values in dices.items()
        for number, dice in enumerate(values)
    )  # fmt: skip


def render(table: object) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [" ".join(line.split()) for line in text.splitlines() if line.strip(" ─")]


def test_quartiles_and_the_worst_case() -> None:
    lines = render(build_metric_table(make_evaluation({"[b]liver": [0.5, 0.9, 0.7, 0.8, 0.6]})))
    assert lines[0] == "label metric mean 95 % interval median quartiles cases worst case"
    assert lines[1].startswith("[b]liver Dice 0.700 ")  # no markup
    assert lines[1].endswith(" 0.700 0.600–0.800 5 p0")


def test_empty_cases_are_counted_where_there_are_any() -> None:
    lines = render(build_metric_table(make_evaluation({"liver": [0.5, None, None], "spleen": [None, None, None]})))
    assert lines[0] == "label metric mean 95 % interval median quartiles cases empty worst case"
    assert lines[1:] == ["liver Dice 0.500 - 0.500 0.500–0.500 1 2 p0", "spleen Dice - - - - 0 3 -"]


def test_long_labels_stay_on_one_line() -> None:
    lines = render(build_metric_table(make_evaluation({"femoral_head_right": [0.5, 0.6]})))
    assert lines[-1] == "femoral_head_right Dice 0.550 0.500–0.600 0.550 0.525–0.575 2 p0"


def test_differences_and_ranking() -> None:
    values = np.linspace(0.5, 0.7, 8).tolist()
    comparison = compare_evaluations(
        {"new": make_evaluation({"a": [value + 0.1 for value in values]}), "old": make_evaluation({"a": values})},
        ["dice"],
    )
    heading, row = render(build_difference_table(comparison, "dice"))
    assert heading == "label Dice of less cases difference 95 % interval p (Holm)"
    assert row == "a new old 8 +0.100 0.100–0.100 0.008"
    assert render(build_ranking_table(comparison.rankings))[1:] == ["Dice 1 new 0.700 8 100 %", "2 old 0.600 8 100 %"]
    same = compare_evaluations({name: make_evaluation({"a": values}) for name in ("x", "y")}, ["dice"])
    assert render(build_ranking_table(same.rankings))[1:] == ["Dice 1= x 0.600 8 100 %", "1= y 0.600 8 100 %"]
    long = replace(
        comparison, differences=[replace(row, metric="absolute_volume_error_ml") for row in comparison.differences]
    )
    assert "a new old 8 +0.10 0.10–0.10 0.008" in render(build_difference_table(long, "absolute_volume_error_ml"))
    swapped = compare_evaluations(
        {"old": make_evaluation({"a": values}), "new": make_evaluation({"a": [value + 0.1 for value in values]})},
        ["dice"],
    )
    assert "-0.100 -0.100 to -0.100" in render(build_difference_table(swapped, "dice"))[1]
