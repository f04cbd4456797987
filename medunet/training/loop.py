"""The training loop: one page that can be read aloud."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from medunet.augmentation import AugmentationPolicy, apply_intensity
from medunet.device import Precision
from medunet.errors import TrainingError
from medunet.networks import PatchNetwork, build_network
from medunet.planning import Plan
from medunet.preprocessing import StoredCase
from medunet.tasks import Task, compute_membership
from medunet.training.budget import Budget
from medunet.training.log import TrainingLog
from medunet.training.losses import Loss, compute_scaled_loss
from medunet.training.progress import Observer, Step
from medunet.training.sampling import AugmentationMode, Batch, PatchSampler
from medunet.training.schedule import compute_learning_rate
from medunet.training.state import TrainingState, has_state, load_state, save_state
from medunet.training.validation import compute_stored_dice

# Fabric announces its precision each time it is built; the model's record says it once.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
MAX_GRADIENT_NORM = 12.0
SAVE_SECONDS = 120.0
NUM_VALIDATIONS = 3
VALIDATION_SHARE = 0.05
_REPORT_SECONDS = 0.5
_SMOOTHING = 0.95
_INTENSITY_STREAM = 2


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """Where the loop stands.

    Attributes:
        weights: Of the network.
        iteration: Finished optimiser steps.
        seconds: Spent in the loop, over all sessions.
    """

    weights: dict[str, Tensor]
    iteration: int
    seconds: float


class Trainer:
    """Learns from preprocessed cases until the budget is used up.

    Args:
        folder: The run folder.
        task: Labels.
        plan: Network, patch and batch.
        training_cases: To learn from.
        validation_cases: Looked at a few times on the way; may be empty.
        budget: Time or iterations.
        device: That computes.
        precision: Of the network's arithmetic.
        seed: Of weights, patches and augmentation.
        is_deterministic: Whether only deterministic kernels may be used.
        augmentation: ``"fast"``, ``"torchio"`` or ``"none"``.
        fingerprint: What a state must match to be resumed.
        observer: Told what happens.
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
        fingerprint: str,
        observer: Observer,
    ) -> None:
        self.folder = folder
        self.task = task
        self.plan = plan
        self.validation_cases = validation_cases
        self.budget = budget
        self.device = device
        self.precision = precision
        self.seed = seed
        self.fingerprint = fingerprint
        self.observer = observer
        self.policy = AugmentationPolicy() if augmentation == "fast" else None
        self.is_deterministic = is_deterministic
        self.fabric = _build_fabric(device, precision)
        with torch.random.fork_rng(devices=[]):  # the caller's generator is left as it was
            torch.manual_seed(seed)
            self.network = build_network(plan.network)
        self.optimizer = _build_optimizer(self.network)
        self.membership = torch.from_numpy(compute_membership(task)).to(device)
        self.sampler = PatchSampler(
            training_cases,
            task,
            plan.patch_size,
            plan.batch_size,
            plan.spacing,
            seed=seed,
            mode=augmentation,
            policy=self.policy,
        )
        self.state = TrainingState(network=self.network, optimizer=self.optimizer)

    def describe(self) -> dict[str, Any]:
        """The settings that are the same for every run, for the record."""
        return {
            "optimizer": "AdamW",
            "learning_rate": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "schedule": "warm-up, then cosine to zero over the budget",
            "max_gradient_norm": MAX_GRADIENT_NORM,
            "loss": "soft Dice + cross-entropy, deep supervision",
        }

    def fit(self, *, resumes: bool, on_save: Callable[[LoopResult], None]) -> LoopResult:
        """Loop until the budget is used up.

        Args:
            resumes: Whether to go on from the state in the run folder.
            on_save: Called with the weights so far whenever the state was saved.

        Raises:
            TrainingError: If the loss is not finite; the last state stays.
            KeyboardInterrupt: On Ctrl-C, after saving.
        """
        network, optimizer = self.fabric.setup(self.network, self.optimizer)
        network.mark_forward_method("forward_scales")
        if resumes:  # after `setup`, which moves the weights to the device but not the optimiser's moments
            load_state(self.folder, self.state, self.fingerprint)
        network.train()
        with _deterministic_algorithms(self.is_deterministic), TrainingLog(self.folder, resumes=resumes) as log:
            try:
                self._loop(network, optimizer, log, on_save)
            except KeyboardInterrupt:
                self._save(on_save)
                raise
        return self._save(on_save)

    def _loop(self, network: Any, optimizer: Any, log: TrainingLog, on_save: Callable[[LoopResult], None]) -> None:
        state = self.state
        start = time.perf_counter() - state.seconds
        means = _RunningMeans()
        saved_at = reported_at = start + state.seconds
        validations = _ValidationTimes(self.budget.compute_progress(state.iteration, state.seconds))
        with closing(self.sampler.iterate(state.iteration)) as batches:
            for batch in batches:
                progress = self.budget.compute_progress(state.iteration, state.seconds)
                if progress >= 1:
                    break
                learning_rate = compute_learning_rate(LEARNING_RATE, progress)
                loss = self._step(network, optimizer, batch, learning_rate)
                state.iteration += 1
                now = time.perf_counter()
                state.seconds = now - start
                means.add(loss)
                if now - reported_at >= _REPORT_SECONDS:
                    reported_at = now
                    self._report(means, learning_rate, log, batch)
                if now - saved_at >= SAVE_SECONDS:
                    saved_at = now
                    self._save(on_save)
                if self.validation_cases and validations.is_due(progress):
                    log.write_validation(state.iteration, state.seconds, self._validate(network, validations))
        self._report(means, 0.0, log, None)

    def _step(self, network: Any, optimizer: Any, batch: Batch, learning_rate: float) -> Loss:
        """One optimiser step."""
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        image = batch.image.to(self.device, non_blocking=True)
        codes = batch.codes.to(self.device, non_blocking=True)
        if self.policy is not None:
            image = apply_intensity(image, self.policy, self._build_rngs(batch))
        optimizer.zero_grad(set_to_none=True)
        with self.fabric.autocast():  # Fabric does so by itself for `forward` only
            scales = network.forward_scales(image)
        loss = compute_scaled_loss(scales, codes, self.membership, has_regions=self.task.has_regions)
        self.fabric.backward(loss.total)
        norm = self.fabric.clip_gradients(network, optimizer, max_norm=MAX_GRADIENT_NORM, error_if_nonfinite=False)
        if self.device.type == "cpu" and norm is not None and not bool(torch.isfinite(norm)):
            # On a GPU asking would make the step wait; there `_report` notices a little later.
            self._fail(batch)
        optimizer.step()
        return loss

    def _build_rngs(self, batch: Batch) -> list[np.random.Generator]:
        return [
            np.random.default_rng([self.seed, _INTENSITY_STREAM, batch.iteration, position])
            for position in range(len(batch.case_ids))
        ]

    def _report(self, means: _RunningMeans, learning_rate: float, log: TrainingLog, batch: Batch | None) -> None:
        if means.loss is None or means.dice is None:
            return
        state = self.state
        loss, dice = float(means.loss), float(means.dice)
        if not np.isfinite(loss) and batch is not None:
            self._fail(batch)
        progress = self.budget.compute_progress(state.iteration, state.seconds)
        seconds_left = state.seconds * (1 - progress) / max(progress, 1e-6)
        self.observer.on_step(
            Step(
                iteration=state.iteration,
                loss=loss,
                dice=dice,
                progress=progress,
                seconds=state.seconds,
                seconds_left=seconds_left,
            )
        )
        log.write_step(state.iteration, state.seconds, learning_rate, loss, dice)

    def _validate(self, network: Any, validations: _ValidationTimes) -> float | None:
        began = time.perf_counter()
        network.eval()
        dice = compute_stored_dice(
            self.network, self.validation_cases, self.task, self.plan, self.device, self.precision
        )
        network.train()
        validations.note_cost(time.perf_counter() - began, self.budget)
        if dice is not None:
            self.observer.on_message(f"iteration {self.state.iteration}: Dice {dice:.3f} on validation cases")
        return dice

    def _save(self, on_save: Callable[[LoopResult], None]) -> LoopResult:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.network.state_dict().values()):
            # Between two reports on a GPU, a loss may have become NaN unseen; the last good state must stay.
            msg = f"The weights are not finite at iteration {self.state.iteration}. {self._describe_kept()}"
            raise TrainingError(msg)
        save_state(self.folder, self.state, self.fingerprint)
        result = LoopResult(
            weights=self.network.state_dict(), iteration=self.state.iteration, seconds=self.state.seconds
        )
        on_save(result)
        return result

    def _fail(self, batch: Batch) -> None:
        msg = (
            f"The loss or its gradient is not finite at iteration {batch.iteration + 1} (cases "
            f"{', '.join(batch.case_ids)}). Look at these cases. {self._describe_kept()}"
        )
        raise TrainingError(msg)

    def _describe_kept(self) -> str:
        if has_state(self.folder):
            return f"The last good state is in {self.folder}; go on from it with --resume."
        return "No state was saved yet; start anew."


