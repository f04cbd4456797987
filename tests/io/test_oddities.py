"""Every odd file of the real data is read as nibabel reads it, or refused with the reason that the table gives."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nifti_files import read_raw_header

from medunet.errors import VolumeError
from medunet.io.nifti_read import read_nifti
from medunet.io.nifti_write import write_nifti_labels
from medunet.volume import Volume

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(60)]

READ = {
    "AIL.nii.gz": (1, 79, 67, 64),
    "FA.nii.gz": (1, 84, 92, 56),
    "FLAIR.nii.gz": (1, 124, 160, 140),
    "LAS_drawing_correct.nii.gz": (1, 64, 79, 67),
    "LAS_drawing_incorrect.nii.gz": (1, 64, 79, 67),
    "V1.nii.gz": (3, 84, 92, 56),  # a vector per voxel
    "aal.nii.gz": (1, 181, 217, 181),
    "anatomical.nii": (1, 33, 41, 25),  # big-endian
    "avg152T1_RL_nifti.nii.gz": (1, 91, 109, 91),  # sform only, left and right as radiologists look
    "cope1.nii.gz": (1, 64, 64, 36),
    "draw.nii.gz": (1, 79, 67, 64),
    "example4d.nii.gz": (2, 128, 96, 24),
    "example_nifti2.nii.gz": (2, 32, 20, 12),
    "fslmean.nii.gz": (1, 64, 64, 36),
    "fslt.nii.gz": (1, 64, 64, 36),
    "functional.nii": (20, 17, 21, 3),  # slope and intercept
    "hippo.nii.gz": (1, 91, 109, 91),
    "hippolr.nii.gz": (1, 91, 109, 91),
    "inia19-NeuroMaps.nii.gz": (1, 168, 206, 128),  # unknown units
    "inia19-t1-brain.nii.gz": (1, 168, 206, 128),
    "labels256.nii.gz": (1, 256, 256, 256),
    "lesion.nii.gz": (1, 124, 160, 140),
    "low_res.nii.gz": (1, 7, 5, 3),
    "mean_func.nii.gz": (1, 64, 64, 36),
    "minimal.nii.gz": (1, 64, 64, 10),  # neither sform nor qform
    "mni152_pveseg.nii.gz": (1, 207, 256, 215),
    "mpld_asl.nii.gz": (25, 64, 64, 24),
    "narps-4735_50GV-hypo1_unthresh.nii.gz": (1, 97, 115, 81),
    "narps-4965_9U7M-hypo1_unthresh.nii.gz": (1, 91, 109, 91),  # float64
    "pcasl.nii.gz": (10, 52, 68, 20),
    "ras.hdr": (1, 62, 41, 34),
    "ras.img": (1, 62, 41, 34),
    "reoriented_anat_moved.nii": (1, 21, 26, 22),
    "spmMotor.nii.gz": (1, 79, 95, 79),
    "standard.nii.gz": (1, 4, 5, 7),
    "stats.nv_demo_mskd.nii.gz": (2, 77, 92, 77),  # a header extension of AFNI
    "strokez.nii.gz": (1, 157, 189, 156),
    "sub-01_ses-01_dwi_desc-b0_dwi.nii.gz": (1, 81, 106, 76),
    "torsoLabel.nii.gz": (1, 384, 320, 89),
    "tstat1.nii.gz": (1, 64, 64, 36),
}
REFUSED = {
    "Conte69.MyelinAndCorrThickness.32k_fs_LR.dtseries.nii": "is a CIFTI file",
    "complex.nii.gz": "holds complex64 voxels",
    "complex_image.nii.gz": "holds complex64 voxels",
    "ct_perfusion.nii.gz": "holds colour voxels",
    "fs_LR.32k.LR.curvature.dscalar.nii": "is a CIFTI file",
    "pval.LH.nii.gz": "holds the vertices of a FreeSurfer surface",
    "resampled_anat_moved.nii": "holds 153 NaN or infinite voxels of 1071",
    "row_major.dconn.nii": "is a CIFTI file",
    "shear.nii.gz": r"has a sheared affine \(axes 18\.5 degrees from square\).* Or use its qform, .* --affine qform\.",
}
OTHER_FORMATS = {"FLAIR.nrrd", "mha.mha"}
WARNED = {"minimal.nii.gz": "says neither sform nor qform"}


@pytest.fixture(scope="module")
def folder(real_data: Path) -> Path:
    return real_data / "nifti" / "oddities"


def test_the_table_names_every_file(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {*READ, *REFUSED, *OTHER_FORMATS}


@pytest.mark.parametrize("name", READ)
def test_read_as_nibabel_reads_it(folder: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    volume = read_nifti(folder / name)
    assert volume.shape == READ[name]
    expected: Any = nib.load(folder / name)
    stored = np.squeeze(np.moveaxis(volume.array, 0, -1))
    np.testing.assert_allclose(stored, np.squeeze(expected.get_fdata(dtype=np.float32)), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    assert [WARNED[name] in message for message in caplog.messages] == ([True] if name in WARNED else [])


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(folder: Path, name: str) -> None:
    started = time.perf_counter()
    with pytest.raises(VolumeError, match=REFUSED[name]) as caught:
        read_nifti(folder / name)
    assert time.perf_counter() - started < 2
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(name for name in READ if READ[name][0] > 1))
def test_row_34_each_volume_by_its_number(folder: Path, name: str) -> None:
    whole = read_nifti(folder / name)
    for index in {0, whole.num_channels // 2, whole.num_channels - 1}:
        one = read_nifti(folder / name, volume_index=index)
        np.testing.assert_array_equal(one.array, whole.array[index : index + 1])
        np.testing.assert_array_equal(one.affine, whole.affine)


def test_shear_is_read_by_its_qform(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = read_nifti(folder / "shear.nii.gz", affine="qform")
    expected: Any = nib.load(folder / "shear.nii.gz")
    assert volume.shape == (1, 306, 422, 54)
    np.testing.assert_allclose(volume.affine, expected.get_qform(), atol=1e-4)
    corner = [305, 421, 53, 1]
    assert np.linalg.norm((expected.get_sform() - volume.affine) @ corner) > 10  # the choice matters
    assert not caplog.records


def test_a_mask_of_the_sheared_scan_keeps_its_header(folder: Path, tmp_path: Path) -> None:
    scan = folder / "shear.nii.gz"
    volume = read_nifti(scan, affine="qform")
    mask = volume.with_array((volume.array > 200).astype(np.uint8))
    write_nifti_labels(mask, tmp_path / "mask.nii.gz", like=scan, affine="qform")
    source, written = read_raw_header(scan), read_raw_header(tmp_path / "mask.nii.gz")
    for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        assert written[field].tobytes() == source[field].tobytes(), field
    again = read_nifti(tmp_path / "mask.nii.gz", affine="qform")
    np.testing.assert_array_equal(again.affine, volume.affine)
    np.testing.assert_array_equal(again.array, mask.array)
    with pytest.raises(VolumeError, match="has a sheared affine"):
        write_nifti_labels(mask, tmp_path / "other.nii.gz", like=scan)


@pytest.mark.parametrize("name", sorted({*READ} - {"labels256.nii.gz", "mni152_pveseg.nii.gz", "torsoLabel.nii.gz"}))
def test_a_mask_like_an_odd_scan_lies_where_the_scan_lies(folder: Path, tmp_path: Path, name: str) -> None:
    scan = read_nifti(folder / name, volume_index=0)
    labels = Volume(np.zeros(scan.shape, np.uint8), scan.affine)
    labels.array[0, 0, 1, 2] = 1
    write_nifti_labels(labels, tmp_path / "mask.nii", like=folder / name)
    again = read_nifti(tmp_path / "mask.nii")
    np.testing.assert_array_equal(again.array, labels.array)
    np.testing.assert_array_equal(again.affine, scan.affine)
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii").affine, nib.load(folder / name).affine, atol=1e-5)
