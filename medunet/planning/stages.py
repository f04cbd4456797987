"""How wide and how long the stages of a network are (nnU-Net's rules)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BASE_FEATURES = 32
MAX_FEATURES = {2: 512, 3: 320}
"""Widest stage of 2D and 3D networks."""
_RESIDUAL_BLOCKS = (1, 3, 4, 6)
"""Of the finest stages; all deeper ones have as many as the last (nnU-Net Revisited, arXiv:2404.09556)."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Convolutions (plain) or residual blocks per encoder stage, and convolutions per decoder stage, finest first."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]


def choose_features(
    num_stages: int, num_axes: int, *, base: int = BASE_FEATURES, full_resolution: int | None = None
) -> tuple[int, ...]:
    """Channels per stage: doubled from stage to stage up to 512 in 2D and 320 in 3D.

    Args:
        num_stages: Of the network.
        num_axes: 2 or 3.
        base: Channels of the first stage.
        full_resolution: Channels of the first stage instead, with all others as wide as ``base`` makes them.

    Example:
        >>> choose_features(6, 3)
        (32, 64, 128, 256, 320, 320)
        >>> choose_features(4, 3, full_resolution=16)
        (16, 64, 128, 256)
    """
    features = tuple(min(base * 2**stage, MAX_FEATURES[num_axes]) for stage in range(num_stages))
    return features if full_resolution is None else (full_resolution, *features[1:])


def choose_blocks(architecture: Literal["unet", "residual-unet"], num_stages: int) -> Blocks:
    """Two convolutions everywhere in a plain U-Net; a deep residual encoder has a decoder of one convolution per stage.

    Example:
        >>> choose_blocks("residual-unet", 6).encoder
        (1, 3, 4, 6, 6, 6)
    """
    if architecture == "unet":
        return Blocks(encoder=(2,) * num_stages, decoder=(2,) * (num_stages - 1))
    last = len(_RESIDUAL_BLOCKS) - 1
    encoder = tuple(_RESIDUAL_BLOCKS[min(stage, last)] for stage in range(num_stages))
    return Blocks(encoder=encoder, decoder=(1,) * (num_stages - 1))
