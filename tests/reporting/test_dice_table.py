"""The table of scores in the terminal."""

import io

from rich.console import Console

from medunet.evaluation import LabelScore, build_evaluation
from medunet.reporting import build_dice_table


def make_score(case_id, label, dice, status="ok"):
    return LabelScore(
        case_id=case_id, label=label, dice=dice, status=status, reference_ml=0, prediction_ml=0, tp=0, fp=0, fn=0
    )


def render(evaluation):
    columns = build_dice_table(evaluation).columns
    rows = zip(*(map(str, column.cells) for column in columns), strict=True)
    return [[str(column.header) for column in columns], *map(list, rows)]


def test_rows():
    scores = [
        make_score("p1", "liver", 0.9),
        make_score("p2", "liver", 0.9),
        make_score("p1", "spleen", 0.0, "missed"),
        make_score("p2", "spleen", None, "both-empty"),
        make_score("p1", "tumour", None, "both-empty"),
        make_score("p3", "tumour", None, "both-empty"),
    ]
    heading, *rows = render(build_evaluation(scores))
    assert heading == ["label", "Dice", "95 % interval", "median", "cases", "empty", "missed", "invented"]
    assert rows == [
        ["liver", "0.900", "0.900–0.900", "0.900", "2", "0", "0", "0"],
        ["spleen", "0.000", "-", "0.000", "1", "1", "1", "0"],
        ["tumour", "-", "-", "-", "0", "2", "0", "0"],
        ["mean", "0.450", "", "", "2", "1", "1", "0"],
    ]


def test_no_column_of_zeros():
    heading, _, mean = render(build_evaluation([make_score("p1", "liver", 0.9), make_score("p2", "liver", 0.7)]))
    assert heading == ["label", "Dice", "95 % interval", "median", "cases", "missed", "invented"]
    assert mean == ["mean", "0.800", "", "", "2", "0", "0"]


def test_fits_a_log_file_of_80_columns_with_empty_cases():
    scores = [make_score(case_id, "femoral_head_right", 0.9) for case_id in ("p1", "p2")]
    scores.append(make_score("p3", "femoral_head_right", None, "both-empty"))
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(build_dice_table(build_evaluation(scores)))
    row = next(line for line in console.file.getvalue().splitlines() if "femoral" in line)
    assert row.split() == ["femoral_head_right", "0.900", "0.900–0.900", "0.900", "2", "1", "0", "0"]


def test_fits_a_log_file_of_80_columns():
    scores = [make_score(case_id, "femoral_head_right", 0.9) for case_id in ("p1", "p2")]
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(build_dice_table(build_evaluation(scores)))
    row = next(line for line in console.file.getvalue().splitlines() if "femoral" in line)
    assert row.split() == ["femoral_head_right", "0.900", "0.900–0.900", "0.900", "2", "0", "0"]


def test_label_names_are_no_markup():
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(build_dice_table(build_evaluation([make_score("p1", "[red]liver", 1.0)])))
    assert "[red]liver" in console.file.getvalue()


def test_no_scores():
    assert render(build_evaluation([]))[1:] == [["mean", "-", "", "", "0", "0", "0"]]
