"""Encoders that learnt from photographs: the weights of torchvision's and timm's ResNets and VGGs in our networks.

Only safetensors files are read. What is where by another name is renamed; what has another shape by its nature is turned:

```text
first convolution     its inputs red, green and blue -> the channels of the task (`spread_input`)
kernels (O, I, k, k)  -> (O, I, k, k, k) for a 3D network (`inflate`)
fully connected layer -> a convolution that sees as much (Long 2015, arXiv:1411.4038)
offset of a convolution before a normalisation, where our convolution has none -> taken off the running mean
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medunet.errors import InputError, ModelError
from medunet.networks.build import PatchNetwork

Layout = Literal["resnet", "vgg"]
Inflation = Literal["centre", "repeat"]

_FIRST = {"resnet": "layer1.0.conv1.weight", "vgg": "features.0.weight"}
"""By which a layout is known, whatever stands before it in a file."""
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an encoder lies within a network.

    Attributes:
        layout: Of the weights that fit.
        encoder: Name of its module.
        connected: Names of the fully connected layers after it.
    """

    layout: Layout
    encoder: str
    connected: tuple[str, ...] = ()


_FCN = _Place(layout="vgg", encoder="levels", connected=("connected.0.0", "connected.2.0"))
_RESNET = _Place(layout="resnet", encoder="encoder")
_PLACES = {
    "fcn-32s": _FCN,
    "fcn-16s": _FCN,
    "fcn-8s": _FCN,
    "segnet": _Place(layout="vgg", encoder="encoder"),
    "deconvnet": _Place(layout="vgg", encoder="encoder", connected=("connected.0.0", "connected.1.0")),
    "deeplab-v3-plus": _RESNET,
    "fastfcn": _RESNET,
    "gated-scnn": _RESNET,
}
ENCODER_NETWORKS: dict[str, Layout] = {name: place.layout for name, place in _PLACES.items()}
"""Networks that such an encoder fits -> its layout."""


