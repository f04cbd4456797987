"""torchvision's and timm's weights give the same features in our networks, in 2D, in 3D, and for any number of channels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from published_layouts import (
    NUM_PARAMETERS,
    RESNETS,
    list_resnet_shapes,
    list_vgg_shapes,
    make_state,
    run_resnet,
    run_vgg,
)
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from medunet.errors import InputError, ModelError
from medunet.networks import (
    ARCHITECTURES,
    ENCODER_NETWORKS,
    PatchNetwork,
    find_encoder_options,
    load_encoder_weights,
    read_encoder_weights,
)
from medunet.networks.encoder_weights import EncoderReport, inflate, spread_input


def write(folder: Path, state: dict[str, Tensor], name: str = "encoder.safetensors") -> Path:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / name)
    return folder / name


def build(network: str, path: Path, *, dims: int = 2, in_channels: int = 3, **more: Any) -> PatchNetwork:
    options = find_encoder_options(network, read_encoder_weights(path)) | more
    config = ARCHITECTURES[network].build_config((64,) * dims, in_channels, 2, options)
    torch.manual_seed(5)
    return PatchNetwork(ARCHITECTURES[network].build_network(config), 2 if dims == 2 else None).eval()


def load(network: PatchNetwork, name: str, path: Path, *, channels: int = 3, **more: Any) -> EncoderReport:
    return load_encoder_weights(network, name, read_encoder_weights(path), num_image_channels=channels, **more)


def make_image(*size: int, channels: int = 3) -> Tensor:
    return torch.randn((2, channels, *size), generator=torch.Generator().manual_seed(4))


def compute_resnet(network: PatchNetwork, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        features: list[Tensor] = network.network.encoder(image)
    return features


def compute_vgg(network: PatchNetwork, image: Tensor) -> list[Tensor]:
    features, x = [], image
    levels = network.network.levels if hasattr(network.network, "levels") else network.network.encoder
    with torch.no_grad():
        for level in levels:
            x = level(x)
            features.append(x)
            x = (F.max_pool3d if x.dim() == 5 else F.max_pool2d)(x, 2)
    return features


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))
        assert other.std() > 0.01  # something was compared


# ---- layout ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_the_made_up_layouts_have_the_published_numbers_of_parameters(name: str) -> None:
    shapes = list_resnet_shapes(name) if name in RESNETS else list_vgg_shapes(name)
    learnt = {key: shape for key, shape in shapes.items() if not key.endswith(("mean", "var", "tracked"))}
    assert sum(map(math.prod, learnt.values())) == NUM_PARAMETERS[name]


@pytest.mark.parametrize("name", RESNETS)
def test_a_full_size_resnet_finds_a_place_for_every_tensor_but_the_classifier(name: str) -> None:
    """Names and shapes only: on the meta device nothing has a value."""
    from medunet.networks.encoder_weights import _PLACES, EncoderWeights, _list_names

    shapes = list_resnet_shapes(name)
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    weights = EncoderWeights(name=name, layout="resnet", tensors=tensors)
    options = find_encoder_options("deeplab-v3-plus", weights)
    assert options == {"width": 64, "blocks": list(RESNETS[name][1]), "block": RESNETS[name][0]}
    config = ARCHITECTURES["deeplab-v3-plus"].build_config((64, 64), 3, 2, options)
    with torch.device("meta"):
        own = ARCHITECTURES["deeplab-v3-plus"].build_network(config).state_dict()
    places = dict(_list_names(weights, _PLACES["deeplab-v3-plus"]))
    assert set(shapes) - set(places) == {"fc.weight", "fc.bias"}
    assert {target: tuple(own[target].shape) for target in places.values()} == {
        target: shapes[source] for source, target in places.items()
    }
    assert {target for target in own if target.startswith("encoder.")} == set(places.values())


# ---- the same features -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_gives_the_same_features(tmp_path: Path, name: str) -> None:
    state = make_state(list_resnet_shapes(name, width=8, num_classes=5))
    path = write(tmp_path, state)
    network = build("fastfcn", path)
    image = make_image(64, 96)
    before = compute_resnet(network, image)
    report = load(network, "fastfcn", path)
    assert_same(compute_resnet(network, image), run_resnet(state, image))
    assert not torch.allclose(before[-1], compute_resnet(network, image)[-1], atol=0.1)
    assert report.fresh == ()
    assert report.left_behind == ("fc.bias", "fc.weight")
    kind = RESNETS[name][0]
    num = len(report.loaded)
    numbers = ", ".join(map(str, RESNETS[name][1]))
    assert report.describe() == [
        f"encoder: {num} of {num} tensors loaded from encoder.safetensors (ResNet of {numbers} {kind} blocks)",
        "left behind: fc",
    ]


@pytest.mark.parametrize("network", [name for name, layout in ENCODER_NETWORKS.items() if layout == "resnet"])
def test_every_resnet_network_takes_one(tmp_path: Path, network: str) -> None:
    state = make_state(list_resnet_shapes("resnet18", width=4, num_classes=2))
    path = write(tmp_path, state)
    built = build(network, path)
    load(built, network, path)
    image = make_image(64, 64)
    # A dilated last stage has the same kernels on another grid.
    assert_same(compute_resnet(built, image)[:3], run_resnet(state, image)[:3])


@pytest.mark.parametrize("network", [name for name, layout in ENCODER_NETWORKS.items() if layout == "vgg"])
@pytest.mark.parametrize("name", ["vgg11", "vgg16", "vgg16_bn", "vgg19_bn"])
def test_a_vgg_gives_the_same_features(tmp_path: Path, network: str, name: str) -> None:
    state = make_state(list_vgg_shapes(name, width=2, num_classes=5))
    path = write(tmp_path, state)
    norm = "batch" if name.endswith("_bn") else "none"
    built = build(network, path, norm=norm)
    report = load(built, network, path)
    image = make_image(64, 96)
    assert_same(compute_vgg(built, image), run_vgg(state, image, name))
    assert not any("features" in layer for layer in report.left_behind)
    assert "classifier.6.weight" in report.left_behind


def test_without_normalisation_in_the_file_that_of_the_network_starts_fresh(tmp_path: Path) -> None:
    path = write(tmp_path, make_state(list_vgg_shapes("vgg16", width=2, num_classes=5)))
    report = load(build("segnet", path), "segnet", path)
    assert len(report.loaded) == 2 * 13
    assert len(report.fresh) == 4 * 13
    assert all(".1." in name for name in report.fresh)


def rename_as_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's VGG has convolutions where the paper and torchvision have fully connected layers, and another head."""
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    renamed = {}
    for key, tensor in state.items():
        layer, kind = key.rsplit(".", 1)
        if layer == "classifier.0" and kind == "weight":
            tensor = tensor.unflatten(1, (-1, 7, 7))
        elif layer == "classifier.3" and kind == "weight":
            tensor = tensor[:, :, None, None]
        renamed[f"{names.get(layer, layer)}.{kind}"] = tensor
    return renamed


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_fully_connected_layers_become_convolutions(tmp_path: Path, library: str) -> None:
    """On 7x7 positions the middle voxel sees what the classifier saw."""
    state = make_state(list_vgg_shapes("vgg16", width=1, num_classes=5))
    path = write(tmp_path, state if library == "torchvision" else rename_as_timm(state))
    network = build("fcn-8s", path)
    load(network, "fcn-8s", path)
    features = make_image(7, 7, channels=8)
    hidden = F.linear(features.flatten(1), state["classifier.0.weight"], state["classifier.0.bias"]).relu()
    expected = F.linear(hidden, state["classifier.3.weight"], state["classifier.3.bias"]).relu()
    with torch.no_grad():
        found = network.network.connected(features)[:, :, 3, 3]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# ---- the third axis ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "file"), [("fastfcn", "resnet18"), ("fcn-8s", "vgg16")])
