"""Objects that touch, told apart: a watershed from the bodies that the network is sure of.

The seeds of the watershed are connected voxels that are surely body, its landscape is how unlike a body a voxel is, its bounds
are those of body and border together. So water from two seeds meets on the border that the network saw between two objects
(Beucher and Meyer 1993; scikit-image's priority flood, whose result does not depend on chance).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import cc3d
import numpy as np
from numpy.typing import NDArray

from medunet.models.instances import InstanceRules, ObjectRule
from medunet.postprocessing.parts import find_box
from medunet.tasks import Task, compute_semantic_map
from medunet.volume import Array, Volume

logger = logging.getLogger(__name__)

_FACES: Final = 6
"""Seeds that touch by a corner only are two: the border between thin objects may be one voxel wide."""
_SEED_SHARE = 0.1
"""Of the least volume of an object; smaller seeds are noise, unless they are the only one of their region."""


@dataclass(frozen=True, kw_only=True)
class ObjectFacts:
    """One object.

    Attributes:
        value: In `Objects.numbers`.
        label: What it is.
        volume_mm3: Its volume.
    """

    value: int
    label: str
    volume_mm3: float


@dataclass(frozen=True, kw_only=True)
class ObjectSummary:
    """The objects of one label.

    Attributes:
        count: One or more.
        smallest_mm3: Volume of the smallest.
        median_mm3: Of the middle one.
        largest_mm3: Of the largest.
    """

    count: int
    smallest_mm3: float
    median_mm3: float
    largest_mm3: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Objects:
    """The objects of one scan.

    Attributes:
        numbers: ``(1, I, J, K)`` uint16, or uint32 where that is too small: 0 is background. Without ``label_divisor`` the
            objects are 1, 2, 3 and so on; with it, label times ``label_divisor`` plus 1, 2, 3; voxels of labels that are no
            objects hold label times ``label_divisor``.
        facts: One per object, in the order of their values.
        stuff: Label that is no objects -> its value in ``numbers``; those that were found.
    """

    numbers: Volume
    facts: tuple[ObjectFacts, ...]
    stuff: Mapping[str, int] = field(default_factory=dict)

    def summarize(self) -> dict[str, ObjectSummary]:
        """Label -> how many objects it has, and how large they are; labels without one are left out."""
        volumes: dict[str, list[float]] = {}
        for one in self.facts:
            volumes.setdefault(one.label, []).append(one.volume_mm3)
        return {
            label: ObjectSummary(
                count=len(found),
                smallest_mm3=min(found),
                median_mm3=float(np.median(found)),
                largest_mm3=max(found),
            )
            for label, found in volumes.items()
        }


def separate_objects(probabilities: Volume, labels: Volume, task: Task, rules: InstanceRules) -> tuple[Objects, Volume]:
    """From what a network says to objects.

    Args:
        probabilities: ``(outputs, I, J, K)`` of any float type, on the scan's grid; background first.
        labels: ``(1, I, J, K)``, which output is the most probable, as values of the task; says where labels are that are no
            objects.
        task: With instances.
        rules: Of the model.

    Returns:
        The objects, and the label map without borders that they make; nothing where nothing was found.
    """
    outputs = {name: number for number, name in enumerate(task.labels, start=1)}
    wholes = {name: _add_border(probabilities, outputs, task, name) for name in task.semantic_labels}
    numbers = np.zeros(probabilities.spatial_shape, dtype=np.uint32)
    facts: list[ObjectFacts] = []
    for name in task.things:
        rule = rules.get_rule(name)
        whole = wholes[name]
        is_inside = whole >= rule.mask_threshold
        for other in task.semantic_labels:
            if other != name:  # of two labels that claim a voxel, the first of the more probable ones has it
                is_inside &= whole >= wholes[other]
        is_inside &= numbers == 0
        found = flood(probabilities.array[outputs[name]], is_inside, rule, probabilities.voxel_volume_mm3)
        facts += _take_in(found, numbers, name, task, probabilities.voxel_volume_mm3)
    stuff = _paint_stuff(numbers, labels.array[0], task)
    dtype = np.uint16 if numbers.max(initial=0) <= np.iinfo(np.uint16).max else np.uint32
    objects = Objects(numbers=labels.with_array(numbers[None].astype(dtype)), facts=tuple(facts), stuff=stuff)
    return objects, compute_semantic_map(objects.numbers, task)


def flood(body: Array, is_inside: NDArray[np.bool_], rule: ObjectRule, voxel_mm3: float) -> Array:
    """Number the objects of one label.

    Args:
        body: ``(I, J, K)``, probability of the body.
        is_inside: ``(I, J, K)``, what belongs to some object.
        rule: Thresholds, and the least volume.
        voxel_mm3: Volume of a voxel.

    Returns:
        ``(I, J, K)`` uint32, 1 to the number of objects without a gap; parts without a seed are one object each.
    """
    from skimage.segmentation import watershed

    found = np.zeros(is_inside.shape, dtype=np.uint32)
    box = find_box(is_inside)
    if box[0].stop == 0:
        return found
    mask = np.ascontiguousarray(is_inside[box])
    likeness = body[box].astype(np.float32)
    seeds = _plant_seeds(likeness, mask, rule, voxel_mm3)
    # A picture is flooded as one: the same result in a fraction of the time.
    flat = tuple(0 if length == 1 else slice(None) for length in mask.shape) if 1 in mask.shape else (...,)
    flooded = np.zeros(mask.shape, dtype=np.uint32)
    if np.ndim(mask[flat]) == 0:
        flooded[:] = seeds
    else:
        flooded[flat] = watershed(1 - likeness[flat], seeds[flat], mask=mask[flat], connectivity=1)
    found[box] = _drop_small(flooded, rule.min_volume_mm3 / voxel_mm3)
    return found


def _plant_seeds(body: Array, mask: NDArray[np.bool_], rule: ObjectRule, voxel_mm3: float) -> Array:
    """Connected voxels that are surely body; a part of the mask that has none is a seed as a whole."""
    seeds = _find_parts(mask & (body >= rule.marker_threshold))
    parts = _find_parts(mask)
    sizes = np.bincount(seeds.ravel())
    # Every seed lies in one part, as both are connected by faces.
    part_of_seed = np.zeros(len(sizes), dtype=np.int64)
    part_of_seed[seeds.ravel()] = parts.ravel()
    part_of_seed[0] = 0
    largest = np.zeros(int(parts.max()) + 1, dtype=np.int64)
    np.maximum.at(largest, part_of_seed[1:], sizes[1:])
    limits = np.minimum(largest[part_of_seed], _SEED_SHARE * rule.min_volume_mm3 / voxel_mm3)
    seeds = np.where(sizes < limits, 0, np.arange(len(sizes)))[seeds]
    is_bare = mask & (largest == 0)[parts]
    seeds[is_bare] = len(sizes) + parts[is_bare]  # numbers that no seed has
    return seeds.astype(np.int32)


def _find_parts(mask: NDArray[np.bool_]) -> Array:
    parts: Array = cc3d.connected_components(mask.view(np.uint8), connectivity=_FACES)
    return parts.astype(np.int64)


def _drop_small(numbers: Array, min_voxels: float) -> Array:
    """Without objects of too few voxels, numbered from 1 in the order of the numbers before."""
    sizes = np.bincount(numbers.ravel())
    is_kept = (sizes > 0) & (sizes >= min_voxels)
    is_kept[0] = False
    table = np.where(is_kept, np.cumsum(is_kept), 0).astype(np.uint32)
    kept: Array = table[numbers]
    return kept


def _add_border(probabilities: Volume, outputs: Mapping[str, int], task: Task, name: str) -> NDArray[np.float32]:
    whole: NDArray[np.float32] = probabilities.array[outputs[name]].astype(np.float32)
    if name in task.borders:
        whole += probabilities.array[outputs[task.borders[name]]]
    return whole


def _take_in(found: Array, numbers: Array, name: str, task: Task, voxel_mm3: float) -> list[ObjectFacts]:
    """Put the objects of a label among those of the others."""
    if task.label_divisor is not None:
        found = _keep_largest(found, task.label_divisor - 1, name)
    sizes = np.bincount(found.ravel())
    values = np.arange(len(sizes), dtype=np.uint32)
    if task.label_divisor is not None:
        values += np.uint32(task.labels[name][0] * task.label_divisor)
    if task.ignore is not None and values[0] < task.ignore <= values[-1]:
        values[values >= task.ignore] += 1  # no object shall look like what is ignored
    inside = found > 0
    numbers[inside] = values[found[inside]]
    return [
        ObjectFacts(value=value, label=name, volume_mm3=size * voxel_mm3)
        for value, size in zip(values[1:].tolist(), sizes[1:].tolist(), strict=True)
    ]


def _keep_largest(found: Array, limit: int, name: str) -> Array:
    """No more objects than there are numbers for: the largest, of equal ones the first."""
    sizes = np.bincount(found.ravel())
    count = len(sizes) - 1
    if count <= limit:
        return found
    logger.warning(
        "%d objects of '%s' were found, and the task's label_divisor has room for %d: the smallest are left out. Choose a "
        "larger label_divisor.",
        count,
        name,
        limit,
    )
    is_kept = np.zeros(len(sizes), dtype=bool)
    is_kept[1 + np.argsort(-sizes[1:], kind="stable")[:limit]] = True
    kept: Array = np.where(is_kept, np.cumsum(is_kept), 0).astype(np.uint32)[found]
    return kept


def _paint_stuff(numbers: Array, labels: Array, task: Task) -> dict[str, int]:
    """Labels that are no objects, where there is none; label -> the value that was painted."""
    painted = {}
    for name, (value, *_) in task.semantic_labels.items():
        if name not in task.things and task.label_divisor is not None:
            inside = (labels == value) & (numbers == 0)
            if inside.any():
                painted[name] = value * task.label_divisor
                numbers[inside] = painted[name]
    return painted
