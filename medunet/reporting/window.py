"""Which grey values of a scan are shown: those in which the labelled tissue can be told from what surrounds it."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from medunet.tasks import Task
from medunet.volume import Array

Window: TypeAlias = tuple[float, float]
"""Black and white."""

CT_WINDOW_HU: Window = (-160.0, 240.0)  # level 40, width 400: soft tissue
LUNG_WINDOW_HU: Window = (-1350.0, 150.0)  # level -600, width 1500
BONE_WINDOW_HU: Window = (-450.0, 1050.0)  # level 300, width 1500
_LUNG_BELOW_HU, _BONE_ABOVE_HU = -400.0, 250.0  # median of the labelled voxels
_PERCENTILES = (1.0, 99.0)
_CT_AIR = -500  # no MR or PET image has values below it


def choose_modality(image: Array, task: Task | None) -> str:
    """What the values of a scan are: the task says it, else they do.

    Args:
        image: Voxels of one channel.
        task: That the scan is shown for, or None.

    Returns:
        The task's modality; without a task ``"CT"`` where there is air in HU, else ``"MR"``.

    Example:
        >>> choose_modality(np.array([-1000, 40]), None)
        'CT'
    """
    if task is not None:
        return task.modality
    return "CT" if image.size and float(image.min()) < _CT_AIR else "MR"


def choose_window(image: Array, modality: str, labelled: Array | None = None) -> Window:
    """The grey values to show.

    Args:
        image: Voxels of one channel.
        modality: ``"CT"`` is shown in HU; anything else from the 1st to the 99th percentile.
        labelled: Voxels of the structures; they decide between the windows of soft tissue, lung and bone. None, or no
            voxel, takes that of soft tissue.

    Example:
        >>> choose_window(np.array([0.0, 50.0]), "CT", labelled=np.array([-800.0, -750.0]))
        (-1350.0, 150.0)
    """
    if modality.upper() == "CT":
        return choose_ct_window(labelled)
    low, high = np.percentile(image, _PERCENTILES).tolist()
    return low, max(high, low + 1e-6)


def choose_ct_window(labelled: Array | None) -> Window:
    """The window in HU for what is labelled; see `choose_window`."""
    if labelled is None or not labelled.size:
        return CT_WINDOW_HU
    median = float(np.median(labelled))
    if median < _LUNG_BELOW_HU:
        return LUNG_WINDOW_HU
    return BONE_WINDOW_HU if median > _BONE_ABOVE_HU else CT_WINDOW_HU


def get_task_window(task: Task | None) -> Window | None:
    """The window that a task of CT states for its network, in which people see its structures too; None without one."""
    if task is None or task.window_hu is None or task.modality.upper() != "CT":
        return None
    low, high = task.window_hu
    return float(low), float(high)
