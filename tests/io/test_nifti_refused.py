"""A file that cannot be used gives one line that names it, soon, and says nothing of what stands in it."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nifti_files import OBLIQUE, RAMP, save

from medunet.errors import VolumeError
from medunet.io.nifti_read import read_nifti


@pytest.fixture
def refuse(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    """Read a file that must be refused by one line that names it, in silence otherwise."""

    def check(path: Path, match: str, named: str | None = None) -> None:
        with pytest.raises(VolumeError, match=match) as caught:
            read_nifti(path)
        message = str(caught.value)
        assert (named or str(path)) in message
        assert "\n" not in message
        assert message.endswith(".")
        assert not [record for record in caplog.records if record.name.startswith("nibabel")]
        assert capfd.readouterr() == ("", "")

    return check


def test_missing_file(tmp_path: Path, refuse: Any) -> None:
    refuse(tmp_path / "gone.nii.gz", "does not exist; expected a file. Check the path")


def test_row_35_broken_link(tmp_path: Path, refuse: Any) -> None:
    (tmp_path / "link.nii").symlink_to("gone.nii")
    refuse(tmp_path / "link.nii", "is a link to a file that is gone")


def test_row_35_link_in_a_circle(tmp_path: Path, refuse: Any) -> None:
    (tmp_path / "link.nii").symlink_to("link.nii")
    refuse(tmp_path / "link.nii", "cannot be opened: .* Check the path")


def test_link_to_a_good_file(tmp_path: Path) -> None:
    save(tmp_path / "image.nii", RAMP)
    (tmp_path / "link.nii").symlink_to("image.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "link.nii").array[0], RAMP)


def test_row_35_folder(tmp_path: Path, refuse: Any) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    refuse(tmp_path / "folder.nii.gz", "is a folder; expected a file. Give the path of one file")


def test_file_below_a_file(tmp_path: Path, refuse: Any) -> None:
    save(tmp_path / "image.nii", RAMP)
    refuse(tmp_path / "image.nii" / "image.nii", "cannot be opened: Not a directory")


@pytest.mark.timeout(10)
def test_row_35_pipe_does_not_hang(tmp_path: Path, refuse: Any) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    refuse(tmp_path / "pipe.nii", "is a pipe or a device; expected a regular file. Copy it")


def test_name_with_a_zero_byte() -> None:
    with pytest.raises(VolumeError, match="cannot be opened: embedded null byte"):
        read_nifti(Path("image\0.nii"))


def test_name_that_is_too_long(tmp_path: Path, refuse: Any) -> None:
    refuse(tmp_path / ("n" * 300 + ".nii"), "cannot be opened: File name too long")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of one's own; root, who may read everything, becomes nobody for the while."""
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(65534, 65534, 0)
    folder = Path(tempfile.mkdtemp())
    yield folder
    if is_root:
        os.setresuid(0, 0, 0)
    shutil.rmtree(folder)


def test_no_permission_for_the_file(as_nobody: Path, refuse: Any) -> None:
    save(as_nobody / "image.nii", RAMP).chmod(0)
    refuse(as_nobody / "image.nii", r"no permission to read it\. Change its permissions")


def test_no_permission_for_the_folder(as_nobody: Path, refuse: Any) -> None:
    (as_nobody / "locked").mkdir()
    path = save(as_nobody / "locked" / "image.nii", RAMP)
    path.parent.chmod(0)
    refuse(path, r"cannot be opened: Permission denied\. Check the path and its permissions")
    path.parent.chmod(0o755)


