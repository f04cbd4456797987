"""From plans to networks: 3D as they are, 2D with the slice's axis taken away and put back."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from medunet.networks import PatchNetwork, ResidualUNet, UNet, build_network
from medunet.planning import NetworkPlan


def build_plan(axis: int | None, architecture: Literal["unet", "residual-unet"] = "unet") -> NetworkPlan:
    """Two scales; a 2D plan has stride and kernel 1 along its slice axis."""

    def flatten(numbers: tuple[int, int, int]) -> Any:
        return tuple(1 if other == axis else n for other, n in enumerate(numbers))

    return NetworkPlan(
        architecture=architecture,
        spatial_dims=3 if axis is None else 2,
        in_channels=2,
        out_channels=3,
        features=(4, 8, 8),
        strides=((1, 1, 1), flatten((2, 2, 2)), flatten((2, 2, 2))),
        kernels=(flatten((3, 3, 3)),) * 3,
        encoder_blocks=(2, 2, 2),
        decoder_convolutions=(2, 2),
        num_scales=2,
    )


def build(axis: int | None, seed: int = 0) -> PatchNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_network(build_plan(axis))


def make_patches(axis: int | None) -> torch.Tensor:
    size = [8, 12, 16]
    if axis is not None:
        size[axis] = 1
    return torch.randn((2, 2, *size), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_2d_network_sees_the_bare_slice(axis: int) -> None:
    network, patches = build(axis), make_patches(axis)
    assert network.slice_axis == axis
    logits = network(patches)
    assert logits.shape == (2, 3, *patches.shape[2:])
    assert torch.equal(logits.squeeze(2 + axis), network.network(patches.squeeze(2 + axis)))


def test_a_3d_network_is_the_bare_one() -> None:
    network, patches = build(None), make_patches(None)
    assert network.slice_axis is None
    assert torch.equal(network(patches), network.network(patches))


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_scales_are_halved_but_for_the_slice_axis(axis: int | None) -> None:
    network, patches = build(axis), make_patches(axis)
    scales = network.forward_scales(patches)
    assert torch.equal(scales[0], network(patches))
    halved = tuple(n if other == axis else n // 2 for other, n in enumerate(patches.shape[2:]))
    assert [tuple(scale.shape[2:]) for scale in scales] == [tuple(patches.shape[2:]), halved]


@pytest.mark.parametrize("axis", [None, 1])
def test_the_seed_decides_the_weights(axis: int | None) -> None:
    first, second, other = (build(axis, seed).state_dict() for seed in (3, 3, 4))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_axis_that_is_only_coarse_is_no_slice_axis() -> None:
    """Pixels of 0.4 x 4 mm in slices 5 mm apart: the second axis is convolved in the last stage only."""
    plan = NetworkPlan(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        features=(4, 8),
        strides=((1, 1, 1), (2, 1, 1)),
        kernels=((3, 1, 1), (3, 3, 1)),
        encoder_blocks=(2, 2),
        decoder_convolutions=(2,),
        num_scales=1,
    )
    network = build_network(plan)
    assert network.slice_axis == 2
    assert network(torch.zeros(1, 1, 8, 6, 1)).shape == (1, 2, 8, 6, 1)


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize(("architecture", "kind"), [("unet", UNet), ("residual-unet", ResidualUNet)])
def test_the_plan_names_the_architecture(architecture: Any, kind: type, axis: int | None) -> None:
    network = build_network(build_plan(axis, architecture))
    assert type(network.network) is kind
    patches = make_patches(axis)
    assert torch.equal(network.forward_scales(patches)[0], network(patches))


@pytest.mark.parametrize("architecture", ["unet", "residual-unet"])
def test_blocks_and_convolutions_are_the_plans(architecture: Any) -> None:
    plan = build_plan(None, architecture).model_copy(
        update={"encoder_blocks": (1, 3, 2), "decoder_convolutions": (1, 2)}
    )
    network = build_network(plan).network
    per_block = 2 if architecture == "residual-unet" else 1

    def count(module: torch.nn.Module) -> int:
        return sum(isinstance(part, torch.nn.Conv3d) and part.kernel_size == (3, 3, 3) for part in module.modules())

    stem = 1 if architecture == "residual-unet" else 0
    assert [count(stage) for stage in network.encoder] == [stem + per_block, 3 * per_block, 2 * per_block]
    assert [count(stage) for stage in network.decoder] == [1, 2]
