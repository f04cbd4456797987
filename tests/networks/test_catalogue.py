"""What holds for every network of the catalogue, in 2D and 3D."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from small_networks import NAMES, OPTIONS, SIZES, build, build_config, make_image, stir
from torch import nn
from torch.nn import functional as F

from medunet.errors import InputError
from medunet.inference.backends import trace_network
from medunet.networks import ARCHITECTURES, build_network, find_architecture
from medunet.networks.choices import IndexPool, IndexUnpool
from medunet.networks.cost import count_parameters
from medunet.networks.receptive_field import compute_receptive_field, find_seen_interval
from medunet.networks.summary import list_planned_path, plan_unet
from medunet.planning.architectures import TITLES, ArchitectureName

SLOW = ("swin-unetr", "unetr", "gated-scnn", "deconvnet", "vnet", "mednext", "unet-plus-plus")
QUICK = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES]
EACH = [
    pytest.param(name, dims, marks=pytest.mark.slow) if (name, dims) == ("swin-unetr", 3) else (name, dims)
    for name, dims in itertools.product(NAMES, (2, 3))
]
EXPORTED_QUICKLY = ("unet-2015", "segnet", "pixel-classifier", "fcn-8s", "course-unet")

WITHOUT_GRADIENT = {"attention-unet": "psi.0.conv.bias", "gated-scnn": "hints.2.bias"}
"""Biases whose one channel is normalised next, which takes them away."""


@pytest.mark.parametrize(("name", "dims"), EACH)
def test_logits_lie_on_the_grid_of_the_image_and_gradients_reach_every_weight(name: str, dims: int) -> None:
    config = build_config(name, dims)
    network, image = build(name, config), make_image(config)
    stir(network)
    scales = network.forward_scales(image)
    assert len(scales) == config.num_scales + network.num_auxiliary
    assert scales[0].shape == (2, 3, *image.shape[2:])
    assert all(scale.shape[:2] == (2, 3) and torch.isfinite(scale).all() for scale in scales[: config.num_scales])
    weights = [torch.randn(scale.shape, generator=torch.Generator().manual_seed(3)) for scale in scales]
    torch.stack([(scale * weight).sum() for scale, weight in zip(scales, weights, strict=True)]).sum().backward()
    gradients = {key: parameter.grad for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
    without = [key for key, gradient in gradients.items() if gradient is None or not gradient.abs().max() > 0]
    assert not [key for key in without if not key.endswith(WITHOUT_GRADIENT.get(name, "no such name"))]


@pytest.mark.parametrize(("name", "dims"), EACH)
def test_validation_sees_the_first_scale_of_training(name: str, dims: int) -> None:
    config = build_config(name, dims)
    network, image = build(name, config).eval(), make_image(config, batch_size=1)
    stir(network)
    with torch.no_grad():
        logits = network(image)
        assert torch.equal(network.forward_scales(image)[0], logits)
        assert not torch.allclose(network(image.flip(-1)), logits, atol=1e-6)  # it looks at the image


@pytest.mark.parametrize(("name", "dims"), EACH)
def test_a_size_that_does_not_fit_is_refused_with_the_next_that_does(name: str, dims: int) -> None:
    config = build_config(name, dims)
    size = SIZES[dims]
    fitting = config.find_next_size(size)
    assert all(have <= want for have, want in zip(size, fitting, strict=True))
    assert config.find_next_size(fitting) == fitting
    if fitting == size:
        assert config.divisor == 1
        return
    network = build(name, config)
    with pytest.raises(ValueError, match=f"got {'x'.join(map(str, size))}.*use {'x'.join(map(str, fitting))}"):
        network(torch.zeros((1, 2, *size)))


@pytest.mark.parametrize(
    ("name", "options", "size", "message"),
    [
        ("unet-plus-plus", {}, (17, 32), "takes sizes that are multiples of 16, got 17x32; pad the image or use 32x32"),
        ("unet-plus-plus", {}, (16, 16), "needs 2 cells of 16 voxels per axis or more on its coarsest grid, got 16x16"),
        ("deconvnet", {"padding": "valid"}, (128, 96), "sizes of 224 voxels or more along every axis, got 128x96; .*use 224x224"),
        ("deconvnet", {"padding": "valid"}, (225, 224), "multiples of 32, got 225x224; pad the image or use 256x224"),
    ],
)  # fmt: skip
def test_the_rule_that_a_size_breaks_is_named(
    name: str, options: dict[str, Any], size: tuple[int, ...], message: str
) -> None:
    config = build_config(name, 2, size=(32, 32), **options)
    with pytest.raises(ValueError, match=message):
        config.check_size(size)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_weights(name: str) -> None:
    config = build_config(name, 2)
    first, again, other = (build(name, config, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def has_dropout(name: str) -> bool:
    config = ARCHITECTURES[name].config
    return config is not None and "dropout" in config.model_fields


@pytest.mark.parametrize("name", [name for name in NAMES if has_dropout(name)])
def test_dropout_is_for_training_alone(name: str) -> None:
    """Two passes over one batch differ where something is dropped, and only there."""
    config = build_config(name, 2)
    image = make_image(config)
    for dropout, is_training in ((0.0, True), (0.4, True), (0.4, False)):
        network = build(name, build_config(name, 2, dropout=dropout)).train(is_training)
        stir(network)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(5)
            first, second = network(image), network(image)
        assert torch.isfinite(first).all()
        assert torch.equal(first, second) == (dropout == 0 or not is_training), (dropout, is_training)


def make_phantom(config: Any, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright and a dark ball in noise."""
    size = config.find_next_size(size)
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij"))
    codes = torch.zeros((2, *size), dtype=torch.long)
    for number, shift in enumerate((0.0, 0.15)):
        codes[number][(grid - 0.4 + shift).square().sum(0).sqrt() < 0.45] = 1
        codes[number][(grid + 0.4 - shift).square().sum(0).sqrt() < 0.45] = 2
    noise = 0.2 * torch.randn((2, 1, *size), generator=torch.Generator().manual_seed(4))
    brightness = torch.tensor([0.0, 1.5, -1.5])[codes].unsqueeze(1)
    return brightness + noise, codes


