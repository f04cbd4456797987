"""Scores as files: JSON, nnU-Net's summary; and what is said about them in words."""

import json
import math

import numpy as np
import pytest
from real_pairs import MOVED, PAIRS, read_pair

from medunet.evaluation import (
    MetricSettings,
    describe_evaluation,
    evaluate,
    give_advice,
    summarize_metrics,
    write_nnunet_summary,
    write_scores_csv,
)
from medunet.io import write_nifti_labels
from medunet.tasks import Task
from medunet.volume import Volume

REGIONS = Task(
    name="tumour-mr", title="", modality="MR", channels=("t1",), labels={"whole": [1, 2], "core": [2]},
    intensity="zscore",
)  # fmt: skip


def write_case(folder, name, values):
    volume = Volume(np.array(values, np.uint8).reshape(1, 2, 2, -1), np.diag([1.0, 1.0, 3.0, 1.0]))
    write_nifti_labels(volume, folder / f"{name}.nii.gz")


@pytest.fixture
def folders(tmp_path):
    """p1: one voxel too many; p2: missed; p3: neither side has anything."""
    for name, mask, reference in (
        ("p1", [1, 1, 0, 0, 2, 0, 0, 0], [1, 0, 0, 0, 2, 0, 0, 0]),
        ("p2", [0] * 8, [2, 2, 0, 0, 0, 0, 0, 0]),
        ("p3", [0] * 8, [0] * 8),
    ):
        write_case(tmp_path / "masks", name, mask)
        write_case(tmp_path / "labels", name, reference)
    return tmp_path / "masks", tmp_path / "labels"


def test_summaries_by_hand(folders):
    summaries = {(s.label, s.metric): s for s in summarize_metrics(evaluate(*folders, task=REGIONS).scores)}
    dice = summaries["whole", "dice"]  # 4/5 and 0
    assert (dice.mean, dice.median, dice.lower_quartile, dice.upper_quartile) == pytest.approx((0.4, 0.4, 0.2, 0.6))
    assert (dice.num_scored, dice.num_missed, dice.num_invented, dice.num_both_empty) == (2, 1, 0, 1)
    assert dice.worst_cases == ("p2", "p1")
    diagonal = math.sqrt(4 + 4 + 36)
    assert summaries["whole", "hd_mm"].worst_cases[0] == "p2"
    assert summaries["core", "hd_mm"].mean == pytest.approx(diagonal / 2)
    error = summaries["whole", "volume_error_ml"]  # +1 and -2 voxels of 3 mm³: further from 0 is worse
    assert error.mean == pytest.approx(-0.0015)
    assert error.worst_cases == ("p2", "p1")


def test_json_holds_everything_and_is_strict(folders):
    content = json.loads(json.dumps(describe_evaluation(evaluate(*folders, task=REGIONS)), allow_nan=False))
    assert content["num_cases"] == 2  # of the third, neither side has anything
    assert content["mean_dice"] == pytest.approx((0.4 + 0.5) / 2)
    assert {row["metric"] for row in content["summary"]} >= {"dice", "nsd", "hd95_mm", "assd_mm", "recall"}
    assert content["cases"][0]["case_id"] == "p1"
    assert [row["pixel_accuracy"] for row in content["agreement"]] == [7 / 8, 6 / 8, 1.0]
    assert any("missed in 1 of 2" in text for text in content["advice"])


