"""Several processes learn what one would with their batches together, and none is left waiting when one fails."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed_worker
import pytest
import torch
from tiny_training import MUON

from medunet.errors import InputError, TrainingError
from medunet.models import read_model
from medunet.training import TrainingResult, launch
from medunet.training.distributed import ProcessLostError, World
from medunet.training.launch import open_world
from medunet.training.place import Place, find_place

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "node-a", "MASTER_PORT": "29400"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_ID": "1234",
}


@pytest.fixture
def run_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Any]:
    """Call a function of `distributed_worker` in two processes; gives what it returns in the first one, this one."""
    monkeypatch.setattr(launch, "WORKER", "distributed_worker")
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)

    def call(function: str) -> Any:
        with open_world({"function": function, "folder": str(tmp_path)}, devices=2, device="cpu") as world:
            return getattr(distributed_worker, function)(tmp_path, world)

    return call


# ---- who is who --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (TORCHRUN, Place(rank=5, local_rank=1, size=8, address="node-a", port=29400)),
        (SRUN, Place(rank=5, local_rank=1, size=8, address="gpu07", port=15000 + 12340)),
        (
            SRUN | {"MASTER_ADDR": "head", "MASTER_PORT": "99"},
            Place(rank=5, local_rank=1, size=8, address="head", port=99),
        ),
        (TORCHRUN | SRUN, Place(rank=5, local_rank=1, size=8, address="node-a", port=29400)),
        # sbatch without srun: one process, though the job has room for eight.
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, None),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, None),
    ],
)
def test_the_place_is_what_the_starter_says(environment: dict[str, str], expected: Place | None) -> None:
    assert find_place(environment) == expected


def test_two_steps_of_a_job_take_different_ports() -> None:
    ports = {find_place(SRUN | {"SLURM_STEP_ID": str(step)}).port for step in range(10)}  # type: ignore[union-attr]
    assert len(ports) == 10


@pytest.mark.parametrize("environment", [TORCHRUN | {"RANK": "x"}, {"SLURM_STEP_NUM_TASKS": "2"}])
def test_half_an_environment_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(InputError, match="do not fit together"):
        find_place(environment)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 3}, "started 4 processes, which --devices 3"),
        ({"devices": 2, "nodes": 1}, "--devices 2 and --nodes 1 contradict"),
        ({"nodes": 8}, "contradict"),
    ],
)
def test_flags_that_contradict_the_starter(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, int], message: str
) -> None:
    for name, value in (TORCHRUN | {"WORLD_SIZE": "4", "RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message), open_world({}, **options):  # type: ignore[arg-type]
        pass


def test_several_machines_need_a_starter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="torchrun --nnodes 2 --nproc-per-node 4"), open_world({}, devices=4, nodes=2):
        pass


def test_alone_nothing_waits(tmp_path: Path) -> None:
    with open_world({}) as world:
        assert (world.rank, world.size, world.is_first) == (0, 1, True)
        assert world.share("text") == "text"
        assert world.gather("text") == ["text"]
        assert (world.decide(True), world.decide(False)) == (True, False)
        assert world.agree([1.5, 2.0]) == [1.5, 2.0]
        world.connect(torch.device("cpu"))
        with world.in_turn(), world.watch():
            pass
    assert not torch.distributed.is_initialized()


def test_the_first_process_decides_for_all() -> None:
    """A process that comes late sees files which the first one has written since it decided."""
    store = torch.distributed.HashStore()
    first, second = (World(Place(rank=rank, size=2), store) for rank in (0, 1))
    answers = [(True, False), (False, True)]
    assert [first.decide(answer) for answer, _ in answers] == [True, False]
    assert [second.decide(late) for _, late in answers] == [True, False]


def test_a_lost_connection_is_told_from_other_errors() -> None:
    world = World(Place(size=2))
    with pytest.raises(ProcessLostError), world.watch():
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"), world.watch():
        raise RuntimeError("shapes do not fit")


# ---- two processes -----------------------------------------------------------------------------------------------------


def test_two_processes_learn_what_one_does_with_twice_the_batch(run_two: Callable[[str], Any], tmp_path: Path) -> None:
    """Same patches, same weights but for rounding; stopped and resumed, the same to the last bit."""
    num_threads = torch.get_num_threads()
    seen = run_two("learn")
    assert not torch.distributed.is_initialized()
    assert torch.get_num_threads() == num_threads
    alone = distributed_worker.build_trainer(tmp_path / "alone", None, batch_size=4, num_iterations=6)
    start = {name: tensor.clone() for name, tensor in alone.network.state_dict().items()}
    expected = distributed_worker.fit(alone).weights
    together = seen["unbroken"].weights
    assert together.keys() == expected.keys()
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-5)
    moved = max(float((expected[name] - start[name]).abs().max()) for name in expected)
    assert moved > 1e-2  # or nothing would have been compared
    alone = distributed_worker.build_trainer(
        tmp_path / "alone-muon", None, batch_size=4, num_iterations=3, optimizer=MUON
    )
    with_muon = distributed_worker.fit(alone).weights
    torch.testing.assert_close(seen["muon"].weights, with_muon, rtol=0, atol=1e-5)
    assert max(float((with_muon[name] - start[name]).abs().max()) for name in with_muon) > 2e-3
    resumed = seen["resumed"]
    assert resumed.iteration == 6
    assert all(torch.equal(tensor, resumed.weights[name]) for name, tensor in together.items())
    assert seen["reasons"] == ["3 a signal to another process", "3 SIGTERM"]
    rows = list(csv.DictReader((tmp_path / "unbroken" / "log.csv").read_text().splitlines()))
    assert [int(row["iteration"]) for row in rows if row["validation_dice"]] == [2, 3, 5]  # by one process
    assert re.search(r"iteration 3 \(cases case_\d, case_\d, case_\d, case_\d\)", seen["fault"])
    # A fault of one process ends both; in float16 its loss alone tells, and the other one would wait for it forever.
    assert len(seen["local faults"]) == 2
    for fault in seen["local faults"]:
        assert re.search(
            r"not finite at iteration 3 \(cases case_\d, case_\d, case_\d, case_\d\).*--precision fp32", fault
        )
    assert seen["told"] == ["0 from the first False", "1 from the first True"]


def test_a_process_that_fails_while_training_ends_all(run_two: Callable[[str], Any]) -> None:
    with pytest.raises(TrainingError, match=r"Process 1 of this training has failed: ZeroDivisionError"):
        run_two("lose_a_process")
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_a_process_that_fails_before_training_ends_the_wait(run_two: Callable[[str], Any]) -> None:
    with pytest.raises(TrainingError, match=r"Process 1 of this training has failed: no room left in"):
        run_two("fail_before_training")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_process_that_was_killed_is_said_to_be_out_of_memory(run_two: Callable[[str], Any]) -> None:
    message = r"Process 1 of this training has failed: it was killed, most often because .* no memory left.*--resume"
    with pytest.raises(TrainingError, match=message):
        run_two("be_killed")


def test_processes_that_srun_started_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's variables alone: no address, no port, no flag."""
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    step = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_JOB_ID": str(_find_free_job()),
        "SLURM_STEP_ID": "0",
    }
    arguments = json.dumps({"function": "exchange", "folder": str(tmp_path)})
    second = subprocess.Popen(
        [sys.executable, "-m", "distributed_worker"],
        stdin=subprocess.PIPE,
        env=os.environ
        | step
        | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert second.stdin is not None
    try:
        second.stdin.write(f"{arguments}\n".encode())
        second.stdin.flush()
        for name, value in (step | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}).items():
            monkeypatch.setenv(name, value)
        with open_world({}) as world:
            told = distributed_worker.exchange(tmp_path, world)
        assert told == ["0 0 of 2, largest 11", "1 1 of 2, largest 11"]
        assert second.wait(60) == 0
    finally:
        second.kill()
        second.wait()
        second.stdin.close()


