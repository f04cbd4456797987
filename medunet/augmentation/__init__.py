"""Random changes to training patches: one policy, applied in plain torch or through MONAI and TorchIO."""

from medunet.augmentation.intensity import apply_intensity
from medunet.augmentation.policy import AugmentationPolicy
from medunet.augmentation.spatial import (
    SpatialChange,
    apply_spatial,
    compute_bspline_field,
    compute_source_offsets,
    sample_spatial,
)

__all__ = [
    "AugmentationPolicy",
    "SpatialChange",
    "apply_intensity",
    "apply_spatial",
    "compute_bspline_field",
    "compute_source_offsets",
    "sample_spatial",
]
