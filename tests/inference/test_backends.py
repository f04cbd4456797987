"""Every backend gives the logits of PyTorch; what is kept on the disk is only used when it is what it says."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import ORACLE_TASK, AboveThresholds, build_plan_for
from safetensors import safe_open
from tiny_training import build_tiny_plan
from torch import Tensor, nn

from medunet.errors import InputError
from medunet.inference import Segmenter, load
from medunet.inference.backends import Backend, TorchBackend, build_backend, combine_networks, quantize_networks
from medunet.networks import build_network
from medunet.planning import Normalization, Plan
from medunet.volume import Volume

CPU = torch.device("cpu")
NEEDS = {"openvino": ("openvino",), "nncf": ("nncf",), "onnxruntime": ("onnxruntime", "onnx", "onnxscript")}


def skip_without(*names: str) -> None:
    packages = [package for name in names for package in NEEDS.get(name, ())]
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        pytest.skip(f"{missing[0]} is not installed")


def build_tiny_network(plan: Plan, seed: int = 0) -> nn.Module:
    """With weights that leave nothing out: fresh instance norms scale by one and shift by nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(plan.network).eval()
        for parameter in network.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, 0.5, 0.3)
            elif not parameter.any():  # the last convolution of a fresh residual block
                nn.init.normal_(parameter, 0, 0.1)
    return network


def build_plan(spatial_dims: int = 3, architecture: str = "unet") -> Plan:
    plan = build_tiny_plan(spatial_dims=spatial_dims)
    network = plan.network.model_copy(update={"architecture": architecture, "in_channels": 2})
    return plan.model_copy(update={"network": network})


def draw_patches(plan: Plan, num_patches: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((num_patches, plan.network.in_channels, *plan.patch_size), generator=generator)


def check_equals_eager(backend: Backend, network: nn.Module, patches: Tensor) -> None:
    with torch.inference_mode():
        expected = network(patches)
    found = backend(patches)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= 3e-4 * expected.abs().max()
    assert (found.argmax(1) != expected.argmax(1)).float().mean() <= 1e-4


# ---- equal answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["unet", "residual-unet"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", ["torch", "openvino", "onnxruntime"])
def test_logits_are_those_of_the_network_for_any_number_of_patches(
    name: Any, spatial_dims: int, architecture: str
) -> None:
    skip_without(name)
    plan = build_plan(spatial_dims, architecture)
    network = build_tiny_network(plan)
    backend = build_backend([network], plan, CPU, "32-true", name=name)
    assert backend.name == name
    for num_patches in (1, 3, 2):
        check_equals_eager(backend, network, draw_patches(plan, num_patches))
    transposed = draw_patches(plan, 2).transpose(2, 3).contiguous().transpose(2, 3)
    check_equals_eager(backend, network, transposed)  # not contiguous


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_several_networks_answer_with_the_mean_of_their_logits(name: Any) -> None:
    skip_without(name)
    plan = build_plan()
    networks = [build_tiny_network(plan, seed) for seed in range(2)]
    patches = draw_patches(plan, 2)
    with torch.inference_mode():
        expected = (networks[0](patches) + networks[1](patches)) / 2
    found = build_backend(networks, plan, CPU, "32-true", name=name)(patches)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert combine_networks(networks[:1]) is networks[0]


def test_bfloat16_is_only_what_was_asked_for() -> None:
    skip_without("openvino")
    plan = build_plan()
    network = build_tiny_network(plan)
    patches = draw_patches(plan, 1)
    with torch.inference_mode():
        expected = network(patches)
    half = build_backend([network], plan, CPU, "bf16-mixed", name="openvino")
    assert "bfloat16" in half.description
    difference = (half(patches) - expected).abs().max() / expected.abs().max()
    assert difference < 0.05
    exact = build_backend([network], plan, CPU, "32-true", name="openvino")
    assert (exact(patches) - expected).abs().max() / expected.abs().max() < 1e-4


def test_an_answer_outlives_the_next_call() -> None:
    skip_without("openvino")
    plan = build_plan()
    backend = build_backend([build_tiny_network(plan)], plan, CPU, "32-true", name="openvino")
    first = backend(draw_patches(plan, 1, seed=1))
    kept = first.clone()
    second = backend(draw_patches(plan, 1, seed=2))
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["torch", "openvino", "onnxruntime"])
def test_threads_may_share_a_backend(name: Any) -> None:
    skip_without(name)
    plan = build_plan(2)
    backend = build_backend([build_tiny_network(plan)], plan, CPU, "32-true", name=name)
    inputs = [draw_patches(plan, 1 + number % 2, seed=number) for number in range(6)]
    expected = [backend(patches) for patches in inputs]
    found: dict[int, list[Tensor]] = {}

    def compute(number: int) -> None:
        found[number] = [backend(inputs[number]) for _ in range(5)]

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answers in found.items():
        for answer in answers:
            torch.testing.assert_close(answer, expected[number], atol=1e-5, rtol=1e-5)
    assert len(found) == len(inputs)


