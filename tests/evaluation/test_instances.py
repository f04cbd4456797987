"""Instances: matched by hand, beside MONAI's and panoptica's panoptic quality, lesions per scan."""

import io
import json

import numpy as np
import pytest
from golden.make_panoptica import FILE as PANOPTICA
from golden.make_panoptica import SEEDS, SHIFT, list_rated_organs, make_instances, number_organs, shift
from rich.console import Console

from medunet.errors import GeometryError
from medunet.evaluation import (
    compute_average_precision,
    compute_instance_overlaps,
    evaluate,
    find_instances,
    measure_instances,
    score_instances,
    score_lesions,
    summarize_instances,
)
from medunet.io import write_nifti_labels
from medunet.reporting.score_table import build_instance_table
from medunet.tasks import Task
from medunet.volume import Volume


def overlap(reference, prediction):
    sides = (np.array(side, np.int32).reshape(1, 1, -1) for side in (reference, prediction))
    return compute_instance_overlaps(*sides)


#           lesion 1: IoU 3/4   lesion 2: IoU 1/3   lesion 3: missed   and one invented
REFERENCE = [1, 1, 1, 1, 0,     2, 2, 0, 0, 0,      3, 3, 0,           0, 0]  # fmt: skip
PREDICTION = [5, 5, 5, 0, 0,    0, 6, 6, 0, 0,      0, 0, 0,           7, 7]  # fmt: skip


def test_panoptic_quality_by_hand():
    score = score_instances(overlap(REFERENCE, PREDICTION))
    assert (score.tp, score.fp, score.fn) == (1, 2, 2)
    assert score.segmentation_quality == pytest.approx(3 / 4)
    assert score.recognition_quality == pytest.approx(1 / 3)
    assert score.panoptic_quality == pytest.approx(1 / 4)
    assert score.average_precision == pytest.approx(1 / 5)


def test_a_lower_threshold_finds_more():
    score = score_instances(overlap(REFERENCE, PREDICTION), threshold=0.3)
    assert (score.tp, score.fp, score.fn) == (2, 1, 1)
    assert score.segmentation_quality == pytest.approx((3 / 4 + 1 / 3) / 2)


def test_average_precision_over_thresholds():
    """IoU 3/4 counts at 0.5 to 0.75, six of ten thresholds, with 1 of 5 each."""
    assert compute_average_precision(overlap(REFERENCE, PREDICTION)) == pytest.approx(6 / 10 / 5)


def test_as_many_pairs_as_possible_are_matched():
    """The best pair, 2 with 8, would leave 1 and 9 without a partner; 1 with 8 and 2 with 9 are two pairs."""
    found = overlap([1, 1, 2, 2, 2, 2, 0], [8, 8, 8, 8, 9, 9, 9])
    assert found.ious.round(2).tolist() == [[0.5, 0.0], [0.33, 0.4]]
    found = overlap([1, 1, 2, 2, 2, 2, 2], [8, 8, 8, 8, 8, 9, 9])
    assert found.ious.round(2).tolist() == [[0.4, 0.0], [0.43, 0.4]]  # 2 with 8 is the best pair
    score = score_instances(found, threshold=0.4)
    assert (score.tp, score.segmentation_quality) == (2, pytest.approx(0.4))
    found = overlap([1] * 4 + [2] * 7, [8] * 10 + [9])  # 2 with 8 (0.55) is more than both pairs together (0.4 + 0.14)
    assert score_instances(found, threshold=0.14).tp == 2


def test_everything_right_and_nothing_there():
    score = score_instances(overlap([1, 0, 2], [7, 0, 4]))
    assert (score.tp, score.panoptic_quality, score.average_precision) == (2, 1.0, 1.0)
    nothing = score_instances(overlap([0, 0], [0, 0]))
    assert (nothing.panoptic_quality, nothing.average_precision, nothing.segmentation_quality) == (None, None, None)
    assert compute_average_precision(overlap([0], [0])) is None
    for sides in (([1], [0]), ([0], [1])):
        assert score_instances(overlap(*sides)).panoptic_quality == 0


def test_parts_that_touch_at_a_corner_are_one():
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert find_instances(mask).max() == 1
    mask[2, 2, 2], mask[1, 1, 1] = True, False
    assert sorted(np.unique(find_instances(mask))) == [0, 1, 2]


def test_lesions_per_scan():
    scans = [overlap(REFERENCE, PREDICTION), overlap([0, 0, 0], [4, 0, 5]), overlap([1, 0], [0, 0])]
    score = score_lesions(scans)
    assert (score.num_lesions, score.num_found, score.num_false_positives, score.num_scans) == (4, 2, 3, 3)
    assert (score.sensitivity, score.false_positives_per_scan) == (0.5, 1.0)
    strict = score_lesions(scans, min_voxels=2)
    assert (strict.num_found, strict.num_false_positives) == (1, 4)


def test_without_lesions_or_scans():
    empty = score_lesions([overlap([0], [0])])
    assert (empty.sensitivity, empty.false_positives_per_scan) == (None, 0.0)
    assert score_lesions([]).false_positives_per_scan is None


