"""Images that other libraries hold in memory, to and from `Volume`.

SimpleITK speaks LPS millimetres and orders arrays (k, j, i); the translation stays in the ``*_lps_*`` functions. MONAI
and TorchIO speak RAS+ and put channels first, as here; a MetaTensor may say that it is an exception. What an object is,
the modules of its classes tell: no library is imported to recognise what cannot be one of its objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medunet.errors import VolumeError
from medunet.io.affine import LPS_FROM_RAS, check_affine
from medunet.io.nifti_file import is_nifti
from medunet.io.nifti_read import from_nibabel, read_nifti
from medunet.io.scan import ReadOptions, Scan
from medunet.io.voxels import check_finite, check_real, to_label_array, to_working_dtype
from medunet.volume import Affine, Array, Volume

if TYPE_CHECKING:
    import SimpleITK

_LPS_SPACES = ("LPS", "left-posterior-superior")
_RAS_SPACES = ("RAS", "right-anterior-superior")
"""How MONAI's ``meta["space"]`` says it; the long forms are those of NRRD headers."""


def is_nibabel(source: object) -> bool:
    """Whether this is a nibabel image with a spatial grid."""
    return hasattr(source, "dataobj") and hasattr(source, "affine") and hasattr(source, "header")


def is_simpleitk(source: object) -> bool:
    """Whether this is a SimpleITK image; does not import SimpleITK."""
    return _is_instance(source, "SimpleITK", "Image")


def is_metatensor(source: object) -> bool:
    """Whether this is a MONAI MetaTensor; does not import MONAI."""
    return _is_instance(source, "monai", "MetaTensor")


def is_torchio(source: object) -> bool:
    """Whether this is a TorchIO image, such as a ScalarImage or a LabelMap; does not import TorchIO nor load the image."""
    return _is_instance(source, "torchio", "Image")


def is_datasets(source: object) -> bool:
    """Whether this is a pydicom Dataset, or a list or tuple of nothing but them; does not import pydicom."""
    datasets = source if isinstance(source, (list, tuple)) else [source]
    return len(datasets) > 0 and all(_is_instance(dataset, "pydicom", "Dataset") for dataset in datasets)


def from_memory(source: object, options: ReadOptions | None = None) -> Volume:
    """Take over an image that lies in memory.

    Args:
        source: A `Volume`, a nibabel image, a SimpleITK image, a MONAI MetaTensor ``(C, I, J, K)`` or ``(I, J, K)``, a
            TorchIO image, a pydicom Dataset or a list of them, or ``(array, affine)`` with an array ``(I, J, K)`` or
            ``(C, I, J, K)`` and an affine in RAS+ mm.
        options: Which DICOM series, which of several volumes.

    Raises:
        VolumeError: If it is none of these, holds NaN, or has no usable geometry.
    """
    return scan_from_memory(source, options).volume


def scan_from_memory(source: object, options: ReadOptions | None = None) -> Scan:
    """As `from_memory`, with the DICOM slices and notes where the image has them."""
    if is_datasets(source):
        from medunet.io.dicom.read import read_datasets

        return read_datasets(source if isinstance(source, (list, tuple)) else [source], options)
    volume = _from_image(source)
    if options is not None and options.volume_index is not None:
        volume = _choose_volume(volume, options.volume_index, describe_source(source))
    return Scan(volume=volume)


def _is_instance(source: object, package: str, name: str) -> bool:
    """Whether a class of that name and package is among the object's classes: users derive their own from it."""
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == package for kind in type(source).__mro__)


def _from_image(source: object) -> Volume:
    if isinstance(source, Volume):
        return source
    if is_nibabel(source):
        return from_nibabel(source)
    if is_simpleitk(source):
        return from_lps_image(source)
    if is_metatensor(source):
        return from_metatensor(source)
    if is_torchio(source):
        return from_torchio(source)
    if isinstance(source, tuple) and len(source) == 2:
        return _from_array(*source)
    msg = (
        f"Cannot take a {type(source).__name__} as a volume; expected a path, a Volume, a nibabel, SimpleITK or TorchIO "
        "image, a MONAI MetaTensor, pydicom datasets, or (array, affine)."
    )
    raise VolumeError(msg)


