"""Counts and Dice against numbers worked out by hand and against MONAI."""

import numpy as np
import pytest

from medunet.errors import GeometryError
from medunet.evaluation.overlap import (
    OverlapCounts,
    compute_dice,
    compute_overlap,
    count_value_pairs,
    read_overlap,
)


@pytest.mark.parametrize(
    ("reference", "prediction", "counts", "dice"),
    [
        ([1, 1], [1, 1], (2, 0, 0), 1.0),
        ([1, 0], [1, 1], (1, 1, 0), 2 / 3),
        ([1, 1], [1, 0], (1, 0, 1), 2 / 3),
        ([1, 0], [0, 1], (0, 1, 1), 0.0),
        ([1, 0], [0, 0], (0, 0, 1), 0.0),
        ([0, 0], [0, 1], (0, 1, 0), 0.0),
        ([0, 0], [0, 0], (0, 0, 0), None),
    ],
)
def test_two_voxels(reference, prediction, counts, dice):
    overlap = compute_overlap(np.array(reference, bool), np.array(prediction, bool))
    assert (overlap.tp, overlap.fp, overlap.fn) == counts
    assert compute_dice(overlap) == (pytest.approx(dice) if dice is not None else None)


def test_voxel_counts_of_both_sides():
    overlap = OverlapCounts(tp=3, fp=2, fn=5)
    assert (overlap.num_reference, overlap.num_prediction) == (8, 5)


def test_dice_is_symmetric_and_1_for_itself():
    first, second = np.random.default_rng(0).random((2, 5, 6, 7)) > 0.6
    assert compute_dice(compute_overlap(first, second)) == compute_dice(compute_overlap(second, first))
    assert compute_dice(compute_overlap(first, first)) == 1.0


def test_other_shape_is_refused():
    with pytest.raises(GeometryError, match=r"\(2,\).*\(3,\)"):
        compute_overlap(np.ones(2, bool), np.ones(3, bool))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64, np.bool_])
def test_value_pairs_equal_counts_of_every_pair(dtype):
    reference, prediction = np.random.default_rng(1).integers(0, 4, (2, 5, 6, 7)).astype(dtype)
    reference[2] = prediction[2] = 0  # a plane without anything
    expected = {}
    for r in range(4):
        for p in range(4):
            if num_voxels := int(((reference.astype(int) == r) & (prediction.astype(int) == p)).sum()):
                expected[r, p] = num_voxels
    assert count_value_pairs(reference, prediction) == expected


def test_value_pairs_take_large_and_negative_values():
    reference = np.array([[[-(2**31), 2**31 - 1, 0]]], dtype=np.int32)
    prediction = np.array([[[2**31 - 1, 0, 0]]], dtype=np.int32)
    assert count_value_pairs(reference, prediction) == {(-(2**31), 2**31 - 1): 1, (2**31 - 1, 0): 1, (0, 0): 1}


def test_pairs_of_equal_maps_lie_on_the_diagonal():
    labels = np.random.default_rng(2).integers(0, 3, (4, 5, 6))
    assert all(r == p for r, p in count_value_pairs(labels, labels))


def test_region_read_from_pairs_equals_its_boolean_mask():
    reference, prediction = np.random.default_rng(3).integers(0, 5, (2, 6, 7, 8))
    pairs = count_value_pairs(reference, prediction)
    for values in ([1], [2, 4], [1, 2, 3, 4]):
        assert read_overlap(pairs, values) == compute_overlap(np.isin(reference, values), np.isin(prediction, values))


def test_dice_equals_monai():
    torch = pytest.importorskip("torch")
    from monai.metrics import DiceMetric

    reference, prediction = np.random.default_rng(4).integers(0, 6, (2, 9, 11, 13))
    reference[reference == 5] = 0  # invented
    prediction[prediction == 4] = 0  # missed
    pairs = count_value_pairs(reference, prediction)
    ours = [compute_dice(read_overlap(pairs, [value])) for value in range(1, 6)]

    def one_hot(labels):
        return torch.from_numpy(np.stack([labels == value for value in range(6)])[None].astype(np.float32))

    theirs = DiceMetric(include_background=False, ignore_empty=False)(one_hot(prediction), one_hot(reference))
    assert ours == pytest.approx(theirs[0].tolist(), abs=1e-6)
    assert ours[3:] == [0.0, 0.0]
