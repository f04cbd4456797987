"""Keep the largest connected part of a structure; what else was found of it is taken for a mistake.

nnU-Net's post-processing (Isensee 2021, https://doi.org/10.1038/s41592-020-01008-z), with one difference: a part that is
taken from a region within another (a tumour's core) becomes what surrounds it (tumour), not background, which would be a
hole in the outer region.
"""

from __future__ import annotations

import numpy as np

from medunet.models.postprocessing import Postprocessing
from medunet.postprocessing.label_rules import find_value_around
from medunet.postprocessing.parts import find_box, find_parts
from medunet.tasks import Task
from medunet.volume import Array, Volume


def keep_largest(label_map: Volume, task: Task, postprocessing: Postprocessing) -> Volume:
    """Keep the largest part of the structures that the post-processing names under ``keep_largest``.

    Parts are counted in voxels, and voxels that touch by a corner are one part. Of several largest parts all are kept,
    because nothing says which is right.

    Args:
        label_map: ``(1, I, J, K)`` with the values of the task.
        task: Gives the values of every label.
        postprocessing: What to do; names labels of the task.

    Returns:
        The mask with the same grid and dtype; ``label_map`` itself where nothing had to be removed, an empty mask
        included.
    """
    if not postprocessing.keep_largest_foreground and not postprocessing.keep_largest:
        return label_map
    box = find_box(label_map.array[0])
    if box[0].stop == 0:
        return label_map
    before = label_map.array[0][box]
    after = before
    if postprocessing.keep_largest_foreground:
        after = _keep_largest(after, {task.all_values: 0})
    if task.has_regions:
        for name in postprocessing.keep_largest:  # one after the other: what one removes is gone from the next
            after = _keep_largest(after, {task.labels[name]: find_value_around(task, name)})
    elif postprocessing.keep_largest:
        after = _keep_largest(after, {task.labels[name]: 0 for name in postprocessing.keep_largest})
    if after is before:
        return label_map
    array = label_map.array.copy()
    array[0][box] = after
    return label_map.with_array(array)


def keep_largest_parts(mask: Array) -> Array:
    """The largest connected part of one mask ``(I, J, K)`` bool; of several largest ones all."""
    kept: Array = _keep_largest(mask.astype(np.uint8), {(1,): 0}).astype(bool)
    return kept


def _keep_largest(labels: Array, replacements: dict[tuple[int, ...], int]) -> Array:
    """Reduce structures that share no value to their largest parts, all in one pass.

    Args:
        labels: ``(I, J, K)``.
        replacements: Values of a structure -> the value that its other parts get.
    """
    indices = np.zeros(labels.shape, dtype=np.uint8)  # a task has at most 254 labels
    for index, values in enumerate(replacements, start=1):
        indices[np.isin(labels, values)] = index
    parts, sizes = find_parts(indices)
    index_of_part = np.zeros(len(sizes), dtype=np.uint8)
    index_of_part[parts] = indices  # every voxel of a part has the same index
    is_removed = np.zeros(len(sizes), dtype=bool)
    replacement_of_part = np.zeros(len(sizes), dtype=labels.dtype)
    for index, replacement in enumerate(replacements.values(), start=1):
        of_structure = index_of_part == index
        is_removed |= of_structure & (sizes < sizes[of_structure].max(initial=0))
        replacement_of_part[of_structure] = replacement
    if not is_removed.any():
        return labels
    return np.where(is_removed[parts], replacement_of_part[parts], labels)
