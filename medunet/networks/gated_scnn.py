"""Gated-SCNN (Takikawa 2019, arXiv:1907.05740), 2D and 3D: a second stream that knows borders only.

```text
  image -> ResNet-101, dilated to 1/8 ------ classes ------------------> pyramid + borders -> decoder -> logits
             |        |        |                                          ^
             v        v        v      gates let through what the          |
  stem ->  block ->  gate ->  gate ->  gate -> borders (one logit) -------+ with the gradient of the image
```

The shape stream runs on the grid of the image; deeper features of the ResNet only open and close its gates, so that what
stays is edges of objects, not of textures. It has a loss of its own: whether a voxel lies at a border between labels
(`compute_border_loss`). In place of Canny's edges it sees the size of the image's gradient, which exists in 3D too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medunet.networks.atrous_pyramid import AtrousPyramid
from medunet.networks.blocks import CONVOLUTION
from medunet.networks.choices import (
    MAX_POOL,
    Activation,
    Convolution,
    Norm,
    build_activation,
    build_norm,
    initialize_he,
    resize,
)
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.resnet import RESNET_101, Block, ResNetEncoder, list_resnet_features, list_resnet_stages
from medunet.tasks import IGNORE_CODE

_RATES: dict[int, tuple[int, ...]] = {16: (6, 12, 18), 8: (12, 24, 36)}
_NUM_GATES = 3


class GatedSCNNConfig(NetworkConfig):
    """Gated-SCNN.

    Attributes:
        blocks: Of the encoder's stages.
        block: What they are made of: ``bottleneck``, or ``basic`` as in ResNet-18 and ResNet-34.
        output_stride: Of the encoder.
        norm: After every convolution.
        activation: After every convolution.
    """

    in_channels: int = Field(default=3, ge=1)
    out_channels: int = Field(default=19, ge=1)
    blocks: tuple[int, int, int, int] = RESNET_101
    block: Block = "bottleneck"
    output_stride: Literal[8, 16] = 8
    norm: Norm = "batch"
    activation: Activation = "relu"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of the encoder."""
        return list_resnet_stages(self.width, self.blocks, self.output_stride, self.block)

    @property
    def path(self) -> None:
        """The pyramid sees the mean over the image."""
        return


