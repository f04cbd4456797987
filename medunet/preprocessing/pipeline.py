"""From a scan to what the network sees: orientation, body box, intensity, spacing.

Everything is told by the affine that the result carries, so nothing needs to be inverted later: the way back to the
scan's grid follows from the two affines (`medunet.preprocessing.resample`). Intensities are brought to the network's
range before anything is interpolated, as nnU-Net does: what lies outside the clipping range, or outside the body, must
not bleed into its neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medunet.planning import Normalization, Plan, compute_crop_box
from medunet.preprocessing.cubic import resample_cubic
from medunet.preprocessing.resample import compute_axis_mapping, find_coarse_axis, resample_label_map
from medunet.volume import Affine, Array, Shape3, Spacing, Volume, to_orientation

Box = tuple[slice, slice, slice]
Moments = tuple[Tensor, Tensor]
"""Deviation and mean."""

_LEAST_FINENESS = 3
_SAME_SPACING = 1e-4
"""Voxel sizes closer than this share are the same: 0.05 voxels over a line of 512."""


def preprocess_image(image: Volume, plan: Plan, *, region: Box | None = None) -> Volume:
    """Orient, crop to the body, normalise and resample a scan.

    Args:
        image: ``(C, I, J, K)`` with the plan's channels.
        plan: Spacing and intensity rules.
        region: Voxels of ``image`` that are kept, in place of the body; intensities are brought to the network's range as
            if all were kept. None keeps the body.

    Returns:
        float32 Volume on the network's grid, usually smaller than the scan: what is left out is background. Its voxels
        are the plan's, but for axes on which the scan's differ by less than a ten-thousandth, which stay as they are.
    """
    if region is None:
        cropped = _crop_to_body(to_orientation(image, plan.orientation), plan)
    else:
        cropped = to_orientation(_crop(image, region), plan.orientation)
    shape, affine = compute_target_grid(cropped, plan.spacing)
    nearest_axis = find_coarse_axis(cropped.spacing, plan.spacing)
    thinned = _thin(cropped, plan.spacing, nearest_axis)
    normalized = _normalize(thinned.array, plan, whole=None if region is None else image)
    resampled = resample_cubic(normalized, thinned.affine, affine, shape, nearest_axis=nearest_axis)
    return Volume(resampled.numpy(), affine)


def preprocess_labels(labels: Volume, image: Volume) -> Volume:
    """Bring a label map onto the grid of the preprocessed image.

    Args:
        labels: ``(1, I, J, K)`` on the scan's grid.
        image: Result of `preprocess_image` for that scan.
    """
    _, scales, _ = compute_axis_mapping(labels.affine, image.affine)
    i, j, k = (mm / abs(scale) for mm, scale in zip(image.spacing, scales, strict=True))
    nearest_axis = find_coarse_axis((i, j, k), image.spacing)
    return resample_label_map(labels, image.affine, image.spatial_shape, nearest_axis=nearest_axis)


def compute_fill(image: Array, plan: Plan) -> Array:
    """What lies around a preprocessed image, per channel, ``(C,)`` float32: air, or the 0 around nonzero voxels.

    Args:
        image: Voxels of `preprocess_image`, ``(C, I, J, K)``.
        plan: Its plan.
    """
    lowest = image.reshape(len(image), -1).min(axis=1)
    return np.where([rule.nonzero_only for rule in plan.normalization], 0, lowest).astype(np.float32)


def compute_target_grid(image: Volume, spacing: Spacing) -> tuple[Shape3, Affine]:
    """The grid of another voxel size that covers the same box, centred on it.

    Args:
        image: On the source grid; its voxels do not matter.
        spacing: Along the axes of ``image``, mm.

    Returns:
        ``shape``: nnU-Net's, the box divided by the voxel size and rounded, at least 1. ``affine``: RAS+ mm.
    """
    shape, steps = [], []
    for length, old, new in zip(image.spatial_shape, image.spacing, spacing, strict=True):
        is_same = abs(new / old - 1) < _SAME_SPACING
        shape.append(length if is_same else max(1, round(length * old / new)))
        steps.append(1.0 if is_same else new / old)
    to_source = np.diag([*steps, 1.0])
    to_source[:3, 3] = [
        (old - 1) / 2 - (new - 1) / 2 * step for old, new, step in zip(image.spatial_shape, shape, steps, strict=True)
    ]
    i, j, k = shape
    return (i, j, k), image.affine @ to_source


def _thin(image: Volume, spacing: Spacing, nearest_axis: int | None) -> Volume:
    """Every so many voxels of an image that is much finer than the network's grid, `_LEAST_FINENESS` of them per network voxel.

    Between two points of a coarse grid, most fine voxels have no say in a cubic interpolation anyway.
    """
    steps = [max(1, int(new / (old * _LEAST_FINENESS))) for old, new in zip(image.spacing, spacing, strict=True)]
    if nearest_axis is not None:  # there, single slices are picked
        steps[nearest_axis] = 1
    i, j, k = (slice(None, None, step) for step in steps)
    return Volume(image.array[:, i, j, k], image.affine @ np.diag([*steps, 1.0]))


def _crop_to_body(image: Volume, plan: Plan) -> Volume:
    """The body and a margin around it."""
    return _crop(image, compute_crop_box(image.array, plan.modality, image.spacing))


def _crop(image: Volume, box: Box) -> Volume:
    start = np.eye(4)
    start[:3, 3] = [edge.start for edge in box]
    return Volume(image.array[(slice(None), *box)], image.affine @ start)


def _normalize(image: Array, plan: Plan, *, whole: Volume | None = None) -> Tensor:
    """Float32 in new memory, ``(C, I, J, K)``: the voxels that come in are the caller's.

    Args:
        image: To normalise.
        plan: Intensity rules.
        whole: The scan of which ``image`` is a part; mean and deviation are those of its body. None: of ``image``.
    """
    channels = torch.from_numpy(np.array(image, dtype=np.float32, order="C"))
    inside = torch.from_numpy(_find_nonzero(image)) if any(rule.nonzero_only for rule in plan.normalization) else None
    moments = None if whole is None else _measure_moments(_crop_to_body(whole, plan).array, plan)
    for number, (channel, rule) in enumerate(zip(channels, plan.normalization, strict=True)):
        mask = inside if rule.nonzero_only else None
        _normalize_channel(channel, rule, mask, None if moments is None else moments[number])
    return channels


def _measure_moments(body: Array, plan: Plan) -> list[Moments | None]:
    """Mean and deviation of the channels that are normalised by their own."""
    inside = torch.from_numpy(_find_nonzero(body)) if any(rule.nonzero_only for rule in plan.normalization) else None
    return [
        _compute_moments(torch.from_numpy(np.asarray(channel, np.float32)), inside if rule.nonzero_only else None)
        if rule.rule == "zscore"
        else None
        for channel, rule in zip(body, plan.normalization, strict=True)
    ]


def _compute_moments(values: Tensor, inside: Tensor | None) -> Moments:
    measured = values if inside is None else values[inside]
    if measured.numel() < 2:
        return values.new_ones(()), values.new_zeros(())
    std, mean = torch.std_mean(measured)
    return std, mean


def _normalize_channel(values: Tensor, rule: Normalization, inside: Tensor | None, moments: Moments | None) -> None:
    if rule.rule == "none":
        return
    if rule.rule == "zscore":
        std, mean = moments or _compute_moments(values, inside)
        values.sub_(mean).div_(std.clamp(min=1e-6))
        if inside is not None:
            values.masked_fill_(~inside, 0.0)
        return
    assert rule.mean is not None  # Normalization checks it
    assert rule.std is not None
    values.clamp_(rule.lower, rule.upper).sub_(rule.mean).div_(rule.std)


def _find_nonzero(image: Array) -> Array:
    """Voxels that are not 0 in every channel, and the holes among them, ``(I, J, K)``."""
    from scipy.ndimage import label

    nonzero = np.any(image != 0, axis=0)
    parts, _ = label(~nonzero)
    # A hole is a part of the zeros that does not reach the border.
    faces = [np.take(parts, end, axis).reshape(-1) for axis in range(3) for end in (0, -1)]
    is_outside = np.zeros(int(parts.max()) + 1, bool)
    is_outside[np.unique(np.concatenate(faces))] = True
    is_outside[0] = False  # not zeros at all
    inside: Array = ~is_outside[parts]
    return inside