# ---- equal masks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blurred_scan() -> Volume:
    """Smooth noise, so that structures are larger than voxels and borders as long as in a patient."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(0).normal(size=(59, 62, 57)), 2.0)
    return Volume((400 * noise / noise.std()).astype(np.float32)[None], np.diag([1.0, 1.1, 1.2, 1.0]))


@pytest.fixture
def written_model(write_model: Callable[..., Path], tmp_path: Path) -> Path:
    plan = build_plan_for(ORACLE_TASK, (1.0, 1.0, 1.0), (32, 32, 32))
    plan = plan.model_copy(update={"normalization": (Normalization(rule="zscore"),)})
    weights = build_tiny_network(plan).state_dict()
    # Logits of equal means, so that no label has all voxels.
    weights["network.heads.0.bias"] -= torch.tensor([1.33, 0.33, -0.36, -0.22, 0.31, -0.43])
    return write_model(tmp_path / "model", plan=plan, weights=weights)


def load_with(folder: Path, name: str, **settings: Any) -> Segmenter:
    chosen: dict[str, Any] = {"backend": name, "precision": "fp32", "skip_air": False} | settings
    segmenter = load(folder, device="cpu", **chosen)
    words = {"torch": "PyTorch", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}[name]
    assert segmenter.description.startswith(words)  # none of them in place of another
    return segmenter


def test_backends_give_the_same_mask(written_model: Path, blurred_scan: Volume) -> None:
    """From the scan to the mask: tiles, mirrored passes, and the way back to the scan's voxels."""
    skip_without("openvino", "onnxruntime")
    masks = {
        name: load_with(written_model, name, flips="all").segment(blurred_scan).labels.array
        for name in ("torch", "openvino", "onnxruntime")
    }
    expected = masks["torch"]
    assert (
        np.count_nonzero(np.bincount(expected.reshape(-1)) > 0.02 * expected.size) >= 3
    )  # labels with borders between them
    for name, found in masks.items():
        assert np.count_nonzero(found != expected) <= 1e-4 * expected.size, name


def test_threads_may_share_a_segmenter_whatever_the_backend(written_model: Path, blurred_scan: Volume) -> None:
    skip_without("openvino")
    segmenter = load_with(written_model, "openvino")
    parts = [blurred_scan.array[:, 6 * n : 6 * n + 40, :40, :36] for n in range(4)]
    scans = [Volume(np.ascontiguousarray(part), blurred_scan.affine) for part in parts]
    expected = [segmenter.segment(scan).labels.array for scan in scans]
    assert not np.array_equal(expected[0], expected[1])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda scan: segmenter.segment(scan).labels.array, scans))
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


# ---- which one ---------------------------------------------------------------------------------------------------------


def test_auto_takes_openvino_on_a_cpu_where_it_is_installed() -> None:
    skip_without("openvino")
    plan = build_plan(2)
    backend = build_backend([build_tiny_network(plan)], plan, CPU, "32-true", num_threads=1)
    assert backend.name == "openvino"
    assert backend.description.startswith("OpenVINO 20")
    assert "on 1 thread of the CPU, float32 (converted in memory)" in backend.description


def test_auto_takes_torch_without_openvino_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    plan = build_plan(2)
    backend = build_backend([build_tiny_network(plan)], plan, CPU, "32-true")
    assert backend.name == "torch"
    assert "pip install 'medunet[openvino]'" in backend.description


def test_auto_takes_torch_where_the_conversion_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    skip_without("openvino")

    def fail(network: nn.Module, patch: Tensor) -> dict[str, bytes]:
        raise RuntimeError("No conversion rule for aten::exotic\nmore")

    monkeypatch.setattr("medunet.inference.backends.build.convert_to_openvino", fail)
    plan = build_plan(2)
    network = build_tiny_network(plan)
    with caplog.at_level(logging.WARNING, "medunet"):
        backend = build_backend([network], plan, CPU, "32-true")
    assert [record.getMessage() for record in caplog.records] == [
        "OpenVINO cannot take this network, so PyTorch computes it, slower: No conversion rule for aten::exotic"
    ]
    assert backend.name == "torch"
    check_equals_eager(backend, network, draw_patches(plan, 1))
    with pytest.raises(RuntimeError, match="exotic"):
        build_backend([network], plan, CPU, "32-true", name="openvino")


