"""`SegmentationNetwork`: the interface of every network of the catalogue."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from medunet.networks.config import NetworkConfig


class SegmentationNetwork(nn.Module, ABC):
    """Images ``(B, C, *spatial)`` in, logits of the same grid out.

    Attributes:
        config: What it was built from.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self._config = config

    @property
    def config(self) -> NetworkConfig:
        """What the network was built from."""
        return self._config

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, out_channels, *spatial)``.

        Raises:
            ValueError: If the size does not fit; names the next that does.
        """
        self._config.check_size(image.shape[2:])
        return self._compute_logits(image)

    def compute_inside(self, image: Tensor) -> Tensor:
        """Logits of the inside of an image, from `NetworkConfig.find_surroundings` on; of all of it where nothing is lost."""
        return self._compute_logits(image)

    def forward_scales(self, image: Tensor) -> list[Tensor]:
        """Logits of every supervised scale, finest first; one here. After them, while it trains, the auxiliary answers."""
        return [self(image)]

    @property
    def num_auxiliary(self) -> int:
        """Answers after those of the scales that a loss of the network's own learns from, while it trains."""
        return 0

    def compute_auxiliary_loss(self, answers: Sequence[Tensor], codes: Tensor) -> Tensor:
        """That loss, which is added to the loss of the logits.

        Args:
            answers: The auxiliary ones, ``(B, channels, *spatial)``.
            codes: ``(B, *spatial)`` uint8; 255 is ignored.
        """
        msg = f"{type(self).__name__} has no loss of its own."
        raise NotImplementedError(msg)

    @abstractmethod
    def _compute_logits(self, image: Tensor) -> Tensor:
        """Logits of an image whose size fits."""
