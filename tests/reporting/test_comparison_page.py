"""The page of a comparison holds the numbers of the comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
from html_pages import Page

from medunet.evaluation import Comparison, Evaluation, LabelScore, build_evaluation, compare_evaluations
from medunet.reporting.comparison_page import build_comparison_page, write_comparison_page

SCRIPT = "<script>alert(1)</script>"


def build_scores(dices: dict[str, tuple[float, float | None]]) -> Evaluation:
    return build_evaluation(
        LabelScore(
            case_id=case_id,
            label=label,
            dice=dice,
            status="ok",
            reference_ml=1.0,
            prediction_ml=1.0,
            tp=1,
            fp=0,
            fn=0,
        )
        for case_id, of_case in dices.items()
        for label, dice in zip((f"liver {SCRIPT}", "spleen"), of_case, strict=True)
    )


EVALUATIONS = {
    f"one {SCRIPT}": build_scores({f"p{case}": (0.9, 0.8 - case / 50) for case in range(6)}),
    "two": build_scores({f"p{case}": (0.7, 0.75 - case / 50) for case in range(6)} | {"extra": (0.1, 0.1)}),
}


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare_evaluations(EVALUATIONS, ["dice"])


def test_differences_are_those_of_the_comparison(comparison: Comparison) -> None:
    page = Page(build_comparison_page(comparison, EVALUATIONS))
    (table,) = [table for table in page.cells if [text for text, _ in table[0]][:2] == ["label", "set"]]
    assert len(table) - 1 == len(comparison.differences) == 3
    for cells, row in zip(table[1:], comparison.differences, strict=True):
        assert [text for text, _ in cells[:3]] == [row.label, row.first, row.second]
        orders = [float(order or "nan") for _, order in cells[3:]]
        assert orders == [
            row.num_cases,
            row.first_mean,
            row.second_mean,
            row.mean_difference,
            row.interval_low,
            row.median_difference,
            row.p_holm,
        ]
    assert "+0.200" in [text for text, _ in table[2]]


def test_the_order_and_the_cases_are_shown(comparison: Comparison) -> None:
    page = Page(build_comparison_page(comparison, EVALUATIONS))
    ranking = page.find_table("metric", "place")
    assert [row[2] for row in ranking[1:]] == list(comparison.rankings[0].order)
    assert [row[4] for row in ranking] == ["cases", "6", "6"]
    cases = page.find_table("case", f"one {SCRIPT}", "two")
    assert len(cases) == 7
    assert cases[1][1:] == ["0.850", "0.725", "0.125"]  # (0.2 + 0.05) / 2 in every case
    text = " ".join(page.text)
    assert "case extra is not scored in" in text
    assert "1 case(s) are not in every set" in text


def test_cases_are_averaged_over_the_labels_that_all_sets_have() -> None:
    """The second label is invented by one set; where the other rightly has none, it counts in neither."""
    pairs = {
        "one": build_scores({"p0": (0.9, 0.0), "p1": (0.9, 0.5)}),
        "two": build_scores({"p0": (0.7, None), "p1": (0.8, 0.5)}),
    }
    page = Page(build_comparison_page(compare_evaluations(pairs, ["dice"]), pairs))
    assert page.find_table("case", "one", "two")[1:] == [
        ["p0", "0.900", "0.700", "0.200"],
        ["p1", "0.700", "0.650", "0.050"],
    ]


def test_what_is_not_sure_is_said() -> None:
    pairs = {name: build_scores({"p0": (0.5, 0.5), "p1": (0.6, 0.4)}) for name in ("one", "two")}
    assert "No difference is sure" in build_comparison_page(compare_evaluations(pairs, ["dice"]), pairs)


def test_nothing_runs_or_reaches_out(comparison: Comparison, tmp_path: Path) -> None:
    raters = {f"one {SCRIPT} and two": EVALUATIONS["two"]}
    path = write_comparison_page(
        comparison, EVALUATIONS, tmp_path / "page.html", raters=raters, sources={"references": SCRIPT}
    )
    page = Page(path.read_text())
    page.check_is_closed()
    assert SCRIPT in " ".join(page.text)
    assert str(tmp_path) not in page.source
