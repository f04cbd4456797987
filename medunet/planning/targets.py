"""What a plan may cost: the memory of a GPU, as nnU-Net counts it, or the voxels that a budget in time can pay for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medunet.errors import InputError

Preset = Literal["default", "M", "L", "XL"]


@dataclass(frozen=True, kw_only=True)
class PresetRule:
    """What a preset of nnU-Net 2.8.1 was tuned for.

    Attributes:
        architecture: Of the network.
        memory_gb: Memory of the GPU that the feature voxels below filled.
        feature_voxels_3d: Voxels of all feature maps of one patch that a batch of 2 may have.
        feature_voxels_2d: The same for a batch of 12 slices.
        smallest_batch_2d: Slices of which a batch must be possible when slices are cut to the memory: the plain U-Net
            cuts them for a batch of 2, the residual presets for the whole 12.
        dataset_share: Largest share of all voxels of the dataset that one batch may show.
    """

    architecture: Literal["unet", "residual-unet"]
    memory_gb: float
    feature_voxels_3d: float
    feature_voxels_2d: float
    smallest_batch_2d: int
    dataset_share: float


PRESETS: dict[Preset, PresetRule] = {
    "default": PresetRule(
        architecture="unet",
        memory_gb=8,
        feature_voxels_3d=560e6,
        feature_voxels_2d=85e6,
        smallest_batch_2d=2,
        dataset_share=0.05,
    ),
    "M": PresetRule(
        architecture="residual-unet",
        memory_gb=8,
        feature_voxels_3d=680e6,
        feature_voxels_2d=135e6,
        smallest_batch_2d=12,
        dataset_share=1.0,
    ),
    "L": PresetRule(
        architecture="residual-unet",
        memory_gb=24,
        feature_voxels_3d=2.1e9,
        feature_voxels_2d=380e6,
        smallest_batch_2d=12,
        dataset_share=1.0,
    ),
    "XL": PresetRule(
        architecture="residual-unet",
        memory_gb=40,
        feature_voxels_3d=3.6e9,
        feature_voxels_2d=560e6,
        smallest_batch_2d=12,
        dataset_share=1.0,
    ),
}
"""nnU-Net (doi:10.1038/s41592-020-01008-z) and its residual presets (nnU-Net Revisited, arXiv:2404.09556)."""


@dataclass(frozen=True, kw_only=True)
class MemoryTarget:
    """nnU-Net's own recipe: fill this much GPU memory, whatever time it takes.

    Attributes:
        preset: ``"default"`` is nnU-Net's plain U-Net; ``"M"``, ``"L"`` and ``"XL"`` are its residual encoder U-Nets.
        memory_gb: Memory to fill; None is what the preset was made for (8, 8, 24 and 40 GB).

    Raises:
        InputError: If the memory is not positive.
    """

    preset: Preset = "default"
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        if self.memory_gb is not None and not self.memory_gb > 0:
            msg = f"The memory to plan for is {self.memory_gb:g} GB; expected a number above 0."
            raise InputError(msg)

    @property
    def rule(self) -> PresetRule:
        """What the preset was tuned for."""
        return PRESETS[self.preset]

    @property
    def memory_scale(self) -> float:
        """Memory relative to what the preset was made for."""
        return 1.0 if self.memory_gb is None else self.memory_gb / self.rule.memory_gb


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What one training iteration may cost.

    Attributes:
        voxels: Voxels of a batch.
        features: Channels of the first stage; doubled from stage to stage.
        total_voxels: Voxels that the whole budget can show the network; None where nobody counts.
        batch_size: Patches per batch; None lets the rules choose, from two patches upwards.
        full_resolution_features: Channels of the first stage if it is to be thinner than that, since half of the arithmetic is
            there; the other stages keep their width. None leaves it as it is.
    """

    voxels: int
    features: int
    total_voxels: float | None = None
    batch_size: int | None = None
    full_resolution_features: int | None = None


GPU_EFFORT = Effort(voxels=2 * 128**3, features=32)
CPU_EFFORT = Effort(voxels=2 * 64**3, features=16)


def choose_memory_target(memory_gb: float) -> MemoryTarget:
    """The largest residual preset that was made for no more than this memory, scaled to it; M below 24 GB.

    Example:
        >>> choose_memory_target(32.0)
        MemoryTarget(preset='L', memory_gb=32.0)
    """
    fitting: list[Preset] = [name for name in ("L", "XL") if PRESETS[name].memory_gb <= memory_gb]
    return MemoryTarget(preset=fitting[-1] if fitting else "M", memory_gb=memory_gb)
