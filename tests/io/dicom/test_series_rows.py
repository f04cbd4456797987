"""Rows 1 to 26 of the cases that must never go wrong, and each clause of the rules for DICOM series.

Every row is judged at every voxel: the fixtures store the world position (see synthetic_series.py). The rules that the
tests named ``test_rule_...`` check are those of docs/geometry.md.
"""

from __future__ import annotations

import copy
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from synthetic_series import (
    ALLOW_GAPS,
    AXIAL,
    OBLIQUE,
    ORIENTATIONS,
    SERIES_OPTION,
    VOLUME_INDEX,
    Series,
    assert_private,
    build_enhanced,
    build_localizer,
    build_secondary_capture,
    build_segmentation,
    build_series,
    build_without_pixels,
    check_exact,
    check_linear,
    check_rectangular,
    check_stack,
    count_of,
    find_note,
    make_rgb,
    make_twin,
    new_uid,
    number,
    pack,
    read,
    refuse,
    set_pixels,
    set_raw,
    to_ds,
    voxel_centres,
    write_dicomdir,
    write_file,
    zip_folder,
)

INCOMPLETE = re.compile("incomplete")


@pytest.fixture(autouse=True)
def _private_logs(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a test reads, nothing that names the patient is logged or printed."""
    caplog.set_level(logging.DEBUG)
    yield
    assert_private(caplog.text)
    for record in caplog.records:
        assert_private(record.getMessage())
    captured = capfd.readouterr()
    assert_private(captured.out + captured.err)


# ---- what is right stays right


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_a_clean_series_is_read_exactly_and_without_a_note(tmp_path: Path, modality: str) -> None:
    series = build_series(modality)
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    check_stack(scan, tmp_path / "in")
    assert scan.notes == ()


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_clean_enhanced_file_is_read_exactly_and_without_a_note(tmp_path: Path, modality: str) -> None:
    series = build_enhanced(modality)
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    check_stack(scan, tmp_path / "in")
    assert scan.notes == ()


def test_read_volume_takes_the_options_as_keywords(tmp_path: Path) -> None:
    from medunet.io import read_volume

    first, second = build_series(number=3), build_series(number=4, offset=900.0)
    first.write(tmp_path / "in/a")
    second.write(tmp_path / "in/b")
    check_exact(read_volume(tmp_path / "in", series="4"), second.slices)


def test_notes_are_logged_as_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    series = build_series()
    series.write(tmp_path / "in")
    shutil.copy(tmp_path / "in" / series.names[2], tmp_path / "in/copy.dcm")
    scan = read(tmp_path / "in")
    assert scan.notes
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    for note in scan.notes:
        assert any(note in message for message in logged), f"not logged: {note}"


def test_one_file_of_a_series_alone_is_its_slice(tmp_path: Path) -> None:
    series = build_series()
    series.write(tmp_path / "in")
    volume = read(tmp_path / "in" / series.names[4]).volume
    if volume.spatial_shape[2] == 1:
        check_exact(volume, series.slices[4:5])
    else:  # the file stands for its series
        check_exact(volume, series.slices)


def test_an_enhanced_file_may_be_named_itself(tmp_path: Path) -> None:
    series = build_enhanced("CT")
    series.write(tmp_path / "in")
    check_exact(read(tmp_path / "in/enhanced.dcm").volume, series.slices)


# ---- row 1


def test_row_01_a_missing_slice_is_named_by_its_neighbours(tmp_path: Path) -> None:
    series = build_series(shape=(7, 9, 9)).drop(4)
    before, after = series.names[3:5]
    refuse(series.write(tmp_path / "in"), "gap", before, after, number(5.0), number(2.5), ALLOW_GAPS)


def test_row_01_two_neighbouring_slices_missing(tmp_path: Path) -> None:
    series = build_series(shape=(7, 9, 10)).drop(4, 5)
    refuse(series.write(tmp_path / "in"), "gap", series.names[3], series.names[4], number(7.5), number(2.5))


@pytest.mark.parametrize("missing", [1, 7])
def test_row_01_the_second_from_an_end_is_missing(tmp_path: Path, missing: int) -> None:
    series = build_series(shape=(7, 9, 9)).drop(missing)
    refuse(series.write(tmp_path / "in"), "gap", number(5.0), number(2.5))


def test_row_01_every_second_slice_missing_in_one_half(tmp_path: Path) -> None:
    series = build_series(shape=(7, 9, 12)).drop(1, 3, 5)
    refuse(series.write(tmp_path / "in"), "gap", number(5.0), number(2.5))


def test_row_01_three_slices_left_of_four(tmp_path: Path) -> None:
    # Steps of 5 and 2.5: neither a median nor a mean tells which of them is right.
    series = build_series(shape=(7, 9, 4)).drop(1)
    refuse(series.write(tmp_path / "in"), number(5.0), number(2.5))


@pytest.mark.parametrize("directions", ["axial", "double-oblique", "sagittal"])
def test_row_01_allow_gaps_fills_the_gap_on_the_even_grid(tmp_path: Path, directions: str) -> None:
    series = build_series(shape=(7, 9, 9), directions=ORIENTATIONS[directions])
    affine = series.affine
    series.drop(4)
    scan = read(series.write(tmp_path / "in"), allow_gaps=True)
    series.affine = affine
    check_linear(scan.volume, series)
    check_rectangular(scan.volume)
    assert scan.volume.spacing[2] == pytest.approx(2.5, abs=1e-3)
    find_note(scan, re.compile("gap|uneven|resampl|interpolat"))


def test_row_01_labels_go_from_a_filled_gap_to_the_slices_that_are_there(tmp_path: Path) -> None:
    series = build_series(shape=(7, 9, 9)).drop(4)
    scan = read(series.write(tmp_path / "in"), allow_gaps=True)
    _check_labels_of_the_field(scan, series, tmp_path / "in")


# ---- row 2


@pytest.mark.parametrize("keyword", ["ImagesInAcquisition", "NumberOfSlices"])
@pytest.mark.parametrize("missing", [(9, 10, 11), (0, 1, 2)], ids=["end", "start"])
def test_row_02_missing_at_an_end_is_noticed_by_the_count(
    tmp_path: Path, keyword: str, missing: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    series = build_series("PT" if keyword == "NumberOfSlices" else "CT", shape=(7, 9, 12))
    for dataset in series.datasets:
        setattr(dataset, keyword, 12)
    scan = read(series.drop(*missing).write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    find_note(scan, INCOMPLETE, count_of(9), count_of(12))
    assert "incomplete" in caplog.text


def test_row_02_a_complete_count_is_no_note(tmp_path: Path) -> None:
    series = build_series(shape=(7, 9, 12))
    for dataset in series.datasets:
        dataset.ImagesInAcquisition = "12"
    assert read(series.write(tmp_path / "in")).notes == ()


def test_row_02_the_list_of_series_shows_it_too(tmp_path: Path) -> None:
    from medunet.io.dicom.series import list_series

    series = build_series(shape=(7, 9, 12))
    for dataset in series.datasets:
        dataset.ImagesInAcquisition = "12"
    folder = list_series(series.drop(9, 10, 11).write(tmp_path / "in"))
    assert len(folder.series) == 1
    assert INCOMPLETE.search(" ".join(folder.series[0].problems))


def test_row_02_holes_in_the_instance_numbers(tmp_path: Path) -> None:
    series = build_series()
    for dataset in series.datasets[5:]:
        dataset.InstanceNumber = str(int(dataset.InstanceNumber) + 2)
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    find_note(scan, INCOMPLETE, "InstanceNumber")


# ---- row 3


def test_row_03_uneven_steps_are_refused(tmp_path: Path) -> None:
    series = build_series(positions=[0, 2.5, 5, 7.5, 11.5, 15.5, 19.5])
    refuse(series.write(tmp_path / "in"), number(2.5), number(4.0), ALLOW_GAPS)


def test_row_03_allow_gaps_resamples_uneven_steps_and_says_so(tmp_path: Path) -> None:
    series = build_series(positions=[0, 2.5, 5, 7.5, 11.5, 15.5, 19.5])
    scan = read(series.write(tmp_path / "in"), allow_gaps=True)
    check_linear(scan.volume, series)
    check_rectangular(scan.volume)
    find_note(scan, re.compile("gap|uneven|resampl|interpolat"))


def test_row_03_labels_go_from_uneven_steps_back_to_the_slices(tmp_path: Path) -> None:
    series = build_series(positions=[0, 2.5, 5, 7.5, 11.5, 15.5, 19.5])
    scan = read(series.write(tmp_path / "in"), allow_gaps=True)
    _check_labels_of_the_field(scan, series, tmp_path / "in")


@pytest.mark.parametrize("step", [0.2, -0.2])
def test_row_03_one_slice_displaced_by_0_2_mm_is_refused(tmp_path: Path, step: float) -> None:
    positions = np.arange(9) * 2.5
    positions[4] += step
    series = build_series(positions=positions)
    refuse(series.write(tmp_path / "in"), re.compile("|".join(map(re.escape, series.names[3:6]))))


def test_row_03_allow_gaps_changes_nothing_in_an_even_series(tmp_path: Path) -> None:
    series = build_series()
    scan = read(series.write(tmp_path / "in"), allow_gaps=True)
    check_exact(scan.volume, series.slices)
    assert scan.notes == ()


# ---- row 4


@pytest.mark.parametrize("along", ["columns", "rows"])
@pytest.mark.parametrize("tilt", [12.0, -20.0, 1.0])
def test_row_04_gantry_tilt_is_right_at_every_voxel(tmp_path: Path, tilt: float, along: str) -> None:
    series = build_series(shape=(14, 11, 9), directions=AXIAL, tilt_degrees=tilt, tilt_along=along)
    scan = read(series.write(tmp_path / "in"))
    is_inside = check_linear(scan.volume, series)
    check_rectangular(scan.volume)
    find_note(scan, "tilt", re.compile(rf"(?<!\d){abs(tilt):g}(\.0+)?(?![\d.]*[1-9])"))
    outside = scan.volume.array[0][~is_inside]
    assert len(outside) == 0 or outside.min() >= scan.volume.array[0][is_inside].min() - 2048


@pytest.mark.parametrize("directions", ["axial-feet-first", "oblique", "double-oblique", "coronal"])
def test_row_04_tilt_in_any_orientation(tmp_path: Path, directions: str) -> None:
    series = build_series(shape=(14, 11, 9), directions=ORIENTATIONS[directions], tilt_degrees=-15.0)
    check_linear(read(series.write(tmp_path / "in")).volume, series)


def test_row_04_tilt_as_gantries_write_it(tmp_path: Path) -> None:
    # The table moves along z alone; the planes lean. The positions differ in z only.
    angle = np.deg2rad(18.5)
    lean = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    series = build_series(shape=(14, 11, 9), directions=lean, tilt_degrees=18.5)
    first, last = (np.array(series.datasets[k].ImagePositionPatient, dtype=float) for k in (0, -1))
    np.testing.assert_allclose((last - first)[:2], 0, atol=1e-9)
    for dataset in series.datasets:
        dataset.GantryDetectorTilt = "18.5"
    check_linear(read(series.write(tmp_path / "in")).volume, series)


def test_row_04_the_tag_alone_is_no_tilt(tmp_path: Path) -> None:
    series = build_series()
    for dataset in series.datasets:
        dataset.GantryDetectorTilt = "20"
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_row_04_what_lies_outside_the_field_of_view_is_air(tmp_path: Path) -> None:
    series = build_series(shape=(14, 11, 9), directions=AXIAL, tilt_degrees=20.0)
    volume = read(series.write(tmp_path / "in")).volume
    centres = voxel_centres(volume)
    index = np.concatenate([centres, np.ones((*centres.shape[:-1], 1))], axis=-1) @ np.linalg.inv(series.affine).T
    is_far = ((index[..., :3] < -1) | (index[..., :3] > np.array([11, 14, 9]))).any(axis=-1)
    if is_far.any():
        filling = np.unique(volume.array[0][is_far])
        assert len(filling) == 1
        assert filling[0] <= min(truth.values.min() for truth in series.slices)


@pytest.mark.parametrize("tilt", [12.0, -20.0])
def test_row_04_a_structure_goes_to_the_grid_and_back_without_a_wrong_voxel(tmp_path: Path, tilt: float) -> None:
    series = build_series(shape=(14, 11, 9), directions=AXIAL, tilt_degrees=tilt)
    stack = read(series.write(tmp_path / "in")).stack
    assert stack is not None
    labels = np.zeros((9, 14, 11), dtype=np.uint8)
    labels[2:7, 3:11, 2:8] = 1
    labels[3:5, 5:9, 3:6] = 2
    np.testing.assert_array_equal(stack.labels_to_frames(stack.labels_from_frames(labels)), labels)


def test_row_04_any_labels_go_to_the_grid_and_back(tmp_path: Path) -> None:
    series = build_series(shape=(14, 11, 9), directions=AXIAL, tilt_degrees=17.0)
    stack = read(series.write(tmp_path / "in")).stack
    assert stack is not None
    labels = np.random.default_rng(3).integers(0, 4, (9, 14, 11)).astype(np.uint8)
    np.testing.assert_array_equal(stack.labels_to_frames(stack.labels_from_frames(labels)), labels)


@pytest.mark.parametrize("tilt", [12.0, -20.0])
def test_row_04_labels_of_the_grid_lie_on_the_right_pixels_of_the_slices(tmp_path: Path, tilt: float) -> None:
    series = build_series(shape=(14, 11, 9), directions=OBLIQUE, tilt_degrees=tilt)
    scan = read(series.write(tmp_path / "in"))
    _check_labels_of_the_field(scan, series, tmp_path / "in")


def test_row_04_tilt_and_a_gap_at_once(tmp_path: Path) -> None:
    series = build_series(shape=(14, 11, 10), directions=AXIAL, tilt_degrees=18.5)
    affine = series.affine
    series.drop(6)
    folder = series.write(tmp_path / "in")
    refuse(folder, "gap", ALLOW_GAPS)
    scan = read(folder, allow_gaps=True)
    series.affine = affine
    check_linear(scan.volume, series)
    _check_labels_of_the_field(scan, series, folder)


# ---- row 5


def test_row_05_an_exact_duplicate_is_dropped_with_a_note(tmp_path: Path) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in")
    shutil.copy(folder / series.names[4], folder / "again.dcm")
    scan = read(folder)
    check_exact(scan.volume, series.slices)
    find_note(scan, re.compile(f"again.dcm|{series.names[4]}"), re.compile("duplicate|twice|copy|copies|same"))


def test_row_05_the_whole_series_twice(tmp_path: Path) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in/a")
    shutil.copytree(folder, tmp_path / "in/b")
    scan = read(tmp_path / "in")
    check_exact(scan.volume, series.slices)
    find_note(scan, re.compile("duplicate|twice|copy|copies|same"), count_of(8))


def test_row_05_the_same_slice_in_two_encodings(tmp_path: Path) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in")
    write_file(series.datasets[2], folder / "again.dcm", syntax=RLELossless)
    scan = read(folder)
    check_exact(scan.volume, series.slices)
    assert scan.notes


def test_row_05_one_instance_with_two_contents_is_refused(tmp_path: Path) -> None:
    series = build_series()
    twin, truth = make_twin(series.datasets[4], series.slices[4], change=7, name="other.dcm")
    twin.SOPInstanceUID = series.datasets[4].SOPInstanceUID
    series.add(twin, truth)
    refuse(series.write(tmp_path / "in"), "other.dcm", series.names[4])


def test_row_05_the_same_pixels_under_another_instance_never_give_a_double_slice(tmp_path: Path) -> None:
    series = build_series()
    twin, _ = make_twin(series.datasets[4], series.slices[4], name="other.dcm")
    folder = series.write(tmp_path / "in")
    write_file(twin, folder / "other.dcm")
    scan = _read_or_refuse(folder, "other.dcm")
    if scan is not None:
        check_exact(scan.volume, series.slices)
        assert scan.notes


def test_row_05_the_same_pixels_at_two_places_are_two_slices(tmp_path: Path) -> None:
    series = build_series(gradient=(9.7, -14.3, 0.0), directions=AXIAL)
    assert series.datasets[2].PixelData == series.datasets[3].PixelData
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    assert scan.notes == ()


# ---- row 6


def _key_acquisition(dataset: Dataset, volume: int) -> None:
    dataset.AcquisitionNumber = str(volume + 1)


def _key_temporal(dataset: Dataset, volume: int) -> None:
    dataset.TemporalPositionIdentifier = str(volume + 1)
    dataset.NumberOfTemporalPositions = "2"


def _key_echo(dataset: Dataset, volume: int) -> None:
    dataset.EchoTime = ["2.46", "4.92"][volume]
    dataset.EchoNumbers = str(volume + 1)


def _key_b_value(dataset: Dataset, volume: int) -> None:
    dataset.add_new(0x00189087, "FD", [0.0, 1000.0][volume])


def _key_trigger(dataset: Dataset, volume: int) -> None:
    dataset.TriggerTime = ["0", "437.5"][volume]


def _key_time(dataset: Dataset, volume: int) -> None:
    dataset.AcquisitionTime = ["101500", "101730"][volume]


KEYS: dict[str, tuple[Callable[[Dataset, int], None], tuple[str, ...]]] = {
    "acquisition": (_key_acquisition, ()),
    "temporal": (_key_temporal, ()),
    "echo": (_key_echo, ("2.46", "4.92")),
    "b-value": (_key_b_value, ("1000",)),
    "trigger": (_key_trigger, ("437.5",)),
    "time": (_key_time, ()),
}


def _write_two_volumes(
    folder: Path, key: Callable[[Dataset, int], None], *, modality: str = "MR", order: str = "after"
) -> tuple[Series, Series]:
    """Two volumes at the same places in one series, the second 150 higher; numbers one after the other or in turns."""
    first = build_series(modality, prefix="A")
    second = build_series(modality, prefix="B", offset=450.0, like=first)
    for volume, series in enumerate((first, second)):
        for k, dataset in enumerate(series.datasets):
            dataset.SeriesInstanceUID = first.datasets[0].SeriesInstanceUID
            number = k + 8 * volume if order == "after" else 2 * k + volume
            dataset.InstanceNumber = str(number + 1)
            key(dataset, volume)
        series.write(folder)
    return first, second


@pytest.mark.parametrize("order", ["after", "in-turns"])
@pytest.mark.parametrize("key", KEYS)
def test_row_06_two_volumes_are_listed_and_each_can_be_chosen(tmp_path: Path, key: str, order: str) -> None:
    set_key, shown = KEYS[key]
    first, second = _write_two_volumes(tmp_path / "in", set_key, order=order)
    refuse(tmp_path / "in", count_of(2), VOLUME_INDEX, *shown)
    for index, series in enumerate((first, second)):
        scan = read(tmp_path / "in", volume_index=index)
        check_exact(scan.volume, series.slices)
        check_stack(scan, tmp_path / "in")
        assert not any(INCOMPLETE.search(note) for note in scan.notes), "a chosen volume is no loss"


@pytest.mark.parametrize("index", [2, -1])
def test_row_06_a_volume_that_is_not_there_is_refused(tmp_path: Path, index: int) -> None:
    _write_two_volumes(tmp_path / "in", _key_b_value)
    refuse(tmp_path / "in", VOLUME_INDEX, count_of(2), volume_index=index)


def test_row_06_volume_index_of_a_plain_series(tmp_path: Path) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in")
    check_exact(read(folder, volume_index=0).volume, series.slices)
    refuse(folder, VOLUME_INDEX, volume_index=1)


def test_row_06_two_volumes_that_no_attribute_tells_apart_are_refused(tmp_path: Path) -> None:
    first, second = _write_two_volumes(tmp_path / "in", lambda dataset, volume: None)
    names = re.compile("|".join(re.escape(name) for name in first.names + second.names))
    refuse(tmp_path / "in", names)


def test_row_06_one_slice_of_other_pixels_at_the_same_place_is_refused(tmp_path: Path) -> None:
    series = build_series()
    twin, truth = make_twin(series.datasets[4], series.slices[4], change=9, name="other.dcm")
    series.add(twin, truth)
    refuse(series.write(tmp_path / "in"), "other.dcm", series.names[4])


@pytest.mark.parametrize("key", ["echo", "temporal", "acquisition"])
def test_row_06_volumes_that_share_empty_slices_stay_whole(tmp_path: Path, key: str) -> None:
    # Zeros around the patient are the same in both echoes; that makes them no duplicates.
    first, second = _write_two_volumes(tmp_path / "in", KEYS[key][0])
    for series in (first, second):
        for k in (0, 1, 7):
            series.datasets[k].PixelData = bytes(len(series.datasets[k].PixelData))
            series.datasets[k]["PixelData"].VR = "OW"
            series.slices[k].values[:] = 0
        series.write(tmp_path / "in")
    refuse(tmp_path / "in", count_of(2), VOLUME_INDEX)
    for index, series in enumerate((first, second)):
        check_exact(read(tmp_path / "in", volume_index=index).volume, series.slices)


def _key_image_type(dataset: Dataset, volume: int) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", ["WATER", "FAT"][volume]]


@pytest.mark.parametrize("set_key", [_key_echo, _key_b_value, _key_image_type], ids=["echo", "b-value", "type"])
def test_row_06_two_volumes_half_a_step_apart_are_not_woven_into_one(
    tmp_path: Path, set_key: Callable[[Dataset, int], None]
) -> None:
    first = build_series("MR", prefix="A", directions=AXIAL)
    second = build_series("MR", prefix="B", directions=AXIAL, like=first, origin=(-31.0, 12.5, -139.0), offset=500.0)
    for volume, series in enumerate((first, second)):
        for dataset in series.datasets:
            dataset.SeriesInstanceUID = first.datasets[0].SeriesInstanceUID
            set_key(dataset, volume)
        series.write(tmp_path / "in")
    refuse(tmp_path / "in", re.compile("[AB]00|in"))
    for index, series in enumerate((first, second)):
        scan = _read_or_refuse(tmp_path / "in", volume_index=index)
        if scan is not None:
            found = sorted((first, second), key=lambda one: abs(one.field.offset - scan.volume.array.mean()))[0]
            check_exact(scan.volume, found.slices)
            assert found is series or set_key is _key_image_type


def test_row_06_two_volumes_of_different_steps_are_never_mixed(tmp_path: Path) -> None:
    first = build_series("MR", prefix="A", shape=(7, 9, 5))
    second = build_series("MR", prefix="B", shape=(7, 9, 9), spacing=(0.8, 1.3, 1.25), like=first, offset=500.0)
    for volume, series in enumerate((first, second)):
        for dataset in series.datasets:
            dataset.SeriesInstanceUID = first.datasets[0].SeriesInstanceUID
            _key_echo(dataset, volume)
        series.write(tmp_path / "in")
    refuse(tmp_path / "in", re.compile("[AB]00|in"))
    for index, series in enumerate((first, second)):
        scan = _read_or_refuse(tmp_path / "in", volume_index=index)
        if scan is not None:
            check_exact(scan.volume, series.slices)


def test_row_06_three_b_values_and_a_missing_slice_in_the_last(tmp_path: Path) -> None:
    parts = [build_series("MR", prefix="ABC"[v], offset=300.0 + 100 * v) for v in range(3)]
    for volume, part in enumerate(parts):
        for dataset in part.datasets:
            dataset.SeriesInstanceUID = parts[0].datasets[0].SeriesInstanceUID
            for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
                setattr(dataset, keyword, getattr(parts[0].datasets[0], keyword))
            dataset.add_new(0x00189087, "FD", [50.0, 400.0, 800.0][volume])
    parts[2].drop(3)
    for part in parts:
        part.write(tmp_path / "in")
    refuse(tmp_path / "in", number(50), number(400), number(800), VOLUME_INDEX)
    for index in (0, 1):
        check_exact(read(tmp_path / "in", volume_index=index).volume, parts[index].slices)
    refuse(tmp_path / "in", "gap", *parts[2].names[2:4], volume_index=2)


@pytest.mark.parametrize("key", ["b-value", "temporal", "stack"])
def test_row_06_two_volumes_in_one_enhanced_file(tmp_path: Path, key: str) -> None:
    series = build_enhanced("MR", volumes=2, volume_key=key)
    folder = series.write(tmp_path / "in")
    refuse(folder, count_of(2), VOLUME_INDEX)
    for index in (0, 1):
        scan = read(folder, volume_index=index)
        check_exact(scan.volume, series.slices[8 * index : 8 * index + 8])
        check_stack(scan, folder)


def test_row_06_acquisition_numbers_of_an_axial_ct_do_not_split_it(tmp_path: Path) -> None:
    # Step-and-shoot scanners count each turn of the tube.
    series = build_series()
    for k, dataset in enumerate(series.datasets):
        dataset.AcquisitionNumber = str(k + 1)
        dataset.AcquisitionTime = f"1015{k:02d}"
        dataset.TriggerTime = str(17 * k)
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_row_06_two_orientations_in_one_series_are_refused(tmp_path: Path) -> None:
    first = build_series(prefix="A", directions=AXIAL)
    second = build_series(prefix="B", directions=ORIENTATIONS["sagittal"], like=first)
    for dataset in second.datasets:
        dataset.SeriesInstanceUID = first.datasets[0].SeriesInstanceUID
    first.write(tmp_path / "in")
    second.write(tmp_path / "in")
    refuse(tmp_path / "in", "orientation")


# ---- row 7


def test_row_07_a_localizer_is_split_off_and_named(tmp_path: Path) -> None:
    series = build_series()
    build_localizer(series, name="scout.dcm")
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    find_note(scan, re.compile(r"scout\.dcm|localizer"))


def test_row_07_a_localizer_of_the_same_size_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    series = build_series()
    build_localizer(series, shape=(7, 9), name="scout.dcm")
    series.datasets[-1].ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    find_note(scan, re.compile(r"scout\.dcm|localizer|orientation"))


def test_row_07_a_localizer_parallel_to_the_slices(tmp_path: Path) -> None:
    series = build_series()
    scout, truth = copy.deepcopy(series.datasets[-1]), copy.deepcopy(series.slices[-1])
    scout.SOPInstanceUID, scout.ImageType = new_uid(), ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    truth.plane[:3, 3] += 80 * OBLIQUE[:, 2]
    scout.ImagePositionPatient = to_ds(truth.plane[:3, 3])
    folder = series.write(tmp_path / "in")
    write_file(scout, folder / "scout.dcm")
    scan = read(folder)
    check_exact(scan.volume, series.slices)
    find_note(scan, re.compile(r"scout\.dcm|localizer"))


def test_row_07_a_series_of_three_planes_is_no_volume(tmp_path: Path) -> None:
    series = build_series(shape=(7, 9, 1), directions=AXIAL)
    for k, name in enumerate(("sagittal", "coronal")):
        other = build_series(shape=(7, 9, 1), directions=ORIENTATIONS[name], like=series, prefix=f"P{k}")
        other.datasets[0].SeriesInstanceUID = series.datasets[0].SeriesInstanceUID
        series.add(other.datasets[0], other.slices[0])
    refuse(series.write(tmp_path / "in"), re.compile("orientation|localizer"))


# ---- row 8


def _write_study(folder: Path) -> dict[str, Series]:
    """CT, two MR and PET of one study, in one flat folder."""
    ct = build_series("CT", number=2, description="thorax soft", prefix="C")
    study = {"CT": ct}
    choices = [("T2", "MR", 12, "T2 tse tra", 400.0), ("T1", "MR", 20, "T1 vibe", 500.0), ("PT", "PT", 7, "FDG", 600.0)]
    for name, modality, series_number, text, offset in choices:
        study[name] = build_series(
            modality, number=series_number, description=text, offset=offset, prefix=name, like=ct
        )
    for series in study.values():
        series.write(folder)
    return study


def test_row_08_several_series_are_listed(tmp_path: Path) -> None:
    study = _write_study(tmp_path / "in")
    uids = [series.datasets[0].SeriesInstanceUID for series in study.values()]
    text = refuse(tmp_path / "in", SERIES_OPTION, "thorax soft", "T2 tse tra", "T1 vibe", "FDG", "CT", "MR", "PT")
    for value in (2, 12, 20, 7):
        assert count_of(value).search(text)
    refuse(tmp_path / "in", series="1.2.3")
    assert uids


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("2", "CT"), ("12", "T2"), ("20", "T1"), ("7", "PT"), ("T2", "T2"), ("vibe", "T1"), ("thorax soft", "CT")],
)
def test_row_08_a_series_is_chosen_by_number_or_text(tmp_path: Path, choice: str, expected: str) -> None:
    study = _write_study(tmp_path / "in")
    check_exact(read(tmp_path / "in", series=choice).volume, study[expected].slices)


def test_row_08_a_series_is_chosen_by_uid(tmp_path: Path) -> None:
    for series in _write_study(tmp_path / "in").values():
        uid = str(series.datasets[0].SeriesInstanceUID)
        scan = read(tmp_path / "in", series=uid)
        check_exact(scan.volume, series.slices)
        assert scan.stack is not None
        assert scan.stack.series_uid == uid
        assert scan.stack.frame_of_reference_uid == series.datasets[0].FrameOfReferenceUID


@pytest.mark.parametrize(("modality", "expected"), [("CT", "CT"), ("PT", "PT")])
def test_row_08_the_only_series_of_the_modality_is_taken(tmp_path: Path, modality: str, expected: str) -> None:
    study = _write_study(tmp_path / "in")
    check_exact(read(tmp_path / "in", modality=modality).volume, study[expected].slices)


def test_row_08_two_series_of_the_modality_are_listed(tmp_path: Path) -> None:
    _write_study(tmp_path / "in")
    text = refuse(tmp_path / "in", "T2 tse tra", "T1 vibe", SERIES_OPTION, modality="MR")
    assert "thorax soft" not in text


def test_row_08_no_series_of_the_modality(tmp_path: Path) -> None:
    build_series("CT").write(tmp_path / "in")
    refuse(tmp_path / "in", "MR", "CT", modality="MR")


@pytest.mark.parametrize("choice", ["T", "99", "no such text"])
def test_row_08_a_choice_that_fits_several_or_none_is_refused(tmp_path: Path, choice: str) -> None:
    _write_study(tmp_path / "in")
    refuse(tmp_path / "in", "T2 tse tra", "T1 vibe", series=choice)


def test_row_08_two_series_of_one_number(tmp_path: Path) -> None:
    first = build_series(number=4, description="first", prefix="A")
    second = build_series(number=4, description="second", prefix="B", like=first, offset=700.0)
    first.write(tmp_path / "in")
    second.write(tmp_path / "in")
    refuse(tmp_path / "in", "first", "second", series="4")
    check_exact(read(tmp_path / "in", series="second").volume, second.slices)


def test_row_08_an_unusable_series_does_not_hide_the_usable_one(tmp_path: Path) -> None:
    series = build_series("MR", number=2)
    scout = build_series("MR", number=1, shape=(11, 13, 1), description="scout", like=series, prefix="S")
    scout.datasets[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    series.write(tmp_path / "in")
    scout.write(tmp_path / "in")
    check_exact(read(tmp_path / "in").volume, series.slices)


def test_row_08_list_series_tells_what_there_is(tmp_path: Path) -> None:
    from medunet.io.dicom.series import list_series

    study = _write_study(tmp_path / "in")
    (tmp_path / "in/notes.txt").write_text("bring milk")
    folder = list_series(tmp_path / "in")
    by_uid = {info.uid: info for info in folder.series}
    assert len(folder.series) == len(by_uid) == 4
    for series in study.values():
        dataset = series.datasets[0]
        info = by_uid[dataset.SeriesInstanceUID]
        assert (info.modality, int(info.number), info.description) == (
            dataset.Modality,
            int(dataset.SeriesNumber),
            dataset.SeriesDescription,
        )
        assert (info.num_slices, info.problems, info.is_usable) == (8, (), True)
        assert info.shape == (9, 7, 8)
        assert info.spacing == pytest.approx((1.3, 0.8, 2.5), abs=1e-6)
        assert info.orientation
    assert any(count_of(1).search(note) for note in folder.notes)
    assert_private(repr(folder.series) + repr(folder.notes))


def test_row_08_list_series_shows_problems_instead_of_raising(tmp_path: Path) -> None:
    from medunet.io.dicom.series import list_series

    good = build_series("MR", number=1, prefix="A")
    gap = build_series("MR", number=2, prefix="B", like=good).drop(3)
    good.write(tmp_path / "in")
    gap.write(tmp_path / "in")
    by_uid = {info.uid: info for info in list_series(tmp_path / "in").series}
    assert by_uid[good.datasets[0].SeriesInstanceUID].is_usable
    bad = by_uid[gap.datasets[0].SeriesInstanceUID]
    assert not bad.is_usable
    assert "gap" in " ".join(bad.problems)


def test_row_08_the_chosen_series_is_refused_for_its_own_fault_only(tmp_path: Path) -> None:
    good = build_series("MR", number=1, prefix="A")
    gap = build_series("MR", number=2, prefix="B", like=good).drop(3)
    good.write(tmp_path / "in")
    gap.write(tmp_path / "in")
    check_exact(read(tmp_path / "in", series="1").volume, good.slices)
    refuse(tmp_path / "in", "gap", series="2")


# ---- row 9

OTHER_OBJECTS: dict[str, Callable[[Series, bool], Dataset]] = {
    "secondary-capture": lambda series, in_series: build_secondary_capture(series, in_series=in_series),
    "rgb-secondary-capture": lambda series, in_series: build_secondary_capture(
        series, is_rgb=True, in_series=in_series
    ),
    "structured-report": lambda series, in_series: build_without_pixels(
        series, "1.2.840.10008.5.1.4.1.1.88.33", "SR", in_series=in_series
    ),
    "presentation-state": lambda series, in_series: build_without_pixels(
        series, "1.2.840.10008.5.1.4.1.1.11.1", "PR", in_series=in_series
    ),
    "key-object": lambda series, in_series: build_without_pixels(
        series, "1.2.840.10008.5.1.4.1.1.88.59", "KO", in_series=in_series
    ),
    "raw-data": lambda series, in_series: build_without_pixels(
        series, "1.2.840.10008.5.1.4.1.1.66", "MR", in_series=in_series
    ),
    "segmentation": lambda series, in_series: build_segmentation(series, in_series=in_series),
}


@pytest.mark.parametrize("in_series", [True, False], ids=["same-series", "own-series"])
@pytest.mark.parametrize("kind", OTHER_OBJECTS)
def test_row_09_what_is_no_slice_is_left_out_with_a_note(tmp_path: Path, kind: str, in_series: bool) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in")
    write_file(OTHER_OBJECTS[kind](series, in_series), folder / "other.dcm")
    scan = read(folder)
    check_exact(scan.volume, series.slices)
    assert scan.notes


@pytest.mark.parametrize("has_place", [True, False])
def test_row_09_a_colour_picture_of_the_image_class(tmp_path: Path, has_place: bool) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in")
    picture = copy.deepcopy(series.datasets[3])
    picture.SOPInstanceUID, picture.ImageType = new_uid(), ["DERIVED", "SECONDARY"]
    make_rgb(picture)
    if not has_place:
        del picture.ImagePositionPatient, picture.ImageOrientationPatient, picture.PixelSpacing
    write_file(picture, folder / "dose.dcm")
    scan = read(folder)
    check_exact(scan.volume, series.slices)
    find_note(scan, re.compile("dose.dcm|RGB|colou?r"))


def test_row_09_a_folder_of_screenshots_is_no_volume(tmp_path: Path) -> None:
    series = build_series()
    for k in range(4):
        write_file(build_secondary_capture(series, is_rgb=k % 2 == 0), tmp_path / f"in/{k}.dcm")
    refuse(tmp_path / "in", "in")


# ---- row 10


def test_row_10_foreign_files_are_counted(tmp_path: Path) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1\0\0\x10\0\0\0\x08\0" + bytes(600))
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    (folder / "readme.txt").write_text("CANARY^PATIENT asked for a copy")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(600))
    scan = read(folder)
    check_exact(scan.volume, series.slices)
    # Hidden files may be counted apart.
    assert sum(int(n) for note in scan.notes for n in re.findall(r"\b\d+\b", note)) == 4


def test_row_10_a_folder_of_foreign_names_is_walked_too(tmp_path: Path) -> None:
    series = build_series()
    series.write(tmp_path / "in/__MACOSX/.hidden")
    shutil.move(tmp_path / "in/__MACOSX/.hidden", tmp_path / "in/series")
    (tmp_path / "in/__MACOSX/._IM0001.dcm").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(80))
    scan = read(tmp_path / "in")
    check_exact(scan.volume, series.slices)
    assert scan.notes


# ---- row 11


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_row_11_shuffled_frames_are_sorted(tmp_path: Path, modality: str) -> None:
    series = build_enhanced(modality, order=[5, 2, 7, 0, 3, 6, 1, 4])
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    check_stack(scan, tmp_path / "in")


def test_row_11_a_missing_frame_is_an_error(tmp_path: Path) -> None:
    series = build_enhanced("CT", order=[0, 1, 2, 3, 5, 6, 7])
    refuse(series.write(tmp_path / "in"), "gap", "enhanced.dcm", number(5.0), number(2.5), ALLOW_GAPS)


def test_row_11_a_frame_twice_with_other_pixels_is_an_error(tmp_path: Path) -> None:
    series = build_enhanced("CT")
    groups = series.datasets[0].PerFrameFunctionalGroupsSequence
    groups[5].PlanePositionSequence = groups[4].PlanePositionSequence
    refuse(series.write(tmp_path / "in"), "enhanced.dcm")


def test_row_11_more_frames_promised_than_described_is_an_error(tmp_path: Path) -> None:
    series = build_enhanced("CT")
    del series.datasets[0].PerFrameFunctionalGroupsSequence[-1]
    refuse(series.write(tmp_path / "in"), "enhanced.dcm", count_of(8), count_of(7))


@pytest.mark.parametrize("directions", ["axial-feet-first", "sagittal", "oblique"])
def test_row_11_enhanced_in_any_orientation(tmp_path: Path, directions: str) -> None:
    series = build_enhanced("MR", directions=ORIENTATIONS[directions], spacing=(1.7, 0.6, 3.3), offset=900.0)
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_row_11_a_series_in_two_enhanced_files_is_never_read_by_half(tmp_path: Path) -> None:
    whole = build_enhanced("CT", shape=(7, 9, 12))
    for part, frames in enumerate((range(6), range(6, 12))):
        half = copy.deepcopy(whole.datasets[0])
        half.SOPInstanceUID, half.InstanceNumber = new_uid(), str(part + 1)
        groups = half.PerFrameFunctionalGroupsSequence
        half.PerFrameFunctionalGroupsSequence = DicomSequence([groups[k] for k in frames])
        half.NumberOfFrames = "6"
        half.PixelData = whole.datasets[0].PixelData[part * 6 * 126 : (part + 1) * 6 * 126]
        half["PixelData"].VR = "OW"
        write_file(half, tmp_path / f"in/part{part}.dcm")
    scan = _read_or_refuse(tmp_path / "in", re.compile(r"part\d\.dcm"))
    if scan is not None:
        check_exact(scan.volume, whole.slices)


def test_row_11_a_legacy_converted_file(tmp_path: Path) -> None:
    series = build_enhanced("CT", order=[1, 0, 3, 2, 4, 5, 7, 6])
    series.datasets[0].SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.2"
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_row_11_a_frame_of_another_orientation_is_refused_or_noted(tmp_path: Path) -> None:
    series = build_enhanced("CT")
    dataset = series.datasets[0]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PlaneOrientationSequence = copy.deepcopy(shared.PlaneOrientationSequence)
    del shared.PlaneOrientationSequence
    group.PlaneOrientationSequence[0].ImageOrientationPatient = to_ds([*OBLIQUE[:, 1], *OBLIQUE[:, 2]])
    scan = _read_or_refuse(series.write(tmp_path / "in"), "orientation", "enhanced.dcm")
    if scan is not None:
        check_exact(scan.volume, series.slices[:7])
        find_note(scan, "enhanced.dcm")


def test_row_11_a_frame_of_another_pixel_spacing_is_refused(tmp_path: Path) -> None:
    series = build_enhanced("CT")
    dataset = series.datasets[0]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PixelMeasuresSequence = copy.deepcopy(shared.PixelMeasuresSequence)
    del shared.PixelMeasuresSequence
    dataset.PerFrameFunctionalGroupsSequence[4].PixelMeasuresSequence[0].PixelSpacing = ["0.9", "1.3"]
    refuse(series.write(tmp_path / "in"), "PixelSpacing", "enhanced.dcm")


def test_row_11_frames_of_a_plain_class_have_no_place(tmp_path: Path) -> None:
    series = build_series()
    dataset = series.datasets[0]
    dataset.NumberOfFrames = "8"
    dataset.PixelData = b"".join(one.PixelData for one in series.datasets)
    dataset["PixelData"].VR = "OW"
    write_file(dataset, tmp_path / "in/frames.dcm")
    refuse(tmp_path / "in", "frames.dcm")


def test_row_11_the_same_frame_twice_is_dropped_with_a_note(tmp_path: Path) -> None:
    series = build_enhanced("CT", order=[0, 1, 2, 3, 3, 4, 5, 6, 7])
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    assert scan.notes


# ---- row 12 and 13


@pytest.mark.parametrize("group", ["shared", "per-frame"])
def test_row_12_rescale_of_enhanced_ct(tmp_path: Path, group: str) -> None:
    series = build_enhanced("CT", rescale=group, slope=0.5, intercept=-1024.0)
    assert series.slices[0].values.min() < 400
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_row_12_rescale_that_differs_between_frames(tmp_path: Path) -> None:
    series = build_enhanced("CT", rescale="per-frame", slope=lambda k: 0.25 + 0.1 * k, intercept=lambda k: -1000.0 - k)
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_row_13_each_slice_has_its_own_slope_and_intercept(tmp_path: Path, modality: str) -> None:
    series = build_series(modality, slope=lambda k: 0.2 + 0.07 * k, intercept=lambda k: -900.0 - 10 * k)
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    check_linear(scan.volume, series)


def test_row_13_a_negative_slope(tmp_path: Path) -> None:
    series = build_series(slope=-0.5, intercept=3000.0)
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_row_13_a_slice_that_lacks_what_all_others_have_is_refused_or_noted(tmp_path: Path, keyword: str) -> None:
    series = build_series(slope=0.5)
    del series.datasets[3][keyword]
    scan = _read_or_refuse(series.write(tmp_path / "in"), keyword, series.names[3])
    if scan is not None:
        find_note(scan, re.compile("rescale", re.IGNORECASE))


def test_row_13_a_lookup_table_in_place_of_slope_and_intercept_is_used_or_refused(tmp_path: Path) -> None:
    series = build_series()
    for dataset, truth in zip(series.datasets, series.slices, strict=True):
        stored = np.rint(truth.values + 1024).astype(np.int64)
        table = (np.arange(4096) * 2 + 5).astype("<u2")
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [4096, 0, 16])
        item.ModalityLUTType = "HU"
        item.add_new("LUTData", "OW", table.tobytes())
        dataset.ModalityLUTSequence = [item]
        del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType
        truth.values = table[stored].astype(float)
    scan = _read_or_refuse(series.write(tmp_path / "in"), re.compile("LUT|lookup", re.IGNORECASE))
    if scan is not None:
        check_exact(scan.volume, series.slices)


def test_row_13_tiny_and_huge_slopes_keep_their_precision(tmp_path: Path) -> None:
    series = build_series(
        "PT", slope=lambda k: 1e-7 * (k + 1), intercept=0.0, gradient=(1e-5, -2e-5, 3e-5), offset=2e-3
    )
    volume = read(series.write(tmp_path / "in")).volume
    expected = np.stack([truth.values for truth in series.slices]).ravel()
    np.testing.assert_allclose(np.sort(volume.array.ravel()), np.sort(expected), rtol=1e-5)


# ---- row 14


def test_row_14_signed_and_unsigned_slices(tmp_path: Path) -> None:
    series = build_series(
        is_signed=lambda k: k % 2 == 0,
        intercept=lambda k: 0.0 if k % 2 == 0 else -35000.0,
        bits=16,
        offset=-700.0,
    )
    assert max(np.frombuffer(dataset.PixelData, "<u2").max() for dataset in series.datasets[1::2]) > 2**15
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_row_14_slices_of_12_and_16_bits(tmp_path: Path) -> None:
    series = build_series(bits=lambda k: 12 if k % 3 else 16, offset=700.0, is_signed=lambda k: k > 4)
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


@pytest.mark.parametrize(("is_signed", "bits"), [(True, 12), (False, 12), (True, 10)])
def test_row_14_junk_above_the_stored_bits(tmp_path: Path, is_signed: bool, bits: int) -> None:
    options: dict[str, Any] = {"offset": 0.0, "intercept": 0.0} if is_signed else {}
    gradient = (3.1, -4.3, 9.7)
    series = build_series(
        is_signed=is_signed, bits=bits, junk=0b101101 & (2 ** (16 - bits) - 1), gradient=gradient, **options
    )
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


@pytest.mark.parametrize("high_bit", [15, 13])
def test_row_14_bits_that_do_not_end_at_the_lowest_are_read_right_or_refused(tmp_path: Path, high_bit: int) -> None:
    series = build_series(bits=12)
    shift = high_bit - 11
    for dataset in series.datasets:
        shifted = np.frombuffer(dataset.PixelData, "<u2") << shift
        dataset.PixelData, dataset.HighBit = shifted.astype("<u2").tobytes(), high_bit
        dataset["PixelData"].VR = "OW"
    scan = _read_or_refuse(series.write(tmp_path / "in"), "HighBit")
    if scan is not None:
        check_exact(scan.volume, series.slices)


@pytest.mark.parametrize("bits_allocated", [8, 32])
def test_row_14_8_and_32_bits(tmp_path: Path, bits_allocated: int) -> None:
    options: dict[str, Any] = {"gradient": (1.1, -1.7, 3.1), "offset": 100.0} if bits_allocated == 8 else {}
    series = build_series("MR", bits=bits_allocated, bits_allocated=bits_allocated, **options)
    if bits_allocated == 32:
        for dataset, truth in zip(series.datasets, series.slices, strict=True):
            stored = np.rint(truth.values).astype(np.int64) + 3_000_000_000
            dataset.PixelData, truth.values = pack(stored, 32, 32), stored.astype(np.float64)
            dataset["PixelData"].VR = "OW"
        volume = read(series.write(tmp_path / "in")).volume
        expected = np.stack([truth.values for truth in series.slices]).ravel()
        np.testing.assert_allclose(np.sort(volume.array.ravel()).astype(float), np.sort(expected), rtol=1e-7)
    else:
        check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_row_14_large_unsigned_values_without_rescale_are_not_wrapped(tmp_path: Path) -> None:
    series = build_series("MR", offset=60000.0)
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_row_14_signed_pixels_that_do_not_say_so_are_refused(tmp_path: Path) -> None:
    series = build_series(is_signed=True, intercept=0.0, offset=0.0)
    for dataset in series.datasets:
        del dataset.PixelRepresentation
    refuse(series.write(tmp_path / "in"), "PixelRepresentation", re.compile("IM0"))


def test_row_14_junk_above_bits_that_are_not_said_is_refused(tmp_path: Path) -> None:
    series = build_series(bits=12, junk=0b1011)
    for dataset in series.datasets:
        del dataset.BitsStored, dataset.HighBit
    refuse(series.write(tmp_path / "in"), "BitsStored", re.compile("IM0"))


# ---- row 15


def test_row_15_monochrome1_is_not_inverted_and_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    series = build_series()
    for dataset in series.datasets:
        dataset.PhotometricInterpretation = "MONOCHROME1"
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    find_note(scan, "MONOCHROME1")
    assert "MONOCHROME1" in caplog.text


def test_row_15_monochrome1_in_one_slice(tmp_path: Path) -> None:
    series = build_series()
    series.datasets[3].PhotometricInterpretation = "MONOCHROME1"
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    find_note(scan, "MONOCHROME1")


# ---- row 16


def _pad(series: Series, stored: int, limit: int | None = None) -> None:
    """The first two columns of every slice hold the padding value; the truth becomes the rescaled minimum."""
    lowest = min(truth.values[:, 2:].min() for truth in series.slices)
    for dataset, truth in zip(series.datasets, series.slices, strict=True):
        kind = "<i2" if dataset.PixelRepresentation else "<u2"
        pixels = np.frombuffer(dataset.PixelData, kind).reshape(truth.values.shape).copy()
        pixels[:, :2] = stored
        if limit is not None:
            pixels[::2, :2] = limit
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
        vr = "SS" if dataset.PixelRepresentation else "US"
        dataset.add_new("PixelPaddingValue", vr, stored)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", vr, limit)
        truth.values[:, :2] = lowest


@pytest.mark.parametrize(
    ("is_signed", "stored", "limit"),
    [(True, -2000, None), (False, 65535, None), (False, 0, None), (True, -2010, -2000), (False, 65530, 65535)],
)
def test_row_16_padding_becomes_the_rescaled_minimum(
    tmp_path: Path, is_signed: bool, stored: int, limit: int | None
) -> None:
    series = build_series(is_signed=is_signed, intercept=0.0 if is_signed else -1024.0)
    _pad(series, stored, limit)
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    find_note(scan, "padding")


def test_row_16_padding_of_signed_pixels_that_was_written_as_unsigned(tmp_path: Path) -> None:
    series = build_series(is_signed=True, intercept=0.0)
    _pad(series, -2000)
    for dataset in series.datasets:
        del dataset["PixelPaddingValue"]
        dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)
    check_exact(read(series.write(tmp_path / "in", syntax=ExplicitVRLittleEndian)).volume, series.slices)


def test_row_16_padding_in_an_implicit_file(tmp_path: Path) -> None:
    series = build_series(is_signed=True, intercept=0.0)
    _pad(series, -2000)
    check_exact(read(series.write(tmp_path / "in", syntax=ImplicitVRLittleEndian)).volume, series.slices)


def test_row_16_padding_in_an_enhanced_file(tmp_path: Path) -> None:
    series = build_enhanced("CT", is_signed=True, intercept=0.0)
    dataset = series.datasets[0]
    pixels = np.frombuffer(dataset.PixelData, "<i2").reshape(8, 7, 9).copy()
    pixels[:, :, :2] = -3024
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.add_new("PixelPaddingValue", "SS", -3024)
    lowest = min(truth.values[:, 2:].min() for truth in series.slices)
    for truth in series.slices:
        truth.values[:, :2] = lowest
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_row_16_padding_that_no_pixel_has_is_no_note(tmp_path: Path) -> None:
    series = build_series(is_signed=True, intercept=0.0)
    for dataset in series.datasets:
        dataset.add_new("PixelPaddingValue", "SS", -2000)
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    assert scan.notes == ()


def test_row_16_padding_does_not_bleed_into_a_tilted_volume(tmp_path: Path) -> None:
    series = build_series(
        shape=(14, 11, 9), directions=AXIAL, tilt_degrees=15.0, is_signed=True, intercept=0.0, tilt_along="rows"
    )
    lowest = min(truth.values.min() for truth in series.slices)
    for dataset in series.datasets:
        pixels = np.frombuffer(dataset.PixelData, "<i2").reshape(14, 11).copy()
        pixels[:2] = -2000
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.add_new("PixelPaddingValue", "SS", -2000)
    volume = read(series.write(tmp_path / "in")).volume
    assert volume.array.min() >= lowest - 1, "padding was interpolated with tissue before it was replaced"


# ---- row 17


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
    ids=lambda uid: uid.keyword,
)
@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
def test_row_17_the_same_voxels_in_every_transfer_syntax(tmp_path: Path, syntax: Any, is_signed: bool) -> None:
    if is_signed and syntax == JPEGLSLossless:
        pytest.skip("JPEG-LS keeps no signs; the encoder refuses")
    intercept = 0.0 if is_signed else -1024.0
    gradient = (2.7, -4.3, 11.1)
    series = build_series(shape=(36, 40, 3), is_signed=is_signed, intercept=intercept, offset=0.0, gradient=gradient)
    scan = read(series.write(tmp_path / "in", syntax=syntax))
    check_exact(scan.volume, series.slices)
    assert scan.notes == ()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless, ExplicitVRBigEndian], ids=lambda uid: uid.keyword)
def test_row_17_enhanced_files_in_other_transfer_syntaxes(tmp_path: Path, syntax: Any) -> None:
    series = build_enhanced("CT", shape=(36, 40, 3), order=[2, 0, 1], gradient=(2.7, -4.3, 11.1))
    check_exact(read(series.write(tmp_path / "in", syntax=syntax)).volume, series.slices)


@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
def test_row_17_jpeg_lossless(tmp_path: Path, is_signed: bool) -> None:
    series = build_series(shape=(36, 40, 3), gradient=(2.7, -4.3, 11.1), is_signed=is_signed)
    series.write(tmp_path / "plain")
    (tmp_path / "in").mkdir()
    for name in series.names:
        _encode_jpeg_lossless(tmp_path / "plain" / name, tmp_path / "in" / name)
    check_exact(read(tmp_path / "in").volume, series.slices)


def test_row_17_transfer_syntaxes_mixed_in_one_series(tmp_path: Path) -> None:
    series = build_series(shape=(36, 40, 6), gradient=(2.7, -4.3, 11.1))
    syntaxes = [ImplicitVRLittleEndian, JPEG2000Lossless, ExplicitVRBigEndian, RLELossless, JPEGLSLossless]
    for k, (dataset, name) in enumerate(zip(series.datasets, series.names, strict=True)):
        write_file(dataset, tmp_path / "in" / name, syntax=syntaxes[k % len(syntaxes)])
    check_exact(read(tmp_path / "in").volume, series.slices)


@pytest.mark.parametrize("table", ["basic", "none", "extended"])
@pytest.mark.parametrize("fragments", [1, 3])
def test_row_17_frames_in_several_fragments(tmp_path: Path, table: str, fragments: int) -> None:
    series = build_enhanced("CT", shape=(36, 40, 3), order=[2, 0, 1], gradient=(2.7, -4.3, 11.1))
    file = write_file(series.datasets[0], tmp_path / "one.dcm", syntax=JPEG2000Lossless)
    dataset = pydicom.dcmread(file)
    frames = [bytes(frame) for frame in generate_frames(dataset.PixelData, number_of_frames=3)]
    if table == "extended" and fragments == 1:
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            frames
        )
    else:
        dataset.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=table == "basic")
    dataset["PixelData"].VR = "OB"
    (tmp_path / "in").mkdir()
    dataset.save_as(tmp_path / "in/enhanced.dcm")
    scan = _read_or_refuse(tmp_path / "in", "enhanced.dcm")
    if scan is not None:
        check_exact(scan.volume, series.slices)
    else:  # without a table nobody can tell which fragments make a frame
        assert fragments > 1
        assert table != "basic"


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.100", "1.2.3.4.5"])
def test_row_17_an_encoding_that_nothing_decodes_is_named(tmp_path: Path, uid: str) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in", syntax=RLELossless)
    for name in series.names:
        data = (folder / name).read_bytes()
        old = b"1.2.840.10008.1.2.5\0"
        assert data.count(old) == 1
        start = data.index(old)
        new = uid.encode() + b"\0" * (len(uid) % 2)
        # The length of the value, and the length of the whole group at the start of the file meta information.
        group = int.from_bytes(data[140:144], "little") + len(new) - len(old)
        data = (
            data[:140]
            + group.to_bytes(4, "little")
            + data[144 : start - 2]
            + len(new).to_bytes(2, "little")
            + new
            + data[start + len(old) :]
        )
        (folder / name).write_bytes(data)
    names = re.compile("|".join(map(re.escape, series.names)))
    shown = re.escape(uid) + {"1.2.840.10008.1.2.4.110": "|JPEG XL", "1.2.840.10008.1.2.4.100": "|MPEG2"}.get(uid, "")
    refuse(folder, names, re.compile(shown))


def test_row_17_a_missing_codec_is_named_with_its_package(tmp_path: Path) -> None:
    series = build_series(shape=(36, 40, 3), gradient=(2.7, -4.3, 11.1))
    series.write(tmp_path / "in", syntax=JPEG2000Lossless)
    script = """
import sys
for name in ("pylibjpeg", "openjpeg", "libjpeg", "rle", "gdcm", "_gdcm", "PIL", "SimpleITK", "jpeg_ls", "imagecodecs"):
    sys.modules[name] = None
from medunet.errors import MedunetError
from medunet.io import read_scan
from medunet.io.scan import ReadOptions
try:
    read_scan(sys.argv[1], ReadOptions())
except MedunetError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "in")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pylibjpeg" in done.stdout
    assert re.search("JPEG ?2000|1.2.840.10008.1.2.4.90", done.stdout)
    assert re.search("|".join(map(re.escape, series.names)), done.stdout)
    assert_private(done.stdout + done.stderr)


