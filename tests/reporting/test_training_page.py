"""One file with the numbers that were measured; it opens anywhere, needs nothing, and runs nothing that data brought."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_pages import Page
from oracles import ORACLE_TASK
from PIL import Image

from medunet.evaluation import build_evaluation, score_case
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.models import ModelRecords, Postprocessing, TriedStep, read_records, write_results
from medunet.postprocessing import measure_case
from medunet.postprocessing.quality import build_quality_ranges
from medunet.reporting import box_plot, case_pictures, training_charts
from medunet.reporting.case_pictures import CasePicture, choose_cases, draw_cases
from medunet.reporting.page import Cell, Table, read_viewer_scripts, render_page
from medunet.reporting.training_charts import draw_curves, draw_dice_strips, read_curves
from medunet.reporting.training_page import build_training_page, compute_case_dices, write_training_page
from medunet.reporting.view import build_small_view
from medunet.reporting.window import get_task_window
from medunet.tasks import Case, Task
from medunet.training.validation import summarize_validation
from medunet.volume import Volume

SCRIPT = "<script>alert(1)</script>"
ATTRIBUTE = '" onmouseover="alert(1)'
LOG = """iteration,seconds,learning_rate,loss,training_dice,validation_dice,data_wait
1,0.50,1.000e-03,2.00000,0.10000,,0.2500
11,5.00,,,,0.45000,
20,9.00,5.000e-04,0.25000,0.60000,,0.0100
"""


def build_metrics(dices: Mapping[str, Mapping[str, tuple[int, int, int]]], **more: Any) -> dict[str, Any]:
    """Metrics from voxels in both, only in the prediction and only in the reference, per case and label."""
    scores = []
    for case_id, of_case in dices.items():
        reference, prediction = np.zeros((1, 1, 1, 4000), np.uint8), np.zeros((1, 1, 1, 4000), np.uint8)
        start = 0
        for name, (tp, fp, fn) in of_case.items():
            (value,) = ORACLE_TASK.labels[name]
            reference[..., start : start + tp] = prediction[..., start : start + tp] = value
            prediction[..., start + tp : start + tp + fp] = value
            reference[..., start + tp + fp : start + tp + fp + fn] = value
            start += tp + fp + fn
        sides = [Volume(side, np.eye(4)) for side in (reference, prediction)]
        scores += score_case(sides[0], sides[1], ORACLE_TASK.labels, case_id=case_id)
    return summarize_validation(build_evaluation(scores)) | more


METRICS = build_metrics(
    {
        "p1": {"bone": (90, 10, 10), "fat": (50, 0, 0)},  # 0.9 and 1
        "p2": {"bone": (0, 0, 7), "fat": (30, 20, 50)},  # missed and 60 / 130
        "p3": {"bone": (40, 20, 0), "fat": (0, 4, 0)},  # 0.8 and invented
    }
)


@pytest.fixture
def records(write_model: Callable[..., Path], tmp_path: Path) -> ModelRecords:
    return read_records(write_model(tmp_path / "model"))


def fill(records: ModelRecords, metrics: dict[str, Any], *, log: str | None = None, **options: Any) -> Path:
    write_results(records.folder, records.task, records.plan, records.training, metrics, **options)
    if log is not None:
        (records.folder / "log.csv").write_text(log)
    return records.folder


# ---- numbers -------------------------------------------------------------------------------------------------------------


def test_the_tables_hold_what_was_measured(records: ModelRecords) -> None:
    page = Page(build_training_page(fill(records, METRICS)))
    labels = {row[0]: row for row in page.find_table("label") if len(row) == 8}
    assert labels["bone"][1] == f"{(0.9 + 0 + 0.8) / 3:.3f}"
    assert labels["bone"][3:] == ["0.800", "3", "1", "0", "0"]
    assert labels["fat"][5:7] == ["0", "1"]
    assert labels["muscle"] == ["muscle", "–", "–", "–", "0", "0", "0", "3"]
    assert labels["mean over labels"][1] == f"{METRICS['mean_dice']:.3f}"
    assert labels["mean over labels"][4:] == ["3", "1", "1", "0"]  # cases, missed, invented, neither has any
    cases = page.find_table("case")
    assert cases[0] == ["case", "mean Dice", "fat", "muscle", "gland", "marrow", "bone"]
    fat = 60 / 130
    assert cases[1:] == [
        ["p2", f"{fat / 2:.3f}", f"{fat:.3f}", "–", "–", "–", "missed"],
        ["p3", "0.400", "invented", "–", "–", "–", "0.800"],
        ["p1", "0.950", "1.000", "–", "–", "–", "0.900"],
    ]
    text = " ".join(page.text)
    assert "No validation case says how well it finds muscle, gland, marrow." in text
    for fact in (
        f"{METRICS['mean_dice']:.3f}",
        "1 × 1 × 1 mm",
        "16 × 16 × 8 voxels",
        "a test",
        "4it",
        "learnt from tests",
    ):
        assert fact in text, fact


def test_postprocessing_is_told_with_its_numbers(records: ModelRecords) -> None:
    before = {"mean_dice": 0.25, "labels": {name: {"mean": 0.125} for name in METRICS["labels"]}, "cases": []}
    tried = TriedStep(
        step="label bone",
        is_used=True,
        reason="raises the mean Dice of bone and lowers none",
        dice_without={"bone": 0.5, "fat": None},
        dice_with={"bone": 0.625, "fat": None},
    )
    chosen = Postprocessing(keep_largest=("bone",), num_cases=3, tried=(tried,))
    folder = fill(records, METRICS | {"without_postprocessing": before}, postprocessing=chosen)
    page = Page(build_training_page(folder))
    assert [row[-1] for row in page.find_table("label")] == ["without post-processing", *["0.125"] * 5, "0.250"]
    (_, row) = page.find_table("post-processing step")
    assert row == ["largest part of bone", "taken", "raises the mean Dice of bone and lowers none", "0.5000", "0.6250"]
    assert "Tried on 3 validation cases: largest part kept of bone." in " ".join(page.text)


def test_what_the_cases_look_like(records: ModelRecords, make_densities: Any) -> None:
    ranges = build_quality_ranges([measure_case(*make_densities(), ORACLE_TASK)], ORACLE_TASK)
    assert ranges is not None
    page = Page(build_training_page(fill(records, METRICS, quality=ranges)))
    (table,) = [table for table in page.tables if "cut by the border" in table[0]]
    assert [row[0] for row in table[1:]] == list(ORACLE_TASK.labels)
    assert [row[3] for row in table[1:]] == ["1"] * 5  # random labels touch every border
    assert [row[4] for row in table[1:]] == ["–"] * 5


def test_failures_and_folds_are_listed(records: ModelRecords) -> None:
    metrics = METRICS | {
        "failed": [{"case_id": "p9", "reason": "p9.nii.gz is cut short"}],
        "folds": [{"num_cases": 2, "mean_dice": 0.75}, {"num_cases": 1, "mean_dice": None}],
    }
    page = Page(build_training_page(fill(records, metrics)))
    assert ["p9", "p9.nii.gz is cut short"] in [row for table in page.tables for row in table]
    assert page.find_table("fold")[1:] == [["0", "2", "0.750"], ["1", "1", "–"]]
    assert "cross-validation: 2 networks, each case scored by the one that had not seen it" in page.text
    assert "1 validation case(s) could not be scored" in " ".join(page.text)


def test_a_model_without_validation_and_log_says_so(records: ModelRecords) -> None:
    page = Page(build_training_page(fill(records, summarize_validation(None))))
    text = " ".join(page.text)
    assert "It was not validated: no number on this page says how good it is." in text
    nothing = build_metrics({"p1": {"bone": (0, 0, 0)}})  # validated, on a case that has no label
    assert nothing["num_cases"] == 0
    text = " ".join(Page(build_training_page(fill(records, nothing))).text)
    assert "It was not validated" not in text
    assert "No validation case says how well it finds fat, " in text
    assert "None was tried" in text
    assert [value for value in page.list_values("src") if value] == []
    assert not any("Curves" in line for line in page.text)


def test_phantoms_are_warned_of(write_model: Callable[..., Path], tmp_path: Path) -> None:
    page = Page(build_training_page(write_model(tmp_path / "model", is_synthetic=True)))
    assert any("not for clinical use" in line for line in page.text)


def test_many_labels_show_the_worst_of_each_case(records: ModelRecords) -> None:
    labels = {f"l{n}": (n,) for n in range(1, 118)}
    task = Task.model_validate(ORACLE_TASK.model_dump() | {"labels": labels})
    rng = np.random.default_rng(0)
    entry = {"status": "ok", "reference_ml": 1.0, "prediction_ml": 1.0, "tp": 1, "fp": 1, "fn": 1}
    cases = [
        entry | {"case_id": f"case_{n:03}", "label": name, "dice": float(rng.uniform(0.4, 1))}
        for n in range(520)
        for name in labels
    ]
    summary = {"mean": 0.7, "median": 0.7, "interval_low": 0.6, "interval_high": 0.8}
    summary |= dict.fromkeys(("num_scored", "num_missed", "num_invented", "num_both_empty"), 0)
    metrics = {"num_cases": 520, "mean_dice": 0.7, "labels": dict.fromkeys(labels, summary), "cases": cases}
    folder = fill(records, metrics)
    (folder / "task.json").write_text(task.model_dump_json())
    network = records.plan.network.model_copy(update={"out_channels": 118})
    (folder / "plan.json").write_text(records.plan.model_copy(update={"network": network}).model_dump_json())
    noise = rng.integers(0, 255, (400, 1200, 3), dtype=np.uint8)
    pictures = [CasePicture(case_id=f"case_{n:03}", role="worst", dice=0.4, jpeg=encode(noise, 25)) for n in range(5)]
    text = build_training_page(folder, pictures=pictures)
    assert len(text) < 3_000_000
    table = Page(text).find_table("case")
    assert len(table) == 501
    worst = min(compute_case_dices(metrics).items(), key=lambda item: item[1] or 0.0)
    of_worst = {entry["label"]: entry["dice"] for entry in cases if entry["case_id"] == worst[0]}
    label = min(of_worst, key=lambda name: of_worst[name])
    assert table[1] == [worst[0], f"{worst[1]:.3f}", label, f"{of_worst[label]:.3f}"]
    assert "20 better ones are in metrics.json" in text


def encode(pixels: Any, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


# ---- a page that opens anywhere and runs nothing -------------------------------------------------------------------------


def test_row_41_what_data_bring_is_text(records: ModelRecords) -> None:
    case_id, reason = f"p{SCRIPT}", f"bad {SCRIPT}{ATTRIBUTE}"
    metrics = build_metrics({case_id: {"bone": (9, 1, 1)}, ATTRIBUTE: {"bone": (9, 1, 1)}})
    metrics["failed"] = [{"case_id": case_id, "reason": reason}]
    plan = records.plan.model_copy(update={"reasons": {SCRIPT: ATTRIBUTE}})
    training = records.training.model_copy(update={"dataset": SCRIPT, "settings": {SCRIPT: ATTRIBUTE}})
    task = records.task.model_copy(update={"title": f"</title>{SCRIPT}"})
    tried = TriedStep(step=SCRIPT, is_used=False, reason=ATTRIBUTE, dice_without={}, dice_with={})
    folder = fill(records, metrics, postprocessing=Postprocessing(num_cases=1, tried=(tried,)))
    for name, record in (("plan", plan), ("training", training), ("task", task)):
        (folder / f"{name}.json").write_text(record.model_dump_json())
    picture = CasePicture(case_id=f"{case_id}{ATTRIBUTE}", role="worst", dice=0.5, jpeg=b"\xff\xd8")
    text = build_training_page(folder, pictures=[picture])
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "alert" not in page.script
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert sum(SCRIPT in line for line in page.text) >= 6  # it is there, as text
    assert SCRIPT not in text.replace(page.script, "")
    # And if escaping failed one day, the browser would still refuse: only the page's own script has this hash.
    (policy,) = [value for value in page.list_values("content") if value.startswith("default-src")]
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert policy == (f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'")


def test_the_page_needs_no_network(records: ModelRecords) -> None:
    picture = CasePicture(case_id="p1", role="worst", dice=0.5, jpeg=encode(np.zeros((4, 6, 3), np.uint8), 80))
    path = write_training_page(fill(records, METRICS, log=LOG), pictures=[picture])
    assert path == records.folder / "report.html"
    text = path.read_text()
    page = Page(text)
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"base64,[^\"]*", "", text))
    assert all(value.startswith(("data:image/", "#")) for value in page.list_values("src", "href", "action"))
    anchors = {value[1:] for value in page.list_values("href")}
    assert anchors == set(page.list_values("id"))
    embedded = [value.split(",", 1) for value in page.list_values("src")]
    kinds = [Image.open(io.BytesIO(base64.b64decode(content))).format for _, content in embedded]
    assert sorted(str(kind) for kind in kinds) == ["JPEG", "PNG", "PNG"]
    assert str(records.folder.parent) not in text  # folders may be named after patients


def test_cases_with_a_scan_have_a_viewer(records: ModelRecords, make_volume: Any) -> None:
    scan = make_volume(shape=(9, 8, 7))
    picture = CasePicture(
        case_id="p1",
        role="worst",
        dice=0.5,
        jpeg=encode(np.zeros((4, 6, 3), np.uint8), 80),
        view=build_small_view(scan, scan.with_array((scan.array > 0).astype(np.uint8))),
    )
    text = build_training_page(fill(records, METRICS, log=LOG), pictures=[picture, replace(picture, view=None)])
    Page(text).check_is_closed()
    classes = [attributes.get("class") for _, attributes in Page(text).elements]
    assert (classes.count("viewer"), text.count(read_viewer_scripts()[0].text)) == (1, 1)


def test_a_missing_value_is_an_error_not_a_blank() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError, match="description"):
        render_page("training.html", title="x")


def test_cells_sort_by_their_value() -> None:
    from medunet.reporting.page import _get_environment

    table = Table(headings=["a", "b"], rows=[["x", Cell(text="0.5", order=0.512)], ["y", Cell(text="–")]], numeric=(1,))
    template = _get_environment().from_string('{% from "parts.html" import show_table %}{{ show_table(table) }}')
    cells = [attributes for tag, attributes in Page(template.render(table=table)).elements if tag == "td"]
    assert cells == [{}, {"class": "plain number", "data-order": "0.512"}, {}, {"class": "plain number"}]


# ---- curves --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures behind the charts."""
    figures: list[Any] = []

    def keep(figure: Any, description: str) -> str:
        figures.append(figure)
        return description

    monkeypatch.setattr(training_charts, "embed_chart", keep)
    monkeypatch.setattr(box_plot, "embed_chart", keep)
    return figures


