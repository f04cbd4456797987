"""Random changes to training patches: one policy, drawn as plain data, applied in plain torch or through MONAI and TorchIO."""

from medunet.augmentation.changes import IntensityChange, PatchChange, sample_change
from medunet.augmentation.intensity import apply_intensity
from medunet.augmentation.labels import warp_labels, zoom_labels
from medunet.augmentation.policy import (
    AugmentationPolicy,
    build_nnunet_policy,
    build_policy,
    build_unet2015_policy,
    choose_policy,
)
from medunet.augmentation.spatial import (
    SpatialChange,
    apply_spatial,
    apply_zoom,
    compute_bspline_field,
    compute_grid_field,
    compute_source_offsets,
    compute_zoom_offsets,
    sample_spatial,
)

__all__ = [
    "AugmentationPolicy",
    "IntensityChange",
    "PatchChange",
    "SpatialChange",
    "apply_intensity",
    "apply_spatial",
    "apply_zoom",
    "build_nnunet_policy",
    "build_policy",
    "build_unet2015_policy",
    "choose_policy",
    "compute_bspline_field",
    "compute_grid_field",
    "compute_source_offsets",
    "compute_zoom_offsets",
    "sample_change",
    "sample_spatial",
    "warp_labels",
    "zoom_labels",
]