@pytest.mark.parametrize("num_bytes", [1, 3, 100, 347, 348, 351, 352, 353, 471])
def test_row_27_truncated(tmp_path: Path, refuse: Any, num_bytes: int) -> None:
    content = save(tmp_path / "image.nii", RAMP).read_bytes()
    assert len(content) == 472
    (tmp_path / "image.nii").write_bytes(content[:num_bytes])
    expected = (
        "promises 3x4x5 voxels.*the file has" if num_bytes >= 348 else r"is no NIfTI file: it is (cut|of an|a text)"
    )
    refuse(tmp_path / "image.nii", expected)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_row_27_truncated_gzip(tmp_path: Path, refuse: Any, fraction: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 21, 22)).astype(np.uint8)
    content = save(tmp_path / "image.nii.gz", noise).read_bytes()
    (tmp_path / "image.nii.gz").write_bytes(content[: int(len(content) * fraction)])
    refuse(tmp_path / "image.nii.gz", "its compressed data end too early. Copy it from its source again")


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_row_27_gzip_without_its_trailer(tmp_path: Path, refuse: Any, cut: int) -> None:
    content = save(tmp_path / "image.nii.gz", RAMP).read_bytes()
    (tmp_path / "image.nii.gz").write_bytes(content[:-cut])
    refuse(tmp_path / "image.nii.gz", "its compressed data end too early")


@pytest.mark.parametrize("position", [-1, -5, -8])
def test_row_27_flipped_checksum(tmp_path: Path, refuse: Any, position: int) -> None:
    content = bytearray(save(tmp_path / "image.nii.gz", RAMP).read_bytes())
    content[position] ^= 1
    (tmp_path / "image.nii.gz").write_bytes(content)
    refuse(tmp_path / "image.nii.gz", "garbled or fail their checksum. Copy it")


def test_row_27_a_flipped_bit_among_stored_voxels_is_noticed(tmp_path: Path, refuse: Any) -> None:
    plain = save(tmp_path / "image.nii", RAMP).read_bytes()
    content = bytearray(gzip.compress(plain, compresslevel=0))  # stored: the bit changes a voxel and nothing else
    content[-20] ^= 1
    (tmp_path / "image.nii.gz").write_bytes(content)
    refuse(tmp_path / "image.nii.gz", "fail their checksum")


def test_row_27_gzip_inside_is_cut_short(tmp_path: Path, refuse: Any) -> None:
    content = save(tmp_path / "image.nii", RAMP).read_bytes()
    (tmp_path / "image.nii.gz").write_bytes(gzip.compress(content[:-7]))
    refuse(tmp_path / "image.nii.gz", "promises 472 bytes with its voxels, the file holds 465. Copy it")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>404 Canary</title>", "an HTML page"),
        (b"\n<html><body>Canary", "an HTML page"),
        (b"Name: Canary\nAge: 77\n" * 30, "a text file"),
        (b"PK\x03\x04" + bytes(600), "a zip archive"),
        (b"\x89PNG\r\n" + bytes(600), "a PNG picture"),
        (bytes(128) + b"DICM" + b"Canary" * 99, "a DICOM file"),
        (bytes(1000), "nothing but zero bytes at its start"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"NRRD0004\n", "an NRRD file"),
        (b"\x01\x02Canary\x00" * 99, "of an unknown binary kind"),
        (gzip.compress(bytes(9), mtime=0), "compressed twice"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_row_27_other_content_is_named_not_quoted(
    tmp_path: Path, refuse: Any, content: bytes, kind: str, compressed: bool
) -> None:
    if content[:2] == b"\x1f\x8b" and not compressed:
        pytest.skip("is a plain gzip file")
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress(content) if compressed else content)
    refuse(path, f"is no NIfTI file: it is {kind}.*; expected .nii or .nii.gz. Convert it")
    with pytest.raises(VolumeError) as caught:
        read_nifti(path)
    assert "Canary" not in str(caught.value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_row_28_a_lying_header_costs_neither_time_nor_memory(tmp_path: Path, refuse: Any, ending: str) -> None:
    import time
    import tracemalloc

    path = save(tmp_path / f"image{ending}", RAMP, dim=[3, 10000, 10000, 10000, 1, 1, 1, 1])
    tracemalloc.start()
    started = time.perf_counter()
    refuse(path, r"promises 10000x10000x10000 voxels \(2000000000352 bytes\), the file has \d+ bytes")
    seconds, (_, peak_bytes) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2
    assert peak_bytes < 50e6


@pytest.mark.timeout(30)
def test_row_28_a_gzip_bomb_is_defused(tmp_path: Path, refuse: Any) -> None:
    import tracemalloc

    content = save(tmp_path / "image.nii", RAMP).read_bytes()
    zeros = gzip.compress(bytes(2**24))
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(content) + zeros * 1000)  # 16 MB on disk, 16 GB unpacked
    tracemalloc.start()
    refuse(path, r"holds 4096 bytes or more after its voxels; expected none")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 50e6