def test_the_curves_are_those_of_the_log(tmp_path: Path, drawn: list[Any]) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    draw_curves(read_curves(tmp_path / "log.csv"))
    (figure,) = drawn
    lines = {axes.get_title(loc="left"): [line.get_xydata().tolist() for line in axes.lines] for axes in figure.axes}
    assert list(lines.values()) == [
        [[[1, 2.0], [20, 0.25]]],
        [[[1, 0.1], [20, 0.6]], [[11, 0.45]]],
        [[[1, 1e-3], [20, 5e-4]]],
        [[[1, 0.25], [20, 0.01]]],
        [[[11, pytest.approx(4.5 / 10)], [20, pytest.approx(4 / 9)]]],  # seconds per iteration
    ]
    assert figure.axes[0].get_yscale() == "log"  # it falls to an eighth
    assert figure.axes[1].get_ylim() == (0, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("iteration,loss\n", {}),
        ("iteration,loss\n1,2.5\n2,1", {"loss": [[1, 2.5], [2, 1]]}),
        ("iteration,loss\n1,2.5\n2,1.\n3", {"loss": [[1, 2.5], [2, 1]]}),
        ("iteration,loss\n1,nan\n2,inf\n3,x\n4,0.5\n", {"loss": [[4, 0.5]]}),
        ("iteration,loss\n1,3\n2,2\n2,1.5\n", {"loss": [[1, 3], [2, 1.5]]}),
        ("loss\n1\n", {}),
        ("iteration,loss\n1,2,3,4\n", {"loss": [[1, 2]]}),
    ],
    ids=["empty", "no rows", "torn number", "torn row", "not finite", "done again", "no iteration", "too many cells"],
)
def test_a_log_that_is_not_whole_is_read_as_far_as_it_goes(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    (tmp_path / "log.csv").write_text(text)
    curves = {
        name: points.tolist() for name, points in read_curves(tmp_path / "log.csv").items() if name != "iteration"
    }
    assert curves == expected
    assert (draw_curves(read_curves(tmp_path / "log.csv")) is None) == (not expected)


def test_without_a_log_there_are_no_curves(tmp_path: Path) -> None:
    assert draw_curves(read_curves(tmp_path / "log.csv")) is None


def test_a_long_log_is_thinned(tmp_path: Path, drawn: list[Any]) -> None:
    rows = "".join(f"{n},{1 / n}\n" for n in range(1, 20_001))
    (tmp_path / "log.csv").write_text("iteration,loss\n" + rows)
    draw_curves(read_curves(tmp_path / "log.csv"))
    (line,) = drawn[0].axes[0].lines
    points = line.get_xydata()
    assert 700 < len(points) <= 1500
    np.testing.assert_allclose(points[:, 1], 1 / points[:, 0])


def test_every_case_has_its_dot(drawn: list[Any]) -> None:
    dices = {"bone": [0.9, 0.0, 0.8], "fat": [0.5], "muscle": []}
    draw_dice_strips(dices)
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bone", "fat"]
    (crosses,) = [line for line in axes.lines if line.get_marker() == "x"]
    strokes = [line for line in axes.lines if line.get_marker() == "None"]
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [stroke.get_xdata()[0] for stroke in strokes] == [0.8, 0.5]
    assert [line.get_xdata().tolist() for line in dots] == [[0.9, 0.8], [0.5]]
    assert crosses.get_xdata().tolist() == [0.0]
    assert round(crosses.get_ydata()[0]) == 0  # in the row of the bone
    box = axes.patches[0]
    assert (box.get_x(), box.get_x() + box.get_width()) == pytest.approx((0.4, 0.85))
    assert draw_dice_strips({"bone": []}) is None


def test_a_name_with_dollars_is_no_formula() -> None:
    assert draw_dice_strips({"$\\frac{": [0.5]}) is not None


# ---- pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dices", "expected"),
    [
        ({}, {}),
        ({"a": None}, {}),
        ({"a": 0.5}, {"a": "worst"}),
        ({"a": 0.5, "b": 0.4}, {"b": "worst", "a": "median"}),
        ({"a": 0.5, "b": 0.4, "c": None, "d": 0.6}, {"b": "worst", "a": "median", "d": "best"}),
        (
            {name: value / 10 for value, name in enumerate("abcdefghi")},
            {"a": "worst", "b": "2nd worst", "c": "3rd worst", "e": "median", "i": "best"},
        ),
    ],
)
def test_the_worst_the_middle_and_the_best_are_shown(dices: dict[str, float | None], expected: dict[str, str]) -> None:
    assert choose_cases(dices) == expected
    assert list(choose_cases(dices)) == list(expected)


