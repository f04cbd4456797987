"""Every metric of one case: two voxels by hand, all cases of empty sides, ignored voxels, regions, MONAI."""

import math

import numpy as np
import pytest
from real_pairs import PAIRS, read_pair

from medunet.errors import GeometryError, LabelError
from medunet.evaluation import (
    METRICS,
    LabelMetrics,
    MetricSettings,
    compute_agreement,
    count_case,
    measure_case,
    score_case,
)
from medunet.evaluation.surface import find_union_box
from medunet.volume import Volume

AFFINE = np.diag([1.0, 2.0, 2.0, 1.0])
SHAPE = (3, 4, 5)
DIAGONAL_MM = math.sqrt(3**2 + 8**2 + 10**2)


def make_side(voxels, value=1):
    array = np.zeros((1, *SHAPE), np.uint8)
    for voxel in voxels:
        array[(0, *voxel)] = value
    return Volume(array, AFFINE)


def measure(reference, prediction, **options):
    (found,) = measure_case(reference, prediction, {"lesion": (1,)}, case_id="p1", **options)
    return found


def test_two_voxels_of_which_one_is_right():
    """Reference (1,1,1) and (1,1,2); prediction (1,1,2) and (1,1,3); voxels of 4 mm³, 60 of them."""
    reference, prediction = make_side([(1, 1, 1), (1, 1, 2)]), make_side([(1, 1, 2), (1, 1, 3)])
    found = measure(reference, prediction, settings=MetricSettings(surface="voxels", tolerance_mm=1.0))
    assert (found.tp, found.fp, found.fn, found.tn) == (1, 1, 1, 57)
    assert found.dice == found.precision == found.recall == found.f_beta == 0.5
    assert found.iou == pytest.approx(1 / 3)
    assert found.specificity == pytest.approx(57 / 58)
    assert found.accuracy == pytest.approx(58 / 60)
    assert (found.reference_ml, found.volume_error_ml, found.absolute_volume_error_ml) == (0.008, 0.0, 0.0)
    # Boundary voxels: distances 2, 0 from the reference and 0, 2 from the prediction.
    assert (found.hd_mm, found.assd_mm, found.nsd) == (2.0, 1.0, 0.5)
    assert found.hd95_mm == pytest.approx(1.9)  # between 0 and 2, as MONAI
    assert found.rmsd_mm == pytest.approx(math.sqrt(2))
    assert found.centre_distance_mm == 2.0
    assert (found.tolerance_mm, found.spacing_mm) == (1.0, 2.0)


def test_a_volume_that_is_too_large():
    found = measure(make_side([(1, 1, 1)]), make_side([(1, 1, 1), (1, 1, 2), (1, 2, 2)]))
    assert found.volume_error_ml == pytest.approx(0.008)
    assert found.absolute_volume_error_ml == pytest.approx(0.008)
    smaller = measure(make_side([(1, 1, 1), (1, 1, 2), (1, 2, 2)]), make_side([(1, 1, 1)]))
    assert smaller.volume_error_ml == pytest.approx(-0.008)
    assert smaller.absolute_volume_error_ml == pytest.approx(0.008)


def test_recall_counts_as_often_as_beta_says():
    """TP 1, FP 0, FN 1: precision 1, recall 0.5."""
    reference, prediction = make_side([(1, 1, 1), (1, 1, 2)]), make_side([(1, 1, 1)])
    assert measure(reference, prediction, settings=MetricSettings(beta=1)).f_beta == pytest.approx(2 / 3)
    assert measure(reference, prediction, settings=MetricSettings(beta=2)).f_beta == pytest.approx(5 / 9)
    assert measure(reference, prediction, settings=MetricSettings(beta=0.5)).f_beta == pytest.approx(5 / 6)


# ---- empty sides: the table of docs/evaluation.md ----------------------------------------------------------------------

ONE, NONE = [(1, 1, 1)], []
DISTANCES = ("hd95_mm", "hd_mm", "assd_mm", "rmsd_mm", "centre_distance_mm")