@pytest.mark.parametrize("threshold", [0, 1.1, -1])
def test_wrong_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="above 0 and up to 1"):
        score_instances(overlap([1], [1]), threshold)
    with pytest.raises(ValueError, match="expected 1 or more"):
        score_lesions([], min_voxels=0)
    with pytest.raises(GeometryError):
        overlap([1], [1, 2])


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_quality_is_that_of_monai(seed):
    import torch
    from monai.metrics import compute_panoptic_quality

    reference, prediction = make_instances(seed)
    score = score_instances(compute_instance_overlaps(reference, prediction))
    for name in ("pq", "sq", "rq"):
        ours = {"pq": score.panoptic_quality, "sq": score.segmentation_quality, "rq": score.recognition_quality}[name]
        relabelled = [torch.from_numpy(side).reshape(40, 400) for side in (prediction, reference)]
        assert ours == pytest.approx(float(compute_panoptic_quality(*relabelled, name, smooth_numerator=0)), abs=1e-5)


def assert_is_that_of_panoptica(score, expected):
    assert (score.tp, score.fp, score.fn) == (expected["tp"], expected["fp"], expected["fn"])
    assert score.panoptic_quality == pytest.approx(expected["pq"], abs=1e-6)
    assert score.segmentation_quality == pytest.approx(expected["sq"], abs=1e-6)
    assert score.recognition_quality == pytest.approx(expected["rq"], abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_panoptic_quality_is_that_of_panoptica(seed):
    score = score_instances(compute_instance_overlaps(*make_instances(seed)))
    assert_is_that_of_panoptica(score, json.loads(PANOPTICA.read_text())["seeds"][seed])


@pytest.mark.realdata
def test_panoptic_quality_of_real_nuclei_is_that_of_panoptica(real_data):
    from medunet.io import read_volume

    reference = read_volume(real_data / "nuclei" / "mask2d.tif").array[0].astype(np.int64)
    rows, columns = SHIFT
    score = score_instances(compute_instance_overlaps(reference, shift(reference, (columns, rows, 0))))
    assert_is_that_of_panoptica(score, json.loads(PANOPTICA.read_text())["nuclei"])


@pytest.mark.realdata
def test_panoptic_quality_of_organs_of_two_raters_is_that_of_panoptica(real_data):
    from medunet.io import read_label_map

    oncologist, radiographer = list_rated_organs(real_data)
    assert [path.name for path in oncologist] == [path.name for path in radiographer]
    sides = [number_organs([read_label_map(path).array[0] for path in paths]) for paths in (oncologist, radiographer)]
    score = score_instances(compute_instance_overlaps(*sides))
    assert_is_that_of_panoptica(score, json.loads(PANOPTICA.read_text())["raters"])


def write(path, values):
    write_nifti_labels(Volume(np.array(values, np.uint8).reshape(1, 1, 1, -1), np.eye(4)), path)


def test_lesions_of_a_cohort(tmp_path):
    """p1: two lesions, one found, one invented; p2: invented only; p3: neither side has label 1."""
    for name, mask, reference in (
        ("p1", [1, 1, 0, 0, 0, 1, 0], [1, 1, 0, 1, 0, 0, 0]),
        ("p2", [1, 0, 1, 0, 2, 0, 0], [0, 0, 0, 0, 2, 0, 0]),
        ("p3", [0, 0, 0, 0, 2, 0, 0], [0, 0, 0, 0, 2, 0, 0]),
    ):
        write(tmp_path / "masks" / f"{name}.nii.gz", mask)
        write(tmp_path / "labels" / f"{name}.nii.gz", reference)
    evaluation = evaluate(tmp_path / "masks", tmp_path / "labels", instances=True)
    assert [(one.case_id, one.label) for one in evaluation.instances] == [
        (f"p{case}", f"label {label}") for case in (1, 2, 3) for label in (1, 2)
    ]
    lesions, organ = summarize_instances(evaluation.instances)
    assert (lesions.num_scans, lesions.num_reference, lesions.num_found) == (3, 2, 1)
    assert (lesions.sensitivity, lesions.false_positives_per_scan) == (0.5, 1.0)
    assert lesions.panoptic_quality == pytest.approx((1 / 2 + 0) / 2)  # p1: 1 / (1 + 1/2 + 1/2); p3 is not counted
    assert lesions.average_precision == pytest.approx((1 / 3 + 0) / 2)
    assert lesions.num_scored == 2
    console = Console(file=io.StringIO(), width=80)
    console.print(build_instance_table(evaluation))
    assert " ".join(console.file.getvalue().splitlines()[1].split()) == "label 1 3 2 1 0.500 1.000 2 0.250 0.167 0.167"
    assert (organ.sensitivity, organ.panoptic_quality, organ.num_scans) == (1.0, 1.0, 3)
    assert evaluate(tmp_path / "masks", tmp_path / "labels").instances == []


def test_regions_and_ignored_voxels():
    reference, prediction = (
        Volume(np.array(values, np.uint8).reshape(1, 1, 1, -1), np.eye(4))
        for values in ([1, 2, 0, 9, 9, 0, 2], [1, 1, 0, 1, 1, 0, 0])
    )
    whole, core = measure_instances(
        reference, prediction, {"whole": (1, 2), "core": (2,)}, case_id="p1", ignore_value=9
    )
    assert (whole.num_reference, whole.num_prediction, whole.num_found, whole.num_false_positives) == (2, 1, 1, 0)
    assert (core.num_reference, core.num_prediction, core.panoptic_quality) == (2, 0, 0.0)


def match_all_at_once(ious, threshold):
    """One assignment over the whole table, the pairs first."""
    from scipy.optimize import linear_sum_assignment

    worth = np.where(ious >= threshold, 1 + ious / (1 + sum(ious.shape)), 0.0)
    matched = ious[linear_sum_assignment(worth, maximize=True)]
    return matched[matched >= threshold]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.05, 0.15, 0.3, 0.5])