@pytest.mark.realdata
def test_row_17_real_slices_in_five_encodings_are_the_same(real_data: Path) -> None:
    folder = real_data / "dicom/same-slices-many-encodings"
    plain = read(folder / "compressed").volume if (folder / "compressed").is_dir() else None
    volumes = {name: read(folder / f"compressed_{name}").volume for name in ("j2k", "jpeg", "jpegls", "rle")}
    reference = plain or volumes["rle"]
    for name, volume in volumes.items():
        np.testing.assert_allclose(volume.affine, reference.affine, atol=1e-4, err_msg=name)
        np.testing.assert_array_equal(volume.array, reference.array, err_msg=name)


# ---- row 18


@pytest.mark.parametrize("which", [3, 7], ids=["middle", "last"])
@pytest.mark.parametrize("keep", [0, 100, 140, 400, 900, -10, -1])
def test_row_18_a_cut_slice_is_named(tmp_path: Path, which: int, keep: int) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in")
    file = folder / series.names[which]
    file.write_bytes(file.read_bytes()[:keep])
    refuse(folder, series.names[which])


@pytest.mark.parametrize("keep", [0, 60, 140, 900, -100])
def test_row_18_a_cut_slice_without_extension_is_named(tmp_path: Path, keep: int) -> None:
    series = build_series(suffix="")
    folder = series.write(tmp_path / "in")
    file = folder / series.names[7]
    file.write_bytes(file.read_bytes()[:keep])
    refuse(folder, series.names[7])


