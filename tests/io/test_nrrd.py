"""NRRD files are read as SimpleITK reads them or refused; segments written for 3D Slicer come back voxel for voxel."""

from __future__ import annotations

import bz2
import gzip
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name that its manual uses
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.errors import LabelError, OutputError, VolumeError
from medunet.io.nrrd_read import read_nrrd, read_nrrd_structures
from medunet.io.nrrd_write import write_nrrd_image, write_nrrd_labels
from medunet.io.structures import Code, Structure, StructureSet, from_label_map, from_masks
from medunet.palette import get_color
from medunet.volume import Volume

CANARY = "Canary^Patient"
PROSTATE = Code(value="41216001", meaning="Prostate")
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([0.7, -1.2, 3.0]), [-31.0, 12.5, 40.25]
)
SHORTS = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6)
GEOMETRY = {
    "space": "left-posterior-superior",
    "space directions": "(0,2,0) (-0.6,0,0.8) (2.4,0,1.8)",
    "space origin": "(1,-2,3.5)",
}
# Columns are the three directions; x and y change sign on the way to RAS.
EXPECTED_AFFINE = [[0, 0.6, -2.4, -1], [-2, 0, 0, 2], [0, 0.8, 1.8, 3.5], [0, 0, 0, 1]]
PACK = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}


