"""Steps that look at the image: the dense CRF and supervoxels, on the box of all labels and what lies near."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from medunet.device import choose_device
from medunet.errors import InputError
from medunet.postprocessing.crf_settings import DenseCrf
from medunet.postprocessing.label_rules import LabelRule
from medunet.postprocessing.parts import Box, find_box
from medunet.postprocessing.supervoxels import (
    Supervoxels,
    average_in_supervoxels,
    compute_supervoxels,
    vote_in_supervoxels,
)
from medunet.volume import Array, Spacing, Volume

ImageStep: TypeAlias = DenseCrf | Supervoxels
IMAGE_STEPS: Final[Mapping[str, type[Any]]] = {kind.name: kind for kind in (DenseCrf, Supervoxels)}
"""Name -> kind of step."""

_CERTAINTY = 0.7  # that a mask without probabilities is right: low enough for neighbours to outvote it
_LEAST_FOREGROUND = 0.01  # what is more surely background is not looked at
_MAX_SUM_ERROR = 0.1  # of probabilities that were rounded to bytes and interpolated


@dataclass(frozen=True, kw_only=True)
class ImageEffect:
    """What a step that looks at the image did.

    Attributes:
        name: Of the step.
        num_changed: Voxels that have another label now.
        note: What a person should know: labels that are gone; mostly empty.
    """

    name: str
    num_changed: int
    note: str = ""

    def describe(self) -> str:
        """One line for people."""
        return f"{self.name}: {self.num_changed} voxels changed{f', {self.note}' if self.note else ''}"


def apply_image_step(
    label_map: Volume,
    rules: Mapping[str, LabelRule],
    step: ImageStep,
    image: Volume,
    probabilities: Volume | None = None,
    *,
    device: str = "auto",
) -> tuple[Volume, ImageEffect]:
    """Take a step that looks at the image.

    Args:
        label_map: ``(1, I, J, K)`` whole numbers. Voxels with values of no label stay as they are.
        rules: Of every label, none within another.
        step: What to do.
        image: ``(N, I, J, K)`` on the same grid.
        probabilities: ``(1 + labels, I, J, K)`` on the same grid, background first; without them a voxel has its label with
            a probability of 0.7.
        device: That computes the CRF.

    Returns:
        The label map with the same dtype, ``label_map`` itself where nothing changed; and what was done.

    Raises:
        InputError: If labels lie within each other, the probabilities have other channels than the labels, or their sum is
            not 1.
    """
    _check_plain(rules)
    if probabilities is not None:
        _check_probabilities(probabilities, rules)
    labels = label_map.array[0]
    codes = np.zeros(labels.shape, np.uint16)
    for code, rule in enumerate(rules.values(), start=1):
        codes[np.isin(labels, rule.values)] = code
    is_open = (labels == 0) | (codes > 0)
    is_near = codes > 0
    if probabilities is not None:
        is_near |= probabilities.array[0] < 1 - _LEAST_FOREGROUND
    box = _widen(find_box(is_near), step, label_map)
    if box[0].stop == 0:
        return label_map, ImageEffect(name=step.name, num_changed=0)
    inside = (slice(None), *box)
    before = codes[box]
    found = _decide(
        before,
        None if probabilities is None else probabilities.array[inside].astype(np.float32),
        image.array[inside].astype(np.float32),
        label_map.spacing,
        step,
        num_labels=len(rules),
        device=device,
    )
    changed = (found != before) & is_open[box]
    if not changed.any():
        return label_map, ImageEffect(name=step.name, num_changed=0)
    paint = np.array([0, *(rule.paint for rule in rules.values())], labels.dtype)
    array = label_map.array.copy()
    array[0][box][changed] = paint[found[changed]]
    after = np.where(changed, found, before)
    gone = [name for code, name in enumerate(rules, start=1) if (before == code).any() and not (after == code).any()]
    note = f"nothing is left of {', '.join(gone)}" if gone else ""
    return label_map.with_array(array), ImageEffect(name=step.name, num_changed=int(changed.sum()), note=note)


def _decide(
    codes: Array,
    probabilities: Array | None,
    image: Array,
    spacing: Spacing,
    step: ImageStep,
    *,
    num_labels: int,
    device: str,
) -> Array:
    """The code of every voxel of the box after the step."""
    if isinstance(step, Supervoxels):
        segments = compute_supervoxels(image, spacing, step)
        if probabilities is None:
            return vote_in_supervoxels(codes, segments)
        averages = average_in_supervoxels(probabilities, segments)
        likeliest: Array = averages.argmax(axis=0).astype(codes.dtype)
        return likeliest
    import torch

    from medunet.postprocessing.dense_crf import refine_probabilities

    if probabilities is None:
        rest = (1 - _CERTAINTY) / num_labels
        classes = np.arange(num_labels + 1)[:, None, None, None]
        probabilities = np.where(codes[None] == classes, np.float32(_CERTAINTY), np.float32(rest))
    place = choose_device(device)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)).to(place) for array in (probabilities, image)]
    refined = refine_probabilities(tensors[0], tensors[1], spacing, step)
    decided: Array = refined.argmax(0).cpu().numpy().astype(codes.dtype)
    return decided


def _widen(box: Box, step: ImageStep, grid: Volume) -> Box:
    """The box with what a voxel at its side looks at."""
    if box[0].stop == 0:
        return box
    reach = step.window_mm if isinstance(step, DenseCrf) else 2 * step.mm
    i, j, k = (
        slice(max(side.start - math.ceil(reach / mm), 0), min(side.stop + math.ceil(reach / mm), length))
        for side, mm, length in zip(box, grid.spacing, grid.spatial_shape, strict=True)
    )
    return i, j, k


def _check_plain(rules: Mapping[str, LabelRule]) -> None:
    values = [value for rule in rules.values() for value in rule.values]
    if len(set(values)) < len(values):
        msg = (
            "Regions lie within each other, and a step that looks at the image gives each voxel one label; expected labels that "
            "share no value. Take steps of single labels."
        )
        raise InputError(msg)


def _check_probabilities(probabilities: Volume, rules: Mapping[str, LabelRule]) -> None:
    if probabilities.num_channels != len(rules) + 1:
        msg = (
            f"The probabilities have {probabilities.num_channels} channels; expected {len(rules) + 1}: background, "
            f"{', '.join(rules)}. Name the task, or take the map that was made with the mask."
        )
        raise InputError(msg)
    total = probabilities.array.sum(axis=0, dtype=np.float32)
    if np.abs(total - 1).max() > _MAX_SUM_ERROR:
        msg = (
            f"The probabilities add up to {float(total.min()):.3g} to {float(total.max()):.3g}; expected 1 in every voxel. "
            "Is it a map of `medunet infer --probabilities`?"
        )
        raise InputError(msg)
