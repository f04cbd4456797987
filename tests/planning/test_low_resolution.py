"""When nnU-Net plans a second, coarser network, and at which spacing."""

from __future__ import annotations

import math

import pytest
from made_up_fingerprints import make_fingerprint, make_task

from medunet.errors import InputError
from medunet.planning import Effort, MemoryTarget, build_plan, choose_configuration
from medunet.planning.cost import PatchVoxels
from medunet.planning.low_resolution import choose_low_resolution
from medunet.planning.patch import choose_patch

LIVER = make_fingerprint((0.7676, 0.7676, 1.0), (512, 512, 482), 131)
COSTS = PatchVoxels(effort=Effort(voxels=2 * 64**3, features=16))


def test_the_liver_needs_one() -> None:
    """A patch of 128 x 128 x 128 covers 1.7 % of the median case."""
    plan = build_plan(LIVER, make_task(), MemoryTarget(), "3d-low")
    full = build_plan(LIVER, make_task(), MemoryTarget())
    factor = plan.spacing[0] / 0.7676
    assert plan.spacing == pytest.approx([factor * mm for mm in full.spacing])
    assert math.log(factor, 1.03) == pytest.approx(round(math.log(factor, 1.03)))  # steps of 3 %
    assert math.prod(plan.patch_size) / math.prod(plan.median_shape) >= 0.25
    assert "covers 1.7% of the median case" in plan.reasons["low_resolution"]
    assert plan.configuration == "3d-low"
    assert (plan.network.in_channels, plan.num_previous_labels) == (1, 0)


def test_one_step_less_would_not_do() -> None:
    low, _ = choose_low_resolution(
        (1.0, 1.0, 1.0), (200, 200, 200), choose_patch((1.0,) * 3, (200, 200, 200), COSTS), COSTS
    )
    assert low is not None
    assert math.prod(low.patch.size) / low.median_voxels >= 0.25
    before = [mm / 1.03 for mm in low.spacing]
    sizes = [round(200 / mm) for mm in before]
    assert math.prod(choose_patch(before, sizes, COSTS).size) / math.prod(200 / mm for mm in before) < 0.25


def test_fine_axes_grow_alone_until_they_are_half_as_fine() -> None:
    """In-plane pixels of 0.5 mm grow first, up to half of the 4 mm between slices."""
    spacing, size = (4.0, 0.5, 0.5), (100, 600, 600)
    low, _ = choose_low_resolution(spacing, size, choose_patch(spacing, size, COSTS), COSTS)
    assert low is not None
    thick, *fine = low.spacing
    if thick == 4.0:
        assert max(fine) < 2.0 * 1.03
    else:
        assert thick / max(fine) <= 2.0
    assert fine[0] == fine[1] > 0.5


def test_it_is_dropped_where_it_is_hardly_smaller() -> None:
    """A patch of 64 voxels in 110: half covered per axis, an eighth in all; 1.6 times fewer voxels suffice for a quarter."""
    size = (104, 104, 104)
    low, reason = choose_low_resolution((1.0,) * 3, size, choose_patch((1.0,) * 3, size, COSTS), COSTS)
    assert low is None
    assert "times fewer voxels, not 2 times" in reason
    fingerprint = make_fingerprint(shape=size)
    effort = COSTS.effort
    with pytest.raises(InputError, match=r"no low resolution to plan \(.*not 2 times\); use the configuration 3d"):
        build_plan(fingerprint, make_task(), effort, "3d-low")


def test_none_is_planned_where_a_patch_covers_enough() -> None:
    for configuration in ("3d-low", "cascade"):
        with pytest.raises(InputError, match=r"covers 100% of the median case, and 25% are enough"):
            build_plan(make_fingerprint(), make_task(), MemoryTarget(), configuration)  # type: ignore[arg-type]


def test_a_cascade_sees_the_labels_as_channels() -> None:
    task = make_task(labels={"a": 1, "b": 2, "c": 5}, channels=["t1", "t2"])
    fingerprint = LIVER.model_copy(update={"channels": LIVER.channels * 2})
    cascade = build_plan(fingerprint, task, MemoryTarget(), "cascade")
    full = build_plan(fingerprint, task, MemoryTarget(), "3d")
    assert (cascade.num_previous_labels, cascade.network.in_channels) == (3, 5)
    assert cascade.network.model_copy(update={"in_channels": 2}) == full.network
    assert (cascade.spacing, cascade.patch_size, cascade.batch_size) == (full.spacing, full.patch_size, full.batch_size)


def test_auto() -> None:
    task, memory = make_task(), MemoryTarget()
    assert choose_configuration(LIVER, task, memory)[0] == "cascade"
    assert choose_configuration(LIVER, task, Effort(voxels=2 * 64**3, features=16))[0] == "3d"
    configuration, reason = choose_configuration(make_fingerprint(), task, memory)
    assert (configuration, reason) == ("3d", "no cascade: a patch covers 100% of the median case, and 25% are enough")


@pytest.mark.parametrize(
    ("spacing", "shape", "configuration"),
    [
        ((0.4, 0.4, 1.0), (700, 500, 1), "2d"),
        ((0.4, 0.4, 1.0), (700, 500, 3), "2d"),
        ((0.4, 0.4, 1.0), (700, 500, 4), "3d"),
        ((0.4, 6.4, 0.4), (300, 20, 300), "2d"),
        ((0.4, 6.3, 0.4), (300, 20, 300), "3d"),
    ],
)
def test_slices_that_have_nothing_to_tell_each_other(
    spacing: tuple[float, ...], shape: tuple[int, ...], configuration: str
) -> None:
    for target in (MemoryTarget(), Effort(voxels=2 * 64**3, features=16)):
        found, reason = choose_configuration(make_fingerprint(spacing, shape), make_task(), target)
        assert (found == "2d") == (configuration == "2d")
        assert ("slice" in reason) == (configuration == "2d")
