"""Masks of pictures: palettes are numbers, colours and JPEG are refused, and a mask lies on its picture pixel by pixel."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medunet.errors import GeometryError, LabelError, VolumeError
from medunet.io import ReadOptions, put_on_picture, read_label_map, read_volume
from medunet.io.planar import write_picture
from medunet.phantoms import make_phantom_case
from medunet.volume import Volume

LABELS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)  # 3 columns, 2 rows


def save(path: Path, pixels: Any, mode: str | None = None, **options: Any) -> Path:
    Image.fromarray(np.asarray(pixels), mode).save(path, **options)
    return path


def save_palette(path: Path, bits: int = 8, **options: Any) -> Path:
    image = Image.fromarray(LABELS).convert("P")
    image.putpalette([0, 0, 0, 200, 30, 30, 30, 200, 30])
    image.save(path, bits=bits, **options)
    return path


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_numbers_of_a_palette_are_the_labels_of_a_mask(tmp_path: Path, bits: int) -> None:
    labels = read_label_map(save_palette(tmp_path / "mask.png", bits))
    assert labels.array[0, :, :, 0].T.tolist() == LABELS.tolist()
    assert labels.array.dtype == np.uint8


def test_a_transparent_background_of_a_palette_does_not_matter_to_a_mask(tmp_path: Path) -> None:
    labels = read_label_map(save_palette(tmp_path / "mask.png", transparency=0))
    assert labels.array[0, :, :, 0].T.tolist() == LABELS.tolist()


def test_a_palette_is_still_no_picture(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="has a palette"):
        read_volume(save_palette(tmp_path / "scan.png"))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_values_stay_as_they_are_in_8_and_16_bits(tmp_path: Path, suffix: str) -> None:
    for pixels in (LABELS * 100, LABELS.astype(np.uint16) * 1000):
        labels = read_label_map(save(tmp_path / f"mask.{suffix}", pixels))
        assert labels.array[0, :, :, 0].T.tolist() == pixels.tolist()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_mask_in_colours_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"mask.{suffix}", np.stack([LABELS * 100] * 3, axis=-1))
    with pytest.raises(LabelError, match=rf"{re.escape(path.name)} has 3 channels, .*expected a number per pixel"):
        read_label_map(path)


@pytest.mark.parametrize("name", ["mask.jpg", "mask.png"])
def test_a_jpeg_mask_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, LABELS * 100, format="JPEG")
    with pytest.raises(LabelError, match=r"is a JPEG, which changes the values.*expected a mask as PNG or TIFF"):
        read_label_map(path)


# ---- JPEG pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_channels", [1, 3])
def test_a_jpeg_picture_is_read_as_pillow_decodes_it(tmp_path: Path, num_channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, num_channels), dtype=np.uint8)
    path = save(tmp_path / "photo.jpeg", pixels.squeeze(), quality=90)
    volume = read_volume(path)
    assert volume.shape == (num_channels, 56, 40, 1)
    assert volume.orientation == "LPS"
    with Image.open(path) as image:
        decoded = np.asarray(image).reshape(40, 56, num_channels)
    assert np.array_equal(volume.array[..., 0].transpose(2, 1, 0), decoded)


def test_jpeg_pictures_of_other_kinds_are_refused(tmp_path: Path) -> None:
    rgb = np.zeros((8, 8, 3), np.uint8)
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "print.jpg")
    with pytest.raises(VolumeError, match="has the colours CMYK"):
        read_volume(tmp_path / "print.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "phone.jpg", rgb, exif=exif)
    with pytest.raises(VolumeError, match="turned or mirrored"):
        read_volume(tmp_path / "phone.jpg")
    content = save(tmp_path / "whole.jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "cut.jpg").write_bytes(content.read_bytes()[:900])
    with pytest.raises(VolumeError, match="cut short"):
        read_volume(tmp_path / "cut.jpg")


def test_the_resolution_of_a_photo_is_that_of_a_printer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "photo.jpg", np.zeros((8, 8, 3), np.uint8), dpi=(254, 254))
    assert read_volume(path).spacing == pytest.approx((0.1, 0.1, 1.0))
    with caplog.at_level(logging.WARNING):
        assert read_volume(path, ReadOptions(modality="photo")).spacing == (1.0, 1.0, 1.0)
    assert not caplog.records


# ---- mask on picture ---------------------------------------------------------------------------------------------------


def build(shape: tuple[int, int, int], mm: float, value: int = 0) -> Volume:
    return Volume(np.full((1, *shape), value, np.uint8), np.diag([-mm, -mm, 1.0, 1.0]))


def test_a_mask_takes_the_pixel_size_of_its_picture() -> None:
    put = put_on_picture(build((4, 3, 1), 1.0, 7), build((4, 3, 1), 0.25), "mask.png", "scan.png")
    assert put.spacing == (0.25, 0.25, 1.0)
    assert (put.array == 7).all()


def test_a_mask_of_another_size_is_refused_in_pixels() -> None:
    with pytest.raises(GeometryError, match=r"mask\.png has 4x3 pixels and scan\.tif has 8x6 pixels on 5 pages"):
        put_on_picture(build((4, 3, 1), 1.0), build((8, 6, 5), 1.0), "mask.png", "scan.tif")


@pytest.mark.parametrize("name", ["cells-microscopy", "stained-cells"])
def test_a_written_picture_reads_back(tmp_path: Path, name: str) -> None:
    image = make_phantom_case(name, 1).image
    write_picture(image, tmp_path / "picture.png")
    found = read_volume(tmp_path / "picture.png")
    assert np.array_equal(found.array, image.array)
    assert np.array_equal(found.affine, image.affine)
