"""Ranges of volumes, parts and positions, worked out by hand on boxes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medunet.io import write_nifti_image, write_nifti_labels
from medunet.models.quality import Range
from medunet.postprocessing import (
    CaseFacts,
    QualityRanges,
    compute_quality_ranges,
    fit_dice_calibration,
    measure_case,
)
from medunet.postprocessing.quality import build_quality_ranges
from medunet.tasks import Case, Task
from medunet.volume import Volume, to_orientation

TASK = Task(
    name="organs-mr",
    title="Organs",
    modality="MR",
    channels=("t1", "t2"),
    labels={"liver": (3,), "kidneys": (7, 8), "organs": (2, 3, 7, 8)},  # type: ignore[arg-type]
    ignore=9,
    intensity="zscore",
)
SHAPE = (20, 30, 10)
AFFINE = np.array([[0.5, 0, 0, -40], [0, 1.0, 0, 7], [0, 0, 4.0, 90], [0, 0, 0, 1]])  # voxels of 2 mm³
BODY = (slice(4, 20), slice(0, 20), slice(0, 8))


def build_case(*boxes: tuple[int, tuple[slice, slice, slice]]) -> tuple[Volume, Volume]:
    """A body whose second channel is twice the first, and boxes of labels."""
    image = np.zeros((2, *SHAPE), np.float32)
    image[0][BODY] = np.linspace(1, 101, image[0][BODY].size).reshape(image[0][BODY].shape)
    image[1] = 2 * image[0]
    labels = np.zeros((1, *SHAPE), np.uint8)
    for value, box in boxes:
        labels[0][box] = value
    return Volume(image, AFFINE), Volume(labels, AFFINE)


LIVER = (slice(6, 10), slice(5, 15), slice(2, 4))  # 80 voxels, centre (8, 10, 3)
KIDNEY = (slice(12, 14), slice(5, 10), slice(2, 4))  # 20 voxels
OTHER_KIDNEY = (slice(16, 18), slice(5, 10), slice(2, 4))
CUT = (slice(12, 14), slice(5, 10), slice(0, 2))  # touches the lowest slice


def test_one_case_by_hand() -> None:
    facts = measure_case(*build_case((3, LIVER), (7, KIDNEY), (8, OTHER_KIDNEY)), TASK)
    assert facts.spacing_mm == (0.5, 1.0, 4.0)
    assert facts.field_of_view_mm == (10.0, 30.0, 40.0)
    assert facts.intensities[0] == pytest.approx((1.5, 51.0, 100.5), abs=0.05)
    assert facts.intensities[1] == pytest.approx([2 * value for value in facts.intensities[0]])
    liver, kidneys, organs = (facts.labels[name] for name in TASK.labels)
    assert liver is not None
    assert kidneys is not None
    assert organs is not None
    assert liver.volume_ml == pytest.approx(0.16)
    assert (liver.num_parts, liver.is_cut) == (1, False)
    assert liver.position == pytest.approx(((8 - 4) / 16, 10 / 20, 3 / 8))
    assert (kidneys.num_parts, kidneys.volume_ml) == (2, pytest.approx(0.08))
    assert kidneys.position == pytest.approx(((15 - 4) / 16, 7.5 / 20, 3 / 8))
    assert (organs.num_parts, organs.volume_ml) == (3, pytest.approx(0.24))


@pytest.mark.parametrize("orientation", ["LPI", "SRA", "PIR"])
def test_the_axes_of_the_file_make_no_difference(orientation: str) -> None:
    image, labels = build_case((3, LIVER), (7, CUT))
    turned = measure_case(to_orientation(image, orientation), to_orientation(labels, orientation), TASK)
    straight = measure_case(image, labels, TASK)
    assert turned.field_of_view_mm == straight.field_of_view_mm
    for name in TASK.labels:
        found, expected = turned.labels[name], straight.labels[name]
        assert found is not None
        assert expected is not None
        assert found.position == pytest.approx(expected.position)
        assert (found.num_parts, found.cut_sides) == (expected.num_parts, expected.cut_sides)
        assert found.volume_ml == pytest.approx(expected.volume_ml)


def test_the_sides_that_cut_a_structure_are_named() -> None:
    corner = (slice(18, 20), slice(0, 4), slice(0, 10))
    for orientation in ("RAS", "LPI", "SRA"):
        image, labels = (to_orientation(volume, orientation) for volume in build_case((3, corner), (7, KIDNEY)))
        facts = measure_case(image, labels, TASK)
        liver, kidneys = facts.labels["liver"], facts.labels["kidneys"]
        assert liver is not None
        assert kidneys is not None
        assert liver.cut_sides == ("right", "posterior", "inferior", "superior")
        assert (kidneys.cut_sides, kidneys.is_cut) == ((), False)


def test_specks_are_no_parts() -> None:
    image, labels = build_case((3, (slice(2, 12), slice(5, 15), slice(2, 4))))  # 200 voxels
    for num_voxels, num_parts in ((1, 1), (3, 2)):  # of 201 and 203
        specked = labels.array.copy()
        specked[0, 15, 20 : 20 + num_voxels, 8] = 3
        found = measure_case(image, labels.with_array(specked), TASK).labels["liver"]
        assert found is not None
        assert found.num_parts == num_parts
        assert found.volume_ml == pytest.approx((200 + num_voxels) * 0.002)


def test_a_mask_with_other_axes_than_its_scan_is_turned() -> None:
    image, labels = build_case((3, LIVER), (7, CUT))
    assert measure_case(image, to_orientation(labels, "PIR"), TASK) == measure_case(image, labels, TASK)


def test_voxels_may_lie_in_any_order_in_memory() -> None:
    image, labels = build_case((3, LIVER), (7, CUT), (8, OTHER_KIDNEY))
    turned = labels.with_array(np.asfortranarray(labels.array[0])[None])
    assert measure_case(image, turned, TASK) == measure_case(image, labels, TASK)


def test_intensities_of_a_large_scan_come_from_a_lattice() -> None:
    generator = np.random.default_rng(2)
    image = np.zeros((2, 260, 150, 70), np.float32)  # 2.7 million voxels
    image[:, 30:230, 20:130] = generator.gamma(4, 30, (2, 200, 110, 70)).astype(np.float32) + 1
    facts = measure_case(Volume(image, AFFINE), Volume(np.zeros((1, 260, 150, 70), np.uint8), AFFINE), TASK)
    for channel, found in zip(image, facts.intensities, strict=True):
        expected = np.percentile(channel[channel > 0], (0.5, 50, 99.5))
        assert found == pytest.approx(expected.tolist(), rel=0.05)


def test_a_scan_without_a_body_is_measured_whole() -> None:
    image, labels = build_case((3, LIVER))
    facts = measure_case(image.with_array(np.zeros_like(image.array)), labels, TASK)
    assert facts.intensities[0] == (0.0, 0.0, 0.0)
    assert facts.labels["liver"] is not None
    assert facts.labels["liver"].position == pytest.approx((8 / 20, 10 / 30, 3 / 10))


def test_ranges_over_cases() -> None:
    larger = (slice(6, 10), slice(5, 15), slice(2, 6))
    facts: list[CaseFacts] = [
        measure_case(*build_case((3, LIVER), (7, KIDNEY), (8, OTHER_KIDNEY)), TASK),
        measure_case(*build_case((3, larger), (7, CUT)), TASK),
        measure_case(*build_case((7, KIDNEY)), TASK),
        measure_case(*build_case((7, KIDNEY)), TASK, annotated={"kidneys"}),
    ]
    ranges = build_quality_ranges(facts, TASK, {"liver": [0.5, 0.7]})
    assert ranges is not None
    assert ranges.num_cases == 4
    liver, kidneys = ranges.labels["liver"], ranges.labels["kidneys"]
    # The fourth case was not searched for the liver, so it says nothing about it.
    assert (liver.num_cases, liver.num_without, liver.num_cut) == (2, 1, 0)
    assert liver.volume_ml is not None
    assert (liver.volume_ml.minimum, liver.volume_ml.median, liver.volume_ml.maximum) == pytest.approx(
        (0.16, 0.24, 0.32)
    )
    assert liver.volume_ml.percentile_05 == pytest.approx(0.168)
    assert liver.dice is not None
    assert (liver.dice.minimum, liver.dice.maximum) == (0.5, 0.7)
    # A kidney that the scan cuts has no volume to learn from, but a position and a number of parts.
    assert (kidneys.num_cases, kidneys.num_cut) == (4, 1)
    assert kidneys.volume_ml is not None
    assert (kidneys.volume_ml.minimum, kidneys.volume_ml.maximum) == pytest.approx((0.04, 0.08))
    assert kidneys.num_parts is not None
    assert (kidneys.num_parts.minimum, kidneys.num_parts.maximum) == (1, 2)
    assert kidneys.position is not None
    assert kidneys.position.superior.minimum == pytest.approx(1 / 8)
    assert kidneys.dice is None
    relative = ranges.channels["t2"].relative_median
    assert relative is not None
    assert (relative.minimum, relative.maximum) == pytest.approx((0.5, 0.5), abs=0.01)
    assert QualityRanges.model_validate_json(ranges.model_dump_json()) == ranges


def test_a_label_that_is_always_cut_or_absent_has_no_range_of_volumes() -> None:
    ranges = build_quality_ranges([measure_case(*build_case((7, CUT)), TASK)], TASK)
    assert ranges is not None
    assert (ranges.labels["kidneys"].volume_ml, ranges.labels["kidneys"].num_cut) == (None, 1)
    liver = ranges.labels["liver"]
    assert (liver.num_cases, liver.volume_ml, liver.num_parts, liver.position) == (0, None, None, None)


def write_case(folder: Path, name: str, image: Volume, labels: Volume) -> Case:
    paths = [folder / f"{name}_{channel}.nii.gz" for channel in range(2)]
    for channel, path in enumerate(paths):
        write_nifti_image(Volume(image.array[channel : channel + 1], image.affine), path)
    write_nifti_labels(labels, folder / f"{name}_labels.nii.gz")
    return Case(case_id=name, images=tuple(paths), labels=folder / f"{name}_labels.nii.gz")


def test_cases_are_read_from_their_files_and_a_bad_one_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volumes: list[Any] = [build_case((3, LIVER)), build_case((3, LIVER), (7, KIDNEY)), build_case((7, CUT))]
    cases = [write_case(tmp_path, f"case {n}", *of_case) for n, of_case in enumerate(volumes)]
    expected = build_quality_ranges([measure_case(*of_case, TASK) for of_case in volumes[:2]], TASK)
    cases[2].labels.write_bytes(b"no mask")
    done: list[str] = []
    with caplog.at_level(logging.WARNING):
        found = compute_quality_ranges(cases, TASK, on_case=done.append)
    assert found == expected
    assert sorted(done) == ["case 0", "case 1", "case 2"]
    (record,) = caplog.records
    assert "Case 'case 2' is left out of the quality ranges" in record.getMessage()


def test_of_no_case_there_are_no_ranges() -> None:
    assert compute_quality_ranges([], TASK) is None
    assert Range.of([]) is None


def test_what_predicts_a_dice_is_handed_on() -> None:
    agreements = np.linspace(0.8, 0.99, 12).tolist()
    calibration = fit_dice_calibration(agreements, agreements, members="4 flips")
    assert calibration is not None
    facts = [measure_case(*build_case((3, LIVER)), TASK)]
    ranges = build_quality_ranges(facts, TASK, calibrations={"liver": calibration})
    assert ranges is not None
    assert (ranges.labels["liver"].dice_calibration, ranges.labels["kidneys"].dice_calibration) == (calibration, None)
    assert QualityRanges.model_validate_json(ranges.model_dump_json()) == ranges
