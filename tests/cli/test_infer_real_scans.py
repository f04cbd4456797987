"""Ten real scans of every size, voxel and orientation in one command, one of them no scan at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracles import ORACLE_HU, ORACLE_TASK, NearestIntensity, Outcome, build_plan_for

from medunet.io import read_label_map, read_volume

SCANS = (
    "torso-ct/example_ct.nii.gz",
    "torso-ct/example_ct_sm.nii.gz",
    "headneck-ct/images/*1*.nii.gz",
    "headneck-ct/images/*7*.nii.gz",
    "hippocampus-mr/imagesTr/*1*.nii.gz",
    "hippocampus-mr/imagesTr/*7*.nii.gz",
    "nifti/48-orientations/PIR.nii.gz",
    "nifti/48-orientations/LSA.nii.gz",
    "dicom/sarcoma-ct-mr-pet-rtstruct/CT/image",
)
NO_SCAN = "nifti/oddities/complex.nii.gz"


@pytest.fixture
def coarse_oracle(oracle_folder: Path, write_model: Callable[..., Path], tmp_path: Path) -> Path:
    """The oracle at voxels of 4 mm, so that no real scan takes it long."""
    weights = NearestIntensity(list(ORACLE_HU)).state_dict()
    plan = build_plan_for(ORACLE_TASK, (4.0, 4.0, 4.0), (64, 64, 64))
    return write_model(tmp_path / "coarse-oracle", plan=plan, weights=weights)


@pytest.mark.realdata
def test_ten_real_scans_in_one_command(
    medunet_command: Callable[..., Outcome], coarse_oracle: Path, real_data: Path, tmp_path: Path
) -> None:
    scans = [sorted(real_data.glob(pattern))[0] for pattern in SCANS]
    places = ["-o", tmp_path / "masks", "--model", coarse_oracle]
    outcome = medunet_command("infer", *scans, real_data / NO_SCAN, *places, "--device", "cpu", "--no-skip")
    assert outcome.exit_code == 2, outcome.err
    assert "complex.nii.gz holds complex64 voxels" in outcome.err
    assert "1 of 10 scans failed" in outcome.err
    masks = sorted((tmp_path / "masks").glob("*.nii.gz"))
    assert len(masks) == len(scans)
    for path in scans:
        scan, mask = (
            read_volume(path),
            read_label_map(masks[0].with_name(path.name.removesuffix(".nii.gz") + ".nii.gz")),
        )
        assert mask.spatial_shape == scan.spatial_shape
        np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-3)
        # Labels are ordered by density. A mask that is turned or moved mixes them; along borders, voxels of 4 mm do so a little.
        found = np.unique(mask.array)
        means = [float(scan.array[mask.array == value].mean()) for value in found]
        assert len(found) > 1
        assert means == sorted(means)