def build_nrrd(voxels: Any = SHORTS, encoding: str = "raw", data: bytes | None = None, **fields: Any) -> bytes:
    """An NRRD file; ``voxels`` is fastest axis first; a field of None is left out, ``_`` stands for a space."""
    names = {"i1": "int8", "u1": "uchar", "i2": "short", "u2": "uint16", "i4": "int", "u4": "unsigned int",
             "i8": "long long", "u8": "uint64", "f4": "float", "f8": "double"}  # fmt: skip
    lines = {
        "type": names[voxels.dtype.str[1:]],
        "dimension": voxels.ndim,
        "sizes": " ".join(map(str, voxels.shape)),
        "endian": "big" if voxels.dtype.str[0] == ">" else "little",
        "encoding": encoding,
        **GEOMETRY,
        **{field.replace("_", " "): value for field, value in fields.items()},
    }
    header = ["NRRD0005", "# a comment", *(f"{field}: {value}" for field, value in lines.items() if value is not None)]
    stored = PACK[encoding](voxels.tobytes(order="F")) if data is None else data
    return "\n".join([*header, "", ""]).encode() + stored


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read_with_itk(path: Path) -> Volume:
    """The same through SimpleITK, in its own words."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    channels = array[..., None] if array.ndim == 3 else array
    return Volume(channels.transpose(3, 2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i2", ">u2", "<i4", ">u4", "<i8", ">u8", "<f4", ">f8"])
def test_every_type_and_encoding_is_read(tmp_path: Path, dtype: str, encoding: str) -> None:
    limits = np.finfo("f4") if "f" in dtype else np.iinfo(dtype)
    voxels = np.array([limits.min, limits.max, 0, 1, 2, 3], dtype=dtype).reshape(1, 2, 3)
    volume = read_nrrd(write(tmp_path / "image.nrrd", build_nrrd(voxels, encoding)))
    np.testing.assert_array_equal(volume.array[0], voxels)
    assert volume.array.dtype == (np.float32 if "f" in dtype else voxels.dtype.newbyteorder("="))
    np.testing.assert_allclose(volume.affine, EXPECTED_AFFINE, atol=1e-12)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("RAS", (1, 1, 1)), ("right-anterior-superior", (1, 1, 1)), ("las", (-1, 1, 1)),
        ("Left-Anterior-Superior", (-1, 1, 1)), ("LPS", (-1, -1, 1)), ("left-posterior-superior", (-1, -1, 1)),
    ],
)  # fmt: skip
def test_every_space_that_knows_the_patient_becomes_ras(
    tmp_path: Path, space: str, signs: tuple[int, int, int]
) -> None:
    path = write(tmp_path / "image.nrrd", build_nrrd(space=space))
    expected = np.diag([*signs, 1]) @ np.diag([-1, -1, 1, 1]) @ np.array(EXPECTED_AFFINE)
    np.testing.assert_allclose(read_nrrd(path).affine, expected, atol=1e-12)
    np.testing.assert_allclose(read_with_itk(path).affine, expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["list", "vector", "RGB-color", "3-vector"])
@pytest.mark.parametrize("axis", [0, 3])
def test_channels_come_first_or_last(tmp_path: Path, axis: int, kind: str) -> None:
    voxels = np.arange(3 * 4 * 5 * 6, dtype=np.uint16).reshape(3, 4, 5, 6)
    directions, kinds = GEOMETRY["space directions"].split(), ["domain"] * 3
    directions.insert(axis, "none")
    kinds.insert(axis, kind)
    stored = np.moveaxis(voxels, 0, axis)
    content = build_nrrd(stored, space_directions=" ".join(directions), kinds=" ".join(kinds))
    path = write(tmp_path / "image.nrrd", content)
    volume = read_nrrd(path)
    np.testing.assert_array_equal(volume.array, voxels)
    np.testing.assert_allclose(volume.affine, EXPECTED_AFFINE, atol=1e-12)
    np.testing.assert_array_equal(read_with_itk(path).array, voxels)
    one = read_nrrd(path, volume_index=2)
    np.testing.assert_array_equal(one.array, voxels[2:])
    with pytest.raises(VolumeError, match=r"holds 3 volume\(s\); volume 3 was asked for.*from 0 to 2"):
        read_nrrd(path, volume_index=3)


def test_a_time_axis_without_directions_becomes_channels(tmp_path: Path) -> None:
    voxels = np.arange(4 * 5 * 6 * 2, dtype=np.uint8).reshape(4, 5, 6, 2)
    fields = dict.fromkeys(GEOMETRY) | {"spacings": "1 2 3 nan", "kinds": "space space space time"}
    volume = read_nrrd(write(tmp_path / "image.nrrd", build_nrrd(voxels, **fields)))
    np.testing.assert_array_equal(volume.array, np.moveaxis(voxels, 3, 0))
    np.testing.assert_array_equal(np.diag(volume.affine), [-1, -2, 3, 1])


def test_spacings_alone_lie_along_lps_with_a_warning(tmp_path: Path, caplog: Any) -> None:
    path = write(tmp_path / "image.nrrd", build_nrrd(**dict.fromkeys(GEOMETRY), spacings="0.5 2 3"))
    assert "orientation and position are guessed" not in caplog.text
    np.testing.assert_array_equal(read_nrrd(path).affine, np.diag([-0.5, -2, 3, 1]))
    assert "orientation and position are guessed" in caplog.text
    np.testing.assert_array_equal(read_with_itk(path).affine, read_nrrd(path).affine)


@pytest.mark.parametrize("missing", ["space", "space origin"])
def test_a_part_of_the_geometry_that_is_missing_is_said(tmp_path: Path, caplog: Any, missing: str) -> None:
    path = write(tmp_path / "image.nrrd", build_nrrd(**{missing: None}))
    expected = np.array(EXPECTED_AFFINE, dtype=float)
    if missing == "space origin":
        expected[:3, 3] = 0
    np.testing.assert_allclose(read_nrrd(path).affine, expected, atol=1e-12)
    assert f"says no '{missing}'" in caplog.text


def test_lengths_in_other_units_become_millimetres(tmp_path: Path) -> None:
    path = write(tmp_path / "image.nrrd", build_nrrd(space_units='"um" "um" "um"'))
    expected = np.diag([1e-3, 1e-3, 1e-3, 1]) @ np.array(EXPECTED_AFFINE)
    np.testing.assert_allclose(read_nrrd(path).affine, expected, atol=1e-15)
    fields: dict[str, Any] = dict.fromkeys(GEOMETRY) | {"spacings": "1 2 3", "units": '"cm" "cm" "mm"'}
    path = write(tmp_path / "image.nrrd", build_nrrd(**fields))
    np.testing.assert_array_equal(np.diag(read_nrrd(path).affine), [-10, -20, 3, 1])


def test_a_slice_gets_a_third_axis(tmp_path: Path) -> None:
    voxels = SHORTS[:, :, 0]
    content = build_nrrd(voxels, space_directions="(0,2,0) (-0.6,0,0.8)")
    volume = read_nrrd(write(tmp_path / "slice.nrrd", content))
    np.testing.assert_array_equal(volume.array, voxels[None, ..., None])
    np.testing.assert_allclose(volume.affine[:, :2], np.array(EXPECTED_AFFINE)[:, :2], atol=1e-12)
    np.testing.assert_allclose(volume.affine[:3, 2], [-0.8, 0, 0.6], atol=1e-12)  # (1.6, 0, 1.2) / 2, x turned
    flat = build_nrrd(voxels, space=None, space_dimension=2, space_directions="(3,0) (0,2)", space_origin="(5,6)")
    expected = [[-3, 0, 0, -5], [0, -2, 0, -6], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(read_nrrd(write(tmp_path / "flat.nrrd", flat)).affine, expected)


def test_voxels_in_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    raw = SHORTS.tobytes(order="F")
    (tmp_path / "deep" / "my voxels.raw").write_bytes(b"two\nlines\n" + b"1234" + raw)
    (tmp_path / "end.raw").write_bytes(b"of any length" + raw)
    (tmp_path / "voxels.raw.gz").write_bytes(b"a line\n" + gzip.compress(b"12" + raw))
    for fields in (
        {"data file": "deep/my voxels.raw", "line skip": 2, "byte skip": 4},
        {"datafile": "end.raw", "byteskip": -1},
        {"data file": "voxels.raw.gz", "encoding": "gz", "line skip": 1, "byte skip": 2},
    ):
        content = build_nrrd(data=b"", **fields)
        path = write(tmp_path / "image.nhdr", content[:-1])  # a detached header needs no empty line
        np.testing.assert_array_equal(read_nrrd(path).array[0], SHORTS)
        np.testing.assert_array_equal(read_with_itk(path).array[0], SHORTS)


def test_a_header_with_windows_line_ends(tmp_path: Path) -> None:
    header, _, _ = build_nrrd().partition(b"\n\n")
    raw = SHORTS.tobytes(order="F")
    path = write(tmp_path / "image.nrrd", header.replace(b"\n", b"\r\n") + b"\r\n\r\n" + raw)
    np.testing.assert_array_equal(read_nrrd(path).array[0], SHORTS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": "scanner-xyz"}, "does not say where the patient's right is; expected RAS, LAS or LPS"),
        ({"space": "3D-right-handed"}, "does not say where the patient's right is"),
        ({"space": "right-anterior-superior-time"}, "does not say where the patient's right is"),
        ({"space units": '"px" "px" "px"'}, r"has spaceunits = \['px', 'px', 'px'\]"),
        ({"spacings": "1 2 3"}, "both 'spacings' and 'space directions'"),
        ({"space directions": "(0,2,0) (2,0,0)"}, "has 2 'space directions' for 3 axes"),
        ({"space directions": "(0,2,0) (2,0,0) none", "kinds": "domain domain domain"}, "'domain' no direction"),
        ({"kinds": "list domain domain"}, "'list' a direction"),
        ({"kinds": "domain domain complex"}, "an axis of kind 'complex'"),
        ({"kinds": "domain domain"}, "2 kinds for 3 axes"),
        ({"encoding": "ascii"}, "encoding 'ascii'; expected raw, gzip or bzip2"),
        ({"encoding": None}, "no field 'encoding'"),
        ({"endian": None}, "no field 'endian'"),
        ({"endian": "middle"}, "endian = 'middle'"),
        ({"type": "block"}, "type 'block'; expected an integer or float"),
        ({"Sizes": "6 5 4"}, "the field 'sizes' twice"),
        ({"data file": "LIST"}, "over several files"),
        ({"data file": "slice%03d.raw 1 4 1"}, "over several files"),
        ({"byte skip": "-1", "encoding": "gzip"}, "from byte -1"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    data = gzip.compress(SHORTS.tobytes(order="F")) if fields.get("encoding") == "gzip" else None
    path = write(tmp_path / "image.nrrd", build_nrrd(data=data or SHORTS.tobytes(order="F"), **fields))
    with pytest.raises(VolumeError, match=message):
        read_nrrd(path)


def test_four_axes_without_a_word_about_channels_are_refused(tmp_path: Path) -> None:
    voxels = SHORTS.reshape(4, 5, 3, 2)
    path = write(tmp_path / "image.nrrd", build_nrrd(voxels, **dict.fromkeys(GEOMETRY)))
    with pytest.raises(VolumeError, match="has 4 axes; expected 'kinds'"):
        read_nrrd(path)
    path = write(tmp_path / "image.nrrd", build_nrrd(voxels, space_directions="(1,0,0) none none (0,1,0)"))
    with pytest.raises(VolumeError, match="2 axes in space and 2 of other kinds"):
        read_nrrd(path)


@pytest.mark.parametrize(
    "name", ["../voxels.raw", "/etc/hostname", "a/../../b.raw", "..\\b.raw", "C:\\b.raw", "\\b.raw"]
)
def test_row_40_a_data_file_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "voxels.raw").write_bytes(SHORTS.tobytes(order="F"))
    folder = tmp_path / "folder"
    folder.mkdir()
    path = write(folder / "image.nhdr", build_nrrd(data=b"", data_file=name))
    with pytest.raises(VolumeError, match="names a data file outside its own folder"):
        read_nrrd(path)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_row_27_truncated_at_any_byte(tmp_path: Path, encoding: str) -> None:
    content = build_nrrd(encoding=encoding)
    start = content.index(b"\n\n")
    for length in [0, 3, 9, 40, start, *range(start + 1, len(content), 7), len(content) - 1]:
        path = write(tmp_path / "image.nrrd", content[:length])
        with pytest.raises(VolumeError, match=r"is cut short|is no NRRD file|is damaged"):
            read_nrrd(path)


@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
def test_row_27_a_flipped_bit_fails_the_checksum(tmp_path: Path, encoding: str) -> None:
    content = build_nrrd(encoding=encoding)
    start = content.index(b"\n\n") + 2
    first = start + 10 if encoding == "gzip" else start  # the header of gzip has a time stamp and flags
    num_refused = 0
    for position in range(first, len(content)):
        path = write(
            tmp_path / "image.nrrd", content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        )
        try:
            np.testing.assert_array_equal(read_nrrd(path).array[0], SHORTS)
        except VolumeError:
            num_refused += 1
    assert num_refused >= len(content) - first - 1  # the last byte of the packed data may end in bits without meaning


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_row_27_more_voxels_than_the_header_promises(tmp_path: Path, encoding: str) -> None:
    data = PACK[encoding](SHORTS.tobytes(order="F") + bytes(2))
    with pytest.raises(VolumeError, match=r"does not fit its header: the header promises 4x5x6 voxels \(240 bytes\)"):
        read_nrrd(write(tmp_path / "image.nrrd", build_nrrd(encoding=encoding, data=data)))


def test_row_27_other_files_named_nrrd(tmp_path: Path) -> None:
    path = write(tmp_path / "image.nrrd", b"<!DOCTYPE html><html>404")
    with pytest.raises(VolumeError, match="is no NRRD file: it is an HTML page"):
        read_nrrd(path)
    with pytest.raises(VolumeError, match="is no NRRD file: it is an NRRD file"):
        read_nrrd(write(path, b"NRRD0009\n\n"))
    with pytest.raises(VolumeError, match="its NRRD header has no end"):
        read_nrrd(write(path, b"NRRD0004\ntype: short\n"))


def test_row_28_a_header_that_promises_too_much(tmp_path: Path) -> None:
    path = tmp_path / "image.nrrd"
    with pytest.raises(VolumeError, match="cut short or damaged: its header promises 100000x100000x1000 voxels"):
        read_nrrd(write(path, build_nrrd(encoding="gzip", sizes="100000 100000 1000")))
    bomb = gzip.compress(bytes(2**24), 9) * 100  # 1.6 GiB of zeros
    with pytest.raises(VolumeError, match=r"promises 1024x1024x800 voxels \(1\.6 GiB unpacked\), \d+ times its size"):
        read_nrrd(write(path, build_nrrd(encoding="gzip", data=bomb, sizes="1024 1024 800")))
    with pytest.raises(VolumeError, match="promises 100000x100000x1000 voxels"):
        read_nrrd(write(path, build_nrrd(encoding="bzip2", sizes="100000 100000 1000")))


def test_row_28_more_than_the_memory_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    path = write(tmp_path / "image.nrrd", build_nrrd())
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 470}))
    with pytest.raises(VolumeError, match=r"needs 0\.0 GiB of memory"):  # 240 stored, 240 in their order
        read_nrrd(path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 480}))
    np.testing.assert_array_equal(read_nrrd(path).array[0], SHORTS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": "4 0 6"}, "axis lengths 4x0x6"),
        ({"sizes": "4 -5 6"}, "axis lengths 4x-5x6"),
        ({"sizes": "4 5"}, r"sizes = '4 5' in its header; expected 3 whole"),
        ({"sizes": "4 5 six"}, "expected 3 whole"),
        ({"sizes": "4 5 6" + "0" * 20}, "expected 3 whole"),
        ({"dimension": "0", "sizes": ""}, "expected 2 to 4"),
        ({"dimension": "x"}, "dimension = 'x'"),
        ({"dimension": "5", "sizes": "4 5 6 1 1"}, "axis lengths 4x5x6x1x1; expected 2 to 4"),
    ],
)
def test_row_29_impossible_sizes(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        read_nrrd(write(tmp_path / "image.nrrd", build_nrrd(**fields)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space origin": "(nan,0,0)"}, "NaN or infinite"),
        ({"space origin": "(0,0)"}, "expected 3 number"),
        ({"space origin": "none"}, "expected 3 number"),
        ({"space directions": "(1,0,0) (0,inf,0) (0,0,1)"}, "NaN or infinite"),
        ({"space directions": "(1,0,0) (0,nan,0) (0,0,1)"}, "NaN or infinite"),
        ({"space directions": "(1,0,0) (1,0,0) (0,0,1)"}, "singular"),
        ({"space directions": "(1,0,0) (0,0,0) (0,0,1)"}, "singular"),
        ({"space directions": "(1,0,0) (0.5,2,0) (0,0,1)"}, "sheared"),
        (dict.fromkeys(GEOMETRY) | {"spacings": "0 1 1"}, "singular"),
    ],
)  # fmt: skip
def test_row_30_unusable_geometry(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        read_nrrd(write(tmp_path / "image.nrrd", build_nrrd(**fields)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_row_31_voxels_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    voxels = np.zeros((4, 5, 6))
    voxels[1, 2, 3] = value
    with pytest.raises(VolumeError, match="holds 1 NaN or infinite voxels of 120"):
        read_nrrd(write(tmp_path / "image.nrrd", build_nrrd(voxels)))


def test_row_35_pipes_folders_and_missing_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nrrd")
    path = write(tmp_path / "image.nhdr", build_nrrd(data=b"", data_file="pipe.nrrd"))
    for bad, message in ((tmp_path / "pipe.nrrd", "is a pipe"), (tmp_path, "is a folder"), (path, "is a pipe")):
        with pytest.raises(VolumeError, match=message):
            read_nrrd(bad)
    with pytest.raises(VolumeError, match=r"gone\.raw does not exist"):
        read_nrrd(write(path, build_nrrd(data=b"", data_file="gone.raw")))


def test_row_43_nothing_that_may_name_a_patient_is_quoted(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    fields = {"content": CANARY, "PatientName:": f"={CANARY}", "old min": CANARY, "labels": f'"{CANARY}"'}
    said = []
    for bad in ({}, {"sizes": "9 9 9"}, {"type": "block"}, {"encoding": "ascii"}, {"kinds": "complex list list"}):
        content = build_nrrd(data=SHORTS.tobytes(order="F"), **{**fields, **bad}).replace(b":: =", b":=")
        path = write(tmp_path / "image.nrrd", content)
        try:
            write_nrrd_image(read_nrrd(path), tmp_path / "again.nrrd")
        except VolumeError as error:
            said.append(str(error))
    assert len(said) == 4
    assert CANARY not in "".join(said) + caplog.text
    assert CANARY.encode() not in (tmp_path / "again.nrrd").read_bytes()


# ---- segments --------------------------------------------------------------------------------------------------------

SLICER_KEYS = """\
Segment0_Color:=0.501961 0.682353 0.501961
Segment0_ColorAutoGenerated:=1
Segment0_Extent:=0 3 0 4 0 5
Segment0_ID:=Segment_1
Segment0_LabelValue:=2
Segment0_Layer:=1
Segment0_Name:=left \\\\ lung: upper
Segment0_NameAutoGenerated:=1
Segment0_Tags:=Segmentation.Status:inprogress|TerminologyEntry:Segmentation category and type - 3D Slicer General \
Anatomy list~SCT^123037004^Anatomical Structure~SCT^39607008^Lung~SCT^7771000^Left~Anatomic codes~^^~^^|
Segment10_ID:=Segment_3
Segment10_LabelValue:=1
Segment10_Layer:=0
Segment2_LabelValue:=1
Segment2_Layer:=1
Segment2_Name:=rest
Segment2_Tags:=|
Segmentation_ContainedRepresentationNames:=Binary labelmap|Closed surface|
Segmentation_MasterRepresentation:=Binary labelmap
"""


def build_segments(keys: str, layers: Any) -> bytes:
    header, _, data = build_nrrd(
        layers, kinds="list domain domain domain", space_directions="none " + GEOMETRY["space directions"]
    ).partition(b"\n\n")
    return header + b"\n" + keys.encode() + b"\n" + data


def test_segments_as_slicer_writes_them(tmp_path: Path) -> None:
    layers = np.random.default_rng(2).integers(0, 3, (2, 4, 5, 6)).astype(np.uint8)
    found = read_nrrd_structures(write(tmp_path / "s.seg.nrrd", build_segments(SLICER_KEYS, layers)))
    assert found is not None
    assert found.structures == (
        Structure(
            name="left \\ lung: upper", values=(2,), layer=1, color=(128, 174, 128),
            code=Code(value="39607008", meaning="Lung"),
        ),
        Structure(name="rest", values=(1,), layer=1, color=get_color(2)),
        Structure(name="Segment_3", values=(1,), layer=0, color=get_color(10)),
    )  # fmt: skip
    np.testing.assert_array_equal(found.layers.array, layers)
    np.testing.assert_array_equal(found.get_mask(found.structures[0]), layers[1] == 2)
    np.testing.assert_allclose(found.layers.affine, EXPECTED_AFFINE, atol=1e-12)


def test_segments_of_an_old_slicer_have_a_layer_each(tmp_path: Path) -> None:
    layers = np.random.default_rng(2).integers(0, 2, (2, 4, 5, 6)).astype(np.uint8)
    keys = "Segment0_ID:=a\nSegment0_Name:=one\nSegment1_ID:=b\nSegment1_Name:=two\n"
    found = read_nrrd_structures(write(tmp_path / "s.seg.nrrd", build_segments(keys, layers)))
    assert found is not None
    assert [(s.name, s.values, s.layer) for s in found.structures] == [("one", (1,), 0), ("two", (1,), 1)]


def test_an_image_has_no_segments(tmp_path: Path) -> None:
    assert read_nrrd_structures(write(tmp_path / "image.nrrd", build_nrrd())) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Segment0_Layer:=1", "Segment0_Layer:=2"), r"s\.seg\.nrrd: Structure 'left.*has layer 2"),
        (("Segment0_LabelValue:=2", "Segment0_LabelValue:=0"), r"s\.seg\.nrrd: Structure 'left"),
        (("Segment2_Name:=rest", "Segment2_Name:=Segment_3"), r"s\.seg\.nrrd: There are two structures named"),
        (("Segment2_Layer:=1", "Segment2_Layer:=one"), "Segment2_Layer = 'one'"),
        (("=Binary labelmap\n", "=Fractional labelmap\n"), "no binary labelmap"),
    ],
)
def test_segments_that_contradict_their_voxels(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    keys = SLICER_KEYS.replace(*change)
    assert keys != SLICER_KEYS
    path = write(tmp_path / "s.seg.nrrd", build_segments(keys, np.zeros((2, 4, 5, 6), np.uint8)))
    with pytest.raises((LabelError, VolumeError), match=message):
        read_nrrd_structures(path)


def test_row_32_segments_of_fractions_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.seg.nrrd", build_segments(SLICER_KEYS, np.zeros((2, 4, 5, 6), np.float32)))
    with pytest.raises(LabelError, match="holds float32 voxels; expected integers"):
        read_nrrd_structures(path)


def test_a_colour_out_of_range_is_said(tmp_path: Path, caplog: Any) -> None:
    keys = SLICER_KEYS.replace("0.501961 0.682353", "128 174")
    found = read_nrrd_structures(write(tmp_path / "s.seg.nrrd", build_segments(keys, np.zeros((2, 4, 5, 6), np.uint8))))
    assert found is not None
    assert found.structures[0].color == get_color(0)
    assert "Segment0_Color that is not in 0 to 1" in caplog.text


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_the_header_that_slicer_needs(tmp_path: Path) -> None:
    labels = np.zeros((1, 4, 5, 6), np.int64)
    labels[0, 1, 2, 3] = 300
    structures = from_label_map(
        Volume(labels, np.diag([-0.7, -1.2, 3.0, 1.0])), {"prostate": [300], "bladder": [7]},
        codes={"prostate": PROSTATE}, colors={"prostate": (255, 0, 51)},
    )  # fmt: skip
    write_nrrd_labels(structures, tmp_path / "mask.seg.nrrd")
    header, _, _ = (tmp_path / "mask.seg.nrrd").read_bytes().partition(b"\n\n")
    assert header.decode().splitlines() == [
        "NRRD0004",
        "# https://teem.sourceforge.net/nrrd/format.html",
        "type: short",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: 4 5 6",
        "space directions: (0.7,0.0,0.0) (0.0,1.2,0.0) (0.0,0.0,3.0)",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        "space origin: (0.0,0.0,0.0)",
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
        "Segment0_ID:=Segment_1",
        "Segment0_Name:=prostate",
        "Segment0_NameAutoGenerated:=0",
        "Segment0_LabelValue:=300",
        "Segment0_Layer:=0",
        "Segment0_Color:=1 0 0.2",
        "Segment0_ColorAutoGenerated:=0",
        "Segment0_Extent:=0 3 0 4 0 5",
        "Segment0_Tags:=TerminologyEntry:Segmentation category and type - DICOM master list"
        "~SCT^123037004^Anatomical Structure~SCT^41216001^Prostate~^^~Anatomic codes - DICOM master list~^^~^^|",
        "Segment1_ID:=Segment_2",
        "Segment1_Name:=bladder",
        "Segment1_NameAutoGenerated:=0",
        "Segment1_LabelValue:=7",
        "Segment1_Layer:=0",
        "Segment1_Color:=0.337255 0.705882 0.913725",
        "Segment1_ColorAutoGenerated:=0",
        "Segment1_Extent:=0 3 0 4 0 5",
        "Segment1_Tags:=|",
    ]


@st.composite
def structure_sets(draw: Any) -> StructureSet:
    """Masks that may overlap, touch, be empty, or be one voxel, on grids of any orientation."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    order = np.eye(3)[list(draw(st.permutations([0, 1, 2])))]
    flips = np.diag(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    angles = draw(st.sampled_from([(0.0, 0.0, 0.0), tuple(rng.uniform(-1, 1, 3))]))
    rotation = nib.eulerangles.euler2mat(*angles)
    affine = nib.affines.from_matvec(
        rotation @ order @ flips @ np.diag(rng.uniform(0.1, 9, 3)), rng.uniform(-500, 500, 3)
    )
    names = draw(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9), max_size=4))
    names = [f"{name}{number}" for number, name in enumerate(names)]
    codes = draw(st.sampled_from([{}, dict.fromkeys(names[:1], PROSTATE)]))
    grid = Volume(np.zeros((1, *shape), np.uint8), affine)
    densities = draw(st.lists(st.sampled_from([0.0, 0.05, 0.5, 1.0]), min_size=len(names), max_size=len(names)))
    masks = [(name, rng.random(shape) < density) for name, density in zip(names, densities, strict=True)]
    return from_masks(masks, grid, codes=codes)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@given(structures=structure_sets())
