"""What is saved comes back to the last bit, only where it belongs, and however the process or the disk dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medunet.errors import ModelError, OutputError
from medunet.training.identity import RunIdentity
from medunet.training.state import TrainingState, find_state, has_state, load_state, save_state

NEWEST, PREVIOUS = "state.safetensors", "previous.safetensors"


def build_identity(**changes: Any) -> RunIdentity:
    content: dict[str, Any] = {
        "medunet_version": "0.1.0",
        "case_checksums": {"a": "1f", "b": "2e"},
        "training_cases": ("a", "b"),
        "validation_cases": (),
        "plan": {"patch_size": [40, 56, 40]},
        "task": {"labels": {"left": [1]}},
        "loss": "dice-ce",
        "seed": 0,
        "augmentation": "fast",
    }
    return RunIdentity(**(content | changes))


IDENTITY = build_identity()


def build_adamw(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=0.1)


def build_sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True)


def build_plain_sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.01)


def build_groups_out_of_order(network: nn.Module) -> torch.optim.Optimizer:
    """Biases without decay in a group of their own: the optimiser's order is not the network's."""
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        {"params": [p for p in parameters if p.ndim > 1]},
    ]
    return torch.optim.AdamW(groups, lr=0.1)


BuildOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
OPTIMIZERS = [build_adamw, build_sgd, build_plain_sgd, build_groups_out_of_order]


def build_state(
    seed: int, *, num_steps: int = 0, build: BuildOptimizer = build_adamw, averages: bool = False
) -> TrainingState:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    average = torch.optim.swa_utils.AveragedModel(network, use_buffers=True) if averages else None
    state = TrainingState(network=network, optimizer=build(network), average=average)
    take_steps(state, num_steps)
    return state


def take_steps(state: TrainingState, num_steps: int) -> None:
    for _ in range(num_steps):
        state.optimizer.zero_grad()
        x = torch.full((5, 3), 0.5) + state.iteration
        state.network(x).square().sum().backward()
        state.optimizer.step()
        if isinstance(state.average, torch.optim.swa_utils.AveragedModel):
            state.average.update_parameters(state.network)
        state.iteration += 1


def check_equal(state: TrainingState, other: TrainingState) -> None:
    modules = [(state.network, other.network)]
    if state.average is not None and other.average is not None:
        modules.append((state.average, other.average))
    for mine, theirs in modules:
        assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in mine.state_dict().items())
    moments, others = state.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert moments.keys() == others.keys()
    for index, values in moments.items():
        kept = {key: value for key, value in values.items() if value is not None}
        assert kept.keys() == {key for key, value in others[index].items() if value is not None}
        assert all(torch.equal(value, others[index][key]) for key, value in kept.items())
    assert (state.iteration, state.seconds) == (other.iteration, other.seconds)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def save_two(folder: Path) -> tuple[TrainingState, TrainingState]:
    """What the previous and the newest file hold: iterations 3 and 5."""
    state = build_state(0, num_steps=3)
    save_state(folder, state, IDENTITY)
    take_steps(state, 2)
    save_state(folder, state, IDENTITY)
    return build_state(0, num_steps=3), state


# ---- bit for bit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("build", OPTIMIZERS)
def test_everything_comes_back_bit_for_bit(tmp_path: Path, build: BuildOptimizer, averages: bool) -> None:
    state = build_state(0, num_steps=3, build=build, averages=averages)
    state.seconds = 0.1 + 0.2
    save_state(tmp_path, state, IDENTITY)
    loaded = build_state(1, build=build, averages=averages)
    load_state(tmp_path, loaded, IDENTITY)
    check_equal(loaded, state)
    take_steps(state, 4)
    take_steps(loaded, 4)
    check_equal(loaded, state)


def test_momentum_and_average_are_really_there(tmp_path: Path) -> None:
    """So that the test above cannot pass because both sides are empty."""
    state = build_state(0, num_steps=3, build=build_sgd, averages=True)
    save_state(tmp_path, state, IDENTITY)
    loaded = build_state(1, build=build_sgd, averages=True)
    load_state(tmp_path, loaded, IDENTITY)
    assert loaded.optimizer.state_dict()["state"][0]["momentum_buffer"].abs().sum() > 0
    assert loaded.average is not None
    assert int(loaded.average.state_dict()["n_averaged"]) == 3
    assert not torch.equal(loaded.average.state_dict()["module.0.weight"], loaded.network.state_dict()["0.weight"])


@pytest.mark.parametrize("build", [build_adamw, build_groups_out_of_order])
def test_moments_lie_under_the_names_of_their_parameters(tmp_path: Path, build: BuildOptimizer) -> None:
    from safetensors.torch import load_file

    state = build_state(0, num_steps=2, build=build)
    save_state(tmp_path, state, IDENTITY)
    tensors = load_file(tmp_path / "state" / NEWEST)
    for name, parameter in state.network.named_parameters():
        assert torch.equal(tensors[f"optimizer.{name}.exp_avg"], state.optimizer.state[parameter]["exp_avg"])


def test_a_state_from_before_the_first_step_comes_back(tmp_path: Path) -> None:
    state = build_state(0)
    save_state(tmp_path, state, IDENTITY)
    loaded = build_state(1)
    load_state(tmp_path, loaded, IDENTITY)
    assert torch.equal(loaded.network[0].weight, state.network[0].weight)  # type: ignore[index]
    assert loaded.optimizer.state_dict()["state"] == {}


def test_the_scale_of_float16_goes_on(tmp_path: Path) -> None:
    """Begun anew at 65536, it would have the first steps skipped until it fits again."""
    state, loaded = build_state(0, num_steps=1), build_state(1)
    state.scaler, loaded.scaler = torch.amp.GradScaler("cpu", init_scale=8.0), torch.amp.GradScaler("cpu")
    take_scaled_step(state)
    save_state(tmp_path, state, IDENTITY)
    load_state(tmp_path, loaded, IDENTITY)
    assert loaded.scaler.get_scale() == 8.0
    assert loaded.scaler.state_dict() == state.scaler.state_dict()
    take_scaled_step(loaded)
    assert loaded.scaler.state_dict()["_growth_tracker"] == 2


def take_scaled_step(state: TrainingState) -> None:
    assert state.scaler is not None
    state.optimizer.zero_grad()
    state.scaler.scale(state.network(torch.ones(5, 3)).square().sum()).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()


# ---- refusals ----------------------------------------------------------------------------------------------------------


def test_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    save_state(tmp_path, build_state(0, num_steps=1), IDENTITY)
    other = build_state(1)
    before = other.network[0].weight.clone()  # type: ignore[index]
    changed = build_identity(case_checksums={"a": "1f", "b": "77"}, seed=4)
    with pytest.raises(ModelError, match=r"case b has other voxels or labels; seed 0 -> 4\. Restore .*--output"):
        load_state(tmp_path, other, changed)
    assert torch.equal(other.network[0].weight, before)  # type: ignore[index]
    assert other.iteration == 0


def test_another_version_goes_on_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_state(tmp_path, build_state(0, num_steps=2), IDENTITY)
    loaded = build_state(1)
    load_state(tmp_path, loaded, build_identity(medunet_version="0.9.0"))
    assert loaded.iteration == 2
    assert "was begun with medunet 0.1.0 and goes on with 0.9.0" in caplog.text


@pytest.mark.parametrize("averages", [False, True])
def test_a_network_of_another_shape_is_refused_untouched(tmp_path: Path, averages: bool) -> None:
    """The same plan may mean another network in another version of medunet."""
    save_state(tmp_path, build_state(0, num_steps=1), IDENTITY)
    other = build_state(1, averages=averages)
    if not averages:
        other.network = nn.Sequential(nn.Linear(3, 4))
        other.optimizer = build_adamw(other.network)
    before = other.network.state_dict()["0.weight"].clone()
    with pytest.raises(ModelError, match=f"does not fit the {'average' if averages else 'network'} of this version"):
        load_state(tmp_path, other, IDENTITY)
    assert torch.equal(other.network.state_dict()["0.weight"], before)


def test_a_missing_state_is_no_fresh_start(tmp_path: Path) -> None:
    assert not has_state(tmp_path)
    assert find_state(tmp_path) is None
    with pytest.raises(ModelError, match="no saved state; start a new training without --resume"):
        load_state(tmp_path, build_state(0), IDENTITY)


def test_a_state_of_an_older_format_is_named_so(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from medunet.training.state import _compute_sha256

    tensors = {"network.0.weight": torch.ones(2)}
    counters = '{"iteration": 3, "seconds": 1.0, "fingerprint": "print"}'
    (tmp_path / "state").mkdir()
    metadata = {"counters": counters, "sha256": _compute_sha256(tensors, counters)}
    save_file(tensors, tmp_path / "state" / NEWEST, metadata=metadata)
    with pytest.raises(ModelError, match="written by another version of medunet"):
        load_state(tmp_path, build_state(0), IDENTITY)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_state_alone_is_refused(tmp_path: Path, share: float) -> None:
    save_state(tmp_path, build_state(0, num_steps=1), IDENTITY)
    assert has_state(tmp_path)
    path = tmp_path / "state" / NEWEST
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"is damaged .*no whole previous.safetensors"):
        load_state(tmp_path, build_state(0), IDENTITY)


# ---- two are kept ------------------------------------------------------------------------------------------------------


def test_two_are_kept(tmp_path: Path) -> None:
    older, newest = save_two(tmp_path)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [PREVIOUS, NEWEST]
    assert find_state(tmp_path) == tmp_path / "state" / NEWEST
    loaded = build_state(1)
    load_state(tmp_path, loaded, IDENTITY)
    check_equal(loaded, newest)
    (tmp_path / "state" / PREVIOUS).replace(tmp_path / "state" / NEWEST)
    load_state(tmp_path, loaded, IDENTITY)
    check_equal(loaded, older)


@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: path.write_bytes(b""), Path.unlink])
def test_the_previous_state_stands_in_and_says_what_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    older, _ = save_two(tmp_path)
    damage(tmp_path / "state" / NEWEST)
    loaded = build_state(1)
    load_state(tmp_path, loaded, IDENTITY)
    check_equal(loaded, older)
    (message,) = caplog.messages
    assert NEWEST in message
    assert "going on from the previous state, iteration 3: what was learnt after it is lost" in message


def test_a_damaged_state_never_takes_the_place_of_the_whole_one(tmp_path: Path) -> None:
    save_two(tmp_path)
    flip_a_bit(tmp_path / "state" / NEWEST)
    state = build_state(1)
    load_state(tmp_path, state, IDENTITY)
    take_steps(state, 1)
    save_state(tmp_path, state, IDENTITY)
    flip_a_bit(tmp_path / "state" / NEWEST)
    load_state(tmp_path, state, IDENTITY)
    assert state.iteration == 3


def test_two_damaged_states_are_refused(tmp_path: Path) -> None:
    save_two(tmp_path)
    for name in (NEWEST, PREVIOUS):
        flip_a_bit(tmp_path / "state" / name)
    with pytest.raises(ModelError, match=r"is damaged \(its checksum differs\), and there is no whole previous"):
        load_state(tmp_path, build_state(0), IDENTITY)


def test_a_disk_without_hard_links_keeps_two_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    older, newest = save_two(tmp_path)
    loaded = build_state(1)
    load_state(tmp_path, loaded, IDENTITY)
    check_equal(loaded, newest)
    (tmp_path / "state" / NEWEST).unlink()
    load_state(tmp_path, loaded, IDENTITY)
    check_equal(loaded, older)


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    for name in (f".{NEWEST}.12ab34cd.partial", f".{PREVIOUS}.12ab34cd.partial"):
        (tmp_path / "state" / name).write_bytes(b"half")
    save_two(tmp_path)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [PREVIOUS, NEWEST]


def test_a_kill_between_link_and_rename_costs_no_state(tmp_path: Path) -> None:
    """Newest and previous are then one file with two names, which a rename would leave as three."""
    _, newest = save_two(tmp_path)
    (tmp_path / "state" / PREVIOUS).unlink()
    (tmp_path / "state" / PREVIOUS).hardlink_to(tmp_path / "state" / NEWEST)
    take_steps(newest, 1)
    save_state(tmp_path, newest, IDENTITY)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [PREVIOUS, NEWEST]
    flip_a_bit(tmp_path / "state" / NEWEST)
    loaded = build_state(1)
    load_state(tmp_path, loaded, IDENTITY)
    assert loaded.iteration == 5


# ---- full disks and kills ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_both_states_outlive_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    _, state = save_two(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "state").iterdir()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    take_steps(state, 1)
    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", fail)
        else:  # a folder can be full too
            patch.setattr(os, "link", fail)
            patch.setattr(os, "replace", fail)
        with pytest.raises(OutputError, match="disk is full"):
            save_state(tmp_path, state, IDENTITY)
    assert {path: path.read_bytes() for path in (tmp_path / "state").iterdir()} == before
    save_state(tmp_path, state, IDENTITY)
    assert {path.name for path in (tmp_path / "state").iterdir()} == {NEWEST, PREVIOUS}


_KILLS = """
import os, pathlib, random, signal, sys, time, types
import torch
from torch import nn
import medunet
room = types.ModuleType("medunet.training")  # without the loop and all that it imports, which takes seconds
room.__path__ = [f"{medunet.__path__[0]}/training"]
sys.modules[room.__name__] = room
from medunet.training.identity import RunIdentity
from medunet.training.state import TrainingState, load_state, save_state

