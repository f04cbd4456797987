"""Series whose attributes contradict each other or their pixels: read right, said, or refused; never silently wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import JPEGLSLossless, RLELossless
from synthetic_series import build_enhanced, build_series, check_exact, new_uid, read, refuse, write_file

from medunet.io.dicom.content import find_objects


def _replace_bytes(folder: Path, names: list[str], old: bytes, new: bytes) -> None:
    for name in names:
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))


def test_explicit_attributes_under_an_implicit_transfer_syntax(tmp_path: Path) -> None:
    series = build_series("CT")
    folder = series.write(tmp_path / "in")
    _replace_bytes(folder, series.names, b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0")
    check_exact(read(folder).volume, series.slices)


def test_compressed_pixels_under_an_uncompressed_transfer_syntax_are_refused(tmp_path: Path) -> None:
    series = build_series("CT")
    folder = series.write(tmp_path / "in", syntax=RLELossless)
    _replace_bytes(folder, series.names, b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0")
    refuse(folder, series.names[0][:2], "compressed", "transfer syntax")


def test_row_02_parts_of_a_concatenation_are_missed(tmp_path: Path) -> None:
    whole = build_enhanced("CT", shape=(7, 9, 9)).datasets[0]
    num_bytes = 7 * 9 * 2
    (tmp_path / "in").mkdir()
    for part in (1, 2):
        first = 3 * (part - 1)
        dataset = copy.deepcopy(whole)
        dataset.PerFrameFunctionalGroupsSequence = list(whole.PerFrameFunctionalGroupsSequence)[first : first + 3]
        dataset.PixelData = whole.PixelData[first * num_bytes : (first + 3) * num_bytes]
        dataset["PixelData"].VR = "OW"
        dataset.NumberOfFrames, dataset.SOPInstanceUID = "3", new_uid()
        dataset.ConcatenationUID, dataset.InConcatenationNumber, dataset.InConcatenationTotalNumber = "1.2.3.4", part, 3
        write_file(dataset, tmp_path / f"in/part{part}.dcm")
    refuse(tmp_path / "in", "3 parts", "2 of them")


@pytest.mark.parametrize("index", [1, 5])
def test_a_volume_index_does_not_choose_among_series(tmp_path: Path, index: int) -> None:
    first = build_series("MR")
    second = build_series("MR", like=first, offset=500.0, prefix="JM")
    for value, series in ((0.0, first), (1000.0, second)):
        for dataset in series.datasets:
            dataset.SeriesInstanceUID = first.datasets[0].SeriesInstanceUID
            dataset.DiffusionBValue = value
        series.write(tmp_path / "in")
    build_series("MR", like=first, number=7, prefix="KM").write(tmp_path / "in")
    refuse(tmp_path / "in", "2 series", "--series", volume_index=index)


def test_row_22_a_slice_of_another_study_is_refused(tmp_path: Path) -> None:
    series = build_series()
    series.datasets[7].StudyInstanceUID = new_uid()
    refuse(series.write(tmp_path / "in"), series.names[7], "StudyInstanceUID")


@pytest.mark.parametrize(
    ("bits", "is_signed", "value", "vr"),
    [(16, True, 63536, "US"), (12, True, 63536, "US"), (16, False, -2000, "SS"), (12, False, 63536, "US")],
)
def test_row_16_padding_in_every_spelling(tmp_path: Path, bits: int, is_signed: bool, value: int, vr: str) -> None:
    series = build_series("CT", bits=bits, is_signed=is_signed, gradient=(2, -3, 4))
    lowest = min(int(truth.values.ravel()[3:].min()) for truth in series.slices)
    for dataset, truth in zip(series.datasets, series.slices, strict=True):
        stored = np.frombuffer(dataset.PixelData, "<u2").copy()
        stored[:3] = -2000 & 0xFFFF
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.add_new(0x00280120, vr, value)
        truth.values[0, :3] = lowest
    scan = read(series.write(tmp_path / "in"))
    assert any("24 voxels hold the padding value" in note for note in scan.notes)
    assert scan.volume.array.min() == lowest
    check_exact(scan.volume, series.slices)


def test_row_16_a_tilted_series_with_a_slice_of_padding(tmp_path: Path) -> None:
    series = build_series("CT", tilt_degrees=12.0)
    stored = np.full(np.frombuffer(series.datasets[0].PixelData, "<u2").shape, 0, "<u2")
    series.datasets[0].PixelData = stored.tobytes()
    series.datasets[0]["PixelData"].VR = "OW"
    for dataset in series.datasets:
        dataset.add_new(0x00280120, "US", 0)
    scan = read(series.write(tmp_path / "in"))
    assert scan.volume.array.min() > -1024  # the padding itself
    assert any("63 voxels" in note for note in scan.notes)


def test_row_15_bits_that_a_decoder_has_cut_are_refused(tmp_path: Path) -> None:
    series = build_series(bits=12)
    for dataset in series.datasets:
        dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") << 4).astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.HighBit = 15
    refuse(series.write(tmp_path / "in", syntax=RLELossless), "HighBit")


def _add_to_type(volume: int, index: int) -> dict[str, Any]:
    return {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"] + (["ADD"] if (volume + index) % 2 else [])}


def _alternate_times(volume: int, index: int) -> dict[str, Any]:
    return {"AcquisitionTime": ["101500", "101501"][(volume + index) % 2]}


@pytest.mark.parametrize("cross", [_add_to_type, _alternate_times])
def test_row_06_an_attribute_that_crosses_the_volumes_does_not_mix_them(
    tmp_path: Path, cross: Callable[[int, int], dict[str, Any]]
) -> None:
    first = build_series("CT")
    second = build_series("CT", like=first, offset=400.0, prefix="V")
    for volume, series in enumerate((first, second)):
        for index, dataset in enumerate(series.datasets):
            dataset.SeriesInstanceUID = first.datasets[0].SeriesInstanceUID
            dataset.KVP = ("80", "140")[volume]
            for keyword, value in cross(volume, index).items():
                setattr(dataset, keyword, value)
        series.write(tmp_path / "in")
    for index, series in enumerate((first, second)):
        check_exact(read(tmp_path / "in", volume_index=index).volume, series.slices)


def test_row_06_a_chosen_volume_that_lacks_its_end_says_so(tmp_path: Path) -> None:
    first = build_series("MR")
    second = build_series("MR", like=first, offset=500.0, prefix="JM")
    for value, series in ((0.0, first), (1000.0, second)):
        for dataset in series.datasets:
            dataset.SeriesInstanceUID = first.datasets[0].SeriesInstanceUID
            dataset.DiffusionBValue = value
    second.drop(7)
    second.drop(6)
    first.write(tmp_path / "in")
    second.write(tmp_path / "in")
    scan = read(tmp_path / "in", volume_index=1)
    assert any("may be incomplete" in note for note in scan.notes), scan.notes


@pytest.mark.parametrize(
    ("keyword", "values"), [("KVP", ("80", "140")), ("FlipAngle", ("10", "30")), ("Units", ("BQML", "CNTS"))]
)
def test_row_06_half_of_the_slices_measured_otherwise_are_refused(
    tmp_path: Path, keyword: str, values: tuple[str, str]
) -> None:
    series = build_series("MR")
    for index, dataset in enumerate(series.datasets):
        setattr(dataset, keyword, values[index % 2])
    refuse(series.write(tmp_path / "in"), keyword)


def test_row_07_a_slice_that_is_mirrored_in_its_plane_is_no_scout(tmp_path: Path) -> None:
    series = build_series()
    orientation = [float(number) for number in series.datasets[7].ImageOrientationPatient]
    series.datasets[7].ImageOrientationPatient = [-number for number in orientation]
    refuse(series.write(tmp_path / "in"), series.names[7])


def test_row_12_a_ct_without_rescale_says_so(tmp_path: Path) -> None:
    series = build_series("CT")
    for dataset in series.datasets:
        del dataset.RescaleSlope, dataset.RescaleIntercept
    assert any("may be no HU" in note for note in read(series.write(tmp_path / "in")).notes)


def test_row_42_a_small_stream_of_a_huge_picture_is_refused(tmp_path: Path) -> None:
    dataset = build_series("MR", shape=(4, 4, 1)).datasets[0]
    dataset.Rows = dataset.Columns = 6000
    dataset.PixelData = bytes(6000 * 6000 * 2)
    dataset["PixelData"].VR = "OW"
    write_file(dataset, tmp_path / "bomb.dcm", syntax=JPEGLSLossless)
    refuse(tmp_path / "bomb.dcm", "bomb.dcm", "would decode")


def test_a_hidden_slice_is_read(tmp_path: Path) -> None:
    series = build_series()
    folder = series.write(tmp_path / "in")
    (folder / series.names[7]).rename(folder / ".slice8.dcm")
    check_exact(read(folder).volume, series.slices)


def test_a_reference_that_is_no_sequence_names_no_series(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", new_uid()
    dataset.add_new(0x00081115, "LO", "not a sequence")
    write_file(dataset, tmp_path / "seg.dcm")
    (found,) = find_objects(tmp_path)
    assert (found.path, found.kind, found.series) == (tmp_path / "seg.dcm", "SEG", "")


def test_row_13_two_slopes_are_refused(tmp_path: Path) -> None:
    series = build_series("CT")
    series.datasets[3].RescaleSlope = ["1", "2"]
    refuse(series.write(tmp_path / "in"), series.names[3], "RescaleSlope", "2 values")