LEARNING: dict[str, dict[str, Any]] = {
    "fcn-32s": {"width": 4},
    "fcn-16s": {"width": 4},
    "fcn-8s": {"width": 4},
    "deconvnet": {"width": 2},
    "segnet": {"width": 4},
    "unetr": {"width": 2},
    "unet-plus-plus": {"width": 4},
}
FACTORS = {"fcn-32s": 1.1, "fcn-16s": 1.2, "fcn-8s": 1.4, "deconvnet": 1.4}
"""Scores on a grid of 32 draw balls of 14 pixels badly."""


def learn(name: str, dims: int, steps: int, *, enough: float = 0.0) -> tuple[float, float, float]:
    """Cross-entropy before and after, and that of an answer that knows the frequencies of the classes and nothing else.

    It ends early once three in a row are below the share ``enough`` of the last.
    """
    size = (64, 64) if dims == 2 else (32, 32, 32)
    config = build_config(
        name,
        dims,
        in_channels=1,
        size=size,
        **LEARNING.get(name, {}),
        **({"dropout": 0.0} if has_dropout(name) else {}),
    )
    image, codes = make_phantom(config, size)
    network = build(name, config)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    frequencies = torch.bincount(codes.flatten()) / codes.numel()
    blind = float(-(frequencies * frequencies.log()).sum())
    losses: list[float] = []
    while len(losses) < steps and (len(losses) < 3 or max(losses[-3:]) >= enough * blind):
        loss = F.cross_entropy(network(image), codes)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sum(losses[:2]) / 2, sum(losses[-3:]) / 3, blind


@pytest.mark.parametrize("name", QUICK)
def test_it_learns_a_phantom(name: str) -> None:
    before, after, blind = learn(name, 2, 40 if name in FACTORS else 30)
    assert after * FACTORS.get(name, 2.0) < before
    assert after < 0.8 * blind


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_a_phantom_in_3d(name: str) -> None:
    _, after, blind = learn(name, 3, 100, enough=0.8)
    assert after < 0.8 * blind