@pytest.mark.parametrize("kind", ["elements", "voxels"])
@pytest.mark.parametrize(
    ("reference", "prediction", "status", "overlap", "distance_mm", "specificity", "accuracy", "error_ml"),
    [
        (ONE, ONE, "ok", 1.0, 0.0, 1.0, 1.0, 0.0),
        (ONE, NONE, "missed", 0.0, DIAGONAL_MM, 1.0, 59 / 60, -0.004),
        (NONE, ONE, "invented", 0.0, DIAGONAL_MM, 59 / 60, 59 / 60, 0.004),
        (NONE, NONE, "both-empty", None, None, None, None, None),
    ],
)
def test_empty_sides(reference, prediction, status, overlap, distance_mm, specificity, accuracy, error_ml, kind):
    found = measure(make_side(reference), make_side(prediction), settings=MetricSettings(surface=kind))
    assert found.status == status
    for name in ("dice", "iou", "f_beta", "precision", "recall", "nsd"):
        assert getattr(found, name) == overlap, name
    for name in DISTANCES:
        assert getattr(found, name) == (None if distance_mm is None else pytest.approx(distance_mm)), name
    assert (found.specificity, found.accuracy, found.volume_error_ml) == (specificity, accuracy, error_ml)


def test_a_missed_structure_is_never_nan():
    """MONAI's HD95 of it is (MONAI#9095), and leaves the mean."""
    found = measure(make_side(ONE), make_side(NONE))
    values = [getattr(found, name) for name in METRICS]
    assert all(value is not None and math.isfinite(value) for value in values)


def test_a_reference_that_fills_the_image_has_no_specificity():
    full = Volume(np.ones((1, *SHAPE), np.uint8), AFFINE)
    found = measure(full, make_side(ONE))
    assert (found.specificity, found.recall) == (None, pytest.approx(1 / 60))


# ---- labels, regions, ignored voxels -----------------------------------------------------------------------------------


def test_regions_overlap_and_are_measured_as_one():
    reference, prediction = make_side(ONE), make_side([(1, 1, 1), (1, 1, 4)])
    reference.array[0, 1, 1, 2] = 2
    found = {
        score.label: score
        for score in measure_case(
            reference, prediction, {"tumour": (1, 2), "core": (2,), "rest": (1,)}, case_id="p1",
            settings=MetricSettings(surface="voxels"),
        )
    }  # fmt: skip
    assert found["tumour"].hd_mm == 4.0  # of voxel 4 to voxel 2
    assert found["rest"].hd_mm == 6.0
    assert (found["core"].status, found["core"].dice) == ("missed", 0)


def test_ignored_voxels_leave_both_sides():
    reference, prediction = make_side([(1, 1, 1)]), make_side([(1, 1, 1), (1, 1, 4)])
    reference.array[0, 1, 1, 4] = 9
    found = measure(reference, prediction, ignore_value=9)
    assert (found.dice, found.hd_mm, found.tn, found.accuracy) == (1.0, 0.0, 58, 1.0)
    reference.array[0, 1, 1, 1] = 9
    assert measure(reference, prediction, ignore_value=9).status == "both-empty"


def test_a_structure_that_is_wholly_ignored_on_one_side_is_missed():
    reference, prediction = make_side([(1, 1, 1)]), make_side([(1, 1, 4)])
    reference.array[0, 1, 1, 4] = 9
    found = measure(reference, prediction, ignore_value=9)
    assert (found.status, found.hd_mm) == ("missed", pytest.approx(DIAGONAL_MM))


def test_tolerances_of_labels():
    reference, prediction = make_side([(1, 1, 1)]), make_side([(1, 1, 2)])
    settings = MetricSettings(tolerance_mm=0.5, tolerances_mm={"lesion": 2.0}, surface="voxels")
    found = measure(reference, prediction, settings=settings)
    assert (found.nsd, found.tolerance_mm) == (1.0, 2.0)
    (other,) = measure_case(reference, prediction, {"other": (1,)}, case_id="p1", settings=settings)
    assert (other.nsd, other.tolerance_mm) == (0.0, 0.5)


@pytest.mark.parametrize("options", [{"tolerance_mm": -1}, {"tolerances_mm": {"a": math.nan}}, {"beta": 0}])
def test_wrong_settings_are_refused(options):
    with pytest.raises(ValueError, match="expected a"):
        MetricSettings(**options)


def test_large_values_are_measured_too():
    """Boxes are not listed for every value up to the largest."""
    arrays = [side.array.astype(np.int32) * 1_000_000 for side in (make_side(ONE), make_side([(1, 1, 3)]))]
    (found,) = measure_case(*(Volume(array, AFFINE) for array in arrays), {"far": (1_000_000,)}, case_id="p1")
    assert found.centre_distance_mm == 4.0


def test_scores_are_those_of_the_fast_path():
    rng = np.random.default_rng(0)
    sides = [Volume(rng.integers(0, 4, (1, 7, 8, 9), dtype=np.uint8), AFFINE) for _ in range(2)]
    labels = {"a": (1,), "b": (2, 3), "c": (3,)}
    fast = score_case(*sides, labels, case_id="p1")
    full = measure_case(*sides, labels, case_id="p1")
    names = fast[0].__dataclass_fields__
    assert [[getattr(score, name) for name in names] for score in full] == [
        [getattr(score, name) for name in names] for score in fast
    ]
    assert all(isinstance(score, LabelMetrics) for score in full)