@settings(max_examples=50, deadline=None)
def test_row_45_segments_come_back(folder: Path, structures: StructureSet) -> None:
    path = folder / "mask.seg.nrrd"
    write_nrrd_labels(structures, path)
    layers = structures.layers
    again = read_nrrd_structures(path)
    if structures.structures:
        assert again is not None
        assert again.structures == structures.structures
        np.testing.assert_array_equal(again.layers.array, layers.array)
        np.testing.assert_array_equal(again.layers.affine, layers.affine)
    else:
        assert again is None
    independent = read_with_itk(path)
    np.testing.assert_array_equal(independent.array, layers.array)
    np.testing.assert_array_equal(independent.affine[:, 3], layers.affine[:, 3])
    np.testing.assert_allclose(independent.affine, layers.affine, rtol=0, atol=1e-9)


def test_names_and_codes_reach_an_independent_reader(tmp_path: Path) -> None:
    name = "Prostata (größer) \\n 1: \\"
    labels = Volume(np.ones((1, 2, 3, 4), np.uint8), OBLIQUE)
    write_nrrd_labels(from_label_map(labels, {name: [1]}, codes={name: PROSTATE}), tmp_path / "mask.seg.nrrd")
    image = sitk.ReadImage(str(tmp_path / "mask.seg.nrrd"))
    assert image.GetMetaData("Segment0_Name") == name
    assert "~SCT^41216001^Prostate~" in image.GetMetaData("Segment0_Tags")
    assert image.GetMetaData("Segment0_Extent") == "0 1 0 2 0 3"


