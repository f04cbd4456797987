"""`Objective`: what a network is shown of a batch, and what its answers are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from medunet.augmentation import apply_intensity
from medunet.preprocessing import NeighbourSlices, fold_slices
from medunet.tasks import Task
from medunet.training.losses import Loss, LossName, SegmentationLoss, build_loss
from medunet.training.previous_labels import build_channel_table, to_channels
from medunet.training.sampling import Batch


class Objective(Protocol):
    """What one step of learning is about."""

    @property
    def name(self) -> str:
        """For the record; it also says whether a training may be resumed."""
        ...

    def show(self, batch: Batch) -> Tensor:
        """What the network sees, ``(B, inputs, I, J, K)``; the batch lies on the device already."""
        ...

    def compute_loss(self, scales: Sequence[Tensor], batch: Batch) -> Loss:
        """How far the answers ``(B, outputs, I, J, K)`` of every scale, finest first, are from what they should be."""
        ...


@dataclass(frozen=True, kw_only=True)
class Segmenting:
    """The network sees the image, changed as it was drawn, and is compared with the labels.

    Attributes:
        name: Of the loss.
        loss: That compares.
        channel_table: Which channels show a previous label, on the device.
        neighbours: Slices on either side that become channels; None for networks that see the patch as it is.
    """

    name: str
    loss: SegmentationLoss
    channel_table: Tensor
    neighbours: NeighbourSlices | None = None

    def show(self, batch: Batch) -> Tensor:
        """The image, and in a cascade the labels that the first network found."""
        image = apply_intensity(batch.image, batch.changes) if batch.changes else batch.image
        if self.neighbours is not None:
            image = fold_slices(image, self.neighbours.axis)
        if batch.previous is None:
            return image
        return torch.cat([image, to_channels(batch.previous, self.channel_table)], dim=1)

    def compute_loss(self, scales: Sequence[Tensor], batch: Batch) -> Loss:
        """The loss of that name."""
        return self.loss(scales, batch.codes, batch.annotated)


def build_segmenting(
    name: LossName, task: Task, device: torch.device, neighbours: NeighbourSlices | None = None
) -> Segmenting:
    """Segmenting with a loss by its name."""
    return Segmenting(
        name=name,
        loss=build_loss(name, task, device),
        channel_table=build_channel_table(task).to(device),
        neighbours=neighbours,
    )
