"""Which affine of a NIfTI header counts, what is said where it is open, and that a mask lies where its scan lies."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nifti_files import OBLIQUE, RAMP, build_scan, make_labels, read_raw_header, save

from medunet.errors import GeometryError, VolumeError
from medunet.io.nifti_read import from_nibabel, read_nifti
from medunet.io.nifti_write import write_nifti_labels

SHEARED = nib.affines.from_matvec(OBLIQUE[:3, :3] @ [[1, 0, 0], [0, 1, 0.2], [0, 0, 1]], OBLIQUE[:3, 3])
GEOMETRY_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units", "pixdim",
)  # fmt: skip
MOVED = OBLIQUE + np.array([[0, 0, 0, 4.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def save_forms(path: Path, sform: Any, qform: Any, array: Any = RAMP, *, unit: str = "mm") -> Path:
    """A file with both forms, or with one where the other is None; the sform may be anything."""
    header = nib.Nifti1Header()
    header.set_xyzt_units(unit)
    header.set_qform(OBLIQUE if qform is None else qform, code=0 if qform is None else 1)
    header.set_sform(np.eye(4) if sform is None else sform, code=0 if sform is None else 1)
    return save(path, array, **{field: header[field] for field in GEOMETRY_FIELDS})


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ---- the choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sform", "qform", "expected"),
    [(OBLIQUE, MOVED, OBLIQUE), (OBLIQUE, None, OBLIQUE), (None, MOVED, MOVED)],
)
def test_the_sform_comes_before_the_qform(tmp_path: Path, sform: Any, qform: Any, expected: Any) -> None:
    np.testing.assert_allclose(read_nifti(save_forms(tmp_path / "i.nii", sform, qform)).affine, expected, atol=1e-5)


@pytest.mark.parametrize(("form", "expected"), [("sform", OBLIQUE), ("qform", MOVED)])
def test_a_choice_is_taken_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, form: Any, expected: Any
) -> None:
    path = save_forms(tmp_path / "i.nii", OBLIQUE, MOVED)
    np.testing.assert_allclose(read_nifti(path, affine=form).affine, expected, atol=1e-5)
    assert not warnings_of(caplog)


@pytest.mark.parametrize(
    ("sform", "qform", "wanted", "match"),
    [
        (None, OBLIQUE, "sform", r"has no sform \(sform_code = 0 in its header, which has only qform\)\. Leave out"),
        (OBLIQUE, None, "qform", r"has no qform \(.*only sform\)\. Leave out --affine qform\."),
        (None, None, "sform", "has no sform .*has neither sform nor qform"),
    ],
)
def test_a_choice_that_the_header_lacks(tmp_path: Path, sform: Any, qform: Any, wanted: Any, match: str) -> None:
    path = save_forms(tmp_path / "i.nii", sform, qform)
    with pytest.raises(VolumeError, match=match) as caught:
        read_nifti(path, affine=wanted)
    assert str(path) in str(caught.value)


@settings(max_examples=25, deadline=None)
@example(angles=(3.0625, 0.5, 0.25), flips=1, spacing=(1.0, 1.0, 1.0), shape=(1, 1, 1))  # nearly half a turn
@example(angles=(3.141, 0.0005, 0.0), flips=-1, spacing=(1.0, 1.0, 1.0), shape=(5, 5, 5))
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    flips=st.sampled_from([1, -1]),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
)
def test_a_qform_is_read_as_nibabel_reads_it(
    tmp_path_factory: Any, angles: Any, flips: int, spacing: Any, shape: Any
) -> None:
    matrix = nib.eulerangles.euler2mat(*angles) @ np.diag(spacing) @ np.diag([1, 1, flips])
    affine = nib.affines.from_matvec(matrix, [-31, 12, 40])
    path = save_forms(tmp_path_factory.mktemp("q") / "i.nii", None, affine, np.zeros(shape, np.uint8))
    np.testing.assert_allclose(read_nifti(path).affine, nib.load(path).affine, atol=1e-6)


def test_a_qform_of_nifti2_may_be_rounded_to_float32(tmp_path: Path) -> None:
    header = nib.Nifti2Header()
    header.set_data_shape(RAMP.shape)
    header.set_data_dtype(RAMP.dtype)
    header.set_qform(np.diag([-1, -1, 2, 1]), code=1)
    header["vox_offset"], header["quatern_d"] = 544, 1 + 1e-7
    with pytest.raises(ValueError, match="w2 should be positive"):
        header.get_qform()
    (tmp_path / "i.nii").write_bytes(header.binaryblock + bytes(4) + RAMP.tobytes(order="F"))
    np.testing.assert_allclose(read_nifti(tmp_path / "i.nii").affine, np.diag([-1, -1, 2, 1]), atol=1e-6)


@pytest.mark.parametrize(("stored", "sign"), [(0.0, 1), (1.0, 1), (-1.0, -1)])
def test_pixdim_0_tells_left_from_right(tmp_path: Path, stored: float, sign: int) -> None:
    fields: dict[str, Any] = {"sform_code": 0, "qform_code": 1, "quatern_b": 0, "quatern_c": 0, "quatern_d": 0}
    path = save(tmp_path / "i.nii", RAMP, **fields, pixdim=[stored, 1, 2, 3, 1, 1, 1, 1])
    np.testing.assert_array_equal(read_nifti(path).affine[:3, :3], np.diag([1, 2, 3 * sign]))


def test_a_size_of_0_along_an_axis_of_one_voxel_is_taken_as_1(tmp_path: Path) -> None:
    path = save(tmp_path / "i.nii", RAMP[:, :, :1], sform_code=0, qform_code=1, pixdim=[1, 0.5, 0.5, 0, 1, 1, 1, 1])
    assert read_nifti(path).spacing == pytest.approx((0.5, 0.5, 1.0))


# ---- what is said ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("distance_mm", "is_warned"), [(0.05, False), (0.09, False), (0.11, True), (3.0, True)])
def test_row_30_forms_that_disagree_at_a_corner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, distance_mm: float, is_warned: bool
) -> None:
    moved = OBLIQUE.copy()
    moved[1, 3] += distance_mm
    path = save_forms(tmp_path / "i.nii", OBLIQUE, moved)
    np.testing.assert_allclose(read_nifti(path).affine, OBLIQUE, atol=1e-5)
    expected = (
        f"{path} has an sform and a qform that lie up to {distance_mm:.3g} mm apart; the sform is used. Choose with "
        "--affine sform or --affine qform."
    )
    assert warnings_of(caplog) == ([expected] if is_warned else [])


def test_row_30_a_rotation_shows_at_the_far_corner_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    turned = np.diag([1.0, 1, 1, 1])
    turned[:3, :3] = nib.eulerangles.euler2mat(0.002, 0, 0)
    path = save_forms(tmp_path / "i.nii", np.eye(4), turned, np.zeros((61, 2, 3), np.uint8))
    read_nifti(path)
    assert "lie up to 0.12 mm apart" in warnings_of(caplog)[0]


@pytest.mark.parametrize(("unit", "is_warned"), [("mm", True), ("micron", False)])
def test_row_30_the_distance_is_in_millimetres(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unit: str, is_warned: bool
) -> None:
    sform, qform = np.diag([500.0, 500, 500, 1]), np.diag([500.0, 500, 500, 1])
    qform[0, 3] = 50
    read_nifti(save_forms(tmp_path / "i.nii", sform, qform, unit=unit))
    assert bool(warnings_of(caplog)) == is_warned


def test_row_30_of_small_voxels_half_a_voxel_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sform, qform = np.diag([0.01, 0.01, 0.01, 1]), np.diag([0.01, 0.01, 0.01, 1])
    qform[0, 3] = 0.006
    read_nifti(save_forms(tmp_path / "i.nii", sform, qform))
    assert "lie up to 0.006 mm apart" in warnings_of(caplog)[0]


def test_row_30_neither_form(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "i.nii", RAMP, sform_code=0, qform_code=0, pixdim=[1, 0.5, 2, 4, 1, 1, 1, 1])
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
    assert (volume.orientation, volume.spacing) == ("LAS", (0.5, 2, 4))
    assert warnings_of(caplog) == [
        f"{path} says neither sform nor qform: its position and left/right are guessed from the voxel sizes."
    ]


def test_row_30_negative_voxel_sizes_are_taken_as_positive_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path / "i.nii", RAMP, sform_code=0, pixdim=[1, -0.5, 2, 4, 1, 1, 1, 1], qform_code=1)
    assert read_nifti(path).spacing == pytest.approx((0.5, 2, 4))
    assert warnings_of(caplog) == [f"{path} has negative voxel sizes in its header; they are taken as positive."]


def test_row_30_a_qform_that_cannot_be_used_beside_a_good_sform(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path / "i.nii", RAMP, qform_code=1, quatern_b=7)
    np.testing.assert_allclose(read_nifti(path).affine, OBLIQUE, atol=1e-5)
    assert warnings_of(caplog) == [f"{path} has a qform that cannot be used beside its sform; the sform is used."]


def test_voxel_sizes_of_0_do_not_matter_beside_an_sform(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "i.nii", RAMP, pixdim=[0, 0, 1, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(read_nifti(path).affine, OBLIQUE, atol=1e-5)
    assert not warnings_of(caplog)


def test_forms_that_agree_give_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_nifti(build_scan("nifti1", tmp_path))
    assert not warnings_of(caplog)


def test_an_image_in_memory_is_warned_about_too(caplog: pytest.LogCaptureFixture) -> None:
    image = nib.Nifti1Image(RAMP, OBLIQUE)
    image.set_qform(MOVED, code=1)
    from_nibabel(image)
    assert "the nibabel image has an sform and a qform that lie up to 4 mm apart" in warnings_of(caplog)[0]


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sform", "match"),
    [
        (SHEARED, r"has a sheared affine \(axes [\d.]+ degrees from square\)"),
        (np.diag([1, 1, 0, 1]), "has a singular affine"),
        (np.diag([1, np.nan, 1, 1]), "has an affine with NaN"),
    ],
)
def test_row_30_a_bad_sform_is_refused_with_the_way_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sform: Any, match: str
) -> None:
    alone = save_forms(tmp_path / "alone.nii", sform, None)
    both = save_forms(tmp_path / "both.nii", sform, OBLIQUE)
    for path, form in ((alone, None), (both, None), (both, "sform")):
        with pytest.raises(VolumeError, match=match) as caught:
            read_nifti(path, affine=form)  # type: ignore[arg-type]
        assert ("Or use its qform, which is sound, with --affine qform." in str(caught.value)) == (path == both)
        assert "\n" not in str(caught.value)
    np.testing.assert_allclose(read_nifti(both, affine="qform").affine, OBLIQUE, atol=1e-5)
    assert not warnings_of(caplog)


def test_row_30_a_bad_sform_beside_a_bad_qform_has_no_way_out(tmp_path: Path) -> None:
    path = save(tmp_path / "i.nii", RAMP, srow_x=[0, 0, 0, 0], qform_code=1, quatern_b=7)
    with pytest.raises(VolumeError, match=r"has a singular affine .* Repair its header\.$"):
        read_nifti(path)


# ---- the mask --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sform", [MOVED, SHEARED, np.diag([1, np.nan, 1, 1])])
def test_a_mask_of_the_chosen_form_keeps_both_forms(tmp_path: Path, sform: Any) -> None:
    scan = save_forms(tmp_path / "scan.nii.gz", sform, OBLIQUE, np.zeros((5, 6, 7), np.int16))
    labels = make_labels(read_nifti(scan, affine="qform").affine)
    write_nifti_labels(labels, tmp_path / "mask.nii.gz", like=scan, affine="qform")
    source, written = read_raw_header(scan), read_raw_header(tmp_path / "mask.nii.gz")
    for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "sform_code"):
        assert written[field].tobytes() == source[field].tobytes(), field
    again = read_nifti(tmp_path / "mask.nii.gz", affine="qform")
    np.testing.assert_array_equal(again.affine, labels.affine)
    np.testing.assert_array_equal(again.array, labels.array)


def test_a_mask_of_the_other_form_is_refused(tmp_path: Path) -> None:
    scan = save_forms(tmp_path / "scan.nii", OBLIQUE, MOVED, np.zeros((5, 6, 7), np.int16))
    with pytest.raises(GeometryError, match=r"The mask and .*scan\.nii lie on different grids .*4\.00 mm apart"):
        write_nifti_labels(make_labels(MOVED), tmp_path / "mask.nii", like=scan)
    write_nifti_labels(make_labels(MOVED), tmp_path / "mask.nii", like=scan, affine="qform")


# ---- one volume of several -------------------------------------------------------------------------------------------

SERIES = np.arange(3 * 4 * 5 * 6, dtype=np.int16).reshape(3, 4, 5, 6)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 4, 5, 1, 6)])
@pytest.mark.parametrize("index", [0, 2, 5])
def test_row_34_one_volume_of_several(tmp_path: Path, ending: str, shape: Any, index: int) -> None:
    path = save(tmp_path / f"i{ending}", SERIES.reshape(shape), slope=0.5)
    volume = read_nifti(path, volume_index=index)
    assert volume.shape == (1, 3, 4, 5)
    np.testing.assert_array_equal(volume.array, read_nifti(path).array[index : index + 1])
    np.testing.assert_array_equal(volume.array[0], SERIES[..., index] * 0.5)


def test_row_34_one_volume_of_a_pair(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(SERIES, OBLIQUE), tmp_path / "pair.hdr")
    np.testing.assert_array_equal(read_nifti(tmp_path / "pair.img", volume_index=3).array[0], SERIES[..., 3])


def test_row_34_the_only_volume(tmp_path: Path) -> None:
    path = save(tmp_path / "i.nii", RAMP)
    np.testing.assert_array_equal(read_nifti(path, volume_index=0).array[0], RAMP)


@pytest.mark.parametrize(("array", "index", "num"), [(SERIES, 6, 6), (SERIES, -1, 6), (RAMP, 1, 1)])
def test_row_34_a_volume_that_is_not_there(tmp_path: Path, array: Any, index: int, num: int) -> None:
    path = save(tmp_path / "i.nii", array)
    with pytest.raises(VolumeError) as caught:
        read_nifti(path, volume_index=index)
    assert str(caught.value) == (
        f"{path} holds {num} volume(s); volume {index} was asked for. Choose --volume-index from 0 to {num - 1}."
    )


@pytest.mark.parametrize("index", [0, 3, 5])
@pytest.mark.parametrize("cut", [4, 300])
def test_row_27_damage_behind_the_chosen_volume_is_noticed(tmp_path: Path, index: int, cut: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, SERIES.shape).astype(np.uint8)
    path = save(tmp_path / "i.nii.gz", noise)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(VolumeError, match="its compressed data end too early"):
        read_nifti(path, volume_index=index)


def test_row_27_volumes_missing_behind_the_chosen_one_are_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "i.nii.gz", SERIES, dim=[4, 3, 4, 5, 8, 1, 1, 1])
    with pytest.raises(VolumeError, match="promises 1312 bytes with its voxels, the file holds 1072"):
        read_nifti(path, volume_index=0)


def test_one_volume_takes_the_memory_of_one(tmp_path: Path) -> None:
    import tracemalloc

    path = save(tmp_path / "i.nii.gz", np.zeros((100, 100, 50, 20), np.int16))
    tracemalloc.start()
    read_nifti(path, volume_index=10)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one_volume = 100 * 100 * 50 * 2
    assert peak_bytes < 2 * one_volume + 12 * 2**20  # of 20 MB; a chunk of 4 MiB, and what gzip holds of it
