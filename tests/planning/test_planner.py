"""Plans: nnU-Net's where they are known, never above the target, always a network that runs, the same each time."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from made_up_fingerprints import make_fingerprint, make_task
from pydantic import ValidationError

from medunet.errors import InputError
from medunet.planning import (
    Effort,
    MemoryTarget,
    OptimizerPlan,
    Plan,
    build_plan,
)
from medunet.tasks import Task, load_task

LARGE = Effort(voxels=2 * 128**3, features=32)
MIDDLE = Effort(voxels=2 * 64**3, features=16)
SMALL = Effort(voxels=2 * 32**3, features=16)
EFFORTS = [LARGE, MIDDLE, SMALL]
MEMORIES = [MemoryTarget(), MemoryTarget(memory_gb=2.0), MemoryTarget(preset="L")]

# ---- nnU-Net's plans -------------------------------------------------------------------------------------------------
#
# Spacing and shape in the order R, A, S. nnU-Net writes these with the coarsest axis first: 40 x 56 x 40 for the
# hippocampus, 80 x 192 x 160 for the heart, 20 x 320 x 256 for the prostate.


@pytest.mark.parametrize(
    ("spacing", "shape", "num_cases", "patch_size", "batch_size"),
    [
        ((1, 1, 1), (36, 50, 35), 260, (40, 56, 40), 9),  # Hippocampus
        ((1, 1, 1), (36, 50, 35), 200, (40, 56, 40), 7),
        ((1.25, 1.25, 1.37), (232, 320, 115), 20, (160, 192, 80), 2),  # Heart
        ((0.625, 0.625, 3.6), (319, 320, 20), 32, (256, 320, 20), 2),  # Prostate
        ((0.7676, 0.7676, 1), (512, 512, 482), 131, (128, 128, 128), 2),  # Liver
    ],
)
def test_known_plans(spacing: Any, shape: Any, num_cases: int, patch_size: Any, batch_size: int) -> None:
    plan = build_plan(make_fingerprint(spacing, shape, num_cases), make_task(), MemoryTarget())
    assert (plan.patch_size, plan.batch_size) == (patch_size, batch_size)
    assert plan.spacing == spacing
    assert plan.network.features[0] == 32
    assert plan.network.architecture == "unet"


@pytest.mark.parametrize(
    ("preset", "patch_size"), [("M", (128, 128, 128)), ("L", (192, 192, 192)), ("XL", (224, 256, 224))]
)
def test_residual_presets_of_the_liver(preset: Any, patch_size: Any) -> None:
    """As nnU-Net 2.8.1 plans them (`test_nnunet_parity` compares many more)."""
    fingerprint = make_fingerprint((0.7676, 0.7676, 1), (512, 512, 482), 131)
    plan = build_plan(fingerprint, make_task(), MemoryTarget(preset=preset))
    assert (plan.patch_size, plan.batch_size) == (patch_size, 2)
    network = plan.network
    num_stages = len(network.features)
    assert network.architecture == "residual-unet"
    assert network.encoder_blocks == ((1, 3, 4) + (6,) * 5)[:num_stages]
    assert network.decoder_convolutions == (1,) * (num_stages - 1)


def test_hippocampus_in_full() -> None:
    plan = build_plan(make_fingerprint(), load_task("hippocampus-mr"), MemoryTarget())
    network = plan.network
    assert (network.spatial_dims, network.in_channels, network.out_channels) == (3, 1, 3)
    assert network.features == (32, 64, 128, 256)
    assert network.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert network.kernels == ((3, 3, 3),) * 4
    assert (network.encoder_blocks, network.decoder_convolutions) == ((2, 2, 2, 2), (2, 2, 2))
    assert network.num_scales == 2
    assert plan.median_shape == (36, 50, 35)


def test_prostate_in_full() -> None:
    """3.6 mm slices are neither halved nor convolved until the plane has 2.5 mm pixels."""
    plan = build_plan(make_fingerprint((0.625, 0.625, 3.6), (319, 320, 20), 32), make_task(), MemoryTarget())
    assert plan.network.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1), (2, 2, 1))
    assert plan.network.kernels == ((3, 3, 1), (3, 3, 1), *((3, 3, 3),) * 5)


def test_schedule_and_augmentation_say_why() -> None:
    recipe = build_plan(make_fingerprint(), make_task(), MemoryTarget()).reasons
    assert recipe["schedule"].startswith("poly: nnU-Net's")
    assert recipe["augmentation"].startswith("nnU-Net's list, which belongs to its recipe")
    budget = build_plan(make_fingerprint(), make_task(), LARGE).reasons
    assert budget["schedule"].startswith("cosine: ")
    assert "artifacts of MR scanners (MR)" in budget["augmentation"]
    ct = build_plan(make_fingerprint(), make_task(modality="CT"), LARGE).reasons
    assert ct["augmentation"] == "nnU-Net's list with elastic deformations (CT)"


def test_memory_brings_the_recipe_of_nnunet() -> None:
    sgd = OptimizerPlan(name="sgd", learning_rate=0.01, weight_decay=3e-5, momentum=0.99, schedule="poly")
    plan = build_plan(make_fingerprint(), make_task(), MemoryTarget(preset="M"))
    assert (plan.optimizer, plan.augmentation) == (sgd, "nnunet")
    assert build_plan(make_fingerprint(), make_task(), LARGE).augmentation == "medunet"
    assert build_plan(make_fingerprint(), make_task(), LARGE).optimizer.name == "muon"


@pytest.mark.parametrize(("configuration", "largest"), [("3d", 320), ("2d", 512)])
@pytest.mark.parametrize("target", [LARGE, MemoryTarget()])
def test_features_double_up_to_a_limit(target: Any, configuration: Any, largest: int) -> None:
    plan = build_plan(make_fingerprint(shape=(500,) * 3), make_task(), target, configuration)
    assert plan.network.features == tuple(min(32 * 2**n, largest) for n in range(len(plan.network.features)))
    assert plan.network.features[-1] == largest


@pytest.mark.parametrize(
    ("shape", "configuration", "target", "loss"),
    [
        ((36, 50, 35), "3d", MemoryTarget(), "patch-dice-ce"),
        ((500, 500, 480), "3d", MemoryTarget(), "dice-ce"),
        ((500, 500, 480), "3d-low", MemoryTarget(), "patch-dice-ce"),
        ((500, 500, 480), "cascade", MemoryTarget(), "dice-ce"),
        ((36, 50, 35), "2d", MemoryTarget(), "dice-ce"),
        ((36, 50, 35), "3d", LARGE, "dice-ce"),
    ],
)
def test_dice_is_of_each_patch_where_nnunet_says_so(shape: Any, configuration: Any, target: Any, loss: str) -> None:
    """``batch_dice`` of its plans: off where the full resolution needs no low one, and in the low one."""
    assert build_plan(make_fingerprint(shape=shape), make_task(), target, configuration).loss == loss


# ---- whatever the dataset --------------------------------------------------------------------------------------------

spacings = st.tuples(*[st.one_of(st.floats(0.3, 6), st.sampled_from([0.5, 1.0, 3.0, 5.0]))] * 3)
shapes = st.tuples(*[st.integers(1, 600)] * 3)


@settings(deadline=None, max_examples=150)
@given(
    spacings,
    shapes,
    st.sampled_from([1, 4, 300]),
    st.sampled_from(EFFORTS + MEMORIES),
    st.sampled_from(["2d", "3d"]),
)
def test_every_plan_can_be_run(spacing: Any, shape: Any, num_cases: int, target: Any, configuration: Any) -> None:
    fingerprint, task = make_fingerprint(spacing, shape, num_cases), make_task()
    plan = build_plan(fingerprint, task, target, configuration)
    check_plan(plan, target)
    topics = {"spacing", "patch_size", "batch_size", "network", "normalization", "optimizer", "schedule", "loss"}
    assert set(plan.reasons) == topics | {"augmentation"}
    assert plan == build_plan(fingerprint, task, target, configuration)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@settings(deadline=None, max_examples=15)
@given(spacings, st.tuples(*[st.integers(100, 600)] * 3), st.sampled_from([MIDDLE, MemoryTarget()]))
def test_every_low_resolution_can_be_run(spacing: Any, shape: Any, target: Any) -> None:
    fingerprint, task = make_fingerprint(spacing, shape), make_task()
    try:
        plan = build_plan(fingerprint, task, target, "3d-low")
    except InputError:
        reject()
    check_plan(plan, target)
    assert math.prod(plan.patch_size) >= 0.24 * math.prod(plan.median_shape)  # 25 % before rounding the median
    full = build_plan(fingerprint, task, target)
    assert math.prod(full.spacing) * 2 <= math.prod(plan.spacing) * 1.001


def check_plan(plan: Plan, target: Any) -> None:
    is_2d = plan.configuration == "2d"
    if isinstance(target, Effort):
        voxels = math.prod(plan.patch_size)
        assert voxels <= target.voxels / (12 if is_2d else 2)
        assert 2 <= plan.batch_size <= target.voxels // voxels
    assert plan.batch_size >= 2
    divisors = [math.prod(stride[axis] for stride in plan.network.strides) for axis in range(3)]
    assert all(size % divisor == 0 for size, divisor in zip(plan.patch_size, divisors, strict=True))
    assert len(plan.network.features) >= 2
    assert 1 <= plan.network.num_scales < len(plan.network.features)
    flat = [axis for axis in range(3) if all(kernel[axis] == 1 for kernel in plan.network.kernels)]
    assert len(flat) == (1 if is_2d else 0)
    assert all(plan.spacing[axis] == max(plan.spacing) for axis in flat)
    assert all(plan.patch_size[axis] == 1 for axis in flat)
    assert plan.network.spatial_dims == (2 if is_2d else 3)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("target", [MemoryTarget(), MIDDLE])
def test_a_turned_dataset_has_the_turned_plan(target: Any, order: tuple[int, ...]) -> None:
    """But for axes that cover equal shares of the case, which are cut in nnU-Net's order; this dataset has none."""

    def turn(values: Any) -> tuple[Any, ...]:
        return tuple(values[axis] for axis in order)

    spacing, shape = (0.61, 0.67, 3.6), (301, 357, 23)
    there = build_plan(make_fingerprint(spacing, shape), make_task(), target)
    turned = build_plan(make_fingerprint(turn(spacing), turn(shape)), make_task(), target)
    assert (turned.spacing, turned.patch_size) == (turn(there.spacing), turn(there.patch_size))
    assert turned.network.strides == tuple(turn(stride) for stride in there.network.strides)
    assert turned.network.kernels == tuple(turn(kernel) for kernel in there.network.kernels)
    assert turned.batch_size == there.batch_size


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ((5, 0.5, 3), (63, 17, 62)),
        ((1, 5, 5), (23, 518, 48)),
        ((0.5, 3, 5), (18, 70, 403)),
        ((4.76, 3, 0.65), (111, 62, 23)),
    ],
)
def test_a_step_that_padding_takes_back_is_not_the_end(spacing: Any, shape: Any) -> None:
    """Shrinking an axis can let the others be halved more often, so that they need padding."""
    plan = build_plan(make_fingerprint(spacing, shape), make_task(), SMALL)
    assert math.prod(plan.patch_size) <= 32**3
    for axis, size in enumerate(plan.patch_size):
        assert size % math.prod(stride[axis] for stride in plan.network.strides) == 0


