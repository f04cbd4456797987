"""A voxel marked in another library's image lies at the same world point here."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name that its manual uses
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.errors import LabelError, VolumeError
from medunet.io import describe_source, from_memory, to_lps_image
from medunet.volume import Volume

LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([0.7, -1.2, 3.0]), [-31.0, 12.5, 40.25]
)


def make_marked_image(voxel: tuple[int, int, int] = (1, 4, 2)) -> Any:
    image = sitk.Image([3, 5, 7], sitk.sitkInt16)
    image.SetSpacing((0.7, 1.2, 3.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection((nib.eulerangles.euler2mat(0.4, 0.2, -0.3) @ np.diag([1, -1, 1])).ravel().tolist())
    image[voxel] = 7
    return image


def find_world(volume: Volume, value: float) -> Any:
    (voxel,) = np.argwhere(volume.array[0] == value)
    return nib.affines.apply_affine(volume.affine, voxel)


# ---- SimpleITK -------------------------------------------------------------------------------------------------------


def test_a_marked_voxel_of_a_simpleitk_image_keeps_its_place() -> None:
    image = make_marked_image()
    expected = np.array(image.TransformIndexToPhysicalPoint((1, 4, 2))) * LPS_TO_RAS
    np.testing.assert_allclose(find_world(from_memory(image), 7), expected)


@settings(max_examples=50, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    voxel=st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 6)),
)
def test_a_marked_label_lies_at_the_same_point_in_simpleitk(
    angles: Any, flips: Any, spacing: Any, origin: Any, voxel: tuple[int, int, int]
) -> None:
    matrix = nib.eulerangles.euler2mat(*angles) @ np.diag(np.multiply(spacing, flips))
    labels = np.zeros((1, 3, 5, 7), np.uint8)
    labels[(0, *voxel)] = 5
    volume = Volume(labels, nib.affines.from_matvec(matrix, origin))
    image = to_lps_image(volume)
    assert image.GetPixel(voxel) == 5
    point = np.array(image.TransformIndexToPhysicalPoint(voxel)) * LPS_TO_RAS
    np.testing.assert_allclose(point, find_world(volume, 5), atol=1e-9 + 1e-9 * np.abs(origin).max())


def test_simpleitk_round_trip(make_volume: Any) -> None:
    volume = make_volume(dtype=np.uint8)
    again = from_memory(to_lps_image(volume))
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-9)


def test_simpleitk_and_nifti_agree_about_one_file(tmp_path: Path) -> None:
    from medunet.io import read_volume

    sitk.WriteImage(make_marked_image(), tmp_path / "image.nii.gz")
    from_file, in_memory = read_volume(tmp_path / "image.nii.gz"), from_memory(make_marked_image())
    np.testing.assert_array_equal(from_file.array, in_memory.array)
    np.testing.assert_allclose(from_file.affine, in_memory.affine, atol=1e-5)


def test_components_of_a_vector_image_are_channels() -> None:
    image = sitk.Compose([make_marked_image(), make_marked_image() * 2])
    volume = from_memory(image)
    assert volume.shape == (2, 3, 5, 7)
    assert volume.array[:, 1, 4, 2].tolist() == [7, 14]


@pytest.mark.parametrize(("pixel", "dtype"), [(sitk.sitkFloat64, "float32"), (sitk.sitkUInt16, "uint16")])
def test_simpleitk_pixel_types(pixel: int, dtype: str) -> None:
    assert from_memory(sitk.Cast(make_marked_image(), pixel)).array.dtype == dtype


@pytest.mark.parametrize("size", [[4, 5], [3, 4, 5, 2]])
def test_simpleitk_images_that_are_not_3d_are_refused(size: list[int]) -> None:
    with pytest.raises(VolumeError, match=f"has {len(size)} dimensions; expected 3"):
        from_memory(sitk.Image(size, sitk.sitkUInt8))


def test_complex_simpleitk_image_is_refused() -> None:
    with pytest.raises(VolumeError, match="The SimpleITK image holds complex64 voxels"):
        from_memory(sitk.Image([2, 3, 4], sitk.sitkComplexFloat32))


def test_scores_are_no_labels_for_simpleitk(make_volume: Any) -> None:
    with pytest.raises(LabelError, match="1 channel of whole numbers; got 2"):
        to_lps_image(make_volume(num_channels=2, dtype=np.uint8))


# ---- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 3, 4, 5)])
def test_an_array_with_its_affine(shape: Any) -> None:
    array = np.arange(60, dtype=np.int16).reshape(shape)
    volume = from_memory((array, OBLIQUE))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, array.reshape(1, 3, 4, 5))
    np.testing.assert_array_equal(volume.affine, OBLIQUE)


@pytest.mark.parametrize(
    ("given_dtype", "dtype"), [("float64", "float32"), ("float16", "float32"), ("bool", "uint8"), (">i2", "int16")]
)
def test_arrays_get_the_dtypes_of_files(given_dtype: str, dtype: str) -> None:
    array = from_memory((np.ones((2, 3, 4), given_dtype), np.eye(4))).array
    assert array.dtype == dtype
    assert array.dtype.isnative
    assert (array == 1).all()


@pytest.mark.parametrize(
    ("array", "affine", "match"),
    [
        (np.full((2, 3, 4), np.nan), np.eye(4), "holds 24 NaN or infinite voxels of 24"),
        (np.ones((2, 3, 4), complex), np.eye(4), "holds complex128 voxels"),
        (np.array([[["a"]]]), np.eye(4), "holds .* voxels; expected one real number"),
        (np.ones((3, 4)), np.eye(4), r"has 2 axes; expected \(I, J, K\) or \(C, I, J, K\)"),
        (np.ones((0, 3, 4)), np.eye(4), "without empty axes"),
        (np.ones((2, 3, 4)), np.eye(3), "expected 4x4 finite numbers"),
        (np.ones((2, 3, 4)), np.diag([1, np.nan, 1, 1]), "NaN or infinite entries"),
        (np.ones((2, 3, 4)), np.diag([1, 0, 1, 1]), "has a singular affine"),
        (np.ones((2, 3, 4)), np.eye(4) + np.eye(4, k=1) * 0.3, "has a sheared affine|last row"),
        (np.ones((2, 3, 4)), OBLIQUE.T, "last row 0, 0, 0, 1|sheared"),
        (np.ones((2, 3, 4)), "affine", "could not convert"),
        ([[[1], [2, 3]]], np.eye(4), "expected numbers in both"),
    ],
)
def test_unusable_arrays_are_refused(array: Any, affine: Any, match: str) -> None:
    with pytest.raises(VolumeError, match=match):
        from_memory((array, affine))


# ---- anything else ---------------------------------------------------------------------------------------------------


def test_a_volume_is_itself(make_volume: Any) -> None:
    volume = make_volume()
    assert from_memory(volume) is volume


def test_a_nibabel_image_is_taken() -> None:
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), OBLIQUE)
    np.testing.assert_allclose(find_world(from_memory(image), 23), nib.affines.apply_affine(OBLIQUE, (1, 2, 3)))


@pytest.mark.parametrize("source", [None, 3, "scan.nii", np.ones((2, 2, 2)), (1, 2, 3), {"image": 1}])
def test_unknown_objects_are_refused_by_kind(source: Any) -> None:
    with pytest.raises(VolumeError, match=f"Cannot take a {type(source).__name__} as a volume; expected a path"):
        from_memory(source)


@pytest.mark.parametrize(
    ("source", "expected"), [("a.nii", "a.nii"), (Path("b.nii"), "b.nii"), (sitk.Image(), "the Image given")]
)
def test_how_messages_call_a_source(source: Any, expected: str) -> None:
    assert describe_source(source) == expected


def test_every_flip_and_permutation_reaches_simpleitk() -> None:
    labels = np.zeros((1, 3, 5, 7), np.uint8)
    labels[0, 2, 1, 5] = 9
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((-1, 1), repeat=3):
            matrix = np.eye(3)[list(order)] * signs * (0.7, 1.2, 3.0)
            volume = Volume(labels, nib.affines.from_matvec(matrix, (5, -6, 7)))
            point = np.array(to_lps_image(volume).TransformIndexToPhysicalPoint((2, 1, 5))) * LPS_TO_RAS
            np.testing.assert_allclose(point, find_world(volume, 9), atol=1e-9)