def _choose_volume(volume: Volume, index: int, name: str) -> Volume:
    if not 0 <= index < volume.num_channels:
        msg = f"There is no volume {index} in {name}; it holds {volume.num_channels}, counted from 0."
        raise VolumeError(msg)
    return volume.with_array(volume.array[index : index + 1])


def from_lps_image(image: Any) -> Volume:
    """A SimpleITK image (LPS mm) as a `Volume` (RAS+ mm)."""
    import SimpleITK as sitk  # noqa: N813 - the name that its manual uses

    if image.GetDimension() != 3:
        msg = f"The SimpleITK image has {image.GetDimension()} dimensions; expected 3. Extract one volume first."
        raise VolumeError(msg)
    array = sitk.GetArrayFromImage(image)  # (K, J, I) or (K, J, I, C)
    channels = array[..., None] if array.ndim == 3 else array
    affine = _get_affine_from_lps_image(image)
    return _build_volume(np.ascontiguousarray(channels.transpose(3, 2, 1, 0)), affine, "The SimpleITK image")


def to_lps_image(label_map: Volume) -> SimpleITK.Image:
    """A label map ``(1, I, J, K)`` as a SimpleITK image (LPS mm)."""
    import SimpleITK as sitk  # noqa: N813 - the name that its manual uses

    image = sitk.GetImageFromArray(np.ascontiguousarray(to_label_array(label_map).transpose(2, 1, 0)))
    affine_lps = LPS_FROM_RAS @ label_map.affine
    image.SetSpacing(label_map.spacing)
    image.SetOrigin(affine_lps[:3, 3].tolist())
    image.SetDirection((affine_lps[:3, :3] / np.array(label_map.spacing)).ravel().tolist())
    return image


def from_metatensor(tensor: Any) -> Volume:
    """A MONAI MetaTensor, ``(C, I, J, K)`` or ``(I, J, K)``, as a `Volume`.

    Raises:
        VolumeError: If it is a batch, has other axes or channels last, waits for lazy transforms, or says of its affine
            neither RAS nor LPS.
    """
    name = "The MetaTensor"
    _check_axes_of_metatensor(tensor)
    if tensor.pending_operations:
        msg = f"{name} has pending lazy transforms, so its voxels are not what its history says. Apply them first."
        raise VolumeError(msg)
    space = str(tensor.meta.get("space", "RAS"))
    if space not in (*_RAS_SPACES, *_LPS_SPACES):
        msg = f"{name} has an affine in the space '{space[:40]}'; expected RAS or LPS. Convert it first."
        raise VolumeError(msg)
    affine = _to_array(tensor.affine).astype(np.float64)
    array = _to_array(tensor.as_tensor())
    return _build_volume(
        array[None] if array.ndim == 3 else array,
        LPS_FROM_RAS @ affine if space in _LPS_SPACES and affine.shape == (4, 4) else affine,
        name,
    )


def to_metatensor(label_map: Volume, like: Any) -> Any:
    """A label map ``(1, I, J, K)`` as a MONAI MetaTensor with the axes, the space and the device of ``like``.

    Nothing else of ``like.meta`` is taken over: it may name a patient.
    """
    import torch
    from monai.data import MetaTensor
    from monai.utils import MetaKeys, SpaceKeys

    is_lps = str(like.meta.get("space", "RAS")) in _LPS_SPACES
    has_channel = like.ndim == 4
    labels = to_label_array(label_map)
    affine = LPS_FROM_RAS @ label_map.affine if is_lps else label_map.affine
    return MetaTensor(
        torch.from_numpy(np.ascontiguousarray(labels[None] if has_channel else labels)).to(like.device),
        affine=torch.from_numpy(affine.copy()),
        meta={
            MetaKeys.SPACE: SpaceKeys.LPS if is_lps else SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if has_channel else float("nan"),
        },
    )