def test_padding_after_the_voxels_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "image.nii.gz", RAMP)
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(100)))
    np.testing.assert_array_equal(read_nifti(path).array[0], RAMP)
    assert "holds 100 bytes after its voxels" in caplog.text


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"dim": [3, 0, 4, 5, 1, 1, 1, 1]}, r"has dim = \[3, 0, 4, 5, .*positive sizes"),
        ({"dim": [3, 3, -4, 5, 1, 1, 1, 1]}, r"has dim = \[3, 3, -4, 5"),
        ({"dim": [3, -1, 1, 1, 1, 1, 1, 1], "glmin": 60}, r"has dim = \[3, -1, 1, 1"),
        ({"dim": [0, 3, 4, 5, 1, 1, 1, 1]}, r"has dim = \[0, 3, 4, 5"),
        ({"dim": [9, 3, 4, 5, 1, 1, 1, 1]}, r"has dim = \[9, 3, 4, 5"),
        ({"dim": [-3, 3, 4, 5, 1, 1, 1, 1]}, r"has dim = \[-3, 3, 4, 5"),
        ({"dim": [7, 3, 4, 5, 9, 9, 9, 9]}, r"has 7 axes \(3x4x5x9x9x9x9\); expected 3, or 4"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "promises 32767x32767x32767 voxels"),
        ({"dim": [3, 3, 4, 6, 1, 1, 1, 1]}, r"promises 3x4x6 voxels \(496 bytes\), the file has 472 bytes"),
        ({"dim": [1, 60, 1, 1, 1, 1, 1, 1]}, r"has 1 axes \(60\)"),
        ({"dim": [4, 27307, 1, 6, 1, 1, 1, 1]}, "the vertices of a FreeSurfer surface"),
        ({"intent_code": 3006}, "is a CIFTI file"),
        ({"datatype": 77}, "has datatype = 77 in its header, which NIfTI does not know"),
        ({"datatype": -4}, "has datatype = -4 in its header, which NIfTI does not know"),
        ({"datatype": 2}, r"has datatype = 2 \(uint8\) and bitpix = 16 in its header; expected bitpix = 8"),
        ({"datatype": 16}, r"has datatype = 16 \(float32\) and bitpix = 16"),
        ({"datatype": 16, "bitpix": 32}, r"promises 3x4x5 voxels \(592 bytes\)"),
        ({"datatype": 32}, "holds complex64 voxels"),
        ({"datatype": 2304}, "holds colour voxels"),
        ({"datatype": 0}, "holds .* voxels; expected one real number"),
        ({"datatype": 1}, "holds 1-bit voxels; expected one real number"),
        ({"vox_offset": 0}, "has vox_offset = 0 in its header; expected 352 or more"),
        ({"vox_offset": 100}, "has vox_offset = 100 "),
        ({"vox_offset": -352}, "has vox_offset = -352 "),
        ({"vox_offset": float("nan")}, "has vox_offset = nan "),
        ({"vox_offset": float("inf")}, "has vox_offset = inf "),
        ({"vox_offset": 352.5}, "has vox_offset = 352.5 "),
        ({"vox_offset": 1e38}, "promises 3x4x5 voxels .* the file has 472 bytes"),
        ({"vox_offset": 368}, r"promises 3x4x5 voxels \(488 bytes\), the file has 472 bytes"),
        ({"sizeof_hdr": 0}, "is no NIfTI file: it is of an unknown binary kind"),
        ({"sizeof_hdr": 349}, "is no NIfTI file: it is of an unknown binary kind"),
        ({"sizeof_hdr": 540}, "is no NIfTI file: it is cut short|has a magic field"),
        ({"vox_offset": 1e12}, "promises 3x4x5 voxels .* the file has 472 bytes"),
        ({"magic": b"xyz"}, r"has a magic field that is neither 'n\+1' nor 'ni1'"),
        ({"magic": b"n+1x"}, "has a magic field that is neither"),
        ({"magic": b"Can"}, "has a magic field that is neither"),
        ({"magic": b""}, "has a magic field that is neither"),
        ({"magic": b"ni1"}, "says in its magic field that it is the header of a .hdr/.img pair"),
        ({"scl_slope": 2, "scl_inter": float("nan")}, "has scl_inter = nan in its header"),
        ({"scl_slope": 1, "scl_inter": float("inf")}, "has scl_inter = inf in its header"),
        ({"scl_slope": 3e38, "scl_inter": 0}, "NaN or infinite voxels of 60"),
        ({"xyzt_units": 7}, "has the length unit 7 in xyzt_units"),
        ({"sform_code": 77}, "has sform_code = 77 in its header; expected 0 .none. to 5"),
        ({"sform_code": -1}, "has sform_code = -1 "),
        ({"qform_code": 6}, "has qform_code = 6 "),
        ({"xyzt_units": 5}, "has the length unit 5 in xyzt_units"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "has an affine with NaN or infinite entries"),
        ({"srow_z": [0, 0, np.inf, 0]}, "has an affine with NaN or infinite entries"),
        ({"srow_x": [1, 0, 0, 1e30]}, r"has an affine with entries up to 1e\+30 mm; expected 1e\+07 at most"),
        ({"srow_x": [0, 0, 0, 0]}, "has a singular affine"),
        ({"srow_x": [1, 0, 1, 0], "srow_y": [0, 1, 0, 0], "srow_z": [1, 0, 1, 0]}, "has a singular affine"),
        (
            {"srow_x": [1, 0.2, 0, 0], "srow_y": [0, 1, 0, 0], "srow_z": [0, 0, 1, 0]},
            "has a sheared affine .axes 11.3 degrees from square",
        ),
        ({"srow_y": [1e-9, 0, 0, 0]}, "has a singular affine"),
        ({"sform_code": 0, "qform_code": 1, "qoffset_x": np.inf}, "has an affine with NaN or infinite entries"),
        (
            {"sform_code": 0, "qform_code": 1, "pixdim": [1, 0, 1, 1, 1, 1, 1, 1]},
            "has voxel sizes of 0 .pixdim = 0, 1, 1",
        ),
        (
            {"sform_code": 0, "qform_code": 0, "pixdim": [1, 1, 1, 0, 1, 1, 1, 1]},
            "has voxel sizes of 0 .pixdim = 1, 1, 0",
        ),
        (
            {"sform_code": 0, "qform_code": 1, "pixdim": [-0.5, 1, 1, 1, 1, 1, 1, 1]},
            r"has pixdim\[0\] = -0.5 .*left from",
        ),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [np.nan, 1, 1, 1, 1, 1, 1, 1]}, r"has pixdim\[0\] = nan"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 2.0}, "has a qform with impossible quatern fields"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": np.nan}, "qform|NaN"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [1, np.nan, 1, 1, 1, 1, 1, 1]}, "NaN or infinite entries"),
    ],
)
def test_rows_29_and_30_bad_header_fields_are_named(
    tmp_path: Path, refuse: Any, fields: dict[str, Any], match: str
) -> None:
    refuse(save(tmp_path / "image.nii", RAMP, **fields), match)


