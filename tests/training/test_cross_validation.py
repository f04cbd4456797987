"""Every case is scored once, by the network that has not seen it; what is finished is never done again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import Messages

from medunet.device import choose_precision
from medunet.errors import ModelError, VolumeError
from medunet.evaluation import build_evaluation, score_case
from medunet.inference import Predictor, load
from medunet.models import Ensemble, find_newest_model, read_model, read_records, read_single_model
from medunet.planning import Effort
from medunet.postprocessing import apply_postprocessing
from medunet.tasks import Case, load_task, read_case, read_dataset
from medunet.training import TrainingResult, train
from medunet.training.loop import Trainer
from medunet.volume import Volume

Train = Callable[..., TrainingResult]
FOLDS = (("case_0", "case_3"), ("case_1", "case_4"), ("case_2",))
NUM_FOLDS = 3


@pytest.fixture(scope="module")
def _small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Small networks and no pictures, which take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDUNET_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=2 * 16**3, features=4))
        patch.setattr("medunet.training.report._draw", lambda *arguments: [])
        # So that five cases tell how Dice follows from agreement.
        patch.setattr("medunet.postprocessing.calibration.MIN_CALIBRATION_CASES", 5)
        patch.setattr("medunet.postprocessing.calibration.LEVEL", 0.5)
        yield


@pytest.fixture(scope="module")
def train_folds(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, _small: None) -> Train:
    splits = tmp_path_factory.mktemp("splits") / "splits.csv"
    rows = [f"{case_id},{fold}" for fold, case_ids in enumerate(FOLDS) for case_id in case_ids]
    splits.write_text("\n".join(["case,fold", *rows]))

    def call(output: Path, **options: Any) -> TrainingResult:
        given: dict[str, Any] = {"fold": "cv", "budget": "2it", "deterministic": True, "device": "cpu"}
        given["splits"] = splits
        return train(tiny_data / "task.yaml", tiny_data / "data", output=output, **(given | options))

    return call


@pytest.fixture(scope="module")
def result(train_folds: Train, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """An unbroken cross-validation; nobody may change its folder."""
    return train_folds(tmp_path_factory.mktemp("unbroken") / "run")


def list_files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of what a training of a fold leaves."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def read_weights(run: Path) -> list[bytes]:
    return [(run / f"fold_{fold}" / "weights.safetensors").read_bytes() for fold in range(NUM_FOLDS)]


def read_metrics(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


def interrupt(monkeypatch: pytest.MonkeyPatch, *, num_steps: int) -> None:
    """Ctrl-C after so many steps over all folds."""
    step, made = Trainer._step, []

    def fail(self: Trainer, *arguments: Any) -> Any:
        if len(made) == num_steps:
            raise KeyboardInterrupt
        made.append(self)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", fail)


# ---- scores --------------------------------------------------------------------------------------------------------------


def test_every_case_is_kept_apart_once(result: TrainingResult) -> None:
    records = [read_records(result.folder / f"fold_{fold}").training for fold in range(NUM_FOLDS)]
    assert tuple(record.validation_cases for record in records) == FOLDS
    for fold, record in enumerate(records):
        assert record.fold == fold
        assert not set(record.validation_cases) & set(record.training_cases)
        assert len(record.validation_cases) + len(record.training_cases) == 5
    assert len(set(read_weights(result.folder))) == NUM_FOLDS


def test_every_case_is_scored_by_the_network_that_has_not_seen_it(result: TrainingResult, tiny_data: Path) -> None:
    model, task = read_records(result.folder), load_task(tiny_data / "task.yaml")
    cases = {case.case_id: case for case in read_dataset(tiny_data / "data").cases}
    raw, scores = [], []
    for fold, case_ids in enumerate(FOLDS):
        network = read_single_model(result.folder / f"fold_{fold}")
        predictor = Predictor(network, torch.device("cpu"), choose_precision(torch.device("cpu")))
        for case_id in case_ids:
            image, reference = read_case(cases[case_id], task)
            mask = predictor.segment(image)
            kept = apply_postprocessing(mask, task, model.postprocessing)
            raw += score_case(reference, mask, task.labels, case_id=case_id, ignore_value=task.ignore)
            scores += score_case(reference, kept, task.labels, case_id=case_id, ignore_value=task.ignore)
    assert result.evaluation is not None
    assert result.evaluation.scores == scores
    assert result.evaluation.raw.scores == raw  # type: ignore[attr-defined]
    metrics = read_metrics(result.folder)
    assert metrics["mean_dice"] == build_evaluation(scores).mean_dice
    assert [(one["case_id"], one["label"], one["dice"]) for one in metrics["cases"]] == [
        (one.case_id, one.label, one.dice) for one in scores
    ]
    assert model.postprocessing.num_cases == 5
    of_folds = [read_metrics(result.folder / f"fold_{fold}")["mean_dice"] for fold in range(NUM_FOLDS)]
    assert metrics["folds"] == [
        {"num_cases": len(case_ids), "mean_dice": dice} for case_ids, dice in zip(FOLDS, of_folds, strict=True)
    ]


# ---- one model -----------------------------------------------------------------------------------------------------------


def test_the_run_is_a_model_of_all_its_folds(result: TrainingResult, make_volume: Any) -> None:
    model = read_model(result.folder)
    assert isinstance(model, Ensemble)
    assert [member.folder.name for member in model.members] == ["fold_0", "fold_1", "fold_2"]
    assert model.training.num_iterations == result.num_iterations == 2 * NUM_FOLDS
    assert sorted(model.training.training_cases) == sorted(model.training.validation_cases)
    assert model.quality is not None
    assert find_newest_model(result.folder.parent) == result.folder
    scan: Volume = make_volume(shape=(20, 18, 16), spacing=(1.0, 1.0, 1.5))
    segmenter = load(result.folder, device="cpu")
    mask = Predictor(model, segmenter.device, segmenter.precision).segment(scan)
    expected = apply_postprocessing(mask, model.task, model.postprocessing)
    assert np.array_equal(segmenter.segment(scan).labels.array, expected.array)
    alone = load(result.folder / "fold_0", device="cpu").segment(scan).labels.array
    assert not np.array_equal(alone, mask.array)


def test_who_asks_for_mirrored_passes_is_told_the_dice_although_they_gain_too_little(
    result: TrainingResult, tiny_data: Path, tmp_path: Path
) -> None:
    """From training to the flag: validation made none, so what their agreement says was learnt where speeds were measured."""
    run = shutil.copytree(result.folder, tmp_path / "run")
    records = read_records(run)
    assert records.speed is not None
    assert not records.speed.uses_flips
    assert records.quality is not None
    for name, row in records.quality.labels.items():
        assert row.dice_calibration is not None, name
        assert (row.dice_calibration.members, row.dice_calibration.num_cases) == ("2 flips", 5)
    quality = json.loads((run / "quality.json").read_text())
    for row in quality["labels"].values():
        row["dice_calibration"]["poor_dice"] = 0.99  # what such a training makes would be poor in any other
    (run / "quality.json").write_text(json.dumps(quality))
    scan = tiny_data / "data" / "images" / "case_0.nii.gz"
    found = load(run, device="cpu", speed="best").segment(scan)
    (dice,) = {flag.found for flag in found.flags if (flag.code, flag.label) == ("predicted-dice", "left")}
    seen = records.quality.labels["left"].dice
    assert seen is not None
    assert dice == pytest.approx(seen.median, abs=0.1)
    for options in ({}, {"speed": "fast", "flips": "all"}):  # one pass; passes at other steps
        flags = load(run, device="cpu", **options).segment(scan).flags
        assert "predicted-dice" not in {flag.code for flag in flags}


def test_the_page_and_the_card_say_what_it_is(result: TrainingResult) -> None:
    page = (result.folder / "report.html").read_text()
    assert f"cross-validation: {NUM_FOLDS} networks" in page
    assert f"{NUM_FOLDS} networks, each of which has not seen one fold" in (result.folder / "card.md").read_text()
    assert not (result.folder / "state" / "masks").exists()


# ---- interruptions -------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_never_done_again(
    train_folds: Train, result: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the middle of fold 1, then before the folds are put together."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, num_steps=3)
        with pytest.raises(KeyboardInterrupt):
            train_folds(run)
    assert not (run / "ensemble.json").exists()
    finished = list_files(run / "fold_0")
    assert {"weights.safetensors", "metrics.json"} <= finished.keys()
    with monkeypatch.context() as patch:
        patch.setattr("medunet.training.cross_validation.write_ensemble", _raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_folds(run, resume=True)
    assert list_files(run / "fold_0") == finished
    assert read_weights(run) == read_weights(result.folder)
    before = [list_files(run / f"fold_{fold}") for fold in range(NUM_FOLDS)]
    with monkeypatch.context() as patch:
        interrupt(patch, num_steps=0)
        patch.setattr("medunet.training.cross_validation.Predictor", _refuse)  # the masks are still there
        resumed = train_folds(run, resume=True)
    assert [list_files(run / f"fold_{fold}") for fold in range(NUM_FOLDS)] == before
    assert read_metrics(run) == read_metrics(result.folder)
    assert resumed.num_iterations == result.num_iterations


def test_a_finished_run_is_left_as_it_is_found(
    train_folds: Train, result: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its masks are gone; resuming must neither lose the scores nor train."""
    run = shutil.copytree(result.folder, tmp_path / "run")
    before = [list_files(run / f"fold_{fold}") for fold in range(NUM_FOLDS)]
    interrupt(monkeypatch, num_steps=0)
    resumed = train_folds(run, resume=True)
    assert [list_files(run / f"fold_{fold}") for fold in range(NUM_FOLDS)] == before
    assert read_metrics(run) == read_metrics(result.folder)
    assert resumed.evaluation is not None
    assert resumed.evaluation.scores == result.evaluation.scores  # type: ignore[union-attr]


