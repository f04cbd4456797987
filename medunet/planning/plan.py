"""`Plan`: everything between a dataset's fingerprint and a network, as readable JSON that travels with the weights."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from medunet.tasks import IntensityRule
from medunet.volume import Shape3, Spacing

PLAN_VERSION = 1


class NetworkPlan(BaseModel):
    """Shape of the network.

    Attributes:
        architecture: Name in `medunet.networks`.
        spatial_dims: 2 or 3; a 2D network sees patches whose size along one axis is 1.
        in_channels: Input channels.
        out_channels: Output channels (`Task.num_outputs`).
        features: Channels of each stage, finest first.
        strides: Stride of each stage, ``(I, J, K)``.
        kernels: Kernel of each stage, ``(I, J, K)``.
        num_scales: Scales at which the loss is taken (deep supervision), finest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["unet"] = "unet"
    spatial_dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    features: tuple[int, ...]
    strides: tuple[Shape3, ...]
    kernels: tuple[Shape3, ...]
    num_scales: int


class Normalization(BaseModel):
    """How one channel is brought to the network's range: clip, subtract, divide.

    Attributes:
        rule: ``zscore`` takes ``mean`` and ``std`` from each image within the body box, the others from here.
        lower: Clip below this, in the unit of the files.
        upper: Clip above this.
        mean: Subtracted.
        std: Divided by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: IntensityRule
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Normalization:
        numbers = (self.lower, self.upper, self.mean, self.std)
        if self.rule.startswith("ct-") and (None in numbers or not self.std):
            msg = f"rule {self.rule} needs lower, upper, mean and a std above 0; got {numbers}"
            raise ValueError(msg)
        return self


class Plan(BaseModel):
    """How a scan becomes patches and patches become a mask.

    Attributes:
        version: Of this format.
        task: Name of the task.
        modality: ``"CT"`` or ``"MR"``: decides what counts as air.
        configuration: ``"2d"`` or ``"3d"``.
        orientation: Axes of everything below.
        spacing: Voxel size that the network sees, mm.
        median_shape: Median voxels of a case at that spacing.
        patch_size: Voxels that the network sees at once.
        batch_size: Patches per iteration.
        normalization: One per channel.
        network: Shape of the network.
        reasons: Why each of these was chosen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = PLAN_VERSION
    task: str
    modality: Literal["CT", "MR"]
    configuration: Literal["2d", "3d"]
    orientation: Literal["RAS"] = "RAS"
    spacing: Spacing
    median_shape: Shape3
    patch_size: Shape3
    batch_size: int
    normalization: tuple[Normalization, ...]
    network: NetworkPlan
    reasons: dict[str, str]
