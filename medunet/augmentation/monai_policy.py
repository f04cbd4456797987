"""The same policy through MONAI's transforms and TorchIO's elastic deformation, patch by patch on the CPU.

Slower than the plain-torch path by an order of magnitude, but every transform is one that others maintain and know.
"""

from __future__ import annotations

import math

from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
)

from medunet.augmentation.policy import AugmentationPolicy
from medunet.augmentation.spatial import limit_displacement_mm, list_rotation_axes
from medunet.augmentation.torchio_elastic import RandTorchIOElasticd
from medunet.volume import Shape3, Spacing

IMAGE, LABELS = "image", "labels"


def build_monai_augmentation(policy: AugmentationPolicy, patch_size: Shape3, spacing: Spacing) -> Compose:
    """Transforms for a dictionary with ``image`` and ``labels`` of `compute_margin_size` voxels; the patch comes out.

    Mirroring is left to the caller, because it may swap left and right labels.
    """
    keys = [IMAGE, LABELS]
    limit_mm = limit_displacement_mm(policy, patch_size, spacing)
    is_flat = [size == 1 for size in patch_size]
    turns = list_rotation_axes(patch_size, spacing)
    angle = math.radians(policy.rotation_degrees)
    sigmas = [(0.0, 0.0) if flat else policy.blur_sigma for flat in is_flat]
    low, high = policy.scaling
    return Compose(
        [
            RandTorchIOElasticd(
                keys,
                label_keys=[LABELS],
                prob=policy.elastic_probability,
                num_control_points=policy.elastic_control_points,
                max_displacement_mm=(float(limit_mm[0]), float(limit_mm[1]), float(limit_mm[2])),
            ),
            RandAffined(
                keys,
                prob=1 - (1 - policy.rotation_probability) * (1 - policy.scaling_probability),
                rotate_range=[angle if axis in turns else 0.0 for axis in range(3)],
                # MONAI's range is around 1 and scales the sampling grid, so zooming in is below it.
                scale_range=[(1 / high - 1, 1 / low - 1)] * 3,
                mode=["bilinear", "nearest"],
                padding_mode="border",
            ),
            CenterSpatialCropd(keys, roi_size=patch_size),
            RandGaussianNoised(IMAGE, prob=policy.noise_probability, std=math.sqrt(policy.noise_variance[1])),
            RandGaussianSmoothd(
                IMAGE,
                prob=policy.blur_probability,
                sigma_x=sigmas[0],
                sigma_y=sigmas[1],
                sigma_z=sigmas[2],
            ),
            RandScaleIntensityd(
                IMAGE,
                prob=policy.brightness_probability,
                factors=(policy.brightness[0] - 1, policy.brightness[1] - 1),
            ),
            RandScaleIntensityFixedMeand(
                IMAGE,
                prob=policy.contrast_probability,
                factors=(policy.contrast[0] - 1, policy.contrast[1] - 1),
                preserve_range=True,
                channel_wise=True,
            ),
            RandSimulateLowResolutiond(IMAGE, prob=policy.low_resolution_probability, zoom_range=policy.low_resolution),
            RandAdjustContrastd(
                IMAGE, prob=policy.inverted_gamma_probability, gamma=policy.gamma, invert_image=True, retain_stats=True
            ),
            RandAdjustContrastd(IMAGE, prob=policy.gamma_probability, gamma=policy.gamma, retain_stats=True),
        ]
    )


def compute_margin_size(patch_size: Shape3) -> Shape3:
    """Voxels to read, so that rotated and deformed patches find their corners: a sixth more along each axis."""
    i, j, k = (size if size == 1 else size + 2 * math.ceil(size / 12) for size in patch_size)
    return i, j, k
