"""Batches of augmented patches. Batch number ``n`` is a pure function of the seed and ``n``: nothing else needs to be saved
to resume, and it does not matter who computes it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.augmentation import (
    AugmentationPolicy,
    SpatialChange,
    apply_spatial,
    compute_source_offsets,
    sample_spatial,
)
from medunet.errors import TrainingError
from medunet.preprocessing import Box, StoredCase
from medunet.tasks import Task
from medunet.volume import Shape3, Spacing

AugmentationMode = Literal["fast", "torchio", "none"]
FOREGROUND_SHARE = 1 / 3
_CASES, _PATCH = 0, 1  # streams of random numbers


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the network learns from in one iteration.

    Attributes:
        iteration: Its number.
        case_ids: One per patch.
        image: ``(B, C, I, J, K)`` float32.
        codes: ``(B, I, J, K)`` uint8.
    """

    iteration: int
    case_ids: tuple[str, ...]
    image: Tensor
    codes: Tensor


class PatchSampler:
    """Draws patches from preprocessed cases.

    Args:
        cases: At least one.
        task: Its laterality pairs are swapped when a patch is mirrored.
        patch_size: Of a patch.
        batch_size: Patches per batch.
        spacing: Of the cases, mm.
        seed: Of everything drawn here.
        mode: ``"fast"`` (plain torch), ``"torchio"`` (MONAI and TorchIO), ``"none"``.
        policy: What may change.
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
    ) -> None:
        self.cases = cases
        self.patch_size = patch_size
        self.batch_size = batch_size
        self.spacing = spacing
        self.seed = seed
        self.mode = mode
        self.policy = policy or AugmentationPolicy()
        self._mirrored_codes = _compute_mirrored_codes(task)
        self._num_forced = batch_size - round(batch_size * (1 - FOREGROUND_SHARE))
        self._monai: Any = None
        if mode == "torchio":
            from medunet.augmentation.monai_policy import build_monai_augmentation

            self._monai = build_monai_augmentation(self.policy, patch_size, spacing)

    def draw(self, iteration: int) -> Batch:
        """The batch of an iteration; the same each time."""
        images, codes, case_ids = [], [], []
        for position in range(self.batch_size):
            case = self._choose_case(iteration * self.batch_size + position)
            rng = np.random.default_rng([self.seed, _PATCH, iteration, position])
            forces_foreground = position >= self.batch_size - self._num_forced
            patch, patch_codes = self._draw_patch(case, rng, forces_foreground=forces_foreground)
            images.append(patch)
            codes.append(patch_codes)
            case_ids.append(case.case_id)
        return Batch(iteration=iteration, case_ids=tuple(case_ids), image=torch.stack(images), codes=torch.stack(codes))

    def iterate(self, start: int) -> Generator[Batch, None, None]:
        """Batches from ``start`` on, without end, drawn ahead by one thread."""
        ahead: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=2)
        stop = threading.Event()

        def draw_ahead() -> None:
            iteration = start
            while not stop.is_set():
                try:
                    item: Batch | BaseException = self.draw(iteration)
                except Exception as error:
                    item = error
                while not stop.is_set():
                    try:
                        ahead.put(item, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                iteration += 1

        thread = threading.Thread(target=draw_ahead, name="medunet-patches", daemon=True)
        thread.start()
        try:
            while True:
                item = ahead.get()
                if isinstance(item, BaseException):
                    msg = f"A training patch could not be made: {item}"
                    raise TrainingError(msg) from item
                yield item
        finally:
            stop.set()
            thread.join()

    def _choose_case(self, number: int) -> StoredCase:
        """Every case once per epoch, in a new order each time."""
        epoch, position = divmod(number, len(self.cases))
        order = np.random.default_rng([self.seed, _CASES, epoch]).permutation(len(self.cases))
        return self.cases[int(order[position])]

    def _draw_patch(
        self, case: StoredCase, rng: np.random.Generator, *, forces_foreground: bool
    ) -> tuple[Tensor, Tensor]:
        start = self._choose_start(case, rng, forces_foreground=forces_foreground)
        if self.mode == "torchio":
            return self._apply_monai(case, start, rng)
        change = SpatialChange()
        if self.mode == "fast":
            change = sample_spatial(self.policy, rng, self.patch_size, self.spacing)
        offsets = compute_source_offsets(change, self.patch_size, self.spacing)
        if offsets is None:
            image, codes = _crop(case, start, self.patch_size)
        else:
            centre = torch.tensor([first + (size - 1) / 2 for first, size in zip(start, self.patch_size, strict=True)])
            image, codes = _warp(case, offsets + centre)
        return self._mirror(image, codes) if change.is_mirrored else (image, codes)

    def _choose_start(
        self, case: StoredCase, rng: np.random.Generator, *, forces_foreground: bool
    ) -> tuple[int, int, int]:
        """First voxel of the patch; inside the case, or around it where the case is smaller."""
        room = [length - size for length, size in zip(case.shape, self.patch_size, strict=True)]
        start = [int(rng.integers(min(0, n), max(0, n) + 1)) for n in room]
        if forces_foreground and case.foreground:
            codes = sorted(case.foreground)
            voxels = case.foreground[codes[int(rng.integers(len(codes)))]]
            voxel = voxels[int(rng.integers(len(voxels)))].tolist()
            start = [
                min(max(v - size // 2, 0), n) if n > 0 else first
                for v, size, n, first in zip(voxel, self.patch_size, room, start, strict=True)
            ]
        i, j, k = start
        return i, j, k

    def _mirror(self, image: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        if self.patch_size[0] == 1:
            return image, codes  # a sagittal slice: flipping it changes no voxel, so no label may change either
        # Axis 0 runs from left to right in RAS.
        return image.flip(1), self._mirrored_codes[codes.flip(0).long()]

    def _apply_monai(
        self, case: StoredCase, start: tuple[int, int, int], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        from monai.data import MetaTensor

        from medunet.augmentation.monai_policy import IMAGE, LABELS, compute_margin_size

        size = compute_margin_size(self.patch_size)
        margin = [(large - small) // 2 for large, small in zip(size, self.patch_size, strict=True)]
        i, j, k = (first - extra for first, extra in zip(start, margin, strict=True))
        image, codes = _crop(case, (i, j, k), size)
        affine = torch.diag(torch.tensor([*self.spacing, 1.0], dtype=torch.float64))
        data = {IMAGE: MetaTensor(image, affine=affine), LABELS: MetaTensor(codes[None], affine=affine)}
        self._monai.set_random_state(seed=int(rng.integers(2**31)))
        changed = self._monai(data)
        image, codes = changed[IMAGE].as_tensor(), changed[LABELS].as_tensor()[0].to(torch.uint8)
        return self._mirror(image, codes) if rng.random() < self.policy.mirror_probability else (image, codes)


def _crop(case: StoredCase, start: tuple[int, int, int], size: Shape3) -> tuple[Tensor, Tensor]:
    """A box that may reach over the case's borders; what lies outside is filled."""
    inside: Box = tuple(  # type: ignore[assignment]
        slice(min(max(first, 0), length), max(min(first + n, length), 0))
        for first, n, length in zip(start, size, case.shape, strict=True)
    )
    image, codes = case.read_box(inside)
    before = [edge.start - first for edge, first in zip(inside, start, strict=True)]
    after = [first + n - edge.stop for edge, first, n in zip(inside, start, size, strict=True)]
    if not any(before + after):
        return image, codes
    padding = [n for axis in (2, 1, 0) for n in (before[axis], after[axis])]  # F.pad starts with the last axis
    channels = [F.pad(channel, padding, value=float(fill)) for channel, fill in zip(image, case.fill, strict=True)]
    return torch.stack(channels), F.pad(codes, padding, value=0)