@dataclass(frozen=True, kw_only=True)
class EncoderWeights:
    """The state dict of a classifier.

    Attributes:
        name: Of the file.
        layout: ``"resnet"`` or ``"vgg"``.
        tensors: By torchvision's names, float32.
        others: Names of what the file holds beside it.
    """

    name: str
    layout: Layout
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Such as ``"ResNet of 3, 4, 6, 3 bottleneck blocks"``."""
        if self.layout == "resnet":
            numbers = ", ".join(map(str, _count_blocks(self.tensors)))
            return f"ResNet of {numbers} {_find_block(self.tensors)} blocks"
        return f"VGG of {', '.join(str(len(level)) for level in _list_vgg_levels(self.tensors))} convolutions"


@dataclass(frozen=True, kw_only=True)
class EncoderReport:
    """What a network took over.

    Attributes:
        source: Name of the file.
        title: What it holds.
        loaded: Tensors of the network that were filled.
        fresh: Tensors of its encoder that keep their random start.
        left_behind: Tensors of the file that have no place in it.
        input_rule: What became of the first convolution; empty where it was taken as it is.
        inflation: How kernels got their third axis; None in 2D.
    """

    source: str
    title: str
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    left_behind: tuple[str, ...]
    input_rule: str
    inflation: Inflation | None

    def describe(self) -> list[str]:
        """A few lines for people."""
        num_own = len(self.loaded) + len(self.fresh)
        first = f"encoder: {len(self.loaded)} of {num_own} tensors loaded from {self.source} ({self.title})"
        if self.inflation is not None:
            how = "in the middle plane" if self.inflation == "centre" else "repeated along the third axis"
            first += f", kernels {how}"
        lines = [first]
        if self.input_rule:
            lines.append(f"input: {self.input_rule}")
        for what, names in (("fresh", self.fresh), ("left behind", self.left_behind)):
            if names:
                lines.append(f"{what}: {', '.join(_name_layers(names))}")
        return lines


def read_encoder_weights(path: str | Path) -> EncoderWeights:
    """Read the state dict of a ResNet or a VGG from a safetensors file; prefixes such as ``backbone.`` do not matter.

    Raises:
        InputError: If it is a pickle (``.pth``), which is never opened, no whole safetensors file, or holds neither of both.
    """
    path = Path(path)
    _refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        msg = f"{path} is no whole safetensors file ({str(error)[:100]}). Download or convert it again."
        raise InputError(msg) from error
    for layout, first in _FIRST.items():
        prefix = next((name.removesuffix(first) for name in tensors if _ends_with(name, first)), None)
        if prefix is not None:
            own = {
                name.removeprefix(prefix): tensor.float() if tensor.is_floating_point() else tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
            others = tuple(name for name in tensors if not name.startswith(prefix))
            return EncoderWeights(name=path.name, layout=layout, tensors=own, others=others)  # type: ignore[arg-type]
    shown = ", ".join(list(tensors)[:3]) or "nothing"
    msg = (
        f"{path} holds no ResNet ({_FIRST['resnet']}) and no VGG ({_FIRST['vgg']}) as torchvision and timm name them, but "
        f"{shown}. Give the weights of one of these."
    )
    raise InputError(msg)


def find_encoder_options(network: str, weights: EncoderWeights) -> dict[str, Any]:
    """Options with which a network's encoder has the shape of the weights.

    Args:
        network: Name in the catalogue.
        weights: Of the encoder.

    Raises:
        InputError: If the network has no encoder of that kind; names those that have.
    """
    if ENCODER_NETWORKS.get(network) != weights.layout:
        fitting = ", ".join(name for name, layout in ENCODER_NETWORKS.items() if layout == weights.layout)
        msg = f"{weights.name} holds a {weights.title}, which is not the encoder of {network}; it is that of {fitting}."
        raise InputError(msg)
    if weights.layout == "resnet":
        first = weights.tensors[_FIRST["resnet"]]
        return {
            "width": first.shape[1],
            "blocks": list(_count_blocks(weights.tensors)),
            "block": _find_block(weights.tensors),
        }
    options: dict[str, Any] = {
        "width": weights.tensors[_FIRST["vgg"]].shape[0],
        "convolutions": [len(level) for level in _list_vgg_levels(weights.tensors)],
    }
    if "features.1.weight" in weights.tensors and network.startswith("fcn"):  # the others are normalised anyway
        options["norm"] = "batch"
    return options


def load_encoder_weights(
    network: PatchNetwork,
    architecture: str,
    weights: EncoderWeights,
    *,
    num_image_channels: int,
    inflation: Inflation = "centre",
) -> EncoderReport:
    """Fill a network's encoder with weights from elsewhere, as far as they fit.

    Args:
        network: Changed in place.
        architecture: Its name in the catalogue.
        weights: From `read_encoder_weights`.
        num_image_channels: Inputs that show images; those after them (labels in a cascade) start fresh.
        inflation: Of kernels, for a 3D network; see `inflate`.

    Raises:
        ModelError: If nothing fits.
    """
    place = _PLACES[architecture]
    own = {name.removeprefix("network."): tensor for name, tensor in network.state_dict().items()}
    named = {target: source for source, target in _list_names(weights, place)}
    wanted = _list_encoder_tensors(own, place)
    first = next(name for name in wanted if own[name].ndim > 1)
    filled: dict[str, Tensor] = {}
    for target in wanted:
        if (source := named.get(target)) is None:
            continue
        content = weights.tensors[source]
        if target == first:
            content = spread_input(content, num_image_channels)
        content = _fit_dims(content, own[target], inflation)
        if target == first and content.shape[0] == own[target].shape[0] and content.shape[1] < own[target].shape[1]:
            rest = own[target][:, content.shape[1] :].cpu()
            content = torch.cat([content, rest], dim=1) if content.shape[2:] == rest.shape[2:] else content
        if content.shape == own[target].shape:
            filled[target] = content
    if not any(tensor.ndim > 1 for tensor in filled.values()):
        msg = (
            f"Nothing of {weights.name} ({weights.title}) fits the encoder of {architecture}, whose first kernels have the "
            f"shape {tuple(own[first].shape)}. Leave options of the network's width out, or train without --encoder."
        )
        raise ModelError(msg)
    filled |= _fold_offsets(own, filled, named, weights)
    network.load_state_dict({f"network.{name}": tensor for name, tensor in filled.items()}, strict=False)
    sources = {named[name] for name in filled}
    offsets = {_find_offset(named, name) for name in filled if name.endswith("running_mean")}
    return EncoderReport(
        source=weights.name,
        title=weights.title,
        loaded=tuple(name for name in filled if not name.endswith(_COUNTER)),
        fresh=tuple(name for name in wanted if name not in filled and not name.endswith(_COUNTER)),
        left_behind=tuple(
            name
            for name in (*weights.tensors, *weights.others)
            if name not in sources and name not in offsets and not name.endswith(_COUNTER)
        ),
        input_rule=_describe_input(weights, named[first], num_image_channels) if first in filled else "",
        inflation=inflation if own[first].ndim == 5 else None,
    )


def inflate(kernel: Tensor, depth: int, how: Inflation = "centre") -> Tensor:
    """A 2D kernel as a 3D one, so that an image that does not change along the third axis gets the same answer.

    ``repeat`` puts the kernel into every plane and divides it by their number (Carreira 2017, doi:10.1109/CVPR.2017.502):
    the answer is the mean over the planes, and darker where the planes at the ends of a patch are padded with zeros.
    ``centre`` puts it into the middle plane: every plane is answered as the 2D network would, up to the ends, and what its
    neighbours say is learnt.

    Args:
        kernel: ``(O, I, k, k)``.
        depth: Odd size of the third axis.
        how: Which of both.

    Returns:
        ``(O, I, k, k, depth)``.
    """
    if how == "repeat":
        return kernel.unsqueeze(-1).expand(*kernel.shape, depth).clone() / depth
    inflated = kernel.new_zeros((*kernel.shape, depth))
    inflated[..., depth // 2] = kernel
    return inflated


def spread_input(kernel: Tensor, num_channels: int) -> Tensor:
    """The first convolution for another number of channels: the sum over its own, shared out among the new ones.

    A gray image, which in red, green and blue is three times the same, gets the same answer as one channel, and so does an
    image whose channels are all the same. As many channels as there are keep their kernels.

    Args:
        kernel: ``(O, I, k, k)``.
        num_channels: Of the new network.
    """
    if kernel.shape[1] == num_channels:
        return kernel
    return kernel.sum(1, keepdim=True).expand(-1, num_channels, *kernel.shape[2:]) / num_channels


def _refuse_pickle(path: Path) -> None:
    try:
        with path.open("rb") as file:
            beginning = file.read(4)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}. Check the path."
        raise InputError(msg) from error
    # torch.save writes a zip with a pickle inside, and a bare pickle before torch 1.6.
    if beginning[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        target = path.with_suffix(".safetensors").name
        msg = (
            f"{path} is a pickle, which can run any program when it is opened, and medunet opens none. Convert it once, where "
            'you trust it: python -c "from torch import load; from safetensors.torch import save_file; save_file({k: '
            f"v.contiguous().clone() for k, v in load('{path.name}', weights_only=True).items()}}, '{target}')\""
        )
        raise InputError(msg)


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _count_blocks(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    found = [re.match(r"layer(\d+)\.(\d+)\.", name) for name in tensors]
    places = {(int(match[1]), int(match[2])) for match in found if match}
    return tuple(
        1 + max(block for stage, block in places if stage == number) for number in sorted({s for s, _ in places})
    )


def _find_block(tensors: Mapping[str, Tensor]) -> str:
    return "bottleneck" if "layer1.0.conv3.weight" in tensors else "basic"


def _list_vgg_levels(tensors: Mapping[str, Tensor]) -> list[list[int]]:
    """Numbers of the convolutions among torchvision's ``features``, per level.

    Between two convolutions of a level lie a ReLU and perhaps a normalisation, between levels a pooling more.
    """
    found = [re.fullmatch(r"features\.(\d+)\.weight", name) for name in tensors]
    numbers = sorted(int(match[1]) for match in found if match and tensors[match[0]].ndim == 4)
    step = 3 if "features.1.weight" in tensors else 2
    levels: list[list[int]] = []
    for number in numbers:
        if not levels or number - levels[-1][-1] > step:
            levels.append([])
        levels[-1].append(number)
    return levels


def _list_names(weights: EncoderWeights, place: _Place) -> Iterator[tuple[str, str]]:
    """Name in the file, name in the network."""
    if weights.layout == "vgg":
        return _list_vgg_names(weights.tensors, place)
    return ((name, target) for name in weights.tensors if (target := _rename_resnet(name, place.encoder)) is not None)


def _rename_resnet(name: str, encoder: str) -> str | None:
    if match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"{encoder}.stem.{0 if match[1] == 'conv' else 1}.{match[2]}"
    if match := re.fullmatch(r"layer(\d+)\.(\d+)\.(conv|bn)(\d)\.(\w+)", name):
        layer = 0 if match[3] == "conv" else 1
        return f"{encoder}.stages.{int(match[1]) - 1}.{match[2]}.convolutions.{int(match[4]) - 1}.{layer}.{match[5]}"
    if match := re.fullmatch(r"layer(\d+)\.(\d+)\.downsample\.([01])\.(\w+)", name):
        return f"{encoder}.stages.{int(match[1]) - 1}.{match[2]}.shortcut.{match[3]}.{match[4]}"
    return None


def _list_vgg_names(tensors: Mapping[str, Tensor], place: _Place) -> Iterator[tuple[str, str]]:
    for level, numbers in enumerate(_list_vgg_levels(tensors)):
        for position, number in enumerate(numbers):
            for offset in (0, 1):  # the convolution, and its normalisation where there is one
                prefix = f"features.{number + offset}."
                for name in tensors:
                    if name.startswith(prefix):
                        yield name, f"{place.encoder}.{level}.{position}.{offset}.{name.removeprefix(prefix)}"
    for layers in (("classifier.0", "classifier.3"), ("pre_logits.fc1", "pre_logits.fc2")):  # torchvision, timm
        for layer, target in zip(layers, place.connected, strict=False):
            yield from (
                (f"{layer}.{kind}", f"{target}.{kind}") for kind in ("weight", "bias") if f"{layer}.{kind}" in tensors
            )


def _list_encoder_tensors(own: Mapping[str, Tensor], place: _Place) -> list[str]:
    return [name for name in own if name.startswith((f"{place.encoder}.", *(f"{layer}." for layer in place.connected)))]


def _fit_dims(content: Tensor, own: Tensor, inflation: Inflation) -> Tensor:
    """Fully connected weights as a kernel, kernels with a third axis; the rest as it is."""
    if content.ndim == 2 and own.ndim > 2:
        edge = own.shape[-1]
        if content.shape[1] % edge**2:
            return content
        content = content.reshape(content.shape[0], -1, edge, edge)
    return inflate(content, own.shape[-1], inflation) if content.ndim == 4 and own.ndim == 5 else content


def _find_offset(named: Mapping[str, str], running_mean: str) -> str | None:
    """Name in the file of the offset of the convolution before a normalisation."""
    return named.get(running_mean.removesuffix("1.running_mean") + "0.bias")


def _fold_offsets(
    own: Mapping[str, Tensor], filled: Mapping[str, Tensor], named: Mapping[str, str], weights: EncoderWeights
) -> dict[str, Tensor]:
    """Running means without the offset that their convolution has in the file, but not in the network."""
    folded = {}
    for name, mean in filled.items():
        if not name.endswith("1.running_mean") or name.removesuffix("1.running_mean") + "0.bias" in own:
            continue
        if (offset := _find_offset(named, name)) is not None:
            folded[name] = mean - weights.tensors[offset]
    return folded


def _describe_input(weights: EncoderWeights, first: str, num_channels: int) -> str:
    num_before = weights.tensors[first].shape[1]
    if num_before == num_channels:
        return ""
    shared = "" if num_channels == 1 else f", shared out among {num_channels} channels"
    return f"the first convolution is the sum over its {num_before} inputs{shared}"


def _name_layers(tensors: tuple[str, ...]) -> list[str]:
    """``stages.0`` or ``fc`` for all that lies in it, each once."""
    return list(
        dict.fromkeys(
            name.rsplit(".", 1)[0] if name.count(".") < 3 else ".".join(name.split(".")[:3]) for name in tensors
        )
    )