@pytest.mark.parametrize("keep", [0, 60])
def test_row_18_a_cut_slice_whose_name_is_like_no_other_is_named(tmp_path: Path, keep: int) -> None:
    series = build_series()
    series.names = ["ceedfa", "a1", "b", "f00d", "dead", "c0ffee", "abba", "e5e"]
    folder = series.write(tmp_path / "in")
    (folder / "e5e").write_bytes((folder / "e5e").read_bytes()[:keep])
    refuse(folder, "e5e")


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("fraction", [0.5, 0.9])
def test_row_18_a_cut_compressed_slice_is_named(tmp_path: Path, syntax: Any, fraction: float) -> None:
    series = build_series(shape=(36, 40, 4), gradient=(2.7, -4.3, 11.1))
    folder = series.write(tmp_path / "in", syntax=syntax)
    file = folder / series.names[2]
    start = file.read_bytes().find(b"\xe0\x7f\x10\x00") if syntax != DeflatedExplicitVRLittleEndian else 400
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: int(start + (size - start) * fraction)])
    refuse(folder, series.names[2])


def test_row_18_a_cut_enhanced_file_is_named(tmp_path: Path) -> None:
    folder = build_enhanced("CT").write(tmp_path / "in")
    data = (folder / "enhanced.dcm").read_bytes()
    for keep in (60, 700, len(data) // 2, len(data) - 126, len(data) - 1):
        (folder / "enhanced.dcm").write_bytes(data[:keep])
        refuse(folder, "enhanced.dcm")


def test_row_18_a_slice_without_pixel_data_is_named(tmp_path: Path) -> None:
    series = build_series()
    del series.datasets[7].PixelData
    refuse(series.write(tmp_path / "in"), series.names[7])


def test_row_18_pixels_that_are_too_short_are_named(tmp_path: Path) -> None:
    series = build_series()
    series.datasets[7].PixelData = series.datasets[7].PixelData[:-2]
    series.datasets[7]["PixelData"].VR = "OW"
    refuse(series.write(tmp_path / "in"), series.names[7])


def test_row_18_a_cut_member_of_a_zip_is_named(tmp_path: Path) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in")
    file = folder / series.names[7]
    file.write_bytes(file.read_bytes()[:-20])
    refuse(zip_folder(folder, tmp_path / "in.zip"), "in.zip", series.names[7])


# ---- row 19

WRONG_VALUES: list[tuple[str, bytes | None]] = [
    ("ImagePositionPatient", None),
    ("ImagePositionPatient", b""),
    ("ImagePositionPatient", b"1\\2"),
    ("ImagePositionPatient", b"nan\\0\\0"),
    ("ImagePositionPatient", b"0\\inf\\0"),
    ("ImagePositionPatient", b"1\\CANARY^PATIENT\\3"),
    ("ImagePositionPatient", b"1e300\\0\\1"),
    ("ImageOrientationPatient", None),
    ("ImageOrientationPatient", b""),
    ("ImageOrientationPatient", b"1\\0\\0\\0\\1"),
    ("ImageOrientationPatient", b"nan\\0\\0\\0\\1\\0"),
    ("ImageOrientationPatient", b"0\\0\\0\\0\\0\\0"),
    ("ImageOrientationPatient", b"1\\0\\0\\1\\0\\0"),
    ("ImageOrientationPatient", b"1\\0\\0\\0.3\\1\\0"),
    ("ImageOrientationPatient", b"2\\0\\0\\0\\2\\0"),
    ("ImageOrientationPatient", b"1\\0\\0\\0\\CANARY\\0"),
    ("PixelSpacing", None),
    ("PixelSpacing", b""),
    ("PixelSpacing", b"0.8"),
    ("PixelSpacing", b"0\\1.3"),
    ("PixelSpacing", b"-0.8\\1.3"),
    ("PixelSpacing", b"nan\\1.3"),
    ("PixelSpacing", b"inf\\1.3"),
    ("PixelSpacing", b"CANARY\\1.3"),
    ("PixelSpacing", b"0,8\\1,3"),
    ("RescaleSlope", b"0"),
    ("RescaleSlope", b"nan"),
    ("RescaleSlope", b"inf"),
    ("RescaleSlope", b"CANARY"),
    ("RescaleIntercept", b"nan"),
    ("RescaleIntercept", b"CANARY"),
]


@pytest.mark.parametrize(
    ("keyword", "value", "which"),
    [(*wrong, "last") for wrong in WRONG_VALUES] + [(*wrong, "all") for wrong in WRONG_VALUES[::2]],
)
def test_row_19_a_wrong_value_is_named_with_tag_and_file(
    tmp_path: Path, keyword: str, value: bytes | None, which: str
) -> None:
    series = build_series(shape=(4, 5, 8))
    chosen = series.datasets if which == "all" else series.datasets[7:]
    for dataset in chosen:
        if value is None:
            del dataset[keyword]
        else:
            set_raw(dataset, keyword, value)
    names = series.names if which == "all" else series.names[7:]
    refuse(series.write(tmp_path / "in"), keyword, re.compile("|".join(map(re.escape, names))))


@pytest.mark.parametrize("keyword", ["PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"])
def test_row_19_an_enhanced_file_without_a_group(tmp_path: Path, keyword: str) -> None:
    series = build_enhanced("CT")
    dataset = series.datasets[0]
    groups = [dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence[4]]
    for group in groups:
        if keyword in group:
            del group[keyword]
    tags = {
        "PlanePositionSequence": "ImagePositionPatient",
        "PlaneOrientationSequence": "ImageOrientationPatient",
        "PixelMeasuresSequence": "PixelSpacing",
    }
    refuse(series.write(tmp_path / "in"), "enhanced.dcm", re.compile(f"{keyword}|{tags[keyword]}"))


def test_row_19_text_in_the_numbers_that_only_count_is_private(tmp_path: Path) -> None:
    series = build_series()
    for dataset in series.datasets:
        set_raw(dataset, "InstanceNumber", b"CANARY")
        set_raw(dataset, "SliceThickness", b"CANARY")
        set_raw(dataset, "ImagesInAcquisition", b"CANARY")
        set_raw(dataset, "AcquisitionTime", b"CANARY")
    scan = _read_or_refuse(series.write(tmp_path / "in"))
    if scan is not None:
        check_exact(scan.volume, series.slices)


# ---- row 20


def test_row_20_decimal_strings_longer_than_16_characters(tmp_path: Path) -> None:
    series = build_series()
    for dataset, truth in zip(series.datasets, series.slices, strict=True):
        position = "\\".join(f"{value:.17f}" for value in truth.plane[:3, 3])
        orientation = "\\".join(f"{value:.19f}" for value in [*OBLIQUE[:, 0], *OBLIQUE[:, 1]])
        set_raw(dataset, "ImagePositionPatient", position.encode())
        set_raw(dataset, "ImageOrientationPatient", orientation.encode())
        set_raw(dataset, "PixelSpacing", b"0.80000000000000000004\\1.30000000000000000004")
        set_raw(dataset, "RescaleSlope", b"1.00000000000000000000")
        set_raw(dataset, "RescaleIntercept", b"-1024.0000000000000000000")
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    np.testing.assert_allclose(np.sort(scan.volume.spacing), (0.8, 1.3, 2.5), atol=1e-6)


def test_row_20_exponents_signs_and_spaces_in_decimal_strings(tmp_path: Path) -> None:
    series = build_series(directions=AXIAL, origin=(-20.0, 30.0, -150.0))
    for dataset, truth in zip(series.datasets, series.slices, strict=True):
        x, y, z = truth.plane[:3, 3]
        set_raw(dataset, "ImagePositionPatient", f" {x:.6e} \\ +{y} \\{z:.6E} ".encode())
        set_raw(dataset, "PixelSpacing", b" 8.0e-1\\ +1.3 ")
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


# ---- row 21


@pytest.mark.parametrize("direction", [0, 1, 2], ids=["columns", "rows", "normal"])
def test_row_21_position_jitter_of_0_05_mm_is_accepted(tmp_path: Path, direction: int) -> None:
    series = build_series()
    shift = 0.05 * OBLIQUE[:, direction]
    series.datasets[3].ImagePositionPatient = to_ds(series.slices[3].plane[:3, 3] + shift)
    volume = read(series.write(tmp_path / "in")).volume
    check_linear(volume, series, tolerance=0.5 + 0.05 * np.linalg.norm(series.field.gradient))
    assert volume.spatial_shape == (9, 7, 8)


def test_row_21_noise_in_all_positions_is_accepted(tmp_path: Path) -> None:
    series = build_series(shape=(7, 9, 12))
    noise = np.random.default_rng(1).uniform(-0.024, 0.024, (12, 3))
    for dataset, truth, shift in zip(series.datasets, series.slices, noise, strict=True):
        dataset.ImagePositionPatient = to_ds(truth.plane[:3, 3] + OBLIQUE @ shift)
    volume = read(series.write(tmp_path / "in")).volume
    check_linear(volume, series, tolerance=0.5 + 0.05 * np.linalg.norm(series.field.gradient))
    assert volume.spatial_shape == (9, 7, 12)


@pytest.mark.parametrize("jitter", [1e-6, 3e-5])
def test_row_21_orientation_jitter_is_accepted(tmp_path: Path, jitter: float) -> None:
    series = build_series()
    rng = np.random.default_rng(2)
    for dataset in series.datasets:
        values = np.array([*OBLIQUE[:, 0], *OBLIQUE[:, 1]]) + rng.uniform(-jitter, jitter, 6)
        dataset.ImageOrientationPatient = to_ds(values)
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)


