"""Every network by name: who made it when, and how it is built from its config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from medunet.errors import InputError
from medunet.networks.attention_unet import AttentionUNet, AttentionUNetConfig
from medunet.networks.config import SHARED_FIELDS, NetworkConfig
from medunet.networks.course_unet import CourseUNet, CourseUNetConfig
from medunet.networks.deconvnet import DeconvNet, DeconvNetConfig
from medunet.networks.deeplab import DeepLab, DeepLabConfig
from medunet.networks.fastfcn import FastFCN, FastFCNConfig
from medunet.networks.fcn import FCN, FCNConfig
from medunet.networks.gated_scnn import GatedSCNN, GatedSCNNConfig
from medunet.networks.mednext import MedNeXt, MedNeXtConfig
from medunet.networks.network import SegmentationNetwork
from medunet.networks.pixel_classifier import PixelClassifier, PixelClassifierConfig
from medunet.networks.segnet import SegNet, SegNetConfig
from medunet.networks.segresnet import SegResNet, SegResNetConfig
from medunet.networks.swin_unetr import SwinUNETR, SwinUNETRConfig
from medunet.networks.unet3d_2016 import UNet3D2016, UNet3D2016Config
from medunet.networks.unet_2015 import UNet2015, UNet2015Config
from medunet.networks.unet_plus_plus import UNetPlusPlus, UNetPlusPlusConfig
from medunet.networks.unetr import UNETR, UNETRConfig
from medunet.networks.vnet import VNet, VNetConfig
from medunet.planning.architectures import TITLES, ArchitectureName
from medunet.tasks import suggest


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network of the catalogue.

    Attributes:
        name: As on the command line.
        year: Of the paper's first appearance.
        paper: DOI or arXiv number.
        native_dims: What the paper is about: 2 or 3; all can be built in both.
        config: Its config; None for the U-Nets that the planner shapes after the patch.
        build: From the config to the layers; None for the same.
        settings: Fields of the config that this name fixes.
    """

    name: ArchitectureName
    year: int
    paper: str
    native_dims: tuple[int, ...]
    config: type[NetworkConfig] | None = None
    build: Callable[[Any], SegmentationNetwork] | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """As its authors call it."""
        return TITLES[self.name]

    @property
    def is_planned(self) -> bool:
        """Whether the planner shapes it after the patch."""
        return self.config is None

    def build_config(
        self, patch_size: tuple[int, ...], in_channels: int, out_channels: int, options: dict[str, Any] | None = None
    ) -> NetworkConfig:
        """The paper's setting for a patch, channels and classes, but for what the options say.

        Args:
            patch_size: Two or three axes.
            in_channels: Input channels.
            out_channels: Output channels.
            options: Fields of the config.

        Raises:
            InputError: If an option does not exist or cannot have that value, or the planner shapes this network.
        """
        if self.config is None:
            msg = f"The network '{self.name}' takes no options: the planner shapes it after the patch."
            raise InputError(msg)
        known = set(self.config.model_fields) - SHARED_FIELDS
        if unknown := sorted(set(options or {}) - known):
            msg = f"The network '{self.name}' has no option '{unknown[0]}'; {suggest(unknown[0], known)}"
            raise InputError(msg)
        fields = dict(self.settings) | (options or {}) | {"in_channels": in_channels, "out_channels": out_channels}
        try:
            return self.config.for_patch(patch_size, **fields)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "options"
            msg = (
                f"The network '{self.name}' cannot be built so: {where}: {fault['msg'].removeprefix('Value error, ')}."
            )
            raise InputError(msg) from error

    def build_network(self, config: NetworkConfig) -> SegmentationNetwork:
        """The layers, with fresh weights from torch's global generator."""
        assert self.build is not None
        return self.build(config)


