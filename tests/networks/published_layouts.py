"""Names, shapes and arithmetic of torchvision's ResNet and VGG, written down from the papers and the names in its files.

torchvision's ``resnet.py`` and ``vgg.py`` (and timm's, by the same names) store ``conv1, bn1, layer1.0.conv1 ...`` and
``features.0 ...``; only what a state dict needs is here, so that no library has to be installed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = dict[str, tuple[int, ...]]

RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
VGGS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
NUM_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg16_bn": 138_365_992,
}
"""As published with the weights, the classifier of 1000 classes included."""


def list_resnet_shapes(name: str, *, width: int = 64, num_classes: int = 1000) -> Shapes:
    block, numbers = RESNETS[name]
    shapes: Shapes = {"conv1.weight": (width, 3, 7, 7)} | _list_norm("bn1", width)
    before, expansion = width, 4 if block == "bottleneck" else 1
    for stage, number in enumerate(numbers):
        inner = width * 2**stage
        for position in range(number):
            root, after = f"layer{stage + 1}.{position}", expansion * inner
            kernels = [(inner, before, 1), (inner, inner, 3), (after, inner, 1)]
            if block == "basic":
                kernels = [(inner, before, 3), (inner, inner, 3)]
            for index, (out, into, edge) in enumerate(kernels, start=1):
                shapes |= {f"{root}.conv{index}.weight": (out, into, edge, edge)} | _list_norm(f"{root}.bn{index}", out)
            if position == 0 and (stage > 0 or before != after):
                shapes |= {f"{root}.downsample.0.weight": (after, before, 1, 1)}
                shapes |= _list_norm(f"{root}.downsample.1", after)
            before = after
    return shapes | {"fc.weight": (num_classes, before), "fc.bias": (num_classes,)}


def list_vgg_shapes(name: str, *, width: int = 64, num_classes: int = 1000) -> Shapes:
    """``classifier`` keeps the proportions of the paper: 7x7 positions, 4096 = 64 widths."""
    shapes: Shapes = {}
    number, before = 0, 3
    for level, convolutions in enumerate(VGGS[name.removesuffix("_bn")]):
        out = width * min(2**level, 8)
        for _ in range(convolutions):
            shapes |= {f"features.{number}.weight": (out, before, 3, 3), f"features.{number}.bias": (out,)}
            if name.endswith("_bn"):
                shapes |= _list_norm(f"features.{number + 1}", out)
                number += 1
            number, before = number + 2, out  # the convolution and its ReLU
        number += 1  # the pooling
    connected = 64 * width
    for layer, (after, into) in {
        0: (connected, before * 49),
        3: (connected, connected),
        6: (num_classes, connected),
    }.items():
        shapes |= {f"classifier.{layer}.weight": (after, into), f"classifier.{layer}.bias": (after,)}
    return shapes


def _list_norm(name: str, channels: int) -> Shapes:
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (channels,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}


def make_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under which features neither vanish nor explode; scales and variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            values = values * (2 / values[0].numel()) ** 0.5
        elif name.endswith("running_var") or (name.endswith("weight") and "running" not in name):
            values = 0.5 + values.abs()
        else:
            values = 0.1 * values
        state[name] = values
    return state


def run_resnet(state: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """Stem and stages as the paper and torchvision have them, in evaluation mode."""

    def normalize(x: Tensor, name: str) -> Tensor:
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{kind}"] for kind in kinds))

    stem = normalize(F.conv2d(image, state["conv1.weight"], stride=2, padding=3), "bn1").relu()
    features, x = [stem], F.max_pool2d(stem, 3, 2, 1)
    for stage in range(1, 5):
        position = 0
        while f"layer{stage}.{position}.conv1.weight" in state:
            root = f"layer{stage}.{position}"
            stride = 2 if stage > 1 and position == 0 else 1
            num = 3 if f"{root}.conv3.weight" in state else 2
            y = x
            for index in range(1, num + 1):
                kernel = state[f"{root}.conv{index}.weight"]
                # The stride is that of the first 3x3 convolution, which torchvision's bottleneck has in the middle.
                is_strided = index == (2 if num == 3 else 1)
                y = F.conv2d(y, kernel, stride=stride if is_strided else 1, padding=kernel.shape[-1] // 2)
                y = normalize(y, f"{root}.bn{index}")
                y = y.relu() if index < num else y
            if f"{root}.downsample.0.weight" in state:
                x = normalize(F.conv2d(x, state[f"{root}.downsample.0.weight"], stride=stride), f"{root}.downsample.1")
            x = (x + y).relu()
            position += 1
        features.append(x)
    return features


def run_vgg(state: dict[str, Tensor], image: Tensor, name: str) -> list[Tensor]:
    """Every level before its pooling, then the two fully connected layers of an image of 7 x 7 positions."""
    levels, number, x = [], 0, image
    for convolutions in VGGS[name.removesuffix("_bn")]:
        for _ in range(convolutions):
            x = F.conv2d(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1)
            if name.endswith("_bn"):
                number += 1
                kinds = ("running_mean", "running_var", "weight", "bias")
                x = F.batch_norm(x, *(state[f"features.{number}.{kind}"] for kind in kinds))
            x, number = x.relu(), number + 2
        levels.append(x)
        x, number = F.max_pool2d(x, 2), number + 1
    return levels