def test_regions_and_shared_values_get_layers_of_their_own(tmp_path: Path) -> None:
    labels = np.random.default_rng(3).integers(0, 5, (1, 5, 6, 7)).astype(np.uint8)
    structures = from_label_map(
        Volume(labels, OBLIQUE), {"tumour": [1, 2, 3], "core": [1, 3], "core again": [1, 3], "rest": [4], "none": [9], "rest again": [4]},
        codes={"core": PROSTATE}, colors={"rest": (1, 2, 3)},
    )  # fmt: skip
    write_nrrd_labels(structures, tmp_path / "mask.seg.nrrd")
    again = read_nrrd_structures(tmp_path / "mask.seg.nrrd")
    assert again is not None
    assert [s.layer for s in again.structures] == [0, 1, 2, 0, 0, 1]
    for before, after in zip(structures.structures, again.structures, strict=True):
        np.testing.assert_array_equal(again.get_mask(after), structures.get_mask(before))
        assert (after.name, after.color, after.code) == (before.name, before.color, before.code)
        assert len(after.values) == 1


def test_a_value_of_two_structures_gets_two_layers(tmp_path: Path) -> None:
    labels = np.random.default_rng(3).integers(0, 2, (1, 5, 6, 7)).astype(np.uint8)
    write_nrrd_labels(from_label_map(Volume(labels, OBLIQUE), {"a": [1], "b": [1]}), tmp_path / "mask.seg.nrrd")
    again = read_nrrd_structures(tmp_path / "mask.seg.nrrd")
    assert again is not None
    assert [(s.name, s.layer, s.values) for s in again.structures] == [("a", 0, (1,)), ("b", 1, (2,))]
    for structure in again.structures:
        np.testing.assert_array_equal(again.get_mask(structure), labels[0] == 1)


