"""Losses for classes that exclude each other and for regions that overlap, with ignored voxels and partial labels."""

from medunet.training.losses.build import DiceOver, LossName, build_loss, build_nnunet_loss
from medunet.training.losses.processes import sum_over_processes
from medunet.training.losses.segmentation import Loss, SegmentationLoss

__all__ = [
    "DiceOver",
    "Loss",
    "LossName",
    "SegmentationLoss",
    "build_loss",
    "build_nnunet_loss",
    "sum_over_processes",
]
