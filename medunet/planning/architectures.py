"""The names of all networks that a plan can have, oldest first; `medunet.networks.catalogue` builds them.

They stand here because whatever reads a plan knows them, without loading torch.
"""

from __future__ import annotations

from typing import Literal

ArchitectureName = Literal[
    "pixel-classifier",
    "fcn-32s",
    "fcn-16s",
    "fcn-8s",
    "unet-2015",
    "deconvnet",
    "segnet",
    "unet3d-2016",
    "vnet",
    "deeplab-v3-plus",
    "attention-unet",
    "unet-plus-plus",
    "unet",
    "segresnet",
    "fastfcn",
    "gated-scnn",
    "course-unet",
    "unetr",
    "swin-unetr",
    "mednext",
    "residual-unet",
]

TITLES: dict[ArchitectureName, str] = {
    "pixel-classifier": "Sliding-window pixel classifier",
    "fcn-32s": "FCN-32s",
    "fcn-16s": "FCN-16s",
    "fcn-8s": "FCN-8s",
    "unet-2015": "U-Net (2015)",
    "deconvnet": "DeconvNet",
    "segnet": "SegNet",
    "unet3d-2016": "3D U-Net (2016)",
    "vnet": "V-Net",
    "deeplab-v3-plus": "DeepLab v3+",
    "attention-unet": "Attention U-Net",
    "unet-plus-plus": "UNet++",
    "unet": "U-Net of nnU-Net",
    "segresnet": "SegResNet",
    "fastfcn": "FastFCN",
    "gated-scnn": "Gated-SCNN",
    "course-unet": "Course U-Net",
    "unetr": "UNETR",
    "swin-unetr": "Swin UNETR",
    "mednext": "MedNeXt",
    "residual-unet": "Residual encoder U-Net of nnU-Net",
}
"""As their authors call them."""
_PLANNED = ("unet", "residual-unet")


def describe_architecture(name: ArchitectureName) -> str:
    """A word or two for people: ``"U-Net"`` for what the planner shapes, the title for all others."""
    return "U-Net" if name in _PLANNED else TITLES[name]
