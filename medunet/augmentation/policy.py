"""What may be done to a patch, and how often: one policy for all ways of applying it.

Probabilities and ranges are nnU-Net's (doi:10.1038/s41592-020-01008-z) plus elastic deformation (Ronneberger 2015,
doi:10.1007/978-3-319-24574-4_28) and, for MR, what the scanner does to the picture. Patches are mirrored along left-right
only and turned by at most 30 degrees: an upside-down patient does not come. Under a microscope there is no up and down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from medunet.planning import Plan
from medunet.planning.spacing import order_axes
from medunet.tasks import Modality
from medunet.volume import Shape3, Spacing

Range = tuple[float, float]
ElasticKind = Literal["bspline", "grid"]


@dataclass(frozen=True, kw_only=True)
class AugmentationPolicy:
    """Probability per patch and range of every change. The defaults are those of CT: nothing that only MR shows.

    Attributes:
        rotation_probability: Of a rotation around all three axes.
        rotation_degrees: Largest angle.
        rotation_axes: Around which patches are turned. None: around all three, or around the one across the finest plane
            where voxels are very anisotropic.
        scaling_probability: Of zooming.
        scaling: Zoom factor; below 1 shows more of the patient.
        scaling_axes: Along which patches are zoomed.
        elastic_probability: Of an elastic deformation.
        elastic_control_points: Control points of the cubic B-spline per axis, as TorchIO counts them.
        elastic_displacement: Largest displacement of a control point, as a share of the patch's edge in mm.
        elastic_kind: ``bspline`` smooths uniform displacements of control points; ``grid`` interpolates normal displacements
            of the nodes of a coarse grid, which spans the patch from its first to its last voxel (Ronneberger 2015).
        elastic_nodes: Nodes of that grid per axis.
        elastic_deviation_voxels: Standard deviation of their displacements.
        mirror_probability: Of swapping the two ends of each of the `mirror_axes`.
        mirror_axes: ``(0,)`` is left-right. All three suit organs that are cut out of the body, where up and down
            teach nothing.
        channel_probability: Of each channel to be blurred, or lowered in resolution, when its patch is.
        noise_probability: Of Gaussian noise.
        noise_deviation: Of intensities that have unit deviation. nnU-Net's setting is called a variance and used as the
            deviation.
        blur_probability: Of Gaussian blur.
        blur_sigma: In voxels, drawn for each axis.
        brightness_probability: Of multiplying all intensities.
        brightness: Factor.
        contrast_probability: Of stretching around the mean.
        contrast: Factor.
        low_resolution_probability: Of sampling down and up again.
        low_resolution: Factor.
        gamma_probability: Of a gamma curve.
        inverted_gamma_probability: Of a gamma curve on the inverted patch.
        gamma: Exponent.
        bias_field_probability: Of the receive coils' uneven gain.
        bias_field_coefficient: Largest coefficient of the polynomial of third order in the field's logarithm.
        ghosting_probability: Of ghosts along one axis, as from breathing.
        num_ghosts: Fewest and most.
        ghosting_intensity: Share of the lines of k-space that is lost.
        motion_probability: Of the patient moving during the acquisition.
        motion_degrees: Largest turn around each axis.
        motion_mm: Largest shift along each axis.
        num_motions: Times that the patient moves.
        anisotropy_probability: Of thick slices along one axis.
        anisotropy: Factor of the slice thickness.
    """

    rotation_probability: float = 0.2
    rotation_degrees: float = 30.0
    rotation_axes: tuple[int, ...] | None = None
    scaling_probability: float = 0.2
    scaling: Range = (0.7, 1.4)
    scaling_axes: tuple[int, ...] = (0, 1, 2)
    elastic_probability: float = 0.2
    elastic_control_points: int = 7
    elastic_displacement: float = 0.06
    elastic_kind: ElasticKind = "bspline"
    elastic_nodes: int = 3
    elastic_deviation_voxels: float = 10.0
    mirror_probability: float = 0.5
    mirror_axes: tuple[int, ...] = (0,)
    channel_probability: float = 0.5
    noise_probability: float = 0.1
    noise_deviation: Range = (0.0, 0.1)
    blur_probability: float = 0.2
    blur_sigma: Range = (0.5, 1.0)
    brightness_probability: float = 0.15
    brightness: Range = (0.75, 1.25)
    contrast_probability: float = 0.15
    contrast: Range = (0.75, 1.25)
    low_resolution_probability: float = 0.25
    low_resolution: Range = (0.5, 1.0)
    gamma_probability: float = 0.3
    inverted_gamma_probability: float = 0.1
    gamma: Range = (0.7, 1.5)
    bias_field_probability: float = 0.0
    bias_field_coefficient: float = 0.3
    ghosting_probability: float = 0.0
    num_ghosts: tuple[int, int] = (4, 10)
    ghosting_intensity: Range = (0.2, 0.8)
    motion_probability: float = 0.0
    motion_degrees: float = 5.0
    motion_mm: float = 5.0
    num_motions: int = 2
    anisotropy_probability: float = 0.0
    anisotropy: Range = (1.5, 4.0)


def build_policy(modality: Modality) -> AugmentationPolicy:
    """The policy of a modality: nnU-Net's list for all, the scanner's artifacts for MR, any direction under a microscope.

    The artifacts and their formulas are TorchIO's (doi:10.1016/j.cmpb.2021.106236): bias field (Sudre 2017,
    sciencedirect.com/science/article/pii/S1361841517300257), ghosting, motion (Shaw 2019,
    proceedings.mlr.press/v102/shaw19a) and anisotropy (Billot 2020, doi:10.1007/978-3-030-59728-3_18). Their strengths
    are about half of TorchIO's, which are meant for whole heads, and they are rare, so that most patches stay as they
    were scanned; no paper gives these numbers.

    Example:
        >>> build_policy("CT").ghosting_probability, build_policy("MR").ghosting_probability
        (0.0, 0.05)
    """
    if modality == "microscopy":
        return AugmentationPolicy(rotation_degrees=180.0, mirror_axes=(0, 1, 2))
    if modality != "MR":
        return AugmentationPolicy()
    return AugmentationPolicy(
        bias_field_probability=0.1,
        ghosting_probability=0.05,
        motion_probability=0.05,
        anisotropy_probability=0.1,
    )


def build_nnunet_policy(patch_size: Shape3, spacing: Spacing) -> AugmentationPolicy:
    """What nnU-Net 2.8.1 does: no elastic deformation, no scanner's artifacts, mirroring along all axes.

    Flat patches (of volumes: more than three times as long as along the coarsest axis) are turned and zoomed within their
    slices only, by any angle. Slices are turned by any angle too, long ones by at most 15 degrees.

    Args:
        patch_size: Of the patches; slices have one voxel along an axis.
        spacing: Of the patches, mm.

    Example:
        >>> prostate = build_nnunet_policy((320, 256, 20), (0.6, 0.6, 3.6))
        >>> prostate.rotation_axes, prostate.rotation_degrees, prostate.scaling_axes
        ((2,), 180.0, (0, 1))
    """
    policy = AugmentationPolicy(elastic_probability=0.0, mirror_axes=(0, 1, 2), rotation_axes=(0, 1, 2))
    if 1 in patch_size:
        sizes = [size for size in patch_size if size > 1]
        degrees = 15.0 if max(sizes) > 1.5 * min(sizes) else 180.0
        return replace(policy, rotation_degrees=degrees, rotation_axes=(patch_size.index(1),))
    coarse = order_axes(spacing)[0]
    if max(patch_size) > 3 * patch_size[coarse]:
        in_plane = tuple(axis for axis in range(3) if axis != coarse)
        return replace(policy, rotation_degrees=180.0, rotation_axes=(coarse,), scaling_axes=in_plane)
    return policy


def build_unet2015_policy() -> AugmentationPolicy:
    """What the paper of the U-Net does (Ronneberger 2015, arXiv:1505.04597): every patch is deformed and turned.

    "Random displacement vectors on a coarse 3 by 3 grid", normal with "10 pixels standard deviation", and "bicubic
    interpolation" between them are the paper's; so are "shift and rotation invariance" and "gray value variations", for which
    it gives no numbers: patches are turned by any angle, and brightness, contrast and gamma are those of
    nnU-Net. Mirroring is not in the paper; mirrored patches are rotations of an image seen from below, and inference may then
    average mirrored passes where the paper averages turned ones.

    Example:
        >>> policy = build_unet2015_policy()
        >>> policy.elastic_kind, policy.elastic_nodes, policy.elastic_deviation_voxels, policy.elastic_probability
        ('grid', 3, 10.0, 1.0)
    """
    return AugmentationPolicy(
        rotation_probability=1.0,
        rotation_degrees=180.0,
        scaling_probability=0.0,
        elastic_probability=1.0,
        elastic_kind="grid",
        mirror_axes=(0, 1, 2),
        noise_probability=0.0,
        blur_probability=0.0,
        low_resolution_probability=0.0,
        inverted_gamma_probability=0.0,
    )


def choose_policy(plan: Plan) -> AugmentationPolicy:
    """The policy that a plan names."""
    if plan.augmentation == "unet2015":
        return build_unet2015_policy()
    if plan.augmentation == "nnunet":
        return build_nnunet_policy(plan.patch_size, plan.spacing)
    return build_policy(plan.modality)