def measure_step_seconds(plan: Plan, task: Task, device: torch.device, precision: Precision) -> float:
    """Seconds that one training step of a plan takes on this device, on random numbers."""
    with torch.random.fork_rng(devices=[]):
        fabric = _build_fabric(device, precision)
        module = build_network(plan.network)
        network, optimizer = fabric.setup(module, _build_optimizer(module))
        network.mark_forward_method("forward_scales")
        membership = torch.from_numpy(compute_membership(task)).to(device)
        image = torch.randn(plan.batch_size, plan.network.in_channels, *plan.patch_size, device=device)
        codes = torch.zeros(plan.batch_size, *plan.patch_size, dtype=torch.uint8, device=device)
        seconds = 0.0
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            with fabric.autocast():
                scales = network.forward_scales(image)
            fabric.backward(compute_scaled_loss(scales, codes, membership, has_regions=task.has_regions).total)
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
    return seconds


@contextmanager
def _deterministic_algorithms(is_wanted: bool) -> Generator[None, None, None]:
    """Deterministic kernels only, for as long as the training runs; the caller's choice is restored."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(is_wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _build_fabric(device: torch.device, precision: Precision) -> Fabric:
    devices: Any = [device.index or 0] if device.type == "cuda" else 1
    return Fabric(accelerator=device.type, devices=devices, precision=precision)


def _build_optimizer(network: PatchNetwork) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, eps=1e-7)


class _RunningMeans:
    """Exponential means that stay on the device until somebody asks."""

    def __init__(self) -> None:
        self.loss: Tensor | None = None
        self.dice: Tensor | None = None

    def add(self, loss: Loss) -> None:
        total = loss.total.detach()
        self.loss = total if self.loss is None else torch.lerp(total, self.loss, _SMOOTHING)
        self.dice = loss.soft_dice if self.dice is None else torch.lerp(loss.soft_dice, self.dice, _SMOOTHING)


class _ValidationTimes:
    """A few looks on the way, fewer when a look is dear."""

    def __init__(self, progress: float) -> None:
        self._due = [share for n in range(1, NUM_VALIDATIONS + 1) if (share := n / (NUM_VALIDATIONS + 1)) > progress]

    def is_due(self, progress: float) -> bool:
        return bool(self._due) and progress >= self._due[0]

    def note_cost(self, seconds: float, budget: Budget) -> None:
        self._due = self._due[1:]
        if budget.seconds is not None and seconds * (len(self._due) + 1) > VALIDATION_SHARE * budget.seconds:
            self._due = []