@pytest.fixture
def cases(tmp_path: Path, make_densities: Any) -> list[Case]:
    listed = []
    for number in range(3):
        scan, mask = make_densities(seed=number)
        case_id = f"p{number}"
        write_nifti_image(scan, tmp_path / f"{case_id}.nii.gz")
        write_nifti_labels(mask, tmp_path / f"{case_id}_labels.nii.gz")
        listed.append(
            Case(
                case_id=case_id,
                images=(tmp_path / f"{case_id}.nii.gz",),
                labels=tmp_path / f"{case_id}_labels.nii.gz",
            )
        )
    return listed


def test_the_pictures_show_image_reference_and_mask(cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, int, int]] = []

    def look(image: Volume, prediction: Volume, reference: Volume, labels: Any, **options: Any) -> Any:
        seen.append((float(image.array.sum()), int(prediction.array.sum()), int(reference.array.sum())))
        assert options == {"modality": "CT", "window": get_task_window(ORACLE_TASK)}
        return draw(image, prediction, reference, labels, **options)

    draw = case_pictures.build_overlay
    monkeypatch.setattr(case_pictures, "build_overlay", look)

    def segment(case: Case, image: Volume) -> Volume:
        mask = np.zeros(image.array.shape, np.uint8)
        mask.flat[0] = int(case.case_id[1:])
        return image.with_array(mask)

    pictures = draw_cases(cases, ORACLE_TASK, {"p0": 0.5, "p1": 0.4, "p2": 0.9}, segment)
    assert [(picture.case_id, picture.role, picture.dice) for picture in pictures] == [
        ("p1", "worst", 0.4),
        ("p0", "median", 0.5),
        ("p2", "best", 0.9),
    ]
    assert [prediction for _, prediction, _ in seen] == [1, 0, 2]
    assert len({image for image, _, _ in seen}) == len({reference for _, _, reference in seen}) == 3
    assert all(reference > 0 for _, _, reference in seen)
    for picture in pictures:
        width, height = Image.open(io.BytesIO(picture.jpeg)).size
        assert 1400 < width < 1700
        assert 300 < height < 600
        assert len(picture.jpeg) < 300_000  # five of them leave the page below 3 MB


def test_a_case_without_pictures_is_on_the_page(records: ModelRecords) -> None:
    picture = CasePicture(case_id="p1", role="worst", dice=0.25, jpeg=None, remark="This case could not be drawn.")
    text = " ".join(Page(build_training_page(fill(records, METRICS), pictures=[picture])).text)
    assert "p1: worst, mean Dice 0.250. This case could not be drawn." in text


def test_a_case_that_can_no_longer_be_read_has_no_picture(cases: list[Case], caplog: pytest.LogCaptureFixture) -> None:
    cases[1].images[0].unlink()
    dices: dict[str, float | None] = {"p0": 0.5, "p1": 0.4, "elsewhere": 0.9}
    with caplog.at_level(logging.WARNING):
        pictures = draw_cases(
            cases, ORACLE_TASK, dices, lambda case, image: image.with_array(np.zeros_like(image.array, np.uint8))
        )
    assert [(picture.case_id, picture.jpeg is None) for picture in pictures] == [
        ("p1", True),
        ("p0", False),
        ("elsewhere", True),
    ]
    assert [record.getMessage()[:13] for record in caplog.records] == ["Case 'p1' has", "Case 'elsewhe"]
