"""The training loop: one page that can be read aloud."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from medunet.augmentation import choose_policy
from medunet.device import Precision, is_out_of_memory
from medunet.errors import OutputError, TrainingError, TrainingStoppedError
from medunet.planning import Plan
from medunet.preprocessing import StoredCase, find_neighbour_slices
from medunet.tasks import Task
from medunet.training.budget import Budget
from medunet.training.clock import Clock, Due
from medunet.training.compilation import Compilation, should_compile
from medunet.training.distributed import World
from medunet.training.engine import MAX_GRADIENT_NORM, Engine
from medunet.training.identity import RunIdentity
from medunet.training.log import TrainingLog
from medunet.training.losses import Loss, LossName
from medunet.training.objective import Objective
from medunet.training.progress import Observer, Step
from medunet.training.sampling import AugmentationMode, Batch, PatchSampler
from medunet.training.schedule import compute_learning_rate
from medunet.training.state import SAVE_SECONDS, TrainingState, has_state, load_state, save_state
from medunet.training.validation import compute_stored_dice

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 0.5
_SMOOTHING = 0.95


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """Where the loop stands.

    Attributes:
        weights: That are kept: the running mean, where the plan asks for one.
        iteration: Finished optimiser steps.
        seconds: Spent in the loop, over all sessions.
        data_wait: Share of this session's time in the loop that was spent waiting for patches.
    """

    weights: dict[str, Tensor]
    iteration: int
    seconds: float
    data_wait: float


class Trainer:
    """Learns from preprocessed cases until the budget is used up.

    Args:
        folder: The run folder.
        task: Labels.
        plan: Network, patch, batch (of each process) and optimiser.
        training_cases: To learn from.
        validation_cases: Looked at a few times on the way; may be empty.
        budget: Time or iterations.
        device: That computes; of this process.
        precision: Of the network's arithmetic.
        seed: Of weights, patches and augmentation.
        is_deterministic: Whether only deterministic kernels may be used.
        augmentation: ``"fast"``, ``"torchio"`` or ``"none"``.
        identity: What a state must match to be resumed.
        observer: Told what happens; by the first process only.
        loss: Its name.
        objective: What is learnt, where it is not to segment; see `Engine`.
        compilation: Whether to compile the network: ``"auto"``, ``"on"`` or ``"off"``.
        world: The processes that learn together.
        should_stop: Asked after every step; a reason, such as ``"SIGTERM"``, ends the training after saving.
        groups: Patient of each training case, see `PatchSampler`.
        num_workers: Threads that draw patches ahead, see `PatchSampler`.
        save_seconds: Between two saves.
    """

    def __init__(
        self,
        *,
        folder: Path,
        task: Task,
        plan: Plan,
        training_cases: Sequence[StoredCase],
        validation_cases: Sequence[StoredCase],
        budget: Budget,
        device: torch.device,
        precision: Precision,
        seed: int,
        is_deterministic: bool,
        augmentation: AugmentationMode,
        identity: RunIdentity,
        observer: Observer,
        loss: LossName = "dice-ce",
        objective: Objective | None = None,
        compilation: Compilation = "auto",
        world: World | None = None,
        should_stop: Callable[[], str | None] = lambda: None,
        groups: Sequence[Hashable | None] | None = None,
        num_workers: int | None = None,
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        self.folder = folder
        self.task = task
        self.plan = plan
        self.validation_cases = validation_cases
        self.budget = budget
        self.device = device
        self.precision = precision
        self.is_deterministic = is_deterministic
        self.identity = identity
        self.observer = observer
        self.world = world or World()
        self.should_stop = should_stop
        self.save_seconds = save_seconds
        self.will_compile = should_compile(compilation, budget, device)
        self.engine = Engine(
            plan,
            task,
            device=device,
            precision=precision,
            seed=seed,
            loss=loss,
            objective=objective,
            world=self.world,
            will_compile=self.will_compile,
        )
        self.sampler = PatchSampler(
            training_cases,
            task,
            plan.patch_size,
            plan.batch_size,
            plan.spacing,
            seed=seed,
            mode=augmentation,
            policy=choose_policy(plan),
            neighbours=find_neighbour_slices(plan),
            groups=groups,
            rank=self.world.rank,
            world_size=self.world.size,
            num_workers=num_workers,
            device=device,
        )
        self.state = TrainingState(
            network=self.engine.network,
            optimizer=self.engine.optimizer,
            average=self.engine.average,
            scaler=self.engine.scaler,
        )
        self._means = _RunningMeans()
        self._is_in_step = False
        self._recent: dict[int, tuple[str, ...]] = {}  # cases of the iterations that were not looked at yet

    @property
    def _checks_every_step(self) -> bool:
        """On a GPU asking would make each step wait; there `_report` asks a little later."""
        return self.device.type != "cuda"

    @property
    def network(self) -> nn.Module:
        """The network whose weights are kept; to load weights before `fit`, take ``engine.network``."""
        return self.engine.kept_network

    def describe(self) -> dict[str, Any]:
        """What was decided here and not by the user, for the record."""
        return {
            "optimizer": self.plan.optimizer.model_dump(),
            "max_gradient_norm": MAX_GRADIENT_NORM,
            "loss": self.engine.objective.name,
            "is_compiled": self.engine.is_compiled,
            "num_processes": self.world.size,
        }

    def fit(self, *, resumes: bool, on_save: Callable[[LoopResult], None]) -> LoopResult:
        """Loop until the budget is used up.

        Args:
            resumes: Whether to go on from the state in the run folder.
            on_save: Called with the weights so far whenever the state was saved; in the first process only.

        Raises:
            TrainingError: If the loss or its gradient is not finite, or memory runs out; the last state stays.
            TrainingStoppedError: If ``should_stop`` gave a reason, after saving.
            KeyboardInterrupt: On Ctrl-C, after saving, unless it came in the middle of a step.
        """
        if resumes:
            load_state(self.folder, self.state, self.identity)
            self.engine.align_moments()
        else:
            self.engine.reset_average()
            self.state.average = self.engine.average
        self.engine.network.train()
        clock = Clock(self.budget, self.state, report_seconds=_REPORT_SECONDS, save_seconds=self.save_seconds)
        kernels = _kernels(self.device, is_deterministic=self.is_deterministic)
        with kernels, self.world.watch(), self._open_log(resumes=resumes) as log:
            try:
                self._loop(clock, log, on_save)
            except KeyboardInterrupt:
                if not self._is_in_step:  # a step half done must not replace a whole state
                    self._save(clock, on_save)
                raise
        return self._save(clock, on_save)

    def _loop(self, clock: Clock, log: TrainingLog | None, on_save: Callable[[LoopResult], None]) -> None:
        if self.will_compile:
            self.observer.on_message("Compiling the network: takes a minute, then every step is faster.")
            self.engine.compile()
        with closing(self.sampler.iterate(self.state.iteration)) as batches:
            while True:
                due = self._decide(clock)
                if due.report:
                    self._report(clock, log)
                if due.save:
                    self._try_to_save(clock, on_save)
                if due.stop:
                    self._stop(clock, on_save)
                if due.progress >= 1:
                    break
                if due.validation and self.validation_cases:
                    self._validate(clock, log)
                with clock.waiting():
                    batch = next(batches)
                self._means.add(self._step(batch, due.progress))
                self.state.iteration += 1
                self._is_in_step = False
        self._report(clock, log)

    def _decide(self, clock: Clock) -> Due:
        """What is to be done now: by the clock of the first process, so that all do the same."""
        due = clock.look() if self.world.is_first else Due()
        is_asked_to_stop = self.should_stop() is not None
        progress, seconds, report, save, validation, stop = self.world.agree(
            [due.progress, due.seconds, due.report, due.save, due.validation, is_asked_to_stop]
        )
        self.state.seconds = seconds
        return Due(
            progress=progress,
            seconds=seconds,
            report=bool(report),
            save=bool(save),
            validation=bool(validation),
            stop=bool(stop),
        )

    def _step(self, batch: Batch, progress: float) -> Loss:
        """One optimiser step.

        Raises:
            TrainingError: If memory does not suffice for it, or its loss or gradient is not finite.
        """
        self._recent[batch.iteration] = batch.case_ids
        self._is_in_step = True
        try:
            loss = self.engine.step(batch, compute_learning_rate(self.plan.optimizer, progress))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(self._describe_no_memory(batch)) from error
        if self._checks_every_step:
            self._check()
        return loss

    def _check(self) -> None:
        """End the training if a loss or gradient was not finite; its update was not made.

        Raises:
            TrainingError: Names the iteration and its cases, of all processes.
        """
        fault = self.engine.find_fault()
        if fault is not None:
            cases = ", ".join(self.world.gather(", ".join(self._recent[fault])))
            remedy = "Look at these cases."
            if self.precision == "16-mixed":
                remedy = "Look at these cases; or large numbers are lost in float16: try --precision fp32."
            msg = (
                f"The loss or its gradient is not finite at iteration {fault + 1} (cases {cases}). {remedy} "
                f"{self._describe_kept()}"
            )
            raise TrainingError(msg)
        self._recent.clear()

    def _report(self, clock: Clock, log: TrainingLog | None) -> None:
        self._check()
        if log is None or self._means.loss is None:
            return
        state = self.state
        loss, data_wait = float(self._means.loss), clock.measure_data_wait()
        dice = None if self._means.dice is None else float(self._means.dice)
        progress = self.budget.compute_progress(state.iteration, state.seconds)
        learning_rate = compute_learning_rate(self.plan.optimizer, progress)
        self.observer.on_step(
            Step(
                iteration=state.iteration,
                loss=loss,
                dice=dice,
                progress=progress,
                seconds=state.seconds,
                seconds_left=state.seconds * (1 - progress) / max(progress, 1e-6),
                data_wait=data_wait,
                learning_rate=learning_rate,
            )
        )
        log.write_step(
            state.iteration, state.seconds, learning_rate=learning_rate, loss=loss, dice=dice, data_wait=data_wait
        )

    def _validate(self, clock: Clock, log: TrainingLog | None) -> None:
        if log is None:
            return  # the other processes wait for the first one at the next exchange
        with clock.validating():
            self.network.eval()
            try:
                dice = compute_stored_dice(
                    self.network, self.validation_cases, self.task, self.plan, self.device, self.precision
                )
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._give_up_looks(clock)
                return
            finally:
                self.engine.network.train()
        log.write_validation(self.state.iteration, self.state.seconds, dice)
        if dice is not None:
            self.observer.on_look(self.state.iteration, dice)
            self.observer.on_message(f"iteration {self.state.iteration}: Dice {dice:.3f} on validation cases")

    def _give_up_looks(self, clock: Clock) -> None:
        """A whole case may need more memory than a patch; the looks are only for people."""
        clock.give_up_validations()
        logger.warning(
            "There is not enough memory to look at validation cases while training. Training goes on without looks; "
            "the cases are scored at the end."
        )

    def _try_to_save(self, clock: Clock, on_save: Callable[[LoopResult], None]) -> None:
        """Save in between: the older state is whole, and by the next time there may be room again."""
        try:
            self._save(clock, on_save)
        except OutputError as error:
            logger.warning("%s Training goes on, and the next save is in %g s.", error, self.save_seconds)

    def _save(self, clock: Clock, on_save: Callable[[LoopResult], None]) -> LoopResult:
        self._check()  # on a GPU nobody may have looked at the last steps yet
        tensors = [*self.network.state_dict().values(), *self.engine.network.state_dict().values()]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            msg = f"The weights are not finite at iteration {self.state.iteration}. {self._describe_kept()}"
            raise TrainingError(msg)
        result = LoopResult(
            # As the file wants them, whatever their layout on the device.
            weights={name: tensor.contiguous() for name, tensor in self.network.state_dict().items()},
            iteration=self.state.iteration,
            seconds=self.state.seconds,
            data_wait=clock.data_wait,
        )
        if self.world.is_first:
            save_state(self.folder, self.state, self.identity)
            on_save(result)
        return result

    def _stop(self, clock: Clock, on_save: Callable[[LoopResult], None]) -> NoReturn:
        self._save(clock, on_save)
        self.world.agree([0.0])  # together: what started the processes may kill the rest as soon as one has ended
        raise TrainingStoppedError(self.should_stop() or "a signal to another process")

    def _open_log(self, *, resumes: bool) -> AbstractContextManager[TrainingLog | None]:
        if not self.world.is_first:
            return nullcontext()
        return TrainingLog(self.folder, resumes_at=self.state.iteration if resumes else None)

    def _describe_no_memory(self, batch: Batch) -> str:
        size = " x ".join(map(str, self.plan.patch_size))
        return (
            f"Out of memory at iteration {batch.iteration + 1} (cases {', '.join(batch.case_ids)}), with {self.plan.batch_size} "
            f"patches of {size} voxels at a time on {self.device}. Close other programs, or start a new training with a smaller "
            f"--memory-gb, which plans smaller patches. {self._describe_kept()}"
        )

    def _describe_kept(self) -> str:
        if has_state(self.folder):
            return f"The last good state is in {self.folder}; go on from it with --resume."
        return "No state was saved yet; start anew."


@contextmanager
def _kernels(device: torch.device, *, is_deterministic: bool) -> Generator[None, None, None]:
    """Deterministic kernels only, or the fastest ones for these shapes; the caller's choice is restored at the end."""
    before = torch.are_deterministic_algorithms_enabled()
    benchmark_before = torch.backends.cudnn.benchmark
    if is_deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses to be deterministic
    torch.use_deterministic_algorithms(is_deterministic or before)
    torch.backends.cudnn.benchmark = device.type == "cuda" and not is_deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark_before


class _RunningMeans:
    """Exponential means that stay on the device until somebody asks."""

    def __init__(self) -> None:
        self.loss: Tensor | None = None
        self.dice: Tensor | None = None

    def add(self, loss: Loss) -> None:
        self.loss = loss.total if self.loss is None else torch.lerp(loss.total, self.loss, _SMOOTHING)
        if loss.soft_dice is not None:
            self.dice = loss.soft_dice if self.dice is None else torch.lerp(loss.soft_dice, self.dice, _SMOOTHING)