def test_csv_has_every_metric(folders, tmp_path):
    import csv

    write_scores_csv(evaluate(*folders, task=REGIONS, settings=MetricSettings(tolerance_mm=1)), tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["iou"] == "0.666667"
    assert rows[0]["tn"] == "5"
    assert rows[0]["tolerance_mm"] == "1"
    assert rows[-1]["status"] == "both-empty"
    assert rows[-1]["hd95_mm"] == ""


def test_nnunet_summary_by_hand(folders, tmp_path):
    write_nnunet_summary(evaluate(*folders, task=REGIONS), tmp_path / "summary.json")
    content = json.loads((tmp_path / "summary.json").read_text())
    assert list(content) == ["foreground_mean", "mean", "metric_per_case"]
    assert list(content["mean"]) == ["(1, 2)", "2"]
    first, second, third = content["metric_per_case"]
    assert first["reference_file"] == str(folders[1] / "p1.nii.gz")
    assert first["metrics"]["(1, 2)"] == {
        "Dice": 4 / 5, "IoU": 2 / 3, "FP": 1, "TP": 2, "FN": 0, "TN": 5, "n_pred": 3, "n_ref": 2,
    }  # fmt: skip
    assert second["metrics"]["2"]["Dice"] == 0
    assert math.isnan(third["metrics"]["2"]["Dice"])
    assert content["mean"]["(1, 2)"]["Dice"] == pytest.approx(0.4)  # without what neither side has
    assert content["mean"]["(1, 2)"]["FP"] == pytest.approx(1 / 3)
    assert content["foreground_mean"]["Dice"] == pytest.approx(0.45)


@pytest.mark.bench
@pytest.mark.parametrize("task", [None, REGIONS], ids=["values", "regions"])
def test_nnunet_summary_is_that_of_nnunet(folders, tmp_path, task):
    """The same numbers in the same form, exactly."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    rng = np.random.default_rng(0)
    for name in ("p4", "p5", "p6"):
        for folder in folders:
            write_case(folder, name, rng.integers(0, 3, 40))
    labels = [1, 2] if task is None else [(1, 2), 2]
    with np.errstate(invalid="ignore"):
        compute_metrics_on_folder(
            str(folders[1]),
            str(folders[0]),
            str(tmp_path / "theirs.json"),
            SimpleITKIO(),
            ".nii.gz",
            labels,
            num_processes=1,
        )
    write_nnunet_summary(evaluate(*folders, task=task), tmp_path / "ours.json")
    theirs, ours = (json.loads((tmp_path / name).read_text()) for name in ("theirs.json", "ours.json"))
    assert list(ours) == list(theirs)
    assert len(ours["metric_per_case"]) == len(theirs["metric_per_case"]) == 6
    for one, other in zip(ours["metric_per_case"], theirs["metric_per_case"], strict=True):
        assert one["reference_file"] == other["reference_file"]
        assert one["metrics"].keys() == other["metrics"].keys()
        for label, metrics in one["metrics"].items():
            assert metrics == pytest.approx(other["metrics"][label], rel=1e-15, nan_ok=True)
    for label in theirs["mean"]:
        assert ours["mean"][label] == pytest.approx(theirs["mean"][label], rel=1e-12)
    assert ours["foreground_mean"] == pytest.approx(theirs["foreground_mean"], rel=1e-12)


def test_the_task_gives_tolerances(folders):
    task = REGIONS.model_copy(update={"tolerances_mm": {"core": 0.5}})
    assert {s.label: s.tolerance_mm for s in evaluate(*folders, task=task).scores} == {"whole": 2.0, "core": 0.5}
    settings = MetricSettings(tolerance_mm=1)
    assert {s.tolerance_mm for s in evaluate(*folders, task=task, settings=settings).scores} == {1}


@pytest.mark.bench
@pytest.mark.realdata
@pytest.mark.parametrize("pair", PAIRS)
def test_real_labels_beside_nnunet(real_data, tmp_path, pair):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    paths = tmp_path / "mask.nii.gz", tmp_path / "reference.nii.gz"
    for path, side in zip(paths[::-1], read_pair(real_data, pair), strict=True):
        write_nifti_labels(side, path)
    mask, reference = paths
    labels = {"a": (1,), "b": (2,), "both": (1, 2)} if pair == MOVED else {"organ": (1,)}
    regions = [values if len(values) > 1 else values[0] for values in labels.values()]
    theirs = compute_metrics(str(reference), str(mask), SimpleITKIO(), regions)["metrics"]
    scores = evaluate(mask, reference, task=REGIONS.model_copy(update={"labels": labels})).scores
    assert len(scores) == len(theirs) == len(labels)
    for score, expected in zip(scores, theirs.values(), strict=True):
        assert (score.dice, score.iou) == (expected["Dice"], expected["IoU"])
        assert [score.tp, score.fp, score.fn, score.tn] == [expected[name] for name in ("TP", "FP", "FN", "TN")]


# ---- words -------------------------------------------------------------------------------------------------------------


def test_words_where_numbers_mislead(folders):
    text = " ".join(give_advice(evaluate(*folders, task=REGIONS, settings=MetricSettings(tolerance_mm=1))))
    assert "3 case(s): bootstrap intervals" in text
    assert "whole (median 2 voxels), core (median 2 voxels): references are tiny" in text
    assert "whole (missed in 1 of 2), core (missed in 1 of 2): missed structures count" in text
    assert "whole (1 empty, 0 of them invented), core (1 empty" in text
    assert "whole (1 mm, voxels of up to 3 mm)" in text


def test_many_labels_make_one_line(tmp_path):
    for folder in ("masks", "labels"):
        write_case(tmp_path / folder, "p1", range(1, 41))
    _, tiny = give_advice(evaluate(tmp_path / "masks", tmp_path / "labels"))
    assert "label 6 (median 1 voxels) and 34 more: references are tiny" in tiny


def test_no_words_where_nothing_misleads(tmp_path):
    for number in range(10):
        for folder in ("masks", "labels"):
            write_case(tmp_path / folder, f"p{number}", [1] * 400)
    assert give_advice(evaluate(tmp_path / "masks", tmp_path / "labels")) == []
