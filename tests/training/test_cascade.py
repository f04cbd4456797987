"""A whole cascade: nobody is shown what was learnt by heart, nothing is trained twice, and it loads as a model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_fingerprints import make_fingerprint, make_task
from torch import Tensor
from wide_cases import EFFORT, SHAPE, write_dataset

from medunet.device import choose_precision
from medunet.errors import DatasetError, InputError, ModelError, OutputError
from medunet.evaluation import score_case
from medunet.inference import Predictor, append_previous_labels, compute_logits, load, restore_label_map
from medunet.models import read_model, read_records, read_single_model
from medunet.planning import Effort, fit_effort
from medunet.postprocessing import apply_postprocessing
from medunet.preprocessing import preprocess_image, preprocess_labels, whole_box
from medunet.preprocessing.case_file import open_case_file
from medunet.preprocessing.store import serialize_previous_labels
from medunet.tasks import Case, encode_labels, read_case, read_dataset
from medunet.training import Observer, TrainingResult, TrainingSettings, cascade, fit_plan, parse_budget, train
from medunet.training.cascade import split_halves
from medunet.training.loop import Trainer

CPU = torch.device("cpu")
PRECISION = choose_precision(CPU)
LOW, HALVES = "low", ("low/half_0", "low/half_1")
WEIGHTS = "weights.safetensors"


class Cascades:
    """Trains cascades on five cases."""

    def __init__(self, folder: Path, task: Path) -> None:
        self.folder = folder
        self.task = task
        self.data = folder / "data"
        self.messages: list[str] = []
        write_dataset(self.data, num_cases=5)

    def train(self, output: Path, **options: Any) -> TrainingResult:
        observer = Observer()
        observer.on_message = self.messages.append  # type: ignore[method-assign]
        given: dict[str, Any] = {"budget": "3it", "deterministic": True, "device": "cpu", "configuration": "cascade"}
        data = options.pop("data", self.data)
        return train(self.task, data, output=output, observer=observer, **(given | options))

    def list_cases(self) -> dict[str, Case]:
        return {case.case_id: case for case in read_dataset(self.data).cases}


@pytest.fixture(scope="module")
def cascades(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cascades]:
    folder = tmp_path_factory.mktemp("cascades")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDUNET_HOME", str(folder / "runs"))
        patch.setattr("medunet.training.fit_plan.CPU_EFFORT", EFFORT)
        patch.setattr("medunet.training.loop.compute_stored_dice", lambda *_: None)
        for module in ("fold", "cross_validation"):  # what takes time and is tested elsewhere
            patch.setattr(f"medunet.training.{module}.write_report", lambda *_: None)
            patch.setattr(f"medunet.training.{module}.compute_quality_ranges", lambda *_, **__: None)
        yield Cascades(folder, tiny_data / "task.yaml")


@pytest.fixture(scope="module")
def run(cascades: Cascades, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cascade."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    cascades.train(folder)
    return folder


@pytest.fixture(scope="module")
def run_on_all(cascades: Cascades, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cascade without validation cases."""
    folder = tmp_path_factory.mktemp("all") / "run"
    cascades.train(folder, fold="all")
    return folder


def stop_at(monkeypatch: pytest.MonkeyPatch, folder: Path, iteration: int) -> None:
    """Ctrl-C when the network of a folder has made so many steps."""
    step = Trainer._step

    def stop(self: Trainer, *arguments: Any) -> Any:
        if self.folder == folder and self.state.iteration == iteration:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", stop)


