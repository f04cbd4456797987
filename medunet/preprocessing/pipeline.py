"""From a scan to what the network sees: orientation, body box, spacing, intensity, by MONAI's transforms.

Everything is told by the affine that the result carries, so nothing needs to be inverted later: the way back to the
scan's grid follows from the two affines (`medunet.preprocessing.resample`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing, SpatialCrop

from medunet.planning import Normalization, Plan, compute_body_box
from medunet.preprocessing.monai_bridge import from_metatensor, to_metatensor
from medunet.preprocessing.resample import resample_label_map
from medunet.volume import Volume

BODY_MARGIN_MM = 8.0


def preprocess_image(image: Volume, plan: Plan) -> Volume:
    """Orient, crop to the body, resample and normalise a scan.

    Args:
        image: ``(C, I, J, K)`` with the plan's channels.
        plan: Spacing and intensity rules.

    Returns:
        float32 Volume on the network's grid, usually smaller than the scan: what is left out is background.
    """
    tensor = Orientation(axcodes=plan.orientation, labels=None)(to_metatensor(image))
    tensor = SpatialCrop(roi_slices=_compute_crop(from_metatensor(tensor), plan))(tensor)
    tensor = Spacing(pixdim=plan.spacing, mode="bilinear", padding_mode="border")(tensor)
    return from_metatensor(_normalize(tensor, plan))


def preprocess_labels(labels: Volume, image: Volume) -> Volume:
    """Bring a label map onto the grid of the preprocessed image.

    Args:
        labels: ``(1, I, J, K)`` on the scan's grid.
        image: Result of `preprocess_image` for that scan.
    """
    return resample_label_map(labels, image.affine, image.spatial_shape)


def _compute_crop(image: Volume, plan: Plan) -> list[slice]:
    box = compute_body_box(image.array, plan.modality)
    crop = []
    for axis, edge in enumerate(box):
        margin = int(np.ceil(BODY_MARGIN_MM / image.spacing[axis]))
        crop.append(slice(max(0, edge.start - margin), min(image.spatial_shape[axis], edge.stop + margin)))
    return crop


def _normalize(tensor: MetaTensor, plan: Plan) -> MetaTensor:
    # Into new memory: nothing before may have copied the voxels, and they are the caller's.
    channels = zip(tensor.as_tensor(), plan.normalization, strict=True)
    normalized: Any = MetaTensor(
        torch.stack([_normalize_channel(channel, rule) for channel, rule in channels]), affine=tensor.affine
    )
    return normalized


def _normalize_channel(values: torch.Tensor, rule: Normalization) -> torch.Tensor:
    if rule.rule == "none":
        return values
    if rule.rule == "zscore":
        return (values - values.mean()) / values.std().clamp(min=1e-6)
    assert rule.mean is not None  # Normalization checks it
    assert rule.std is not None
    return (values.clamp(rule.lower, rule.upper) - rule.mean) / rule.std
