"""Gated-SCNN: borders, the gradient of an image, and that the shape stream learns."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_training import build_tiny_batch, build_tiny_plan, build_tiny_task

from medunet.networks import replace_network
from medunet.networks.gated_scnn import (
    GatedSCNN,
    GatedSCNNConfig,
    compute_border_loss,
    find_borders,
    measure_gradient,
)
from medunet.training.engine import Engine
from medunet.training.losses import build_loss


def test_borders_lie_on_both_sides() -> None:
    codes = torch.tensor([[0, 0, 0, 2, 2, 2, 2]]).expand(7, 7)[None].clone()
    found = find_borders(codes)[0, 0]
    assert found[3].tolist() == [False, False, True, True, False, False, False]
    assert not find_borders(torch.ones(1, 4, 4, 4, dtype=torch.uint8)).any()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_gradient_of_a_slope_is_its_slope(dims: int) -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(8.0)] * dims, indexing="ij"))
    slope = torch.tensor([3.0, 4.0, 12.0])[:dims]
    image = (grid * slope.reshape(-1, *[1] * dims)).sum(0)[None, None]
    expected = slope.square().sum().sqrt()
    inner = measure_gradient(image)[(0, 0, *[slice(1, -1)] * dims)]
    assert torch.allclose(inner, expected.expand_as(inner))


def test_the_border_loss_balances_borders_and_the_rest() -> None:
    codes = torch.zeros(1, 16, 16, dtype=torch.long)
    codes[:, :, 8:] = 1
    logits = torch.zeros(1, 1, 16, 16)
    assert compute_border_loss(logits, codes).item() == pytest.approx(math.log(2))
    right = torch.where(find_borders(codes), 20.0, -20.0)
    assert compute_border_loss(right, codes).item() == pytest.approx(0, abs=1e-6)
    nothing = torch.full_like(logits, -20.0)  # all borders missed: half of the loss of 20
    assert compute_border_loss(nothing, codes).item() == pytest.approx(10, rel=1e-5)


def test_the_shape_stream_learns_borders() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = GatedSCNN(
            GatedSCNNConfig(width=8, blocks=(1, 1, 1, 1), in_channels=1, out_channels=2, norm="instance")
        )
    codes = torch.zeros(1, 32, 32, dtype=torch.long)
    codes[:, 8:24, 10:22] = 1
    image = codes[:, None].float() + 0.05 * torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        logits, borders = network.forward_with_borders(image)
        assert logits.shape == (1, 2, 32, 32)
        loss = compute_border_loss(borders, codes)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_ignored_voxels_do_not_count() -> None:
    codes = torch.zeros(1, 12, 12, dtype=torch.uint8)
    codes[:, :, 6:] = 1
    logits = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    known = compute_border_loss(logits[:, :, :8], codes[:, :8])
    codes[:, 9:] = 255
    logits[:, :, 8:] = 100.0
    assert compute_border_loss(logits, codes).item() == pytest.approx(known.item(), rel=1e-6)


@pytest.mark.parametrize("is_flat", [False, True])
def test_training_learns_from_the_borders_too(is_flat: bool) -> None:
    """What the engine reports is the loss of the classes plus that of the borders."""
    plan = build_tiny_plan(spatial_dims=2 if is_flat else 3)
    plan = replace_network(plan, "gated-scnn", {"width": 4, "blocks": (1, 1, 1, 1), "norm": "instance"})
    task, batch = build_tiny_task(), build_tiny_batch(plan)
    engine = Engine(plan, task, device=torch.device("cpu"), precision="32-true")
    logits, borders = engine.network.forward_scales(batch.image)
    expected = build_loss("dice-ce", task, torch.device("cpu"))([logits], batch.codes).total
    expected = expected + compute_border_loss(borders, batch.codes)
    assert engine.step(batch, 1e-3).total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert len(engine.network.eval().forward_scales(batch.image)) == 1
