"""Images that other libraries hold in memory, to and from `Volume`.

SimpleITK speaks LPS millimetres and orders arrays (k, j, i); the translation stays in the ``*_lps_*`` functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medunet.errors import VolumeError
from medunet.io.affine import check_affine
from medunet.io.nifti_read import from_nibabel
from medunet.io.voxels import check_finite, check_real, to_label_array, to_working_dtype
from medunet.volume import Affine, Array, Volume

if TYPE_CHECKING:
    import SimpleITK

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_nibabel(source: object) -> bool:
    """Whether this is a nibabel image with a spatial grid."""
    return hasattr(source, "dataobj") and hasattr(source, "affine") and hasattr(source, "header")


def is_simpleitk(source: object) -> bool:
    """Whether this is a SimpleITK image; does not import SimpleITK."""
    return type(source).__module__.split(".")[0] == "SimpleITK" and hasattr(source, "GetDirection")


def from_memory(source: object) -> Volume:
    """Take over an image that lies in memory.

    Args:
        source: A `Volume`, a nibabel image, a SimpleITK image, or ``(array, affine)`` with an array ``(I, J, K)`` or
            ``(C, I, J, K)`` and an affine in RAS+ mm.

    Raises:
        VolumeError: If it is none of these, holds NaN, or has no usable geometry.
    """
    if isinstance(source, Volume):
        return source
    if is_nibabel(source):
        return from_nibabel(source)
    if is_simpleitk(source):
        return from_lps_image(source)
    if isinstance(source, tuple) and len(source) == 2:
        return _from_array(*source)
    msg = (
        f"Cannot take a {type(source).__name__} as a volume; expected a path, a Volume, a nibabel image, a SimpleITK "
        "image or (array, affine)."
    )
    raise VolumeError(msg)


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
    affine_lps = _LPS_FROM_RAS @ label_map.affine
    image.SetSpacing(label_map.spacing)
    image.SetOrigin(affine_lps[:3, 3].tolist())
    image.SetDirection((affine_lps[:3, :3] / np.array(label_map.spacing)).ravel().tolist())
    return image


def _get_affine_from_lps_image(image: Any) -> Affine:
    affine_lps = np.eye(4)
    affine_lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine_lps[:3, 3] = image.GetOrigin()
    return _LPS_FROM_RAS @ affine_lps


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
