"""Exported networks answer like the original in their own programs, and nothing half-made is left."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import ORACLE_TASK, build_plan_for
from torch import Tensor

import medunet
from medunet.errors import InputError, ModelError, OutputError
from medunet.exporting import EXPORT_FORMATS, export
from medunet.exporting.parity import check_parity
from medunet.inference.backends import trace_network
from medunet.models import Ensemble, read_model
from medunet.models.folder import combine_checksums
from medunet.networks import build_network, replace_network
from medunet.planning import add_neighbour_slices


def skip_without(*packages: str) -> None:
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        pytest.skip(f"{missing[0]} is not installed")


@pytest.fixture
def folder(write_model: Callable[..., Path], tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def draw_patches(num_patches: int = 2) -> Tensor:
    return torch.randn((num_patches, 1, 16, 16, 8), generator=torch.Generator().manual_seed(5))


def compute_expected(folder: Path, patches: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = read_model(folder).members[0].network(patches)
    return logits


def check_is_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 3e-4 * expected.abs().max()


# ---- formats -----------------------------------------------------------------------------------------------------------


def test_onnx_runs_in_onnx_runtime_with_any_number_of_patches(folder: Path, tmp_path: Path) -> None:
    skip_without("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    result = export(folder, "onnx", tmp_path / "out" / "network.onnx")
    assert {path.name for path in result.files} == {"network.onnx", "network.json"}
    session = onnxruntime.InferenceSession(tmp_path / "out" / "network.onnx", providers=["CPUExecutionProvider"])
    for num_patches in (1, 2):
        patches = draw_patches(num_patches)
        (found,) = session.run(["logits"], {"patches": patches.numpy()})
        check_is_close(torch.from_numpy(found), compute_expected(folder, patches))


def test_openvino_reads_the_pair_of_files_with_any_number_of_patches(folder: Path, tmp_path: Path) -> None:
    skip_without("openvino")
    from medunet.inference.backends.openvino_backend import import_openvino

    result = export(folder, "openvino", tmp_path / "network.xml")
    assert {path.name for path in result.files} == {"network.xml", "network.bin", "network.json"}
    core = import_openvino().Core()
    compiled = core.compile_model(tmp_path / "network.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for num_patches in (1, 2):
        patches = draw_patches(num_patches)
        found = compiled({"patches": patches.numpy()})["logits"]
        check_is_close(torch.from_numpy(found), compute_expected(folder, patches))


@pytest.mark.parametrize("suffix", [".ts", ".pt"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_loads_without_medunet(folder: Path, tmp_path: Path, suffix: str) -> None:
    result = export(folder, "torchscript", tmp_path / f"network{suffix}")
    assert {path.name for path in result.files} == {f"network{suffix}", "network.json"}
    loaded = torch.jit.load(tmp_path / f"network{suffix}")
    for num_patches in (1, 2):
        patches = draw_patches(num_patches)
        check_is_close(loaded(patches), compute_expected(folder, patches))


def test_the_description_says_what_belongs_around_the_network(folder: Path, tmp_path: Path) -> None:
    medunet.export(folder, "torchscript", tmp_path / "network.ts")
    description = json.loads((tmp_path / "network.json").read_text())
    model = read_model(folder)
    assert description["weights_sha256"] == model.training.weights_sha256
    assert description["input"] == {
        "name": "patches",
        "shape": ["B", 1, 16, 16, 8],
        "dtype": "float32",
        "channels": ["ct"],
    }
    assert description["output"]["activation"] == "softmax"
    assert description["output"]["channels"][0] == {"label": "background", "values": [0]}
    assert description["output"]["channels"][-1] == {"label": "bone", "values": [7]}
    assert description["preprocessing"]["orientation"] == "RAS"
    assert description["preprocessing"]["spacing"] == [1.0, 1.0, 1.0]
    assert description["preprocessing"]["normalization"][0]["rule"] == "none"
    assert description["sliding_window"]["patch_size"] == [16, 16, 8]
    assert description["parity"]["max_relative_difference"] <= 3e-4


# ---- which models ------------------------------------------------------------------------------------------------------


def test_a_loaded_model_is_exported_and_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    segmenter = medunet.load(folder, device="cpu")
    before = {name: tensor.clone() for name, tensor in segmenter.model.members[0].network.state_dict().items()}
    export(segmenter, "torchscript", tmp_path / "one.ts")
    export(segmenter.model, "torchscript", tmp_path / "two.ts")
    assert all(torch.equal(before[n], t) for n, t in segmenter.model.members[0].network.state_dict().items())


def build_ensemble(write_model: Callable[..., Path], tmp_path: Path, second_patch: tuple[int, int, int]) -> Ensemble:
    plans = [build_plan_for(ORACLE_TASK, (1.0, 1.0, 1.0), patch) for patch in ((16, 16, 8), second_patch)]
    members = []
    for number, plan in enumerate(plans):
        with torch.random.fork_rng():
            torch.manual_seed(number)
            weights = build_network(plan.network).state_dict()
        members.append(read_model(write_model(tmp_path / f"member{number}", plan=plan, weights=weights)))
    first = members[0]
    sha256 = combine_checksums(member.training for member in members)
    return Ensemble(
        folder=tmp_path / "ensemble",
        task=first.task,
        plan=first.plan,
        training=first.training.model_copy(update={"weights_sha256": sha256}),
        metrics={},
        members=tuple(members),  # type: ignore[arg-type]
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_networks_that_see_the_same_patches_become_one(write_model: Callable[..., Path], tmp_path: Path) -> None:
    ensemble = build_ensemble(write_model, tmp_path, (16, 16, 8))
    export(ensemble, "torchscript", tmp_path / "mean.ts")
    patches = draw_patches()
    with torch.inference_mode():
        expected = sum(member.network(patches) for member in ensemble.members) / 2
        check_is_close(torch.jit.load(tmp_path / "mean.ts")(patches), expected)
    assert json.loads((tmp_path / "mean.json").read_text())["num_networks"] == 2


def test_networks_that_see_different_patches_are_refused(write_model: Callable[..., Path], tmp_path: Path) -> None:
    ensemble = build_ensemble(write_model, tmp_path, (8, 16, 8))
    with pytest.raises(ModelError, match=r"see different patches; export them one by one: .*member0, .*member1"):
        export(ensemble, "torchscript", tmp_path / "mean.ts")


def test_a_cascade_is_refused(folder: Path, tmp_path: Path) -> None:
    model = read_model(folder)
    with pytest.raises(ModelError, match="is a cascade"):
        export(replace(model, low=model), "torchscript", tmp_path / "network.ts")  # type: ignore[call-arg]


# ---- what is refused ---------------------------------------------------------------------------------------------------


def test_an_unknown_format_and_a_wrong_name_are_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="no format 'tensorrt'; expected one of onnx, openvino, torchscript, monai-bundle"
    ):
        export(folder, "tensorrt", tmp_path / "network.onnx")
    with pytest.raises(InputError, match=r"no name for openvino; expected one that ends with \.xml"):
        export(folder, "openvino", tmp_path / "network.onnx")


def test_what_exists_is_only_replaced_when_allowed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "network.json").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        export(folder, "torchscript", tmp_path / "network.ts")
    assert (tmp_path / "network.json").read_text() == "mine"
    assert not (tmp_path / "network.ts").exists()
    export(folder, "torchscript", tmp_path / "network.ts", overwrite=True)
    assert json.loads((tmp_path / "network.json").read_text())["format"] == "torchscript"


def test_an_existing_folder_is_never_replaced_by_a_bundle(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        export(folder, "monai-bundle", tmp_path / "bundle", overwrite=True)
    assert list((tmp_path / "bundle").iterdir()) == []


@pytest.mark.parametrize(
    ("export_format", "name", "package", "extra"),
    [
        ("onnx", "network.onnx", "onnxscript", "onnx"),
        ("onnx", "network.onnx", "onnxruntime", "onnx"),
        ("openvino", "network.xml", "openvino", "openvino"),
    ],
)
def test_a_missing_package_is_an_error_that_names_the_extra(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    export_format: str,
    name: str,
    package: str,
    extra: str,
) -> None:
    skip_without("onnx", "onnxscript", "onnxruntime")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"package {package}, .*pip install 'medunet\[{extra}\]'"):
        export(folder, export_format, tmp_path / name)
    assert not list(tmp_path.glob("network*"))


@pytest.mark.parametrize("export_format", ["torchscript", "monai-bundle"])
def test_nothing_is_written_when_the_answers_differ(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export_format: str
) -> None:
    def trace_badly(network: Any, patch: Tensor) -> Any:
        broken = copy.deepcopy(network)
        broken.network.heads[0].bias.data += 0.5
        return trace_network(broken, patch)

    monkeypatch.setattr("medunet.exporting.exporter.trace_network", trace_badly)
    before = sorted(tmp_path.iterdir())
    name = "network.ts" if export_format == "torchscript" else "bundle"
    with pytest.raises(ModelError, match=r"answers differently from the original: by .* Nothing was written"):
        export(folder, export_format, tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_nan_is_no_parity(folder: Path) -> None:
    model = read_model(folder)
    network = model.members[0].network
    with pytest.raises(ModelError, match="by nan"):
        check_parity(network, lambda patches: network(patches) * torch.nan, model.plan, has_regions=False, what="test")


def test_a_full_disk_leaves_no_half_bundle(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> None:
        if path.name == "model.ts":
            raise OutputError("the disk is full")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    monkeypatch.setattr("medunet.exporting.exporter.write_bytes_atomic", refuse)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match="disk is full"):
        export(folder, "monai-bundle", tmp_path / "bundle")
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_says_how_the_answers_compare(
    folder: Path, tmp_path: Path, medunet_command: Callable[..., Any]
) -> None:
    outcome = medunet_command("export", str(folder), "-o", str(tmp_path / "network.ts"), "--format", "torchscript")
    assert outcome.exit_code == 0, outcome.err
    assert outcome.out.startswith(f"{tmp_path / 'network.ts'}: largest difference ")
    assert "on 3 random patches" in outcome.out
    assert (tmp_path / "network.ts").is_file()
    medunet_command("export", str(folder), "-o", str(tmp_path / "n.ts"), "--format", "keras").check_refused(
        *EXPORT_FORMATS
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_neighbour_slices_are_named_channels_and_no_bundle(write_model: Callable[..., Path], tmp_path: Path) -> None:
    plan = build_plan_for(ORACLE_TASK, (1.0, 1.0, 1.0), (16, 16, 1))
    flat = {"spatial_dims": 2, "strides": ((1, 1, 1), (2, 2, 1)), "kernels": ((3, 3, 1),) * 2}
    plan = plan.model_copy(update={"configuration": "2.5d", "network": plan.network.model_copy(update=flat)})
    folder = write_model(tmp_path / "slices", plan=add_neighbour_slices(plan, 1))
    export(folder, "torchscript", tmp_path / "slices.ts")
    described = json.loads((tmp_path / "slices.json").read_text())["input"]
    assert described["channels"] == ["ct -1", "ct", "ct +1"]
    assert described["shape"] == ["B", 3, 16, 16, 1]
    with pytest.raises(ModelError, match=r"sees neighbour slices as channels \(2\.5D\)"):
        export(folder, "monai-bundle", tmp_path / "bundle")


def test_a_network_without_padding_warns_that_it_sees_patches_alone(
    write_model: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = build_plan_for(ORACLE_TASK, (1.0, 1.0, 1.0), (16, 16, 8))
    for padding, warnings in (("same", 0), ("valid", 1)):
        options = {"width": 4, "num_poolings": 2, "padding": padding}
        folder = write_model(tmp_path / padding, plan=replace_network(plan, "unet-2015", options))
        export(folder, "torchscript", tmp_path / f"{padding}.ts")
        assert len(caplog.records) == warnings
    assert "mirrors each at its own borders" in caplog.text
