"""MetaImage files are read as SimpleITK reads them where it can be trusted, and refused where it cannot."""

from __future__ import annotations

import gzip
import logging
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name that its manual uses

from medunet.errors import VolumeError
from medunet.io.metaimage import read_metaimage
from medunet.volume import Volume

CANARY = "Canary^Patient"
SHORTS = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6)
RAW = SHORTS.tobytes(order="F")
HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "0 1 0 -0.6 0 0.8 0.8 0 0.6",
    "Offset": "1 -2 3.5",
    "CenterOfRotation": "0 0 0",
    "AnatomicalOrientation": "RAI",
    "ElementSpacing": "2 1 3",
    "DimSize": "4 5 6",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
# Row n of the matrix is the direction of axis n; x and y change sign on the way to RAS.
EXPECTED_AFFINE = [[0, 0.6, -2.4, -1], [-2, 0, 0, 2], [0, 0.8, 1.8, 3.5], [0, 0, 0, 1]]


def build_header(**fields: Any) -> bytes:
    """The header; a field of None is left out."""
    lines = HEADER | fields
    lines["ElementDataFile"] = lines.pop("ElementDataFile")  # stands last
    return "".join(f"{field} = {value}\n" for field, value in lines.items() if value is not None).encode()


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def read_with_itk(path: Path) -> Volume:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    channels = array[..., None] if array.ndim == 3 else array
    return Volume(channels.transpose(3, 2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("CHAR", "i1"), ("UCHAR", "u1"), ("SHORT", "i2"), ("USHORT", "u2"), ("INT", "i4"), ("UINT", "u4"),
        ("LONG", "i4"), ("ULONG", "u4"), ("LONG_LONG", "i8"), ("ULONG_LONG", "u8"), ("FLOAT", "f4"), ("DOUBLE", "f8"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_is_read(tmp_path: Path, name: str, dtype: str, order: str) -> None:
    limits = np.finfo("f4") if "f" in dtype else np.iinfo(dtype)
    voxels = np.array([limits.min, limits.max, 0, 1, 2, 3], dtype=order + dtype).reshape(1, 2, 3)
    header = build_header(DimSize="1 2 3", ElementType=f"MET_{name}", BinaryDataByteOrderMSB=str(order == ">"))
    path = write(tmp_path / "image.mha", header, voxels.tobytes(order="F"))
    volume = read_metaimage(path)
    np.testing.assert_array_equal(volume.array[0], voxels)
    assert volume.array.dtype == (np.float32 if "f" in dtype else np.dtype(dtype))
    np.testing.assert_array_equal(read_with_itk(path).array[0], voxels)


def test_the_geometry_is_that_of_itk(tmp_path: Path) -> None:
    path = write(tmp_path / "image.mha", build_header(), RAW)
    volume = read_metaimage(path)
    np.testing.assert_array_equal(volume.array[0], SHORTS)
    np.testing.assert_allclose(volume.affine, EXPECTED_AFFINE, atol=1e-12)
    np.testing.assert_allclose(read_with_itk(path).affine, EXPECTED_AFFINE, atol=1e-12)


@pytest.mark.parametrize(
    "fields",
    [
        {"Offset": None, "Position": "1 -2 3.5"},
        {"Offset": None, "Origin": "1 -2 3.5", "Position": "1 -2 3.5"},
        {"TransformMatrix": None, "Orientation": HEADER["TransformMatrix"]},
        {"ElementSpacing": None, "ElementSize": "2 1 3"},
        {"BinaryDataByteOrderMSB": None, "ElementByteOrderMSB": "False"},
        {"ElementSpacing": "-2 1 3", "TransformMatrix": "0 -1 0 -0.6 0 0.8 0.8 0 0.6"},
        {"BinaryData": None, "CompressedData": None, "ObjectType": None, "DistanceUnits": "mm"},
    ],
)
def test_other_words_for_the_same(tmp_path: Path, fields: dict[str, Any]) -> None:
    volume = read_metaimage(write(tmp_path / "image.mha", build_header(**fields), RAW))
    np.testing.assert_array_equal(volume.array[0], SHORTS)
    np.testing.assert_allclose(volume.affine, EXPECTED_AFFINE, atol=1e-12)


def test_colons_and_windows_line_ends(tmp_path: Path) -> None:
    header = build_header().replace(b" = ", b": ").replace(b"\n", b"\r\n")
    np.testing.assert_array_equal(read_metaimage(write(tmp_path / "image.mha", header, RAW)).array[0], SHORTS)


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
@pytest.mark.parametrize("says_size", [True, False])
def test_compressed_voxels(tmp_path: Path, pack: Any, says_size: bool) -> None:
    data = pack(RAW)
    header = build_header(CompressedData="True", CompressedDataSize=len(data) if says_size else None)
    np.testing.assert_array_equal(read_metaimage(write(tmp_path / "image.mha", header, data)).array[0], SHORTS)


def test_much_compressed_voxels(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 3, (190, 210, 230)).astype(np.uint8)  # more than one piece
    data = zlib.compress(voxels.tobytes(order="F"))
    header = build_header(CompressedData="True", DimSize="190 210 230", ElementType="MET_UCHAR")
    np.testing.assert_array_equal(read_metaimage(write(tmp_path / "image.mha", header, data)).array[0], voxels)


def test_what_simpleitk_writes(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(0, 1, (3, 4, 5, 2)).astype(np.float32)
    image = sitk.GetImageFromArray(voxels, isVector=True)
    image.SetSpacing((0.7, 1.2, 3.0))
    image.SetOrigin((-31.0, 12.5, 40.25))
    image.SetDirection((0, 0.6, -0.8, 1, 0, 0, 0, 0.8, 0.6))
    for name, is_compressed in (("a.mha", False), ("b.mha", True), ("c.mhd", False), ("d.mhd", True)):
        sitk.WriteImage(image, str(tmp_path / name), is_compressed)
        volume, expected = read_metaimage(tmp_path / name), read_with_itk(tmp_path / name)
        np.testing.assert_array_equal(volume.array, voxels.transpose(3, 2, 1, 0))
        np.testing.assert_array_equal(volume.array, expected.array)
        np.testing.assert_allclose(volume.affine, expected.affine, rtol=0, atol=1e-12)


def test_several_numbers_per_voxel_become_channels(tmp_path: Path) -> None:
    voxels = np.arange(3 * 4 * 5 * 6, dtype="<i2").reshape(3, 4, 5, 6)
    path = write(tmp_path / "image.mha", build_header(ElementNumberOfChannels=3), voxels.tobytes(order="F"))
    np.testing.assert_array_equal(read_metaimage(path).array, voxels)
    np.testing.assert_array_equal(read_with_itk(path).array, voxels)
    np.testing.assert_array_equal(read_metaimage(path, volume_index=1).array, voxels[1:2])
    with pytest.raises(VolumeError, match=r"holds 3 volume\(s\); volume -1 was asked for"):
        read_metaimage(path, volume_index=-1)


def test_a_fourth_axis_becomes_channels(tmp_path: Path) -> None:
    voxels = np.arange(4 * 5 * 6 * 2, dtype="<i2").reshape(4, 5, 6, 2)
    fields = {
        "NDims": 4, "DimSize": "4 5 6 2", "Offset": "1 -2 3.5 9", "ElementSpacing": "2 1 3 7", "CenterOfRotation": None,
        "TransformMatrix": "0 1 0 0 -0.6 0 0.8 0 0.8 0 0.6 0 0 0 0 1",
    }  # fmt: skip
    volume = read_metaimage(write(tmp_path / "image.mha", build_header(**fields), voxels.tobytes(order="F")))
    np.testing.assert_array_equal(volume.array, np.moveaxis(voxels, 3, 0))
    np.testing.assert_allclose(volume.affine, EXPECTED_AFFINE, atol=1e-12)


def test_a_picture_is_one_slice(tmp_path: Path) -> None:
    fields = {
        "NDims": 2, "DimSize": "20 6", "TransformMatrix": "0.8 0.6 -0.6 0.8", "Offset": "5 6", "ElementSpacing": "2 3",
        "CenterOfRotation": "0 0",
    }  # fmt: skip
    path = write(tmp_path / "image.mha", build_header(**fields), RAW)
    volume, image = read_metaimage(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.array[0, :, :, 0].T, sitk.GetArrayFromImage(image))
    for i, j in ((0, 0), (7, 0), (0, 4)):
        x, y = image.TransformIndexToPhysicalPoint((i, j))
        np.testing.assert_allclose(volume.affine @ [i, j, 0, 1], [-x, -y, 0, 1], atol=1e-12)
    assert volume.spacing == (2.0, 3.0, 1.0)


def test_voxels_in_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "my voxels.raw", b"1234", RAW)
    write(tmp_path / "voxels.zraw", zlib.compress(RAW))
    for fields in (
        {"ElementDataFile": "deep/my voxels.raw", "HeaderSize": 4},
        {"ElementDataFile": "deep/my voxels.raw", "HeaderSize": -1},
        {"ElementDataFile": "voxels.zraw", "CompressedData": "True"},
    ):
        path = write(tmp_path / "image.mhd", build_header(**fields))
        np.testing.assert_array_equal(read_metaimage(path).array[0], SHORTS)


def test_other_units_become_millimetres(tmp_path: Path) -> None:
    path = write(tmp_path / "image.mha", build_header(DistanceUnits="um"), RAW)
    expected = np.diag([1e-3, 1e-3, 1e-3, 1]) @ np.array(EXPECTED_AFFINE)
    np.testing.assert_allclose(read_metaimage(path).affine, expected, atol=1e-15)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ElementSpacing": None}, "says no ElementSpacing; 1 mm is assumed"),
        ({"Offset": None}, "does not say where it lies"),
        ({"TransformMatrix": None}, "does not say where it lies"),
        ({"CenterOfRotation": "1 2 3"}, "has a CenterOfRotation; it is ignored"),
    ],
)
def test_what_is_guessed_is_said(tmp_path: Path, caplog: Any, fields: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "image.mha", build_header(**fields), RAW)
    np.testing.assert_allclose(read_metaimage(path).affine, read_with_itk(path).affine, atol=1e-12)
    assert message in caplog.text
    caplog.clear()
    read_metaimage(write(path, build_header(), RAW))
    assert not caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ObjectType": "Tube"}, "of the kind 'Tube'; expected Image"),
        ({"NDims": 5}, "NDims = 5"),
        ({"NDims": None}, "no field 'NDims'"),
        ({"BinaryData": "False"}, "stores its voxels as text"),
        ({"BinaryData": "perhaps"}, "BinaryData = 'perhaps'"),
        ({"ElementType": "MET_UCHAR_ARRAY"}, "ElementType = 'MET_UCHAR_ARRAY'"),
        ({"ElementToIntensityFunctionSlope": 2}, "a slope of 2 and an offset of 0, which most ignore"),
        ({"ElementToIntensityFunctionOffset": -1024}, "an offset of -1024"),
        ({"DistanceUnits": "furlong"}, "DistanceUnits = 'furlong'"),
        ({"Position": "9 9 9"}, "different values for Offset and Position and Origin"),
        ({"ElementByteOrderMSB": "True"}, "different values for BinaryDataByteOrderMSB"),
        ({"Comment": "x\nDimSize = 6 5 4"}, "the field DimSize twice"),
        ({"ElementDataFile": "LIST"}, "over several files"),
        ({"ElementDataFile": "slice%03d.raw 1 6 1"}, "over several files"),
        ({"CompressedData": "True", "HeaderSize": 3}, "HeaderSize = 3 before compressed or local data"),
        ({"HeaderSize": 3}, "HeaderSize = 3 before compressed or local data"),
        ({"HeaderSize": -7}, "from byte -7"),
        ({"ElementNumberOfChannels": 0}, "axis lengths 0x4x5x6"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        read_metaimage(write(tmp_path / "image.mha", build_header(**fields), RAW))


@pytest.mark.parametrize("name", ["../voxels.raw", "/etc/hostname", "a/../../b.raw", "..\\b.raw", "C:\\b.raw"])
def test_row_40_a_data_file_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "image.mhd", build_header(ElementDataFile=name))
    with pytest.raises(VolumeError, match="names a data file outside its own folder"):
        read_metaimage(path)


@pytest.mark.parametrize("is_compressed", [False, True])
def test_row_27_truncated_at_any_byte(tmp_path: Path, is_compressed: bool) -> None:
    header = build_header(CompressedData=str(is_compressed))
    content = header + (zlib.compress(RAW) if is_compressed else RAW)
    for length in [0, 3, 20, len(header) - 10, *range(len(header), len(content), 5), len(content) - 1]:
        with pytest.raises(VolumeError, match=r"is cut short|is no MetaImage|no field"):
            read_metaimage(write(tmp_path / "image.mha", content[:length]))


def test_row_27_a_flipped_bit_fails_the_checksum(tmp_path: Path) -> None:
    header, data = build_header(CompressedData="True"), zlib.compress(RAW, 0)  # stored: any flip would be a voxel
    for position in range(7, len(data)):
        flipped = data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]
        with pytest.raises(VolumeError, match="garbled or fail their checksum"):
            read_metaimage(write(tmp_path / "image.mha", header, flipped))


