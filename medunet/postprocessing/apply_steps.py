"""Steps of post-processing on a label map: each on the box of its label, and fair to the other labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.ndimage import distance_transform_edt

from medunet.models.postprocessing import LabelStep
from medunet.postprocessing.balls import close_mask, open_mask
from medunet.postprocessing.fill_holes import fill_holes, fill_holes_in_slices
from medunet.postprocessing.keep_largest import keep_largest_parts
from medunet.postprocessing.label_rules import LabelRule
from medunet.postprocessing.one_per_side import sort_sides
from medunet.postprocessing.parts import Box, find_value_boxes, join_boxes
from medunet.postprocessing.remove_small import remove_small_parts
from medunet.postprocessing.sides import Axes
from medunet.postprocessing.smooth_border import TRUNCATE, smooth_border
from medunet.tasks import (
    Closing,
    FillHoles,
    KeepLargest,
    MaskStep,
    OnePerSide,
    Opening,
    RemoveSmall,
    Smooth,
)
from medunet.tasks.mask_steps import PLANES
from medunet.volume import Array, Spacing, Volume


@dataclass(frozen=True, kw_only=True)
class StepEffect:
    """What one step did to one label.

    Attributes:
        step: Which, of which label.
        num_removed: Voxels that left the label.
        num_added: Voxels that it took.
        note: What a person should know: that the label is gone, or why the step was skipped; mostly empty.
    """

    step: LabelStep
    num_removed: int = 0
    num_added: int = 0
    note: str = ""

    def describe(self) -> str:
        """One line for people.

        Example:
            >>> StepEffect(step=LabelStep(label="liver", step="fill-holes"), num_added=12).describe()
            'liver: fill-holes, 0 voxels removed, 12 added'
        """
        counts = f"{self.num_removed} voxels removed, {self.num_added} added"
        return f"{self.step.describe()}, {self.note or counts}"


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """What steps need to know of a label map beside its voxels."""

    spacing: Spacing
    flat_axes: tuple[int, ...]
    axes: Axes


def apply_steps(
    label_map: Volume,
    rules: Mapping[str, LabelRule],
    steps: Sequence[LabelStep],
    pairs: Sequence[tuple[str, str]] = (),
) -> tuple[Volume, tuple[StepEffect, ...]]:
    """Take steps one after the other; `medunet.postprocessing.label_rules` says whose voxel is whose.

    Opening and smoothing that would leave nothing of a label are skipped, and say so; removing small parts may remove it
    all, and says so. A label without a voxel stays so.

    Args:
        label_map: ``(1, I, J, K)`` whole numbers; other values than those of the rules stay as they are.
        rules: Of every label.
        steps: In their order.
        pairs: Names of left and right labels, for `medunet.tasks.OnePerSide`; one step of a pair sorts both.

    Returns:
        The label map with the same dtype, ``label_map`` itself where nothing changed; and what each step did.

    Raises:
        ValueError: If a step names an unknown label, or one without a pair where it needs one.
    """
    grid = _Grid(
        spacing=label_map.spacing,
        flat_axes=tuple(axis for axis in range(3) if label_map.spatial_shape[axis] == 1),
        axes=Axes.of(label_map),
    )
    original = label_map.array[0]
    labels = original
    effects = []
    for step in steps:
        if step.label not in rules:
            msg = f"The post-processing names '{step.label}'; the labels are {list(rules)}."
            raise ValueError(msg)
        if isinstance(step.step, OnePerSide):
            labels, effect = _sort_pair(labels, label_map, rules, step, pairs)
        else:
            labels, effect = _change_label(labels, rules, step, grid)
        effects.append(effect)
    changed = label_map if labels is original else label_map.with_array(labels[None])
    return changed, tuple(effects)


def _change_label(
    labels: Array, rules: Mapping[str, LabelRule], step: LabelStep, grid: _Grid
) -> tuple[Array, StepEffect]:
    rule = rules[step.label]
    boxes = find_value_boxes(labels, rule.values)
    if not boxes:
        return labels, StepEffect(step=step)
    box = _widen(join_boxes(boxes.values()), _compute_margin(step.step, grid.spacing), labels.shape)
    before = labels[box]
    mask = _is_any(before, rule.values)
    wanted = _CHANGES[type(step.step)](mask, step.step, grid)
    added = wanted & ~mask & (before == rule.around)
    removed = mask & ~wanted
    note = ""
    if removed.sum() == mask.sum():
        if isinstance(step.step, (Opening, Smooth)):
            note = "skipped, because nothing would be left of the label"
            return labels, StepEffect(step=step, note=note)
        note = "nothing is left of the label"
    num_removed, num_added = int(removed.sum()), int(added.sum())
    if num_removed or num_added:
        after = before.copy()
        after[added] = rule.paint
        after[removed] = (
            _find_takers(before, mask, removed, rules, grid.spacing)
            if isinstance(step.step, (Opening, Smooth)) and not rule.around
            else rule.around
        )
        labels = _replace(labels, box, after)
    return labels, StepEffect(step=step, num_removed=num_removed, num_added=num_added, note=note)


def _find_takers(
    before: Array, mask: Array, removed: Array, rules: Mapping[str, LabelRule], spacing: Spacing
) -> Array | int:
    """What voxels become that a border gave up: the label that lies nearest, or background where that is nearer."""
    values = {value for rule in rules.values() for value in rule.values}
    others = [value for value in np.unique(before[~mask]).tolist() if value in values]
    if not others or not removed.any():
        return 0
    nearest = distance_transform_edt(mask, sampling=spacing, return_distances=False, return_indices=True)
    found: Array = before[tuple(index[removed] for index in nearest)]
    return np.where(np.isin(found, others), found, 0)


def _sort_pair(
    labels: Array,
    label_map: Volume,
    rules: Mapping[str, LabelRule],
    step: LabelStep,
    pairs: Sequence[tuple[str, str]],
) -> tuple[Array, StepEffect]:
    pair = next((pair for pair in pairs if step.label in pair), None)
    if pair is None or any(name not in rules for name in pair):
        msg = f"{OnePerSide.name} of '{step.label}' needs the name of the other side; expected a task with such a pair in laterality."
        raise ValueError(msg)
    left, right = (rules[name] for name in pair)
    boxes = find_value_boxes(labels, (*left.values, *right.values))
    if not boxes:
        return labels, StepEffect(step=step)
    box = join_boxes(boxes.values())
    before = labels[box]
    masks = [_is_any(before, rule.values) for rule in (left, right)]
    sides = sort_sides(masks[0], masks[1], label_map.affine)
    if sides.problem:
        return labels, StepEffect(step=step, note=f"skipped, because {sides.problem}")
    after = before.copy()
    after[masks[0] | masks[1]] = 0
    for rule, mask, wanted in ((left, masks[0], sides.left), (right, masks[1], sides.right)):
        after[wanted] = np.where(mask[wanted], before[wanted], rule.paint)
    num_removed = int(((masks[0] | masks[1]) & (after == 0)).sum())
    num_added = int((sides.left & ~masks[0]).sum() + (sides.right & ~masks[1]).sum())
    if num_removed or num_added:
        labels = _replace(labels, box, after)
    return labels, StepEffect(step=step, num_removed=num_removed, num_added=num_added)


def _replace(labels: Array, box: Box, after: Array) -> Array:
    """A copy with other voxels in a box: what was given stays as it is."""
    changed = labels.copy()
    changed[box] = after
    return changed


def _is_any(labels: Array, values: Sequence[int]) -> Array:
    mask: Array = labels == values[0]
    for value in values[1:]:
        mask |= labels == value
    return mask


# ---- one mask ----------------------------------------------------------------------------------------------------------


def _fill(mask: Array, step: Any, grid: _Grid) -> Array:
    if step.plane is None:
        return fill_holes(mask, flat_axes=grid.flat_axes)
    return fill_holes_in_slices(mask, grid.axes.places[PLANES.index(step.plane)], flat_axes=grid.flat_axes)


_CHANGES: Final[Mapping[type[MaskStep], Callable[[Array, Any, _Grid], Array]]] = {
    KeepLargest: lambda mask, _, __: keep_largest_parts(mask),
    RemoveSmall: lambda mask, step, grid: remove_small_parts(mask, grid.spacing, step.ml),
    FillHoles: _fill,
    Opening: lambda mask, step, grid: open_mask(mask, grid.spacing, step.mm),
    Closing: lambda mask, step, grid: close_mask(mask, grid.spacing, step.mm, flat_axes=grid.flat_axes),
    Smooth: lambda mask, step, grid: smooth_border(mask, grid.spacing, step.mm),
}


def _compute_margin(step: MaskStep, spacing: Spacing) -> tuple[int, int, int]:
    """Voxels around a label's box that decide about it."""
    match step:
        case Opening():  # the nearest background of any voxel lies at most one voxel beyond the box
            reach = 0.0
        case Smooth():
            reach = TRUNCATE * step.mm
        case _:
            return 0, 0, 0
    i, j, k = (math.ceil(reach / length) + 1 for length in spacing)
    return i, j, k


def _widen(box: Box, margin: tuple[int, int, int], shape: tuple[int, ...]) -> Box:
    i, j, k = (
        slice(max(side.start - more, 0), min(side.stop + more, length))
        for side, more, length in zip(box, margin, shape, strict=True)
    )
    return i, j, k