SEEING: dict[str, dict[str, Any]] = {
    "deconvnet": {"padding": "same", "norm": "none"},
    "segnet": {"norm": "none"},
    "deeplab-v3-plus": {"has_image_mean": False, "norm": "none", "output_stride": 16, "rates": (2, 3)},
    "fastfcn": {"norm": "none"},
    "vnet": {"norm": "none"},
    "unet-2015": {"padding": "same"},
    "unet3d-2016": {"padding": "same", "norm": "none"},
}
FINITE = [name for name in NAMES if build_config(name, 2, **SEEING.get(name, {})).receptive_field is not None]


def make_positive(network: nn.Module) -> None:
    """Weights above 0 that sum up to about 1, so that nothing cancels and no activation is dead."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(
                torch.full_like(parameter, 1 / max(1, parameter[0].numel())) if parameter.dim() > 1 else 0.25
            )


def find_seen(network: nn.Module, size: tuple[int, ...], voxel: int, axis: int = 0) -> tuple[int, int]:
    """The first and the last row that a voxel's gradient reaches, in the middle of all axes but the one looked along.

    The image rises or falls along that axis, so that max-pooling looks to either end of its window.
    """
    length = size[axis]
    ramp = torch.linspace(1, 2, length, dtype=torch.float64)
    seen = torch.zeros(length, dtype=torch.bool)
    place = [n // 2 for n in size]
    place[axis] = voxel
    for values in (ramp, ramp.flip(0)):
        along = values.reshape([length if other == axis else 1 for other in range(len(size))])
        image = along.expand(1, 1, *size).clone().requires_grad_()
        network(image)[(0, 0, *place)].backward()
        assert image.grad is not None
        seen |= (image.grad[0, 0] > 0).movedim(axis, 0).flatten(1).any(dim=1)
    found = seen.nonzero().flatten()
    return int(found[0]), int(found[-1])


@pytest.mark.parametrize("name", FINITE)
def test_the_receptive_field_is_what_the_gradient_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config(name, 2, in_channels=1, out_channels=1, **SEEING.get(name, {}))
    network = build(name, config).double().eval()
    monkeypatch.setattr(IndexPool, "forward", lambda self, x: (F.avg_pool2d(x, 2), x))
    monkeypatch.setattr(IndexUnpool, "forward", lambda self, x, _: F.interpolate(x, scale_factor=2, mode="nearest"))
    replace_norms(network)
    make_positive(network)
    assert config.path is not None
    assert config.receptive_field is not None
    length, width = config.find_next_size((config.receptive_field + 140, 64 if name == "fastfcn" else 32))
    for voxel in [length // 2 + shift for shift in (0, 1, 7, 18)]:
        first, last = find_seen(network, (length, width), voxel)
        assert (first, last) == find_seen_interval(config.path, voxel)
        assert last - first + 1 <= config.receptive_field


@pytest.mark.parametrize("name", ["pixel-classifier", "unet-2015", "unet3d-2016"])
def test_the_receptive_field_in_3d(name: str) -> None:
    """Along every axis, and for voxels that lie differently on the coarser grids."""
    config = build_config(name, 3, in_channels=1, out_channels=1, **SEEING.get(name, {}))
    network = build(name, config).double().eval()
    replace_norms(network)
    make_positive(network)
    assert config.path is not None
    assert config.receptive_field is not None
    for axis, shift in [(0, 0), (0, 1), (1, 2), (2, 3)]:
        edges = [8, 8, 8]
        edges[axis] = config.receptive_field + 16
        size = config.find_next_size(edges)
        voxel = size[axis] // 2 + shift
        assert find_seen(network, size, voxel, axis) == find_seen_interval(config.path, voxel)


def test_the_receptive_field_of_basic_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    basic = SEEING["fastfcn"] | {"block": "basic", "blocks": (2, 1, 1, 1)}
    monkeypatch.setitem(SEEING, "fastfcn", basic)
    test_the_receptive_field_is_what_the_gradient_shows("fastfcn", monkeypatch)


@pytest.mark.parametrize("name", ["segnet", "fcn-32s"])
def test_the_receptive_field_of_another_vgg(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEEING, name, SEEING.get(name, {}) | {"convolutions": (1, 1, 2, 2, 2)})
    test_the_receptive_field_is_what_the_gradient_shows(name, monkeypatch)


@pytest.mark.parametrize("name", ["unet", "residual-unet"])
def test_the_receptive_field_of_the_planners_networks(name: str) -> None:
    plan, _ = plan_unet(ARCHITECTURES[name], (32, 32), 1, 1, base=2)
    path = list_planned_path(plan, 0)
    length = compute_receptive_field(path) + 80
    length -= length % 16
    with torch.random.fork_rng():
        network: Any = build_network(plan).network.double().eval()
    replace_norms(network)
    make_positive(network)
    boxes = [find_seen(network, (length, 32), voxel) for voxel in range(length // 2, length // 2 + 16)]
    assert boxes == [find_seen_interval(path, voxel) for voxel in range(length // 2, length // 2 + 16)]
    assert max(last - first + 1 for first, last in boxes) == compute_receptive_field(path)


def replace_norms(network: nn.Module) -> None:
    """Their statistics see the whole patch."""
    for parent in list(network.modules()):
        for key, child in list(parent.named_children()):
            if isinstance(
                child, nn.BatchNorm2d | nn.BatchNorm3d | nn.InstanceNorm2d | nn.InstanceNorm3d | nn.GroupNorm
            ):
                setattr(parent, key, nn.Identity())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FINITE] + ["deeplab-v3-plus"])
def test_a_network_without_a_receptive_field_sees_the_whole_patch(name: str) -> None:
    config = build_config(name, 2, in_channels=1, size=(64, 64))
    assert config.receptive_field is None
    network = build(name, config).double().eval()
    stir(network)
    image = make_image(config, (64, 64), batch_size=1).double().requires_grad_()
    network(image)[0, 0, 0, 0].backward()
    assert image.grad is not None
    assert (image.grad[0, 0, -8:, -8:] != 0).any()


def test_names_are_those_of_plans() -> None:
    assert list(ARCHITECTURES) == [architecture.name for architecture in ARCHITECTURES.values()]
    assert list(ARCHITECTURES) == list(get_args(ArchitectureName)) == list(TITLES)
    assert [architecture.year for architecture in ARCHITECTURES.values()] == sorted(
        architecture.year for architecture in ARCHITECTURES.values()
    )
    assert all(re.match(r"(arXiv:\d{4}\.\d{4,5}|after arXiv|Ciresan)", one.paper) for one in ARCHITECTURES.values())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet-2015", {"widht": 3}, "The network 'unet-2015' has no option 'widht'.*width"),
        ("unet-2015", {"norm": "batsh"}, "The network 'unet-2015' cannot be built so: norm: Input should be"),
        ("swin-unetr", {"width": 13}, "width: Input should be a multiple of 12"),
        ("pixel-classifier", {"kernels": [3]}, "windows of 8 voxels; expected an odd number"),
        ("unetr", {"image_size": [40, 41]}, r"image_size is \(40, 41\); expected 2 multiples of 16"),
        ("unet", {"width": 4}, "takes no options: the planner shapes it"),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ARCHITECTURES[name].build_config((64, 64), 1, 2, options)


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(InputError, match=r"There is no network 'segnett'.*segnet"):
        find_architecture("segnett")


GOLDEN = {
    # name: parameters of the paper's setting, with the paper's channels and classes
    "pixel-classifier": 219_290,
    "fcn-32s": 136_152_917,
    "fcn-16s": 134_815_994,
    "fcn-8s": 134_489_759,
    "unet-2015": 31_030_658,
    "deconvnet": 251_805_653,
    "segnet": 29_449_932,
    "unet3d-2016": 19_072_834,
    "vnet": 65_182_226,
    "deeplab-v3-plus": 59_344_053,
    "attention-unet": 5_909_130,
    "unet-plus-plus": 9_118_888,
    "segresnet": 18_796_002,
    "fastfcn": 52_692_565,
    "gated-scnn": 59_520_610,
    "course-unet": 6_667_639,
    "unetr": 92_783_842,
    "swin-unetr": 62_186_708,
    "mednext": 5_552_842,
}


def list_choices() -> Iterator[tuple[str, str, Any]]:
    """Every named choice of every network but the default: the network, the option and the value."""
    for name in NAMES:
        default = build_config(name, 2)
        for option, field in type(default).model_fields.items():
            values = [
                value
                for part in (field.annotation, *get_args(field.annotation))
                if get_origin(part) is Literal
                for value in get_args(part)
            ]
            for value in values:
                if option != "spatial_dims" and value != getattr(default, option):
                    yield name, option, value


@pytest.mark.parametrize(("name", "option", "value"), list(list_choices()))
def test_every_choice_is_another_network(name: str, option: str, value: Any) -> None:
    """It answers, and otherwise than with the default."""
    default, chosen = (
        ARCHITECTURES[name].build_config((32, 64), 2, 3, OPTIONS[name] | options) for options in ({}, {option: value})
    )
    assert chosen != default
    image = make_image(chosen, (32, 64), batch_size=1)
    answers = []
    for config in (default, chosen):
        network = build(name, config).eval()
        stir(network)
        with torch.no_grad():
            answers.append(network(image))
    assert torch.isfinite(answers[1]).all()
    assert not torch.equal(*answers)


MEDNEXT = {"S": 5_552_842, "B": 10_512_778, "M": 17_535_434, "L": 61_728_682}
"""In 3D, kernel 3, with all scales supervised."""


@pytest.mark.parametrize("size", list(MEDNEXT))
def test_sizes_of_mednext(size: str) -> None:
    architecture = ARCHITECTURES["mednext"]
    assert architecture.config is not None
    with torch.device("meta"):
        network = architecture.build_network(architecture.config(size=size))
    assert count_parameters(network) == MEDNEXT[size]


OTHER_GOLDEN = {
    # the same settings in the other dimension; no paper states these
    "pixel-classifier": 845_978,
    "fcn-32s": 895_935_701,
    "fcn-16s": 794_819_882,
    "fcn-8s": 782_209_151,
    "unet-2015": 90_292_738,
    "deconvnet": 1_543_843_157,
    "segnet": 88_302_156,
    "unet3d-2016": 6_821_122,
    "vnet": 13_282_258,
    "deeplab-v3-plus": 132_981_045,
    "attention-unet": 1_987_434,
    "unet-plus-plus": 26_382_056,
    "segresnet": 6_298_530,
    "fastfcn": 127_398_613,
    "gated-scnn": 133_351_138,
    "course-unet": 19_821_799,
    "unetr": 87_146_434,
    "swin-unetr": 25_137_980,
    "mednext": 5_473_930,
}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_the_papers_setting(name: str) -> None:
    architecture = ARCHITECTURES[name]
    assert architecture.config is not None
    settings = dict(architecture.settings)
    config = architecture.config(**settings)
    other = architecture.config(
        **settings | ({"image_size": (96, 96)} if name == "unetr" else {}) | {"spatial_dims": 5 - config.spatial_dims}
    )
    with torch.device("meta"):
        networks = [architecture.build_network(each) for each in (config, other)]
    assert [count_parameters(network) for network in networks] == [GOLDEN[name], OTHER_GOLDEN[name]]


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        (name, dims) if name not in SLOW and dims == 2 else pytest.param(name, dims, marks=pytest.mark.slow)
        for name, dims in itertools.product(NAMES, (2, 3))
    ],
)
def test_torchscript_answers_for_any_number_of_patches(name: str, dims: int) -> None:
    """Traced with one patch, as `medunet export` and the bundle of MONAI are."""
    config = build_config(name, dims)
    network = build(name, config).eval()
    stir(network)
    traced = trace_network(network, make_image(config, batch_size=1))
    image = make_image(config, batch_size=3)
    with torch.no_grad():
        expected = network(image)
        assert torch.allclose(traced(image), expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "name", [name if name in EXPORTED_QUICKLY else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_it_exports(name: str) -> None:
    """What torch makes of it for ONNX and OpenVINO."""
    config = build_config(name, 2, size=(32, 64))
    network, image = build(name, config).eval(), make_image(config, (32, 64), batch_size=1)
    exported = torch.export.export(network, (image,)).module()
    with torch.no_grad():
        assert torch.allclose(exported(image), network(image), atol=1e-5)