def test_row_21_orientation_and_position_rounded_by_the_scanner(tmp_path: Path) -> None:
    series = build_series()
    for dataset in series.datasets:
        dataset.ImageOrientationPatient = [f"{value:.6f}" for value in dataset.ImageOrientationPatient]
        dataset.ImagePositionPatient = [f"{value:.3f}" for value in dataset.ImagePositionPatient]
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


@pytest.mark.parametrize("direction", [0, 1], ids=["columns", "rows"])
def test_row_21_a_slice_displaced_sideways_by_1_mm_is_refused(tmp_path: Path, direction: int) -> None:
    series = build_series()
    shift = 1.0 * OBLIQUE[:, direction]
    series.datasets[3].ImagePositionPatient = to_ds(series.slices[3].plane[:3, 3] + shift)
    refuse(series.write(tmp_path / "in"), series.names[3])


# ---- row 22


@pytest.mark.parametrize("which", [0, 3, 7])
def test_row_22_another_patients_slice_is_refused(tmp_path: Path, which: int) -> None:
    series = build_series()
    series.datasets[which].PatientID = "CANARY-OTHER-ID"
    series.datasets[which].PatientName = "CANARY^OTHER"
    others = "|".join(re.escape(name) for name in series.names if name != series.names[which])
    refuse(series.write(tmp_path / "in"), "PatientID", series.names[which], re.compile(others))