def _warp(case: StoredCase, coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """The patch whose voxels come from given positions of the case; only the box around them is read."""
    lengths = torch.tensor(case.shape)
    flat = coordinates.reshape(-1, 3)
    first = flat.amin(0).floor().long().clamp(min=0).minimum(lengths - 1)
    last = flat.amax(0).ceil().long().clamp(min=0).minimum(lengths - 1)
    box: Box = tuple(slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))  # type: ignore[assignment]
    image, codes = case.read_box(box)
    local = coordinates - first
    warped = apply_spatial(image, local, "bilinear")
    warped_codes = apply_spatial(codes[None], local, "nearest")[0].to(torch.uint8)
    is_outside = ((coordinates < -0.5) | (coordinates > lengths - 0.5)).any(-1)
    warped = torch.where(is_outside, case.fill[:, None, None, None], warped)
    return warped, warped_codes.masked_fill(is_outside, 0)


def _compute_mirrored_codes(task: Task) -> Tensor:
    """Code -> code after swapping left and right."""
    codes = torch.arange(256, dtype=torch.uint8)
    names = list(task.labels)
    for left, right in task.laterality:
        if task.has_regions:
            pairs = zip(task.labels[left], task.labels[right], strict=True)
            swaps = [(task.all_values.index(a) + 1, task.all_values.index(b) + 1) for a, b in pairs]
        else:
            swaps = [(names.index(left) + 1, names.index(right) + 1)]
        for a, b in swaps:
            codes[a], codes[b] = b, a
    return codes
