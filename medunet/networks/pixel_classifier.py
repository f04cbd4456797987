"""The sliding-window pixel classifier (Ciresan 2012, "Deep neural networks segment neuronal membranes", NIPS), run densely.

A plain classifier sees a window around a voxel, four times convolution and max-pooling, then fully connected layers, and
names the class of the voxel in the middle. Window by window nearly all arithmetic is done again and again. Dense, the same
weights give the same answers for all voxels in one pass: a pooling without stride leaves all its shifted grids (the
max-pooling fragments of Giusti 2013, arXiv:1302.1700) interleaved, and everything after it is dilated by the stride that
it lost.

```text
  window by window:  conv, pool /2, conv, pool /2         a b c d e f   ->  pool: a c e
  dense:             conv, pool /1, conv *2, pool /1 *2   a b c d e f   ->  pool: a b c d e, dilated by 2 from here on
```

Beyond the borders the image is mirrored, as in the paper. The paper's largest network (N4) has windows of 95 x 95; volumes
have two poolings and windows of 21, since 95 voxels of margin would be most of what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from medunet.networks.blocks import CONVOLUTION
from medunet.networks.borders import mirror_pad
from medunet.networks.choices import Activation, build_activation, initialize_he
from medunet.networks.config import NetworkConfig, Stage
from medunet.networks.network import SegmentationNetwork
from medunet.networks.receptive_field import Slide, Step


class PixelClassifierConfig(NetworkConfig):
    """A sliding-window classifier.

    Attributes:
        kernels: Edge of each convolution; a max-pooling by 2 follows each.
        last_grid: Edge of what the fully connected layers see.
        connected: Neurons of the hidden fully connected layer over the width: 200 over 48.
        activation: After every layer but the last; tanh in the paper's time, rectified here.
    """

    width: int = Field(default=48, ge=1)
    kernels: tuple[int, ...] = (4, 5, 4, 4)
    last_grid: int = Field(default=3, ge=1)
    connected: float = Field(default=200 / 48, gt=0)
    activation: Activation = "relu"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.kernels or min(self.kernels) < 1 or self.window % 2 == 0:
            msg = f"kernels {self.kernels} make windows of {self.window} voxels; expected an odd number, so that one voxel is in the middle"
            raise ValueError(msg)
        return self

    @classmethod
    def for_patch(cls, patch_size: Sequence[int], **fields: Any) -> Self:
        """Windows of 95 for slices, of 21 for volumes."""
        return super().for_patch(patch_size, **({} if len(patch_size) == 2 else {"kernels": (4, 4)}) | fields)

    @property
    def window(self) -> int:
        """Edge of the window, which is the receptive field: 95 in the paper."""
        size = self.last_grid
        for kernel in reversed(self.kernels):
            size = 2 * size + kernel - 1
        return size

    @property
    def num_connected(self) -> int:
        """Neurons of the hidden fully connected layer."""
        return max(1, round(self.connected * self.width))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One grid for everything, as dense; the convolutions and the two fully connected layers."""
        return (Stage(features=self.width, stride=1, convolutions=len(self.kernels) + 2),)

    @property
    def min_deepest_voxels(self) -> int:
        """Any patch will do."""
        return 1

    @property
    def path(self) -> tuple[Step, ...]:
        """The dense form; all of its margin is put around the image at once."""
        steps: list[Step] = []
        for level, kernel in enumerate(self.kernels):
            margin = 0 if level else self.window // 2
            steps += [Slide(kernel, 1, 2**level, margin), Slide(2, 1, 2**level, 0)]
        return (*steps, Slide(self.last_grid, 1, 2 ** len(self.kernels), 0))


class PixelClassifier(SegmentationNetwork):
    """See the module."""

    def __init__(self, config: PixelClassifierConfig) -> None:
        super().__init__(config)
        self.settings = config
        dims, width = config.spatial_dims, config.width
        convolution = CONVOLUTION[dims]
        self.convolutions = nn.ModuleList(
            convolution(width if level else config.in_channels, width, kernel)
            for level, kernel in enumerate(config.kernels)
        )
        self.hidden = convolution(width, config.num_connected, config.last_grid)
        self.head = convolution(config.num_connected, config.out_channels, 1)
        self.activation = build_activation(config.activation)
        self.apply(initialize_he)

    def classify_windows(self, windows: Tensor) -> Tensor:
        """Logits ``(B, out_channels)`` for the middle of each window ``(B, in_channels, 95, 95)``, as in the paper.

        Raises:
            ValueError: If the windows have another size.
        """
        if any(n != self.settings.window for n in windows.shape[2:]):
            msg = f"Windows are {tuple(windows.shape[2:])} voxels; expected {self.settings.window} along every axis."
            raise ValueError(msg)
        pool = F.max_pool2d if self.settings.spatial_dims == 2 else F.max_pool3d
        x = windows
        for convolution in self.convolutions:
            x = pool(self.activation(convolution(x)), 2)
        logits: Tensor = self.head(self.activation(self.hidden(x)))
        return logits.flatten(1)

    def _compute_logits(self, image: Tensor) -> Tensor:
        margin = self.settings.window // 2
        x = mirror_pad(image, [(margin, margin)] * self.settings.spatial_dims)
        convolve = F.conv2d if self.settings.spatial_dims == 2 else F.conv3d
        pool = F.max_pool2d if self.settings.spatial_dims == 2 else F.max_pool3d
        dilation = 1
        for layer in self.convolutions:
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            x = pool(self.activation(convolve(x, weight, bias, dilation=dilation)), 2, 1, dilation=dilation)
            dilation *= 2
        weight, bias = self.hidden.get_parameter("weight"), self.hidden.get_parameter("bias")
        x = self.activation(convolve(x, weight, bias, dilation=dilation))
        logits: Tensor = self.head(x)
        return logits
