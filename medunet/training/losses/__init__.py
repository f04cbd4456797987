"""Losses for classes that exclude each other and for regions that overlap, with ignored voxels and partial labels."""

from medunet.training.losses.build import LossName, build_loss
from medunet.training.losses.processes import sum_over_processes
from medunet.training.losses.segmentation import Loss, SegmentationLoss

__all__ = [
    "Loss",
    "LossName",
    "SegmentationLoss",
    "build_loss",
    "sum_over_processes",
]
