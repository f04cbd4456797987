"""nnU-Net's rules for depth, strides and kernels, on patches worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunet.planning import Topology, compute_topology

ISOTROPIC = (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("patch_size", "spacing", "divisors", "num_stages"),
    [
        ((40, 56, 40), ISOTROPIC, (8, 8, 8), 4),  # Hippocampus: 40 20 10 5, 56 28 14 7
        ((128, 128, 128), ISOTROPIC, (32, 32, 32), 6),  # Liver
        ((80, 192, 160), (1.37, 1.25, 1.25), (16, 32, 32), 6),  # Heart
        ((20, 320, 256), (3.6, 0.625, 0.625), (4, 64, 64), 7),  # Prostate MR
        ((8, 8, 8), ISOTROPIC, (2, 2, 2), 2),
        ((7, 7, 7), ISOTROPIC, (1, 1, 1), 1),
        ((7, 16, 16), ISOTROPIC, (1, 4, 4), 3),  # 16 8 4
        ((64, 64), (1.0, 1.0), (16, 16), 5),  # a slice
        ((4096, 4096), (1.0, 1.0), (1024, 1024), 11),
    ],
)
def test_known_depths(patch_size: Any, spacing: Any, divisors: Any, num_stages: int) -> None:
    topology = compute_topology(patch_size, spacing)
    assert topology.divisors == divisors
    assert len(topology.strides) == len(topology.kernels) == num_stages
    assert topology.strides[0] == (1,) * len(patch_size)


def test_prostate_mr_by_hand() -> None:
    """3.6 mm slices are neither halved nor convolved until the plane has 2.5 mm pixels."""
    topology = compute_topology((20, 320, 256), (3.6, 0.625, 0.625))
    assert topology.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert topology.kernels == ((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 5)


@pytest.mark.parametrize(("ratio", "kernel"), [(1.0, 3), (1.99, 3), (2.0, 1), (5.0, 1)])
def test_a_coarse_axis_is_convolved_once_within_twice_the_finest(ratio: float, kernel: int) -> None:
    assert compute_topology((64, 64, 64), (1.0, 1.0, ratio)).kernels[0] == (3, 3, kernel)


def test_a_coarse_axis_is_halved_once_below_twice_the_finest() -> None:
    assert compute_topology((64, 64, 64), (1.0, 1.0, 1.99)).strides[1] == (2, 2, 2)
    assert compute_topology((64, 64, 64), (1.0, 1.0, 2.0)).strides[1:3] == ((2, 2, 1), (2, 2, 2))


def test_kernels_stay_3_once_they_are() -> None:
    kernels = [kernel[2] for kernel in compute_topology((32, 128, 64), (4.0, 1.0, 2.0)).kernels]
    assert kernels == sorted(kernels)


@pytest.mark.parametrize(("length", "divisor"), [(8, 1), (11, 1), (12, 2), (24, 4), (22, 2), (23, 4)])
def test_a_lone_axis_needs_twelve_voxels(length: int, divisor: int) -> None:
    """The first two stages halve (16, 16) to (4, 4), which leaves the third axis alone."""
    topology = compute_topology((16, 16, 4 * length), ISOTROPIC)
    assert topology.divisors == (4, 4, 4 * divisor)


def test_a_lone_short_axis_still_gives_a_network() -> None:
    """The rule for a lone axis would stop before the first halving, and a U-Net needs two stages."""
    topology = compute_topology((8, 40, 40), (1.0, 3.0, 3.0))
    assert topology.strides[:2] == ((1, 1, 1), (2, 1, 1))


def test_the_last_stage_is_convolved_along_all_axes() -> None:
    """As nnU-Net does; it also tells a slice's missing axis from one that is only coarse."""
    assert compute_topology((20, 112), (0.4, 4.1)).kernels == ((3, 1), (3, 3))


patches = st.tuples(*[st.integers(8, 200)] * 3)
spacings = st.tuples(*[st.floats(0.3, 6)] * 3)


@given(patches, spacings)
def test_properties(patch_size: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    topology = compute_topology(patch_size, spacing)
    assert len(topology.strides) >= 2
    for size, divisor in zip(patch_size, topology.divisors, strict=True):
        assert -(-size // divisor) >= 4  # no axis ends below four voxels
    assert all(set(stride) <= {1, 2} and 2 in stride for stride in topology.strides[1:])
    assert {n for kernel in topology.kernels for n in kernel} <= {1, 3}
    assert topology == compute_topology(patch_size, spacing)


@given(patches, spacings, st.permutations([0, 1, 2]))
def test_axes_have_no_rank(patch_size: Any, spacing: Any, order: list[int]) -> None:
    """Permuted axes give the permuted network."""

    def permute(values: Any) -> tuple[Any, ...]:
        return tuple(values[axis] for axis in order)

    there = compute_topology(patch_size, spacing)
    moved = compute_topology(permute(patch_size), permute(spacing))
    assert moved == Topology(
        strides=tuple(permute(stride) for stride in there.strides),
        kernels=tuple(permute(kernel) for kernel in there.kernels),
    )
