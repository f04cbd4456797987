"""The same drawn changes, applied by MONAI's and TorchIO's own transforms, patch by patch on the CPU.

Slower than the plain-torch path, but every transform is one that others maintain and know; the tests hold the two paths
beside each other. What differs is said at each function.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medunet.augmentation.changes import BIAS_FIELD_ORDER, Anisotropy, Ghosting, IntensityChange, Motion, Noise, Triple
from medunet.augmentation.spatial import SpatialChange
from medunet.volume import Array, Spacing

# RAS to LPS turns the first two axes around, and with them the angles about them.
_TO_LPS = np.array([-1.0, -1.0, 1.0])


def apply_spatial_with_peers(
    image: Tensor, codes: Tensor, change: SpatialChange, spacing: Spacing
) -> tuple[Tensor, Tensor]:
    """Turn and zoom with MONAI's ``Affine``, then deform with TorchIO's ``ElasticDeformation``; mirroring is left out.

    Two interpolations where the plain-torch path needs one, and nearest neighbour for labels. TorchIO fills with zeros
    what it takes from outside, MONAI repeats the border.

    Args:
        image: ``(C, I, J, K)`` float32.
        codes: ``(I, J, K)`` uint8.
        change: What was drawn for a patch of this size.
        spacing: Of the patch, mm.

    Returns:
        Image and codes, of the shapes and types given.
    """
    assert change.node_voxels is None  # TorchIO knows B-splines only; `TrainingSettings` lets nobody ask for both
    if change.matrix is not None:
        image = _turn(image, change.matrix, "bilinear")
        codes = _turn(codes[None].float(), change.matrix, "nearest")[0].to(torch.uint8)
    if change.control_mm is not None:
        image, codes = _deform(image, codes, change, spacing)
    return image, codes


def apply_intensity_with_peers(patch: Tensor, change: IntensityChange) -> Tensor:
    """Change the intensities of one patch as `apply_intensity` does, in the same order.

    Noise has the same deviation but other voxels.

    Args:
        patch: ``(C, I, J, K)`` float32.
        change: What was drawn; tuples in it have one value per channel, or a single one for all.
    """
    if change.motion is not None:
        patch = _apply_motion(patch, change.motion)
    if change.ghosting is not None:
        patch = _apply_ghosting(patch, change.ghosting)
    if change.bias_field is not None:
        patch = _apply_bias_field(patch, change.bias_field)
    if change.anisotropy is not None:
        patch = _apply_anisotropy(patch, change.anisotropy)
    if change.noise is not None:
        patch = _add_noise(patch, change.noise)
    if change.blur_sigmas is not None:
        patch = _per_channel(_blur, patch, change.blur_sigmas)
    if change.brightness is not None:
        patch = _per_channel(_multiply, patch, change.brightness)
    if change.contrast is not None:
        patch = _per_channel(_stretch, patch, change.contrast)
    if change.low_resolution is not None:
        patch = _per_channel(_lower_resolution, patch, change.low_resolution)
    if change.inverted_gamma is not None:
        patch = _per_channel(_apply_inverted_gamma, patch, change.inverted_gamma)
    if change.gamma is not None:
        patch = _per_channel(_apply_gamma, patch, change.gamma)
    return patch


def _turn(patch: Tensor, matrix: Array, mode: str) -> Tensor:
    from monai.transforms import Affine

    affine = np.eye(4)
    affine[:3, :3] = matrix
    return _to_plain(Affine(affine=affine, mode=mode, padding_mode="border", image_only=True)(patch))


def _deform(image: Tensor, codes: Tensor, change: SpatialChange, spacing: Spacing) -> tuple[Tensor, Tensor]:
    import torchio as tio

    assert change.control_mm is not None
    control_mm = change.control_mm
    if change.matrix is not None:
        # I(M x + d) = (I o M)(x + M⁻¹ d): the field that deforms what was already turned.
        in_mm = np.diag(spacing) @ change.matrix @ np.diag(1 / np.array(spacing))
        control_mm = control_mm @ np.linalg.inv(in_mm).T
    # ITK's control points run along its own axes, and its displacements are LPS.
    points = np.ascontiguousarray(control_mm[::-1, ::-1] * _TO_LPS)
    # TorchIO wants the largest displacement only to warn of folds, which the policy's limit precludes.
    transform = tio.ElasticDeformation(points, max_displacement=(1e-6, 1e-6, 1e-6))
    affine = np.diag([*spacing, 1.0])
    subject = tio.Subject(
        image=tio.ScalarImage(tensor=image, affine=affine), codes=tio.LabelMap(tensor=codes[None], affine=affine)
    )
    with torch.random.fork_rng(devices=[]):
        deformed = transform(subject)
    return deformed["image"].data, deformed["codes"].data[0].to(torch.uint8)


def _apply_motion(patch: Tensor, motion: Motion) -> Tensor:
    """TorchIO fills k-space along the last axis and turns about the world's origin: both are put where they belong.

    On axes of a few voxels it may take the centre of k-space from a patch that has moved.
    """
    import torchio as tio

    order = [axis for axis in range(3) if axis != motion.axis] + [motion.axis]
    affine = np.eye(4)
    affine[:3, :3] = np.diag(motion.spacing)
    affine[:3, 3] = -(np.array(patch.shape[1:]) - 1) / 2 * motion.spacing
    affine[:3, :3] = affine[:3, order]
    transform = tio.Motion(
        degrees=np.array(motion.degrees) * _TO_LPS,
        translation=np.array(motion.translation_mm) * _TO_LPS,
        times=np.array(motion.times),
        image_interpolation="linear",
    )
    moved = _apply_torchio(transform, patch.permute(0, *(1 + axis for axis in order)), affine)
    return moved.permute(0, *(1 + order.index(axis) for axis in range(3))).contiguous()


def _apply_ghosting(patch: Tensor, ghosting: Ghosting) -> Tensor:
    import torchio as tio

    transform = tio.Ghosting(
        num_ghosts=ghosting.num_ghosts, axis=ghosting.axis, intensity=ghosting.intensity, restore=None
    )
    return _apply_torchio(transform, patch, np.eye(4))


def _apply_bias_field(patch: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """TorchIO multiplies what it is given: the signal above the darkest voxel."""
    import torchio as tio

    low = patch.amin((1, 2, 3), keepdim=True)
    transform = tio.BiasField(coefficients=list(coefficients), order=BIAS_FIELD_ORDER)
    return _apply_torchio(transform, patch - low, np.eye(4)) + low


def _apply_anisotropy(patch: Tensor, anisotropy: Anisotropy) -> Tensor:
    """TorchIO fills with zeros beyond the outermost slices."""
    import torchio as tio

    factor = anisotropy.factor
    transform = tio.RandomAnisotropy(axes=(anisotropy.axis,), downsampling=(factor, factor))  # random no more
    return _apply_torchio(transform, patch, np.eye(4))


def _add_noise(patch: Tensor, noise: Noise) -> Tensor:
    from monai.transforms import RandGaussianNoise

    transform = RandGaussianNoise(prob=1.0, std=noise.deviation, sample_std=False)
    return _to_plain(transform.set_random_state(seed=noise.seed)(patch))


def _blur(channel: Tensor, sigmas: Triple) -> Tensor:
    """MONAI pads with zeros; the border is repeated outwards before, so that it stays as bright as it is."""
    from monai.transforms import GaussianSmooth

    radii = [math.ceil(4 * sigma) + 1 for sigma in sigmas]
    padding = [radius for radius in reversed(radii) for _ in range(2)]  # F.pad starts with the last axis
    padded = F.pad(channel[None], padding, mode="replicate")[0]
    smooth = _to_plain(GaussianSmooth(sigma=sigmas)(padded))
    inner = [slice(radius, radius + size) for radius, size in zip(radii, channel.shape[1:], strict=True)]
    return smooth[(slice(None), *inner)]


def _multiply(channel: Tensor, factor: float) -> Tensor:
    from monai.transforms import ScaleIntensity

    return _to_plain(ScaleIntensity(minv=None, maxv=None, factor=factor - 1)(channel))


def _stretch(channel: Tensor, factor: float) -> Tensor:
    from monai.transforms import ScaleIntensityFixedMean

    return _to_plain(ScaleIntensityFixedMean(factor=factor - 1, preserve_range=True)(channel))


def _lower_resolution(channel: Tensor, factors: Triple) -> Tensor:
    from monai.transforms import Resize

    shape = channel.shape[1:]
    small = [max(1, round(size * factor)) for size, factor in zip(shape, factors, strict=True)]
    lowered = Resize(small, mode="nearest-exact")(channel)
    return _to_plain(Resize(shape, mode="trilinear", align_corners=False)(lowered))


def _apply_gamma(channel: Tensor, gamma: float) -> Tensor:
    from monai.transforms import AdjustContrast

    return _to_plain(AdjustContrast(gamma, retain_stats=True)(channel))


def _apply_inverted_gamma(channel: Tensor, gamma: float) -> Tensor:
    from monai.transforms import AdjustContrast

    return _to_plain(AdjustContrast(gamma, invert_image=True, retain_stats=True)(channel))


def _per_channel(apply: Any, patch: Tensor, drawn: tuple[Any, ...]) -> Tensor:
    drawn = drawn * (len(patch) // len(drawn))
    return torch.cat([apply(channel[None], one) for channel, one in zip(patch, drawn, strict=True)])


def _apply_torchio(transform: Any, patch: Tensor, affine: Array) -> Tensor:
    import torchio as tio

    with torch.random.fork_rng(devices=[]):  # TorchIO throws a coin even where nothing is left to chance
        changed: Tensor = transform(tio.ScalarImage(tensor=patch, affine=affine)).data
    return changed.float()


def _to_plain(patch: Any) -> Tensor:
    """A tensor without MONAI's geometry, which the patch does not need any more."""
    plain: Tensor = patch.as_tensor() if hasattr(patch, "as_tensor") else patch
    return plain