def test_slightly_sheared_affine_is_taken(tmp_path: Path) -> None:
    sheared = nib.affines.from_matvec([[1, 0.005, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(read_nifti(save(tmp_path / "image.nii", RAMP, affine=sheared)).affine, sheared)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_row_31_voxels_that_are_no_numbers_are_counted(tmp_path: Path, refuse: Any, value: float) -> None:
    array = RAMP.astype(np.float32)
    array[0, :2, 0] = value
    refuse(save(tmp_path / "image.nii.gz", array), "holds 2 NaN or infinite voxels of 60.*Replace them")


@pytest.mark.parametrize(
    ("dtype", "what"),
    [(np.complex64, "complex64"), (np.complex128, "complex128"), ([(c, "u1") for c in "RGB"], "colour")],
)
def test_voxels_of_several_numbers_are_refused(tmp_path: Path, refuse: Any, dtype: Any, what: str) -> None:
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), dtype), np.eye(4)), tmp_path / "image.nii")
    refuse(tmp_path / "image.nii", f"holds {what} voxels; expected one real number per voxel")


@pytest.mark.parametrize("half", [".hdr", ".img"])
def test_analyze_is_refused(tmp_path: Path, refuse: Any, half: str) -> None:
    nib.save(nib.AnalyzeImage(RAMP, np.eye(4)), tmp_path / "image.hdr")
    refuse(tmp_path / f"image{half}", "is an Analyze 7.5 file, which does not say left from right", "image.hdr")