def test_characters_that_divide_a_term_do_not_divide_it(tmp_path: Path) -> None:
    labels = Volume(np.ones((1, 2, 3, 4), np.uint8), OBLIQUE)
    code = Code(value="1", meaning="left|right ~ ^both^", scheme="99X")
    write_nrrd_labels(from_label_map(labels, {"a": [1]}, codes={"a": code}), tmp_path / "mask.seg.nrrd")
    again = read_nrrd_structures(tmp_path / "mask.seg.nrrd")
    assert again is not None
    assert again.structures[0].code == Code(value="1", meaning="left right    both ", scheme="99X")


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32"])
def test_an_image_comes_back(tmp_path: Path, make_volume: Any, dtype: str, num_channels: int) -> None:
    grid = make_volume(shape=(3, 4, 5), orientation="PSL", num_channels=num_channels)
    volume = Volume(grid.array.astype(dtype), OBLIQUE)
    write_nrrd_image(volume, tmp_path / "image.nrrd")
    for again in (read_nrrd(tmp_path / "image.nrrd"), read_with_itk(tmp_path / "image.nrrd")):
        np.testing.assert_array_equal(again.array, volume.array)
        assert again.array.dtype == dtype
        np.testing.assert_allclose(again.affine, OBLIQUE, rtol=0, atol=1e-12)


