"""The policy as MONAI transforms of a dictionary: drawn like everywhere else, applied by MONAI and TorchIO.

Slower than the plain-torch path, but it can stand in any MONAI pipeline, and every change is one that others maintain.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCropd, Compose, MapTransform, Randomizable

from medunet.augmentation.changes import sample_intensity
from medunet.augmentation.peers import apply_intensity_with_peers, apply_spatial_with_peers
from medunet.augmentation.policy import AugmentationPolicy
from medunet.augmentation.spatial import sample_spatial
from medunet.volume import Shape3, Spacing

IMAGE, LABELS = "image", "labels"


def build_monai_augmentation(policy: AugmentationPolicy, patch_size: Shape3, spacing: Spacing) -> Compose:
    """Transforms for a dictionary with ``image`` and ``labels`` of `compute_margin_size` voxels; the patch comes out.

    Mirroring is left to the caller, because it may swap left and right labels. The random state is MONAI's
    (``set_random_state``); torch's global generator is not touched.
    """
    return Compose(
        [
            RandPolicySpatiald(policy, spacing),
            CenterSpatialCropd([IMAGE, LABELS], roi_size=patch_size),
            RandPolicyIntensityd(policy, spacing),
        ]
    )


class RandPolicySpatiald(Randomizable, MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Turn, zoom and deform ``image`` ``(C, I, J, K)`` and ``labels`` ``(1, I, J, K)`` alike; labels stay labels."""

    def __init__(self, policy: AugmentationPolicy, spacing: Spacing) -> None:
        MapTransform.__init__(self, [IMAGE, LABELS])
        self.policy = policy
        self.spacing = spacing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Other entries pass through."""
        image, labels = data[IMAGE], data[LABELS]
        change = sample_spatial(self.policy, _build_generator(self.R), tuple(image.shape[1:]), self.spacing)
        moved, codes = apply_spatial_with_peers(image.as_tensor(), labels.as_tensor()[0], change, self.spacing)
        return {**data, IMAGE: MetaTensor(moved, meta=image.meta), LABELS: MetaTensor(codes[None], meta=labels.meta)}


class RandPolicyIntensityd(Randomizable, MapTransform):  # type: ignore[misc]
    """Change the intensities of ``image`` ``(C, I, J, K)``."""

    def __init__(self, policy: AugmentationPolicy, spacing: Spacing) -> None:
        MapTransform.__init__(self, [IMAGE])
        self.policy = policy
        self.spacing = spacing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Other entries pass through."""
        image = data[IMAGE]
        num_channels, *size = image.shape
        rng = _build_generator(self.R)
        change = sample_intensity(self.policy, rng, tuple(size), self.spacing, num_channels=num_channels)
        return {**data, IMAGE: MetaTensor(apply_intensity_with_peers(image.as_tensor(), change), meta=image.meta)}


def compute_margin_size(patch_size: Shape3) -> Shape3:
    """Voxels to read, so that rotated and deformed patches find their corners: a sixth more along each axis."""
    i, j, k = (size if size == 1 else size + 2 * math.ceil(size / 12) for size in patch_size)
    return i, j, k


def _build_generator(state: np.random.RandomState) -> np.random.Generator:
    """MONAI hands its seeds down as numpy's older generators."""
    return np.random.default_rng(int(state.randint(2**31)))