@pytest.mark.parametrize(("gone", "given"), [(".img", ".hdr"), (".hdr", ".img")])
def test_a_pair_with_a_missing_half(tmp_path: Path, refuse: Any, gone: str, given: str) -> None:
    nib.save(nib.Nifti1Pair(RAMP, OBLIQUE), tmp_path / "pair.hdr")
    (tmp_path / f"pair{gone}").unlink()
    refuse(tmp_path / f"pair{given}", f"pair{gone} does not exist; expected", f"pair{gone}")


def test_a_pair_with_truncated_voxels(tmp_path: Path, refuse: Any) -> None:
    nib.save(nib.Nifti1Pair(RAMP, OBLIQUE), tmp_path / "pair.hdr")
    os.truncate(tmp_path / "pair.img", 100)
    refuse(tmp_path / "pair.hdr", r"promises 3x4x5 voxels \(120 bytes\), the file has 100 bytes", "pair.img")


@settings(max_examples=300, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6),
    is_version2=st.booleans(),
)
def test_any_header_bytes_give_a_volume_or_a_volume_error(
    tmp_path_factory: Any, flips: list[tuple[int, int]], is_version2: bool
) -> None:
    image = (nib.Nifti2Image if is_version2 else nib.Nifti1Image)(RAMP, OBLIQUE)
    content = bytearray(image.to_bytes())
    for position, value in flips:
        content[position] = value
    path = tmp_path_factory.mktemp("fuzz") / "image.nii"
    path.write_bytes(content)
    try:
        volume = read_nifti(path)
    except VolumeError as error:
        assert str(path) in str(error)  # noqa: PT017 - a volume is as good an answer
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert np.isfinite(volume.affine).all()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"dim": [3, 2**62, 2**62, 2**62, 1, 1, 1, 1]}, "promises 4611686018427387904x.* the file has 664 bytes"),
        ({"dim": [3, -(2**62), 4, 5, 1, 1, 1, 1]}, r"has dim = \[3, -4611686018427387904, 4, 5"),
        ({"dim": [2**40, 3, 4, 5, 1, 1, 1, 1]}, r"has dim = \[1099511627776, 3, 4, 5"),
        ({"vox_offset": -544}, "has vox_offset = -544 in its header; expected 544 or more"),
        ({"vox_offset": 348}, "has vox_offset = 348 in its header; expected 544 or more"),
        ({"vox_offset": 2**62}, "promises 3x4x5 voxels"),
        ({"magic": b"n+1"}, r"has a magic field that is neither 'n\+2' nor 'ni2'"),
        ({"srow_x": [1e300, 0, 0, 0]}, r"has an affine with entries up to 1e\+300 mm"),
        ({"sform_code": 2**31 - 1}, "has sform_code = 2147483647 "),
    ],
)
def test_row_29_bad_fields_of_nifti2(tmp_path: Path, refuse: Any, fields: dict[str, Any], match: str) -> None:
    content = bytearray(nib.Nifti2Image(RAMP, OBLIQUE).to_bytes())
    header = nib.Nifti2Header(bytes(content[:540]), check=False)
    for name, value in fields.items():
        header[name] = value
    (tmp_path / "image.nii").write_bytes(header.binaryblock + content[540:])
    refuse(tmp_path / "image.nii", match)