@settings(deadline=None, max_examples=30)
@given(spacings, shapes, st.sampled_from(["2d", "3d"]))
def test_a_patch_reaches_over_the_median_case_only_by_padding(spacing: Any, shape: Any, configuration: Any) -> None:
    plan = build_plan(make_fingerprint(spacing, shape), make_task(), LARGE, configuration)
    for axis, (size, have) in enumerate(zip(plan.patch_size, plan.median_shape, strict=True)):
        divisor = math.prod(stride[axis] for stride in plan.network.strides)
        assert size < max(have, 8) + divisor


@pytest.mark.parametrize(
    ("spacing", "axis"), [((5.0, 0.8, 0.8), 0), ((0.8, 3.0, 0.8), 1), ((1.0, 1.0, 2.5), 2), ((1.0, 1.0, 1.0), 2)]
)
def test_slices_lie_across_the_coarsest_axis(spacing: Any, axis: int) -> None:
    plan = build_plan(make_fingerprint(spacing, (100, 100, 100), 20), make_task(), LARGE, "2d")
    assert [size == 1 for size in plan.patch_size] == [other == axis for other in range(3)]
    assert all(
        stride[axis] == kernel[axis] == 1
        for stride, kernel in zip(plan.network.strides, plan.network.kernels, strict=True)
    )
    assert plan.batch_size >= 12


