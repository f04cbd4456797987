"""From a fingerprint to a `Plan`: nnU-Net's rules (doi:10.1038/s41592-020-01008-z), put together.

Each rule lives in a file of its own and also says why; the reasons are written into the plan. nnU-Net orders axes with
the coarsest first; the rules do too, and what comes out is put back in the order R, A, S.
"""

from __future__ import annotations

import math
from typing import Literal

from medunet.errors import InputError
from medunet.planning.batch import choose_batch_size
from medunet.planning.fingerprint import Fingerprint
from medunet.planning.grid import Grid, build_full_resolution
from medunet.planning.network import choose_network, choose_optimizer, explain_schedule
from medunet.planning.normalization import choose_normalization
from medunet.planning.plan import Configuration, Plan
from medunet.planning.spacing import to_ras
from medunet.planning.targets import Effort, MemoryTarget
from medunet.tasks import Task

SLICE_CONFIGURATIONS: tuple[Configuration, ...] = ("2d", "2.5d")
"""Whose networks see patches of one slice."""
NEIGHBOUR_SLICES = 2
"""On each side, where nobody says how many."""


def build_plan(
    fingerprint: Fingerprint,
    task: Task,
    target: MemoryTarget | Effort,
    configuration: Configuration = "3d",
    *,
    max_low_voxels: float = math.inf,
) -> Plan:
    """Choose spacing, patch, batch and network; the same input gives the same plan.

    Args:
        fingerprint: Of the training cases.
        task: Channels, labels and intensity rule.
        target: What training may cost: `MemoryTarget` is nnU-Net's recipe, `Effort` what a budget can pay for.
        configuration: ``"3d"``; ``"2d"`` for patches of one slice across the coarsest axis; ``"2.5d"`` for the same with
            `NEIGHBOUR_SLICES` on each side as further channels; ``"3d-low"`` for coarser voxels; ``"cascade"`` for ``"3d"``
            that also sees the labels that a ``"3d-low"`` network found.
        max_low_voxels: Of the median case at the low resolution, where nnU-Net's rule would leave more.

    Raises:
        InputError: If a low resolution is asked for where the rules see no need of one.
    """
    reasons: dict[str, str] = {}
    grid, reasons["spacing"] = build_full_resolution(fingerprint, task, target)
    if configuration in SLICE_CONFIGURATIONS:
        grid = grid.take_slices()
    elif configuration != "3d":
        low, reasons["low_resolution"] = grid.find_low_resolution(max_low_voxels)
        if low is None:
            msg = f"There is no low resolution to plan ({reasons['low_resolution']}); use the configuration 3d."
            raise InputError(msg)
        grid = grid.take_low_resolution(low) if configuration == "3d-low" else grid
    num_previous_labels = len(task.labels) if configuration == "cascade" else 0
    patch, reasons["patch_size"] = grid.choose_patch()
    batch_size, reasons["batch_size"] = choose_batch_size(patch, grid.costs, grid.median_voxels * fingerprint.num_cases)
    network, reasons["network"] = choose_network(
        task, patch, grid.axes, target, num_previous_labels=num_previous_labels
    )
    normalization, reasons["normalization"] = choose_normalization(fingerprint, task)
    optimizer, reasons["optimizer"] = choose_optimizer(target)
    reasons["schedule"] = explain_schedule(optimizer)
    loss, reasons["loss"] = _choose_loss(grid, target, configuration)
    augmentation, reasons["augmentation"] = _choose_augmentation(target, task)
    plan = Plan(
        task=task.name,
        modality=task.modality,
        configuration=configuration,
        spacing=grid.spacing,
        median_shape=grid.median_shape,
        patch_size=to_ras(patch.size, grid.axes),
        batch_size=batch_size,
        num_previous_labels=num_previous_labels,
        normalization=normalization,
        network=network,
        optimizer=optimizer,
        loss=loss,
        augmentation=augmentation,
        reasons=reasons,
    )
    return add_neighbour_slices(plan, NEIGHBOUR_SLICES) if configuration == "2.5d" else plan


def add_neighbour_slices(plan: Plan, number: int) -> Plan:
    """A plan of slices whose network also sees some slices on each side, as further channels.

    Args:
        plan: Of the configuration ``2.5d``.
        number: Of slices on each side, from 1 on.
    """
    network = plan.network.model_copy(update={"in_channels": (2 * number + 1) * len(plan.normalization)})
    reason = f"{number} slice(s) on each side as further channels; beyond the ends of a volume the nearest slice"
    return plan.model_copy(
        update={
            "num_neighbour_slices": number,
            "network": network,
            "reasons": plan.reasons | {"neighbour_slices": reason},
        }
    )


def _choose_augmentation(target: MemoryTarget | Effort, task: Task) -> tuple[Literal["medunet", "nnunet"], str]:
    """nnU-Net's list for its recipe; else that list with what images of the modality go through besides."""
    if isinstance(target, MemoryTarget):
        return "nnunet", "nnU-Net's list, which belongs to its recipe"
    more = {
        "MR": "elastic deformations and the artifacts of MR scanners",
        "microscopy": "elastic deformations, turns by any angle, and mirroring, as nothing has an upper side under a microscope",
    }
    return "medunet", f"nnU-Net's list with {more.get(task.modality, 'elastic deformations')} ({task.modality})"


def _choose_loss(
    grid: Grid, target: MemoryTarget | Effort, configuration: Configuration
) -> tuple[Literal["dice-ce", "patch-dice-ce"], str]:
    """Dice over the batch where patches are small parts of a case, so that many hold no label (nnU-Net's rule)."""
    if isinstance(target, Effort):
        return "dice-ce", "Dice over the batch, since batches are small"
    if configuration in SLICE_CONFIGURATIONS:
        return "dice-ce", "Dice over the batch, since many slices hold no label"
    if configuration == "3d-low":
        return "patch-dice-ce", "Dice of each patch, which shows much of the case"
    if configuration == "3d" and grid.find_low_resolution()[0] is None:
        return "patch-dice-ce", "Dice of each patch, which shows much of the case"
    return "dice-ce", "Dice over the batch, since a patch shows little of the case"
