"""Patches: cubes in mm, cut by nnU-Net's steps until they can be paid for, or refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.errors import InputError
from medunet.planning import Effort, MemoryTarget
from medunet.planning.cost import CostModel, FeatureVoxels, PatchVoxels
from medunet.planning.patch import choose_patch

ENOUGH = PatchVoxels(effort=Effort(voxels=2 * 10**12, features=32))


def pay_for(voxels: int) -> PatchVoxels:
    return PatchVoxels(effort=Effort(voxels=2 * voxels, features=32))


@pytest.mark.parametrize(
    ("spacing", "median_size", "size"),
    [
        ((1.0, 1.0, 1.0), (1000, 1000, 1000), (256, 256, 256)),
        (
            (4.0, 1.0, 1.0),
            (1000, 1000, 1000),
            (112, 448, 448),
        ),  # 256 * 4 ** (1 / 3) = 406 in plane, 102 across; 16 and 64 divide them
        ((1.0, 1.0, 1.0), (36, 50, 35), (40, 56, 40)),  # clipped, then padded
        ((1.0, 1.0, 1.0), (35.5, 50, 32), (40, 56, 32)),  # the median of an even number of cases
        ((1.0, 1.0), (5000, 300), (2048, 320)),
        ((1.0, 1.0, 1.0), (5, 6, 3), (8, 8, 8)),  # nothing could be halved
        ((3.0, 1.0, 1.0), (5, 64, 64), (5, 64, 64)),  # five slices stay five
    ],
)
def test_patches_that_can_be_paid_for(spacing: Any, median_size: Any, size: Any) -> None:
    assert choose_patch(spacing, median_size, ENOUGH).size == size


@pytest.mark.parametrize(
    ("voxels", "size"),
    [
        (64 * 256 * 256, (64, 256, 256)),  # covers 1, 1/4, 1/4
        (63 * 256 * 256, (56, 256, 256)),  # by 8, the divisor of 56, not by 16
        (16 * 256 * 256, (16, 256, 256)),  # all a quarter
        (16 * 256 * 255, (16, 256, 224)),  # then in turn, the last first
        (16 * 224 * 224, (16, 224, 224)),
    ],
)
def test_the_axis_that_covers_most_is_cut_first(voxels: int, size: Any) -> None:
    assert choose_patch((1.0, 1.0, 1.0), (64, 1024, 1024), pay_for(voxels)).size == size


def test_a_step_is_that_of_the_shorter_patch() -> None:
    """256 is divided by 64; cut by that it would be 192, but 224 is seven times 32."""
    patch = choose_patch((1.0, 1.0, 1.0), (256, 256, 256), pay_for(256 * 256 * 256 - 1))
    assert patch.size == (256, 256, 224)


def test_equal_shares_are_cut_from_the_last_axis() -> None:
    """As nnU-Net's argsort does; in its order the last axis is R for axial slices."""
    assert choose_patch((1.0, 1.0, 1.0), (128, 128, 128), pay_for(128**3 - 1)).size == (128, 128, 112)


@pytest.mark.parametrize(
    ("spacing", "median_size"),
    [
        ((5.0, 3.0, 0.5), (63, 62, 17)),
        ((5.0, 5.0, 1.0), (518, 48, 23)),
        ((5.0, 3.0, 0.5), (403, 70, 18)),
        ((4.76, 3.0, 0.65), (111, 62, 23)),
    ],
)
def test_a_step_that_padding_takes_back_is_not_the_end(spacing: Any, median_size: Any) -> None:
    """Shrinking an axis can let the others be halved more often, so that they need padding."""
    assert math.prod(choose_patch(spacing, median_size, pay_for(32**3)).size) <= 32**3


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.floats(0.3, 6), min_size=2, max_size=3),
    st.lists(st.floats(1, 600), min_size=3, max_size=3),
    st.sampled_from([pay_for(16**3), pay_for(40**3), FeatureVoxels(target=MemoryTarget(memory_gb=1), num_classes=3)]),
)
def test_cutting_ends_below_the_limit(spacing: list[float], median_size: list[float], costs: CostModel) -> None:
    spacing = sorted(spacing, reverse=True)
    patch = choose_patch(spacing, median_size[: len(spacing)], costs)
    assert patch.cost == costs.compute_cost(patch.size, patch.topology) <= costs.compute_limit(len(spacing))
    assert all(size % divisor == 0 for size, divisor in zip(patch.size, patch.topology.divisors, strict=True))
    assert len(patch.topology.strides) >= 2


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (pay_for(511), r"8x8x8 voxels, .* costs 512 voxels; an effort of 1,022 per batch pays for 511. Plan for more"),
        (
            FeatureVoxels(target=MemoryTarget(memory_gb=1e-5), num_classes=3),
            r"costs [\d,]+ feature voxels; nnU-Net's preset default, 1e-05 GB pays for 700. Plan for more",
        ),
    ],
)
def test_too_little_for_any_patch(costs: CostModel, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_patch((1.0, 1.0, 1.0), (40, 40, 40), costs)
