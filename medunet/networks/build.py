"""From a plan to a network that takes patches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medunet.networks.catalogue import ARCHITECTURES
from medunet.networks.config import NetworkConfig
from medunet.networks.encoder_decoder import EncoderDecoder
from medunet.networks.network import SegmentationNetwork
from medunet.networks.residual_unet import ResidualUNet
from medunet.networks.small_grids import protect_small_grids
from medunet.networks.unet import UNet
from medunet.planning import NetworkPlan
from medunet.volume import Shape3

Margins = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Voxels before and after, along I, J and K."""

_PLANNED: dict[str, type[EncoderDecoder]] = {"unet": UNet, "residual-unet": ResidualUNet}


class PatchNetwork(nn.Module):
    """A 2D or 3D network behind one interface: patches ``(B, C, I, J, K)`` in, logits of the same grid out.

    A 2D network sees patches whose size along ``slice_axis`` is 1; that axis is taken away before it and put back
    after it, so that everything around the network knows one case only.

    Attributes:
        network: The bare network.
        slice_axis: 0, 1 or 2 for a 2D network, None for a 3D one.
    """

    def __init__(self, network: EncoderDecoder | SegmentationNetwork, slice_axis: int | None) -> None:
        super().__init__()
        protect_small_grids(network)
        self.network = network
        self.slice_axis = slice_axis

    @property
    def num_auxiliary(self) -> int:
        """Answers of `forward_scales` after the logits, while it trains; see `SegmentationNetwork.num_auxiliary`."""
        return self.network.num_auxiliary if isinstance(self.network, SegmentationNetwork) else 0

    def compute_auxiliary_loss(self, answers: Sequence[Tensor], codes: Tensor) -> Tensor:
        """What the network learns from its auxiliary answers; codes ``(B, I, J, K)``."""
        assert isinstance(self.network, SegmentationNetwork)
        return self.network.compute_auxiliary_loss(answers, codes)

    def forward(self, patches: Tensor) -> Tensor:
        """Logits ``(B, out_channels, I, J, K)``."""
        if self.slice_axis is None:
            logits: Tensor = self.network(patches)
            return logits
        axis = 2 + self.slice_axis
        flat: Tensor = self.network(patches.squeeze(axis))
        return flat.unsqueeze(axis)

    def compute_inside(self, tiles: Tensor, patch_size: Sequence[int]) -> Tensor:
        """Logits of patches that are seen with what surrounds them.

        Args:
            tiles: ``(B, C, *spatial)``: patches with the margins of `find_surroundings`.
            patch_size: ``(I, J, K)``.

        Returns:
            ``(B, out_channels, I, J, K)``.
        """
        assert isinstance(self.network, SegmentationNetwork)
        axis = None if self.slice_axis is None else 2 + self.slice_axis
        logits = self.network.compute_inside(tiles if axis is None else tiles.squeeze(axis))
        logits = logits if axis is None else logits.unsqueeze(axis)
        return logits[(slice(None), slice(None), *(slice(0, n) for n in patch_size))]

    def forward_scales(self, patches: Tensor) -> list[Tensor]:
        """Logits of every supervised scale, finest first."""
        if self.slice_axis is None:
            return self.network.forward_scales(patches)
        axis = 2 + self.slice_axis
        return [logits.unsqueeze(axis) for logits in self.network.forward_scales(patches.squeeze(axis))]


def build_network(plan: NetworkPlan) -> PatchNetwork:
    """The network of a plan, with fresh weights from torch's global generator."""
    slice_axis = find_slice_axis(plan)
    if (config := _find_config(plan)) is not None:
        return PatchNetwork(ARCHITECTURES[plan.architecture].build_network(config), slice_axis)
    axes = [axis for axis in range(3) if axis != slice_axis]
    network = _PLANNED[plan.architecture](
        spatial_dims=plan.spatial_dims,
        in_channels=plan.in_channels,
        out_channels=plan.out_channels,
        features=plan.features,
        strides=[tuple(stride[axis] for axis in axes) for stride in plan.strides],
        kernels=[tuple(kernel[axis] for axis in axes) for kernel in plan.kernels],
        encoder_blocks=plan.encoder_blocks,
        decoder_convolutions=plan.decoder_convolutions,
        num_scales=plan.num_scales,
    )
    return PatchNetwork(network, slice_axis)


def _find_config(plan: NetworkPlan) -> NetworkConfig | None:
    """Of a network of the catalogue; None for the planner's own."""
    if plan.architecture in _PLANNED:
        return None
    config = ARCHITECTURES[plan.architecture].config
    assert config is not None
    return config(
        spatial_dims=plan.spatial_dims, in_channels=plan.in_channels, out_channels=plan.out_channels, **plan.options
    )


def find_surroundings(plan: NetworkPlan, patch_size: Shape3) -> Margins:
    """Voxels before and after a patch along I, J and K that its network has to see to answer for all of it as in the whole image.

    None, ``(0, 0)``, but of networks without padding, which otherwise mirror the patch at its own borders.
    """
    config, slice_axis = _find_config(plan), find_slice_axis(plan)
    axes = [axis for axis in range(3) if axis != slice_axis]
    margins = [(0, 0)] * 3
    if config is not None:
        for axis, margin in zip(axes, config.find_surroundings([patch_size[axis] for axis in axes]), strict=True):
            margins[axis] = margin
    i, j, k = margins
    return i, j, k


def find_slice_axis(plan: NetworkPlan) -> int | None:
    """The axis that a 2D network never convolves; None for a 3D network."""
    if plan.spatial_dims == 3:
        return None
    return next(axis for axis in range(3) if all(kernel[axis] == 1 for kernel in plan.kernels))
