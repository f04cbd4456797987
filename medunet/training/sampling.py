"""Batches of augmented patches. Batch number ``n`` is a pure function of the seed and ``n``: nothing else needs to be saved
to resume, and it does not matter who computes it.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medunet.augmentation import (
    AugmentationPolicy,
    IntensityChange,
    PatchChange,
    SpatialChange,
    build_policy,
    sample_change,
)
from medunet.device import count_cores, is_out_of_memory
from medunet.errors import TrainingError
from medunet.preprocessing import NeighbourSlices, StoredCase
from medunet.tasks import Task, compute_membership, compute_mirrored_outputs
from medunet.training.patch_order import PatchOrder
from medunet.training.patches import (
    Start,
    choose_start,
    compute_mirrored_codes,
    mirror_codes,
    mirror_patch,
    read_patch,
    read_patch_with_peers,
    read_previous_patch,
    read_previous_patch_with_peers,
    read_slices,
)
from medunet.training.prefetch import TIMEOUT_SECONDS, draw_ahead
from medunet.training.previous_labels import PreviousChange, apply_previous_change, sample_previous_change
from medunet.volume import Shape3, Spacing

AugmentationMode = Literal["fast", "torchio", "none"]
AugmentationName = Literal[AugmentationMode, "unet2015"]
"""A mode, or a policy of its own, which is applied fast."""
_PATCH = 1  # stream of random numbers
_MAX_WORKERS = 8
_DEVICE_MEMORY_SHARE = 0.25
"""Cases move to the device that trains when they take no more than this of its free memory."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the network learns from in one iteration.

    Attributes:
        iteration: Its number.
        case_ids: One per patch.
        image: ``(B, C, I, J, K)`` float32; intensities still wait for ``changes``. With neighbour slices, these lie along the
            slice axis, and become channels (`medunet.preprocessing.fold_slices`) once the intensities are changed.
        codes: ``(B, I, J, K)`` uint8.
        annotated: ``(B, outputs)`` bool: whether the patch's case was searched for what an output stands for, which in a
            patch whose sides are swapped is the label of the other side; None when every case was for everything.
        changes: One per patch, for `medunet.augmentation.apply_intensity`; empty when nothing is to be changed.
        previous: ``(B, I, J, K)`` uint8: codes that the first network of a cascade found, which become channels
            (`medunet.training.previous_labels.to_channels`) once the intensities are changed; None without a cascade.
    """

    iteration: int
    case_ids: tuple[str, ...]
    image: Tensor
    codes: Tensor
    annotated: Tensor | None = None
    changes: tuple[IntensityChange, ...] = ()
    previous: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class _Patch:
    """One of a `Batch`."""

    image: Tensor
    codes: Tensor
    change: IntensityChange
    annotated: tuple[bool, ...]
    previous: Tensor | None


class PatchSampler:
    """Draws patches from preprocessed cases.

    Args:
        cases: At least one. Of those that are not in memory, only boxes are read. All or none have previous labels.
        task: Its laterality pairs are swapped when a patch is mirrored.
        patch_size: Of a patch.
        batch_size: Patches per batch of one process.
        spacing: Of the cases, mm.
        seed: Of everything drawn here.
        mode: ``"fast"`` (plain torch), ``"torchio"`` (MONAI and TorchIO), ``"none"``.
        policy: What may change; None takes that of the task's modality.
        neighbours: Slices that come with each patch of one slice; None for patches alone.
        groups: Per case, its patient (`medunet.tasks.Case.group`); a patient with many scans comes no more often than
            others. None: every case is a patient of its own.
        rank: Of this process; it draws patches ``rank * batch_size`` and following of ``world_size * batch_size``.
        world_size: Processes that train together.
        num_workers: Threads that draw ahead; 0 draws when asked; None chooses (`choose_num_workers`).
        device: Where patches are interpolated, and lie when they are given out.
        timeout_seconds: Longest wait for a batch.
    """

    def __init__(
        self,
        cases: Sequence[StoredCase],
        task: Task,
        patch_size: Shape3,
        batch_size: int,
        spacing: Spacing,
        *,
        seed: int,
        mode: AugmentationMode = "fast",
        policy: AugmentationPolicy | None = None,
        neighbours: NeighbourSlices | None = None,
        groups: Sequence[Hashable | None] | None = None,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int | None = None,
        device: torch.device | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.cases = _move_cases(cases, self.device)
        self.patch_size = patch_size
        self.batch_size = batch_size
        self.spacing = spacing
        self.seed = seed
        self.mode = mode
        self.policy = policy or build_policy(task.modality)
        self.neighbours = neighbours
        self.rank = rank
        self.num_workers = choose_num_workers(self.device) if num_workers is None else num_workers
        self.timeout_seconds = timeout_seconds
        self._order = PatchOrder(
            [list(case.foreground) for case in cases],
            groups or [None] * len(cases),
            num_patches=world_size * batch_size,
            seed=seed,
        )
        self._num_codes = compute_membership(task).shape[1]
        mirrored_codes = compute_mirrored_codes(task)
        self._mirrored_codes = None if mirrored_codes is None else mirrored_codes.to(self.device)
        self._is_partial = any(case.annotated is not None for case in cases)
        self._everything = (True,) * task.num_outputs
        self._mirrored_outputs = compute_mirrored_outputs(task)
        self._drawing: dict[int, StoredCase] = {}  # iteration -> case that is being read

    def draw(self, iteration: int) -> Batch:
        """The batch of an iteration; the same each time, from whatever thread.

        Raises:
            TrainingError: If a patch cannot be made; names the case and the cause.
        """
        patches = []
        choices = [self._order.choose(iteration, position) for position in self._list_positions()]
        for position, choice in zip(self._list_positions(), choices, strict=True):
            case = self._drawing[iteration] = self.cases[choice.case]
            rng = np.random.default_rng([self.seed, _PATCH, iteration, position])
            try:
                patches.append(self._draw_patch(case, choice.code, rng))
            except Exception as error:
                raise _describe_fault(case, error) from error
        self._drawing.pop(iteration, None)
        return Batch(
            iteration=iteration,
            case_ids=tuple(self.cases[choice.case].case_id for choice in choices),
            image=torch.stack([patch.image for patch in patches]),
            codes=torch.stack([patch.codes for patch in patches]),
            annotated=self._stack_annotated(patches),
            changes=tuple(patch.change for patch in patches) if self.mode == "fast" else (),
            previous=_stack([patch.previous for patch in patches if patch.previous is not None]),
        )

    def iterate(self, start: int) -> Generator[Batch, None, None]:
        """Batches from ``start`` on, without end, in order; close the generator to end its threads.

        Raises:
            TrainingError: If a patch cannot be made, or a batch takes longer than ``timeout_seconds``.
        """
        return draw_ahead(
            self.draw,
            start,
            num_workers=self.num_workers,
            describe=self._describe,
            timeout_seconds=self.timeout_seconds,
        )

    def _list_positions(self) -> range:
        return range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)

    def _draw_patch(self, case: StoredCase, code: int | None, rng: np.random.Generator) -> _Patch:
        start = choose_start(case, self.patch_size, code, rng)
        change = self._sample_change(case, rng)
        image, codes = self._read_patch(case, start, change)
        # Drawn last, so that everything else is as it would be without a cascade.
        previous = self._read_previous(case, start, change, rng) if case.has_previous else None
        annotated = self._list_annotated(case, change.spatial)
        return _Patch(image=image, codes=codes, change=change.intensity, annotated=annotated, previous=previous)

    def _sample_change(self, case: StoredCase, rng: np.random.Generator) -> PatchChange:
        if self.mode == "none":
            return PatchChange(spatial=SpatialChange(), intensity=IntensityChange())
        patch_size = self.patch_size
        if self.mode == "torchio":
            from medunet.augmentation.monai_policy import compute_margin_size

            patch_size = compute_margin_size(self.patch_size)
        return sample_change(self.policy, rng, patch_size, self.spacing, num_channels=len(case.fill))

    def _read_patch(self, case: StoredCase, start: Start, change: PatchChange) -> tuple[Tensor, Tensor]:
        if self.neighbours is not None:
            assert self.mode != "torchio"  # `TrainingSettings` refuses it
            image, codes = read_slices(
                case, start, change.spatial, self.patch_size, self.spacing, self.device, self.neighbours
            )
        elif self.mode == "torchio":
            image, codes = read_patch_with_peers(case, start, change, self.patch_size, self.spacing)
            image, codes = image.to(self.device), codes.to(self.device)
        else:
            image, codes = read_patch(case, start, change.spatial, self.patch_size, self.spacing, self.device)
        return mirror_patch(image, codes, change.spatial.mirrored_axes, self._mirrored_codes)

    def _read_previous(self, case: StoredCase, start: Start, change: PatchChange, rng: np.random.Generator) -> Tensor:
        if self.mode == "torchio":
            codes = read_previous_patch_with_peers(case, start, change, self.patch_size, self.spacing).to(self.device)
        else:
            codes = read_previous_patch(case, start, change.spatial, self.patch_size, self.spacing, self.device)
        codes = mirror_codes(codes, change.spatial.mirrored_axes, self._mirrored_codes)
        worse = PreviousChange() if self.mode == "none" else sample_previous_change(rng, self._num_codes)
        return apply_previous_change(codes, worse)

    def _list_annotated(self, case: StoredCase, change: SpatialChange) -> tuple[bool, ...]:
        annotated = case.annotated or self._everything
        if 0 not in change.mirrored_axes:
            return annotated
        return tuple(annotated[output] for output in self._mirrored_outputs)  # as the codes of the two sides are

    def _stack_annotated(self, patches: Sequence[_Patch]) -> Tensor | None:
        if not self._is_partial:
            return None
        return torch.tensor([patch.annotated for patch in patches]).to(self.device)

    def _describe(self, iteration: int) -> str:
        ids = [self.cases[self._order.choose(iteration, position).case].case_id for position in self._list_positions()]
        case = self._drawing.get(iteration)
        place = "" if case is None else f", reading {case.path}"
        return f"batch {iteration} (cases {', '.join(ids)}) does not come{place}"


def _stack(tensors: Sequence[Tensor]) -> Tensor | None:
    return torch.stack(list(tensors)) if tensors else None


def choose_num_workers(device: torch.device) -> int:
    """Threads that draw ahead: one beside a network that computes on the same cores, as many as there are for a GPU."""
    if device.type == "cpu":
        return 1
    return min(_MAX_WORKERS, count_cores())


def _move_cases(cases: Sequence[StoredCase], device: torch.device) -> Sequence[StoredCase]:
    """Small datasets go to the device that trains, so that not a voxel needs to travel while training."""
    if device.type != "cuda" or not all(case.is_in_memory for case in cases):
        return cases
    free, _ = torch.cuda.mem_get_info(device)
    if sum(case.num_bytes for case in cases) > _DEVICE_MEMORY_SHARE * free:
        return cases
    return [case.to(device) for case in cases]


def _describe_fault(case: StoredCase, error: Exception) -> TrainingError:
    if is_out_of_memory(error):
        return TrainingError(
            f"Out of memory while a training patch of case '{case.case_id}' was made. Close other programs, choose a "
            "smaller budget (which plans smaller patches), or a machine with more memory; then go on with --resume."
        )
    return TrainingError(f"A training patch of case '{case.case_id}' could not be made from {case.path}: {error}")
