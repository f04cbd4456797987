"""Reading one labelled case with every check that training relies on."""

from __future__ import annotations

import numpy as np

from medunet.errors import DatasetError, LabelError
from medunet.io import read_channels, read_label_map
from medunet.tasks.dataset import Case
from medunet.tasks.task import Task
from medunet.volume import Volume, check_same_grid


def read_case(case: Case, task: Task) -> tuple[Volume, Volume]:
    """Image ``(C, I, J, K)`` and label map ``(1, I, J, K)`` on the same grid.

    Raises:
        VolumeError: If a file is missing, damaged or holds NaN.
        GeometryError: If image and label map lie on different grids.
        LabelError: If the label map holds values that the task does not know.
        DatasetError: If the number of channels is not the task's.
    """
    image = read_channels(list(case.images))
    check_channels(image, task, f"case '{case.case_id}'")
    labels = read_label_map(case.labels)
    check_same_grid(image, labels, str(case.images[0]), str(case.labels))
    check_label_values(labels, task, str(case.labels))
    return image, labels


def check_channels(image: Volume, task: Task, name: str) -> None:
    """Refuse an image with other channels than the task has.

    Raises:
        DatasetError: With both numbers.
    """
    if image.num_channels != len(task.channels):
        msg = (
            f"{name} has {image.num_channels} channel(s); task '{task.name}' expects {len(task.channels)} "
            f"({', '.join(task.channels)}). Give one file per channel, or choose another task."
        )
        raise DatasetError(msg)


def check_label_values(labels: Volume, task: Task, name: str) -> None:
    """Refuse values that are neither background, nor a label of the task, nor its ignore value.

    Raises:
        LabelError: With the unknown values and the known ones.
    """
    known = {0, *task.all_values} | (set() if task.ignore is None else {task.ignore})
    unknown = sorted(set(np.unique(labels.array).tolist()) - known)
    if unknown:
        shown = ", ".join(map(str, unknown[:6])) + (", ..." if len(unknown) > 6 else "")
        msg = (
            f"{name} holds the label value(s) {shown}, which task '{task.name}' does not know; expected "
            f"{', '.join(map(str, sorted(known)))}. Correct the file, or add the label to the task."
        )
        raise LabelError(msg)
