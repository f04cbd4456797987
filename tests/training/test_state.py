"""What is saved comes back to the last bit, and only where it belongs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from medunet.errors import ModelError, OutputError
from medunet.training.state import TrainingState, has_state, load_state, save_state


def build_state(seed: int, *, num_steps: int = 0) -> TrainingState:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    state = TrainingState(network=network, optimizer=optimizer)
    take_steps(state, num_steps)
    return state


def take_steps(state: TrainingState, num_steps: int) -> None:
    for _ in range(num_steps):
        state.optimizer.zero_grad()
        x = torch.full((5, 3), 0.5) + state.iteration
        state.network(x).square().sum().backward()
        state.optimizer.step()
        state.iteration += 1


def check_equal(state: TrainingState, other: TrainingState) -> None:
    theirs = other.network.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in state.network.state_dict().items())
    mine, others = state.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert mine.keys() == others.keys()
    for index, moments in mine.items():
        assert moments.keys() == others[index].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(value, others[index][key]) for key, value in moments.items())
    assert (state.iteration, state.seconds) == (other.iteration, other.seconds)


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = build_state(0, num_steps=3)
    state.seconds = 0.1 + 0.2
    save_state(tmp_path, state, "print")
    loaded = build_state(1)
    load_state(tmp_path, loaded, "print")
    check_equal(loaded, state)
    take_steps(state, 4)
    take_steps(loaded, 4)
    check_equal(loaded, state)


def test_a_state_from_before_the_first_step_comes_back(tmp_path: Path) -> None:
    state = build_state(0)
    save_state(tmp_path, state, "print")
    loaded = build_state(1)
    load_state(tmp_path, loaded, "print")
    assert torch.equal(loaded.network[0].weight, state.network[0].weight)  # type: ignore[index]
    assert loaded.optimizer.state_dict()["state"] == {}


def test_another_dataset_plan_or_task_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, build_state(0, num_steps=1), "print")
    other = build_state(1)
    before = other.network[0].weight.clone()  # type: ignore[index]
    with pytest.raises(ModelError, match="other cases, another plan or another task"):
        load_state(tmp_path, other, "another print")
    assert torch.equal(other.network[0].weight, before)  # type: ignore[index]


def test_a_missing_state_is_no_fresh_start(tmp_path: Path) -> None:
    assert not has_state(tmp_path)
    with pytest.raises(ModelError, match="no saved state; start a new training without --resume"):
        load_state(tmp_path, build_state(0), "print")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_state_is_refused(tmp_path: Path, share: float) -> None:
    save_state(tmp_path, build_state(0, num_steps=1), "print")
    assert has_state(tmp_path)
    path = tmp_path / "state" / "state.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match="is damaged"):
        load_state(tmp_path, build_state(0), "print")


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, build_state(0, num_steps=1), "print")
    path = tmp_path / "state" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        load_state(tmp_path, build_state(0), "print")


def test_the_older_state_outlives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = build_state(0, num_steps=1)
    save_state(tmp_path, state, "print")
    before = (tmp_path / "state" / "state.safetensors").read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    take_steps(state, 1)
    with pytest.raises(OutputError, match="disk is full"):
        save_state(tmp_path, state, "print")
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["state.safetensors"]
    assert (tmp_path / "state" / "state.safetensors").read_bytes() == before
