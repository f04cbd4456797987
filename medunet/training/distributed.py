"""Several processes that learn together: who goes first, what they tell each other, and one decision for all.

Until the training begins, processes talk through torch's key-value store, where waiting for hours is harmless; the process
group, whose exchanges must come in the same order everywhere, exists only while the network learns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from medunet.errors import TrainingError
from medunet.training.place import Place

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

STEP_TIMEOUT = timedelta(minutes=60)
"""Longest wait for another process while training; the first one may be looking at validation cases."""
TURN_TIMEOUT = timedelta(hours=24)
"""Longest wait for the first process to preprocess a dataset."""
_STORE_TIMEOUT = timedelta(minutes=10)
_POLL_SECONDS = 0.1


class ProcessLostError(TrainingError):
    """Another process of the training no longer answers."""

    def __init__(self) -> None:
        super().__init__("Another process of this training has ended; its own message says why.")


class World:
    """All processes of a training, as one of them sees them; alone, everything here does nothing.

    Args:
        place: Of this process.
        store: torch's key-value store, which all of them reach; needed where there are several.
        are_others_alive: Asked while waiting for them, where somebody knows.

    Attributes:
        rank: See `Place`.
        local_rank: See `Place`.
        size: See `Place`.
    """

    def __init__(
        self,
        place: Place | None = None,
        store: Store | None = None,
        *,
        are_others_alive: Callable[[], bool] = lambda: True,
    ) -> None:
        place = place or Place()
        self.rank, self.local_rank, self.size = place.rank, place.local_rank, place.size
        self._store = store
        self._are_others_alive = are_others_alive
        self._num_messages = 0
        self._owns_group = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, text: str | None = None) -> str:
        """Give a text of the first process to all; every process has to call this.

        Args:
            text: Only that of the first process matters, and it must have one.

        Raises:
            TrainingError: If the first process has failed.
        """
        if self.size == 1:
            assert text is not None
            return text
        key = self._name_message()
        if self.is_first:
            assert text is not None
            self._set(key, text)
            return text
        return self._wait_for(key)

    def decide(self, answer: bool) -> bool:
        """The first process's answer for all: others may look at its files when it has written on; all have to call this."""
        return self.share("yes" if answer else "no") == "yes"

    def gather(self, text: str) -> list[str]:
        """The text of every process, in order; every process has to call this."""
        if self.size == 1:
            return [text]
        key = self._name_message()
        self._set(f"{key}/{self.rank}", text)
        return [self._wait_for(f"{key}/{rank}") for rank in range(self.size)]

    @contextmanager
    def in_turn(self) -> Generator[None, None, None]:
        """The first process runs the block; then the others do, and find its files. Every process has to come here.

        Raises:
            TrainingError: In the others, if the first has failed.

        Example:
            >>> with World().in_turn():
            ...     print("preprocessed once, read by all")
            preprocessed once, read by all
        """
        if self.size == 1:
            yield
            return
        key = self._name_message()
        if not self.is_first:
            if self._wait_for(key) != "done":
                raise ProcessLostError
            yield
            return
        try:
            yield
        except BaseException:
            self._set(key, "failed")
            raise
        self._set(key, "done")

    def connect(self, device: torch.device) -> None:
        """Open the process group: from now on `agree` works, and gradients and sums of losses are exchanged."""
        if self.size == 1 or distributed.is_initialized():
            return
        assert self._store is not None
        self.gather("ready")  # torch's own wait below could not be interrupted
        with self.watch():
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=distributed.PrefixStore("training", self._store),  # type: ignore[attr-defined]
                rank=self.rank,
                world_size=self.size,
                timeout=STEP_TIMEOUT,
            )
        self._owns_group = True

    def disconnect(self) -> None:
        """Close the process group that `connect` opened."""
        if self._owns_group and distributed.is_initialized():
            distributed.destroy_process_group()
        self._owns_group = False

    def agree(self, numbers: Sequence[float]) -> list[float]:
        """The largest of each number over all processes; waits for all of them, but not for their GPUs."""
        if self.size == 1:
            return list(numbers)
        largest = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        return [float(number) for number in largest]

    @contextmanager
    def watch(self) -> Generator[None, None, None]:
        """Within it, a lost connection is reported as what it is: another process has ended."""
        try:
            yield
        except RuntimeError as error:
            if self.size > 1 and _is_lost_connection(error):
                raise ProcessLostError from error
            raise

    def _name_message(self) -> str:
        self._num_messages += 1
        return f"medunet/{self._num_messages}"

    def _set(self, key: str, text: str) -> None:
        assert self._store is not None
        with self.watch():
            self._store.set(key, text)

    def _wait_for(self, key: str) -> str:
        """Asks again and again rather than once for long, so that a signal is noticed meanwhile."""
        assert self._store is not None
        deadline = time.monotonic() + TURN_TIMEOUT.total_seconds()
        with self.watch():
            while not self._store.check([key]):
                if not self._are_others_alive():
                    raise ProcessLostError
                if time.monotonic() > deadline:
                    msg = f"Process {self.rank} has waited for another one for {TURN_TIMEOUT}; is it still running?"
                    raise TrainingError(msg)
                time.sleep(_POLL_SECONDS)
            return str(self._store.get(key).decode())


def open_store(place: Place) -> Store:
    """Meet the other processes; waits until process 0 listens.

    Raises:
        TrainingError: If it does not within ten minutes.
    """
    url = f"tcp://{place.address}:{place.port}"
    try:
        # Knows that torchrun listens itself, where a plain `TCPStore` would try to take its port.
        store: Store = next(rendezvous(url, place.rank, place.size, timeout=_STORE_TIMEOUT))[0]
    except RuntimeError as error:
        msg = f"Process {place.rank} of {place.size} did not reach process 0 at {place.address}, port {place.port}: {error}"
        raise TrainingError(msg.splitlines()[0]) from error
    return store


class WorldEnvironment(LightningEnvironment):
    """What Fabric asks about the processes; they run already, so that Fabric starts none and sets nothing."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    @property
    def creates_processes_externally(self) -> bool:
        """Always."""
        return True

    def world_size(self) -> int:
        """Processes in all."""
        return self._world.size

    def set_world_size(self, size: int) -> None:
        """Known already."""

    def global_rank(self) -> int:
        """Number of this process."""
        return self._world.rank

    def set_global_rank(self, rank: int) -> None:
        """Known already."""

    def local_rank(self) -> int:
        """Number of this process on its machine."""
        return self._world.local_rank


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
