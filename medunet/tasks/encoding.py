"""Between the values in label files and the channels of a network.

Values are first turned into small consecutive *codes* (0 is background, 255 is ignored), which resample and store well;
a membership table then says which output channels a code belongs to. For plain labels a code is the class; for regions
that overlap, a code is one of the stored values and belongs to several channels.
"""

from __future__ import annotations

import numpy as np

from medunet.tasks.task import Task
from medunet.volume import Array, Volume

IGNORE_CODE = 255


def encode_labels(labels: Volume, task: Task) -> Volume:
    """Stored values to codes, uint8; values must have been checked (`medunet.tasks.read_case`)."""
    codes = np.zeros(labels.array.shape, dtype=np.uint8)
    for code, values in enumerate(_list_code_values(task), start=1):
        codes[np.isin(labels.array, values)] = code
    if task.ignore is not None:
        codes[labels.array == task.ignore] = IGNORE_CODE
    return labels.with_array(codes)


def compute_membership(task: Task) -> Array:
    """Which output channels a code belongs to.

    Returns:
        float32 ``(num_outputs, num_codes)``; column 0 is background, which regions do not represent.

    Example:
        >>> from medunet.tasks import load_task
        >>> compute_membership(load_task("brain-tumour-mr")).astype(int).tolist()
        [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    """
    if not task.has_regions:
        return np.eye(task.num_outputs, dtype=np.float32)
    rows = [[0, *(value in values for value in task.all_values)] for values in task.labels.values()]
    return np.array(rows, dtype=np.float32)


def list_class_values(task: Task) -> list[int]:
    """The value that inference writes for each class of a task without regions; background first."""
    return [0, *(values[0] for values in task.labels.values())]


def compute_mirrored_outputs(task: Task) -> tuple[int, ...]:
    """Output of the network -> the one that stands for it after swapping left and right; itself where nothing is paired.

    Example:
        >>> from medunet.tasks import load_task
        >>> compute_mirrored_outputs(load_task("hippocampus-mr"))  # background, anterior, posterior: no sides
        (0, 1, 2)
    """
    names = list(task.labels) if task.has_regions else ["background", *task.labels]
    partners = {one: other for left, right in task.laterality for one, other in ((left, right), (right, left))}
    return tuple(names.index(partners.get(name, name)) for name in names)


def _list_code_values(task: Task) -> list[tuple[int, ...]]:
    return [(value,) for value in task.all_values] if task.has_regions else list(task.labels.values())
