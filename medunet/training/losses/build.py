"""Losses by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch

from medunet.errors import InputError
from medunet.tasks import Task, compute_membership, suggest
from medunet.training.losses.boundary import weigh_class_boundaries, weigh_region_boundaries
from medunet.training.losses.entropy import CrossEntropy, Focal, TopCrossEntropy
from medunet.training.losses.overlap import BatchDice, GeneralizedDice, PatchDice, Tversky
from medunet.training.losses.segmentation import SegmentationLoss
from medunet.training.losses.term import Term

LossName = Literal[
    "dice-ce",
    "patch-dice-ce",
    "dice",
    "patch-dice",
    "ce",
    "bce",
    "dice-bce",
    "dice-focal",
    "tversky",
    "generalized-dice",
    "topk-ce",
    "boundary-ce",
    "boundary-bce",
    "dice-boundary-ce",
]

# A name says all that is in a loss; where there are two terms, both count 1.
TERMS: Mapping[LossName, tuple[Term, ...]] = {
    "dice-ce": (BatchDice(), CrossEntropy()),
    "patch-dice-ce": (PatchDice(), CrossEntropy()),
    "dice": (BatchDice(),),
    "patch-dice": (PatchDice(),),
    "ce": (CrossEntropy(),),
    "bce": (CrossEntropy(),),
    "dice-bce": (BatchDice(), CrossEntropy()),
    "dice-focal": (BatchDice(), Focal()),
    "tversky": (Tversky(),),
    "generalized-dice": (GeneralizedDice(),),
    "topk-ce": (TopCrossEntropy(),),
    "boundary-ce": (CrossEntropy(),),
    "boundary-bce": (CrossEntropy(),),
    "dice-boundary-ce": (BatchDice(), CrossEntropy()),
}


def build_loss(name: LossName, task: Task, device: torch.device) -> SegmentationLoss:
    """The loss of that name, at every scale half as much as at the one before.

    Args:
        name: ``"dice-ce"`` is the default of training. It and ``"patch-dice-ce"`` are nnU-Net 2.8.1's Dice +
            cross-entropy with ``batch_dice`` true and false, plus the constant 1 (its Dice is negative). Where regions
            meet ignored voxels, nnU-Net adds the cross-entropy of the regions up; here it is always the mean.
        task: Its labels say whether outputs are classes (softmax) or regions (sigmoid).
        device: Of the logits.

    Raises:
        InputError: If there is no loss of that name.

    Example:
        >>> from medunet.tasks import load_task
        >>> loss = build_loss("dice-ce", load_task("prostate-mr"), torch.device("cpu"))
        >>> logits, codes = torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
        >>> print(f"{loss([logits], codes).total:.4f}")  # Dice 0, cross-entropy log(3)
        2.0986
    """
    if name not in TERMS:
        msg = f"There is no loss '{name}'; {suggest(name, TERMS)}"
        raise InputError(msg)
    membership = torch.from_numpy(compute_membership(task)).to(device)
    # Between objects lies all that is no object: of a task with instances borders and stuff, otherwise the background alone.
    gaps = [code for code, label in enumerate(task.labels, start=1) if task.has_instances and label not in task.things]
    weigh = (
        partial(weigh_region_boundaries, membership=membership)
        if task.has_regions
        else partial(weigh_class_boundaries, gaps=gaps)
    )
    return SegmentationLoss(
        terms=TERMS[name],
        membership=membership,
        has_regions=task.has_regions,
        weigh_voxels=weigh if "boundary" in name else None,
        is_binary="bce" in name,
    )
