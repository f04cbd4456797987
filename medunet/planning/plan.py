"""`Plan`: everything between a dataset's fingerprint and a network, as readable JSON that travels with the weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from medunet.planning.architectures import ArchitectureName
from medunet.tasks import IntensityRule, Modality
from medunet.volume import Shape3, Spacing

PLAN_VERSION = 2

Configuration = Literal["2d", "2.5d", "3d", "3d-low", "cascade"]


class NetworkPlan(BaseModel):
    """Shape of the network.

    Attributes:
        architecture: Name in `medunet.networks.catalogue`.
        options: What a network of the catalogue is told besides channels and dimensions (fields of its config); the fields
            below then only say what its stages look like. Empty, and not written, for the U-Nets that the planner shapes.
        encoder_blocks: Per stage, finest first: convolutions of a ``unet``, residual blocks of a ``residual-unet``.
        decoder_convolutions: Per decoder stage, finest first; one fewer than stages. Empty for a network with options.
        spatial_dims: 2 or 3; a 2D network sees patches whose size along one axis is 1.
        in_channels: Input channels.
        out_channels: Output channels (`Task.num_outputs`).
        features: Channels of each stage, finest first.
        strides: Stride of each stage, ``(I, J, K)``.
        kernels: Kernel of each stage, ``(I, J, K)``.
        num_scales: Scales at which the loss is taken (deep supervision), finest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: ArchitectureName = "unet"
    spatial_dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    features: tuple[int, ...]
    strides: tuple[Shape3, ...]
    kernels: tuple[Shape3, ...]
    encoder_blocks: tuple[int, ...]
    decoder_convolutions: tuple[int, ...]
    num_scales: int
    options: dict[str, Any] = {}

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @model_serializer(mode="wrap")
    def _leave_out_no_options(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plans without options stay what they were before there were any, so that their trainings can be resumed."""
        content: dict[str, Any] = write(self)
        if not self.options:
            content.pop("options", None)
        return content


class OptimizerPlan(BaseModel):
    """How weights are changed.

    Attributes:
        name: ``muon`` (`medunet.training.muon.Muon`), ``adamw`` (Loshchilov 2019, arXiv:1711.05101), or ``sgd`` with Nesterov
            momentum.
        learning_rate: The highest.
        weight_decay: Decoupled for ``muon`` and ``adamw``, an L2 term for ``sgd``.
        momentum: Of ``muon`` and ``sgd``.
        schedule: ``cosine`` with warm-up, or nnU-Net's ``poly``, ``(1 - progress) ** 0.9``.
        averaging: Decay per step of a running mean of the weights, which is what is kept; None keeps the last weights.
        max_orthogonal_gflop: What ``muon`` may spend on one matrix of weights per step; AdamW changes dearer ones. None: no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["muon", "adamw", "sgd"]
    learning_rate: float
    weight_decay: float
    momentum: float = 0.0
    schedule: Literal["cosine", "poly"]
    averaging: float | None = None
    max_orthogonal_gflop: float | None = None


class Normalization(BaseModel):
    """How one channel is brought to the network's range: clip, subtract, divide.

    Attributes:
        rule: ``zscore`` takes ``mean`` and ``std`` from each image within the body box, the others from here.
        lower: Clip below this, in the unit of the files.
        upper: Clip above this.
        mean: Subtracted.
        std: Divided by.
        nonzero_only: For ``zscore``: mean and deviation of the nonzero voxels (any channel, holes filled), which alone are
            normalised; the others stay 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: IntensityRule
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = None
    nonzero_only: bool = False

    @model_validator(mode="after")
    def _check(self) -> Normalization:
        numbers = (self.lower, self.upper, self.mean, self.std)
        if self.rule.startswith("ct-") and (None in numbers or not self.std):
            msg = f"rule {self.rule} needs lower, upper, mean and a std above 0; got {numbers}"
            raise ValueError(msg)
        if self.nonzero_only and self.rule != "zscore":
            msg = f"nonzero_only belongs to the rule zscore, not to {self.rule}"
            raise ValueError(msg)
        return self


class Plan(BaseModel):
    """How a scan becomes patches and patches become a mask.

    Attributes:
        version: Of this format.
        task: Name of the task.
        modality: Of the task: decides what counts as air.
        configuration: ``"2d"``, ``"2.5d"`` (slices that are seen with their neighbours), ``"3d"``, ``"3d-low"`` (coarser
            voxels, more of the patient in a patch) or ``"cascade"`` (``3d`` that also sees what a ``3d-low`` network
            segmented).
        orientation: Axes of everything below.
        spacing: Voxel size that the network sees, mm.
        median_shape: Median voxels of a case at that spacing.
        patch_size: Voxels that the network sees at once.
        batch_size: Patches per iteration.
        num_previous_labels: Labels that a ``3d-low`` network found, which a ``cascade`` sees as that many more channels
            (one-hot, without background), after those of the image; 0 otherwise.
        num_neighbour_slices: Slices on each side that a ``2.5d`` network sees as further channels; 0 otherwise, and then not
            written.
        normalization: One per channel.
        network: Shape of the network.
        optimizer: How it learns.
        loss: What it learns by, unless the user asks for another: Dice over the whole batch, or of each patch.
        augmentation: Which changes patches undergo: medunet's policy of the modality, nnU-Net's list, or that of the U-Net's
            paper.
        reasons: Why each of these was chosen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = PLAN_VERSION
    task: str
    modality: Modality
    configuration: Configuration
    orientation: Literal["RAS"] = "RAS"
    spacing: Spacing
    median_shape: Shape3
    patch_size: Shape3
    batch_size: int
    num_previous_labels: int = 0
    num_neighbour_slices: Annotated[int, Field(ge=0)] = 0
    normalization: tuple[Normalization, ...]
    network: NetworkPlan
    optimizer: OptimizerPlan
    loss: Literal["dice-ce", "patch-dice-ce"] = "dice-ce"
    augmentation: Literal["medunet", "nnunet", "unet2015"] = "medunet"
    reasons: dict[str, str]

    @model_serializer(mode="wrap")
    def _leave_out_no_neighbours(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plans of whole slices and volumes stay what they were before there were others."""
        content: dict[str, Any] = write(self)
        if not self.num_neighbour_slices:
            content.pop("num_neighbour_slices", None)
        return content