def test_in_3d_an_image_that_does_not_change_along_the_third_axis_gets_the_same_features(
    tmp_path: Path, name: str, file: str
) -> None:
    shapes = list_resnet_shapes(file, width=4) if file in RESNETS else list_vgg_shapes(file, width=1)
    path = write(tmp_path, make_state(shapes))
    flat, solid = build(name, path, dims=2), build(name, path, dims=3)
    compute = compute_resnet if file in RESNETS else compute_vgg
    load(flat, name, path)
    report = load(solid, name, path)
    image = make_image(64, 32)
    expected = compute(flat, image)
    found = compute(solid, image.unsqueeze(-1).expand(-1, -1, -1, -1, 32))
    for one, other in zip(found, expected, strict=True):
        atol = 1e-5 * float(other.abs().max())
        torch.testing.assert_close(one, other.unsqueeze(-1).expand_as(one), rtol=1e-5, atol=atol)
    assert report.describe()[0].endswith(", kernels in the middle plane")


@pytest.mark.parametrize("how", ["centre", "repeat"])
def test_inflated_kernels_answer_a_constant_third_axis_as_the_flat_one(how: Any) -> None:
    kernel = make_image(3, 3, channels=4)  # (2, 4, 3, 3)
    image = make_image(9, 11, channels=4)
    flat = F.conv2d(image, kernel, padding=1)
    solid = F.conv3d(image.unsqueeze(-1).expand(-1, -1, -1, -1, 6), inflate(kernel, 3, how), padding=1)
    torch.testing.assert_close(solid[..., 1:5], flat.unsqueeze(-1).expand(-1, -1, -1, -1, 4), rtol=1e-5, atol=1e-5)
    ends = flat if how == "centre" else flat * 2 / 3  # one of three planes is padding
    torch.testing.assert_close(solid[..., 0], ends, rtol=1e-5, atol=1e-5)


