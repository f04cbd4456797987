"""A small network is trained first, lies within the model, is measured, and goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import PLAN, TASK
from wide_cases import EFFORT, write_dataset

from medunet.errors import ModelError
from medunet.inference import InferenceSettings, load
from medunet.io import read_volume, write_nifti_image
from medunet.models import MeasuredSpeed, Model, copy_model, read_model
from medunet.planning import Effort
from medunet.tasks import read_dataset
from medunet.training import Observer, TrainingResult, fit_plan, train
from medunet.training.budget import parse_budget
from medunet.training.loop import Trainer
from medunet.training.speed import measure_speeds
from medunet.volume import Volume

Train = Callable[..., TrainingResult]


@pytest.fixture(scope="module")
def train_wide(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Train]:
    folder = tmp_path_factory.mktemp("wide")
    write_dataset(folder / "data", num_cases=5)
    messages: list[str] = []

    def call(output: Path, **options: Any) -> TrainingResult:
        observer = Observer()
        observer.on_message = messages.append  # type: ignore[method-assign]
        given: dict[str, Any] = {"budget": "3it", "deterministic": True, "device": "cpu", "compile": "off"}
        return train(tiny_data / "task.yaml", folder / "data", output=output, observer=observer, **(given | options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDUNET_HOME", str(folder / "runs"))
        patch.setattr("medunet.training.fit_plan.CPU_EFFORT", EFFORT)
        patch.setattr("medunet.planning.locator.LOCATOR_EFFORT", Effort(voxels=2 * 8**3, features=4, batch_size=2))
        patch.setattr("medunet.training.loop.compute_stored_dice", lambda *_: None)
        for module in ("fold", "cross_validation"):  # what takes time and is tested elsewhere
            patch.setattr(f"medunet.training.{module}.write_report", lambda *_: None)
            patch.setattr(f"medunet.training.{module}.compute_quality_ranges", lambda *_, **__: None)
        yield call


@pytest.fixture(scope="module")
def run(train_wide: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train_wide(folder)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_small_network_lies_within_the_model(run: Path) -> None:
    model = read_model(run)
    assert isinstance(model, Model)
    assert model.locator is not None
    assert model.locator.task.labels == {"structures": (1, 3)}
    assert model.locator.plan.network.features[0] == 4
    assert min(model.locator.plan.spacing) > max(model.plan.spacing)
    assert model.locator.training.validation_cases == model.training.validation_cases
    assert "of a case" in model.plan.reasons["locator"]


def test_what_it_is_worth_was_measured(run: Path, tmp_path: Path) -> None:
    """The Dice is that of masks which the finished model makes in the box, counted here by hand."""
    record = read(run / "speed.json")
    write_dataset(tmp_path, num_cases=5)  # the same again
    settings = InferenceSettings(locate="always", flips="none", postprocessing="none")
    segmenter = load(run, device="cpu", settings=settings)
    dices = []
    for case_id in read(run / "training.json")["validation_cases"]:
        mask = segmenter.segment(tmp_path / "images" / f"{case_id}.nii.gz").labels.array
        reference = read_volume(tmp_path / "labels" / f"{case_id}.nii.gz").array
        for value in (1, 3):
            overlap = np.count_nonzero((mask == value) & (reference == value))
            dices.append(2 * overlap / (np.count_nonzero(mask == value) + np.count_nonzero(reference == value)))
    located = record["located"]
    assert (located["step_fraction"], located["num_flips"]) == (0.5, 1)
    assert located["dice"] == pytest.approx(np.mean(dices), abs=2e-6)
    assert located["dice"] > 0


class _Found:
    """Finds so many of eight voxels in the box and all of them elsewhere, in seconds of a clock that only it moves."""

    def __init__(self, num_found: int, seconds: float) -> None:
        self.task, self.plan, self.locator = TASK, PLAN.model_copy(update={"patch_size": (1, 12, 8)}), object()
        self.num_found, self.seconds, self.now = num_found, seconds, 0.0

    def segment(self, image: Volume, settings: InferenceSettings) -> Volume:
        is_located = settings.locate == "always"
        self.now += self.seconds if is_located else 2.0
        labels = np.zeros(image.array.shape, np.uint8)
        labels.reshape(-1)[: self.num_found if is_located else 8] = 1
        return image.with_array(labels)


@pytest.mark.parametrize(
    ("num_found", "seconds", "dice", "uses_locator"),
    [
        (8, 0.5, 1.0, True),  # 2 * 8 / (8 + 8)
        (4, 0.5, 0.666667, False),  # 2 * 4 / (4 + 8), for less
        (8, 2.5, 1.0, False),  # as good, and slower than the 2 s of the whole scan
    ],
)
def test_the_box_is_used_where_it_is_as_good_and_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_found: int, seconds: float, dice: float, uses_locator: bool
) -> None:
    array = np.zeros((1, 5, 4, 3), np.uint8)
    array.reshape(-1)[:8] = 1
    for name in ("images", "labels"):
        write_nifti_image(Volume(array, np.eye(4)), tmp_path / name / "one.nii.gz")
    segmenter = _Found(num_found, seconds)
    monkeypatch.setattr("medunet.training.speed.time.perf_counter", lambda: segmenter.now)
    record = measure_speeds(segmenter, list(read_dataset(tmp_path).cases), 0.0, Observer())  # type: ignore[arg-type]
    assert record is not None
    assert record.located == MeasuredSpeed(step_fraction=0.5, num_flips=1, dice=dice, seconds=seconds)
    assert record.balanced == MeasuredSpeed(step_fraction=0.5, num_flips=1, dice=1.0, seconds=2.0)
    assert record.uses_locator is uses_locator


def test_it_segments_with_and_without(run: Path, train_wide: Train) -> None:
    rng = np.random.default_rng(3)
    scan = (rng.normal(100, 10, (36, 40, 26)).astype(np.float32), np.diag([1.0, 1.0, 1.5, 1.0]))
    for locate in ("never", "always"):
        found = load(run, device="cpu", settings=InferenceSettings(locate=locate)).segment(scan)  # type: ignore[arg-type]
        assert found.labels.spatial_shape == (36, 40, 26)
        assert ("locate" in found.timings) is (locate == "always")


def test_never_is_never(train_wide: Train, tmp_path: Path) -> None:
    train_wide(tmp_path / "run", locate="never")
    assert not (tmp_path / "run" / "locate").exists()
    model = read_model(tmp_path / "run")
    assert isinstance(model, Model)
    assert model.locator is None


def test_a_killed_run_goes_on_with_what_was_finished(
    run: Path, train_wide: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fit, trained = tmp_path / "run", Trainer.fit, []

    def stop(self: Trainer, **options: Any) -> Any:
        if self.folder == folder:
            raise KeyboardInterrupt
        return fit(self, **options)

    def note(self: Trainer, **options: Any) -> Any:
        trained.append(self.folder.name)
        return fit(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", stop)
        with pytest.raises(KeyboardInterrupt):
            train_wide(folder)
    monkeypatch.setattr(Trainer, "fit", note)
    train_wide(folder, resume=True)
    assert trained == ["run"]  # the small one was finished
    for part in (".", "locate"):
        one, other = (read_weights(path / part) for path in (run, folder))
        assert all(torch.equal(one[name], other[name]) for name in one)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "weights.safetensors")


def test_every_fold_has_its_own(train_wide: Train, tmp_path: Path) -> None:
    train_wide(tmp_path / "run", fold="cv", budget="2it")
    seen = []
    for fold in range(5):
        model = read_model(tmp_path / "run" / f"fold_{fold}")
        assert isinstance(model, Model)
        assert model.locator is not None
        assert model.locator.training.training_cases == model.training.training_cases
        seen.append(model.locator.training.training_cases)
    assert len(set(seen)) == 5
    assert "located" in read(tmp_path / "run" / "speed.json")


def test_a_copy_has_it_too(run: Path, tmp_path: Path) -> None:
    copy_model(run, tmp_path / "copy")
    model = read_model(tmp_path / "copy")
    assert isinstance(model, Model)
    assert model.locator is not None


def test_a_locator_of_something_else_is_refused(run: Path, tmp_path: Path) -> None:
    copy_model(run, tmp_path / "copy")
    path = tmp_path / "copy" / "locate" / "task.json"
    path.write_text(json.dumps(read(path) | {"modality": "CT"}))
    with pytest.raises(ModelError, match="does not locate"):
        read_model(tmp_path / "copy")


def test_a_locator_of_several_networks_is_refused(run: Path, tmp_path: Path) -> None:
    copy_model(run, tmp_path / "copy")
    copy_model(run / "locate", tmp_path / "copy" / "locate" / "one")
    (tmp_path / "copy" / "locate" / "ensemble.json").write_text(json.dumps({"version": 1, "members": ["one"]}))
    with pytest.raises(ModelError, match="several networks"):
        read_model(tmp_path / "copy")


def test_both_networks_share_a_budget_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from made_up_fingerprints import make_fingerprint, make_task

    from medunet.training import TrainingSettings

    monkeypatch.setattr(fit_plan, "measure_step_seconds", lambda *_: 0.1)
    fingerprint = make_fingerprint((1.0, 1.0, 1.0), (420, 400, 380), 20, label_volumes_ml={"a": 30.0})
    settings = TrainingSettings(task="x", configuration="3d")
    cpu = torch.device("cpu")
    task = make_task()
    plans = fit_plan.fit_plans(fingerprint, task, parse_budget("60min"), cpu, settings, "32-true")
    assert plans.locator is not None
    assert "54 min buy" in plans.main.reasons["budget"]
    partial = fit_plan.fit_plans(
        fingerprint, task, parse_budget("60min"), cpu, settings, "32-true", has_partial_labels=True
    )
    assert partial.locator is None