torch.set_num_threads(1)
folder, num_rounds = pathlib.Path(sys.argv[1]), int(sys.argv[2])
identity = RunIdentity(medunet_version="", case_checksums={}, training_cases=(), validation_cases=(), plan={}, task={},
                       loss="", seed=0, augmentation="")
class NoOptimizer:  # torch's own import its compiler at their first call, which takes seconds
    param_groups = []
    def state_dict(self):
        return {"state": {}}
    def load_state_dict(self, content):
        pass

network = nn.Linear(512, 512)  # 1 MB, so that writing takes a while
state = TrainingState(network=network, optimizer=NoOptimizer())

def set_iteration(iteration):
    state.iteration = iteration
    torch.nn.init.constant_(network.weight, iteration)

for iteration in (1, 2):
    began = time.perf_counter()
    set_iteration(iteration)
    save_state(folder, state, identity)
    seconds = time.perf_counter() - began  # of the second one: the first also imports
rng = random.Random(0)
for _ in range(num_rounds):
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            set_iteration(state.iteration + 1)
            save_state(folder, state, identity)
            os.write(tell, state.iteration.to_bytes(4, "little"))
    os.close(tell)
    finished = os.read(told, 4)  # one save at least; the kill comes in one of the next
    time.sleep(rng.uniform(0.0, 2 * seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    finished += os.read(told, 1 << 20)
    os.close(told)
    acknowledged = int.from_bytes(finished[-4:], "little")
    load_state(folder, state, identity)
    assert state.iteration in (acknowledged, acknowledged + 1), (state.iteration, acknowledged)
    assert (network.weight == state.iteration).all()
print(state.iteration)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_moment_of_a_save_leaves_the_last_finished_one(tmp_path: Path) -> None:
    """Thirty children save in a loop, and each is killed with SIGKILL somewhere in it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _KILLS, str(tmp_path), "30"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30, "every child should have finished a save"
    assert "damaged" not in done.stderr