def test_repeated_kernels_see_the_mean_of_their_planes() -> None:
    kernel = torch.ones(1, 1, 1, 1)
    image = torch.tensor([1.0, 2, 6]).reshape(1, 1, 1, 1, 3)
    assert F.conv3d(image, inflate(kernel, 3, "repeat")).item() == pytest.approx(3)
    assert F.conv3d(image, inflate(kernel, 3, "centre")).item() == pytest.approx(2)


# ---- channels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 4])
def test_a_gray_image_gets_the_features_of_its_picture_in_red_green_and_blue(tmp_path: Path, channels: int) -> None:
    state = make_state(list_resnet_shapes("resnet18", width=4))
    path = write(tmp_path, state)
    network = build("fastfcn", path, in_channels=channels)
    report = load(network, "fastfcn", path, channels=channels)
    gray = make_image(64, 64, channels=1)
    found = compute_resnet(network, gray.expand(-1, channels, -1, -1))
    assert_same(found, run_resnet(state, gray.expand(-1, 3, -1, -1)))
    shared = {1: "", 4: ", shared out among 4 channels"}[channels]
    assert report.describe()[1] == f"input: the first convolution is the sum over its 3 inputs{shared}"


def test_as_many_channels_keep_their_kernels() -> None:
    kernel = make_image(7, 7)
    assert spread_input(kernel, 3) is kernel
    assert spread_input(kernel, 2).shape == (2, 2, 7, 7)
    torch.testing.assert_close(spread_input(kernel, 2).sum(1), kernel.sum(1))


