"""The best of several cross-validations: scored on cases that no network has seen, chosen by rule, written to travel."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import CASES, COARSE_PLAN, FOLDS, PLAN, TASK, write_blobs, write_network, write_run
from oracles import build_record

from medunet.device import choose_precision
from medunet.errors import DatasetError, InputError, ModelError, OutputError
from medunet.evaluation import build_evaluation, score_case
from medunet.inference import Predictor, load
from medunet.models import Ensemble, Postprocessing, read_model, read_records, read_single_model
from medunet.postprocessing import apply_postprocessing
from medunet.tasks import Task, read_case, read_dataset
from medunet.training import Observer
from medunet.training.candidates import Candidate, choose_best
from medunet.training.comparable_runs import FoldedRun, read_comparable_runs
from medunet.training.selection import Selection, select
from medunet.training.validation import Validation

CPU = torch.device("cpu")
NO_PICTURES: list[Any] = []


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("blobs") / "data")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "fine", seed=0), write_run(folder / "coarse", plan=COARSE_PLAN, seed=1)


@pytest.fixture(scope="module")
def selection(runs: tuple[Path, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Selection:
    return select(runs, data, output=tmp_path_factory.mktemp("selected") / "model", device="cpu")


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of the time, and one test looks at them."""
    monkeypatch.setattr("medunet.training.report._draw", lambda *arguments: NO_PICTURES)


def get_candidate(selection: Selection, name: str) -> Candidate:
    (candidate,) = [one for one in selection.candidates if one.name == name]
    return candidate


def segment_by_hand(runs: tuple[Path, ...], case_id: str, data: Path) -> Any:
    """The mask of a case by the networks whose fold kept it apart."""
    fold = next(number for number, case_ids in enumerate(FOLDS) if case_id in case_ids)
    members = tuple(read_single_model(run / f"fold_{fold}") for run in runs)
    model = Ensemble(folder=runs[0], task=TASK, plan=PLAN, training=build_record(), metrics={}, members=members)
    case = next(case for case in read_dataset(data).cases if case.case_id == case_id)
    image, reference = read_case(case, TASK)
    return reference, Predictor(model, CPU, choose_precision(CPU)).segment(image)


# ---- scores --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fine", "coarse", "fine + coarse"])
def test_every_case_is_scored_once_by_networks_that_have_not_seen_it(
    selection: Selection, runs: tuple[Path, Path], data: Path, name: str
) -> None:
    candidate = get_candidate(selection, name)
    chosen = tuple(run for run in runs if run.name in name)
    raw, processed = [], []
    for case_id in ("case_0", "case_2", "case_1"):  # fold after fold
        reference, mask = segment_by_hand(chosen, case_id, data)
        raw += score_case(reference, mask, TASK.labels, case_id=case_id)
        mask = apply_postprocessing(mask, TASK, candidate.validation.postprocessing)
        processed += score_case(reference, mask, TASK.labels, case_id=case_id)
    assert candidate.validation.raw.scores == raw
    assert candidate.validation.scores == processed
    assert candidate.mean_dice == build_evaluation(processed).mean_dice
    assert candidate.num_networks == 2 * len(chosen)


def test_every_run_and_every_pair_is_a_candidate(selection: Selection) -> None:
    assert [candidate.name for candidate in selection.candidates] == ["fine", "coarse", "fine + coarse"]
    dices = [candidate.mean_dice for candidate in selection.candidates]
    assert len(set(dices)) == 3
    assert selection.best.mean_dice == max(dices)  # type: ignore[type-var]


def test_each_candidate_has_the_post_processing_that_helps_it(selection: Selection) -> None:
    for candidate in selection.candidates:
        assert candidate.validation.postprocessing.num_cases == 3
        assert candidate.mean_dice >= candidate.validation.raw.mean_dice  # type: ignore[operator]
    assert len({str(candidate.validation.postprocessing.tried) for candidate in selection.candidates}) == 3


