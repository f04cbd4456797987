"""Another network in a plan: at the price of the planned U-Net, on a patch that it takes, in JSON and back."""

from __future__ import annotations

import json
import math

import pytest
import torch
from small_networks import NAMES, OPTIONS
from tiny_training import MUON, build_tiny_plan

from medunet.errors import InputError
from medunet.networks import ARCHITECTURES, build_network, replace_network
from medunet.networks.choose import count_plan_gflop, fit_width
from medunet.networks.cost import count_gflop, count_orthogonal_gflop, count_parameters
from medunet.planning import NetworkPlan, Plan
from medunet.planning.architectures import describe_architecture
from medunet.planning.stages import choose_features


def flatten(plan: Plan, axis: int) -> Plan:
    """The plan for slices across an axis."""

    def cut(numbers: tuple[int, int, int]) -> tuple[int, int, int]:
        i, j, k = (1 if other == axis else n for other, n in enumerate(numbers))
        return i, j, k

    network = plan.network.model_copy(
        update={
            "spatial_dims": 2,
            "strides": tuple(map(cut, plan.network.strides)),
            "kernels": tuple(map(cut, plan.network.kernels)),
        }
    )
    return plan.model_copy(update={"network": network, "patch_size": cut(plan.patch_size), "configuration": "2d"})


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("swin-unetr", "unetr", "gated-scnn")])
def test_the_network_of_a_plan_takes_the_patch_of_the_plan(name: str) -> None:
    for axis in (0, 2):
        plan = replace_network(flatten(build_tiny_plan(), axis), name, OPTIONS[name])
        assert plan.network.architecture == name
        assert plan.patch_size[axis] == 1
        assert len(plan.network.features) == len(plan.network.strides) == len(plan.network.encoder_blocks)
        again = Plan.model_validate_json(json.dumps(plan.model_dump(mode="json")))
        assert again == plan
        network = build_network(again.network).eval()
        assert network.slice_axis == axis
        with torch.no_grad():
            scales = network.forward_scales(torch.zeros((1, plan.network.in_channels, *plan.patch_size)))
        assert scales[0].shape == (1, plan.network.out_channels, *plan.patch_size)


def test_large_matrices_are_left_to_adamw() -> None:
    """FCN's fully connected layers would make a step of Muon dearer than the network, here by a third."""
    plan = build_tiny_plan(MUON)
    other = replace_network(plan, "fcn-32s")
    limit = other.optimizer.max_orthogonal_gflop
    assert limit is not None
    shapes = [weight.shape for weight in build_network(other.network).parameters() if weight.ndim >= 2]
    kept = sum(cost for cost in map(count_orthogonal_gflop, shapes) if cost <= limit)
    step = 3 * plan.batch_size * count_plan_gflop(other)
    assert kept <= 0.25 * step < step < sum(map(count_orthogonal_gflop, shapes))
    assert "AdamW" in other.reasons["optimizer"]
    adamw = plan.model_copy(update={"optimizer": plan.optimizer.model_copy(update={"name": "adamw"})})
    assert replace_network(adamw, "fcn-32s").optimizer == adamw.optimizer
    assert replace_network(plan, "residual-unet").optimizer == plan.optimizer


def test_layers_of_the_same_shape_are_left_to_adamw_together() -> None:
    """UNETR has twelve equal layers, of which a part would be affordable."""
    plan = build_tiny_plan(MUON)
    plan = plan.model_copy(update={"patch_size": (32, 32, 32), "batch_size": 1})
    other = replace_network(plan, "unetr", {"width": 4})
    limit = other.optimizer.max_orthogonal_gflop
    assert limit is not None
    costs = [
        count_orthogonal_gflop(weight.shape) for weight in build_network(other.network).parameters() if weight.ndim >= 2
    ]
    affordable = 0.25 * 3 * count_plan_gflop(other)
    assert sum(cost for cost in costs if cost <= limit) <= affordable
    next_cost = min(cost for cost in costs if cost > limit)
    assert costs.count(next_cost) > 1
    assert sum(cost for cost in costs if cost <= next_cost) > affordable


def test_it_costs_as_much_as_the_unet_would() -> None:
    plan = build_tiny_plan()
    plan = plan.model_copy(update={"network": plan.network.model_copy(update={"features": (32, 64, 64)})})
    budget = count_plan_gflop(plan)
    for name in ("vnet", "unet3d-2016", "segnet"):
        other = replace_network(plan, name)
        assert count_plan_gflop(other) <= budget
        wider = other.network.options["width"] + ARCHITECTURES[name].config.width_step  # type: ignore[union-attr]
        dearer = replace_network(plan, name, {"width": wider})
        assert dearer.network.options["width"] == wider
        assert count_plan_gflop(dearer) > budget
        assert f"{count_plan_gflop(other):.3g} GFLOP" in other.reasons["network"]