def from_torchio(image: Any) -> Volume:
    """A TorchIO image as a `Volume`.

    An image that is not loaded yet is read by medunet where it is a single NIfTI file: TorchIO would not notice that it
    is cut short.

    Raises:
        VolumeError: If the file behind it cannot be read, or as `from_memory`.
    """
    path, is_loaded = image.path, bool(getattr(image, "_loaded", True))
    has_own_reader = not getattr(image.reader, "__module__", "").startswith("torchio")
    if not is_loaded and not has_own_reader and isinstance(path, Path) and is_nifti(path):
        return read_nifti(path)
    try:
        array, affine = _to_array(image.data), np.array(image.affine, dtype=np.float64)
    except Exception as error:  # whatever the reader behind the image raises; its text may quote a header
        msg = f"The TorchIO image {path or ''} cannot be loaded ({type(error).__name__}). Check the file behind it."
        raise VolumeError(msg) from error
    return _build_volume(array, affine, "The TorchIO image")


def to_torchio(label_map: Volume) -> Any:
    """A label map ``(1, I, J, K)`` as a ``torchio.LabelMap``."""
    import torch
    import torchio

    labels = torch.from_numpy(np.ascontiguousarray(to_label_array(label_map)[None]))
    return torchio.LabelMap(tensor=labels, affine=label_map.affine.copy())


def _check_axes_of_metatensor(tensor: Any) -> None:
    """Refuse what cannot be read as channels first, as far as the tensor tells."""
    shape = tuple(int(n) for n in tensor.shape)
    if tensor.is_batch or tensor.ndim not in (3, 4):
        what = "a batch" if tensor.is_batch else f"{tensor.ndim} axes"
        msg = (
            f"The MetaTensor has {what} (shape {shape}); expected (I, J, K) or (C, I, J, K). Give one image at a time."
        )
        raise VolumeError(msg)
    # LoadImage keeps the channels of a 4D file last and notes the shape that the file had.
    spatial_shape = tensor.meta.get("spatial_shape")
    known = () if spatial_shape is None else tuple(int(n) for n in np.ravel(_to_array(spatial_shape)))
    if tensor.ndim == 4 and shape[:3] == known != shape[1:]:
        msg = f"The MetaTensor of shape {shape} has its channels last; expected them first. Apply EnsureChannelFirst."
        raise VolumeError(msg)
    if tensor.ndim == 3 and len(known) == 2:
        msg = f"The MetaTensor of shape {shape} is a 2D image; expected a volume (I, J, K) or (C, I, J, K)."
        raise VolumeError(msg)


def _to_array(tensor: Any) -> Array:
    """A torch tensor of any device, or an array, as an array; bfloat16, which NumPy does not know, as float32."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    array: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return array


def _get_affine_from_lps_image(image: Any) -> Affine:
    affine_lps = np.eye(4)
    affine_lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine_lps[:3, 3] = image.GetOrigin()
    return LPS_FROM_RAS @ affine_lps


def _from_array(array: Any, affine: Any) -> Volume:
    try:
        array, affine = np.asarray(array), np.asarray(affine, dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"Cannot take (array, affine): {str(error).splitlines()[0]}; expected numbers in both."
        raise VolumeError(msg) from error
    if array.ndim not in (3, 4):
        msg = f"The array has {array.ndim} axes; expected (I, J, K) or (C, I, J, K). Add or remove an axis."
        raise VolumeError(msg)
    return _build_volume(array[None] if array.ndim == 3 else array, affine, "The array")


def _build_volume(array: Array, affine: Affine, name: str) -> Volume:
    """The rules that files obey: real, finite, float32 or integer, on a rectangular grid."""
    check_real(array.dtype, name)
    array = to_working_dtype(array)
    check_finite(array, name)
    return Volume(array, check_affine(affine, name))


def describe_source(source: object) -> str:
    """How messages call an input: the path of a file, or the kind of object."""
    return str(source) if isinstance(source, (str, Path)) else f"the {type(source).__name__} given"
