"""A whole training: reproducible, resumable bit for bit, and never at a loss of what was learnt."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.augmentation import peers
from medunet.errors import InputError, LabelError, MedunetError, ModelError, OutputError, TrainingError
from medunet.io import read_label_map, write_nifti_labels
from medunet.models import read_model
from medunet.training import Observer, Step, TrainingResult, objective
from medunet.training.loop import Trainer
from medunet.training.losses import Loss

Train = Callable[..., TrainingResult]
WEIGHTS = "weights.safetensors"


def interrupt_at(monkeypatch: pytest.MonkeyPatch, iteration: int, error: BaseException) -> None:
    """Raise instead of making a step once so many are done."""
    step = Trainer._step

    def fail(self: Trainer, *arguments: Any) -> Any:
        if self.state.iteration == iteration:
            raise error
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", fail)


def spoil_losses(monkeypatch: pytest.MonkeyPatch, *, at_call: int, spoil: Callable[[Loss], Loss]) -> None:
    """Change the loss of one step."""
    build = objective.build_loss

    def build_spoilt(*arguments: Any) -> Callable[..., Loss]:
        compute = build(*arguments)
        calls = itertools.count(1)
        return lambda *inputs: spoil(compute(*inputs)) if next(calls) == at_call else compute(*inputs)

    monkeypatch.setattr(objective, "build_loss", build_spoilt)


def read_weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


# ---- the same again ----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights(train_tiny: Train, tmp_path: Path) -> None:
    first, second, other = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    train_tiny(first, seed=5)
    train_tiny(second, seed=5)
    train_tiny(other, seed=6)
    assert read_weights(first) == read_weights(second)
    assert read_weights(first) != read_weights(other)


@pytest.mark.parametrize("configuration", ["3d", "2d"])
def test_four_and_four_more_are_eight(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configuration: str
) -> None:
    options: dict[str, Any] = {"budget": "8it", "configuration": configuration}
    unbroken = train_tiny(tmp_path / "unbroken", **options)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "broken", **options)
    assert read_model(tmp_path / "broken").training.num_iterations == 4
    assert read_weights(tmp_path / "broken") != read_weights(tmp_path / "unbroken")
    torch.manual_seed(99)
    resumed = train_tiny(tmp_path / "broken", resume=True)
    assert resumed.num_iterations == unbroken.num_iterations == 8
    assert read_weights(tmp_path / "broken") == read_weights(tmp_path / "unbroken")
    assert json.loads((tmp_path / "broken" / "training.json").read_text())["budget"] == "8it"
    state = [(tmp_path / name / "state" / "state.safetensors").read_bytes() for name in ("broken", "unbroken")]
    assert state[0][-1000:] == state[1][-1000:]  # the head holds the seconds


def test_a_budget_in_time_is_used_up_over_all_sessions(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is fitted by real steps, and the learning rate falls with the clock."""
    budget_seconds, slack = 2.0, 10.0  # a step, a save or a look may just have begun, on a busy machine
    monkeypatch.setattr("medunet.training.loop._REPORT_SECONDS", 0.0)
    folder = tmp_path / "run"
    options: dict[str, Any] = {"budget": f"{budget_seconds:g}s", "deterministic": False}
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(folder, **options)
    earlier = read_model(folder)
    assert earlier.plan.reasons["budget"].startswith("a step takes ")
    assert "so 2 s buy " in earlier.plan.reasons["budget"]
    result = train_tiny(folder, resume=True)
    assert budget_seconds <= result.seconds < budget_seconds + slack
    assert result.num_iterations > 4
    assert read_model(folder).plan == earlier.plan
    rows = [row for row in csv.DictReader((folder / "log.csv").read_text().splitlines()) if row["learning_rate"]]
    highest = earlier.plan.optimizer.learning_rate
    assert float(rows[-1]["learning_rate"]) < 0.1 * highest
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)  # the second session counts on
    assert seconds[-1] == pytest.approx(result.seconds, abs=0.1)


