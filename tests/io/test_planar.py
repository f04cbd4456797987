"""Pictures keep every pixel, its place and its type, or are refused; masks of pictures come back."""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name that its manual uses
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from medunet.errors import LabelError, OutputError, VolumeError
from medunet.io.planar import read_planar, write_planar_labels
from medunet.volume import Volume

CANARY = "Canary^Patient"
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def build_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def build_png(
    pixels: Any, colour: int = GREY, *, depth: int | None = None, extra: bytes = b"", packed: bytes | None = None,
    interlace: int = 0, size: tuple[int, int] | None = None,
) -> bytes:  # fmt: skip
    """A PNG file by hand; ``pixels`` is ``(rows, columns)`` or ``(rows, columns, samples)``."""
    rows = np.asarray(pixels)
    height, width = size or rows.shape[:2]
    big_endian = rows.astype(rows.dtype.newbyteorder(">"))
    if packed is None:
        packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in big_endian))
    depth = depth or 8 * rows.dtype.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    parts = build_chunk(b"IHDR", header) + extra + build_chunk(b"IDAT", packed) + build_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def build_tiff(pages: list[Any], *, tags: dict[int, Any] | None = None, **options: Any) -> bytes:
    """A TIFF file through Pillow; ``tags`` go into every page."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in (tags or {}).items():
        info[tag] = value
    buffer = io.BytesIO()
    first, *others = (Image.fromarray(np.asarray(page)) for page in pages)
    first.save(buffer, format="TIFF", save_all=True, append_images=others, tiffinfo=info, **options)
    return buffer.getvalue()


def build_raw_tiff(pixels: Any, tags: dict[int, int], order: str = "<") -> bytes:
    """A TIFF file by hand: one page, one strip, no compression, in the byte order ``order``."""
    height, width = pixels.shape
    fields = {256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    fields = dict(sorted({**fields, 279: pixels.nbytes, **tags}.items()))
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in fields.items())
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + pixels.nbytes)
    return start + pixels.tobytes() + struct.pack(f"{order}H", len(fields)) + entries + bytes(4)


def make_pixels(dtype: Any, shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return (rng.normal(0, 1, shape) * 1e9).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


# ---- PNG -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_png_keeps_columns_and_rows(tmp_path: Path, dtype: Any) -> None:
    pixels = make_pixels(dtype, (5, 7))
    volume = read_planar(write(tmp_path / "image.png", build_png(pixels)))
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array[0, :, :, 0].T, pixels)
    np.testing.assert_array_equal(volume.affine, np.diag([-1.0, -1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "image.png"))), pixels)


def test_colours_become_channels(tmp_path: Path) -> None:
    pixels = make_pixels(np.uint8, (5, 7, 3))
    path = write(tmp_path / "image.png", build_png(pixels, RGB))
    np.testing.assert_array_equal(read_planar(path).array[..., 0], pixels.transpose(2, 1, 0))
    np.testing.assert_array_equal(read_planar(path, volume_index=2).array[0, ..., 0], pixels[..., 2].T)
    with pytest.raises(VolumeError, match=r"holds 3 volume\(s\)"):
        read_planar(path, volume_index=3)


def test_one_bit_becomes_zero_and_one(tmp_path: Path) -> None:
    rows = np.array([[0b10110000], [0b01100000]], np.uint8)
    volume = read_planar(write(tmp_path / "mask.png", build_png(rows, depth=1, size=(2, 4))))
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array[0, :, :, 0].T, [[1, 0, 1, 1], [0, 1, 1, 0]])


@pytest.mark.parametrize("num_samples", [2, 4])
def test_an_opaque_alpha_channel_is_left_out_and_another_refused(tmp_path: Path, caplog: Any, num_samples: int) -> None:
    pixels = make_pixels(np.uint8, (5, 7, num_samples))
    pixels[..., -1] = 255
    colour = GREY_ALPHA if num_samples == 2 else RGB_ALPHA
    volume = read_planar(write(tmp_path / "image.png", build_png(pixels, colour)))
    np.testing.assert_array_equal(volume.array[..., 0], pixels[..., :-1].transpose(2, 1, 0))
    assert "an alpha channel that is opaque everywhere" in caplog.text
    pixels[4, 6, -1] = 254
    with pytest.raises(VolumeError, match="has transparent pixels"):
        read_planar(write(tmp_path / "image.png", build_png(pixels, colour)))


def test_an_interlaced_png(tmp_path: Path) -> None:
    pixels = np.arange(5 * 11, dtype=np.uint8).reshape(5, 11)
    starts = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]
    passes = [pixels[y::step_y, x::step_x] for x, step_x, y, step_y in starts]
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for part in passes for row in part if row.size))
    volume = read_planar(write(tmp_path / "image.png", build_png(pixels, packed=packed, interlace=1)))
    np.testing.assert_array_equal(volume.array[0, :, :, 0].T, pixels)


@pytest.mark.parametrize(
    ("unit", "resolution", "spacing", "said"),
    [
        (1, (2000, 500), (0.5, 2.0), ""),
        (1, (2835, 2835), (1.0, 1.0), "has 72 dpi"),
        (1, (3780, 3780), (1.0, 1.0), "has 96 dpi"),
        (1, (11811, 11811), (1000 / 11811, 1000 / 11811), ""),
        (0, (1, 1), (1.0, 1.0), ""),
        (0, (1, 2), (1.0, 1.0), "a resolution of 1 x 2 without a meaning"),
        (1, (0, 0), (1.0, 1.0), "a resolution of 0 x 0 without a meaning"),
    ],
)  # fmt: skip
def test_the_spacing_of_a_png(tmp_path: Path, caplog: Any, unit: int, resolution: Any, spacing: Any, said: str) -> None:
    extra = build_chunk(b"pHYs", struct.pack(">IIB", *resolution, unit))
    volume = read_planar(write(tmp_path / "image.png", build_png(np.zeros((5, 7), np.uint8), extra=extra)))
    np.testing.assert_allclose(volume.affine, np.diag([-spacing[0], -spacing[1], 1, 1]), rtol=1e-12)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": PALETTE}, "has a palette"),
        ({"depth": 2, "size": (5, 28)}, "has 2 bits per sample and the colour type 0"),
        ({"depth": 4, "size": (5, 14)}, "has 4 bits per sample"),
        ({"depth": 16, "colour": RGB}, "has 16 bits per sample and the colour type 2"),
        ({"depth": 16, "colour": GREY_ALPHA}, "has 16 bits per sample and the colour type 4"),
        ({"colour": 5}, "the colour type 5"),
        ({"extra": build_chunk(b"tRNS", b"\0\7")}, "makes one of its values transparent"),
        ({"extra": build_chunk(b"acTL", b"\0\0\0\2\0\0\0\0")}, "is animated"),
    ],
)
def test_png_files_whose_numbers_would_change_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(VolumeError, match=f"{message}.*; expected grey of 8 to 32 bits"):
        read_planar(write(tmp_path / "image.png", build_png(np.zeros((5, 7), np.uint8), **options)))


# ---- TIFF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressor", [None, "LZW", "Deflate", "PackBits"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"])
def test_stacks_that_simpleitk_writes(tmp_path: Path, dtype: str, compressor: str | None) -> None:
    voxels = make_pixels(dtype, (3, 5, 7))
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 1.2, 1.0))
    options = {"useCompression": True, "compressor": compressor} if compressor else {}
    sitk.WriteImage(image, str(tmp_path / "stack.tif"), **options)
    volume = read_planar(tmp_path / "stack.tif")
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array[0], voxels.transpose(2, 1, 0))
    np.testing.assert_allclose(volume.affine, np.diag([-0.7, -1.2, 1.0, 1.0]), rtol=1e-6)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("dtype", "form"), [("u1", 1), ("u2", 1), ("i2", 2), ("i4", 2), ("f4", 3)])
def test_both_byte_orders(tmp_path: Path, dtype: str, form: int, order: str) -> None:
    pixels = make_pixels(dtype, (5, 7)).astype(order + dtype)
    volume = read_planar(write(tmp_path / "image.tif", build_raw_tiff(pixels, {339: form}, order)))
    np.testing.assert_array_equal(volume.array[0, :, :, 0].T, pixels)
    assert volume.array.dtype == np.dtype(dtype)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_coloured_pages_become_channels_of_slices(tmp_path: Path, compression: str | None) -> None:
    pages = make_pixels(np.uint8, (4, 5, 7, 3))
    volume = read_planar(write(tmp_path / "stack.tif", build_tiff(list(pages), compression=compression)))
    np.testing.assert_array_equal(volume.array, pages.transpose(3, 2, 1, 0))


@pytest.mark.parametrize(
    ("description", "order"),
    [
        ("images=12\nslices=12", (1, 12, 1)),
        ("images=12", (1, 12, 1)),
        ("images=12\nchannels=2\nslices=6\nhyperstack=true", (1, 6, 2)),
        ("images=12\nslices=4\nframes=3\nhyperstack=true", (3, 4, 1)),
        ("images=12\nframes=12", (12, 1, 1)),
    ],
)
def test_hyperstacks_of_imagej(tmp_path: Path, description: str, order: tuple[int, int, int]) -> None:
    pages = make_pixels(np.uint16, (12, 5, 7))
    path = write(tmp_path / "stack.tif", build_tiff(list(pages), description=f"ImageJ=1.53t\n{description}\n"))
    num_times, num_slices, num_channels = order
    expected = pages.reshape(num_times, num_slices, num_channels, 5, 7)  # channels vary fastest
    volume = read_planar(path)
    assert volume.shape == (num_times * num_channels, 7, 5, num_slices)
    for time, k, channel, j, i in ((0, 0, 0, 0, 0), (num_times - 1, num_slices - 1, num_channels - 1, 4, 3)):
        assert volume.array[time + channel, i, j, k] == expected[time, k, channel, j, i]
    np.testing.assert_array_equal(volume.array, expected.transpose(0, 2, 4, 3, 1).reshape(volume.shape))


UM = {282: 4.0, 283: 2.0, 296: 1}


@pytest.mark.parametrize(
    ("tags", "description", "spacing", "said"),
    [
        ({282: 20.0, 283: 5.0, 296: 3}, "", (0.5, 2.0, 1.0), "does not say the distance of its slices"),
        ({282: 254.0, 283: 508.0, 296: 2}, "", (0.1, 0.05, 1.0), "does not say the distance of its slices"),
        ({282: 254.0, 283: 508.0}, "", (0.1, 0.05, 1.0), "does not say the distance"),  # inches, by the standard
        ({282: 72.0, 283: 72.0, 296: 2}, "", (1.0, 1.0, 1.0), "has 72 dpi"),
        ({282: 1.0, 283: 1.0, 296: 1}, "", (1.0, 1.0, 1.0), ""),
        ({}, "", (1.0, 1.0, 1.0), ""),
        ({282: 3.0, 283: 2.0, 296: 1}, "", (1.0, 1.0, 1.0), "without a meaning"),
        (UM, "ImageJ=1.53t\nimages=3\nslices=3\nunit=micron\nspacing=1.5\n", (2.5e-4, 5e-4, 1.5e-3), ""),
        (UM, "ImageJ=1.53t\nimages=3\nslices=3\nunit=\\u00B5m\nspacing=1.5\n", (2.5e-4, 5e-4, 1.5e-3), ""),
        (UM, "ImageJ=1.53t\nimages=3\nslices=3\nunit=mm\n", (0.25, 0.5, 1.0), ""),
        ({}, "ImageJ=1.53t\nimages=3\nslices=3\nunit=mm\nspacing=2\n", (1.0, 1.0, 1.0), "without a meaning"),
        ({282: 72.0, 283: 72.0, 296: 2}, "ImageJ=1.53t\nimages=3\nunit=inch\n", (25.4 / 72, 25.4 / 72, 25.4), ""),
        (UM, "ImageJ=1.53t\nimages=3\nslices=3\nunit=pixel\nspacing=1.5\n", (1.0, 1.0, 1.0), "without a meaning"),
        ({282: 20.0, 283: 5.0, 296: 3}, "ImageJ=1.53t\nimages=3\nslices=3\nspacing=0.3\n", (0.5, 2.0, 3.0), ""),
    ],
)  # fmt: skip
def test_the_spacing_of_a_tiff(
    tmp_path: Path, caplog: Any, tags: dict[int, Any], description: str, spacing: Any, said: str
) -> None:
    path = write(
        tmp_path / "stack.tif", build_tiff(list(np.zeros((3, 5, 7), np.uint8)), tags={**tags, 270: description})
    )
    np.testing.assert_allclose(read_planar(path).affine, np.diag([-spacing[0], -spacing[1], spacing[2], 1]), rtol=1e-7)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("ImageJ=1.53t\nimages=900\nslices=900\n", "a number of images that it does not have"),
        ("ImageJ=1.53t\nimages=4\nchannels=2\nframes=2\n", "time points, channels or colours at once"),
        ('<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org"/>', "by OME-XML"),
        ('{"shape": [2, 2, 5, 7]}', r"by the shape \[2, 2, 5, 7\]"),
        ('{"shape": [40, 5, 7]}', r"by the shape \[40, 5, 7\]"),
    ],
)
def test_descriptions_of_something_else_are_refused(tmp_path: Path, description: str, message: str) -> None:
    path = write(tmp_path / "stack.tif", build_tiff(list(np.zeros((4, 5, 7), np.uint8)), description=description))
    with pytest.raises(VolumeError, match=message):
        read_planar(path)


def test_the_description_of_tifffile(tmp_path: Path) -> None:
    pages = make_pixels(np.uint16, (4, 5, 7))
    path = write(tmp_path / "stack.tif", build_tiff(list(pages), description='{"shape": [1, 4, 5, 7]}'))
    np.testing.assert_array_equal(read_planar(path).array[0], pages.transpose(2, 1, 0))


def test_tiff_files_whose_numbers_would_change_are_refused(tmp_path: Path) -> None:
    grey, colour = np.zeros((5, 7), np.uint8), np.zeros((5, 7, 3), np.uint8)
    palette = io.BytesIO()
    Image.fromarray(grey).convert("P").save(palette, format="TIFF")
    white = build_tiff([grey]).replace(struct.pack("<HHII", 262, 3, 1, 1), struct.pack("<HHII", 262, 3, 1, 0))
    for content, message in (
        (palette.getvalue(), "in the photometric kind 3"),
        (white, "stores 0 as white"),
        (build_tiff([np.zeros((5, 7, 4), np.uint8)]), r"has 4 sample\(s\) per pixel"),
        (build_tiff([colour], compression="jpeg"), "is compressed by the method 7"),
        (build_tiff([grey], tags={274: 6}), "is stored turned"),
        (build_tiff([grey, grey[:4]]), "pages of different size or type"),
        (build_tiff([grey, grey.astype(np.uint16)]), "pages of different size or type"),
        (build_tiff([grey, colour]), "pages of different size or type"),
        (build_tiff([grey], tags={254: 1}), "previews or masks of others"),
    ):
        with pytest.raises(VolumeError, match=message):
            read_planar(write(tmp_path / "image.tif", content))


# ---- damaged files ---------------------------------------------------------------------------------------------------


def test_row_27_png_truncated_at_any_byte_or_with_a_flipped_bit(tmp_path: Path) -> None:
    content = build_png(make_pixels(np.uint8, (5, 7)))
    path = tmp_path / "image.png"
    for length in range(len(content)):
        with pytest.raises(VolumeError, match=r"is cut short|is no PNG, JPEG or TIFF"):
            read_planar(write(path, content[:length]))
    for position in range(8, len(content)):
        flipped = content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        with pytest.raises(VolumeError, match="is cut short"):
            read_planar(write(path, flipped))


@pytest.mark.parametrize("num_rows", [4, 6])
def test_row_27_rows_that_the_png_header_does_not_promise(tmp_path: Path, num_rows: int) -> None:
    content = build_png(np.zeros((num_rows, 7), np.uint8), size=(5, 7))
    with pytest.raises(VolumeError, match=f"promises 40 bytes of pixels in its header and has {8 * num_rows}"):
        read_planar(write(tmp_path / "image.png", content))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_row_27_tiff_truncated_at_any_byte(tmp_path: Path, compression: str | None) -> None:
    pages = make_pixels(np.uint8, (2, 5, 7))
    content = build_tiff(list(pages), compression=compression)
    num_refused = 0
    for length in range(len(content)):
        try:
            volume = read_planar(write(tmp_path / "stack.tif", content[:length]))
        except VolumeError as error:
            assert re.search("is cut short|is no PNG, JPEG or TIFF", str(error))  # noqa: PT017 - one of two may come
            num_refused += 1
        else:
            np.testing.assert_array_equal(volume.array[0], pages.transpose(2, 1, 0))
    assert num_refused > len(content) - 16  # the end is padding


def test_row_27_deflated_tiff_with_a_flipped_bit(tmp_path: Path) -> None:
    pixels = make_pixels(np.uint8, (50, 70))
    content = build_tiff([pixels], compression="tiff_adobe_deflate")
    data = zlib.compress(pixels.tobytes())[2:40]
    start = content.index(data[:30])
    for position in range(start, start + 3000, 97):
        flipped = content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        with pytest.raises(VolumeError, match="is cut short, damaged"):
            read_planar(write(tmp_path / "image.tif", flipped))


@pytest.mark.parametrize("compressor", ["LZW", "Deflate"])
def test_row_27_a_damaged_directory_never_gives_the_page_before(tmp_path: Path, compressor: str) -> None:
    pages = make_pixels(np.uint16, (2, 16, 16))
    image = sitk.GetImageFromArray(pages)
    sitk.WriteImage(image, str(tmp_path / "stack.tif"), useCompression=True, compressor=compressor)
    content = (tmp_path / "stack.tif").read_bytes()
    start = struct.unpack("<I", content[4:8])[0]
    for _ in pages:
        (num_entries,) = struct.unpack("<H", content[start : start + 2])
        end = start + 2 + 12 * num_entries
        for position in range(start, end):
            for bit in (1, 64):
                flipped = content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]
                try:
                    volume = read_planar(write(tmp_path / "flipped.tif", flipped))
                except VolumeError:
                    continue
                np.testing.assert_array_equal(volume.array[0], pages.transpose(2, 1, 0))
        (start,) = struct.unpack("<I", content[end : end + 4])
    assert start == 0


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({279: 28}, "promises 35 bytes in a page and has 28"),
        ({279: 42}, "promises 35 bytes in a page and has 42"),
        ({273: 5000}, "a page ends beyond its"),
        ({279: 5000, 257: 714, 278: 714}, "a page ends beyond its"),
        ({278: 2}, "no usable list of where its pixels lie"),
        ({259: 5}, "is cut short, damaged"),
    ],
)
def test_row_27_a_directory_that_contradicts_the_file(tmp_path: Path, tags: dict[int, int], message: str) -> None:
    path = write(tmp_path / "image.tif", build_raw_tiff(make_pixels(np.uint8, (5, 7)), tags))
    with pytest.raises(VolumeError, match=message):
        read_planar(path)


def test_row_27_other_files(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="is no PNG, JPEG or TIFF picture: it is a PDF document"):
        read_planar(write(tmp_path / "image.png", b"%PDF-1.7"))
    with pytest.raises(VolumeError, match="is cut short, damaged"):
        read_planar(write(tmp_path / "image.png", b"\xff\xd8\xff\xe0"))
    with pytest.raises(VolumeError, match="is no PNG, JPEG or TIFF picture: it is empty"):
        read_planar(write(tmp_path / "image.tif", b""))


def test_row_28_a_header_that_promises_too_much(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "image.png"
    rows = np.zeros((5, 7), np.uint8)
    with pytest.raises(VolumeError, match="promises 2000000000x1000000000 pixels"):
        read_planar(write(path, build_png(rows, size=(10**9, 2 * 10**9))))
    bomb = build_png(rows, size=(40000, 40000), packed=bytes(2**21))
    with pytest.raises(VolumeError, match=r"promises 40000x40000 pixels \(1\.5 GiB unpacked\), \d+ times its size"):
        read_planar(write(path, bomb))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    wide = build_png(rows, size=(2000, 2000), packed=zlib.compress(bytes(2001 * 2000)))
    with pytest.raises(VolumeError, match="a page of more than 2 million pixels"):
        read_planar(write(path, wide))


@pytest.mark.parametrize(
    "size", [(0, 7), (5, 0)],
)  # fmt: skip
def test_row_29_impossible_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(VolumeError, match=r"image\.png .*(promises|cut short)"):
        read_planar(write(tmp_path / "image.png", build_png(np.zeros((5, 7), np.uint8), size=size)))


def test_row_31_pixels_that_are_no_numbers(tmp_path: Path) -> None:
    pixels = np.zeros((5, 7), np.float32)
    pixels[2, 3] = np.nan
    with pytest.raises(VolumeError, match="holds 1 NaN or infinite voxels of 35"):
        read_planar(write(tmp_path / "image.tif", build_tiff([pixels])))


def test_row_35_pipes_and_folders(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for bad, message in (
        (tmp_path / "pipe.png", "is a pipe"),
        (tmp_path, "is a folder"),
        (tmp_path / "x", "not exist"),
    ):
        with pytest.raises(VolumeError, match=message):
            read_planar(bad)


def test_row_43_nothing_that_may_name_a_patient_is_quoted(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, logger="medunet")
    said = []
    for content in (
        build_png(np.zeros((5, 7), np.uint8), extra=build_chunk(b"tEXt", b"Author\0" + CANARY.encode()), size=(9, 9)),
        build_tiff([np.zeros((5, 7), np.uint8)], description=f"ImageJ={CANARY}\nimages=9\nunit={CANARY}\nslices=9\n"),
        build_tiff([np.zeros((5, 7), np.uint8)], description=f"ImageJ=1\nimages={CANARY}\nslices={CANARY}\n"),
    ):
        with pytest.raises(VolumeError) as caught:
            read_planar(write(tmp_path / "image", content))
        said.append(str(caught.value))
    assert CANARY not in "".join(said) + caplog.text


# ---- masks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    spacing=st.one_of(st.tuples(*[st.floats(1e-5, 1e3)] * 3), st.just((25.4 / 72, 25.4 / 72, 2.0))),
    highest=st.sampled_from([0, 1, 255, 256, 65535]),
)
@settings(max_examples=50, deadline=None)
def test_row_45_a_mask_comes_back_as_tiff(folder: Path, shape: Any, spacing: Any, highest: int) -> None:
    labels = np.random.default_rng(sum(shape)).integers(0, highest, (1, *shape), endpoint=True).astype(np.int32)
    labels.flat[0] = highest
    mask = Volume(labels, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))
    write_planar_labels(mask, folder / "mask.tif")
    again = read_planar(folder / "mask.tif")
    np.testing.assert_array_equal(again.array, labels)
    assert again.array.dtype == (np.uint8 if highest < 256 else np.uint16)
    np.testing.assert_allclose(again.spacing, spacing, rtol=1e-9)
    independent = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "mask.tif"))).reshape(shape[::-1])
    np.testing.assert_array_equal(independent.transpose(2, 1, 0), labels[0])


@pytest.mark.parametrize("highest", [1, 255, 256, 65535])
def test_a_mask_comes_back_as_png(tmp_path: Path, highest: int) -> None:
    labels = np.random.default_rng(0).integers(0, highest, (1, 7, 5, 1), endpoint=True)
    labels[0, 6, 4, 0] = highest
    mask = Volume(labels, np.diag([-0.5, -0.25, 1.0, 1.0]))
    write_planar_labels(mask, tmp_path / "mask.png")
    again = read_planar(tmp_path / "mask.png")
    np.testing.assert_array_equal(again.array, labels)
    np.testing.assert_array_equal(again.affine, mask.affine)
    independent = sitk.ReadImage(str(tmp_path / "mask.png"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(independent), labels[0, :, :, 0].T)


def test_a_mask_of_a_picture_has_its_grid(tmp_path: Path) -> None:
    """Whatever spacing a PNG says, or none, its mask says the same."""
    for resolution in (None, (1000, 1000), (1429, 833), (2835, 2835), (100_000_000, 99_999_999)):
        extra = build_chunk(b"pHYs", struct.pack(">IIB", *resolution, 1)) if resolution else b""
        scan = read_planar(write(tmp_path / "scan.png", build_png(np.zeros((5, 7), np.uint8), extra=extra)))
        write_planar_labels(scan, tmp_path / "mask.png")
        np.testing.assert_array_equal(read_planar(tmp_path / "mask.png").affine, scan.affine)


def test_what_pictures_cannot_hold_is_refused(tmp_path: Path) -> None:
    labels, affine = np.ones((1, 7, 5, 2), np.int64), np.diag([-1.0, -1.0, 1.0, 1.0])
    moved = affine.copy()
    moved[0, 3] = 0.5
    for mask, name, error, message in (
        (Volume(labels, affine), "mask.png", OutputError, "PNG holds 1 slice, the mask has 2"),
        (Volume(labels, affine), "mask.jpg", OutputError, r"must end in \.png, \.tif or \.tiff"),
        (Volume(labels, np.eye(4)), "mask.tif", OutputError, "pictures hold no orientation and position"),
        (Volume(labels, moved), "mask.tif", OutputError, "pictures hold no orientation and position"),
        (Volume(labels * 65536, affine), "mask.tif", LabelError, "from 65536 to 65536; expected 0 to 65535"),
        (Volume(-labels, affine), "mask.tif", LabelError, "from -1 to -1; expected 0 to 65535"),
        (Volume(labels * 0.5, affine), "mask.tif", LabelError, "whole numbers"),
    ):
        with pytest.raises(error, match=message):
            write_planar_labels(mask, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# ---- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_pictures_are_read_as_simpleitk_reads_them(real_data: Path) -> None:
    stacks = sorted((real_data / "nuclei").glob("*.tif"))
    pictures = sorted((real_data / "em-membranes-2d").rglob("*.png"))
    assert (len(stacks), len(pictures)) == (4, 60)
    for path in [*stacks, *pictures[::6]]:
        volume, image = read_planar(path), sitk.ReadImage(str(path))
        pixels = sitk.GetArrayFromImage(image)
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        assert volume.array.dtype == pixels.dtype
        np.testing.assert_array_equal(volume.array[0], pixels.transpose(2, 1, 0))
        np.testing.assert_array_equal(volume.affine, np.diag([-1.0, -1.0, 1.0, 1.0]))
