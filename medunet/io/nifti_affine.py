"""Where a NIfTI header says that its voxels lie: sform, qform or neither, in RAS+ mm.

The fields are read as they stand; nibabel's repairs (0 mm becomes 1 mm, an unknown code becomes "none") would move the
image without a word. The quaternion is that of https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import numpy as np
from nibabel.quaternions import quat2mat
from nibabel.volumeutils import shape_zoom_affine

from medunet.errors import VolumeError
from medunet.io.affine import check_affine
from medunet.io.nifti_header import get_stored_shape
from medunet.volume import Affine, Shape3, Volume, build_grid, compute_grid_distance_mm

logger = logging.getLogger(__name__)

Form = Literal["sform", "qform"]

DISAGREEMENT_MM = 0.1
"""Corners further apart are reported; float32 rounding stays a thousand times below."""
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown, metre, millimetre, micron
_ROUNDED_QUATERNION = -1e-4  # how far b² + c² + d² may exceed 1; nibabel allows less than a rounded float64 needs


def read_affine(header: Any, name: str, form: Form | None = None) -> Affine:
    """The affine of a header.

    Args:
        header: A nibabel NIfTI header.
        name: What messages call the file.
        form: Which one counts; None for the sform, else the qform, else axes to left, anterior and superior around
            the origin, with the voxel sizes of ``pixdim`` (the guess that nibabel and SPM make too).

    Raises:
        VolumeError: If the header lacks ``form``, or the affine is not finite, singular or sheared, or has fields or
            units that NIfTI does not know.
    """
    forms = _list_forms(header, name)
    if form is not None and form not in forms:
        has = f"only {forms[0]}" if forms else "neither sform nor qform"
        msg = f"{name} has no {form} ({form}_code = 0 in its header, which has {has}). Leave out --affine {form}."
        raise VolumeError(msg)
    chosen = form or (forms[0] if forms else None)
    try:
        return _read_checked(header, name, chosen)
    except VolumeError as error:
        if chosen == "sform" and "qform" in forms and _is_usable(header, name, "qform"):
            msg = f"{error} Or use its qform, which is sound, with --affine qform."
            raise VolumeError(msg) from error
        raise


def warn_about_geometry(header: Any, name: str, form: Form | None = None) -> None:
    """Say where the header leaves the position open, or gives two that differ.

    Args:
        header: As `read_affine`, which takes it.
        name: What messages call the file.
        form: The choice that `read_affine` was given; it settles what is open.
    """
    forms = _list_forms(header, name)
    is_from_voxel_sizes = form == "qform" or "sform" not in forms
    if is_from_voxel_sizes and bool((np.array(header["pixdim"][1:4]) < 0).any()):
        logger.warning("%s has negative voxel sizes in its header; they are taken as positive.", name)
    if not forms:
        logger.warning(
            "%s says neither sform nor qform: its position and left/right are guessed from the voxel sizes.", name
        )
    if form is None and len(forms) == 2:
        _warn_about_disagreement(header, name)


def _warn_about_disagreement(header: Any, name: str) -> None:
    if not _is_usable(header, name, "qform"):
        logger.warning("%s has a qform that cannot be used beside its sform; the sform is used.", name)
        return
    sform, qform = (_build_grid(header, name, form) for form in ("sform", "qform"))
    distance_mm = compute_grid_distance_mm(sform, qform)
    # Half a voxel where voxels are so small that 0.1 mm would span several.
    if distance_mm > min(DISAGREEMENT_MM, 0.5 * min(sform.spacing)):
        logger.warning(
            "%s has an sform and a qform that lie up to %.3g mm apart; the sform is used. Choose with --affine sform "
            "or --affine qform.",
            name,
            distance_mm,
        )


def to_mm(affine: Affine, header: Any, name: str) -> Affine:
    """An affine in the length unit of the header, in millimetres.

    Raises:
        VolumeError: If NIfTI does not know the unit.
    """
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MM_PER_UNIT:
        msg = (
            f"{name} has the length unit {unit} in xyzt_units; expected 1 (m), 2 (mm) or 3 (micron). Repair its header."
        )
        raise VolumeError(msg)
    return np.diag([_MM_PER_UNIT[unit]] * 3 + [1.0]) @ affine


def _list_forms(header: Any, name: str) -> list[Form]:
    """The forms that the header has, the preferred one first."""
    forms: list[Form] = []
    for form in ("sform", "qform"):
        code = int(header[f"{form}_code"])
        if not 0 <= code <= 5:
            msg = f"{name} has {form}_code = {code} in its header; expected 0 (none) to 5. Repair its header."
            raise VolumeError(msg)
        if code:
            forms.append(form)
    return forms


def _is_usable(header: Any, name: str, form: Form) -> bool:
    try:
        _read_checked(header, name, form)
    except VolumeError:
        return False
    return True


def _build_grid(header: Any, name: str, form: Form) -> Volume:
    shape = _get_spatial_shape(header, name)
    return build_grid(shape, _read_checked(header, name, form))


def _read_checked(header: Any, name: str, form: Form | None) -> Affine:
    if form == "sform":
        affine = np.eye(4)
        affine[:3] = [header["srow_x"], header["srow_y"], header["srow_z"]]
    elif form == "qform":
        affine = _read_qform(header, name)
    else:
        shape = _get_spatial_shape(header, name)
        affine = np.asarray(shape_zoom_affine(shape, _read_voxel_sizes(header, name), x_flip=True))
    return check_affine(to_mm(affine, header, name), name)


def _read_qform(header: Any, name: str) -> Affine:
    handedness = float(header["pixdim"][0])
    if handedness not in (-1.0, 0.0, 1.0):  # by the standard 0 means 1
        msg = (
            f"{name} has pixdim[0] = {handedness:g} in its header; expected 1 or -1, which tells left from right. "
            "Repair its header."
        )
        raise VolumeError(msg)
    affine = np.eye(4)
    affine[:3, :3] = _read_rotation(header, name) * _read_voxel_sizes(header, name) * (1, 1, handedness or 1)
    affine[:3, 3] = [header["qoffset_x"], header["qoffset_y"], header["qoffset_z"]]
    return affine


def _read_rotation(header: Any, name: str) -> Any:
    """The rotation matrix ``(3, 3)``; the first part of the quaternion follows from the three that are stored."""
    bcd = np.array([header["quatern_b"], header["quatern_c"], header["quatern_d"]], dtype=np.float64)
    a_squared = 1.0 - float(bcd @ bcd)
    if a_squared < _ROUNDED_QUATERNION:
        msg = (
            f"{name} has a qform with impossible quatern fields {bcd.tolist()}; expected a rotation (the sum of their "
            "squares 1 at most). Repair its header."
        )
        raise VolumeError(msg)
    # Below the threshold it is rounding; taken as 0 as nibabel does, so that both place the image alike.
    a = 0.0 if a_squared < abs(float(header.quaternion_threshold)) else math.sqrt(a_squared)
    return quat2mat([a, *bcd])


def _read_voxel_sizes(header: Any, name: str) -> Any:
    """``pixdim[1:4]``, ``(3,)``; an axis of one voxel may leave its size open."""
    shape = _get_spatial_shape(header, name)
    sizes = np.abs(np.array(header["pixdim"][1:4], dtype=np.float64))  # some programs stored flips as signs
    is_open = (sizes == 0) & (np.array(shape) == 1)
    sizes[is_open] = 1.0
    if (sizes == 0).any():
        found = [f"{size:g}" for size in header["pixdim"][1:4].tolist()]
        msg = (
            f"{name} has voxel sizes of 0 (pixdim = {', '.join(found)} in its header); expected positive sizes. "
            "Repair its header."
        )
        raise VolumeError(msg)
    return sizes


def _get_spatial_shape(header: Any, name: str) -> Shape3:
    i, j, k = (*get_stored_shape(header, name), 1, 1)[:3]
    return i, j, k
