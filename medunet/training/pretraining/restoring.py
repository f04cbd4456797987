"""Hidden parts of images are restored: what a network learns that has no labels.

Masked autoencoding (He 2022, doi:10.1109/CVPR52688.2022.01553) for a convolutional network, which sees the whole patch with
holes in it, as in the in-painting of Models Genesis (Zhou 2021, doi:10.1016/j.media.2020.101840), at every scale of the
decoder. Holes hold the mean of what is shown, so that they change the statistics of normalisations little. Only what was
hidden is compared; what was shown could be copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.training.losses import Loss, sum_over_processes
from medunet.training.losses.segmentation import halve_weights
from medunet.training.pretraining.masking import draw_hidden
from medunet.training.sampling import Batch
from medunet.volume import Shape3

Distance = Literal["l1", "l2"]


@dataclass(frozen=True, kw_only=True)
class Restoring:
    """An `Objective`: the image with holes is shown, and the answers are compared with what was there.

    The intensity changes of a batch are left out: a network that sees a darkened image could not know how bright what is
    hidden was.

    Attributes:
        block: Voxels that are hidden together.
        hidden_share: Of all blocks.
        distance: ``"l1"``, the absolute difference, or ``"l2"``, its square.
        seed: Of the training.
        first_position: Of this process's patches among those of an iteration.
    """

    block: Shape3
    hidden_share: float
    distance: Distance
    seed: int
    first_position: int = 0

    @property
    def name(self) -> str:
        """Such as ``"restoring-l1 0.6 of 8x8x8"``."""
        return f"restoring-{self.distance} {self.hidden_share:g} of {'x'.join(map(str, self.block))}"

    def draw(self, batch: Batch) -> Tensor:
        """What is hidden of a batch, bool ``(B, 1, I, J, K)``."""
        i, j, k = batch.image.shape[2:]
        positions = range(self.first_position, self.first_position + len(batch.image))
        hidden = draw_hidden(
            (i, j, k),
            self.block,
            self.hidden_share,
            seed=self.seed,
            iteration=batch.iteration,
            positions=positions,
        )
        return hidden.to(batch.image.device, non_blocking=True)

    def show(self, batch: Batch) -> Tensor:
        """The image, with the mean of what is shown, of each patch and channel, in place of what is hidden."""
        return fill_hidden(batch.image, self.draw(batch))

    def compute_loss(self, scales: Sequence[Tensor], batch: Batch) -> Loss:
        """The mean distance within what was hidden; each scale counts half of the finer one.

        At a coarser scale the image is the mean of the voxels that one of its voxels stands for.
        """
        hidden = self.draw(batch)
        sums = torch.stack([self._compute_sums(answer, batch.image, hidden) for answer in scales])
        distance, count = sum_over_processes(sums).unbind(1)
        weights = halve_weights(len(scales))
        values = distance / count.clamp(min=1)
        return Loss(total=torch.stack([value * w for value, w in zip(values, weights, strict=True)]).sum())

    def _compute_sums(self, answer: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
        """Sum of distances over hidden voxels and channels, and their number."""
        i, j, k = answer.shape[2:]
        if image.shape[2:] != answer.shape[2:]:
            image = F.adaptive_avg_pool3d(image, (i, j, k))
            hidden = F.interpolate(hidden.float(), size=[i, j, k], mode="nearest-exact") > 0
        difference = answer.float() - image
        distance = difference.abs() if self.distance == "l1" else difference.square()
        num_channels = image.shape[1]
        return torch.stack([(distance * hidden).sum(), hidden.sum() * num_channels])


def fill_hidden(image: Tensor, hidden: Tensor) -> Tensor:
    """The image ``(B, C, I, J, K)`` with the mean of its shown voxels, of each patch and channel, in the hidden ones."""
    shown = (~hidden).float()
    mean = (image * shown).sum((2, 3, 4), keepdim=True) / shown.sum((2, 3, 4), keepdim=True).clamp(min=1)
    return torch.where(hidden, mean, image)
