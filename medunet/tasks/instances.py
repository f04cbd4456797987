"""Label files with a value per object, and the classes that a network learns from them.

A network that knows only "nucleus" makes one blob of two nuclei that touch. So it learns two classes for every label of
objects: the *body*, and a *border* within each object (Caicedo et al. 2019, https://doi.org/10.1002/cyto.a.23863; the weights
of narrow gaps are those of Ronneberger et al. 2015, arXiv:1505.04597, see `medunet.training.losses.boundary`). A watershed from
the bodies then gives the objects back (`medunet.postprocessing.objects`).

The classes are made on the grid of the label file, before anything is resampled.
"""

from __future__ import annotations

import numpy as np

from medunet.errors import LabelError
from medunet.tasks.task import Task
from medunet.volume import Array, Volume

BORDER_VOXELS = 2.0
"""Thickness of the border in a case's finest voxels, where the task names none."""
_ROUNDING = 1e-4


def check_object_values(objects: Volume, task: Task, name: str) -> None:
    """Refuse values that belong to no label of a task with instances.

    Raises:
        LabelError: With the first of them.
    """
    if task.label_divisor is None:
        return
    known = {values[0] for values in task.semantic_labels.values()}
    for value in np.unique(objects.array).tolist():
        if value not in (0, task.ignore) and value // task.label_divisor not in known:
            msg = (
                f"{name} holds the value {value}, which is of label {value // task.label_divisor} (label_divisor "
                f"{task.label_divisor}); task '{task.name}' has {', '.join(map(str, sorted(known)))}. Correct the file, or add "
                "the label to the task."
            )
            raise LabelError(msg)


def list_object_values(objects: Volume, task: Task) -> dict[str, tuple[int, ...]]:
    """Label -> the values of its objects, rising; labels of which there is none are left out.

    Args:
        objects: ``(1, I, J, K)`` as in label files; must have been checked (`check_object_values`).
        task: With instances.
    """
    found = [value for value in np.unique(objects.array).tolist() if value not in (0, task.ignore)]
    if task.label_divisor is None:
        return {name: tuple(found) for name in task.semantic_labels if found}
    of_label = {
        name: tuple(value for value in found if value // task.label_divisor == label)
        for name, (label, *_) in task.semantic_labels.items()
    }
    return {name: values for name, values in of_label.items() if values}


def compute_semantic_map(objects: Volume, task: Task) -> Volume:
    """Which label each voxel belongs to, without the objects.

    Args:
        objects: ``(1, I, J, K)`` as in label files: a value per object, or label times ``label_divisor`` plus number.
        task: With instances.

    Returns:
        ``(1, I, J, K)`` with the values of the labels and of ``ignore``.
    """
    is_ignored = objects.array == task.ignore if task.ignore is not None else np.False_
    if task.label_divisor is None:
        ((value,),) = task.semantic_labels.values()
        labels = np.where(objects.array > 0, value, 0)
    else:
        labels = objects.array // task.label_divisor
    highest = max(*task.all_values, task.ignore or 0)
    dtype = np.uint8 if highest <= 255 else np.int32
    return objects.with_array(np.where(is_ignored, task.ignore or 0, labels).astype(dtype))


def build_target_map(objects: Volume, task: Task) -> Volume:
    """What the network learns: the body and the border of every object, and all other labels as they are.

    The border is what lies within ``border_mm`` of another object, of another label or of the background, and what touches
    another object. An object that would be nothing but border keeps its innermost voxels.

    Args:
        objects: ``(1, I, J, K)`` as in label files; any number of objects.
        task: With instances.

    Returns:
        ``(1, I, J, K)`` with the values of ``task.labels``.
    """
    import edt  # type: ignore[import-not-found]  # compiled, without type information

    numbers = np.ascontiguousarray(objects.array[0], dtype=np.uint32)
    semantic = compute_semantic_map(objects, task)
    labels = semantic.array[0]
    width_mm = BORDER_VOXELS * min(objects.spacing) if task.border_mm is None else task.border_mm
    depths_mm = edt.edt(numbers, anisotropy=objects.spacing, black_border=False)  # to the next voxel of another value
    is_border = (numbers > 0) & (depths_mm <= width_mm * (1 + _ROUNDING))
    is_border |= _find_touching(numbers)
    is_border &= ~_find_cores(numbers, depths_mm, is_border)
    targets = labels.copy()
    for name, border in task.borders.items():
        targets[is_border & (labels == task.labels[name][0])] = task.labels[border][0]
    return semantic.with_array(targets[None])


def _find_touching(numbers: Array) -> Array:
    """Voxels with a voxel of another object beside them, along any axis and whatever their distance in mm."""
    touches = np.zeros(numbers.shape, dtype=bool)
    for axis in range(3):
        line = np.moveaxis(numbers, axis, 0)
        differs = (line[1:] != line[:-1]) & (line[1:] > 0) & (line[:-1] > 0)
        view = np.moveaxis(touches, axis, 0)
        view[1:] |= differs
        view[:-1] |= differs
    return touches


def _find_cores(numbers: Array, depths_mm: Array, is_border: Array) -> Array:
    """The innermost voxels of objects that are nothing but border."""
    cores = np.zeros(numbers.shape, dtype=bool)
    whole = np.setdiff1d(numbers[is_border], numbers[~is_border])
    if len(whole) == 0:
        return cores
    chosen = np.isin(numbers, whole)
    _, places = np.unique(numbers[chosen], return_inverse=True)
    deepest = np.zeros(len(whole), dtype=depths_mm.dtype)
    np.maximum.at(deepest, places, depths_mm[chosen])
    cores[chosen] = depths_mm[chosen] >= deepest[places] * (1 - _ROUNDING)
    return cores