@pytest.mark.parametrize(("name", "extra"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_a_backend_that_is_not_installed_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: Any, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    plan = build_plan(2)
    with pytest.raises(InputError, match=rf"{name} needs the package {name}, .*pip install 'medunet\[{extra}\]'"):
        build_backend([build_tiny_network(plan)], plan, CPU, "32-true", name=name)


def test_what_a_backend_cannot_do_is_an_error() -> None:
    plan = build_plan(2)
    network = build_tiny_network(plan)
    with pytest.raises(InputError, match="no backend 'tensorrt'; expected one of auto, torch, openvino, onnxruntime"):
        build_backend([network], plan, CPU, "32-true", name="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="computes on the CPU only, and the device is 'cuda'"):
        build_backend([network], plan, torch.device("cuda"), "32-true", name="openvino")
    skip_without("openvino")
    with pytest.raises(InputError, match="float32 or bfloat16; 16-mixed was asked for"):
        build_backend([network], plan, CPU, "16-mixed", name="openvino")


def test_a_network_that_cannot_be_compiled_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compile_badly(network: nn.Module, **_: Any) -> Callable[[Tensor], Tensor]:
        def fail(patches: Tensor) -> Tensor:
            raise RuntimeError("no compiler\nmore")

        return fail

    monkeypatch.setattr(torch, "compile", compile_badly)
    network = AboveThresholds([0.0, 1.0])
    backend = TorchBackend(network, CPU, "32-true", is_compiled=True)
    patches = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    for _ in range(2):
        assert torch.equal(backend(patches), network(patches))
    assert [record.getMessage() for record in caplog.records] == [
        "The network cannot be compiled here and runs uncompiled: no compiler"
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_logits_of_the_cpu() -> None:
    plan = build_plan()
    network = build_tiny_network(plan)
    patches = draw_patches(plan, 2)
    with torch.inference_mode():
        expected = network(patches)
    backend = build_backend([network], plan, torch.device("cuda"), "32-true")
    torch.testing.assert_close(backend(patches.cuda()).cpu(), expected, atol=1e-2, rtol=1e-2)  # TF32


# ---- kept conversions --------------------------------------------------------------------------------------------------


def test_a_conversion_is_kept_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without("openvino")
    plan = build_plan(2)
    network = build_tiny_network(plan)
    patches = draw_patches(plan, 1)
    first = build_backend([network], plan, CPU, "32-true", cache=tmp_path / "backends")
    assert first.description.endswith("(converted now)")
    (path,) = (tmp_path / "backends").iterdir()
    assert path.name == "openvino-float32-16x16x1.safetensors"
    monkeypatch.setattr(
        "medunet.inference.backends.build.convert_to_openvino", lambda *_: pytest.fail("converted twice")
    )
    second = build_backend([network], plan, CPU, "32-true", cache=tmp_path / "backends")
    assert second.description.endswith("(converted before)")
    assert torch.equal(first(patches), second(patches))
    # The arithmetic is chosen when it is loaded, so bfloat16 needs no conversion of its own.
    assert build_backend([network], plan, CPU, "bf16-mixed", cache=tmp_path / "backends").name == "openvino"


@pytest.mark.parametrize("fault", ["other weights", "other versions", "cut short", "one bit", "empty", "other parts"])
def test_what_is_stale_or_damaged_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    skip_without("openvino")
    plan = build_plan(2)
    network = build_tiny_network(plan)
    build_backend([network], plan, CPU, "32-true", cache=tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if fault == "other weights":
        network = build_tiny_network(plan, seed=7)
    elif fault == "other versions":
        monkeypatch.setattr("medunet.inference.backends.build.get_version", lambda: "9.9")
    elif fault == "cut short":
        path.write_bytes(content[:-100])
    elif fault == "one bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif fault == "empty":
        path.write_bytes(b"")
    else:
        from safetensors.torch import save_file

        from medunet.models.folder import compute_weights_sha256

        tensors = {"xml": torch.zeros(3)}
        save_file(tensors, path, metadata={"sha256": compute_weights_sha256(tensors)})
    backend = build_backend([network], plan, CPU, "32-true", cache=tmp_path)
    assert backend.description.endswith("(converted now)")
    check_equals_eager(backend, network, draw_patches(plan, 1))
    assert [other.name for other in tmp_path.iterdir()] == [path.name]
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"key", "xml", "bin"}
    assert build_backend([network], plan, CPU, "32-true", cache=tmp_path).description.endswith("(converted before)")


def test_a_folder_that_cannot_be_written_is_said_once_and_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    skip_without("openvino")
    (tmp_path / "backends").write_text("a file where the folder should be")
    plan = build_plan(2)
    network = build_tiny_network(plan)
    with caplog.at_level(logging.INFO, "medunet"):
        backend = build_backend([network], plan, CPU, "32-true", cache=tmp_path / "backends")
    assert len([record for record in caplog.records if "is not kept" in record.getMessage()]) == 1
    assert backend.description.endswith("(converted in memory)")
    check_equals_eager(backend, network, draw_patches(plan, 1))


def test_networks_of_other_strides_do_not_share_a_conversion(tmp_path: Path) -> None:
    skip_without("openvino")
    plan = build_plan(2)
    network = build_tiny_network(plan)
    build_backend([network], plan, CPU, "32-true", cache=tmp_path)
    strides = ((1, 1, 1), (2, 2, 1), (1, 1, 1))
    other = plan.model_copy(update={"network": plan.network.model_copy(update={"num_scales": 1, "strides": strides})})
    backend = build_backend([build_tiny_network(other)], other, CPU, "32-true", cache=tmp_path)
    assert backend.description.endswith("(converted now)")


@pytest.mark.skipif(sys.platform != "linux", reason="the alternate stack of Linux")
def test_a_signal_is_handled_after_a_network_was_compiled() -> None:
    """In a process of its own: where it goes wrong, the process is gone."""
    skip_without("openvino")
    script = (
        "import os, signal, sys\n"
        "sys.path[:0] = ['tests', '.']\n"
        "import torch\n"
        "from medunet.inference.backends import build_backend\n"
        "from medunet.networks import build_network\n"
        "from oracles import ORACLE_TASK, build_plan_for\n"
        "import ctypes\n"
        "from medunet.inference.backends.signal_stack import _Stack\n"
        "def look():\n"
        "    stack = _Stack()\n"
        "    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))\n"
        "    return stack.sp, stack.flags, stack.size\n"
        "before = look()\n"
        "plan = build_plan_for(ORACLE_TASK, (1.0, 1.0, 1.0), (8, 8, 8))\n"
        "network = build_network(plan.network).eval()\n"
        "backends = [build_backend([network], plan, torch.device('cpu'), precision, name='openvino')\n"
        "            for precision in ('32-true', 'bf16-mixed')]\n"
        "for backend in backends:\n"
        "    backend(torch.zeros(1, 1, 8, 8, 8))\n"
        "print(look() == before)\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "signal.signal(signal.SIGINT, lambda *_: print('interrupted'))\n"  # ignored in a process of the background
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root)
    assert (result.returncode, result.stdout.split()) == (0, ["True", "handled", "interrupted"]), result.stderr


# ---- what it costs to have them ----------------------------------------------------------------------------------------


def test_backends_are_imported_when_they_are_used_and_report_to_nobody() -> None:
    skip_without("openvino")
    script = (
        "import sys, medunet.inference.backends as backends\n"
        "print({'openvino', 'onnxruntime', 'onnx', 'nncf'} & set(sys.modules))\n"
        "from medunet.inference.backends.openvino_backend import import_openvino\n"
        "import_openvino()\n"
        "print(sys.modules['openvino_telemetry'])\n"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root, env=dict(os.environ)
    )
    assert result.stdout.split() == ["set()", "None"]


# ---- eight bits --------------------------------------------------------------------------------------------------------


def test_int8_is_made_from_patches_kept_and_close(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    skip_without("openvino", "nncf")
    plan = build_plan(2)
    network = build_tiny_network(plan)
    patches = draw_patches(plan, 4)
    with pytest.raises(InputError, match="no int8 conversion of these weights"):
        build_backend([network], plan, CPU, "32-true", cache=tmp_path, numbers="int8")
    path = quantize_networks([network], plan, patches, tmp_path)
    assert path.name == "openvino-int8-16x16x1.safetensors"
    assert capfd.readouterr().out == ""
    backend = build_backend([network], plan, CPU, "32-true", cache=tmp_path, numbers="int8")
    assert "int8 and float32 (converted before)" in backend.description
    with torch.inference_mode():
        expected = network(patches)
    difference = (backend(patches) - expected).abs().max() / expected.abs().max()
    assert 1e-4 < difference < 0.3  # other numbers, the same picture
    # float32 has a file of its own, and other weights need another calibration.
    check_equals_eager(build_backend([network], plan, CPU, "32-true", cache=tmp_path), network, patches)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(InputError, match="no int8 conversion of these weights"):
        build_backend([build_tiny_network(plan, 3)], plan, CPU, "32-true", cache=tmp_path, numbers="int8")


def test_what_int8_needs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without("openvino", "nncf")
    plan = build_plan(2)
    network = build_tiny_network(plan)
    with pytest.raises(InputError, match="needs patches to calibrate on"):
        quantize_networks([network], plan, draw_patches(plan, 1)[:0], tmp_path)
    with pytest.raises(InputError, match="int8 is for the backend openvino on the CPU"):
        build_backend([network], plan, CPU, "32-true", name="torch", cache=tmp_path, numbers="int8")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(InputError, match=r"int8 needs the package nncf, .*pip install 'medunet\[int8\]'"):
        quantize_networks([network], plan, draw_patches(plan, 1), tmp_path)
