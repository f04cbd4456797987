"""Objects that touch are told apart by the watershed; thresholds alone do not."""

from __future__ import annotations

import logging
from typing import Any

import cc3d
import numpy as np
import pytest
from made_up_objects import TISSUE, build_task, draw_pile, draw_row, make_probabilities

from medunet.evaluation import compute_instance_overlaps, score_instances
from medunet.models import InstanceRules, ObjectRule, combine_instance_rules
from medunet.postprocessing import flood, separate_objects
from medunet.volume import Volume

TASK = build_task()
RULES = InstanceRules()


def build_rules(**rule: float) -> InstanceRules:
    return InstanceRules(labels={"nucleus": ObjectRule(**rule)})


@pytest.mark.parametrize("draw", [draw_row, draw_pile])
def test_objects_that_touch_are_told_apart(draw: Any) -> None:
    expected = draw()
    probabilities, labels = make_probabilities(expected, TASK)
    objects, semantic = separate_objects(probabilities, labels, TASK, RULES)
    overlaps = compute_instance_overlaps(expected.array[0], objects.numbers.array[0])
    score = score_instances(overlaps, 0.8)
    assert (score.tp, score.fp, score.fn) == (5, 0, 0)
    whole = probabilities.array[1] + probabilities.array[2] >= 0.5
    assert cc3d.connected_components(whole, connectivity=6).max() == 1  # what a threshold alone finds
    assert np.array_equal(semantic.array[0] == 1, whole)
    assert [one.value for one in objects.facts] == [1, 2, 3, 4, 5]
    sizes = np.bincount(objects.numbers.array.ravel())[1:] * expected.voxel_volume_mm3
    assert [one.volume_mm3 for one in objects.facts] == pytest.approx(sizes.tolist())
    summary = objects.summarize()["nucleus"]
    assert (summary.count, summary.smallest_mm3, summary.largest_mm3) == (5, sizes.min(), sizes.max())


def test_the_same_every_time_and_in_float16() -> None:
    probabilities, labels = make_probabilities(draw_pile(), TASK)
    first, _ = separate_objects(probabilities, labels, TASK, RULES)
    exact = Volume(probabilities.array.astype(np.float32), probabilities.affine)
    for again in (probabilities, exact):
        assert np.array_equal(first.numbers.array, separate_objects(again, labels, TASK, RULES)[0].numbers.array)


def test_a_picture_and_the_same_in_thick_slices_are_flooded_alike() -> None:
    probabilities, labels = make_probabilities(draw_row(), TASK)
    flat = separate_objects(probabilities, labels, TASK, RULES)[0].numbers.array
    doubled = [Volume(np.repeat(one.array, 2, axis=3), one.affine) for one in (probabilities, labels)]
    thick = separate_objects(*doubled, TASK, RULES)[0].numbers.array
    overlaps = compute_instance_overlaps(flat[0], thick[0, :, :, :1])
    assert score_instances(overlaps, 0.95).tp == 5


def test_a_part_without_a_seed_is_one_object() -> None:
    body = np.zeros((12, 5, 1), np.float32)
    body[1:4], body[6:9] = 0.9, 0.4
    inside = body > 0
    found = flood(body, inside, ObjectRule(marker_threshold=0.5), 1.0)
    assert np.unique(found[1:4]).tolist() == [1]
    assert np.unique(found[6:9]).tolist() == [2]


def test_small_objects_and_seeds_of_noise_are_removed() -> None:
    probabilities, labels = make_probabilities(draw_row(2), TASK)
    array = probabilities.array.copy()
    array[:, 1:3, 1:3] = np.array([0.05, 0.9, 0.05], np.float16)[:, None, None, None]  # a speck
    array[1, 10, 10], array[2, 10, 10] = 0.05, 0.9  # a hole, and within it
    noisy = Volume(array, probabilities.affine)
    count = {
        mm3: len(separate_objects(noisy, labels, TASK, build_rules(min_volume_mm3=mm3))[0].facts)
        for mm3 in (0.0, 5.0, 500.0)
    }
    assert count == {0.0: 3, 5.0: 2, 500.0: 0}
    array[1, 8:13, 10] = 0.05  # a line through the first body: two seeds, of which one is too small
    array[1, 8:11, 8:13] = 0.05
    assert len(separate_objects(noisy, labels, TASK, build_rules(min_volume_mm3=60.0))[0].facts) == 2


