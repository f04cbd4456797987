"""Reading in a child process: the same volume, and an end to what crashes, hangs or grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_series import build_series

from medunet.errors import VolumeError
from medunet.io import read_scan, untrusted, write_nifti_image
from medunet.io.untrusted import read_scan_apart


def test_a_nifti_file_is_read_as_in_this_process(tmp_path: Path, make_volume: Any) -> None:
    write_nifti_image(make_volume(), tmp_path / "scan.nii.gz")
    apart, here = read_scan_apart(tmp_path / "scan.nii.gz"), read_scan(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(apart.volume.array, here.volume.array)
    np.testing.assert_array_equal(apart.volume.affine, here.volume.affine)


def test_a_dicom_series_brings_its_slices_and_notes(tmp_path: Path) -> None:
    folder = build_series(tilt_degrees=12.0).write(tmp_path / "in")
    apart, here = read_scan_apart(folder), read_scan(folder)
    np.testing.assert_array_equal(apart.volume.array, here.volume.array)
    assert apart.notes == here.notes
    assert apart.notes
    assert apart.stack is not None
    assert here.stack is not None
    assert len(apart.stack.frames) == len(here.stack.frames)


def test_an_error_of_the_reader_comes_through(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="does not exist"):
        read_scan_apart(tmp_path / "gone.nii.gz")


@pytest.mark.parametrize(
    ("crash", "expected"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise SystemExit(7)", "code 7"),
        ("import time; time.sleep(60)", "not read within 3 s"),
    ],
    ids=["crash", "exit", "hang"],
)
def test_row_42_only_the_child_dies(
    tmp_path: Path, make_volume: Any, monkeypatch: pytest.MonkeyPatch, crash: str, expected: str
) -> None:
    write_nifti_image(make_volume(), tmp_path / "scan.nii")
    monkeypatch.setattr(untrusted, "_CHILD", crash)
    with pytest.raises(VolumeError, match=expected) as caught:
        read_scan_apart(tmp_path / "scan.nii", seconds=3)
    assert "scan.nii" in str(caught.value)


def test_row_42_memory_is_limited(tmp_path: Path, make_volume: Any) -> None:
    write_nifti_image(make_volume(shape=(600, 600, 300)), tmp_path / "scan.nii")  # 412 MiB
    with pytest.raises(VolumeError, match=r"scan\.nii"):
        read_scan_apart(tmp_path / "scan.nii", memory_gib=0.6)
