"""Baselines find what is plain to see, on any spacing, in volumes and pictures, and say what they were not given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from medunet.baselines import cluster_kmeans, find_voxel, grow_regions, segment_otsu, split_touching
from medunet.cli.app import app
from medunet.errors import InputError
from medunet.io import read_label_map, read_structures, write_nifti_image
from medunet.volume import Array, Volume

SPACING = (0.8, 1.0, 2.5)


def build_ball(shape: tuple[int, int, int], centre_mm: tuple[float, float, float], radius_mm: float) -> Array:
    axes = np.ogrid[tuple(slice(length) for length in shape)]
    squares = sum((axis * mm - at) ** 2 for axis, mm, at in zip(axes, SPACING, centre_mm, strict=True))
    ball: Array = squares <= radius_mm**2
    return ball


def build_scan(mask: Array, *, noise: float = 5.0, contrast: float = 100.0) -> Volume:
    values = np.random.default_rng(0).normal(40, noise, mask.shape) + contrast * mask
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-12.0, 30.0, 7.0)
    return Volume(values[None].astype(np.float32), affine)


TWO = build_ball((48, 30, 14), (12, 15, 17.5), 8.0) | build_ball((48, 30, 14), (26, 15, 17.5), 8.0)


# ---- Otsu and watershed ------------------------------------------------------------------------------------------------


def test_otsu_finds_what_stands_out() -> None:
    assert np.array_equal(segment_otsu(build_scan(TWO)).array[0], TWO)
    dark = segment_otsu(build_scan(TWO, contrast=-100.0), is_dark=True).array[0]
    assert (dark != TWO).sum() <= 3  # of the last bin of the histogram
    noisy = build_scan(TWO, noise=40.0)
    wrong = [(segment_otsu(noisy, smooth_mm=mm).array[0] != TWO).mean() for mm in (0.0, 1.2)]
    assert wrong[1] < 0.5 * wrong[0]


def test_touching_balls_are_divided_in_the_middle_by_millimetres() -> None:
    labels = segment_otsu(build_scan(TWO), split_mm=6.0).array[0]
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert np.array_equal(labels > 0, TWO)
    x = np.arange(48) * SPACING[0]
    for value, is_left in ((labels[15, 15, 7], True), (labels[33, 15, 7], False)):
        part = labels == value
        assert part.sum() == pytest.approx(TWO.sum() / 2, rel=0.03)
        middle = part.any(axis=(1, 2))
        assert (x[middle] <= 19.9).all() if is_left else (x[middle] >= 18.1).all()
    assert np.unique(split_touching(TWO, SPACING, 20.0)).tolist() == [0, 1]  # centres 14 mm apart


def test_pictures_are_divided_too() -> None:
    i, j = np.ogrid[:60, :40]
    discs = ((i - 18) ** 2 + (j - 20) ** 2 <= 144) | ((i - 38) ** 2 + (j - 20) ** 2 <= 144)
    labels = split_touching(discs[:, :, None], (1.0, 1.0, 1.0), 8.0)
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert (labels > 0).sum() == discs.sum()
    assert not split_touching(np.zeros((4, 4, 1), bool), (1.0, 1.0, 1.0), 3.0).any()


# ---- region growing and k-means ----------------------------------------------------------------------------------------


def test_a_region_grows_from_its_seed_and_no_further() -> None:
    apart = build_ball((48, 30, 14), (9, 15, 17.5), 6.0), build_ball((48, 30, 14), (28, 15, 17.5), 6.0)
    scan = build_scan(apart[0] | apart[1])
    seed = find_voxel(scan, (-12.0 + 9, 30.0 + 15, 7.0 + 17.5))
    assert seed == (11, 15, 7)
    assert np.array_equal(grow_regions(scan, [seed], tolerance=45).array[0], apart[0])
    assert np.array_equal(grow_regions(scan, [seed, (35, 15, 7)], tolerance=45).array[0], apart[0] | apart[1])
    assert grow_regions(scan, [seed], tolerance=500).array.all()
    assert grow_regions(scan, [seed], tolerance=0).array.sum() == 1


def test_three_tissues_are_three_classes_by_brightness() -> None:
    truth = np.zeros((30, 24, 9), np.uint8)
    truth[:, 8:16], truth[:, 16:] = 2, 1
    values = np.array([0.0, 50.0, 200.0])[truth] + np.random.default_rng(0).normal(0, 5, truth.shape)
    volume = Volume(values[None], np.diag([*SPACING, 1.0]))
    assert np.array_equal(cluster_kmeans(volume, 3).array[0], truth)
    assert np.array_equal(cluster_kmeans(volume, 2).array[0], truth == 2)
    scaled = Volume(np.stack([values, 1000 * np.roll(values, 0) + 5]), volume.affine)
    assert np.array_equal(cluster_kmeans(scaled, 3).array[0], truth)


def test_more_classes_than_values_leave_some_empty() -> None:
    values = np.zeros((1, 6, 5, 4), np.uint8)
    values[0, :2] = 10
    found = cluster_kmeans(Volume(values, np.eye(4)), 5).array
    assert len(np.unique(found)) == 2
    assert (found[0, :2] > found[0, 2:].max()).all()


# ---- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: segment_otsu(Volume(np.ones((1, 3, 3, 3)), np.eye(4))), "All voxels of the scan have the value 1"),
        (lambda s: segment_otsu(s, channel=1), "no channel 1; the scan has 1"),
        (lambda s: segment_otsu(s, smooth_mm=-1), "smoothing is -1 mm"),
        (lambda s: segment_otsu(s, split_mm=0), "distance between objects is 0 mm"),
        (lambda s: grow_regions(s, [], tolerance=1), "no seed"),
        (
            lambda s: grow_regions(s, [(0, 0, 14)], tolerance=1),
            r"outside of the scan; expected \(0, 0, 0\) to \(47, 29, 13\)",
        ),
        (lambda s: grow_regions(s, [(0, 0, 0)], tolerance=float("nan")), "tolerance is nan"),
        (lambda s: find_voxel(s, (500, 0, 0)), r"500, 0, 0 mm is voxel .* outside of the scan"),
        (lambda s: cluster_kmeans(s, 1), "1 classes asked for; expected 2 to 32"),
    ],
)
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(build_scan(TWO))


# ---- the command -------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["baseline", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_writes_masks_on_the_grid_of_the_scan(tmp_path: Path) -> None:
    scan = build_scan(TWO)
    write_nifti_image(scan, tmp_path / "scan.nii.gz")
    text = run("otsu", tmp_path / "scan.nii.gz", "-o", tmp_path / "otsu.nii.gz")
    assert f"foreground: {TWO.sum() * 2 / 1000:.3g} ml" in text
    found = read_label_map(tmp_path / "otsu.nii.gz")
    assert np.array_equal(found.array[0], TWO)
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-5)
    run("otsu", tmp_path / "scan.nii.gz", "-o", tmp_path / "objects.seg.nrrd", "--split-objects", 6)
    assert [s.name for s in read_structures(tmp_path / "objects.seg.nrrd").structures] == ["object 1", "object 2"]
    seeds = ("--seed", "-3,45,24.5", "--voxel", "35,15,7", "--tolerance", 45)
    run("region-growing", tmp_path / "scan.nii.gz", "-o", tmp_path / "grown.nrrd", *seeds)
    assert np.array_equal(read_label_map(tmp_path / "grown.nrrd").array[0], TWO)
    run("k-means", tmp_path / "scan.nii.gz", "-o", tmp_path / "k.nii.gz", "--classes", 2)
    assert np.array_equal(read_label_map(tmp_path / "k.nii.gz").array[0], TWO)
    for arguments, message in (
        (("otsus",), "no baseline 'otsus'; did you mean 'otsu'"),
        (("region-growing",), "needs --tolerance"),
        (("region-growing", "--tolerance", "3", "--seed", "1,x,2"), "--seed is '1,x,2'; expected three numbers"),
    ):
        with pytest.raises(InputError, match=message):
            run(arguments[0], tmp_path / "scan.nii.gz", "-o", tmp_path / "new.nii.gz", *arguments[1:])


def test_colour_pictures_become_masks(tmp_path: Path) -> None:
    from PIL import Image

    picture = np.full((20, 30, 3), 30, np.uint8)
    picture[5:15, 8:20] = (200, 120, 220)
    Image.fromarray(picture).save(tmp_path / "cells.png")
    for name in ("otsu", "k-means"):
        run(name, tmp_path / "cells.png", "-o", tmp_path / f"{name}.png", "--classes", 2)
        found = read_label_map(tmp_path / f"{name}.png").array[0, :, :, 0]
        expected = np.zeros((30, 20), bool)
        expected[8:20, 5:15] = True
        assert np.array_equal(found > 0, expected)