def test_labels_of_a_cascade_beside_the_image_start_fresh(tmp_path: Path) -> None:
    state = make_state(list_resnet_shapes("resnet18", width=4))
    path = write(tmp_path, state)
    network = build("fastfcn", path, in_channels=3)
    before = network.network.encoder.stem[0].weight.clone()
    load(network, "fastfcn", path, channels=1)
    after = network.network.encoder.stem[0].weight
    torch.testing.assert_close(after[:, :1], state["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(after[:, 1:], before[:, 1:])


# ---- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["backbone.", "module.model."])
def test_prefixes_do_not_matter_and_the_rest_is_listed(tmp_path: Path, prefix: str) -> None:
    state = make_state(list_resnet_shapes("resnet18", width=4))
    more = {"decoder.weight": torch.ones(2)}
    path = write(tmp_path, {f"{prefix}{name}": tensor for name, tensor in state.items()} | more)
    network = build("fastfcn", path)
    report = load(network, "fastfcn", path)
    image = make_image(64, 64)
    assert_same(compute_resnet(network, image), run_resnet(state, image))
    assert report.describe()[-1] == "left behind: fc, decoder"


def test_what_does_not_fit_stays_fresh_and_is_listed(tmp_path: Path) -> None:
    """timm's resnet-d has three convolutions in its stem."""
    state = make_state(list_resnet_shapes("resnet18", width=4))
    deep = {"conv1.0.weight": torch.ones(2, 3, 3, 3)} | {k: v for k, v in state.items() if k != "conv1.weight"}
    path = write(tmp_path, deep)
    network = build("fastfcn", path)
    before = network.network.encoder.stem[0].weight.clone()
    report = load(network, "fastfcn", path)
    assert torch.equal(network.network.encoder.stem[0].weight, before)
    assert report.fresh == ("encoder.stem.0.weight",)
    assert report.describe()[-2:] == ["fresh: encoder.stem.0", "left behind: conv1.0, fc"]
    torch.testing.assert_close(
        network.network.encoder.stages[0][0].convolutions[0][0].weight, state["layer1.0.conv1.weight"]
    )


def test_a_file_of_which_nothing_fits_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, make_state(list_resnet_shapes("resnet18", width=4)))
    network = build("fastfcn", path, width=6)
    with pytest.raises(
        ModelError, match=r"Nothing of encoder.safetensors \(ResNet of 2, 2, 2, 2 basic blocks\) fits .* \(6, 3, 7, 7\)"
    ):
        load(network, "fastfcn", path)


@pytest.mark.parametrize("beginning", [b"PK\x03\x04", b"\x80\x02\x8a\n"])
def test_a_pickle_is_never_opened(tmp_path: Path, beginning: bytes) -> None:
    path = tmp_path / "resnet50-0676ba61.pth"
    path.write_bytes(beginning + b"x" * 100)
    with pytest.raises(
        InputError, match=r"is a pickle.*Convert it once.*weights_only=True.*resnet50-0676ba61\.safetensors"
    ):
        read_encoder_weights(path)


def test_the_advice_about_a_pickle_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state(list_resnet_shapes("resnet18", width=1, num_classes=1))
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(InputError) as error:
        read_encoder_weights(tmp_path / "net.pth")
    code = str(error.value).split('python -c "')[1].removesuffix('"')
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert torch.equal(
        read_encoder_weights(tmp_path / "net.safetensors").tensors["conv1.weight"], state["conv1.weight"]
    )


def test_other_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_encoder_weights(tmp_path / "no.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(InputError, match="no whole safetensors file"):
        read_encoder_weights(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match=r"holds no ResNet .* but blocks\.0\.norm1\.weight"):
        read_encoder_weights(write(tmp_path, {"blocks.0.norm1.weight": torch.ones(3)}))


def test_other_encoders_are_refused_with_what_fits(tmp_path: Path) -> None:
    resnet = read_encoder_weights(write(tmp_path, make_state(list_resnet_shapes("resnet18", width=4))))
    with pytest.raises(
        InputError, match="not the encoder of segnet; it is that of deeplab-v3-plus, fastfcn, gated-scnn"
    ):
        find_encoder_options("segnet", resnet)
    vgg = read_encoder_weights(write(tmp_path, make_state(list_vgg_shapes("vgg11", width=1))))
    with pytest.raises(InputError, match=r"VGG of 1, 1, 2, 2, 2 convolutions, which is not .*; it is that of fcn-32s"):
        find_encoder_options("deeplab-v3-plus", vgg)
