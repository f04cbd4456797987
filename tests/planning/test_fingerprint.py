"""A fingerprint's numbers on cases whose numbers are known, and the box around a body."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_fingerprints import make_task

from medunet.errors import DatasetError
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.planning import (
    Fingerprint,
    compute_body_box,
    compute_body_mask,
    compute_fingerprint,
)
from medunet.tasks import Case
from medunet.volume import Volume, to_orientation

SHAPE = (20, 20, 20)
WriteCase = Callable[..., Case]


@pytest.fixture
def write_case(tmp_path: Path) -> WriteCase:
    def write(case_id: str, image: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], affine: Any = None) -> Case:
        affine = np.diag([1.0, 2.0, 0.5, 1.0]) if affine is None else affine
        images, label_path = tmp_path / f"{case_id}.nii.gz", tmp_path / f"{case_id}-labels.nii.gz"
        write_nifti_image(Volume(image if image.ndim == 4 else image[None], affine), images)
        write_nifti_labels(Volume(labels[None], affine), label_path)
        return Case(case_id=case_id, images=(images,), labels=label_path)

    return write


@pytest.fixture
def ramp() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """8000 voxels with the intensities 1 to 8000, of which the first 1000 are labelled 1 and the next 20 labelled 2."""
    image = np.arange(1, 8001, dtype=np.float32).reshape(SHAPE)
    labels = np.zeros(8000, np.uint8)
    labels[:1000], labels[1000:1020] = 1, 2
    return image, labels.reshape(SHAPE)


def test_foreground_statistics_by_hand(write_case: WriteCase, ramp: Any) -> None:
    """Foreground 1 to 1020: mean 510.5, variance (n^2 - 1) / 12, percentiles 1 + p * 1019."""
    fingerprint = compute_fingerprint([write_case("a", *ramp)], make_task())
    (channel,) = fingerprint.channels
    assert channel.mean == 510.5
    assert channel.std == pytest.approx(((1020**2 - 1) / 12) ** 0.5)
    assert channel.percentile_00_5 == pytest.approx(1 + 0.005 * 1019)
    assert channel.percentile_99_5 == pytest.approx(1 + 0.995 * 1019)
    assert channel.median == pytest.approx(510.5)
    assert (channel.minimum, channel.maximum) == (1, 1020)


def test_geometry_and_labels_by_hand(write_case: WriteCase, ramp: Any) -> None:
    image, labels = ramp
    image[:3], image[:, -4:] = 0, 0
    only_first = np.where(labels == 1, labels, 0)
    cases = [write_case("a", image, labels), write_case("b", image, only_first), write_case("c", image, labels)]
    fingerprint = compute_fingerprint(cases, make_task())
    assert fingerprint.num_cases == 3
    assert fingerprint.spacings == ((1.0, 2.0, 0.5),) * 3
    assert fingerprint.shapes == fingerprint.body_shapes == ((17, 16, 20),) * 3
    assert fingerprint.nonzero_share == pytest.approx(17 * 16 / 400)
    assert fingerprint.label_frequencies == pytest.approx({"a": 1.0, "b": 2 / 3})
    assert fingerprint.label_volumes_ml == pytest.approx({"a": 1.0, "b": 0.02})  # voxels of 1 mm³
    assert Fingerprint.model_validate_json(fingerprint.model_dump_json()) == fingerprint


def test_a_label_that_never_occurs(write_case: WriteCase, ramp: Any) -> None:
    image, labels = ramp
    fingerprint = compute_fingerprint([write_case("a", image, np.where(labels == 1, labels, 0))], make_task())
    assert fingerprint.label_frequencies == {"a": 1.0, "b": 0.0}
    assert fingerprint.label_volumes_ml == pytest.approx({"a": 1.0})


def test_ignored_voxels_are_no_foreground(write_case: WriteCase, ramp: Any) -> None:
    image, labels = ramp
    image[labels == 0] = 1e6
    labels[labels == 0] = 9
    fingerprint = compute_fingerprint([write_case("a", image, labels)], make_task(ignore=9))
    assert fingerprint.channels[0].mean == 510.5


def test_every_channel_has_its_own_statistics(write_case: WriteCase, ramp: Any) -> None:
    image, labels = ramp
    both = np.stack([image, 2 * image + 7])
    first, second = compute_fingerprint([write_case("a", both, labels)], make_task(channels=["t1", "t2"])).channels
    assert second.mean == 2 * first.mean + 7
    assert second.std == pytest.approx(2 * first.std)


@pytest.mark.parametrize("orientation", ["LPI", "SAR", "PIL"])
def test_orientation_in_the_file_does_not_matter(write_case: WriteCase, ramp: Any, orientation: str) -> None:
    image, labels = ramp
    image[:3] = 0
    affine = np.diag([1.0, 2.0, 0.5, 1.0])
    turned = [to_orientation(Volume(array[None], affine), orientation) for array in (image, labels)]
    usual = compute_fingerprint([write_case("a", image, labels)], make_task())
    other = compute_fingerprint([write_case("b", turned[0].array, turned[1].array[0], turned[0].affine)], make_task())
    assert other.shapes == usual.shapes == ((17, 20, 20),)
    assert other.spacings == usual.spacings
    assert other.channels[0].mean == pytest.approx(usual.channels[0].mean)


def test_large_foregrounds_are_sampled_the_same_way_each_time(write_case: WriteCase) -> None:
    image = np.random.default_rng(0).normal(40, 10, (40, 40, 40)).astype(np.float32)
    case = write_case("a", image, np.ones(image.shape, np.uint8))
    first = compute_fingerprint([case], make_task())
    assert first == compute_fingerprint([case], make_task(), num_workers=1)
    assert first.channels[0].mean == pytest.approx(40, abs=4 * 10 / 10_000**0.5)


def test_every_case_counts_the_same(write_case: WriteCase) -> None:
    """100 voxels of 10 and 4000 of 30: mean 20, deviation 10, as if both had as many."""
    small, large = np.full(SHAPE, 10.0, np.float32), np.full(SHAPE, 30.0, np.float32)
    few, many = np.zeros(8000, np.uint8), np.zeros(8000, np.uint8)
    few[:100], many[:4000] = 1, 1
    cases = [write_case("a", small, few.reshape(SHAPE)), write_case("b", large, many.reshape(SHAPE))]
    (channel,) = compute_fingerprint(cases, make_task()).channels
    assert (channel.mean, channel.std, channel.percentile_00_5, channel.percentile_99_5) == (20, 10, 10, 30)


def test_a_case_without_foreground_does_not_count(write_case: WriteCase, ramp: Any) -> None:
    image, labels = ramp
    cases = [write_case("a", image, labels), write_case("b", 5 * image, labels * 0)]
    both, one = compute_fingerprint(cases, make_task()), compute_fingerprint(cases[:1], make_task())
    assert both.channels == one.channels
    assert both.label_frequencies == {"a": 0.5, "b": 0.5}


def test_air_of_a_ct_is_nonzero_but_no_body(write_case: WriteCase) -> None:
    """nnU-Net crops CT at zeros, which are rare; preprocessing crops to the body. Shares are a median over cases."""
    image = np.full(SHAPE, -1000.0, np.float32)
    image[4:10, 5:, 2:18] = 40.0
    padded = image.copy()
    padded[:, :, :5] = 0.0
    labels = np.zeros(SHAPE, np.uint8)
    labels[5, 6, 7] = 1
    task = make_task(modality="CT", intensity="ct-percentile")
    fingerprint = compute_fingerprint([write_case(name, image, labels) for name in "ab"], task)
    assert fingerprint.shapes == (SHAPE,) * 2
    assert fingerprint.body_shapes == ((6, 15, 16),) * 2
    assert fingerprint.nonzero_share == 1.0
    cropped = compute_fingerprint([write_case("c", padded, labels)], task)
    assert cropped.shapes == ((20, 20, 15),)
    assert cropped.nonzero_share == 0.75


def test_noise_of_the_affine_is_no_spacing(write_case: WriteCase, ramp: Any) -> None:
    affine = np.diag([0.7000000003, 2.9999999996, 0.0000041234567, 1.0])
    (spacing,) = compute_fingerprint([write_case("a", *ramp, affine)], make_task()).spacings
    assert spacing == (0.7, 3.0, 4.123457e-06)


def test_faulty_cases_are_counted(write_case: WriteCase, ramp: Any) -> None:
    image, labels = ramp
    cases = [write_case(name, image, labels + (7 if name in "bd" else 0)) for name in "abcd"]
    seen: list[str] = []
    with pytest.raises(
        DatasetError,
        match=r"^2 of 4 cases cannot be used; the first: .*b-labels\.nii\.gz holds the label value\(s\) 7, 8, 9",
    ):
        compute_fingerprint(cases, make_task(), on_case=seen.append)
    assert sorted(seen) == ["a", "b", "c", "d"]


def test_a_single_faulty_case_speaks_for_itself(write_case: WriteCase, ramp: Any) -> None:
    image, labels = ramp
    with pytest.raises(DatasetError, match=r"^/.*a-labels\.nii\.gz holds the label value"):
        compute_fingerprint([write_case("a", image, labels + 7)], make_task())


def test_no_foreground_at_all(write_case: WriteCase, ramp: Any) -> None:
    image, labels = ramp
    with pytest.raises(DatasetError, match=r"No case holds a voxel of any label of task 'x'; expected \['a', 'b'\]"):
        compute_fingerprint([write_case("a", image, labels * 0)], make_task())


# ---- the body ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "air", "tissue"), [("CT", -1000.0, 40.0), ("CT", -501.0, -499.0), ("MR", 0.0, -3.0)]
)
def test_the_box_is_tight(modality: str, air: float, tissue: float) -> None:
    image = np.full((2, 9, 10, 11), air)
    image[0, 2, 9, 4] = tissue
    image[1, 5, 3, 4] = tissue  # any channel counts
    assert compute_body_box(image, modality) == (slice(2, 6), slice(3, 10), slice(4, 5))
    assert compute_body_mask(image, modality).sum() == 2


@pytest.mark.parametrize(("modality", "air"), [("CT", -1000.0), ("MR", 0.0)])
def test_without_a_body_the_box_is_everything(modality: str, air: float) -> None:
    assert compute_body_box(np.full((1, 3, 4, 5), air), modality) == (slice(0, 3), slice(0, 4), slice(0, 5))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 7), st.integers(0, 8)), min_size=1, max_size=6))
def test_the_box_holds_the_body_and_no_more(voxels: list[tuple[int, int, int]]) -> None:
    image = np.zeros((1, 7, 8, 9))
    for voxel in voxels:
        image[(0, *voxel)] = 1
    for axis, edge in enumerate(compute_body_box(image, "MR")):
        positions = [voxel[axis] for voxel in voxels]
        assert (edge.start, edge.stop) == (min(positions), max(positions) + 1)
