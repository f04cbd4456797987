"""Images and label maps that do not belong together are refused with both sides, as training reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nifti_files import OBLIQUE, save

from medunet.errors import DatasetError, GeometryError, LabelError
from medunet.tasks import Task, read_case, read_dataset

SHAPE = (5, 6, 7)
IMAGE = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)


def build_task(**changes: Any) -> Task:
    content = {"name": "x-mr", "title": "x", "modality": "MR", "channels": ["t1"], "intensity": "zscore"}
    return Task.model_validate(content | {"labels": {"a": 1, "b": 2}} | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of one good case."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    save(tmp_path / "images" / "p012.nii.gz", IMAGE)
    save(tmp_path / "labels" / "p012.nii.gz", LABELS)
    return tmp_path


def read(folder: Path, **changes: Any) -> Any:
    return read_case(read_dataset(folder).cases[0], build_task(**changes))


def test_the_good_case(folder: Path) -> None:
    image, labels = read(folder)
    np.testing.assert_array_equal(image.array[0], IMAGE)
    np.testing.assert_array_equal(labels.array[0], LABELS)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (LABELS + 0.5, r"p012\.nii\.gz holds labels that are no whole numbers \(0\.5, 1\.5, 2\.5 in 210 voxels\)"),
        (LABELS.astype(np.int16) - 1, r"p012\.nii\.gz holds labels outside 0 to 16777215 \(-1 in \d+ voxels\)"),
        (LABELS.astype(np.float64) * 2**24, r"p012\.nii\.gz holds labels outside 0 to 16777215 \(1\.67772e\+07"),
        (
            LABELS * 7,
            r"p012\.nii\.gz holds the label value\(s\) 7, 14, which task 'x-mr' does not know; expected 0, 1, 2",
        ),
    ],
)
def test_row_32_bad_label_values_are_named(folder: Path, array: Any, match: str) -> None:
    save(folder / "labels" / "p012.nii.gz", array)
    with pytest.raises(LabelError, match=match) as caught:
        read(folder)
    assert str(folder / "labels") in str(caught.value)


def change_affine(*, turn: float = 0, scale: Any = (1, 1, 1), move: Any = (0, 0, 0)) -> Any:
    return nib.affines.from_matvec(nib.eulerangles.euler2mat(turn) @ OBLIQUE[:3, :3] * scale, OBLIQUE[:3, 3] + move)


@pytest.mark.parametrize(
    ("shape", "affine", "found", "expected"),
    [
        ((5, 6, 8), OBLIQUE, "shape 5x6x7", "shape 5x6x8"),
        (SHAPE, change_affine(scale=(1, 1, 1.1)), "spacing 0.7x1.2x3 mm", "spacing 0.7x1.2x3.3 mm"),
        (SHAPE, change_affine(move=(0.2, 0, 0)), "origin (-31.00, 12.50", "origin (-30.80, 12.50"),
        (SHAPE, change_affine(scale=(-1, 1, 1)), "origin (-31.00, 12.50", "axes turned to RPS"),
        (SHAPE, change_affine(turn=0.05), "up to 0.", "mm apart"),
    ],
)
def test_row_33_grids_that_differ_are_shown_side_by_side(
    folder: Path, shape: Any, affine: Any, found: str, expected: str
) -> None:
    save(folder / "labels" / "p012.nii.gz", np.zeros(shape, np.uint8), affine=affine)
    with pytest.raises(GeometryError) as caught:
        read(folder)
    message = str(caught.value)
    assert found in message
    assert expected in message
    assert str(folder / "images" / "p012.nii.gz") in message
    assert str(folder / "labels" / "p012.nii.gz") in message


def test_row_34_several_volumes_where_one_channel_is_wanted(folder: Path) -> None:
    save(folder / "images" / "p012.nii.gz", np.stack([IMAGE, IMAGE, IMAGE], axis=-1))
    with pytest.raises(DatasetError, match=r"'p012'.* 3 .*'x-mr'.* 1 "):
        read(folder)


def test_row_34_fewer_channels_than_the_task_wants(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"'p012'.* 1 .*'x-mr'.* 2 .*t1, t2"):
        read(folder, channels=["t1", "t2"])


def test_row_34_a_missing_modality_of_one_case(folder: Path) -> None:
    for name in ("p012_0000", "p012_0001", "p013_0001"):
        save(folder / "images" / f"{name}.nii.gz", IMAGE)
    (folder / "images" / "p012.nii.gz").unlink()
    save(folder / "labels" / "p013.nii.gz", LABELS)
    with pytest.raises(DatasetError, match=r"'p013' .* has the images p013_0001\.nii\.gz; expected"):
        read_dataset(folder)
