"""Images that other libraries hold in memory, to and from `Volume`.

SimpleITK speaks LPS millimetres and orders arrays (k, j, i); the translation stays in the ``*_lps_*`` functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medunet.errors import VolumeError
from medunet.io.nifti import from_nibabel
from medunet.volume import Affine, Volume

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
    import SimpleITK as sitk

    if image.GetDimension() != 3:
        msg = f"The SimpleITK image has {image.GetDimension()} dimensions; expected 3."
        raise VolumeError(msg)
    array = sitk.GetArrayFromImage(image)  # (K, J, I) or (K, J, I, C)
    channels = array[..., None] if array.ndim == 3 else array
    return _from_array(np.ascontiguousarray(channels.transpose(3, 2, 1, 0)), _get_affine_from_lps_image(image))


def to_lps_image(label_map: Volume) -> SimpleITK.Image:
    """A label map ``(1, I, J, K)`` as a SimpleITK image (LPS mm)."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(label_map.array[0].transpose(2, 1, 0)))
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
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        msg = f"The array has dtype {array.dtype}; expected real numbers."
        raise VolumeError(msg)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        msg = f"The array holds {int((~np.isfinite(array)).sum())} NaN or infinite voxels; expected finite intensities."
        raise VolumeError(msg)
    return Volume(array[None] if array.ndim == 3 else array, np.asarray(affine, dtype=np.float64))


def describe_source(source: object) -> str:
    """How messages call an input: the path of a file, or the kind of object."""
    return str(source) if isinstance(source, (str, Path)) else f"the {type(source).__name__} given"