def test_the_newest_interrupted_run_is_resumed(train_tiny: Train, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny()
    (folder,) = runs.glob("tiny-mr-*")
    result = train_tiny(resume=True)
    assert result.folder == folder
    assert result.num_iterations == 4
    with pytest.raises(ModelError, match="no interrupted training of task 'tiny-mr'"):
        train_tiny(resume=True)


def test_a_run_is_resumed_from_another_folder(
    train_tiny: Train, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.chdir(tiny_data)
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run", task="task.yaml", data="data")
    monkeypatch.chdir(tmp_path)
    assert train_tiny(tmp_path / "run", resume=True).num_iterations == 4


def test_augmentation_and_network_follow_the_settings(train_tiny: Train, tmp_path: Path) -> None:
    train_tiny(tmp_path / "fast")
    train_tiny(tmp_path / "none", augmentation="none")
    assert read_weights(tmp_path / "fast") != read_weights(tmp_path / "none")
    train_tiny(tmp_path / "flat", configuration="2d")
    plan = read_model(tmp_path / "flat").plan
    assert (plan.configuration, plan.network.spatial_dims, plan.patch_size[2]) == ("2d", 2, 1)


def test_augmentation_by_torchio_trains(train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every patch comes from MONAI and TorchIO, and so the weights do."""
    num_patches = {"geometry": 0, "intensities": 0}

    def count(what: str, apply: Callable[..., Any]) -> Callable[..., Any]:
        def apply_and_count(*arguments: Any) -> Any:
            num_patches[what] += 1
            return apply(*arguments)

        return apply_and_count

    train_tiny(tmp_path / "fast", budget="2it")
    monkeypatch.setattr(peers, "apply_spatial_with_peers", count("geometry", peers.apply_spatial_with_peers))
    monkeypatch.setattr(peers, "apply_intensity_with_peers", count("intensities", peers.apply_intensity_with_peers))
    result = train_tiny(tmp_path / "torchio", augmentation="torchio", budget="2it")
    assert result.num_iterations == 2
    batch_size = read_model(tmp_path / "torchio").plan.batch_size
    assert num_patches["geometry"] >= 2 * batch_size  # and those that were drawn ahead
    assert num_patches["intensities"] >= 2 * batch_size
    assert read_weights(tmp_path / "torchio") != read_weights(tmp_path / "fast")


# ---- what it leaves behind ---------------------------------------------------------------------------------------------


def test_the_loss_falls(train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.training.loop._REPORT_SECONDS", 0.0)
    steps: list[Step] = []

    class Recorder(Observer):
        def on_step(self, step: Step) -> None:
            steps.append(step)

    train_tiny(tmp_path / "run", budget="80it", observer=Recorder())
    assert [step.iteration for step in steps] == [*range(1, 81), 80]
    assert steps[-1].loss < 0.8 * steps[0].loss
    assert steps[-1].dice > steps[0].dice
    assert steps[-1].progress == 1
    assert [step.progress for step in steps] == sorted(step.progress for step in steps)


def test_the_log_has_a_row_per_report_and_validation(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medunet.training.loop._REPORT_SECONDS", 0.0)
    train_tiny(tmp_path / "run", budget="8it")
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    steps = [row for row in rows if row["loss"]]
    looks = [row for row in rows if row["validation_dice"]]
    assert [int(row["iteration"]) for row in steps] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert len(looks) == 3
    assert all(0 <= float(row["validation_dice"]) <= 1 for row in looks)
    assert all(float(row["loss"]) > 0 for row in steps)


def test_a_resumed_log_goes_on(train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.training.loop._REPORT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run")
    train_tiny(tmp_path / "run", resume=True)
    text = (tmp_path / "run" / "log.csv").read_text()
    assert text.count("iteration,seconds") == 1
    rows = [row for row in csv.DictReader(text.splitlines()) if row["loss"]]
    assert [int(row["iteration"]) for row in rows] == [1, 2, 3, 4, 4]


def test_the_record_says_how_it_was_made(train_tiny: Train, tmp_path: Path) -> None:
    result = train_tiny(tmp_path / "run", seed=3, fold=1)
    record = read_model(tmp_path / "run").training
    assert (record.seed, record.fold, record.budget, record.num_iterations) == (3, 1, "4it", 4)
    assert not record.is_synthetic
    assert record.is_deterministic
    assert len(record.training_cases) == 4
    assert set(record.training_cases) | set(record.validation_cases) == {f"case_{n}" for n in range(5)}
    assert record.validation_cases == tuple(case.case_id for case in result.validation_cases)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["num_cases"] == 1
    assert set(metrics["labels"]) == {"left", "right"}


def test_training_on_all_cases_validates_on_none(train_tiny: Train, tmp_path: Path) -> None:
    result = train_tiny(tmp_path / "run", fold="all")
    assert result.evaluation is None
    assert len(read_model(tmp_path / "run").training.training_cases) == 5
    assert "trained on all cases" in (tmp_path / "run" / "card.md").read_text()


def test_a_validation_case_without_labels_can_be_scored(train_tiny: Train, tiny_data: Path, tmp_path: Path) -> None:
    import shutil

    data = shutil.copytree(tiny_data / "data", tmp_path / "data")
    held_out = train_tiny(tmp_path / "first", budget="1it").validation_cases[0].case_id
    labels = read_label_map(data / "labels" / f"{held_out}.nii.gz")
    write_nifti_labels(labels.with_array(labels.array * 0), data / "labels" / f"{held_out}.nii.gz")
    train_tiny(tmp_path / "run", data=data, budget="4it")
    json.loads((tmp_path / "run" / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_ignored_voxels_are_trained_around(train_tiny: Train, tiny_data: Path, tmp_path: Path) -> None:
    """The very same patches are drawn, but what is ignored is not learnt as background."""
    for name, value in (("ignored", 9), ("background", 0)):
        data = shutil.copytree(tiny_data / "data", tmp_path / f"{name} data")
        for path in (data / "labels").iterdir():
            labels = read_label_map(path)
            array = labels.array.copy()
            assert not array[:, :, :6].any()
            array[:, :, :6] = value
            write_nifti_labels(labels.with_array(array), path)
        # Every voxel of noise would tell the network that it is background.
        train_tiny(tmp_path / name, data=data, augmentation="none")
    plans = [(tmp_path / name / "plan.json").read_text() for name in ("ignored", "background")]
    assert plans[0] == plans[1]
    assert read_weights(tmp_path / "ignored") != read_weights(tmp_path / "background")


# ---- interruptions and faults ------------------------------------------------------------------------------------------


def test_ctrl_c_leaves_a_model_and_a_state(train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path / "run", budget="50it")
    assert read_model(tmp_path / "run").training.num_iterations == 3
    assert (tmp_path / "run" / "state" / "state.safetensors").is_file()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_nan_stops_before_the_update_and_names_the_cases(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def spoil(loss: Loss) -> Loss:
        total = loss.total * float("nan") if what == "loss" else torch.sqrt(loss.total * 0)
        return Loss(total=total, soft_dice=loss.soft_dice)

    spoil_losses(monkeypatch, at_call=4, spoil=spoil)
    with pytest.raises(TrainingError, match=r"not finite at iteration 4 \(cases case_\d, case_\d.*--resume"):
        train_tiny(tmp_path / "run", budget="8it", save_seconds=0.0)  # a state after every step
    model = read_model(tmp_path / "run")
    assert model.training.num_iterations == 3
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.network.state_dict().values())
    monkeypatch.undo()


def test_a_nan_before_the_first_save_promises_nothing(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = torch.tensor(float("nan"))
    spoil_losses(monkeypatch, at_call=1, spoil=lambda loss: Loss(total=loss.total * nan, soft_dice=loss.soft_dice))
    with pytest.raises(TrainingError, match=r"iteration 1 .*No state was saved yet"):
        train_tiny(tmp_path / "run")
    assert not (tmp_path / "run" / WEIGHTS).exists()


def test_weights_that_are_not_finite_replace_no_good_ones(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def spoil(self: Trainer, *arguments: Any) -> Any:
        loss = step(self, *arguments)
        if self.state.iteration == 2:  # the third step
            next(self.network.parameters()).data.fill_(float("nan"))
        return loss

    monkeypatch.setattr(Trainer, "_step", spoil)
    with pytest.raises(TrainingError, match="weights are not finite at iteration 3"):
        train_tiny(tmp_path / "run", budget="8it", save_seconds=0.0)
    monkeypatch.undo()
    assert read_model(tmp_path / "run").training.num_iterations == 2


def test_a_full_disk_keeps_the_older_weights(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run", budget="8it")
    names = (WEIGHTS, "training.json", "state/state.safetensors")
    before = [(tmp_path / "run" / name).read_bytes() for name in names]

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError, match="disk is full"):
            train_tiny(tmp_path / "run", resume=True)
    assert [(tmp_path / "run" / name).read_bytes() for name in names] == before
    assert train_tiny(tmp_path / "run", resume=True).num_iterations == 8


def test_a_fault_of_the_sampler_ends_the_training(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("medunet.training.sampling.PatchSampler._draw_patch", fail)
    with pytest.raises(TrainingError, match="Input/output error"):
        train_tiny(tmp_path / "run")


# ---- refusals ----------------------------------------------------------------------------------------------------------


def test_a_finished_model_is_not_trained_over(train_tiny: Train, tmp_path: Path) -> None:
    train_tiny(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=r"holds a model already.*another --output.*--resume"):
        train_tiny(tmp_path / "run", seed=1)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_resuming_nothing_is_an_error_not_a_fresh_start(train_tiny: Train, tmp_path: Path, runs: Path) -> None:
    with pytest.raises(ModelError, match="cannot be resumed"):
        train_tiny(tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(ModelError, match="no interrupted training"):
        train_tiny(resume=True)
    assert not runs.exists()


def test_resuming_with_other_cases_is_refused(
    train_tiny: Train, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    data = shutil.copytree(tiny_data / "data", tmp_path / "data")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run", data=data)
    for kind in ("images", "labels"):
        (data / kind / "case_4.nii.gz").rename(data / kind / "other.nii.gz")
    before = read_weights(tmp_path / "run")
    with pytest.raises(ModelError, match="other cases"):
        train_tiny(tmp_path / "run", data=data, resume=True)
    assert read_weights(tmp_path / "run") == before


def test_resuming_with_other_annotated_labels_is_refused(
    train_tiny: Train, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No voxel differs, but what the background of a case means does."""
    data = shutil.copytree(tiny_data / "data", tmp_path / "data")
    path = data / "labels" / "case_1.nii.gz"
    labels = read_label_map(path)
    write_nifti_labels(labels.with_array(labels.array * (labels.array == 1)), path)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run", data=data)
    (data / "annotated.json").write_text(json.dumps({"case_1": ["left"]}))
    with pytest.raises(ModelError, match="case case_1 has other voxels or labels"):
        train_tiny(tmp_path / "run", data=data, resume=True)


def test_resuming_another_task_is_refused(train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run")
    with pytest.raises(InputError, match=r"is a training of task 'tiny-mr', not of 'hippocampus-mr'"):
        train_tiny(tmp_path / "run", task="hippocampus-mr", resume=True)


def test_settings_that_resuming_ignores_are_named(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run")
    train_tiny(tmp_path / "run", resume=True, budget="9it", seed=7)
    warnings = [record.message for record in caplog.records if "--resume" in record.message]
    assert len(warnings) == 1
    assert "budget" in warnings[0]
    assert "seed" in warnings[0]
    assert "device" not in warnings[0]
    assert read_model(tmp_path / "run").training.num_iterations == 4


def test_deterministic_needs_iterations(train_tiny: Train, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="budget in iterations"):
        train_tiny(tmp_path / "run", budget="1min")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "soon"}, "budget 'soon'"),
        ({"device": "cuda:97"}, "not here"),
        ({"fold": 7}, "no fold 7"),
        ({"fold": "all", "splits": "splits.csv"}, "whatever --splits says"),
        ({"fold": None}, "--fold is 'None'; expected a number"),
        ({"data": None, "mapping": ["CTV=left"]}, "--map names structures of a dataset, and there is none"),
        ({"seed": -1}, "--seed is -1; expected 0 or more"),
        ({"workers": -1}, "--workers is -1; expected 0 or more"),
        ({"devices": 0}, "--devices is 0; expected 1 or more"),
        ({"save_seconds": -1.0}, "^save_seconds is -1; expected 0 or more"),
        ({"data": "/nowhere"}, "does not exist"),
        ({"task": "hippocampus"}, "did you mean 'hippocampus-mr'"),
    ],
)
def test_what_cannot_be_used_is_refused(
    train_tiny: Train, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MedunetError, match=message):
        train_tiny(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_wrong_task_is_noticed(
    train_tiny: Train, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Labels 1 and 3 are known to the task, so only the modality and the label that never occurs give it away."""
    data = shutil.copytree(tiny_data / "data", tmp_path / "data")
    (data / "dataset.json").write_text(json.dumps({"name": "tiny", "modality": {"0": "CT"}}))
    task = tmp_path / "other.yaml"
    task.write_text((tiny_data / "task.yaml").read_text().replace("right: 3}", "right: 3, middle: 5}"))
    train_tiny(tmp_path / "run", data=data, task=task, budget="1it")
    assert "tiny says that its images are CT; task 'tiny-mr' is for MR. Is it the right task?" in caplog.messages
    assert any(message.startswith("No case of tiny holds middle:") for message in caplog.messages)


def test_the_right_task_is_not_doubted(train_tiny: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train_tiny(tmp_path / "run", budget="1it")
    assert not any("right task" in message for message in caplog.messages)


def test_an_unknown_label_is_refused_before_training(train_tiny: Train, tiny_data: Path, tmp_path: Path) -> None:
    data = shutil.copytree(tiny_data / "data", tmp_path / "data")
    labels = read_label_map(data / "labels" / "case_2.nii.gz")
    array = labels.array.copy()
    array[0, 0, 0, 0] = 42
    write_nifti_labels(labels.with_array(array), data / "labels" / "case_2.nii.gz")
    with pytest.raises((LabelError, MedunetError), match=r"case_2.*42.*expected 0, 1, 3, 9"):
        train_tiny(tmp_path / "run", data=data)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_noticed_before_any_work(train_tiny: Train, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="no permission"):
        train_tiny(tmp_path / "locked" / "run")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_resuming_works_on_a_gpu(train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medunet.planning import Effort

    monkeypatch.setattr("medunet.training.fit_plan.GPU_EFFORT", Effort(voxels=2 * 16**3, features=4))
    options: dict[str, Any] = {"device": "cuda", "deterministic": False}
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run", **options)
    assert train_tiny(tmp_path / "run", resume=True, **options).num_iterations == 4
