"""From scans without labels to a model that a training begins with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import Messages
from safetensors.torch import load_file

from medunet.errors import DatasetError, InputError, ModelError, OutputError, TrainingError, TrainingStoppedError
from medunet.io import write_nifti_image
from medunet.models import find_newest_model, read_model, read_records, read_single_model
from medunet.training import PretrainingResult, PretrainingSettings, TrainingResult, pretrain
from medunet.training.loop import Trainer
from medunet.volume import Volume

Pretrain = Callable[..., PretrainingResult]
Train = Callable[..., TrainingResult]


@pytest.fixture
def pretrain_tiny(tiny_data: Path, runs: Path) -> Pretrain:
    """`pretrain` on the images of the tiny dataset, deterministic, on the CPU."""

    def call(output: Path | None = None, **options: Any) -> PretrainingResult:
        data = options.pop("data", tiny_data / "data" / "images")
        given = {"budget": "4it", "deterministic": True, "device": "cpu", "output": output}
        if "modality" not in options:
            given["task"] = tiny_data / "task.yaml"
        return pretrain(data, **(given | options))

    return call


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_it_leaves_a_model_that_says_what_it_is(pretrain_tiny: Pretrain, tmp_path: Path) -> None:
    result = pretrain_tiny(tmp_path / "pre", budget="6it")
    files = {path.name for path in result.folder.iterdir()}
    assert files - {"run.lock"} == {
        "weights.safetensors",
        "plan.json",
        "task.json",
        "training.json",
        "pretraining.json",
        "log.csv",
        "report.html",
        "restored.png",
        "tensorboard",
        "state",
    }
    record = read_json(result.folder / "pretraining.json")
    assert record["task"] == "tiny-mr"
    assert (record["hidden_share"], record["distance"], record["num_left_out"]) == (0.6, "l1", 0)
    assert record["score"]["num_scans"] == 1  # of five one is kept apart
    assert 0 < record["score"]["error"] < 10
    model = read_single_model(result.folder)
    assert model.pretraining is not None
    assert model.plan.network.out_channels == len(model.task.channels) == 1
    assert list(model.task.labels) == ["body"]
    assert model.training.settings["loss"].startswith("restoring-l1 0.6 of ")
    rows = (result.folder / "log.csv").read_text().splitlines()
    assert rows[0].split(",")[4] == "training_dice"
    assert all(row.split(",")[4] == "" for row in rows[1:])
    page = (result.folder / "report.html").read_text()
    assert "Mean absolute error of what was hidden" in page
    assert "data:image/png" in page
    assert str(tmp_path) not in (result.folder / "training.json").read_text()


def test_it_learns(pretrain_tiny: Pretrain, tmp_path: Path) -> None:
    few, many = (pretrain_tiny(tmp_path / budget, budget=budget).record.score for budget in ("1it", "80it"))
    assert few is not None
    assert many is not None
    assert many.error_of_mean == pytest.approx(few.error_of_mean)  # the same patches
    assert many.error < 0.95 * many.error_of_mean
    assert many.error < 0.8 * few.error


def test_labels_are_never_opened(tiny_data: Path, pretrain_tiny: Pretrain, train_tiny: Train, tmp_path: Path) -> None:
    shutil.copytree(tiny_data / "data", tmp_path / "data")
    for path in (tmp_path / "data" / "labels").iterdir():
        path.write_bytes(b"secret")
    with_labels = pretrain_tiny(tmp_path / "a", data=tmp_path / "data", budget="2it")
    without = pretrain_tiny(tmp_path / "b", budget="2it")
    one, other = (load_file(result.folder / "weights.safetensors") for result in (with_labels, without))
    assert all(torch.equal(one[name], other[name]) for name in one)
    # Nor is a case learnt from that a training with the same fold validates.
    trained = read_records(train_tiny(tmp_path / "c", budget="1it").folder).training
    pretrained = read_records(with_labels.folder).training
    assert trained.validation_cases == pretrained.validation_cases
    assert trained.training_cases == pretrained.training_cases


def test_all_scans_may_be_learnt_from(pretrain_tiny: Pretrain, tmp_path: Path) -> None:
    result = pretrain_tiny(tmp_path / "pre", fold="all", budget="1it")
    assert len(read_records(result.folder).training.training_cases) == 5
    assert result.record.score is None
    assert not (result.folder / "restored.png").exists()


def test_a_training_begins_with_it(pretrain_tiny: Pretrain, train_tiny: Train, tmp_path: Path) -> None:
    source = pretrain_tiny(tmp_path / "pre", budget="2it")
    observer = Messages()
    result = train_tiny(tmp_path / "run", from_model=source.folder, observer=observer, budget="1it")
    network = read_single_model(source.folder).network
    num_encoder, num = len(network.network.encoder.state_dict()), len(network.state_dict())
    assert f"{num_encoder} of {num} tensors loaded from pre" in observer.texts
    assert "input: kept t1" in observer.texts
    assert "head: fresh: background, left, right" in observer.texts
    fresh = ", ".join(text for text in observer.texts if text.startswith("fresh"))
    assert "heads.0" in fresh
    assert "decoder.0" in fresh
    trained = read_model(result.folder)
    assert trained.pretraining is None
    assert trained.plan.network.out_channels == 3


def test_what_is_taken_over_is_what_was_learnt(
    pretrain_tiny: Pretrain, train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pretrain_tiny(tmp_path / "pre", budget="2it")
    monkeypatch.setattr("medunet.training.loop.compute_learning_rate", lambda *_: 0.0)
    result = train_tiny(tmp_path / "run", from_model=source.folder, budget="1it")
    before, after = (load_file(folder / "weights.safetensors") for folder in (source.folder, result.folder))
    assert set(after) == set(before)
    for name in after:
        if ".encoder." in name:
            assert torch.allclose(before[name], after[name], atol=1e-6)
        elif "decoder" in name and after[name].ndim == 5:  # it has learnt to make intensities
            assert not torch.allclose(before[name], after[name], atol=1e-2)


def test_a_modality_alone_names_no_channel(pretrain_tiny: Pretrain, train_tiny: Train, tmp_path: Path) -> None:
    source = pretrain_tiny(tmp_path / "pre", modality="MR", budget="1it")
    assert source.record.task is None
    observer = Messages()
    train_tiny(tmp_path / "run", from_model=source.folder, observer=observer, budget="1it")
    assert "input: kept t1" in observer.texts


def test_it_segments_nothing_and_says_so(
    pretrain_tiny: Pretrain, medunet_command: Callable[..., Any], tiny_data: Path, tmp_path: Path
) -> None:
    folder = pretrain_tiny(None, budget="1it").folder
    with pytest.raises(ModelError, match="was pretrained to restore hidden parts of images"):
        read_model(folder)
    scan = tiny_data / "data" / "images" / "case_0.nii.gz"
    refused = medunet_command("infer", scan, "-o", tmp_path / "mask.nii.gz", "--model", folder)
    refused.check_refused("has not learnt to segment anything", f"medunet train --from {folder}")
    with pytest.raises(ModelError, match="There is no model"):
        find_newest_model(folder.parent)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TrainingStoppedError("SIGTERM")])
def test_two_and_two_is_four(
    pretrain_tiny: Pretrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    whole = pretrain_tiny(tmp_path / "whole")
    step = Trainer._step

    def stop(self: Trainer, *arguments: Any) -> Any:
        if self.state.iteration == 2:
            if isinstance(error, TrainingStoppedError):
                monkeypatch.setattr(self, "should_stop", lambda: error.reason)
                monkeypatch.setattr(Trainer, "_step", step)
                return step(self, *arguments)
            raise error
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", stop)
    with pytest.raises(type(error)):
        pretrain_tiny(tmp_path / "parts")
    assert (tmp_path / "parts" / "pretraining.json").is_file()  # or its weights would pass for a model
    monkeypatch.setattr(Trainer, "_step", step)
    parts = pretrain_tiny(tmp_path / "parts", resume=True)
    one, other = (load_file(result.folder / "weights.safetensors") for result in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert parts.record == whole.record


def test_a_folder_is_not_trained_over(pretrain_tiny: Pretrain, tmp_path: Path) -> None:
    pretrain_tiny(tmp_path / "pre", budget="1it")
    with pytest.raises(OutputError, match="holds a model already"):
        pretrain_tiny(tmp_path / "pre", budget="1it")
    with pytest.raises(ModelError, match="holds no pretraining to go on with"):
        pretrain_tiny(tmp_path / "no", resume=True)


def test_scans_that_cannot_be_used_are_left_out(
    tiny_data: Path, pretrain_tiny: Pretrain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny_data / "data" / "images", tmp_path / "scans")
    (tmp_path / "scans" / "broken.nii.gz").write_bytes(b"no scan")
    write_nifti_image(Volume(np.zeros((1, 8, 8, 8), np.float32), np.eye(4)), tmp_path / "scans" / "empty.nii.gz")
    result = pretrain_tiny(tmp_path / "pre", data=tmp_path / "scans", budget="1it")
    assert result.record.num_left_out == 2
    assert "Left out: broken" in caplog.text
    assert "shows nothing but air or zeros" in caplog.text
    shutil.rmtree(tmp_path / "scans")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "broken.nii.gz").write_bytes(b"no scan")
    with pytest.raises(DatasetError, match="None of the 1 scans"):
        pretrain_tiny(tmp_path / "other", data=tmp_path / "scans", budget="1it")


def test_slices_can_be_learnt_from(pretrain_tiny: Pretrain, tmp_path: Path) -> None:
    result = pretrain_tiny(tmp_path / "pre", configuration="2d", budget="2it")
    model = read_single_model(result.folder)
    assert model.plan.network.spatial_dims == 2
    assert 1 in model.plan.patch_size
    assert 1 in (result.record.block)


def test_a_loss_that_is_not_finite_stops_as_in_training(
    pretrain_tiny: Pretrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "medunet.training.pretraining.restoring.Restoring._compute_sums",
        lambda self, answer, image, hidden: torch.stack([answer.sum() * float("nan"), answer.detach().sum()]),
    )
    with pytest.raises(TrainingError, match="not finite at iteration 1"):
        pretrain_tiny(tmp_path / "pre")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "takes its channels from --task, or from --modality CT or MR; neither"),
        ({"task": "x", "modality": "CT"}, "both of them was given"),
        ({"modality": "PET"}, r"--modality is 'PET'"),
        ({"modality": "CT", "hidden_share": 1.0}, "--hidden is 1; expected a share between 0 and 1"),
        ({"modality": "CT", "distance": "l3"}, "--distance is 'l3'; did you mean"),
        ({"modality": "CT", "configuration": "cascade"}, "--configuration is 'cascade'"),
        ({"modality": "CT", "fold": "cv"}, "--fold is 'cv'; expected a number from 0 to 4, or all"),
        ({"modality": "CT", "seed": -1}, "--seed is -1"),
    ],
)
def test_settings_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PretrainingSettings(data="x", **options)


def test_an_unknown_option() -> None:
    with pytest.raises(InputError, match=r"no pretraining option 'hiden_share'; did you mean 'hidden_share'"):
        pretrain("x", modality="CT", hiden_share=0.5)


def test_the_command(tiny_data: Path, runs: Path, medunet_command: Callable[..., Any], tmp_path: Path) -> None:
    arguments = (
        "pretrain",
        "--data",
        tiny_data / "data",
        "--modality",
        "MR",
        "--device",
        "cpu",
        "-o",
        tmp_path / "pre",
    )
    done = medunet_command(*arguments, "--budget", "2it")
    assert done.exit_code == 0, done.err
    assert "4 scans to learn from, 1 kept apart (images/)" in done.out
    assert "Pretrained 2 iterations" in done.out
    assert f"--from {tmp_path / 'pre'}" in done.out
    assert "Dice" not in done.out
    medunet_command(*arguments[:3], "--modality", "MR", "--resume").check_refused("--resume needs --output")