_CATALOGUE = (
    Architecture(
        name="pixel-classifier",
        year=2012,
        paper="Ciresan, NIPS 2012",
        native_dims=(2,),
        config=PixelClassifierConfig,
        build=PixelClassifier,
    ),
    Architecture(
        name="fcn-32s",
        year=2014,
        paper="arXiv:1411.4038",
        native_dims=(2,),
        config=FCNConfig,
        build=FCN,
        settings=(("output_stride", 32),),
    ),
    Architecture(
        name="fcn-16s",
        year=2014,
        paper="arXiv:1411.4038",
        native_dims=(2,),
        config=FCNConfig,
        build=FCN,
        settings=(("output_stride", 16),),
    ),
    Architecture(
        name="fcn-8s",
        year=2014,
        paper="arXiv:1411.4038",
        native_dims=(2,),
        config=FCNConfig,
        build=FCN,
        settings=(("output_stride", 8),),
    ),
    Architecture(
        name="unet-2015",
        year=2015,
        paper="arXiv:1505.04597",
        native_dims=(2,),
        config=UNet2015Config,
        build=UNet2015,
    ),
    Architecture(
        name="deconvnet",
        year=2015,
        paper="arXiv:1505.04366",
        native_dims=(2,),
        config=DeconvNetConfig,
        build=DeconvNet,
    ),
    Architecture(
        name="segnet",
        year=2015,
        paper="arXiv:1511.00561",
        native_dims=(2,),
        config=SegNetConfig,
        build=SegNet,
    ),
    Architecture(
        name="unet3d-2016",
        year=2016,
        paper="arXiv:1606.06650",
        native_dims=(3,),
        config=UNet3D2016Config,
        build=UNet3D2016,
    ),
    Architecture(
        name="vnet",
        year=2016,
        paper="arXiv:1606.04797",
        native_dims=(3,),
        config=VNetConfig,
        build=VNet,
    ),
    Architecture(
        name="deeplab-v3-plus",
        year=2018,
        paper="arXiv:1802.02611",
        native_dims=(2,),
        config=DeepLabConfig,
        build=DeepLab,
    ),
    Architecture(
        name="attention-unet",
        year=2018,
        paper="arXiv:1804.03999",
        native_dims=(3,),
        config=AttentionUNetConfig,
        build=AttentionUNet,
    ),
    Architecture(
        name="unet-plus-plus",
        year=2018,
        paper="arXiv:1807.10165",
        native_dims=(2,),
        config=UNetPlusPlusConfig,
        build=UNetPlusPlus,
    ),
    Architecture(
        name="unet",
        year=2018,
        paper="arXiv:1809.10486",
        native_dims=(2, 3),
    ),
    Architecture(
        name="segresnet",
        year=2018,
        paper="arXiv:1810.11654",
        native_dims=(3,),
        config=SegResNetConfig,
        build=SegResNet,
    ),
    Architecture(
        name="fastfcn",
        year=2019,
        paper="arXiv:1903.11816",
        native_dims=(2,),
        config=FastFCNConfig,
        build=FastFCN,
    ),
    Architecture(
        name="gated-scnn",
        year=2019,
        paper="arXiv:1907.05740",
        native_dims=(2,),
        config=GatedSCNNConfig,
        build=GatedSCNN,
    ),
    Architecture(
        name="course-unet",
        year=2019,
        paper="after arXiv:1505.04597",
        native_dims=(2,),
        config=CourseUNetConfig,
        build=CourseUNet,
    ),
    Architecture(
        name="unetr",
        year=2021,
        paper="arXiv:2103.10504",
        native_dims=(3,),
        config=UNETRConfig,
        build=UNETR,
    ),
    Architecture(
        name="swin-unetr",
        year=2022,
        paper="arXiv:2201.01266",
        native_dims=(3,),
        config=SwinUNETRConfig,
        build=SwinUNETR,
    ),
    Architecture(
        name="mednext",
        year=2023,
        paper="arXiv:2303.09975",
        native_dims=(3,),
        config=MedNeXtConfig,
        build=MedNeXt,
    ),
    Architecture(
        name="residual-unet",
        year=2024,
        paper="arXiv:2404.09556",
        native_dims=(2, 3),
    ),
)

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _CATALOGUE}
"""Name -> architecture, oldest first."""


def find_architecture(name: str) -> Architecture:
    """The architecture of a name.

    Raises:
        InputError: If there is none; the nearest is named.
    """
    if name not in ARCHITECTURES:
        msg = f"There is no network '{name}'; {suggest(name, list(ARCHITECTURES))}"
        raise InputError(msg)
    return ARCHITECTURES[name]
