"""The page of an evaluation holds the numbers of the files, shows the cases that are worst, and reaches for nothing."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from html_pages import Page
from PIL import Image

from medunet.errors import InputError
from medunet.evaluation import (
    METRICS,
    Evaluation,
    LabelMetrics,
    build_evaluation,
    evaluate,
    give_advice,
    summarize_metrics,
    write_scores_csv,
)
from medunet.evaluation.sides import SideOptions
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.reporting import case_pictures, evaluation_page, figure
from medunet.reporting.case_pictures import CasePicture, choose_cases, draw_evaluated_cases
from medunet.reporting.evaluation_page import build_evaluation_page, write_evaluation_page
from medunet.reporting.page import read_viewer_scripts
from medunet.reporting.score_cells import build_empty_sides_table
from medunet.tasks import Task
from medunet.volume import Volume

SCRIPT = "<script>alert(1)</script>"
ATTRIBUTE = '"><img src=x onerror=alert(1)>'
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
Write = Callable[..., Path]


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pixels take long."""
    monkeypatch.setattr(figure, "_PAGE_DPI", 30)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A folder of label maps from boxes: case -> value -> first and last slice along the first axis."""

    def write_folder(name: str, cases: Mapping[str, Mapping[int, tuple[int, int]]]) -> Path:
        for case_id, boxes in cases.items():
            array = np.zeros((1, 20, 12, 10), np.uint8)
            for value, (first, last) in boxes.items():
                array[0, first:last, 2 + 3 * value : 5 + 3 * value, 3:7] = value
            write_nifti_labels(Volume(array, AFFINE), tmp_path / name / f"{case_id}.nii.gz")
        return tmp_path / name

    return write_folder


@pytest.fixture
def folders(write: Write) -> tuple[Path, Path]:
    """Seven cases; in p3 the first structure is missed, in p5 the second is invented."""
    references = {f"p{case}": {1: (2, 12), 2: (4, 12)} for case in range(7)}
    references["p5"] = {1: (2, 12)}
    masks = {f"p{case}": {1: (2 + case % 4, 12), 2: (4 + case % 3, 12)} for case in range(7)}
    masks["p3"] = {2: (4, 12)}
    return write("masks", masks), write("labels", references)


@pytest.fixture
def evaluation(folders: tuple[Path, Path]) -> Evaluation:
    return evaluate(*folders)


def build_task(**changes: object) -> Task:
    values = {
        "name": "test-ct",
        "title": f"Test {SCRIPT}",
        "modality": "MR",
        "channels": ["mr"],
        "labels": {f"one {SCRIPT}": 1, f"two {ATTRIBUTE}": 2},
        "intensity": "zscore",
    }
    return Task.model_validate(values | changes)


# ---- numbers -------------------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_csv(evaluation: Evaluation, tmp_path: Path) -> None:
    write_scores_csv(evaluation, tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    page = Page(build_evaluation_page(evaluation))
    (table,) = [table for table in page.cells if [text for text, _ in table[0]][:3] == ["case", "label", "status"]]
    headings = [text for text, _ in table[0]]
    columns = {METRICS[name].title: name for name in METRICS} | {
        "reference ml": "reference_ml",
        "mask ml": "prediction_ml",
    }
    assert len(table) - 1 == len(rows) == 14
    for cells, row in zip(table[1:], rows, strict=True):
        assert [text for text, _ in cells[:3]] == [row["case"], row["label"], row["status"]]
        for heading, (text, order) in zip(headings[3:], cells[3:], strict=True):
            written = row[columns[heading]]
            assert written == ("" if order is None else f"{float(order):.6g}")
            assert text == ("–" if order is None else text)
            assert order is None or float(text) == pytest.approx(float(order), abs=0.00501)


def test_the_summary_is_that_of_the_scores(evaluation: Evaluation) -> None:
    page = Page(build_evaluation_page(evaluation))
    tables = [table for table in page.cells if [text for text, _ in table[0]][:2] == ["label", "mean"]]
    assert len(tables) == 3  # Dice, NSD, HD95
    for table, metric in zip(tables, ("dice", "nsd", "hd95_mm"), strict=True):
        summaries = {one.label: one for one in summarize_metrics(evaluation.scores, [metric])}
        for (label, *cells), summary in zip(table[1:3], summaries.values(), strict=True):
            assert label[0] == summary.label
            orders = [None if order is None else float(order) for _, order in cells[:8]]
            assert orders == [
                summary.mean,
                summary.interval_low,
                summary.median,
                summary.lower_quartile,
                summary.num_scored,
                summary.num_missed,
                summary.num_invented,
                summary.num_both_empty,
            ]
            assert cells[8][0] == summary.worst_cases[0]
        mean = np.mean([summary.mean for summary in summaries.values()])
        assert float(table[3][1][1] or "nan") == pytest.approx(mean)
        assert [cell[0] for cell in table[3][5:9]] == ["7", "1", "1", "0"]  # cases, missed, invented, neither
        assert [row[6][0] for row in table[1:3]] == ["1", "0"]  # missed in p3
        assert [row[7][0] for row in table[1:3]] == ["0", "1"]  # invented in p5


def test_advice_and_rules_are_said(evaluation: Evaluation) -> None:
    text = " ".join(Page(build_evaluation_page(evaluation)).text)
    for advice in give_advice(evaluation):
        assert advice in text
    assert "diagonal of the image" in text
    assert "not counted" in text


def test_the_rules_are_what_is_done(evaluation: Evaluation) -> None:
    """Every metric of a missed and an invented structure has the value that the table says."""
    table = build_empty_sides_table(list(METRICS))
    lost = [score for score in evaluation.scores if score.status in ("missed", "invented")]
    diagonal = float(np.linalg.norm(np.array([20, 12, 10]) * np.diag(AFFINE)[:3]))
    assert {score.status for score in lost} == {"missed", "invented"}
    names = {metric.title: name for name, metric in METRICS.items()}
    for title, rule, _, _ in table.rows:
        for score in lost:
            value = getattr(score, names[str(title)])
            if rule == "0":
                assert value == 0, title
            elif rule == "diagonal of the image":
                assert value == pytest.approx(diagonal), title
            else:
                assert rule == "computed"
                assert abs(value) > 0, title
    assert {field.name for field in fields(LabelMetrics)} >= set(names.values())


# ---- cases ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pictures")
def test_the_worst_case_is_the_first_one_shown(folders: tuple[Path, Path], evaluation: Evaluation) -> None:
    pictures = draw_evaluated_cases(evaluation, SideOptions())
    dices = {case: dice for case, dice in evaluation.mean_dice_per_case().items() if dice is not None}
    worst, best = min(dices, key=lambda case: dices[case]), max(dices, key=lambda case: dices[case])
    assert worst in ("p3", "p5")
    assert (pictures[0].case_id, pictures[0].role) == (worst, "worst")
    assert (pictures[-1].case_id, pictures[-1].role) == (best, "best")
    page = Page(build_evaluation_page(evaluation, pictures=pictures))
    assert page.find_table("case", "mean Dice")[1][0] == worst
    text = " ".join(page.text)
    assert f"{len(pictures)} of 7 cases" in text
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    shown = [str(attributes["alt"]) for attributes in images if str(attributes["src"]).startswith("data:image/jpeg")]
    assert shown[0] == f"Case {worst}, worst, mean Dice {dices[worst]:.3f}: contours of reference and mask"
    assert "voxels where the mask is wrong" in shown[1]
    assert len(shown) == 2 * len(pictures)


@pytest.mark.usefixtures("small_pictures")
def test_scans_lie_below_the_contours(folders: tuple[Path, Path], evaluation: Evaluation, tmp_path: Path) -> None:
    bright = np.full((1, 20, 12, 10), 100, np.float32)
    bright[0, :10] = 900
    for case in range(7):
        write_nifti_image(Volume(bright, AFFINE), tmp_path / "scans" / f"p{case}.nii.gz")
    for image in ((tmp_path / "scans"), None):
        (picture, *_) = draw_evaluated_cases(evaluation, SideOptions(), images=image, num_worst=1)
        pixels = np.asarray(Image.open(io.BytesIO(picture.jpeg)).convert("L"))
        assert picture.remark == ""
        # The bright half fills a good part of the panels; without the scan nothing but lines and letters is light.
        assert (np.mean(pixels > 200) > 0.1) == (image is not None)


@pytest.mark.usefixtures("small_pictures")
def test_a_scan_on_another_grid_is_left_out_and_that_is_said(evaluation: Evaluation, tmp_path: Path) -> None:
    for case in range(7):
        write_nifti_image(
            Volume(np.zeros((1, 5, 6, 5), np.float32), AFFINE @ np.diag([2.0, 2, 2, 1])),
            tmp_path / "scans" / f"p{case}.nii.gz",
        )
    pictures = draw_evaluated_cases(evaluation, SideOptions(), images=tmp_path / "scans", num_worst=1)
    assert len(pictures) == 3
    assert "another grid" in pictures[0].remark
    assert pictures[0].remark in " ".join(Page(build_evaluation_page(evaluation, pictures=pictures)).text)


@pytest.mark.usefixtures("small_pictures")
def test_scans_along_other_axes_are_turned(evaluation: Evaluation, tmp_path: Path) -> None:
    flipped = AFFINE @ np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 19.0
    for case in range(7):
        write_nifti_image(
            Volume(np.zeros((1, 20, 12, 10), np.float32), flipped), tmp_path / "scans" / f"p{case}.nii.gz"
        )
    assert draw_evaluated_cases(evaluation, SideOptions(), images=tmp_path / "scans", num_worst=1)[0].remark == ""


@pytest.mark.usefixtures("small_pictures")
def test_the_worst_case_stays_on_the_page_when_it_can_no_longer_be_read(
    folders: tuple[Path, Path], evaluation: Evaluation
) -> None:
    worst = next(iter(choose_cases(evaluation.mean_dice_per_case())))
    (folders[0] / f"{worst}.nii.gz").write_text("no volume")
    pictures = draw_evaluated_cases(evaluation, SideOptions())
    assert (pictures[0].case_id, pictures[0].jpeg) == (worst, None)
    assert all(picture.jpeg is not None for picture in pictures[1:])
    page = Page(build_evaluation_page(evaluation, pictures=pictures))
    assert "This case could not be drawn" in " ".join(page.text)
    alts = [str(attributes["alt"]) for tag, attributes in page.elements if tag == "img"]
    assert not [alt for alt in alts if alt.startswith(f"Case {worst},")]
    assert "5 of 7 cases" in " ".join(page.text)


def test_a_mistake_of_the_program_is_no_warning(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(case_pictures, "build_overlay", fail)
    with pytest.raises(KeyError, match="a bug"):
        draw_evaluated_cases(evaluation, SideOptions())


@pytest.mark.parametrize(("lowest", "modality"), [(-1000, "CT"), (0, "MR")])
def test_without_a_task_the_values_say_whether_it_is_ct(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lowest: float, modality: str
) -> None:
    folders = write("masks", {"p0": {1: (2, 11)}}), write("labels", {"p0": {1: (2, 12)}})
    scan = np.full((1, 20, 12, 10), 40, np.float32)
    scan[0, 0] = lowest
    write_nifti_image(Volume(scan, AFFINE), tmp_path / "scan.nii.gz")
    seen = []

    def look(*_: object, modality: str, **__: object) -> None:
        seen.append(modality)
        msg = "seen enough"
        raise InputError(msg)

    monkeypatch.setattr(case_pictures, "build_overlay", look)
    draw_evaluated_cases(evaluate(*folders), SideOptions(), images=tmp_path / "scan.nii.gz")
    assert seen == [modality]


def test_pixel_accuracy_stands_beside_the_dice_of_every_case(evaluation: Evaluation) -> None:
    page = Page(build_evaluation_page(evaluation))
    headings, *rows = page.find_table("case", "mean Dice")
    assert headings[-2:] == ["pixel accuracy", "mean pixel accuracy"]
    expected = {one.case_id: one for one in evaluation.agreements}
    assert len(rows) == 7
    for row in rows:
        found = expected[row[0]]
        assert row[-2:] == [f"{found.pixel_accuracy:.3f}", f"{found.mean_pixel_accuracy:.3f}"]
    mean = np.mean([one.pixel_accuracy for one in expected.values()])
    assert f"Pixel accuracy {mean:.3f}, " in " ".join(page.text)
    assert "means of 7 case(s)" in " ".join(page.text)


def test_instances_are_lesions_or_objects(write: Write) -> None:
    folders = write("masks", {"p0": {1: (2, 9)}}), write("labels", {"p0": {1: (2, 12), 2: (3, 6)}})
    page = Page(build_evaluation_page(evaluate(*folders, instances=True)))
    headings, first, second = page.find_table("label", "scans")
    assert headings[2:] == ["lesions", "found", "sensitivity", "false per scan", "scored", "PQ", "AP50", "AP"]
    assert (first[6:], second[6:]) == (
        ["1", "0.700", "1.000", "0.500"],
        ["1", "0.000", "0.000", "0.000"],
    )  # an IoU of 0.7
    assert "Connected parts of every label" in " ".join(page.text)
    task = build_task(labels={"cell": 1}, output="instances")
    page = Page(build_evaluation_page(evaluate(*folders, task=task), task=task))
    headings, row = page.find_table("label", "scans")
    assert (headings[2], row[2:4]) == ("objects", ["2", "1"])
    text = " ".join(page.text)
    assert "Objects, by the values that files give them" in text
    assert "Connected parts" not in text


@pytest.mark.usefixtures("small_pictures")
def test_every_case_with_a_scan_has_a_viewer(
    folders: tuple[Path, Path], evaluation: Evaluation, tmp_path: Path
) -> None:
    """With both masks as they are in the files; NiiVue is in the page once, and not at all without a scan."""
    scan = np.arange(2400, dtype=np.float32).reshape(1, 20, 12, 10)
    for case in range(7):
        write_nifti_image(Volume(scan, AFFINE), tmp_path / "scans" / f"p{case}.nii.gz")
    pictures = draw_evaluated_cases(evaluation, SideOptions(), images=tmp_path / "scans", num_worst=1)
    scores = {(score.case_id, score.label): score for score in evaluation.scores}
    assert len(pictures) == 3
    for picture in pictures:
        assert picture.view is not None
        assert [mask.role for mask in picture.view.masks] == ["prediction", "reference"]
        assert picture.view.labels == ("label 1", "label 2")
        prediction, reference = (mask.volumes_ml for mask in picture.view.masks)
        for place, label in enumerate(picture.view.labels):
            score = scores[picture.case_id, label]
            assert (prediction[place], reference[place]) == pytest.approx((score.prediction_ml, score.reference_ml))
    source = build_evaluation_page(evaluation, pictures=pictures)
    page = Page(source)
    page.check_is_closed()
    niivue = read_viewer_scripts()[0].text
    classes = [attributes.get("class") for _, attributes in page.elements]
    assert (classes.count("viewer"), classes.count("viewer-open"), source.count(niivue)) == (3, 3, 1)
    bare = build_evaluation_page(evaluation, pictures=[replace(picture, view=None) for picture in pictures])
    assert ('class="viewer"' in bare, niivue in bare) == (False, False)


# ---- odd cohorts ---------------------------------------------------------------------------------------------------------


def test_no_case() -> None:
    page = Page(build_evaluation_page(build_evaluation([])))
    page.check_is_closed()
    assert "No case was scored" in " ".join(page.text)
    assert not [table for table in page.tables if table[0][0] == "label"]


@pytest.mark.usefixtures("small_pictures")
def test_one_case(write: Write) -> None:
    folders = write("masks", {"p0": {1: (2, 11)}}), write("labels", {"p0": {1: (2, 12)}})
    evaluation = evaluate(*folders)
    pictures = draw_evaluated_cases(evaluation, SideOptions())
    page = Page(build_evaluation_page(evaluation, pictures=pictures))
    page.check_is_closed()
    assert [picture.role for picture in pictures] == ["worst"]
    table = page.find_tables("label", "mean")[0]
    assert table[1][:3] == ["label 1", f"{2 * 9 / 19:.3f}", "–"]  # no interval of one case
    assert len(table) == 2  # nor a mean over one label


@pytest.mark.usefixtures("small_pictures")
def test_everything_missed(write: Write) -> None:
    references = {f"p{case}": {1: (2, 12)} for case in range(3)}
    evaluation = evaluate(write("masks", {case: {} for case in references}), write("labels", references))
    page = Page(build_evaluation_page(evaluation, pictures=draw_evaluated_cases(evaluation, SideOptions())))
    page.check_is_closed()
    text = " ".join(page.text)
    assert page.find_tables("label", "mean")[0][1][6] == "3"
    assert "Mean Dice below 0.5: label 1." in text
    assert text.count("missed") > 5


def test_cases_without_any_structure_are_not_beside_the_mean(write: Write) -> None:
    folders = write("masks", {"p0": {1: (2, 9)}, "p1": {}}), write("labels", {"p0": {1: (2, 12)}, "p1": {}})
    assert ("1", "cases scored") in evaluation_page._list_numbers(evaluate(*folders))


def test_nothing_anywhere(write: Write) -> None:
    folders = write("masks", {"p0": {}}), write("labels", {"p0": {}})
    page = Page(build_evaluation_page(evaluate(*folders, task=build_task())))
    page.check_is_closed()
    assert "nothing to score" in " ".join(page.text)


def test_failures_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (folders[0] / "p1.nii.gz").write_text("no volume")
    (folders[1] / "p3.nii.gz").write_text("no volume")
    (folders[0] / "stranger.nii.gz").write_bytes((folders[0] / "p2.nii.gz").read_bytes())
    (folders[0] / "p2_0000.nii.gz").write_bytes((folders[0] / "p2.nii.gz").read_bytes())
    source = build_evaluation_page(evaluate(*folders))
    page = Page(source)
    rows = [row for table in page.tables if table[0] == ["case", "reason"] for row in table[1:]]
    assert [row[0] for row in rows] == ["p1", "p2", "p3", "–"]
    assert rows[0][1].startswith("masks/p1.nii.gz")  # both sides have this name
    assert "masks/p2_0000.nii.gz, labels/p2.nii.gz" in rows[1][1]
    assert rows[2][1].startswith("labels/p3.nii.gz")
    assert "stranger.nii.gz has no reference" in rows[3][1]
    assert "3 case(s) could not be scored" in " ".join(page.text)
    assert str(tmp_path) not in source


# ---- what names may do ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pictures")
def test_names_that_are_scripts_are_text(write: Write) -> None:
    case = "a <img src=x onerror=alert(1)>"
    folders = write("masks", {case: {1: (2, 11)}}), write("labels", {case: {1: (2, 12), 2: (3, 4)}})
    task = build_task()
    evaluation = evaluate(*folders, task=task)
    pictures = draw_evaluated_cases(evaluation, SideOptions(task=task))
    assert len(pictures) == 1
    page = Page(build_evaluation_page(evaluation, task=task, pictures=pictures, sources={f"masks {SCRIPT}": ATTRIBUTE}))
    page.check_is_closed()
    text = " ".join(page.text)
    for name in (case, *task.labels, task.title, SCRIPT, ATTRIBUTE):
        assert name in text


def test_no_path_of_this_machine_is_on_the_page(
    evaluation: Evaluation, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    path = write_evaluation_page(evaluation, tmp_path / "new" / "scores.html", sources={"masks": folders[0].name})
    assert path == tmp_path / "new" / "scores.html"
    assert str(tmp_path) not in path.read_text()


def test_labels_keep_their_colour(evaluation: Evaluation) -> None:
    text = build_evaluation_page(evaluation)
    assert text.count("background: #e69f00") > 3
    assert "background: #56b4e9" in text


# ---- size ----------------------------------------------------------------------------------------------------------------


def test_pictures_are_few_and_small(evaluation: Evaluation) -> None:
    pictures = draw_evaluated_cases(evaluation, SideOptions())
    assert len(pictures) == 5
    for picture in pictures:
        assert isinstance(picture, CasePicture)
        assert picture.error_map is not None
        assert len(picture.jpeg) + len(picture.error_map) < 400_000
    page = Page(build_evaluation_page(evaluation, pictures=pictures))
    for value in page.list_values("src"):
        kind, content = value.split(",", 1)
        width, height = Image.open(io.BytesIO(base64.b64decode(content))).size
        assert "base64" in kind
        assert max(width, height) < 2500


def test_long_tables_are_cut_and_say_so(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_page, "MAX_ROWS", 3)
    monkeypatch.setattr(evaluation_page, "MAX_LABEL_COLUMNS", 1)
    page = Page(build_evaluation_page(evaluation))
    text = " ".join(page.text)
    assert "The 3 worst cases; 4 better ones are in the CSV file." in text
    assert "The 3 worst rows; 11 better ones are in the CSV file." in text
    table = page.find_table("case", "mean Dice", "worst label", "its Dice")
    assert table[1][2:4] == ["label 1", "missed"] or table[1][2:4] == ["label 2", "invented"]