def test_a_finished_fold_that_learnt_from_other_cases_is_refused(
    train_folds: Train, result: TrainingResult, tmp_path: Path
) -> None:
    """It would be scored on cases that it knows."""
    run = shutil.copytree(result.folder, tmp_path / "run")
    splits = tmp_path / "splits.csv"
    splits.write_text("case,fold\ncase_0,0\ncase_1,0\ncase_3,1\ncase_4,1\ncase_2,2\n")
    settings = run / "state" / "settings.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"splits": str(splits)}))
    with pytest.raises(
        ModelError,
        match=r"fold_0 was trained with other cases: 1 case moved from training to validation: case_1; 1 case moved from "
        r"validation to training: case_3\. Restore .* or start a new training",
    ):
        train_folds(run, resume=True)


def _raise_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _refuse(*_: Any) -> None:
    pytest.fail("a case is segmented again")


# ---- one bad case --------------------------------------------------------------------------------------------------------


def test_row_67_a_case_that_cannot_be_scored_costs_only_itself(
    train_folds: Train, result: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One failed when its fold was trained, another one fails now."""
    from medunet.training import validation

    run = shutil.copytree(result.folder, tmp_path / "run")
    failed = [{"case_id": "case_1", "reason": "case_1.nii.gz is cut off."}]
    of_fold = read_metrics(run / "fold_1") | {"failed": failed}
    (run / "fold_1" / "metrics.json").write_text(json.dumps(of_fold))
    read = validation.read_case

    def fail(case: Case, *arguments: Any) -> Any:
        if case.case_id == "case_4":
            msg = "case_4.nii.gz is no NIfTI file."
            raise VolumeError(msg)
        return read(case, *arguments)

    monkeypatch.setattr(validation, "read_case", fail)
    interrupt(monkeypatch, num_steps=0)
    train_folds(run, resume=True)
    metrics, whole = read_metrics(run), read_metrics(result.folder)
    assert metrics["failed"] == [*failed, {"case_id": "case_4", "reason": "case_4.nii.gz is no NIfTI file."}]
    assert {one["case_id"] for one in metrics["cases"]} == {"case_0", "case_2", "case_3"}
    assert (metrics["num_cases"], whole["num_cases"]) == (3, 5)


def test_a_case_that_two_folds_keep_apart_is_scored_once(train_folds: Train, tmp_path: Path) -> None:
    """Own splits may repeat a case; one of the folds that kept it apart counts."""
    splits = [{"train": ["case_1"], "val": ["case_0"]}, {"train": ["case_2"], "val": ["case_0", "case_1"]}]
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    observer = Messages()
    found = train_folds(tmp_path / "run", splits=tmp_path / "splits.json", observer=observer)
    metrics = read_metrics(found.folder)
    assert [one["case_id"] for one in metrics["cases"]] == ["case_0", "case_0", "case_1", "case_1"]
    assert {"Fold 0 of 2", "Fold 1 of 2"} <= set(observer.texts)


def test_where_the_runs_lie_is_not_told(result: TrainingResult, tiny_data: Path) -> None:
    for path in result.folder.rglob("*"):
        if path.is_file() and "state" not in path.parts:
            assert os.fsencode(tiny_data) not in path.read_bytes(), path.name
