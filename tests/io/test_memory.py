"""A voxel marked in another library's image lies at the same world point here."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name that its manual uses
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.errors import LabelError, VolumeError
from medunet.io import describe_source, from_memory, to_lps_image, write_nifti_image
from medunet.io.memory import (
    is_datasets,
    is_metatensor,
    is_simpleitk,
    is_torchio,
    scan_from_memory,
    to_metatensor,
    to_torchio,
)
from medunet.io.scan import ReadOptions
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


# ---- MONAI -----------------------------------------------------------------------------------------------------------


def make_metatensor(shape: tuple[int, ...] = (3, 5, 7), affine: Any = OBLIQUE, **meta: Any) -> Any:
    """Values count up, so that every voxel can be found again."""
    import torch
    from monai.data import MetaTensor

    values = torch.arange(int(np.prod(shape)), dtype=torch.int16).reshape(shape)
    return MetaTensor(values, affine=torch.from_numpy(np.array(affine)), meta=meta)


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 3, 5, 7)])
def test_a_metatensor_keeps_its_place(shape: tuple[int, ...]) -> None:
    volume = from_memory(make_metatensor(shape))
    assert volume.shape == (1, 3, 5, 7)
    assert volume.array.dtype == np.int16
    np.testing.assert_allclose(find_world(volume, 35 + 14 + 3), nib.affines.apply_affine(OBLIQUE, (1, 2, 3)))


def test_channels_of_a_metatensor() -> None:
    assert from_memory(make_metatensor((2, 3, 5, 7))).array[:, 0, 0, 1].tolist() == [1, 106]


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # said at each construction of LoadImage
def test_monai_reads_a_file_as_we_do(tmp_path: Path, make_volume: Any) -> None:
    from monai.transforms import EnsureChannelFirst, LoadImage, Orientation

    volume = make_volume(orientation="PIR", dtype=np.int16)
    volume.array[...] = np.arange(volume.array.size, dtype=np.int16).reshape(volume.array.shape)
    write_nifti_image(volume, tmp_path / "image.nii.gz")
    loaded = LoadImage(reader="NibabelReader", image_only=True)(tmp_path / "image.nii.gz")
    turned = Orientation("LAS", labels=None)(EnsureChannelFirst()(loaded))
    for tensor in (loaded, turned):
        taken = from_memory(tensor)
        for value in (0, 77, volume.array.size - 1):
            np.testing.assert_allclose(find_world(taken, value), find_world(volume, value), atol=1e-4)
    assert from_memory(turned).orientation == "LAS"


@pytest.mark.parametrize("space", ["LPS", "left-posterior-superior"])
def test_a_metatensor_in_lps_is_turned_to_ras(space: str) -> None:
    affine_lps = np.diag([-1.0, -1, 1, 1]) @ OBLIQUE
    volume = from_memory(make_metatensor(affine=affine_lps, space=space))
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-12)


def test_the_marks_of_monai_are_what_we_look_for() -> None:
    from monai.utils import MetaKeys, SpaceKeys

    assert (MetaKeys.SPACE, SpaceKeys.LPS, SpaceKeys.RAS) == ("space", "LPS", "RAS")
    assert str(SpaceKeys.LPS) == "LPS"
    assert make_metatensor().meta["space"] == "RAS"  # what MONAI assumes without a word
    np.testing.assert_allclose(
        from_memory(make_metatensor(affine=np.diag([-1.0, -1, 1, 1]) @ OBLIQUE, space=SpaceKeys.LPS)).affine, OBLIQUE
    )


def test_an_unknown_space_is_refused() -> None:
    with pytest.raises(VolumeError, match="affine in the space 'scanner-xyz'; expected RAS or LPS"):
        from_memory(make_metatensor(space="scanner-xyz"))


@pytest.mark.parametrize("shape", [(5, 7), (1, 1, 3, 5, 7), (7,)])
def test_other_axes_of_a_metatensor_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(VolumeError, match=rf"has {len(shape)} axes \(shape .*; expected \(I, J, K\) or \(C, I, J, K\)"):
        from_memory(make_metatensor(shape))


def test_a_batch_is_refused() -> None:
    tensor = make_metatensor((2, 3, 5, 7))
    tensor.is_batch = True
    with pytest.raises(VolumeError, match=r"has a batch \(shape \(2, 3, 5, 7\)\)"):
        from_memory(tensor)


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # said at each construction of LoadImage
def test_channels_that_monai_left_last_are_refused(tmp_path: Path, make_volume: Any) -> None:
    from monai.transforms import EnsureChannelFirst, LoadImage

    volume = make_volume(shape=(3, 4, 5), num_channels=2)
    write_nifti_image(volume, tmp_path / "image.nii.gz")
    tensor = LoadImage(reader="NibabelReader", image_only=True)(tmp_path / "image.nii.gz")
    assert tuple(tensor.shape) == (3, 4, 5, 2)
    with pytest.raises(
        VolumeError, match=r"of shape \(3, 4, 5, 2\) has its channels last; .* Apply EnsureChannelFirst"
    ):
        from_memory(tensor)
    np.testing.assert_array_equal(from_memory(EnsureChannelFirst()(tensor)).array, volume.array)


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # said at each construction of LoadImage
def test_a_2d_image_of_monai_is_refused(tmp_path: Path) -> None:
    from monai.transforms import EnsureChannelFirst, LoadImage

    nib.save(nib.Nifti1Image(np.ones((4, 5), np.int16), np.eye(4)), tmp_path / "image.nii.gz")
    tensor = EnsureChannelFirst()(LoadImage(reader="NibabelReader", image_only=True)(tmp_path / "image.nii.gz"))
    assert tuple(tensor.shape) == (1, 4, 5)
    with pytest.raises(VolumeError, match=r"of shape \(1, 4, 5\) is a 2D image; expected a volume"):
        from_memory(tensor)


def test_lazy_transforms_that_wait_are_refused() -> None:
    from monai.transforms import Flip

    tensor = Flip(spatial_axis=0, lazy=True)(make_metatensor((1, 3, 5, 7)))
    assert tensor.pending_operations
    with pytest.raises(VolumeError, match=r"has pending lazy transforms.*Apply them first"):
        from_memory(tensor)


def test_unusual_tensors_are_taken_by_their_values() -> None:
    import torch

    tensor = make_metatensor((1, 3, 5, 7))
    for changed in (tensor.to(torch.bfloat16), tensor.to(torch.float64).requires_grad_(), tensor.to(torch.float16)):
        array = from_memory(changed).array
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array.ravel(), np.arange(105))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t * float("nan"), "The MetaTensor holds 105 NaN or infinite voxels"),
        (lambda t: t * 1j, "The MetaTensor holds complex64 voxels"),
    ],
)
def test_unusable_metatensors_are_refused(change: Any, match: str) -> None:
    with pytest.raises(VolumeError, match=match):
        from_memory(change(make_metatensor()))


def test_a_plain_tensor_has_no_place_in_the_world() -> None:
    with pytest.raises(VolumeError, match="Cannot take a Tensor as a volume"):
        from_memory(make_metatensor().as_tensor())


@pytest.mark.parametrize("space", ["RAS", "LPS"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 5, 7)])
def test_a_mask_becomes_a_metatensor_like_the_scan(space: str, shape: tuple[int, ...]) -> None:
    scan = make_metatensor(shape, space=space, filename_or_obj="/home/Doe^John.nii", patient_id="4711")
    labels = from_memory(scan).with_array((np.arange(105).reshape(1, 3, 5, 7) % 3).astype(np.int32))
    mask = to_metatensor(labels, scan)
    assert is_metatensor(mask)
    assert mask.ndim == scan.ndim
    assert str(mask.dtype) == "torch.uint8"
    np.testing.assert_allclose(mask.affine.numpy(), scan.affine.numpy())  # in the space of the scan
    assert mask.meta["space"] == space
    assert "Doe" not in str(mask.meta)
    again = from_memory(mask)
    np.testing.assert_array_equal(again.array, labels.array)
    np.testing.assert_allclose(again.affine, labels.affine, atol=1e-12)


# ---- TorchIO ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ScalarImage", "LabelMap"])
def test_a_torchio_image_keeps_its_place(kind: str) -> None:
    import torch
    import torchio as tio

    values = torch.arange(210, dtype=torch.int16).reshape(2, 3, 5, 7)
    volume = from_memory(getattr(tio, kind)(tensor=values, affine=OBLIQUE))
    assert volume.shape == (2, 3, 5, 7)
    assert volume.array[:, 0, 0, 1].tolist() == [1, 106]
    np.testing.assert_allclose(find_world(volume, 52), nib.affines.apply_affine(OBLIQUE, (1, 2, 3)))


def write_counting(path: Path, make_volume: Any) -> Volume:
    volume: Volume = make_volume(shape=(5, 7, 9), orientation="PIR", dtype=np.int16)
    volume = volume.with_array(np.arange(315, dtype=np.int16).reshape(1, 5, 7, 9))
    write_nifti_image(volume, path)
    return volume


@pytest.mark.parametrize("is_loaded", [False, True])
def test_torchio_reads_a_file_as_we_do(tmp_path: Path, make_volume: Any, is_loaded: bool) -> None:
    import torchio as tio

    volume = write_counting(tmp_path / "image.nii.gz", make_volume)
    image = tio.ScalarImage(tmp_path / "image.nii.gz")
    if is_loaded:
        image.load()
    taken = from_memory(image)
    for value in (0, 77, 314):
        np.testing.assert_allclose(find_world(taken, value), find_world(volume, value), atol=1e-4)


def test_recognising_a_torchio_image_does_not_load_it(tmp_path: Path, make_volume: Any) -> None:
    import torchio as tio

    write_counting(tmp_path / "image.nii.gz", make_volume)
    image = tio.ScalarImage(tmp_path / "image.nii.gz")
    assert is_torchio(image)
    assert not image._loaded


def test_row_27_truncated_file_behind_a_torchio_image(tmp_path: Path, make_volume: Any) -> None:
    import torchio as tio

    path = tmp_path / "image.nii"
    write_counting(path, make_volume)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VolumeError, match=r"image\.nii is cut short"):
        from_memory(tio.ScalarImage(path))


@pytest.mark.parametrize("name", ["image.nrrd", "image.mha"])
def test_a_file_that_torchio_cannot_load_is_named_without_its_content(tmp_path: Path, name: str) -> None:
    import torchio as tio

    (tmp_path / name).write_text("Doe^John")
    with pytest.raises(VolumeError, match=rf"The TorchIO image .*{name} cannot be loaded \(\w+\)") as caught:
        from_memory(tio.ScalarImage(tmp_path / name))
    assert "Doe" not in str(caught.value)


def test_a_reader_of_the_user_is_respected(tmp_path: Path, make_volume: Any) -> None:
    import torch
    import torchio as tio

    write_counting(tmp_path / "image.nii.gz", make_volume)
    image = tio.ScalarImage(
        tmp_path / "image.nii.gz", reader=lambda path: (torch.full((1, 2, 3, 4), 9.0), np.diag([2.0, 3, 4, 1]))
    )
    volume = from_memory(image)
    assert (volume.array == 9).all()
    assert volume.spacing == (2, 3, 4)


def test_a_mask_becomes_a_label_map_of_torchio(make_volume: Any) -> None:
    import torchio as tio

    labels = make_volume(dtype=np.uint8, seed=3)
    image = to_torchio(labels)
    assert isinstance(image, tio.LabelMap)
    assert is_torchio(image)
    again = from_memory(image)
    np.testing.assert_array_equal(again.array, labels.array)
    np.testing.assert_array_equal(again.affine, labels.affine)


# ---- pydicom ---------------------------------------------------------------------------------------------------------


def make_datasets(num_slices: int = 4) -> list[Any]:
    """Slices of 3 rows and 5 columns, 2.5 mm apart; stored values encode slice, row and column."""
    import pydicom

    series_uid, frame_uid = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    datasets = []
    for k in range(num_slices):
        dataset = pydicom.Dataset()
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.SOPInstanceUID = pydicom.uid.generate_uid()
        dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", "4711", "Doe^John"
        dataset.StudyInstanceUID = dataset.SeriesInstanceUID = series_uid
        dataset.FrameOfReferenceUID = frame_uid
        dataset.InstanceNumber = k + 1
        dataset.Rows, dataset.Columns, dataset.PixelSpacing = 3, 5, [0.8, 0.6]  # of rows, of columns
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [10, -20, 30 + 2.5 * k]
        dataset.SliceThickness = 2.5
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1000
        rows, columns = np.indices((3, 5))
        dataset.PixelData = (1000 + 100 * k + 10 * rows + columns).astype(np.int16).tobytes()
        datasets.append(dataset)
    return datasets


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_pydicom_datasets_in_any_order(kind: Any, order: list[int]) -> None:
    datasets = make_datasets()
    scan = scan_from_memory(kind(datasets[index] for index in order))
    # Slice 2, row 1, column 4 lies at LPS (10 + 4 * 0.6, -20 + 0.8, 35).
    np.testing.assert_allclose(find_world(scan.volume, 214), (-12.4, 19.2, 35), atol=1e-6)
    assert scan.volume.spatial_shape == (5, 3, 4)
    assert scan.stack is not None
    assert scan.path is None


def test_two_datasets_are_slices_and_no_array_with_its_affine() -> None:
    assert from_memory(tuple(make_datasets(2))).spatial_shape == (5, 3, 2)


def test_datasets_that_are_no_volume_are_refused_without_a_name() -> None:
    datasets = make_datasets()
    del datasets[2].ImagePositionPatient
    with pytest.raises(VolumeError) as caught:
        from_memory(datasets)
    assert "ImagePositionPatient" in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_what_counts_as_datasets() -> None:
    import pydicom

    class Slice(pydicom.Dataset):
        """Users derive their own."""

    assert is_datasets([Slice(), pydicom.Dataset()])
    assert is_datasets(pydicom.Dataset())
    for source in ([], (), [pydicom.Dataset(), 3], "image", ["a.dcm"], None):
        assert not is_datasets(source)


# ---- all of them -----------------------------------------------------------------------------------------------------


def test_derived_classes_are_recognised() -> None:
    import torchio as tio
    from monai.data import MetaTensor

    class Image(sitk.Image):
        pass

    class Tensor(MetaTensor):
        pass

    class Scan(tio.ScalarImage):
        pass

    assert is_simpleitk(Image())
    assert is_metatensor(Tensor([1.0]))
    assert is_torchio(Scan(tensor=np.zeros((1, 2, 3, 4))))
    assert not is_simpleitk(sitk.ImageFileReader())


def test_nothing_is_imported_to_recognise_an_object() -> None:
    code = (  # pydicom comes along with nibabel
        "import sys; from medunet.io.memory import is_datasets, is_metatensor, is_simpleitk, is_torchio; "
        "assert not any(check(object()) for check in (is_datasets, is_metatensor, is_simpleitk, is_torchio)); "
        "print([name for name in ('SimpleITK', 'highdicom', 'monai', 'torch', 'torchio') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_one_of_several_volumes_is_chosen(make_volume: Any) -> None:
    volume = make_volume(num_channels=3)
    chosen = from_memory(volume, ReadOptions(volume_index=2))
    np.testing.assert_array_equal(chosen.array, volume.array[2:])
    for index in (3, -1):
        with pytest.raises(VolumeError, match=f"There is no volume {index} in the Volume given; it holds 3, counted"):
            from_memory(volume, ReadOptions(volume_index=index))