def test_row_29_a_header_of_the_other_byte_order_than_its_size(tmp_path: Path, refuse: Any) -> None:
    content = save(tmp_path / "image.nii", RAMP).read_bytes()
    (tmp_path / "image.nii").write_bytes(content[:4][::-1] + content[4:])
    refuse(tmp_path / "image.nii", "has sform_code = 512 in its header")


def test_row_27_a_header_that_promises_too_few_voxels(tmp_path: Path, refuse: Any) -> None:
    image = np.ones((32, 32, 6), np.int16)
    refuse(save(tmp_path / "image.nii.gz", image, dim=[3, 32, 32, 3, 1, 1, 1, 1]), "holds 4096 bytes or more after")


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda plain: b"", "it is empty"),
        (lambda plain: gzip.compress(b""), "it is empty"),
        (lambda plain: gzip.compress(gzip.compress(plain)), "it is compressed twice by gzip"),
        (lambda plain: gzip.compress(plain) + b"garbage" * 2, "its compressed data are garbled"),
        (lambda plain: gzip.compress(plain) + b"garbage", "is damaged: its compressed data"),
        (lambda plain: gzip.compress(plain) + b"\x1f\x8b", "its compressed data end too early"),
        (lambda plain: gzip.compress(plain) + gzip.compress(bytes(5000)), "holds 4096 bytes or more after its voxels"),
        (lambda plain: gzip.compress(plain)[:10], "its compressed data end too early"),
        (lambda plain: gzip.compress(plain)[:2], "its compressed data end too early"),
        (lambda plain: b"\x1f\x8b" + plain, "its compressed data are garbled"),
        (lambda plain: b"\x1f\x8b\x08\x00" + bytes(6) + b"\xff" * 99, "its compressed data are garbled"),
        (lambda plain: plain[1:], "is no NIfTI file: it is of an unknown binary kind"),
        (lambda plain: b"\0" + plain, "is no NIfTI file: it is of an unknown binary kind"),
        (lambda plain: plain + bytes(5000), "holds 4096 bytes or more after its voxels"),
        (lambda plain: b"\xef\xbb\xbf" + plain, "is no NIfTI file"),
        (lambda plain: b"\x00\x05\x16\x07" + bytes(80), "it is a note of macOS about a file"),
        (lambda plain: b"a.nii" + bytes(252) + b"ustar" + bytes(255), "it is a tar archive"),
        (lambda plain: b"\x08\x00\x05\x00CS\n\0ISO_IR 100" + bytes(600), "it is a DICOM file without preamble"),
    ],
)
def test_row_27_bodies_that_are_not_what_they_should_be(tmp_path: Path, refuse: Any, build: Any, match: str) -> None:
    plain = save(tmp_path / "image.nii", RAMP).read_bytes()
    (tmp_path / "image.nii.gz").write_bytes(build(plain))
    started = time.perf_counter()
    refuse(tmp_path / "image.nii.gz", match)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    "build",
    [
        lambda plain: gzip.compress(plain[:100]) + gzip.compress(plain[100:400]) + gzip.compress(plain[400:]),
        lambda plain: gzip.compress(plain) + bytes(512),  # a tape block
        lambda plain: gzip.compress(plain) + gzip.compress(b""),
        lambda plain: gzip.compress(plain, compresslevel=0),
        lambda plain: plain,
    ],
)
def test_row_27_unusual_bodies_that_are_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture, build: Any) -> None:
    plain = save(tmp_path / "image.nii", RAMP).read_bytes()
    (tmp_path / "image.nii.gz").write_bytes(build(plain))
    np.testing.assert_array_equal(read_nifti(tmp_path / "image.nii.gz").array[0], RAMP)
    assert not caplog.records


def test_row_35_device(tmp_path: Path, refuse: Any) -> None:
    (tmp_path / "null.nii").symlink_to("/dev/zero")
    refuse(tmp_path / "null.nii", "is a pipe or a device; expected a regular file. Copy it")