def test_row_22_another_frame_of_reference_is_refused(tmp_path: Path) -> None:
    series = build_series()
    series.datasets[3].FrameOfReferenceUID = new_uid()
    others = "|".join(re.escape(name) for name in series.names if name != series.names[3])
    refuse(series.write(tmp_path / "in"), re.compile("FrameOfReference|frame of reference"), series.names[3],
           re.compile(others))  # fmt: skip


def test_row_22_no_frame_of_reference_at_all_is_read(tmp_path: Path) -> None:
    series = build_series()
    for dataset in series.datasets:
        del dataset.FrameOfReferenceUID
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    assert scan.stack is not None
    assert scan.stack.frame_of_reference_uid == ""


def test_row_22_two_patients_halves_of_one_series(tmp_path: Path) -> None:
    series = build_series()
    for dataset in series.datasets[4:]:
        dataset.PatientID = "CANARY-OTHER-ID"
    refuse(series.write(tmp_path / "in"), "PatientID", re.compile("IM0"))


def test_row_22_anonymised_files_without_any_patient_are_read(tmp_path: Path) -> None:
    series = build_series()
    for k, dataset in enumerate(series.datasets):
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "StudyDate",
            "StudyTime",
            "StudyID",
        ):
            if k % 2:
                setattr(dataset, keyword, "")
            else:
                del dataset[keyword]
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


