"""Training patches as one writes them with MONAI and TorchIO: cases in memory, random crops, each library's own random transforms.

No code of medunet's augmentation runs here; only the ranges and probabilities are those of its policy, so that both do about
the same work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
import torchio as tio
from monai.data import CacheDataset, MetaTensor
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    FgBgToIndicesd,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
    SpatialPadd,
)
from torch import Tensor

from medunet.augmentation import AugmentationPolicy
from medunet.augmentation.monai_policy import compute_margin_size
from medunet.augmentation.spatial import limit_displacement_mm, list_rotation_axes
from medunet.preprocessing import StoredCase, whole_box
from medunet.volume import Shape3, Spacing

IMAGE, LABELS = "image", "labels"
BOTH = [IMAGE, LABELS]


def build_monai_draw(
    cases: Sequence[StoredCase],
    policy: AugmentationPolicy,
    patch_size: Shape3,
    batch_size: int,
    spacing: Spacing,
    *,
    seed: int = 0,
) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that makes one batch: images ``(B, C, I, J, K)`` float32 and labels ``(B, 1, I, J, K)``.

    Args:
        cases: In memory, as medunet preprocessed them; the dataset keeps them as float32.
        policy: Ranges and probabilities.
        patch_size: Of a patch.
        batch_size: Patches of a batch; the cases take turns.
        spacing: Of the cases, mm.
        seed: Of MONAI's transforms and, because TorchIO's draw from it, of torch.
    """
    torch.manual_seed(seed)
    transform = Compose([*_prepare(patch_size), *_build_random(policy, patch_size, spacing)])
    transform.set_random_state(seed)
    entries = [_read(case) for case in cases]
    dataset = CacheDataset(entries, transform, num_workers=1, progress=False)
    position = 0

    def draw() -> tuple[Tensor, Tensor]:
        nonlocal position
        patches = []
        for _ in range(batch_size):
            patches += dataset[position % len(dataset)]  # a crop gives a list of its samples
            position += 1
        image, labels = (torch.stack([patch[name].as_tensor() for patch in patches]) for name in BOTH)
        return image, labels

    return draw


class RandTorchIOd(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """A transform of TorchIO among MONAI's, on an image and its label map, both ``(C, I, J, K)``."""

    def __init__(self, transform: Callable[[tio.Subject], tio.Subject], spacing: Spacing) -> None:
        super().__init__(BOTH)
        self.transform = transform
        self.affine = torch.diag(torch.tensor([*spacing, 1.0])).numpy()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Other entries pass through."""
        image = tio.ScalarImage(tensor=data[IMAGE].as_tensor(), affine=self.affine)
        labels = tio.LabelMap(tensor=data[LABELS].as_tensor(), affine=self.affine)
        subject = self.transform(tio.Subject(image=image, labels=labels))
        changed = {name: MetaTensor(subject[name].data, meta=data[name].meta) for name in BOTH}
        return {**data, **changed}


def _read(case: StoredCase) -> dict[str, Any]:
    image, codes = case.read_box(whole_box(case.shape))
    return {IMAGE: MetaTensor(image.float().contiguous()), LABELS: MetaTensor(codes[None].contiguous())}


def _prepare(patch_size: Shape3) -> list[Any]:
    """What the cache keeps."""
    return [SpatialPadd(BOTH, compute_margin_size(patch_size)), FgBgToIndicesd(LABELS)]


def _build_random(policy: AugmentationPolicy, patch_size: Shape3, spacing: Spacing) -> list[Any]:
    """In the order of the policy."""
    margin_size = compute_margin_size(patch_size)
    degrees = [policy.rotation_degrees if axis in list_rotation_axes(patch_size, spacing) else 0 for axis in range(3)]
    low, high = policy.scaling
    changes: list[Any] = [
        RandCropByPosNegLabeld(
            BOTH,
            LABELS,
            margin_size,
            pos=1,
            neg=2,
            fg_indices_key=f"{LABELS}_fg_indices",
            bg_indices_key=f"{LABELS}_bg_indices",
        ),
        RandAffined(
            BOTH,
            prob=1 - (1 - policy.rotation_probability) * (1 - policy.scaling_probability),
            rotate_range=[math.radians(angle) for angle in degrees],
            scale_range=[(low - 1, high - 1)] * 3,
            mode=["bilinear", "nearest"],
            padding_mode="border",
        ),
    ]
    if policy.elastic_probability > 0:
        limit_mm = limit_displacement_mm(policy, margin_size, spacing)
        elastic = tio.RandomElasticDeformation(
            policy.elastic_control_points, tuple(limit_mm.tolist()), locked_borders=0, p=policy.elastic_probability
        )
        changes.append(RandTorchIOd(elastic, spacing))
    changes.append(CenterSpatialCropd(BOTH, patch_size))
    changes += [RandTorchIOd(artifact, spacing) for artifact in _build_artifacts(policy)]
    sigma = policy.blur_sigma
    darkest, brightest = (factor - 1 for factor in policy.brightness)
    flattest, steepest = (factor - 1 for factor in policy.contrast)
    changes += [
        RandGaussianNoised(IMAGE, prob=policy.noise_probability, std=policy.noise_deviation[1]),
        RandGaussianSmoothd(IMAGE, sigma, sigma, sigma, prob=policy.blur_probability),
        RandScaleIntensityd(IMAGE, (darkest, brightest), prob=policy.brightness_probability),
        RandScaleIntensityFixedMeand(IMAGE, (flattest, steepest), prob=policy.contrast_probability),
        RandSimulateLowResolutiond(IMAGE, prob=policy.low_resolution_probability, zoom_range=policy.low_resolution),
        RandAdjustContrastd(
            IMAGE, policy.inverted_gamma_probability, policy.gamma, invert_image=True, retain_stats=True
        ),
        RandAdjustContrastd(IMAGE, policy.gamma_probability, policy.gamma, retain_stats=True),
    ]
    return changes + [RandFlipd(BOTH, policy.mirror_probability, axis) for axis in policy.mirror_axes]


def _build_artifacts(policy: AugmentationPolicy) -> list[Any]:
    """Of an MR scanner."""
    wanted = [
        (
            policy.motion_probability,
            tio.RandomMotion(
                policy.motion_degrees, policy.motion_mm, policy.num_motions, p=policy.motion_probability or 1
            ),
        ),
        (
            policy.ghosting_probability,
            tio.RandomGhosting(
                policy.num_ghosts, intensity=policy.ghosting_intensity, p=policy.ghosting_probability or 1
            ),
        ),
        (
            policy.bias_field_probability,
            tio.RandomBiasField(policy.bias_field_coefficient, p=policy.bias_field_probability or 1),
        ),
        (
            policy.anisotropy_probability,
            tio.RandomAnisotropy(downsampling=policy.anisotropy, p=policy.anisotropy_probability or 1),
        ),
    ]
    return [transform for probability, transform in wanted if probability > 0]
