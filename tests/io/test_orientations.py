"""One head in all 48 axis orders and flips: read, segmented and written, the mask lies where the head lies."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medunet.io.nifti_read import read_nifti
from medunet.io.nifti_write import write_nifti_labels
from medunet.volume import Affine, Volume, to_orientation

pytestmark = pytest.mark.realdata

THRESHOLD = 30.0
CODES = [f"{a}{b}{c}" for a in "RLAPSI" for b in "RLAPSI" for c in "RLAPSI"]
ORIENTATIONS = [code for code in CODES if len({"RLAPSI".index(letter) // 2 for letter in code}) == 3]


@pytest.fixture(scope="module")
def folder(real_data: Path) -> Path:
    return real_data / "nifti" / "48-orientations"


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    """The head in RAS as nibabel reads it, as image and as array."""
    image: Any = nib.as_closest_canonical(nib.load(folder / "RAS.nii.gz"))
    return image.affine, image.get_fdata()


def segment(volume: Volume) -> Volume:
    """A model that anyone can check: 1 above a threshold, 2 above twice that."""
    labels = (volume.array > THRESHOLD).astype(np.uint8)
    return volume.with_array(labels + (volume.array > 2 * THRESHOLD))


def measure_distance_mm(affine: Affine, other: Affine, shape: tuple[int, ...]) -> float:
    corners = nib.affines.apply_affine(
        affine - other + np.diag([0, 0, 0, 1]), list(np.ndindex(2, 2, 2)) * np.array(shape)
    )
    return float(np.linalg.norm(corners, axis=-1).max())


def test_there_are_48(folder: Path) -> None:
    assert len(ORIENTATIONS) == 48
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{code}.nii.gz" for code in ORIENTATIONS)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_mask_overlays_the_head(folder: Path, reference: Any, tmp_path: Path, orientation: str) -> None:
    scan = folder / f"{orientation}.nii.gz"
    expected_affine, expected = reference
    volume = read_nifti(scan)
    assert volume.orientation == orientation
    write_nifti_labels(segment(volume), tmp_path / "mask.nii.gz", like=scan)

    # Another reader, and its own way of turning the axes.
    image: Any = nib.load(tmp_path / "mask.nii.gz")
    assert image.header.get_data_dtype() == np.uint8
    mask: Any = nib.as_closest_canonical(image)
    assert measure_distance_mm(mask.affine, expected_affine, mask.shape) < 0.01
    labels = (expected > THRESHOLD).astype(int) + (expected > 2 * THRESHOLD)
    assert set(np.unique(labels)) == {0, 1, 2}
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), labels)

    again = read_nifti(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(again.affine, volume.affine)
    turned = to_orientation(again, "RAS")
    assert measure_distance_mm(turned.affine, expected_affine, turned.spatial_shape) < 0.01
    np.testing.assert_array_equal(turned.array[0], labels)


@pytest.mark.parametrize("orientation", ["RAS", "LIP", "SPL"])
def test_mask_keeps_the_bits_of_the_header(folder: Path, tmp_path: Path, orientation: str) -> None:
    scan = folder / f"{orientation}.nii.gz"
    write_nifti_labels(segment(read_nifti(scan)), tmp_path / "mask.nii", like=scan)
    source, written = gzip.decompress(scan.read_bytes()), (tmp_path / "mask.nii").read_bytes()
    assert written[252:328] == source[252:328]  # qform_code to srow_z
    assert written[76:92] == source[76:92]  # pixdim[0] to pixdim[3]
    assert written[123] == source[123]  # xyzt_units


def test_a_marked_voxel_keeps_its_place(folder: Path) -> None:
    """The brightest voxel of the head lies at one place in the world, whatever the order of the axes."""
    places = []
    for orientation in ORIENTATIONS:
        volume = read_nifti(folder / f"{orientation}.nii.gz")
        brightest = np.argwhere(volume.array[0] == volume.array.max())
        places.append(np.sort(nib.affines.apply_affine(volume.affine, brightest), axis=0))
    np.testing.assert_allclose(places, np.broadcast_to(places[0], np.shape(places)), atol=0.01)
