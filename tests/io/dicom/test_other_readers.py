"""Sound series, as highdicom and SimpleITK read them: the same voxels at the same places."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from synthetic_series import ORIENTATIONS, build_series

from medunet.io import read_volume
from medunet.io.affine import LPS_FROM_RAS
from medunet.io.memory import from_lps_image
from medunet.volume import Volume, align_to_grid, compute_grid_distance_mm


def read_with_highdicom(folder: Path) -> Volume:
    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    volume = hd.get_volume_from_series(slices)
    return Volume(volume.array[None], LPS_FROM_RAS @ volume.affine)


def read_with_simpleitk(folder: Path) -> Volume:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return from_lps_image(reader.Execute())


def check_agreement(folder: Path, other: Volume) -> None:
    volume = read_volume(folder)
    turned = align_to_grid(other, volume, "the other reader", "medunet")
    assert compute_grid_distance_mm(volume, turned) < 0.01
    np.testing.assert_allclose(volume.array, turned.array, rtol=1e-6)


@pytest.mark.parametrize("directions", list(ORIENTATIONS))
@pytest.mark.parametrize("read", [read_with_highdicom, read_with_simpleitk])
def test_synthetic_series_in_every_orientation(tmp_path: Path, directions: str, read: object) -> None:
    folder = build_series(directions=ORIENTATIONS[directions]).write(tmp_path / "in")
    assert callable(read)
    check_agreement(folder, read(folder))


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", ["prostate-mr-study-7-series/07-07-2011/4.000000-t2tsetra-00702", "sarcoma-ct-mr-pet-rtstruct/CT/image"]
)
@pytest.mark.parametrize("read", [read_with_highdicom, read_with_simpleitk])
def test_real_series(real_data: Path, name: str, read: object) -> None:
    assert callable(read)
    check_agreement(real_data / "dicom" / name, read(real_data / "dicom" / name))