def test_the_threshold_of_seeds_decides_what_is_apart() -> None:
    body = np.array([0.9, 0.8, 0.6, 0.8, 0.9], np.float32).reshape(1, 5, 1)
    inside = np.ones(body.shape, bool)
    assert flood(body, inside, ObjectRule(marker_threshold=0.5), 1.0).ravel().tolist() == [1] * 5
    assert flood(body, inside, ObjectRule(marker_threshold=0.7), 1.0).max() == 2


def test_nothing_becomes_nothing() -> None:
    empty = Volume(np.stack([np.ones((4, 5, 6)), *[np.zeros((4, 5, 6))] * 2]).astype(np.float16), np.eye(4))
    objects, labels = separate_objects(empty, Volume(np.zeros((1, 4, 5, 6), np.uint8), np.eye(4)), TASK, RULES)
    assert objects.facts == ()
    assert objects.summarize() == {}
    assert not objects.numbers.array.any()
    assert not labels.array.any()
    one = Volume(np.array([0.1, 0.8, 0.1], np.float16).reshape(3, 1, 1, 1), np.eye(4))
    objects, _ = separate_objects(one, Volume(np.ones((1, 1, 1, 1), np.uint8), np.eye(4)), TASK, RULES)
    assert [fact.value for fact in objects.facts] == [1]


def make_dots(num_dots: int) -> tuple[Volume, Volume]:
    """Objects of 2, 1, 2, 1, ... voxels."""
    lengths = np.resize([2, 1], num_dots)
    line = np.concatenate([np.append(np.ones(length), 0) for length in lengths]).reshape(1, -1, 1)
    array = np.stack([1 - line, line, np.zeros_like(line)]).astype(np.float16)
    return Volume(array, np.eye(4)), Volume(line[None].astype(np.uint8), np.eye(4))


def test_more_objects_than_two_bytes_hold() -> None:
    objects, _ = separate_objects(*make_dots(66_000), TASK, RULES)
    assert objects.numbers.array.dtype == np.uint32
    assert int(objects.numbers.array.max()) == len(objects.facts) == 66_000
    few, _ = separate_objects(*make_dots(300), TASK, RULES)
    assert few.numbers.array.dtype == np.uint16


def test_without_room_for_all_numbers_the_largest_stay(caplog: pytest.LogCaptureFixture) -> None:
    task = build_task(label_divisor=6)
    with caplog.at_level(logging.WARNING):
        objects, labels = separate_objects(*make_dots(7), task, RULES)
    assert "7 objects of 'nucleus' were found" in caplog.text
    assert [one.value for one in objects.facts] == [7, 8, 9, 10, 11]
    assert [one.volume_mm3 for one in objects.facts] == [2, 1, 2, 2, 2]  # the last two of one voxel are left out
    assert np.unique(labels.array).tolist() == [0, 1]


def test_no_object_looks_like_what_is_ignored() -> None:
    task = build_task(ignore=2)
    assert task.labels == {"nucleus": (1,), "nucleus border": (3,)}
    objects, labels = separate_objects(*make_dots(3), task, RULES)
    assert [one.value for one in objects.facts] == [1, 3, 4]
    assert np.unique(labels.array).tolist() == [0, 1]


def test_labels_that_are_no_objects_are_painted_around_them() -> None:
    task = build_task(TISSUE, border_mm=1.0)
    values = [0, 3000, 3000, 2001, 2001, 2001, 2002, 2002, 2002, 5001, 5001, 5001, 0]
    expected = Volume(np.array(values, np.uint16).reshape(1, 1, -1, 1), np.eye(4))
    objects, labels = separate_objects(*make_probabilities(expected, task), task, RULES)
    assert objects.numbers.array.ravel().tolist() == values
    assert [(one.label, one.value) for one in objects.facts] == [("nucleus", 2001), ("nucleus", 2002), ("cell", 5001)]
    assert objects.stuff == {"stroma": 3000}
    assert labels.array.ravel().tolist() == [0, 3, 3, *[2] * 6, *[5] * 3, 0]


def test_rules_of_an_ensemble_are_medians() -> None:
    members = [build_rules(marker_threshold=share, min_volume_mm3=10 * share) for share in (0.2, 0.3, 0.9)]
    combined = combine_instance_rules([one.model_copy(update={"num_cases": 2}) for one in members])
    assert combined.labels["nucleus"] == ObjectRule(marker_threshold=0.3, mask_threshold=0.5, min_volume_mm3=3.0)
    assert combined.num_cases == 6
    assert InstanceRules.model_validate_json(combined.model_dump_json()) == combined