def _find_free_job() -> int:
    """A number of a job whose port nobody listens on."""
    for job in range(os.getpid() % 1000, 1500):
        place = find_place(SRUN | {"SLURM_JOB_ID": str(job)})
        assert place is not None
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", place.port))
            return job
    pytest.fail("no port is free")


@pytest.mark.slow
def test_two_commands_that_torchrun_started_train_together(tiny_data: Path, tmp_path: Path) -> None:
    """torchrun's variables alone: the same command twice, without a flag; the first one reports."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "medunet", "train", "--task", str(tiny_data / "task.yaml")]
    command += [
        "--data",
        str(tiny_data / "data"),
        "--output",
        str(tmp_path / "run"),
        "--budget",
        "2it",
        "--device",
        "cpu",
    ]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared |= {"MEDUNET_HOME": str(tmp_path / "runs"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "Trained 2 iterations" in outputs[0][0]
    assert outputs[1][0] == ""
    training = read_model(tmp_path / "run").training
    assert (training.num_iterations, training.settings["num_processes"]) == (2, 2)


def test_one_call_trains_with_two_processes(
    train_tiny: Callable[..., TrainingResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    result = train_tiny(tmp_path / "run", devices=2, budget="3it")
    assert result.num_iterations == 3
    assert result.evaluation is not None
    assert read_model(tmp_path / "run").training.settings["num_processes"] == 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_worker_does_not_outlive_the_first_process(tmp_path: Path) -> None:
    """`kill -9` of the first process closes the pipe, and nothing else tells the others."""
    script = tmp_path / "first.py"
    script.write_text(
        "import sys, time\n"
        "from medunet.training import launch\n"
        "launch.WORKER = 'distributed_worker'\n"
        f"arguments = {{'function': 'learn', 'folder': {str(tmp_path)!r}}}\n"
        "with launch.open_world(arguments, devices=2, device='cpu') as world:\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    children = _wait_for_children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while any(_is_running(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_is_running(child) for child in children)


def _wait_for_children(pid: int) -> list[int]:
    import psutil

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if children := psutil.Process(pid).children(recursive=True):
            return [child.pid for child in children]
        time.sleep(0.1)
    pytest.fail("no worker was started")


def _is_running(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
