"""Volumes of structures, and of those that the scan cuts."""

from __future__ import annotations

import numpy as np
import pytest

from medunet.postprocessing import LabelVolume, compute_label_volumes
from medunet.postprocessing.parts import find_box, find_value_boxes
from medunet.volume import Array, Volume, to_orientation

SHAPE = (12, 10, 8)
AFFINE = np.array([[0.5, 0, 0, -40], [0, 1.0, 0, 7], [0, 0, 4.0, 90], [0, 0, 0, 1]])  # voxels of 2 mm³, RAS
VALUES = {"liver": (3,), "kidneys": (7, 8), "organs": (3, 7, 8), "spleen": (4,)}


def build_labels(dtype: type = np.uint8) -> Volume:
    labels = np.zeros((1, *SHAPE), dtype)
    labels[0, 2:6, 2:7, 2:4] = 3  # 40 voxels, whole
    labels[0, 8:10, 2:4, 3:8] = 7  # 20 voxels, up to the superior border
    labels[0, 11:12, 5:6, 3:5] = 8  # 2 voxels at the right border
    labels[0, 7, 7, 4] = 9  # no label
    return Volume(labels, AFFINE)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR", "PIR"])
def test_a_cut_structure_has_no_volume_but_a_reason(dtype: type, orientation: str) -> None:
    volumes = compute_label_volumes(to_orientation(build_labels(dtype), orientation), VALUES)
    assert volumes["liver"] == LabelVolume(volume_ml=pytest.approx(0.08), visible_ml=pytest.approx(0.08))
    assert volumes["spleen"] == LabelVolume(volume_ml=0.0, visible_ml=0.0)
    kidneys = volumes["kidneys"]
    assert kidneys.volume_ml is None
    assert kidneys.visible_ml == pytest.approx(0.044)
    assert (
        kidneys.reason == "kidneys touches the right and superior borders of the scan, so part of it may lie outside."
    )
    assert volumes["organs"].visible_ml == pytest.approx(0.124)
    assert volumes["organs"].volume_ml is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_voxel_from_the_border_is_whole(axis: int) -> None:
    for start, is_cut in ((0, True), (1, False)):
        labels = np.zeros(SHAPE, np.uint8)
        box = [slice(4, 6)] * 3
        box[axis] = slice(start, 3)
        labels[tuple(box)] = 3
        found = compute_label_volumes(Volume(labels[None], AFFINE), {"liver": (3,)})["liver"]
        assert (found.volume_ml is None) == is_cut


def test_the_order_of_the_voxels_in_memory_makes_no_difference() -> None:
    labels = build_labels()
    turned = labels.with_array(np.asfortranarray(labels.array[0])[None])
    assert compute_label_volumes(turned, VALUES) == compute_label_volumes(labels, VALUES)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_boxes_of_all_values_in_one_pass_are_those_of_each(dtype: type, order: str) -> None:
    generator = np.random.default_rng(4)
    labels: Array = np.where(generator.random((9, 7, 11)) < 0.02, generator.integers(1, 9, (9, 7, 11)), 0)
    labels = np.array(labels, dtype=dtype, order=order)  # type: ignore[call-overload]
    boxes = find_value_boxes(labels, [5, 2, 7, 99])
    expected = {value: find_box(labels == value) for value in (5, 2, 7, 99)}
    assert boxes == {value: box for value, box in expected.items() if box[0].stop}
    assert len(boxes) == 3


def test_huge_and_negative_values_have_boxes_or_are_passed_over() -> None:
    labels = np.array([[[-3, 2_000_000, 70_000, 5, 2_000_000]]])
    assert find_value_boxes(labels, [2_000_000, 70_001, 5]) == {
        2_000_000: (slice(0, 1), slice(0, 1), slice(1, 5)),
        5: (slice(0, 1), slice(0, 1), slice(3, 4)),
    }
    assert find_value_boxes(labels, []) == {}
