"""What one case says about each of its labels."""

import numpy as np
import pytest

from medunet.errors import GeometryError, LabelError
from medunet.evaluation import count_case, score_case, score_counts
from medunet.volume import Volume


def make_pair(reference, prediction, spacing=(1.0, 1.0, 1.0)):
    affine = np.diag([*spacing, 1.0])
    return [Volume(np.array(side, np.uint8).reshape(1, 1, 1, -1), affine) for side in (reference, prediction)]


def score_by_label(reference, prediction, labels, **options):
    return {s.label: s for s in score_case(*make_pair(reference, prediction), labels, case_id="p1", **options)}


@pytest.mark.parametrize(
    ("reference", "prediction", "dice", "status"),
    [
        ([1, 1], [1, 0], 2 / 3, "ok"),
        ([1, 0], [0, 1], 0.0, "ok"),
        ([1, 0], [0, 0], 0.0, "missed"),
        ([0, 0], [0, 1], 0.0, "invented"),
        ([0, 0], [0, 0], None, "both-empty"),
    ],
)
def test_status_and_dice(reference, prediction, dice, status):
    score = score_by_label(reference, prediction, {"organ": [1]})["organ"]
    assert (score.dice, score.status) == (pytest.approx(dice) if dice is not None else None, status)


def test_scores_come_in_the_order_of_the_labels():
    scores = score_by_label([1, 2], [2, 1], {"z": [2], "a": [1]})
    assert list(scores) == ["z", "a"]


def test_volumes_are_millilitres():
    reference, prediction = make_pair([1, 1, 1], [1, 0, 0], spacing=(2.0, 5.0, 10.0))  # 0.1 ml a voxel
    (score,) = score_case(reference, prediction, {"organ": [1]}, case_id="p1")
    assert (score.reference_ml, score.prediction_ml) == (pytest.approx(0.3), pytest.approx(0.1))
    assert (score.tp, score.fp, score.fn) == (1, 0, 2)


def test_regions_may_overlap_labels():
    scores = score_by_label([1, 2, 0, 0], [2, 2, 0, 1], {"core": [2], "whole": (1, 2)})
    assert scores["core"].dice == pytest.approx(2 / 3)
    assert scores["whole"].dice == pytest.approx(4 / 5)  # the swap of 1 and 2 is inside the region


def test_ignored_voxels_leave_both_sides():
    scores = score_by_label([1, 255, 255, 0], [1, 1, 0, 255], {"organ": [1]}, ignore_value=255)
    assert (scores["organ"].tp, scores["organ"].fp, scores["organ"].fn) == (1, 0, 0)
    assert scores["organ"].prediction_ml == pytest.approx(0.001)


def test_ignored_voxels_can_empty_the_prediction():
    assert score_by_label([255, 0], [1, 0], {"organ": [1]}, ignore_value=255)["organ"].status == "both-empty"


@pytest.mark.parametrize(
    ("reference", "prediction", "match"),
    [
        ([1, 3], [1, 1], "reference of case 'p1' holds 3, which no label has; expected only 0, 1, 7"),
        ([1, 1], [5, 3], "prediction of case 'p1' holds 3, 5,"),
        ([255, 1], [1, 1], "holds 255"),
    ],
)
def test_unknown_values_are_named(reference, prediction, match):
    with pytest.raises(LabelError, match=match):
        score_by_label(reference, prediction, {"organ": [1, 7]})


def test_other_grid_is_refused_with_both(make_volume):
    reference = make_volume(dtype=np.uint8)
    prediction = make_volume(dtype=np.uint8, spacing=(0.7, 1.2, 2.5))
    with pytest.raises(GeometryError, match=r"reference of case 'p1' and its prediction.*x3 mm.*x2\.5 mm"):
        score_case(reference, prediction, {"organ": [1]}, case_id="p1")


def test_other_shape_is_refused(make_volume):
    with pytest.raises(GeometryError, match=r"17x22x31.*17x22x30"):
        score_case(make_volume(dtype=np.uint8), make_volume((17, 22, 30), dtype=np.uint8), {"organ": [1]}, case_id="p1")


def test_probabilities_are_refused(make_volume):
    with pytest.raises(LabelError, match="prediction of case 'p1' has 2 channels of float32"):
        score_case(make_volume(dtype=np.uint8), make_volume(num_channels=2), {"organ": [1]}, case_id="p1")


def test_counts_are_made_once_and_read_for_any_labels():
    counts = count_case(*make_pair([1, 2, 0], [1, 0, 0]), case_id="p1")
    assert (counts.reference_values, counts.prediction_values) == ({0, 1, 2}, {0, 1})
    assert [s.dice for s in score_counts(counts, {"a": [1], "b": [2]})] == [1.0, 0.0]
    assert [s.dice for s in score_counts(counts, {"both": [1, 2]})] == [pytest.approx(2 / 3)]


def test_a_case_scores_1_against_itself(make_volume):
    labels = make_volume().with_array(np.random.default_rng(0).integers(0, 4, (1, 17, 22, 31)).astype(np.uint8))
    scores = score_case(labels, labels, {"a": [1], "b": [2], "c": [3], "all": [1, 2, 3]}, case_id="p1")
    assert [score.dice for score in scores] == [1.0] * 4