def test_bool_and_half_floats_are_widened(tmp_path: Path) -> None:
    for dtype, stored in ((np.bool_, np.uint8), (np.float16, np.float32)):
        write_nrrd_image(Volume(np.eye(3, dtype=dtype)[None, None], OBLIQUE), tmp_path / "image.nrrd")
        again = read_nrrd(tmp_path / "image.nrrd")
        assert again.array.dtype == stored
        np.testing.assert_array_equal(again.array[0, 0], np.eye(3))


def test_the_same_mask_gives_the_same_bytes(tmp_path: Path) -> None:
    structures = from_label_map(Volume(np.ones((1, 2, 3, 4), np.uint8), OBLIQUE), {"a": [1]})
    write_nrrd_labels(structures, tmp_path / "one.seg.nrrd")
    write_nrrd_labels(structures, tmp_path / "two.seg.nrrd")
    assert (tmp_path / "one.seg.nrrd").read_bytes() == (tmp_path / "two.seg.nrrd").read_bytes()


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    good = Volume(np.ones((1, 2, 3, 4), np.int64), OBLIQUE)
    with pytest.raises(OutputError, match=re.escape("must end in .nrrd or .seg.nrrd")):
        write_nrrd_labels(from_label_map(good, {"a": [1]}), tmp_path / "mask.nii")
    with pytest.raises(LabelError, match="hold -3; expected values from 0"):
        write_nrrd_labels(from_label_map(good.with_array(good.array * -3), {"a": [1]}), tmp_path / "mask.nrrd")
    with pytest.raises(LabelError, match="Structure 0 has the name ' '"):
        write_nrrd_labels(from_label_map(good, {" ": [1]}), tmp_path / "mask.nrrd")
    with pytest.raises(LabelError, match=r"has the name 'a\\rb'; expected words in one line"):
        write_nrrd_labels(from_label_map(good, {"a\rb": [1]}), tmp_path / "mask.nrrd")
    with pytest.raises(LabelError, match="expected them to fit 32 bits"):
        write_nrrd_labels(from_label_map(good.with_array(good.array * 2**40), {"a": [2**40]}), tmp_path / "mask.nrrd")
    assert list(tmp_path.iterdir()) == []


# ---- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_files_are_read_as_simpleitk_reads_them(real_data: Path) -> None:
    masks = sorted((real_data / "two-raters-ct-labels").rglob("*.nrrd"))
    assert len(masks) == 84
    for path in [real_data / "nifti" / "oddities" / "FLAIR.nrrd", masks[0], masks[50]]:
        volume, expected = read_nrrd(path), read_with_itk(path)
        assert volume.array.dtype == expected.array.dtype
        assert volume.array.any()
        assert all(np.array_equal(ours, itks) for ours, itks in zip(volume.array[0], expected.array[0], strict=True))
        np.testing.assert_allclose(volume.affine, expected.affine, rtol=0, atol=1e-9)
        assert read_nrrd_structures(path) is None