def test_what_cannot_be_so_cheap_says_so() -> None:
    plan = replace_network(build_tiny_plan(), "deconvnet")
    assert plan.network.options["width"] == 1
    assert "the narrowest there is" in plan.reasons["network"]


@pytest.mark.parametrize("gflop", [0.002, 0.02, 0.5, 8.0])
def test_the_widest_within_a_cost_is_found(gflop: float) -> None:
    """Against trying every width."""
    architecture = ARCHITECTURES["unet-2015"]

    def build(width: int) -> object:
        return architecture.build_config((32, 32, 16), 1, 2, {"width": width})

    def cost(width: int) -> float:
        with torch.device("meta"):
            return count_gflop(architecture.build_network(build(width)), 1, (32, 32, 16))  # type: ignore[arg-type]

    found = fit_width(build, 64, architecture, (32, 32, 16), gflop)  # type: ignore[arg-type]
    assert cost(found.width) <= gflop or found.width == 1
    assert cost(found.width + 1) > gflop


def test_the_patch_grows_to_what_the_network_takes() -> None:
    plan = build_tiny_plan()
    other = replace_network(plan, "unetr", {"width": 1})
    assert all(n % 16 == 0 and n >= m for n, m in zip(other.patch_size, plan.patch_size, strict=True))
    assert other.network.options["image_size"] == list(other.patch_size)
    divisor = math.prod(stride[0] for stride in other.network.strides)
    assert divisor == 16
    if other.patch_size != plan.patch_size:
        assert "grown from" in other.reasons["patch_size"]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_planners_own_networks_cost_the_same(spatial_dims: int) -> None:
    """The deep residual encoder pays for its blocks with width; the narrow tiny plan is widened for a difference to show."""
    plan = build_tiny_plan(spatial_dims=spatial_dims)
    plan = plan.model_copy(update={"network": plan.network.model_copy(update={"features": (24, 48, 96)})})
    other = replace_network(plan, "residual-unet")
    assert other.patch_size == plan.patch_size
    assert other.network.encoder_blocks == (1, 3, 4)
    assert set(other.network.decoder_convolutions) == {1}
    base = other.network.features[0]
    assert other.network.features == choose_features(3, spatial_dims, base=base)
    assert base < 24
    wider = other.network.model_copy(update={"features": choose_features(3, spatial_dims, base=base + 1)})
    dearer = other.model_copy(update={"network": wider})
    assert count_plan_gflop(other) <= count_plan_gflop(plan) < count_plan_gflop(dearer)
    assert f"{count_plan_gflop(other):.3g} GFLOP" in other.reasons["network"]
    assert replace_network(other, "residual-unet") is other  # of a preset, whose width is nnU-Net's
    assert replace_network(plan, "unet") is plan
    with pytest.raises(InputError, match="takes no options"):
        replace_network(plan, "residual-unet", {"width": 3})


@pytest.mark.parametrize("name", ["unet", "residual-unet", "segnet"])
def test_a_cost_that_is_asked_for(name: str) -> None:
    plan = build_tiny_plan()
    wide = replace_network(plan, name, gflop=0.3)
    assert 0.2 < count_plan_gflop(wide) <= 0.3
    assert "the widest that costs no more than was asked for (0.3 GFLOP)" in wide.reasons["network"]
    least = replace_network(plan, name, gflop=1e-9)
    assert "the narrowest there is, though less was asked for" in least.reasons["network"]


def test_plans_without_options_are_written_as_before() -> None:
    """So that plan.json, and the identity of a training that was interrupted before, stay the same."""
    network = build_tiny_plan().network
    assert "options" not in network.model_dump(mode="json")
    assert NetworkPlan.model_validate(network.model_dump(mode="json")) == network
    assert "options" in replace_network(build_tiny_plan(), "vnet").network.model_dump(mode="json")


def test_people_read_titles() -> None:
    plan = build_tiny_plan()
    assert describe_architecture(plan.network.architecture) == "U-Net"
    assert describe_architecture(replace_network(plan, "vnet").network.architecture) == "V-Net"


def test_arithmetic_is_counted_by_hand() -> None:
    """A 3x3 convolution from 2 to 5 channels on 6 x 7 voxels: 9 multiplications and additions per pair and voxel."""
    with torch.device("meta"):
        network = torch.nn.Conv2d(2, 5, 3, padding=1)
    assert count_gflop(network, 2, (6, 7)) == pytest.approx(2 * 9 * 2 * 5 * 42 / 1e9)
    assert count_parameters(network) == 95