class GatedSCNN(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: GatedSCNNConfig) -> None:
        super().__init__(config)
        dims, width, norm, activation = config.spatial_dims, config.width, config.norm, config.activation
        features = list_resnet_features(width, config.block)
        self.encoder = ResNetEncoder(
            dims,
            config.in_channels,
            width,
            blocks=config.blocks,
            output_stride=config.output_stride,
            block=config.block,
            norm=norm,
            activation=activation,
        )
        # 64, 32, 16 and 8 channels in the paper.
        shapes = [max(1, width // 2**number) for number in range(_NUM_GATES + 1)]
        self.opening = CONVOLUTION[dims](features[0], shapes[0], 1)
        self.hints = nn.ModuleList(CONVOLUTION[dims](channels, 1, 1) for channels in features[2:])
        self.rows = nn.ModuleList(
            _ShapeBlock(dims, before, after, norm=norm, activation=activation)
            for before, after in itertools.pairwise(shapes)
        )
        self.gates = nn.ModuleList(_Gate(dims, channels, norm=norm, activation=activation) for channels in shapes[1:])
        self.border = CONVOLUTION[dims](shapes[-1], 1, 1)
        self.join = CONVOLUTION[dims](2, 1, 1)
        middle = 4 * width
        self.describe_border = Convolution(dims, 1, middle, 1, norm=norm, activation=activation)
        self.pyramid = AtrousPyramid(
            dims,
            features[-1],
            middle,
            rates=_RATES[config.output_stride],
            has_image_mean=True,
            norm=norm,
            activation=activation,
            extra_channels=middle,
        )
        low = max(1, 3 * width // 4)
        self.low_level = Convolution(dims, features[1], low, 1, norm=norm, activation=activation)
        self.decoder = nn.Sequential(
            Convolution(dims, middle + low, middle, norm=norm, activation=activation),
            Convolution(dims, middle, middle, norm=norm, activation=activation),
            CONVOLUTION[dims](middle, config.out_channels, 1),
        )
        self.apply(initialize_he)

    def forward_with_borders(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the classes ``(B, out_channels, *spatial)`` and of the borders ``(B, 1, *spatial)``."""
        self.config.check_size(image.shape[2:])
        return self._compute_both(image)

    @property
    def num_auxiliary(self) -> int:
        """The borders."""
        return 1

    def forward_scales(self, image: Tensor) -> list[Tensor]:
        """Logits of the classes, and of the borders while it trains."""
        logits, borders = self.forward_with_borders(image)
        return [logits, borders] if self.training else [logits]

    def compute_auxiliary_loss(self, answers: Sequence[Tensor], codes: Tensor) -> Tensor:
        """`compute_border_loss`."""
        return compute_border_loss(answers[0], codes)

    def _compute_logits(self, image: Tensor) -> Tensor:
        return self._compute_both(image)[0]

    def _compute_both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        size = image.shape[2:]
        features = self.encoder(image)
        shape = resize(self.opening(features[0]), size)
        for row, gate, hint, deep in zip(self.rows, self.gates, self.hints, features[2:], strict=True):
            shape = gate(row(shape), resize(hint(deep), size))
        border = self.border(shape)
        outlines = torch.sigmoid(self.join(torch.cat([torch.sigmoid(border), measure_gradient(image)], dim=1)))
        deepest = features[-1]
        extra = self.describe_border(resize(outlines, deepest.shape[2:]))
        low = self.low_level(features[1])
        x = resize(self.pyramid(deepest, extra), low.shape[2:])
        return resize(self.decoder(torch.cat([x, low], dim=1)), size), border


class _ShapeBlock(nn.Module):
    """A basic residual block, then a 1x1 convolution to the next width."""

    def __init__(self, dims: int, before: int, after: int, *, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            Convolution(dims, before, before, norm=norm, activation=activation),
            Convolution(dims, before, before, norm=norm, activation=None),
        )
        self.activation = build_activation(activation, before)
        self.narrow = CONVOLUTION[dims](before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow: Tensor = self.narrow(self.activation(x + self.convolutions(x)))
        return narrow


class _Gate(nn.Module):
    """What the encoder calls no border is turned down: ``x (1 + alpha)``, then a 1x1 convolution."""

    def __init__(self, dims: int, channels: int, *, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.attend = nn.Sequential(
            build_norm(norm, dims, channels + 1),
            Convolution(dims, channels + 1, channels + 1, 1, norm="none", activation=activation),
            CONVOLUTION[dims](channels + 1, 1, 1),
            build_norm(norm, dims, 1),
            nn.Sigmoid(),
        )
        self.weigh = CONVOLUTION[dims](channels, channels, 1, bias=False)

    def forward(self, x: Tensor, hint: Tensor) -> Tensor:
        attention = self.attend(torch.cat([x, hint], dim=1))
        weighed: Tensor = self.weigh(x * (1 + attention))
        return weighed


def measure_gradient(image: Tensor) -> Tensor:
    """Length of the gradient, mean of the channels, by central differences: ``(B, 1, *spatial)``; 0 along axes of one voxel."""
    squares = torch.zeros_like(image)
    for axis in range(2, image.dim()):
        n = image.shape[axis]
        if n > 1:
            after = torch.arange(n, device=image.device).add(1).clamp(max=n - 1)
            before = torch.arange(n, device=image.device).sub(1).clamp(min=0)
            squares = squares + (image.index_select(axis, after) - image.index_select(axis, before)).square() / 4
    return squares.mean(dim=1, keepdim=True).add(1e-12).sqrt()


def find_borders(codes: Tensor) -> Tensor:
    """Voxels within one voxel of another label: bool ``(B, 1, *spatial)`` from codes ``(B, *spatial)``."""
    pool = MAX_POOL[codes.dim() - 1](3, 1, 1)
    labels = codes.unsqueeze(1).float()
    borders: Tensor = pool(labels) != -pool(-labels)
    return borders


def compute_border_loss(border_logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy of the borders, both kinds of voxels counting half (the paper's balanced loss of the shape stream).

    Args:
        border_logits: ``(B, 1, *spatial)`` from `GatedSCNN.forward_with_borders`.
        codes: ``(B, *spatial)``; voxels within one voxel of the code 255 do not count.

    Returns:
        A scalar; of a batch without borders the mean over what there is, halved.
    """
    is_known = ~_grow(codes.unsqueeze(1) == IGNORE_CODE)
    borders = find_borders(codes)
    entropy = F.binary_cross_entropy_with_logits(border_logits.float(), borders.float(), reduction="none")
    masks = ((borders & is_known).float(), (~borders & is_known).float())
    parts = [(entropy * mask).sum() / mask.sum().clamp(min=1) for mask in masks]
    return (parts[0] + parts[1]) / 2


def _grow(mask: Tensor) -> Tensor:
    """The mask and its neighbours, diagonal ones too."""
    grown: Tensor = MAX_POOL[mask.dim() - 2](3, 1, 1)(mask.float()) > 0
    return grown