def list_trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Folders of networks that are trained from now on, and whether they go on from a state."""
    trained: list[tuple[str, bool]] = []
    fit = Trainer.fit

    def note(self: Trainer, **options: Any) -> Any:
        trained.append((self.folder.name, options["resumes"]))
        return fit(self, **options)

    monkeypatch.setattr(Trainer, "fit", note)
    return trained


def find_previous(run: Path, case_id: str) -> Path:
    (path,) = (run / "state" / "previous").glob(f"{case_id}-*.safetensors")
    return path


def read_previous(run: Path, case_id: str) -> Tensor:
    file = open_case_file(find_previous(run, case_id))
    return torch.from_numpy(file.read_box("previous", whole_box(file.shape))[0])


def segment_on_grid(case: Case, low: Path, run: Path) -> Tensor:
    """What a model says about a case, from its files, on the grid of the second stage."""
    task = read_records(run).task
    scan, _ = read_case(case, task)
    label_map = Predictor(read_model(low), CPU, PRECISION).segment(scan)
    prepared = preprocess_image(scan, read_records(run).plan)
    return torch.from_numpy(preprocess_labels(encode_labels(label_map, task), prepared).array[0])


# ---- who sees what -------------------------------------------------------------------------------------------------------


def test_each_half_learns_from_what_the_other_has_not(run: Path) -> None:
    full, *halves = (read_records(folder).training for folder in (run, *(run / half for half in HALVES)))
    first, second = (set(half.training_cases) for half in halves)
    assert len(first) == len(second) == 2
    assert first | second == set(full.training_cases)
    assert set(halves[0].validation_cases) == second
    assert set(halves[1].validation_cases) == first
    assert len(full.validation_cases) == 1
    assert not (first | second) & set(full.validation_cases)


def test_a_training_case_comes_with_labels_of_the_network_that_has_not_seen_it(cascades: Cascades, run: Path) -> None:
    cases = cascades.list_cases()
    by_heart = []
    for half in HALVES:
        record = read_records(run / half).training
        for case_id in record.validation_cases:
            found = read_previous(run, case_id)
            assert torch.equal(found, segment_on_grid(cases[case_id], run / half, run))
            assert len(found.unique()) > 1
        by_heart += [
            torch.equal(read_previous(run, case_id), segment_on_grid(cases[case_id], run / half, run))
            for case_id in record.training_cases
        ]
    assert not any(by_heart)


def test_a_validation_case_comes_with_labels_of_both(cascades: Cascades, run: Path) -> None:
    (case_id,) = read_records(run).training.validation_cases
    case = cascades.list_cases()[case_id]
    found = read_previous(run, case_id)
    assert torch.equal(found, segment_on_grid(case, run / LOW, run))
    assert not any(torch.equal(found, segment_on_grid(case, run / half, run)) for half in HALVES)


def test_the_plans_of_the_stages(run: Path) -> None:
    full, low = read_records(run).plan, read_records(run / LOW).plan
    assert (full.configuration, low.configuration) == ("cascade", "3d-low")
    assert (full.num_previous_labels, full.network.in_channels) == (2, 3)
    assert (low.num_previous_labels, low.network.in_channels) == (0, 1)
    assert all(coarse > 1.3 * fine for coarse, fine in zip(low.spacing, full.spacing, strict=True))
    assert read_records(run / HALVES[0]).plan == read_records(run / HALVES[1]).plan == low
    settings = [read_records(run / name).training.settings["configuration"] for name in (".", LOW, *HALVES)]
    assert settings == ["cascade", "3d-low", "3d-low", "3d-low"]


def test_nothing_is_left_that_is_not_needed(run: Path) -> None:
    assert sorted(path.name for path in (run / "state" / "low").iterdir()) == ["plan.json", "task.json"]
    assert len(list((run / "state" / "previous").iterdir())) == 5


# ---- a model -------------------------------------------------------------------------------------------------------------


def test_it_loads_and_segments(cascades: Cascades, run: Path) -> None:
    """As it was validated: low resolution, its labels as channels, full resolution."""
    model = read_single_model(run)
    (case_id,) = model.training.validation_cases
    scan, reference = read_case(cascades.list_cases()[case_id], model.task)
    label_map = Predictor(read_model(run / LOW), CPU, PRECISION).segment(scan)
    prepared = append_previous_labels(preprocess_image(scan, model.plan), label_map, model.task)
    logits = compute_logits(model.network, prepared, model.plan, CPU, PRECISION)
    expected = apply_postprocessing(
        restore_label_map(logits, prepared, scan, model.task), model.task, model.postprocessing
    )
    assert np.array_equal(load(run, device="cpu", flips="none").segment(scan).labels.array, expected.array)
    found = load(run, device="cpu").segment(scan).labels  # with mirrored passes, where they were measured to help
    assert model.metrics["cases"] == [
        dataclasses.asdict(score) for score in score_case(reference, found, model.task.labels, case_id=case_id)
    ]


def test_the_second_stage_uses_what_the_first_found(cascades: Cascades, run: Path) -> None:
    model = read_single_model(run)
    scan, _ = read_case(cascades.list_cases()["case_0"], model.task)
    prepared = preprocess_image(scan, model.plan)
    nothing, something = scan.with_array(np.zeros((1, *scan.spatial_shape), np.uint8)), read_previous(run, "case_0")
    assert something.any()
    logits = [
        compute_logits(model.network, append_previous_labels(prepared, labels, model.task), model.plan, CPU, PRECISION)
        for labels in (nothing, prepared.with_array(np.array([0, 1, 3], np.uint8)[something.numpy()][None]))
    ]
    assert (logits[0] - logits[1]).abs().max() > 0.01


def test_all_cases_may_be_learnt_from(run_on_all: Path) -> None:
    halves = [read_records(run_on_all / half).training for half in HALVES]
    record = read_records(run_on_all)
    assert record.training.validation_cases == ()
    assert record.metrics["num_cases"] == 0
    assert {case_id for half in halves for case_id in half.training_cases} == {f"case_{n}" for n in range(5)}
    assert sorted(len(half.training_cases) for half in halves) == [2, 3]


def test_a_low_resolution_trains_alone(cascades: Cascades, run: Path, tmp_path: Path) -> None:
    result = cascades.train(tmp_path / "run", configuration="3d-low", budget="2it")
    assert result.num_iterations == 2
    model = read_single_model(tmp_path / "run")
    low = read_records(run / LOW).plan
    assert model.plan.reasons["budget"].startswith("2 steps with ")  # the first stage of the cascade made more
    assert model.plan == low.model_copy(update={"reasons": low.reasons | {"budget": model.plan.reasons["budget"]}})
    assert model.low is None
    assert result.evaluation is not None


def test_where_there_is_no_low_resolution(cascades: Cascades, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=2 * 32**3, features=4))
    for configuration in ("3d-low", "cascade"):
        with pytest.raises(InputError, match=r"There is no low resolution to plan.*use the configuration 3d"):
            cascades.train(tmp_path / "run", configuration=configuration)
    assert not (tmp_path / "run").exists()


# ---- going on --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "trained", "remade"),
    [("low/half_1", [("half_1", True), ("run", False)], 5), (".", [("run", True)], 0)],
    ids=["first", "second"],
)
def test_a_killed_cascade_goes_on_where_it_was(
    cascades: Cascades,
    run_on_all: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    trained: list[tuple[str, bool]],
    remade: int,
) -> None:
    folder = tmp_path / "run"
    options: dict[str, Any] = {"fold": "all"}
    with monkeypatch.context() as patch:
        stop_at(patch, folder / part, 2)
        with pytest.raises(KeyboardInterrupt):
            cascades.train(folder, **options)
    with pytest.raises(OutputError, match=r"holds a model already.*--resume"):
        cascades.train(folder, **options)  # the halves are not taken into another training
    kept = {path: path.read_bytes() for path in (folder / HALVES[0]).rglob("*") if path.is_file()}
    previous = list((folder / "state").rglob("previous/*"))
    before = {path: path.stat().st_mtime_ns for path in previous}
    assert len(previous) == 5 - remade
    noted = list_trained(monkeypatch)
    result = cascades.train(folder, resume=True, **options)
    assert noted == trained
    assert result.num_iterations == 3
    assert {path: path.read_bytes() for path in kept} == kept
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in (".", *HALVES):
        assert (folder / name / WEIGHTS).read_bytes() == (run_on_all / name / WEIGHTS).read_bytes()


def test_the_newest_unfinished_cascade_is_found(
    cascades: Cascades, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medunet.training.folders import find_unfinished_run

    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path))
    stop_at(monkeypatch, tmp_path / "tiny-mr-1" / "low" / "half_0", 1)
    with pytest.raises(KeyboardInterrupt):
        cascades.train(tmp_path / "tiny-mr-1")
    assert find_unfinished_run("tiny-mr") == tmp_path / "tiny-mr-1"


def test_other_previous_labels_are_another_training(cascades: Cascades, run_on_all: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run_on_all, tmp_path / "run"))
    codes = read_previous(folder, "case_1").numpy()
    codes[0, 0, 0] = 2 - codes[0, 0, 0]
    find_previous(folder, "case_1").write_bytes(serialize_previous_labels(codes))
    with pytest.raises(ModelError, match="case case_1 has other voxels or labels"):
        cascades.train(folder, resume=True)


def test_a_first_stage_that_learnt_from_other_cases_is_refused(
    cascades: Cascades, run_on_all: Path, tmp_path: Path
) -> None:
    """Its labels would be of cases that it knows by heart."""
    folder = Path(shutil.copytree(run_on_all, tmp_path / "run"))
    path = folder / HALVES[1] / "training.json"
    record = json.loads(path.read_text())
    known = record["validation_cases"].pop()
    path.write_text(json.dumps(record | {"training_cases": [*record["training_cases"], known]}))
    with pytest.raises(
        ModelError, match=rf"half_1 was trained with other cases: 1 case moved .* validation: {known}\."
    ):
        cascades.train(folder, resume=True)


def test_damaged_or_lost_previous_labels_are_made_again(
    cascades: Cascades, run_on_all: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(run_on_all, tmp_path / "run"))
    damaged, lost = find_previous(folder, "case_1"), find_previous(folder, "case_3")
    damaged.write_bytes(damaged.read_bytes()[:-40])
    lost.unlink()
    cascades.train(folder, resume=True)
    for case_id in ("case_1", "case_3"):
        assert torch.equal(read_previous(folder, case_id), read_previous(run_on_all, case_id))
    assert damaged.is_file()
    assert lost.is_file()
    assert any("It was cut off" in message and "segmented again" in message for message in caplog.messages)
    assert (folder / WEIGHTS).read_bytes() == (run_on_all / WEIGHTS).read_bytes()


# ---- folds and halves ------------------------------------------------------------------------------------------------------


def test_every_fold_is_a_whole_cascade(cascades: Cascades, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", num_cases=3)
    result = cascades.train(tmp_path / "run", data=tmp_path / "data", fold="cv", budget="1it")
    assert result.evaluation is not None
    for fold in range(3):
        folder = tmp_path / "run" / f"fold_{fold}"
        full, *halves = (read_records(folder / name).training for name in (".", *HALVES))
        assert len(full.validation_cases) == 1
        assert {case_id for half in halves for case_id in half.training_cases} == set(full.training_cases)
        assert len(list((folder / "state" / "previous").iterdir())) == 3
    assert not (tmp_path / "run" / LOW).exists()
    assert [member.low is not None for member in read_model(tmp_path / "run").members] == [True] * 3
    scan, _ = read_case(read_dataset(tmp_path / "data").cases[0], read_records(tmp_path / "run").task)
    assert load(tmp_path / "run", device="cpu").segment(scan).labels.spatial_shape == SHAPE
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["num_cases"] == 3


def make_cases(*groups: str | None) -> list[Case]:
    return [Case(case_id=f"case_{n}", images=(), labels=Path("none"), group=group) for n, group in enumerate(groups)]


@pytest.mark.parametrize("num_cases", [2, 3, 9, 40])
def test_halves_are_halves_and_the_same_every_time(num_cases: int) -> None:
    cases = make_cases(*[None] * num_cases)
    (first, unseen_by_first), (second, unseen_by_second) = split_halves(cases)
    assert (unseen_by_first, unseen_by_second) == (second, first)
    assert first | second == {case.case_id for case in cases}
    assert not first & second
    assert len(first) - len(second) in (0, 1)
    assert split_halves(cases[::-1]) == split_halves(cases)


def test_no_patient_is_divided() -> None:
    cases = make_cases(*"aabbbccdd", None)
    (first, second), _ = split_halves(cases)
    groups = [{case.group for case in cases if case.case_id in half} for half in (first, second)]
    assert not groups[0] & groups[1]
    assert sorted(map(len, groups)) == [2, 3]


def test_one_patient_cannot_be_halved() -> None:
    with pytest.raises(DatasetError, match=r"3 training case\(s\) are of one.*configuration 3d"):
        split_halves(make_cases("a", "a", "a"))


# ---- shares of the budget ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "expected"),
    [("60min", [(600.0, None), (2400.0, None)]), ("500it", [(None, 500)] * 2), ("full", [(None, 250_000)] * 2)],
)
def test_the_first_stage_gets_a_third_of_the_time_and_all_of_the_iterations(
    monkeypatch: pytest.MonkeyPatch, budget: str, expected: list[tuple[float | None, int | None]]
) -> None:
    budgets: list[tuple[float | None, int | None]] = []

    class _EnoughError(Exception):
        pass

    def note(experiment: Any, *_: Any, **__: Any) -> None:
        budgets.append((experiment.budget.seconds, experiment.budget.iterations))
        if len(budgets) == 2:
            raise _EnoughError

    monkeypatch.setattr(cascade, "train_every_fold", note)
    monkeypatch.setattr(cascade, "train_fold", note)
    monkeypatch.setattr(cascade, "write_description", lambda *_: None)
    monkeypatch.setattr(cascade, "PreviousStage", lambda *_, **__: None)
    with pytest.raises(_EnoughError):
        cascade.train_cascade(make_experiment(parse_budget(budget)), Path("nowhere"), None, resumes=False)
    assert [tuple(map(pytest.approx, one)) for one in expected] == budgets


def make_experiment(budget: Any) -> Any:
    from medunet.tasks import Dataset
    from medunet.training.distributed import World
    from medunet.training.experiment import Experiment

    cases = tuple(make_cases(None, None))
    nothing: dict[str, Any] = {field.name: None for field in dataclasses.fields(Experiment)}
    nothing["settings"] = TrainingSettings(task="x", configuration="cascade")
    dataset = Dataset(name="x", folder=Path("x"), layout="x", cases=cases)
    return Experiment(
        **nothing | {"dataset": dataset, "budget": budget, "low_plan": "low", "world": World(), "observer": Observer()}
    )


def test_each_stage_is_planned_for_its_own_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of either takes as many seconds as its patch has thousands of voxels, by a made-up clock."""
    timed: list[tuple[str, int]] = []

    def measure(plan: Any, *_: Any) -> float:
        timed.append((plan.configuration, plan.network.in_channels))
        return float(np.prod(plan.patch_size)) / 1e6

    monkeypatch.setattr(fit_plan, "measure_step_seconds", measure)
    task = make_task()
    fingerprint = make_fingerprint((0.8, 0.8, 1.0), (400, 420, 300), 4)
    settings = TrainingSettings(task="x", configuration="cascade")
    full, low, locator = fit_plan.fit_plans(fingerprint, task, parse_budget("60min"), CPU, settings, PRECISION)
    assert low is not None
    assert locator is None
    assert "40 min buy" in full.reasons["budget"]
    assert "10 min buy" in low.reasons["budget"]
    assert (full.configuration, low.configuration) == ("cascade", "3d-low")
    assert full.spacing == (0.8, 0.8, 1.0)  # the low resolution is there for what a short budget does not see
    assert np.prod(full.patch_size) > 2 * np.prod(low.patch_size)
    assert np.prod(low.patch_size) > 0.2 * np.prod(low.median_shape)
    assert set(timed) == {("cascade", 1 + len(task.labels)), ("3d-low", 1)}
    alone = dataclasses.replace(settings, configuration="3d", locate="never")
    plan, *none = fit_plan.fit_plans(fingerprint, task, parse_budget("60min"), CPU, alone, PRECISION)
    assert none == [None, None]
    assert "60 min buy" in plan.reasons["budget"]


def test_patches_grow_only_as_long_as_a_low_resolution_is_needed() -> None:
    """Patches of 64 voxels a side cover 22 % of such a case, with 2.1 times fewer voxels left for a low resolution."""
    task, fingerprint = make_task(), make_fingerprint(shape=(120, 130, 110), num_cases=4)
    sizes = {}
    for configuration in ("3d", "3d-low", "cascade"):
        fitted = fit_effort(
            fingerprint,
            task,
            1e9,
            lambda _: 0.001,
            largest=Effort(voxels=2 * 128**3, features=32),
            configuration=configuration,  # type: ignore[arg-type]
        )
        sizes[configuration] = fitted.effort.voxels
    assert sizes["3d"] > 2 * 100**3
    assert sizes["cascade"] == sizes["3d-low"] < 2 * 64**3
