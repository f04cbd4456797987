"""The weight map of the U-Net paper against its formula, computed with SciPy's distances and without any shortcut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from made_up_objects import TISSUE
from made_up_objects import build_task as build_object_task
from made_up_patches import CLASSES, REGIONS, build_task, make_codes, make_noise
from scipy import ndimage
from torch.nn import functional as F

from medunet.tasks import IGNORE_CODE, compute_membership
from medunet.training.losses import build_loss
from medunet.training.losses.boundary import compute_boundary_weights, weigh_class_boundaries, weigh_region_boundaries
from medunet.volume import Array

CPU = torch.device("cpu")
REACH = 20  # voxels: four sigma


def compute_by_definition(objects: Array) -> Array:
    distances = np.sort([ndimage.distance_transform_edt(objects != n) for n in range(1, objects.max() + 1)], axis=0)
    weights = 1 + 10 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * 5**2))
    return np.where(distances[1] <= REACH, weights, 1)


@pytest.mark.parametrize("shape", [(50, 13, 9), (7, 44, 1), (30, 31, 32)])
@pytest.mark.parametrize("seed", range(3))
def test_the_map_is_that_of_the_formula(shape: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    objects = np.zeros(shape, np.uint16)
    for number in range(1, 6):
        corner = [rng.integers(0, size) for size in shape]
        objects[tuple(slice(start, start + rng.integers(1, 9)) for start in corner)] = number
    objects = np.unique(objects, return_inverse=True)[1].reshape(shape)  # some may be covered
    expected = compute_by_definition(objects)
    np.testing.assert_allclose(compute_boundary_weights(objects), expected, rtol=1e-5)
    assert expected.max() > 2


def test_what_lies_out_of_reach_would_hardly_count() -> None:
    objects = np.zeros((60, 1, 1), np.uint8)
    objects[0], objects[-1] = 1, 2
    assert (compute_boundary_weights(objects) == 1).all()
    assert 10 * math.exp(-(REACH**2) / (2 * 5**2)) < 0.0034


def weigh(*codes: int) -> list[float]:
    patch = torch.tensor(codes, dtype=torch.uint8).reshape(1, 1, 1, -1)
    return [float(weight) for weight in weigh_class_boundaries(patch).flatten()]


def gap(distance: float) -> float:
    return pytest.approx(1 + 10 * math.exp(-(distance**2) / 50))  # type: ignore[no-any-return]


def test_by_hand() -> None:
    assert weigh(1, 0, 0, 1) == [gap(3)] * 4  # within an object d1 is 0
    assert weigh(0, 1, 1, 2, 0) == [gap(4), gap(2), gap(1), gap(1), gap(3)]  # labels that touch are two objects
    assert weigh(0, 1, 1, 0, 0) == [1] * 5  # one object
    assert weigh(0, 0) == [1, 1]
    assert weigh(1, 0, 2, 0, 0) == [gap(2), gap(2), gap(2), gap(4), gap(6)]
    assert weigh(1, IGNORE_CODE, 1) == [gap(2)] * 3  # ignored voxels are no object
    assert weigh(1, 0, IGNORE_CODE) == [1] * 3


def test_voxels_that_touch_at_a_corner_are_one_object() -> None:
    codes = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    codes[0, 0, 0, 0] = codes[0, 1, 1, 1] = 1
    assert (weigh_class_boundaries(codes) == 1).all()
    codes[0, 1, 1, 1], codes[0, 2, 2, 2] = 0, 1
    assert weigh_class_boundaries(codes).max() > 5


def test_each_region_has_its_own_objects() -> None:
    # The whole is one object, the core two of them.
    codes = torch.tensor([1, 2, 1, 2, 1], dtype=torch.uint8).reshape(1, 1, 1, 5)
    weights = weigh_region_boundaries(codes, torch.from_numpy(compute_membership(REGIONS)))
    assert weights.shape == (1, 3, 1, 1, 5)
    assert weights[0, 0].flatten().tolist() == [1] * 5
    assert weights[0, 1].flatten().tolist() == [gap(4), gap(2), gap(2), gap(2), gap(4)]
    assert weights[0, 2].flatten().tolist() == [1] * 5


def test_the_loss_is_the_weighted_mean_of_cross_entropy() -> None:
    codes = make_codes(CLASSES)
    codes[:, 0] = IGNORE_CODE
    logits = make_noise(CLASSES, codes)
    entropy = F.cross_entropy(logits, codes.long(), reduction="none", ignore_index=IGNORE_CODE)
    weights = weigh_class_boundaries(codes)[:, 0] * (codes != IGNORE_CODE)
    expected = (entropy * weights).sum() / weights.sum()
    loss = build_loss("boundary-ce", CLASSES, CPU)([logits], codes).total.item()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert loss != pytest.approx(F.cross_entropy(logits, codes.long(), ignore_index=IGNORE_CODE).item(), rel=1e-3)


def test_the_gap_between_two_organs_counts_more_than_the_open_field() -> None:
    task = build_task("a")
    codes = torch.zeros(1, 1, 1, 40, dtype=torch.uint8)
    codes[..., 4:8] = codes[..., 9:13] = 1
    logits = torch.zeros(1, 2, 1, 1, 40, requires_grad=True)
    (gradient,) = torch.autograd.grad(build_loss("boundary-ce", task, CPU)([logits], codes).total, logits)
    in_the_gap, far_away = gradient[0, 1, 0, 0, [8, 39]].tolist()
    assert in_the_gap == pytest.approx(far_away * (1 + 10 * math.exp(-4 / 50)), rel=1e-4)


def test_what_surrounds_an_object_is_no_object() -> None:
    """A task with stuff: codes are nucleus, stroma, cell, and the borders of nuclei and of cells."""
    weigh_voxels = build_loss("boundary-ce", build_object_task(TISSUE), CPU).weigh_voxels
    assert weigh_voxels is not None
    codes = torch.full((1, 9, 9, 1), 2, dtype=torch.uint8)
    codes[0, 2:7, 2:7], codes[0, 3:6, 3:6] = 4, 1
    codes[0, 0, 0] = 0
    assert (weigh_voxels(codes) == 1).all()  # a nucleus in stroma has nobody near it
    row = torch.tensor([2, 1, 4, 2, 5, 3, 2], dtype=torch.uint8).reshape(1, 1, 1, 7)
    weights = weigh_voxels(row).flatten().tolist()
    assert weights == [gap(6), gap(4), gap(4), gap(4), gap(4), gap(4), gap(6)]


def test_coarse_scales_take_the_weights_of_the_finest() -> None:
    codes = torch.zeros(1, 2, 2, 8, dtype=torch.uint8)
    codes[..., 0] = codes[..., 7] = 1
    weights = weigh_class_boundaries(codes)[..., 1::2, 1::2, 1::2]
    coarse = torch.zeros(1, 2, 1, 1, 4, requires_grad=True)
    fine = torch.zeros(1, 2, 2, 2, 8)
    (gradient,) = torch.autograd.grad(
        build_loss("boundary-ce", build_task("a"), CPU)([fine, coarse], codes).total, coarse
    )
    torch.testing.assert_close(gradient[:, 1].abs().flatten(), (weights / weights.sum() / 2 / 3).flatten())