def test_row_35_half_of_a_pair_is_a_pipe(tmp_path: Path, refuse: Any) -> None:
    nib.save(nib.Nifti1Pair(RAMP, OBLIQUE), tmp_path / "pair.hdr")
    (tmp_path / "pair.img").unlink()
    os.mkfifo(tmp_path / "pair.img")
    refuse(tmp_path / "pair.hdr", "is a pipe or a device", "pair.img")


# ---- traps -----------------------------------------------------------------------------------------------------------

READ_AND_MEASURE = """
import sys, time
from pathlib import Path
from medunet.errors import VolumeError
from medunet.io.nifti_labels import read_nifti_structures
from medunet.io.nifti_read import read_nifti
import psutil  # its import is no part of the refusal

def measure_peak():  # not ru_maxrss: a child inherits that of the process that started it
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

before = measure_peak()
for name in sys.argv[1:]:
    started = time.perf_counter()
    try:
        read_nifti(Path(name))
        read_nifti_structures(Path(name))
    except VolumeError as error:
        message = str(error)
    else:
        message = "read"
    peak = measure_peak() - before
    print(f"{time.perf_counter() - started:.3f}|{peak}|{message}")
"""


def build_trap(path: Path, dim: list[int], body: bytes = b"", **fields: Any) -> Path:
    """A header that promises much, over a body that is small or unpacks to much."""
    content = gzip.decompress(save(path, RAMP, dim=[*dim, *[1] * (8 - len(dim))], **fields).read_bytes())[:352]
    path.write_bytes(gzip.compress(content) + body)
    return path


@pytest.mark.timeout(120)
def test_row_28_traps_cost_neither_time_nor_memory(tmp_path: Path) -> None:
    zeros = gzip.compress(bytes(2**24)) * 80  # 1.25 GiB in 1.3 MB
    traps = {
        build_trap(tmp_path / "a.nii.gz", [3, 20000, 20000, 20000]): r"promises 20000x20000x20000 voxels",
        build_trap(
            tmp_path / "b.nii.gz", [3, 1000, 1000, 600], zeros
        ): r"1\.1 GiB unpacked\), 9\d\d times its size; exp",
        build_trap(tmp_path / "c.nii.gz", [4, 100, 100, 10, 6000], zeros): r"If it is genuine, unpack it first .gunzip",
        build_trap(tmp_path / "d.nii.gz", [3, 3, 4, 5], zeros, vox_offset=1.2e9): r"If it is genuine, unpack it first",
        build_trap(tmp_path / "e.nii.gz", [3, 3, 4, 5], zeros): r"holds 4096 bytes or more after its voxels",
        build_trap(tmp_path / "f.nii.gz", [7, *[30000] * 7], zeros): "has 7 axes",
    }
    result = subprocess.run(
        [sys.executable, "-c", READ_AND_MEASURE, *map(str, traps)], capture_output=True, text=True, check=True
    )
    lines = result.stdout.splitlines()
    assert len(lines) == len(traps)
    for (path, match), line in zip(traps.items(), lines, strict=True):
        seconds, peak_kib, message = line.split("|", 2)
        assert re.search(match, message), message
        assert str(path) in message
        assert float(seconds) < 2, message
        assert int(peak_kib) < 50_000, message


def test_row_28_what_exceeds_the_free_memory_is_refused_before_it_is_read(
    tmp_path: Path, refuse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "image.nii", np.zeros((20, 30, 40, 2), np.int16))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=20 * 30 * 40 * 2 * 2 - 1))
    refuse(path, r"needs 0\.0 GiB of memory, 0\.0 GiB are free\. Read one of its 2 volumes with --volume-index, or")
    assert read_nifti(path, volume_index=0).shape == (1, 20, 30, 40)  # half as much
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=20 * 30 * 40 * 2 * 2))
    assert read_nifti(path).shape == (2, 20, 30, 40)


def test_a_small_file_may_be_packed_tightly(tmp_path: Path) -> None:
    empty_mask = np.zeros((128, 128, 200), np.uint8)
    path = save(tmp_path / "mask.nii.gz", empty_mask)
    assert empty_mask.nbytes > 200 * path.stat().st_size
    assert not read_nifti(path).array.any()
