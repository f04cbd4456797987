"""`--encoder`: a training begins with the weights of a 2D classifier, and says which."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import Messages
from published_layouts import list_resnet_shapes, make_state
from safetensors.torch import load_file, save_file

from medunet.errors import InputError
from medunet.training import TrainingResult, TrainingSettings

STEM = "network.encoder.stem.0.weight"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    path = tmp_path / "resnet18.safetensors"
    save_file(make_state(list_resnet_shapes("resnet18", width=2, num_classes=3)), path)
    return path


def test_a_training_begins_with_the_encoder(
    encoder: Path, train_tiny: Callable[..., TrainingResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = Messages()
    # A learning rate of nothing: what is kept is what training began with.
    monkeypatch.setattr("medunet.training.loop.compute_learning_rate", lambda *_: 0.0)
    result = train_tiny(tmp_path / "run", network="fastfcn", encoder=encoder, observer=observer, budget="1it")
    weights = load_file(result.folder / "weights.safetensors")
    kernel = load_file(encoder)["conv1.weight"].sum(1, keepdim=True)  # one channel
    expected = torch.zeros(2, 1, 7, 7, 7)
    expected[..., 3] = kernel
    torch.testing.assert_close(weights[STEM], expected)
    options = json.loads((result.folder / "plan.json").read_text())["network"]["options"]
    assert (options["width"], options["block"], options["blocks"]) == (2, "basic", [2, 2, 2, 2])
    said = next(text for text in observer.texts if text.startswith("encoder:"))
    assert "tensors loaded from resnet18.safetensors (ResNet of 2, 2, 2, 2 basic blocks), kernels in the middle" in said
    record = json.loads((result.folder / "training.json").read_text())
    assert record["settings"]["encoder"] == "resnet18.safetensors"  # without its folder
    assert str(tmp_path) not in (result.folder / "training.json").read_text()


def test_a_finished_start_needs_the_file_no_more(
    encoder: Path, train_tiny: Callable[..., TrainingResult], tmp_path: Path
) -> None:
    done = train_tiny(tmp_path / "run", network="fastfcn", encoder=encoder, budget="1it")
    before = load_file(done.folder / "weights.safetensors")
    (done.folder / "metrics.json").unlink()
    encoder.unlink()
    train_tiny(tmp_path / "run", network="fastfcn", resume=True, budget="1it")
    after = load_file(done.folder / "weights.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("network", ["auto", "vnet"])
def test_a_network_without_such_an_encoder_is_refused(network: str) -> None:
    with pytest.raises(InputError, match=f"--network is '{network}'; choose one of fcn-32s, .* gated-scnn"):
        TrainingSettings(task="x", network=network, encoder="resnet18.safetensors")


def test_an_unknown_inflation_is_refused() -> None:
    with pytest.raises(InputError, match=r"--inflation is 'center'; did you mean 'centre'\?"):
        TrainingSettings(task="x", **{"inflation": "center"})  # type: ignore[arg-type]


def test_the_command_takes_the_file(
    encoder: Path, tiny_data: Path, runs: Path, medunet_command: Callable[..., Any], tmp_path: Path
) -> None:
    pickle = tmp_path / "resnet18.pth"
    pickle.write_bytes(b"PK\x03\x04")
    arguments = ("train", "--task", tiny_data / "task.yaml", "--data", tiny_data / "data", "--network", "fastfcn")
    refused = medunet_command(*arguments, "--encoder", pickle, "--budget", "1it", "--device", "cpu")
    refused.check_refused("is a pickle", "resnet18.safetensors")
    done = medunet_command(
        *arguments, "--encoder", encoder, "--budget", "1it", "--device", "cpu", "--inflation", "repeat"
    )
    assert done.exit_code == 0, done.err
    assert "repeated along the third axis" in done.out