def test_other_grids_and_unknown_values_are_refused():
    with pytest.raises(GeometryError, match="different grids"):
        measure(make_side(ONE), Volume(make_side(ONE).array, np.eye(4)))
    with pytest.raises(LabelError, match="holds 7"):
        measure(make_side(ONE), make_side(ONE, value=7))


def test_oblique_axes_do_not_change_distances():
    turn = np.eye(4)
    angle = 0.4
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    straight = measure(make_side([(0, 1, 1)]), make_side([(2, 3, 4)]))
    sides = [Volume(make_side([voxel]).array, turn @ AFFINE) for voxel in ((0, 1, 1), (2, 3, 4))]
    turned = measure(*sides)
    for name in DISTANCES:
        assert getattr(turned, name) == pytest.approx(getattr(straight, name)), name


def assert_counts_are_those_of_monai(sides):
    """Of reference and prediction, ``(1, I, J, K)`` with the labels from 1 to the largest."""
    import torch
    from monai.metrics import compute_confusion_matrix_metric, compute_dice, compute_iou, get_confusion_matrix

    num_labels = int(sides[0].max())
    labels = {f"label {n}": (n,) for n in range(1, num_labels + 1)}
    found = measure_case(*(Volume(side, AFFINE) for side in sides), labels, case_id="p1")
    reference, prediction = (
        torch.from_numpy(np.stack([side[0] == n for n in range(num_labels + 1)])[None]).float() for side in sides
    )
    assert [score.dice for score in found] == pytest.approx(
        compute_dice(prediction, reference, include_background=False)[0].tolist(), abs=1e-6
    )
    assert [score.iou for score in found] == pytest.approx(
        compute_iou(prediction, reference, include_background=False)[0].tolist(), abs=1e-6
    )
    matrix = get_confusion_matrix(prediction, reference, include_background=False)
    for name in ("precision", "recall", "specificity", "accuracy"):
        expected = compute_confusion_matrix_metric(name, matrix)[0].tolist()
        assert [getattr(score, name) for score in found] == pytest.approx(expected, abs=1e-6), name


def test_dice_iou_and_confusion_are_those_of_monai():
    rng = np.random.default_rng(1)
    assert_counts_are_those_of_monai([rng.integers(0, 3, (1, 9, 8, 7), dtype=np.uint8) for _ in range(2)])


@pytest.mark.realdata
@pytest.mark.parametrize("pair", PAIRS)
def test_dice_iou_and_confusion_of_real_masks_are_those_of_monai(real_data, pair):
    sides = [side.array for side in read_pair(real_data, pair)]
    box = find_union_box(*(side[0] != 0 for side in sides))  # a whole CT as MONAI wants it is large
    assert_counts_are_those_of_monai([np.ascontiguousarray(side[:, *box]) for side in sides])


# ---- pixel accuracy ----------------------------------------------------------------------------------------------------


def make_row(values):
    return Volume(np.array(values, np.uint8).reshape(1, 1, 1, -1), np.eye(4))


def test_pixel_accuracy_by_hand():
    """Background: 3 of 4 found; label 1: 1 of 2; label 2: 0 of 1; together 4 of 7."""
    counts = count_case(make_row([0, 0, 0, 0, 1, 1, 2]), make_row([0, 0, 0, 1, 1, 0, 1]), case_id="p1")
    agreement = compute_agreement(counts, {"a": (1,), "b": (2,)})
    assert agreement.pixel_accuracy == pytest.approx(4 / 7)
    assert agreement.mean_pixel_accuracy == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)


def test_values_of_one_label_are_one_class_and_ignored_voxels_no_class():
    counts = count_case(make_row([0, 1, 2, 9]), make_row([0, 2, 1, 1]), case_id="p1")
    agreement = compute_agreement(counts, {"organ": (1, 2)}, ignore_value=9)
    assert (agreement.pixel_accuracy, agreement.mean_pixel_accuracy) == (1.0, 1.0)


def test_a_case_that_is_wholly_ignored_agrees_on_nothing():
    counts = count_case(make_row([9, 9]), make_row([1, 0]), case_id="p1")
    agreement = compute_agreement(counts, {"organ": (1,)}, ignore_value=9)
    assert (agreement.pixel_accuracy, agreement.mean_pixel_accuracy) == (None, None)
