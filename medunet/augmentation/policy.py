"""What may be done to a patch, and how often: one policy for all ways of applying it.

Probabilities and ranges are nnU-Net's (doi:10.1038/s41592-020-01008-z) plus elastic deformation (Ronneberger 2015,
doi:10.1007/978-3-319-24574-4_28). Patches are mirrored along left-right only: an upside-down patient does not come.
"""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class AugmentationPolicy:
    """Probability per patch and range of every change.

    Attributes:
        rotation_probability: Of a rotation around all three axes.
        rotation_degrees: Largest angle around the axis across the finest plane; the others get it too unless the
            voxels are very anisotropic.
        scaling_probability: Of zooming.
        scaling: Zoom factor; below 1 shows more of the patient.
        elastic_probability: Of an elastic deformation.
        elastic_control_points: Control points of the cubic B-spline per axis, as TorchIO counts them.
        elastic_displacement: Largest displacement of a control point, as a share of the patch's edge in mm.
        mirror_probability: Of swapping left and right.
        noise_probability: Of Gaussian noise.
        noise_variance: Of intensities that have unit deviation.
        blur_probability: Of Gaussian blur.
        blur_sigma: In voxels.
        brightness_probability: Of multiplying all intensities.
        brightness: Factor.
        contrast_probability: Of stretching around the mean.
        contrast: Factor.
        low_resolution_probability: Of sampling down and up again.
        low_resolution: Factor.
        gamma_probability: Of a gamma curve.
        inverted_gamma_probability: Of a gamma curve on the inverted patch.
        gamma: Exponent.
    """

    rotation_probability: float = 0.2
    rotation_degrees: float = 30.0
    scaling_probability: float = 0.2
    scaling: Range = (0.7, 1.4)
    elastic_probability: float = 0.2
    elastic_control_points: int = 7
    elastic_displacement: float = 0.06
    mirror_probability: float = 0.5
    noise_probability: float = 0.1
    noise_variance: Range = (0.0, 0.1)
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