def test_the_batch_holds_at_most_five_percent_of_the_dataset() -> None:
    """40 x 56 x 40 patches of 63,000-voxel cases: 0.05 * n * 63000 / 89600."""
    sizes = [build_plan(make_fingerprint(num_cases=n), make_task(), LARGE).batch_size for n in (1, 57, 100, 200, 5000)]
    assert sizes == [2, 2, 4, 7, 2 * 128**3 // (40 * 56 * 40)]  # 3.5 is rounded to even


def test_an_effort_can_say_how_many_patches() -> None:
    effort = Effort(voxels=8 * 32**3, features=16, batch_size=8)
    plan = build_plan(make_fingerprint(shape=(100, 100, 100)), make_task(), effort)
    assert (plan.batch_size, plan.patch_size) == (8, (32, 32, 32))
    few = build_plan(make_fingerprint(num_cases=1), make_task(), effort)
    assert few.batch_size == 8


def test_an_effort_plans_for_the_body_and_memory_for_the_image() -> None:
    fingerprint = make_fingerprint(shape=(64, 64, 64), body_shape=(64, 32, 64))
    task = make_task()
    assert build_plan(fingerprint, task, LARGE).patch_size == (64, 32, 64)
    assert build_plan(fingerprint, task, MemoryTarget()).patch_size == (64, 64, 64)


def test_odd_cases_do_not_move_the_median() -> None:
    usual = make_fingerprint(num_cases=4)
    odd = usual.model_copy(
        update={
            "num_cases": 5,
            "spacings": (*usual.spacings, (0.1, 9.0, 4.0)),
            "shapes": (*usual.shapes, (2000, 3, 9)),
            "body_shapes": (*usual.body_shapes, (2000, 3, 9)),
        }
    )
    assert build_plan(odd, make_task(), LARGE).patch_size == build_plan(usual, make_task(), LARGE).patch_size
    assert build_plan(odd, make_task(), LARGE).spacing == (1.0, 1.0, 1.0)


def test_a_plan_with_an_unknown_key_is_refused() -> None:
    content = build_plan(make_fingerprint(), make_task(), LARGE).model_dump()
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Plan.model_validate(content | {"patchsize": 3})


def test_plans_are_for_the_tasks_outputs() -> None:
    task: Task = load_task("brain-tumour-mr")
    network = build_plan(make_fingerprint(num_channels=4), task, LARGE).network
    assert (network.in_channels, network.out_channels) == (4, 3)
