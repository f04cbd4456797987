"""Muon: orthogonal steps equal to PyTorch's for matrices, AdamW for the rest, and a step that can be forbidden."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medunet.networks.cost import count_orthogonal_gflop
from medunet.training.muon import Muon, orthogonalize


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 8, 3),
        nn.InstanceNorm3d(8, affine=True),
        nn.Conv3d(8, 16, 3),
        nn.ConvTranspose3d(16, 8, 2, stride=2),
        nn.Conv3d(8, 3, 1),
    )


def fill_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        fill_gradients(network, seed)
        optimizer.step()


@pytest.mark.parametrize("shape", [(8, 8), (16, 216), (64, 9)])
def test_orthogonalize_brings_singular_values_near_one_and_keeps_their_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3)).double()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(matrix).double()
    turned = left.T @ result @ right.T
    assert result.shape == shape
    assert torch.allclose(turned, torch.diag(turned.diagonal()), atol=2e-3)
    found = turned.diagonal()[values / values.norm() > 0.02]
    assert found.min() > 0.6
    assert found.max() < 1.3


def test_orthogonalize_ignores_the_size_and_leaves_zeros() -> None:
    matrix = torch.randn((8, 30), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(orthogonalize(matrix * 1e-3), orthogonalize(matrix * 1e3), atol=1e-3)
    assert not orthogonalize(torch.zeros(8, 30)).any()


def test_a_matrix_changes_as_by_the_muon_of_pytorch() -> None:
    """Theirs computes in bfloat16."""
    weights = torch.randn((16, 40), generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(weights.clone()), nn.Parameter(weights.clone())
    mine = Muon([ours], lr=0.01, weight_decay=0.1, momentum=0.9)
    reference = torch.optim.Muon(
        [theirs], lr=0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw", eps=1e-7
    )
    for seed in range(5):
        ours.grad = torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed))
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    moved = (theirs - weights).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    assert moved > 0.1


def test_a_convolution_changes_as_the_matrix_of_its_outputs() -> None:
    network = make_network()
    convolution = network[2].weight
    flat = nn.Parameter(convolution.detach().flatten(1).clone())
    matrix_optimizer = Muon([flat], lr=0.01, weight_decay=0.1)
    fill_gradients(network, 1)
    flat.grad = convolution.grad.flatten(1).clone()
    Muon(network.parameters(), lr=0.01, weight_decay=0.1).step()
    matrix_optimizer.step()
    assert torch.equal(convolution.flatten(1), flat)


def test_memory_layout_does_not_matter() -> None:
    plain, last = make_network(), make_network().to(memory_format=torch.channels_last_3d)
    for network in (plain, last):
        train(network, Muon(network.parameters(), lr=0.01, weight_decay=0.1), range(3))
    for one, other in zip(plain.parameters(), last.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_first_layer_head_norms_and_biases_change_as_by_adamw(fused: bool) -> None:
    network = make_network()
    reference = copy.deepcopy(network)
    train(network, Muon(network.parameters(), lr=0.01, weight_decay=0.1, fused=fused), range(3))
    train(reference, torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.1, eps=1e-7), range(3))
    orthogonal = {"2.weight", "3.weight"}
    for (name, mine), theirs in zip(network.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6) == (name not in orthogonal), name


def test_what_is_too_dear_to_make_orthogonal_changes_as_by_adamw() -> None:
    network = make_network()
    dearest = count_orthogonal_gflop(network[2].weight.shape)
    assert dearest > count_orthogonal_gflop(network[3].weight.shape)
    reference = copy.deepcopy(network)
    train(network, Muon(network.parameters(), lr=0.01, weight_decay=0.1, max_gflop=dearest * 0.99), range(3))
    train(reference, torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.1, eps=1e-7), range(3))
    for (name, mine), theirs in zip(network.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6) == (name != "3.weight"), name


@pytest.mark.parametrize("shape", [(16, 3, 3, 3, 40), (300, 20)])
def test_the_cost_of_a_step_is_what_pytorch_counts(shape: tuple[int, ...]) -> None:
    with FlopCounterMode(display=False) as counter:
        orthogonalize(torch.randn(shape).flatten(1))
    assert count_orthogonal_gflop(shape) == pytest.approx(counter.get_total_flops() / 1e9)


def test_a_forbidden_step_is_as_if_it_never_was() -> None:
    network = make_network()
    other = copy.deepcopy(network)
    optimizer = Muon(network.parameters(), lr=0.01, weight_decay=0.1, fused=True)
    train(network, optimizer, range(2))
    fill_gradients(network, 7)
    for parameter in network.parameters():
        parameter.grad[0] = torch.nan
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    optimizer.found_inf = torch.zeros(())
    train(network, optimizer, range(2, 4))
    train(other, Muon(other.parameters(), lr=0.01, weight_decay=0.1, fused=True), range(4))
    for one, same in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


def test_a_loaded_state_goes_on_exactly() -> None:
    network = make_network()
    optimizer = Muon(network.parameters(), lr=0.01, weight_decay=0.1, fused=True)
    train(network, optimizer, range(3))
    other = copy.deepcopy(network)
    loaded = Muon(other.parameters(), lr=0.5, weight_decay=0.0, fused=True)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(network, optimizer, range(3, 5))
    train(other, loaded, range(3, 5))
    for one, same in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


def test_a_weight_without_gradient_stays() -> None:
    network = make_network()
    before = network[2].weight.detach().clone()
    optimizer = Muon(network.parameters(), lr=0.01, weight_decay=0.1)
    fill_gradients(network, 0)
    network[2].weight.grad = None
    optimizer.step()
    assert torch.equal(network[2].weight, before)


def test_a_closure_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="closures"):
        Muon(make_network().parameters(), lr=0.01, weight_decay=0.1).step(lambda: 0.0)
