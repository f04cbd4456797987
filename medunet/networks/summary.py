"""What `medunet networks` prints: every network at one patch, in figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medunet.networks.build import build_network
from medunet.networks.catalogue import ARCHITECTURES, Architecture, find_architecture
from medunet.networks.choose import fit_features, fit_width
from medunet.networks.config import list_options
from medunet.networks.cost import count_gflop, count_parameters
from medunet.networks.receptive_field import Slide, Step, Transposed, compute_receptive_field
from medunet.planning import NetworkPlan, compute_topology
from medunet.planning.stages import choose_blocks, choose_features
from medunet.volume import Shape3


@dataclass(frozen=True, kw_only=True)
class NetworkSummary:
    """A network in figures.

    Attributes:
        name: As on the command line.
        title: As its authors call it.
        year: Of the paper.
        paper: DOI or arXiv number.
        native_dims: What the paper is about: 2 or 3 dimensions.
        spatial_dims: Of the figures below.
        width: Channels of the first stage.
        patch_size: The patch that was asked for, or the next size that fits.
        parameters: Numbers that are learnt.
        gflop: 10^9 multiplications and additions of convolutions and matrix products in one pass over that patch.
        receptive_field: Edge, in voxels, of what a voxel of the logits sees, normalisations apart; None for all of the patch.
        options: The network's config.
    """

    name: str
    title: str
    year: int
    paper: str
    native_dims: tuple[int, ...]
    spatial_dims: int
    width: int
    patch_size: tuple[int, ...]
    parameters: int
    gflop: float
    receptive_field: int | None
    options: dict[str, Any]


def summarize_networks(
    patch_size: Sequence[int],
    *,
    in_channels: int = 1,
    out_channels: int = 2,
    names: Iterable[str] = (),
    gflop: float | None = None,
) -> list[NetworkSummary]:
    """Figures of the networks, oldest first.

    Args:
        patch_size: Two axes for 2D, three for 3D.
        in_channels: Input channels.
        out_channels: Output channels.
        names: Of the networks; all where none is given.
        gflop: Widths are scaled so that a patch costs at most this, or as little or as much as there is; None takes those of
            the papers.

    Raises:
        InputError: If there is no network of a name.
    """
    chosen = [find_architecture(name) for name in names] or list(ARCHITECTURES.values())
    size = tuple(patch_size)
    return [
        (_summarize_planned if architecture.is_planned else _summarize)(
            architecture, size, in_channels, out_channels, gflop
        )
        for architecture in chosen
    ]


def plan_unet(
    architecture: Architecture, patch_size: tuple[int, ...], in_channels: int, out_channels: int, *, base: int = 32
) -> tuple[NetworkPlan, tuple[int, ...]]:
    """A U-Net as the planner shapes it for voxels that are cubes, and the patch that it takes.

    Args:
        architecture: One of the planner's.
        patch_size: Two or three axes.
        in_channels: Input channels.
        out_channels: Output channels.
        base: Channels of the first stage.
    """
    dims = len(patch_size)
    topology = compute_topology(patch_size, (1.0,) * dims)
    num_stages = len(topology.strides)
    blocks = choose_blocks("residual-unet" if architecture.name == "residual-unet" else "unet", num_stages)

    def spread(numbers: tuple[int, ...]) -> Shape3:
        i, j, k = (*numbers, 1)[:3]
        return i, j, k

    plan = NetworkPlan(
        architecture=architecture.name,
        spatial_dims=2 if dims == 2 else 3,
        in_channels=in_channels,
        out_channels=out_channels,
        features=choose_features(num_stages, dims, base=base),
        strides=tuple(map(spread, topology.strides)),
        kernels=tuple(map(spread, topology.kernels)),
        encoder_blocks=blocks.encoder,
        decoder_convolutions=blocks.decoder,
        num_scales=max(1, num_stages - 2),
    )
    size = tuple(-(-n // divisor) * divisor for n, divisor in zip(patch_size, topology.divisors, strict=True))
    return plan, size


def list_planned_path(plan: NetworkPlan, axis: int) -> tuple[Step, ...]:
    """The longest way through one of the planner's U-Nets along one axis."""
    kernels, strides = ([numbers[axis] for numbers in stages] for stages in (plan.kernels, plan.strides))
    is_residual = plan.architecture == "residual-unet"
    steps: list[Step] = [Slide(kernels[0])] if is_residual else []
    for kernel, stride, blocks in zip(kernels, strides, plan.encoder_blocks, strict=True):
        num_convolutions = 2 * blocks if is_residual else blocks
        steps += [Slide(kernel, stride), *[Slide(kernel)] * (num_convolutions - 1)]
    for level in reversed(range(len(kernels) - 1)):
        stride = strides[level + 1]
        steps += [Transposed(stride, stride), *[Slide(kernels[level])] * plan.decoder_convolutions[level]]
    return tuple(steps)


def _summarize(
    architecture: Architecture, patch_size: tuple[int, ...], in_channels: int, out_channels: int, gflop: float | None
) -> NetworkSummary:
    config = architecture.build_config(patch_size, in_channels, out_channels)
    if gflop is not None:
        config = fit_width(
            lambda width: architecture.build_config(patch_size, in_channels, out_channels, {"width": width}),
            config.width,
            architecture,
            patch_size,
            gflop,
        )
    size = config.find_next_size(patch_size)
    with torch.device("meta"):
        network = architecture.build_network(config)
    return NetworkSummary(
        name=architecture.name,
        title=architecture.title,
        year=architecture.year,
        paper=architecture.paper,
        native_dims=architecture.native_dims,
        spatial_dims=config.spatial_dims,
        width=config.width,
        patch_size=size,
        parameters=count_parameters(network),
        gflop=count_gflop(network, in_channels, size),
        receptive_field=config.receptive_field,
        options=list_options(config),
    )


def _summarize_planned(
    architecture: Architecture, patch_size: tuple[int, ...], in_channels: int, out_channels: int, gflop: float | None
) -> NetworkSummary:
    plan, size = plan_unet(architecture, patch_size, in_channels, out_channels)
    if gflop is not None:
        plan = fit_features(plan, (*size, 1)[:3], gflop)
    with torch.device("meta"):
        network = build_network(plan).network
    return NetworkSummary(
        name=architecture.name,
        title=architecture.title,
        year=architecture.year,
        paper=architecture.paper,
        native_dims=architecture.native_dims,
        spatial_dims=plan.spatial_dims,
        width=plan.features[0],
        patch_size=size,
        parameters=count_parameters(network),
        gflop=count_gflop(network, in_channels, size),
        receptive_field=max(
            compute_receptive_field(list_planned_path(plan, axis)) for axis in range(plan.spatial_dims)
        ),
        options={},
    )