def test_every_network_sees_a_case_once(
    runs: tuple[Path, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_pictures: None
) -> None:
    from medunet.inference import predictor

    compute, calls = predictor.collect_logits, []

    def count(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return compute(*arguments, **options)

    monkeypatch.setattr(predictor, "collect_logits", count)
    select(runs, data, output=tmp_path / "model", device="cpu")
    assert len(calls) == 2 * len(CASES)


def test_runs_of_one_plan_average_logits(data: Path, tmp_path: Path, without_pictures: None) -> None:
    pair = write_run(tmp_path / "a", seed=3), write_run(tmp_path / "b", seed=4)
    selection = select(pair, data, output=tmp_path / "model", device="cpu")
    candidate = get_candidate(selection, "a + b")
    for case_id in CASES:
        reference, mask = segment_by_hand(pair, case_id, data)
        expected = score_case(reference, mask, TASK.labels, case_id=case_id)
        found = [score for score in candidate.validation.raw.scores if score.case_id == case_id]
        # Logits of both are averaged per tile there and after stitching here; a tie may fall to the other side.
        assert [score.dice for score in found] == pytest.approx([score.dice for score in expected], abs=0.01)


def test_without_ensembles_only_runs_compete(
    runs: tuple[Path, Path], data: Path, tmp_path: Path, selection: Selection, without_pictures: None
) -> None:
    alone = select(runs, data, output=tmp_path / "model", ensembles=False, device="cpu")
    assert [candidate.name for candidate in alone.candidates] == ["fine", "coarse"]
    assert [one.validation.scores for one in alone.candidates] == [
        one.validation.scores for one in selection.candidates[:2]
    ]


# ---- the choice ----------------------------------------------------------------------------------------------------------


def make_candidate(runs: tuple[FoldedRun, ...], dice: float | None) -> Candidate:
    """A candidate whose mean Dice is given."""
    evaluation = build_evaluation([])
    validation = Validation(
        scores=[], summaries=[], failures=[], unmatched=[], raw=evaluation, postprocessing=Postprocessing()
    )

    class Known(Candidate):
        @property
        def mean_dice(self) -> float | None:
            return dice

    return Known(runs=runs, validation=validation)


@pytest.mark.parametrize(
    ("dices", "expected"),
    [
        ({"a": 0.8, "b": 0.9, "ab": 0.85}, "b"),
        ({"a": 0.8, "b": 0.9, "ab": 0.9006}, "ab"),
        ({"a": 0.8, "b": 0.9, "ab": 0.9004}, "b"),
        ({"a": 0.9002, "b": 0.9, "ab": 0.9004}, "a"),
        ({"a": 0.9, "b": 0.9002, "ab": 0.9004}, "b"),
        ({"a": 0.9, "b": 0.9, "ab": 0.9}, "a"),
        ({"a": None, "b": 0.2, "ab": None}, "b"),
        ({"a": 0.9, "b": 0.9004, "ab": 0.7}, "b"),  # as cheap as the other: the higher one
        ({"a": 0.1, "b": 0.2, "ab": 0.9}, "ab"),
    ],
)
def test_a_pair_must_beat_a_run_by_more_than_rounding(
    runs: tuple[Path, Path], dices: dict[str, float | None], expected: str
) -> None:
    both = dict(zip("ab", read_comparable_runs(runs), strict=True))
    candidates = {name: make_candidate(tuple(both[one] for one in name), dice) for name, dice in dices.items()}
    best, reason = choose_best(list(candidates.values()))
    assert best is candidates[expected]
    assert f"{dices[expected]:.4f}" in reason
    highest = max(dice for dice in dices.values() if dice is not None)
    assert ("as good within rounding" in reason) == (dices[expected] != highest)


def test_where_nothing_is_scored_nothing_is_chosen(runs: tuple[Path, Path]) -> None:
    both = tuple(read_comparable_runs(runs))
    with pytest.raises(InputError, match="No case could be scored"):
        choose_best([make_candidate((run,), None) for run in both])


# ---- the model -----------------------------------------------------------------------------------------------------------


def list_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_pair_becomes_an_ensemble_of_all_its_folds(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_pictures: None
) -> None:
    pair = write_run(tmp_path / "fine", seed=0), write_run(tmp_path / "coarse", plan=COARSE_PLAN, seed=1)
    before = [list_files(run) for run in pair]
    monkeypatch.setattr("medunet.training.selection.choose_best", lambda candidates: (candidates[2], "a test wants it"))
    selection = select(pair, data, output=tmp_path / "model", device="cpu")
    assert [list_files(run) for run in pair] == before
    everything = [read_single_model(run / f"fold_{fold}") for run in pair for fold in range(2)]
    shutil.rmtree(pair[0])
    shutil.rmtree(pair[1])  # the model needs them no more
    model = read_model(tmp_path / "model")
    assert [member.folder.name for member in model.members] == [
        "fine-fold_0", "fine-fold_1", "coarse-fold_0", "coarse-fold_1"
    ]  # fmt: skip
    for member, source in zip(model.members, everything, strict=True):
        weights, expected = member.network.state_dict(), source.network.state_dict()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert model.postprocessing == selection.candidates[2].validation.postprocessing
    assert model.training.num_iterations == 16
    metrics = model.metrics
    assert metrics["mean_dice"] == selection.candidates[2].mean_dice
    assert metrics["num_networks"] == 4
    card = (tmp_path / "model" / "card.md").read_text()
    assert "4 networks, each of which has not seen one fold" in card
    assert "1 x 1.25 x 2 mm, patches of 8 x 12 x 8; 1.5 x 1.5 x 2.5 mm, patches of 8 x 8 x 8" in card
    assert "| **fine + coarse** |" in card


def test_the_model_segments_with_all_networks_of_the_best(selection: Selection, data: Path) -> None:
    case = read_dataset(data).cases[0]
    image, _ = read_case(case, TASK)
    members = tuple(read_single_model(fold.folder) for run in selection.best.runs for fold in run.folds)
    ensemble = Ensemble(folder=Path("x"), task=TASK, plan=PLAN, training=build_record(), metrics={}, members=members)
    mask = Predictor(ensemble, CPU, choose_precision(CPU)).segment(image)
    expected = apply_postprocessing(mask, TASK, selection.best.validation.postprocessing)
    assert np.array_equal(load(selection.folder, device="cpu").segment(image).labels.array, expected.array)


def test_a_single_run_keeps_the_names_of_its_folds(
    runs: tuple[Path, Path], data: Path, tmp_path: Path, without_pictures: None
) -> None:
    selection = select(runs, data, output=tmp_path / "model", ensembles=False, device="cpu")
    (best,) = selection.best.runs
    model = read_model(tmp_path / "model")
    assert [member.folder.name for member in model.members] == ["fold_0", "fold_1"]
    for member in model.members:
        copied, source = member.folder, best.records.folder / member.folder.name
        assert list_files(copied) == list_files(source)
    again = select([tmp_path / "model", runs[0]], data, output=tmp_path / "again", device="cpu")
    assert get_candidate(again, "model").validation.scores == selection.best.validation.scores


def test_the_numbers_of_all_candidates_are_kept(selection: Selection) -> None:
    metrics = json.loads((selection.folder / "metrics.json").read_text())
    assert [one["name"] for one in metrics["candidates"]] == ["fine", "coarse", "fine + coarse"]
    for entry, candidate in zip(metrics["candidates"], selection.candidates, strict=True):
        assert entry["mean_dice"] == candidate.mean_dice
        assert entry["labels"] == {one.label: one.mean for one in candidate.validation.summaries}
        assert entry["num_cases"] == 3
        low, high = entry["interval_95"]
        of_cases = candidate.validation.mean_dice_per_case().values()
        assert min(of_cases) <= low <= np.mean(list(of_cases)) <= high <= max(of_cases)  # type: ignore[arg-type, type-var]
        assert entry["is_chosen"] == (candidate is selection.best)
    assert [one["configurations"] for one in metrics["candidates"]] == [["3d"], ["3d"], ["3d", "3d"]]
    assert [fold["num_cases"] for fold in metrics["folds"]] == [2, 1]
    of_second = [entry["dice"] for entry in metrics["cases"] if entry["case_id"] == "case_1"]
    assert metrics["folds"][1]["mean_dice"] == pytest.approx(np.mean(of_second))
    assert len(metrics["cases"]) == 3 * 2


def test_the_page_of_the_model_has_numbers_and_pictures(selection: Selection) -> None:
    page = (selection.folder / "report.html").read_text()
    assert "cross-validation" in page
    assert page.count('src="data:image/jpeg') == 6  # worst, median, best: contours, and where they are wrong
    assert f"{selection.best.mean_dice:.3f}" in page


def test_nothing_of_the_machine_is_in_the_model(selection: Selection, runs: tuple[Path, Path], data: Path) -> None:
    for name, content in list_files(selection.folder).items():
        for folder in (*runs, data):
            assert str(folder.parent).encode() not in content, name


def test_ranges_of_quality_tell_the_new_dice(data: Path, tmp_path: Path, without_pictures: None) -> None:
    from medunet.postprocessing import compute_quality_ranges, fit_dice_calibration

    agreements = [0.8 + 0.01 * case for case in range(12)]
    calibration = fit_dice_calibration(agreements, agreements, members="8 flips")
    assert calibration is not None
    pair = write_run(tmp_path / "a", seed=3), write_run(tmp_path / "b", seed=4)
    ranges = compute_quality_ranges(
        read_dataset(data).cases,
        TASK,
        dices={"left": [0.125], "right": [0.25]},
        calibrations={"left": calibration},
    )
    assert ranges is not None
    assert ranges.labels["left"].dice_calibration == calibration
    for run in pair:
        (run / "quality.json").write_text(ranges.model_dump_json())
    selection = select(pair, data, output=tmp_path / "model", device="cpu")
    found = read_records(tmp_path / "model").quality
    assert found is not None
    dices = [score.dice for score in selection.best.validation.scores if score.label == "left"]
    assert found.labels["left"].dice is not None
    assert found.labels["left"].dice.maximum == max(dices)  # type: ignore[type-var]
    assert found.labels["left"].volume_ml == ranges.labels["left"].volume_ml
    assert found.labels["left"].dice_calibration is None  # of other members


# ---- one bad case --------------------------------------------------------------------------------------------------------


def test_row_67_a_case_that_cannot_be_read_is_left_out_of_every_candidate(
    runs: tuple[Path, Path],
    data: Path,
    tmp_path: Path,
    selection: Selection,
    caplog: pytest.LogCaptureFixture,
    without_pictures: None,
) -> None:
    broken = shutil.copytree(data, tmp_path / "data")
    image = broken / "images" / "case_2.nii.gz"
    image.write_bytes(image.read_bytes()[:80])
    with caplog.at_level(logging.WARNING, logger="medunet"):
        found = select(runs, broken, output=tmp_path / "model", device="cpu")
    for candidate, whole in zip(found.candidates, selection.candidates, strict=True):
        (failure,) = candidate.validation.failures
        assert failure.case_id == "case_2"
        expected = [score for score in whole.validation.raw.scores if score.case_id != "case_2"]
        assert candidate.validation.raw.scores == expected
    assert sum("case_2" in record.getMessage() for record in caplog.records) == 1
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    (entry,) = metrics["failed"]
    assert "case_2.nii.gz" in entry["reason"]
    assert str(tmp_path) not in entry["reason"]
    assert metrics["num_cases"] == 2


def test_a_case_that_one_candidate_has_no_memory_for_is_in_no_mean(
    runs: tuple[Path, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_pictures: None
) -> None:
    from medunet.training import selection as module

    restore, calls = module.restore_predictions, []

    def fail(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:  # the pair, on the first case
            raise MemoryError
        return restore(*arguments)

    monkeypatch.setattr(module, "restore_predictions", fail)
    found = select(runs, data, output=tmp_path / "model", device="cpu")
    for candidate in found.candidates:
        assert [failure.case_id for failure in candidate.validation.failures] == ["case_0"]
        assert {score.case_id for score in candidate.validation.scores} == {"case_1", "case_2"}


def test_when_no_case_can_be_read_nothing_is_written(runs: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(data, tmp_path / "data")
    for image in (broken / "images").iterdir():
        image.write_bytes(image.read_bytes()[:80])
    with pytest.raises(InputError, match=r"No case could be scored.*The first:"):
        select(runs, broken, output=tmp_path / "model", device="cpu")
    assert not (tmp_path / "model").exists()


def test_every_case_is_reported(runs: tuple[Path, Path], data: Path, tmp_path: Path, without_pictures: None) -> None:
    seen: list[tuple[str, int, int]] = []

    class Recorder(Observer):
        def on_case(self, stage: str, case_id: str, num_done: int, num_cases: int) -> None:
            seen.append((case_id, num_done, num_cases))

    select(runs, data, output=tmp_path / "model", device="cpu", observer=Recorder())
    assert seen == [("case_0", 1, 3), ("case_2", 2, 3), ("case_1", 3, 3)]


def test_a_full_disk_leaves_nothing_behind(
    runs: tuple[Path, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_pictures: None
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        msg = "Cannot write card.md: the disk is full."
        raise OutputError(msg)

    monkeypatch.setattr("medunet.training.selected_model.write_results", fail)
    with pytest.raises(OutputError, match=r"card\.md: the disk is full"):
        select(runs, data, output=tmp_path / "models" / "model", device="cpu")
    assert list((tmp_path / "models").iterdir()) == []


# ---- what cannot be compared ---------------------------------------------------------------------------------------------


def check_refused(runs: list[Path], data: Path, tmp_path: Path, words: str, kind: type[Exception] = InputError) -> None:
    with pytest.raises(kind, match=words):
        select(runs, data, output=tmp_path / "model", device="cpu")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ((("case_0", "case_1"), ("case_2",)), "fold 0 of one validates case_2, that of other does not"),
        ((("case_1",), ("case_0", "case_2")), "fold 0 of one validates case_0, case_2, that of other does not"),
        ((("case_0",), ("case_1",), ("case_2",)), "one has 2 folds, other has 3"),
        ((("case_0", "case_2"), ("case_1", "case_3")), "fold 0 of other learns from case_3, that of one does not"),
    ],
)
def test_other_folds_are_named(data: Path, tmp_path: Path, folds: tuple[tuple[str, ...], ...], words: str) -> None:
    pair = [write_run(tmp_path / "one"), write_run(tmp_path / "other", folds=folds)]
    check_refused(pair, data, tmp_path, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"left": [1], "right": [2]}}, r"labels \{'left': \[1\], 'right': \[3\]\} against"),
        ({"labels": {"right": [3], "left": [1]}}, "labels"),
        ({"ignore": 9}, "ignored value None against 9"),
        ({"modality": "CT"}, "modality MR against CT"),
    ],
)
def test_another_task_is_named(data: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    task = Task.model_validate(TASK.model_dump() | changes)
    pair = [write_run(tmp_path / "one"), write_run(tmp_path / "other", task=task)]
    check_refused(pair, data, tmp_path, f"one and other differ in their task: {words}")


def test_a_single_model_has_nothing_to_be_compared_by(runs: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    alone = write_network(tmp_path / "alone")
    check_refused([runs[0], alone], data, tmp_path, "alone is a single model; expected a cross-validation", ModelError)
    check_refused([runs[0]], data, tmp_path, "There is 1 run to compare; expected two or more")
    check_refused([runs[0], runs[0] / ".." / "fine"], data, tmp_path, "is named twice")
    check_refused([runs[0], tmp_path / "nowhere"], data, tmp_path, "nowhere does not exist", ModelError)


def test_networks_that_saw_all_cases_are_refused(runs: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs[0], tmp_path / "run")
    path = run / "fold_1" / "training.json"
    path.write_text(path.read_text().replace('"training_cases": [', '"training_cases": ["case_1", '))
    check_refused([runs[1], run], data, tmp_path, "fold_1 kept no cases apart from its training", ModelError)


def test_a_pair_is_no_cross_validation(
    runs: tuple[Path, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_pictures: None
) -> None:
    monkeypatch.setattr("medunet.training.selection.choose_best", lambda candidates: (candidates[2], "test"))
    select(runs, data, output=tmp_path / "pair", device="cpu")
    check_refused(
        [runs[0], tmp_path / "pair"],
        data,
        tmp_path,
        "several networks for case_0, case_2; expected one per fold",
        ModelError,
    )


def test_a_dataset_without_a_case_is_refused(runs: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    fewer = shutil.copytree(data, tmp_path / "data")
    for name in ("images", "labels"):
        (fewer / name / "case_1.nii.gz").unlink()
    check_refused(list(runs), fewer, tmp_path, "lacks case_1 of 3 cases on which fine was validated", DatasetError)


def test_cases_that_no_run_knows_are_passed_over(
    runs: tuple[Path, Path], data: Path, tmp_path: Path, selection: Selection, without_pictures: None
) -> None:
    more = shutil.copytree(data, tmp_path / "data")
    for name in ("images", "labels"):
        shutil.copy(more / name / "case_1.nii.gz", more / name / "case_9.nii.gz")
    found = select(runs, more, output=tmp_path / "model", device="cpu")
    assert found.best.validation.scores == selection.best.validation.scores


def test_the_output_replaces_nothing(runs: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="lies within a run that is compared"):
        select(runs, data, output=runs[1] / "fold_1" / "model", device="cpu")
    with pytest.raises(OutputError, match="lies within a run"):
        select(runs, data, output=runs[0], device="cpu")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="is not empty"):
        select(runs, data, output=tmp_path / "full", device="cpu")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        select(runs, data, output=tmp_path / "full" / "thesis.txt" / "model", device="cpu")


def test_an_empty_folder_may_be_the_output(
    runs: tuple[Path, Path], data: Path, tmp_path: Path, without_pictures: None
) -> None:
    (tmp_path / "model").mkdir()
    select(runs, data, output=tmp_path / "model", device="cpu")
    assert len(read_model(tmp_path / "model").members) in (2, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_runs_of_one_name_are_told_apart(data: Path, tmp_path: Path, without_pictures: None) -> None:
    pair = [write_run(tmp_path / place / "my run", seed=seed) for seed, place in enumerate("ab")]
    names = [candidate.name for candidate in select(pair, data, output=tmp_path / "model", device="cpu").candidates]
    assert names == ["my_run", "my_run-2", "my_run + my_run-2"]
