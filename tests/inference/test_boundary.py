"""Interpolating along borders only gives the very winners of interpolating everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torch import Tensor

from medunet.inference import boundary
from medunet.inference.boundary import (
    Positions,
    build_positions,
    find_positive_between,
    find_winners_between,
    interpolate,
    snap_places,
)

CPU = torch.device("cpu")
lengths = st.tuples(st.integers(1, 9), st.integers(1, 8), st.integers(1, 7))
ways = st.tuples(*[st.tuples(st.floats(-2.5, 2.5), st.floats(-3, 9), st.integers(1, 11)) for _ in range(3)])


def make_logits(shape: tuple[int, int, int], num_classes: int, seed: int, *, smooth: bool) -> Tensor:
    logits = torch.randn(num_classes, *shape, generator=torch.Generator().manual_seed(seed))
    if smooth:  # neighbours mostly agree
        logits[0] *= 0.1
        logits[0] += 2
        logits[0] -= 0.2 * torch.arange(shape[0])[:, None, None]
    return logits


def place(way: tuple[tuple[float, float, int], ...], shape: tuple[int, int, int]) -> list[Positions]:
    return [
        build_positions(snap_places(torch.arange(count, dtype=torch.float64) * scale + shift, length), CPU)
        for (scale, shift, count), length in zip(way, shape, strict=True)
    ]


def interpolate_all(logits: Tensor, positions: list[Positions]) -> Tensor:
    """Logits ``(classes, ...)`` at every point of the grid, whether in question or not."""
    for axis, where in enumerate(positions, start=1):
        weight = where.weight.reshape([-1 if other == axis else 1 for other in range(4)])
        logits = logits.index_select(axis, where.lower) * (1 - weight) + logits.index_select(axis, where.upper) * weight
    return logits


def find_winners_everywhere(logits: Tensor, positions: list[Positions]) -> Tensor:
    return interpolate_all(logits, positions).argmax(0).to(torch.uint8)


@settings(max_examples=150, deadline=None)
@given(shape=lengths, way=ways, num_classes=st.integers(2, 6), seed=st.integers(0, 10**6), smooth=st.booleans())
def test_the_winners_are_those_of_interpolating_all_logits(
    shape: tuple[int, int, int], way: Any, num_classes: int, seed: int, smooth: bool
) -> None:
    logits = make_logits(shape, num_classes, seed, smooth=smooth)
    positions = place(way, shape)
    assert torch.equal(find_winners_between(logits, positions), find_winners_everywhere(logits, positions))


@settings(max_examples=100, deadline=None)
@given(shape=lengths, way=ways, seed=st.integers(0, 10**6))
def test_a_region_is_where_the_interpolated_logit_is_above_zero(
    shape: tuple[int, int, int], way: Any, seed: int
) -> None:
    logits = make_logits(shape, 1, seed, smooth=False)[0]
    positions = place(way, shape)
    assert torch.equal(find_positive_between(logits, positions), interpolate_all(logits[None], positions)[0] > 0)


@settings(max_examples=60, deadline=None)
@given(shape=lengths, way=ways, seed=st.integers(0, 10**6))
def test_interpolation_is_scipys(shape: tuple[int, int, int], way: Any, seed: int) -> None:
    values = make_logits(shape, 1, seed, smooth=False)[0]
    points = np.meshgrid(*[np.arange(count) * scale + shift for scale, shift, count in way], indexing="ij")
    expected = map_coordinates(values.double().numpy(), points, order=1, mode="nearest")
    positions = place(way, shape)
    np.testing.assert_allclose(interpolate(values, positions).numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(interpolate_all(values[None], positions)[0].numpy(), expected, atol=1e-4)


def test_only_border_points_are_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.zeros(3, 20, 20, 20)
    logits[0] = 1.0
    logits[2, 8:12, 8:12, 8:12] = 5.0
    picked: list[int] = []
    compute = boundary._interpolate_mixed

    def count(rows: Tensor, winners: Tensor, positions: Any) -> Any:
        for points, values in compute(rows, winners, positions):
            picked.append(len(values))
            yield points, values

    positions = place(((0.5, 0.25, 39),) * 3, (20, 20, 20))
    expected = find_winners_everywhere(logits, positions)
    monkeypatch.setattr(boundary, "_interpolate_mixed", count)
    assert torch.equal(find_winners_between(logits, positions), expected)
    assert 0 < sum(picked) < 0.05 * expected.numel()


def test_on_the_same_grid_nothing_is_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = make_logits((5, 6, 7), 4, 0, smooth=False)
    monkeypatch.setattr(boundary, "_blend", None)
    positions = place(((1.0, 1e-7, 5), (-1.0, 5.0 - 1e-7, 6), (1.0, 0.0, 7)), (5, 6, 7))
    assert torch.equal(find_winners_between(logits, positions), logits.argmax(0).flip(1).to(torch.uint8))


def test_the_first_of_equals_wins() -> None:
    positions = place(((0.5, 0.0, 3),) * 3, (2, 2, 2))
    assert not find_winners_between(torch.ones(4, 2, 2, 2), positions).any()


def test_views_of_larger_volumes_are_read_where_they_lie() -> None:
    whole = make_logits((9, 10, 11), 3, 1, smooth=False)
    part = whole[:, 2:8, 1:9, 3:10]
    positions = place(((0.4, 0.3, 12), (0.9, 0.0, 8), (-0.7, 6.0, 8)), (6, 8, 7))
    assert torch.equal(find_winners_between(part, positions), find_winners_between(part.contiguous(), positions))


@pytest.mark.parametrize(("chunk", "block"), [(1, 1), (7, 2 * 5 * 5 * 4), (1000, 3 * 5 * 5 * 4), (1000, 10**6)])
def test_chunks_and_blocks_change_nothing(chunk: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = make_logits((6, 5, 4), 5, 2, smooth=False)
    positions = place(((0.6, 0.1, 9), (0.7, 0.2, 6), (0.8, 0.0, 4)), (6, 5, 4))
    expected = find_winners_between(logits, positions)
    monkeypatch.setattr(boundary, "CHUNK", chunk)
    assert torch.equal(find_winners_between(logits, positions, block_logits=block), expected)


def test_254_labels_fit() -> None:
    logits = torch.zeros(255, 2, 1, 1)
    logits[254, 0], logits[253, 1] = 1.0, 1.0
    positions = place(((0.25, 0.0, 5), (1.0, 0.0, 1), (1.0, 0.0, 1)), (2, 1, 1))
    assert find_winners_between(logits, positions)[:, 0, 0].tolist() == [254, 254, 253, 253, 253]