def test_matching_group_by_group_is_matching_all_at_once(seed, threshold):
    rng = np.random.default_rng(seed)
    sides = [np.repeat(rng.integers(0, 9, 40), rng.integers(1, 6, 40)) for _ in range(2)]
    length = min(map(len, sides))
    found = overlap(*(side[:length] for side in sides))
    matched = match_all_at_once(found.ious, threshold)
    score = score_instances(found, threshold)
    assert score.tp == len(matched)
    assert score.segmentation_quality == pytest.approx(matched.mean() if len(matched) else 0.0)


def test_as_many_instances_as_a_file_holds():
    """A table of all pairs would take 34 GB."""
    reference = np.arange(1, 65536, dtype=np.uint32).reshape(1, 1, -1)
    prediction = reference[..., ::-1].copy()
    prediction[..., :35] = 0
    score = score_instances(compute_instance_overlaps(reference, prediction))
    assert (score.tp, score.fp, score.fn) == (65500, 0, 35)


TISSUE = {
    "name": "tissue",
    "title": "Tissue",
    "modality": "MR",
    "channels": ["he"],
    "labels": {"nucleus": 1, "stroma": 2},
    "intensity": "none",
    "output": "panoptic",
    "things": ["nucleus"],
    "label_divisor": 100,
    "ignore": 9,
}


def test_a_task_with_instances_matches_objects_and_not_parts(tmp_path):
    task = Task.model_validate(TISSUE)
    reference = [101, 101, 101, 102, 102, 102, 200, 200, 0, 0, 103, 103, 9]
    mask = [105, 105, 105, 104, 104, 0, 200, 200, 200, 0, 0, 0, 101]
    for name, values in (("mask", mask), ("reference", reference)):
        volume = Volume(np.array(values, np.int16).reshape(1, -1, 1, 1), np.eye(4))
        write_nifti_labels(volume, tmp_path / name / "a.nii.gz")
    result = evaluate(tmp_path / "mask", tmp_path / "reference", task=task)
    nucleus, stroma = result.instances
    assert (nucleus.num_reference, nucleus.num_prediction, nucleus.num_found) == (3, 2, 2)
    assert nucleus.average_precision_50 == pytest.approx(2 / 3)
    assert nucleus.segmentation_quality == pytest.approx((1 + 2 / 3) / 2)
    assert nucleus.recognition_quality == pytest.approx(2 / 2.5)
    assert (stroma.num_reference, stroma.panoptic_quality) == (1, pytest.approx(2 / 3))
    dices = {score.label: score.dice for score in result.scores}
    assert dices == {"nucleus": pytest.approx(10 / 13), "stroma": pytest.approx(4 / 5)}
    (summary, _) = summarize_instances(result.instances)
    assert summary.average_precision_50 == nucleus.average_precision_50
    assert summary.recognition_quality == nucleus.recognition_quality


def test_values_of_no_label_are_a_failure(tmp_path):
    volume = Volume(np.array([7, 101], np.int16).reshape(1, -1, 1, 1), np.eye(4))
    for name in ("mask", "reference"):
        write_nifti_labels(volume, tmp_path / name / "a.nii.gz")
        write_nifti_labels(volume.with_array(volume.array // 100 * 100 + 1), tmp_path / name / "b.nii.gz")
    write_nifti_labels(volume.with_array(volume.array * 0 + 101), tmp_path / "mask" / "b.nii.gz")
    result = evaluate(tmp_path / "mask", tmp_path / "reference", task=Task.model_validate(TISSUE))
    assert [failure.case_id for failure in result.failures] == ["a", "b"]
    assert "label 0 (label_divisor 100)" in result.failures[0].reason


@pytest.mark.realdata
def test_real_nuclei_against_themselves(real_data):
    from medunet.io import read_volume

    labels = read_volume(real_data / "nuclei" / "mask2d.tif").array[0].astype(np.int64)
    score = score_instances(compute_instance_overlaps(labels, labels))
    assert (score.tp, score.panoptic_quality) == (len(np.unique(labels)) - 1, 1.0)
