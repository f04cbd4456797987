"""Start the processes of a training on this machine, or join those that torchrun or SLURM started.

The other processes run `medunet.training.worker` with the same arguments, written as JSON to their standard input; so it
does not matter whether the first one is a command, a script or a notebook. They end when it ends, however it ends.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import IO, Any

import torch
from torch import distributed

from medunet.device import check_num_devices, choose_device
from medunet.errors import InputError, TrainingError
from medunet.training.distributed import ProcessLostError, World, open_store
from medunet.training.place import Place, find_place

WORKER = "medunet.training.worker"
_END_SECONDS = 60.0
_FAIL_SECONDS = 5.0
_KILL = 9  # SIGKILL, which Windows lacks


@contextmanager
def open_world(
    arguments: Mapping[str, Any], *, devices: int | None = None, nodes: int | None = None, device: str = "auto"
) -> Generator[World, None, None]:
    """The processes that learn together, for as long as the block runs.

    Args:
        arguments: Of `medunet.training.train`, as the other processes are to be called with; JSON.
        devices: Processes per machine, each with a GPU of its own if there are GPUs; None for one, or for as many as
            torchrun or SLURM started.
        nodes: Machines; None as for ``devices``.
        device: As asked for, such as ``"auto"`` or ``"cpu"``.

    Raises:
        InputError: If the numbers do not fit the devices, or what torchrun or SLURM started.
        TrainingError: If another process fails.
    """
    place = find_place(os.environ)
    if place is not None:
        _check_size(place, devices, nodes)
        world = World(place, open_store(place) if place.size > 1 else None)
        with _disconnecting(world):
            yield world
    elif (devices or 1) * (nodes or 1) == 1:
        yield World()
    else:
        with _start_processes(arguments, devices or 1, nodes or 1, device) as world, _disconnecting(world):
            yield world


def _check_size(place: Place, devices: int | None, nodes: int | None) -> None:
    if devices is None and nodes is None:
        return
    # With one of the two, the other must at least come out whole.
    asked = (devices or 1) * (nodes or 1)
    fits = place.size == asked if devices and nodes else place.size % asked == 0
    if not fits:
        msg = (
            f"torchrun or SLURM started {place.size} processes, which --devices {devices or '-'} and --nodes {nodes or '-'} "
            "contradict; leave both away."
        )
        raise InputError(msg)


@contextmanager
def _disconnecting(world: World) -> Generator[None, None, None]:
    try:
        yield
    finally:
        world.disconnect()


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """Another process on this machine, and what it wrote to its standard error."""

    rank: int
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    @property
    def has_failed(self) -> bool:
        return self.process.poll() not in (None, 0)

    def describe_failure(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        # torch puts the rank before the last line of a traceback.
        reason = re.sub(r"^(\[rank\d+\]: |error: )", "", lines[-1]) if lines else f"exit code {self.process.returncode}"
        if self.process.returncode == -_KILL:  # what it wrote before, such as a warning, is not the cause
            reason = "it was killed, most often because the machine has no memory left; with more, go on with --resume"
        return f"Process {self.rank} of this training has failed: {reason}"


@contextmanager
def _start_processes(
    arguments: Mapping[str, Any], devices: int, nodes: int, device: str
) -> Generator[World, None, None]:
    check_num_devices(device, devices)
    place = _find_first_place(devices, nodes)
    store = None
    if nodes == 1:
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            place.address, 0, devices, is_master=True, wait_for_workers=False
        )
        place = replace(place, port=store.port)
    num_threads = torch.get_num_threads()
    shares_cpu = choose_device(device).type == "cpu"
    share = max(1, num_threads // devices) if shares_cpu else num_threads
    workers: list[_Worker] = []
    try:
        for local_rank in range(1, devices):
            workers.append(_start_worker(arguments, place, local_rank, share))
        torch.set_num_threads(share)
        yield World(place, store or open_store(place), are_others_alive=lambda: not any(w.has_failed for w in workers))
        _wait_for_end(workers)
    except ProcessLostError as error:
        raise _find_cause(workers) or error from error
    finally:
        torch.set_num_threads(num_threads)
        _end(workers)


def _find_first_place(devices: int, nodes: int) -> Place:
    """The place of this process, which starts the others of its machine."""
    if nodes == 1:
        return Place(size=devices)
    try:
        node = int(os.environ["NODE_RANK"])
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        msg = (
            f"--nodes {nodes} needs a starter on every machine: torchrun --nnodes {nodes} --nproc-per-node {devices}, or "
            "srun. Or set MASTER_ADDR, MASTER_PORT and NODE_RANK and start this command on every machine."
        )
        raise InputError(msg) from error
    return Place(rank=node * devices, size=devices * nodes, address=address, port=port)


def _start_worker(arguments: Mapping[str, Any], first: Place, local_rank: int, num_threads: int) -> _Worker:
    rank = first.rank + local_rank
    environment = {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(first.size),
        "MASTER_ADDR": first.address,
        "MASTER_PORT": str(first.port),
        "OMP_NUM_THREADS": str(num_threads),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # the same packages, wherever they were found
    }
    errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in `_end`
    process = subprocess.Popen(
        [sys.executable, "-m", WORKER],
        stdin=subprocess.PIPE,
        stderr=errors,
        env=os.environ | environment,
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already, which is noticed soon
        process.stdin.write(json.dumps(dict(arguments)).encode() + b"\n")
        process.stdin.flush()
    return _Worker(rank=rank, process=process, errors=errors)


def _wait_for_end(workers: Sequence[_Worker]) -> None:
    """The first process is done; so must the others be, soon."""
    for worker in workers:
        try:
            worker.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired as error:
            msg = f"Process {worker.rank} of this training did not end; it is killed. The model is written."
            raise TrainingError(msg) from error
        if worker.has_failed:
            raise TrainingError(worker.describe_failure())


def _find_cause(workers: Sequence[_Worker]) -> TrainingError | None:
    """What the process that was lost says; it may still be writing it."""
    deadline = time.monotonic() + _FAIL_SECONDS
    while time.monotonic() < deadline:
        for worker in workers:
            if worker.has_failed:
                return TrainingError(worker.describe_failure())
        time.sleep(0.1)
    return None


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        assert worker.process.stdin is not None
        with suppress(BrokenPipeError):
            worker.process.stdin.close()  # which tells it to end
    for worker in workers:
        try:
            worker.process.wait(_FAIL_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.errors.close()