def test_row_27_more_or_fewer_bytes_than_promised(tmp_path: Path) -> None:
    data = zlib.compress(RAW)
    packed = {"CompressedData": "True"}
    path = tmp_path / "image.mha"
    with pytest.raises(VolumeError, match=r"does not fit its header: the header promises 4x5x6 voxels \(240 bytes\)"):
        read_metaimage(write(path, build_header(), RAW, b"\n"))
    for content in (zlib.compress(RAW + b"12"), data + b"\n", data + data):
        with pytest.raises(VolumeError, match="does not fit its header"):
            read_metaimage(write(path, build_header(**packed), content))
    with pytest.raises(VolumeError, match=rf"promises {len(data) - 9} compressed bytes, the file holds {len(data)}"):
        read_metaimage(write(path, build_header(**packed, CompressedDataSize=len(data) - 9), data))
    with pytest.raises(VolumeError, match="cut short: the header promises 9999 compressed bytes"):
        read_metaimage(write(path, build_header(**packed, CompressedDataSize=9999), data))


def test_row_27_other_files_named_mha(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="is no MetaImage: it is an HTML page"):
        read_metaimage(write(tmp_path / "image.mha", b"<!DOCTYPE html><html>404"))


def test_row_28_a_header_that_promises_too_much(tmp_path: Path) -> None:
    path = tmp_path / "image.mha"
    with pytest.raises(VolumeError, match="promises 100000x100000x1000 voxels"):
        read_metaimage(write(path, build_header(DimSize="100000 100000 1000"), RAW))
    header = build_header(DimSize="100000 100000 1000", CompressedData="True")
    with pytest.raises(VolumeError, match="promises 100000x100000x1000 voxels"):
        read_metaimage(write(path, header, zlib.compress(RAW)))
    header = build_header(DimSize="1024 1024 800", CompressedData="True")
    with pytest.raises(VolumeError, match=r"\(1\.6 GiB unpacked\), \d+ times its size"):
        read_metaimage(write(path, header, bytes(2**21)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"DimSize": "4 0 6"}, "axis lengths 4x0x6"),
        ({"DimSize": "4 -5 6"}, "axis lengths 4x-5x6"),
        ({"DimSize": "4 5"}, "DimSize = '4 5'"),
        ({"DimSize": "4 5 six"}, "DimSize = '4 5 six'"),
        ({"DimSize": None}, "no field 'DimSize'"),
    ],
)
def test_row_29_impossible_sizes(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        read_metaimage(write(tmp_path / "image.mha", build_header(**fields), RAW))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ElementSpacing": "nan 1 1"}, "NaN or infinite"),
        ({"ElementSpacing": "inf 1 1"}, "NaN or infinite"),
        ({"Offset": "nan 0 0"}, "NaN or infinite"),
        ({"ElementSpacing": "0 1 1"}, "singular"),
        ({"ElementSpacing": "1 1"}, "expected 3 number"),
        ({"Offset": "1 2 x"}, "expected 3 number"),
        ({"TransformMatrix": "1 0 0 0 1 0"}, "expected 9 number"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "singular"),
        ({"TransformMatrix": "1 0 0 0.6 0.8 0 0 0 1"}, "sheared"),
        ({"TransformMatrix": "2 0 0 0 2 0 0 0 2"}, "three directions of length 1"),
        ({"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, "three directions of length 1"),
        (
            {"NDims": 4, "DimSize": "4 5 6 1", "Offset": "0 0 0 0", "ElementSpacing": "1 1 1 1",
             "TransformMatrix": "0 0 0 1 0 1 0 0 0 0 1 0 1 0 0 0", "CenterOfRotation": None},
            "three directions of length 1",
        ),
    ],
)  # fmt: skip
def test_row_30_unusable_geometry(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        read_metaimage(write(tmp_path / "image.mha", build_header(**fields), RAW))


def test_row_31_voxels_that_are_no_numbers(tmp_path: Path) -> None:
    voxels = np.zeros((4, 5, 6), "<f4")
    voxels[1, 2, 3], voxels[0, 0, 1] = np.nan, np.inf
    path = write(tmp_path / "image.mha", build_header(ElementType="MET_FLOAT"), voxels.tobytes(order="F"))
    with pytest.raises(VolumeError, match="holds 2 NaN or infinite voxels of 120"):
        read_metaimage(path)


def test_row_35_pipes_folders_and_missing_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.raw")
    path = write(tmp_path / "image.mhd", build_header(ElementDataFile="pipe.raw"))
    for bad, message in ((tmp_path / "pipe.raw", "is a pipe"), (tmp_path, "is a folder"), (path, "is a pipe")):
        with pytest.raises(VolumeError, match=message):
            read_metaimage(bad)
    with pytest.raises(VolumeError, match=r"gone\.raw does not exist"):
        read_metaimage(write(path, build_header(ElementDataFile="gone.raw")))


def test_row_43_nothing_that_may_name_a_patient_is_quoted(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    for bad in ({}, {"DimSize": "9 9 9"}, {"ElementType": "?"}, {"ElementSpacing": None}):
        path = write(tmp_path / "image.mha", build_header(Name=CANARY, Comment=CANARY, ID=CANARY, **bad), RAW)
        try:
            read_metaimage(path)
        except VolumeError as error:
            said.append(str(error))
    assert len(said) == 2
    assert CANARY not in "".join(said) + caplog.text


@pytest.mark.realdata
def test_a_real_file_is_read_as_simpleitk_reads_it(real_data: Path) -> None:
    path = real_data / "nifti" / "oddities" / "mha.mha"
    volume, expected = read_metaimage(path), read_with_itk(path)
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_allclose(volume.affine, expected.affine, rtol=0, atol=1e-9)
    assert volume.orientation == "LAS"