# ---- row 23


def test_row_23_a_series_across_midnight_is_whole(tmp_path: Path) -> None:
    series = build_series()
    for k, dataset in enumerate(series.datasets):
        is_after = k >= 4
        dataset.AcquisitionDate = dataset.ContentDate = "20240518" if is_after else "20240517"
        dataset.AcquisitionTime = dataset.ContentTime = f"0000{k:02d}.25" if is_after else f"2359{50 + k}.75"
        dataset.SeriesTime = dataset.ContentTime
        dataset.SeriesDate = dataset.ContentDate
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    assert scan.notes == ()


# ---- row 24


NUMBERINGS = ["rising", "reversed", "interleaved", "shuffled"]


@pytest.mark.parametrize(
    ("directions", "numbering"), [(name, NUMBERINGS[k % 4]) for k, name in enumerate([*ORIENTATIONS, *ORIENTATIONS])]
)
def test_row_24_world_positions_are_exact(tmp_path: Path, directions: str, numbering: str) -> None:
    series = build_series(directions=ORIENTATIONS[directions], numbering=numbering, spacing=(0.8, 1.3, 2.5))
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    check_stack(scan, tmp_path / "in")


@pytest.mark.parametrize("spacing", [(0.5, 3.0, 0.7), (2.0, 0.3, 9.0), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("shape", [(3, 12, 5), (12, 3, 4), (1, 9, 6)])
def test_row_24_spacings_and_shapes(
    tmp_path: Path, spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    series = build_series(shape=shape, spacing=spacing, directions=ORIENTATIONS["oblique"])
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_row_24_frames_rise_along_the_normal(tmp_path: Path) -> None:
    series = build_series(numbering="shuffled")
    stack = read(series.write(tmp_path / "in")).stack
    assert stack is not None
    heights = [float(frame.plane[:3, 3] @ OBLIQUE[:, 2]) for frame in stack.frames]
    np.testing.assert_allclose(np.diff(heights), 2.5, atol=1e-6)
    assert [frame.file.path.name for frame in stack.frames] == series.names


def test_row_24_spacing_between_slices_may_lie(tmp_path: Path) -> None:
    series = build_series("MR")
    for k, dataset in enumerate(series.datasets):
        dataset.SpacingBetweenSlices, dataset.SliceLocation = "-9.9", str(100 - 50 * k)
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_row_24_instance_numbers_that_repeat_or_are_missing(tmp_path: Path) -> None:
    series = build_series()
    for k, dataset in enumerate(series.datasets):
        dataset.InstanceNumber = "1"
        if k % 2:
            del dataset.InstanceNumber
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


# ---- row 25


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda uid: uid.keyword)
def test_row_25_files_without_preamble_are_read_or_named(tmp_path: Path, syntax: Any) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in", syntax=syntax, is_part10=False)
    scan = _read_or_refuse(folder, re.compile("in"))
    if scan is not None:
        check_exact(scan.volume, series.slices)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_row_25_the_last_slice_without_preamble_is_never_lost(tmp_path: Path, syntax: Any, suffix: str) -> None:
    series = build_series(suffix=suffix)
    folder = series.write(tmp_path / "in")
    write_file(series.datasets[7], folder / series.names[7], syntax=syntax, is_part10=False)
    scan = _read_or_refuse(folder, series.names[7])
    if scan is not None:
        check_exact(scan.volume, series.slices)


def test_row_25_file_meta_information_without_preamble(tmp_path: Path) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in")
    file = folder / series.names[7]
    file.write_bytes(file.read_bytes()[132:])
    scan = _read_or_refuse(folder, series.names[7])
    if scan is not None:
        check_exact(scan.volume, series.slices)


def test_row_25_nested_folders_and_no_extension(tmp_path: Path) -> None:
    series = build_series(suffix="")
    for k, (dataset, name) in enumerate(zip(series.datasets, series.names, strict=True)):
        write_file(dataset, tmp_path / "in" / "a b" / f"ü{k % 3}" / name)
    check_exact(read(tmp_path / "in").volume, series.slices)


def test_row_25_the_same_name_in_two_folders(tmp_path: Path) -> None:
    series = build_series()
    for k, dataset in enumerate(series.datasets):
        write_file(dataset, tmp_path / "in" / str(k) / "I10")
    check_exact(read(tmp_path / "in").volume, series.slices)


@pytest.mark.parametrize("is_nested", [False, True])
def test_row_25_a_zip(tmp_path: Path, is_nested: bool) -> None:
    series = build_series(suffix="" if is_nested else ".dcm")
    folder = series.write(tmp_path / "in/one/two" if is_nested else tmp_path / "in")
    (folder / "notes.txt").write_text("CANARY")
    scan = read(zip_folder(tmp_path / "in", tmp_path / "in.zip"))
    check_exact(scan.volume, series.slices)
    assert scan.path == tmp_path / "in.zip"
    assert scan.stack is not None
    assert {frame.file.path for frame in scan.stack.frames} == {tmp_path / "in.zip"}
    assert all(frame.file.member for frame in scan.stack.frames)


def test_row_25_a_zip_of_compressed_slices(tmp_path: Path) -> None:
    series = build_series(shape=(36, 40, 3), gradient=(2.7, -4.3, 11.1))
    series.write(tmp_path / "in", syntax=JPEG2000Lossless)
    check_exact(read(zip_folder(tmp_path / "in", tmp_path / "in.zip")).volume, series.slices)


@pytest.mark.parametrize("start", ["DICOMDIR", ""])
def test_row_25_a_dicomdir(tmp_path: Path, start: str) -> None:
    series = build_series()
    write_dicomdir(series, tmp_path / "in")
    scan = read(tmp_path / "in" / start)
    check_exact(scan.volume, series.slices)


def test_row_25_a_dicomdir_that_lists_a_missing_file(tmp_path: Path) -> None:
    # The last slice: the positions alone show nothing.
    series = build_series()
    paths = write_dicomdir(series, tmp_path / "in")
    paths[7].unlink()
    refuse(tmp_path / "in/DICOMDIR", paths[7].name)


def test_row_25_what_lies_around_the_attributes_does_no_harm(tmp_path: Path) -> None:
    # A small picture with pixel data of its own before, padding and overlays behind those of the slice.
    series = build_series()
    for dataset in series.datasets:
        icon = Dataset()
        icon.Rows = icon.Columns = 4
        icon.SamplesPerPixel, icon.PhotometricInterpretation = 1, "MONOCHROME2"
        icon.BitsAllocated, icon.BitsStored, icon.HighBit, icon.PixelRepresentation = 8, 8, 7, 0
        icon.PixelData = bytes(range(16))
        icon["PixelData"].VR = "OB"
        icon.ImagePositionPatient = ["1", "2", "3"]
        dataset.IconImageSequence = [icon]
        dataset["IconImageSequence"].is_undefined_length = True
        dataset.add_new(0x60003000, "OW", bytes(8))
        dataset.DataSetTrailingPadding = bytes(64)
    scan = read(series.write(tmp_path / "in"))
    check_exact(scan.volume, series.slices)
    assert scan.notes == ()


def test_row_25_attributes_whose_type_a_router_forgot(tmp_path: Path) -> None:
    series = build_series()
    keywords = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
    for dataset in series.datasets:
        for keyword in keywords:
            value = dataset[keyword].value
            text = (
                "\\".join(map(str, value)) if hasattr(value, "__iter__") and not isinstance(value, str) else str(value)
            )
            set_raw(dataset, keyword, text.encode(), vr="UN")
    scan = _read_or_refuse(series.write(tmp_path / "in"), re.compile("IM0"))
    if scan is not None:
        check_exact(scan.volume, series.slices)


# ---- row 26


def test_row_26_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    refuse(tmp_path / "void", "no DICOM images", "void", count_of(0))


def test_row_26_a_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    for k in range(3):
        (tmp_path / "in/deep" / f"{k}.txt").write_text("CANARY^PATIENT")
    refuse(tmp_path / "in", "no DICOM images", "in", count_of(3))


def test_row_26_a_folder_of_reports_only(tmp_path: Path) -> None:
    series = build_series()
    report = build_without_pixels(series, "1.2.840.10008.5.1.4.1.1.88.33", "SR")
    write_file(report, tmp_path / "in/report.dcm")
    refuse(tmp_path / "in", "no DICOM images", count_of(1))


def test_row_26_a_path_that_does_not_exist(tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "nowhere")


def test_row_26_an_empty_zip(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    refuse(zip_folder(tmp_path / "in", tmp_path / "void.zip"), "no DICOM images", "void.zip")


@pytest.mark.parametrize("which", [0, 7])
def test_row_26_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in")
    _deny(monkeypatch, folder / series.names[which])
    refuse(folder, series.names[which], re.compile("permission|not be read|cannot", re.IGNORECASE))


def test_row_26_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = build_series()
    series.write(tmp_path / "in/open")
    (tmp_path / "in/locked").mkdir()
    _deny(monkeypatch, tmp_path / "in/locked")
    refuse(tmp_path / "in", "locked")


# ---- the rules, clause by clause, as far as no row above has them


def test_rule_grouped_by_study_too(tmp_path: Path) -> None:
    first = build_series(prefix="A", description="first")
    second = build_series(prefix="B", description="second", offset=800.0)
    for dataset in second.datasets:
        dataset.SeriesInstanceUID = first.datasets[0].SeriesInstanceUID
    first.write(tmp_path / "in")
    second.write(tmp_path / "in")
    refuse(tmp_path / "in", "first", "second")


def test_rule_two_studies_with_one_series_uid_are_not_joined_end_to_end(tmp_path: Path) -> None:
    series, other = build_series(), new_uid()
    for dataset in series.datasets[4:]:
        dataset.StudyInstanceUID = other
    refuse(series.write(tmp_path / "in"))


def test_rule_other_rows_and_columns_are_another_group(tmp_path: Path) -> None:
    series = build_series()
    truth = series.slices[7]
    truth.values = np.zeros((7, 11))
    set_pixels(series.datasets[7], truth, series.field, 1.0, -1024.0)
    scan = _read_or_refuse(series.write(tmp_path / "in"), series.names[7])
    if scan is not None:
        check_exact(scan.volume, series.slices[:7])
        find_note(scan, series.names[7])


def test_rule_an_orientation_that_differs_by_more_than_1e_4_is_not_stacked(tmp_path: Path) -> None:
    series = build_series(directions=AXIAL)
    for dataset in series.datasets[4:]:
        dataset.ImageOrientationPatient = to_ds([np.cos(0.01), np.sin(0.01), 0, -np.sin(0.01), np.cos(0.01), 0])
    refuse(series.write(tmp_path / "in"), "orientation")


def test_rule_the_last_slice_turned_by_half_a_degree_is_not_lost_in_silence(tmp_path: Path) -> None:
    series = build_series(directions=AXIAL)
    series.datasets[7].ImageOrientationPatient = to_ds([np.cos(0.01), np.sin(0.01), 0, -np.sin(0.01), np.cos(0.01), 0])
    scan = _read_or_refuse(series.write(tmp_path / "in"), "orientation", series.names[7])
    if scan is not None:
        check_exact(scan.volume, series.slices[:7])
        find_note(scan, series.names[7])


def test_rule_derived_images_of_the_series_are_not_stacked_with_the_original(tmp_path: Path) -> None:
    # Dixon: water and fat in one series, told apart by the image type alone.
    first = build_series("MR", prefix="A")
    second = build_series("MR", prefix="B", offset=500.0, like=first)
    for dataset in first.datasets:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "WATER"]
    for dataset in second.datasets:
        dataset.SeriesInstanceUID = first.datasets[0].SeriesInstanceUID
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "FAT"]
    first.write(tmp_path / "in")
    second.write(tmp_path / "in")
    refuse(tmp_path / "in", "WATER", "FAT", VOLUME_INDEX)
    found = [read(tmp_path / "in", volume_index=index).volume for index in (0, 1)]
    offsets = sorted(float(volume.array.mean()) for volume in found)
    assert offsets == pytest.approx([300.0, 500.0], abs=1.0)


def test_rule_two_sop_classes_are_not_stacked(tmp_path: Path) -> None:
    series = build_series("CT", shape=(7, 9, 8))
    other = build_series("MR", shape=(7, 9, 8), prefix="MR", like=series)
    for k in range(4, 8):
        dataset = other.datasets[k]
        dataset.SeriesInstanceUID = series.datasets[0].SeriesInstanceUID
        series.datasets[k], series.names[k] = dataset, other.names[k]
    refuse(series.write(tmp_path / "in"), re.compile("SOP|class|modalit|CT", re.IGNORECASE))


@pytest.mark.parametrize("change", [("0.8", "1.4"), ("0.9", "1.3")])
def test_rule_pixel_spacing_is_the_same_in_all_slices(tmp_path: Path, change: tuple[str, str]) -> None:
    series = build_series()
    series.datasets[3].PixelSpacing = list(change)
    others = "|".join(re.escape(name) for name in series.names if name != series.names[3])
    value = next(value for value, usual in zip(change, ("0.8", "1.3"), strict=True) if value != usual)
    refuse(series.write(tmp_path / "in"), "PixelSpacing", series.names[3], re.compile(others), number(float(value)))


@pytest.mark.parametrize(("spacing", "error", "is_fine"), [(10.0, 0.09, True), (10.0, 0.3, False), (1.0, 0.2, False)])
def test_rule_the_tolerance_is_one_percent_or_0_05_mm(
    tmp_path: Path, spacing: float, error: float, is_fine: bool
) -> None:
    positions = np.arange(8) * spacing
    positions[4:] += error
    series = build_series(positions=positions, gradient=(1.7, -2.3, 4.1))
    folder = series.write(tmp_path / "in")
    if is_fine:
        assert read(folder).volume.spatial_shape == (9, 7, 8)
    else:
        refuse(folder, series.names[3], series.names[4], number(spacing), number(spacing + error))


def test_rule_small_steps_that_add_up_are_not_hidden(tmp_path: Path) -> None:
    # Each step is within 0.05 mm of the median, but an even grid would be 0.9 mm wrong in the middle.
    positions = np.concatenate([[0], np.cumsum([2.45] * 20 + [2.55] * 20)])
    series = build_series(shape=(4, 5, 41), positions=positions, gradient=(1.7, -2.3, 7.1))
    scan = _read_or_refuse(series.write(tmp_path / "in"), ALLOW_GAPS)
    if scan is not None:
        points = np.concatenate([truth.ras_points.reshape(-1, 3) for truth in series.slices])
        centres = voxel_centres(scan.volume).reshape(-1, 3)
        order = [np.argsort(np.round(part @ series.field.gradient, 6)) for part in (points, centres)]
        distances = np.linalg.norm(points[order[0]] - centres[order[1]], axis=1)
        assert distances.max() < 0.2 or scan.notes


def test_rule_a_tilt_below_half_a_degree_keeps_every_voxel_at_its_place(tmp_path: Path) -> None:
    series = build_series(shape=(7, 9, 16), spacing=(0.8, 1.3, 5.0), tilt_degrees=0.4, gradient=(4.7, -6.3, 9.1))
    volume = read(series.write(tmp_path / "in")).volume
    check_linear(volume, series, tolerance=0.5 + 0.05 * np.linalg.norm(series.field.gradient))


def test_rule_slices_far_from_the_origin_keep_their_place(tmp_path: Path) -> None:
    series = build_series(origin=(-1200.5, 830.25, -2950.125))
    check_exact(read(series.write(tmp_path / "in")).volume, series.slices)


def test_rule_two_slices_are_a_volume_or_refused(tmp_path: Path) -> None:
    series = build_series(shape=(7, 9, 2))
    scan = _read_or_refuse(series.write(tmp_path / "in"), count_of(2))
    if scan is not None:
        check_exact(scan.volume, series.slices)


def test_rule_decompressed_values_do_not_depend_on_the_order_of_reading(tmp_path: Path) -> None:
    series = build_series(numbering="shuffled")
    first = read(series.write(tmp_path / "a")).volume
    series.names = [f"z{k}" for k in range(8)][::-1]
    second = read(series.write(tmp_path / "b")).volume
    np.testing.assert_array_equal(first.array, second.array)
    np.testing.assert_array_equal(first.affine, second.affine)


# ---- helpers


def _read_or_refuse(folder: Path, *expected: Any, **options: Any) -> Any:
    """For cases that may be read right or refused, but nothing between: the scan, or None after a proper error."""
    from medunet.errors import MedunetError

    try:
        return read(folder, **options)
    except MedunetError:
        refuse(folder, *expected, **options)
        return None


def _check_labels_of_the_field(scan: Any, series: Series, folder: Path) -> None:
    """A half space on the grid becomes the same half space on the slices, save within one voxel of its border."""
    assert scan.stack is not None
    law = series.field
    for threshold_at in (0.35, 0.5, 0.7):
        field_values = np.concatenate([law(truth.ras_points).ravel() for truth in series.slices])
        threshold = float(np.quantile(field_values, threshold_at))
        labels = (law(voxel_centres(scan.volume)) > threshold).astype(np.uint8)
        frames = scan.stack.labels_to_frames(labels)
        spacing = np.abs(scan.volume.affine[:3, :3].T @ np.asarray(law.gradient))
        by_name = dict(zip(series.names, series.slices, strict=True))
        assert len(frames) == len(scan.stack.frames) == len(series.slices)
        num_decided = 0
        for frame, found in zip(scan.stack.frames, frames, strict=True):
            truth = by_name[frame.file.path.name]
            distance = law(truth.ras_points) - threshold
            is_decided = np.abs(distance) > spacing.sum() / 2 + 1e-6
            num_decided += int(is_decided.sum())
            np.testing.assert_array_equal(found[is_decided], (distance > 0)[is_decided])
        assert num_decided > 0.25 * len(field_values)


def _encode_jpeg_lossless(source: Path, target: Path) -> None:
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(target))
    assert writer.Write()
    assert pydicom.dcmread(target, stop_before_pixels=True).file_meta.TransferSyntaxUID == JPEGLosslessSV1


def _deny(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Make a path unreadable; tests may run as root, whom file modes do not stop."""
    import builtins
    import io
    import os

    def is_denied(name: Any) -> bool:
        return isinstance(name, str | os.PathLike) and Path(name) == path

    def deny(function: Callable[..., Any]) -> Callable[..., Any]:
        def denied(name: Any = ".", *args: Any, **kwargs: Any) -> Any:
            if is_denied(name):
                raise PermissionError(13, "Permission denied", str(path))
            return function(name, *args, **kwargs)

        return denied

    monkeypatch.setattr(builtins, "open", deny(builtins.open))
    monkeypatch.setattr(io, "open", deny(io.open))
    for name in ("open", "scandir", "listdir"):
        monkeypatch.setattr(os, name, deny(getattr(os, name)))
