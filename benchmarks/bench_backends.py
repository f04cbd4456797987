"""One pass of a network over patches: PyTorch, OpenVINO and ONNX Runtime on the CPU, as ratios to PyTorch in float32.

U-Nets in nnU-Net's shape (instance normalisation, leaky ReLU) with random weights, several channels and patch sizes. Every
backend is built as inference builds it, from the same weights. The backends take turns, so that a machine that becomes
slower becomes so for all. Beside the time: the largest difference of a logit from PyTorch in float32 as a share of the
largest logit, and the share of voxels with another label.

`--settings` compares how OpenVINO can be told to use the cores. `--int8` quantises with NNCF
(`medunet[int8]`), on random patches. `--compiled` runs PyTorch through `torch.compile`, too, which inference does nowhere: what
it would gain there has to be seen before it is taken. `--device cuda` compares the ways of PyTorch on a GPU.

    python benchmarks/bench_backends.py [--features 16 32] [--patches 64 96] [--rounds 5] [--settings] [--int8] [--compiled]
                                        [--device cuda]
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medunet.device import Precision
from medunet.inference.backends import (
    Backend,
    TorchBackend,
    build_backend,
    convert_to_openvino,
    is_installed,
    quantize_networks,
)
from medunet.inference.backends.openvino_backend import import_openvino, read_openvino
from medunet.networks import build_network
from medunet.planning import NetworkPlan, Normalization, OptimizerPlan, Plan

CPU = torch.device("cpu")
BASE = "PyTorch, float32"
NUM_CLASSES = 4
MAX_FEATURES = 320
Compute = Callable[[Tensor], Tensor]


def main() -> None:
    """Print one table per network and patch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, nargs="+", default=[16, 32], help="channels of the first stage")
    parser.add_argument("--patches", type=int, nargs="+", default=[64, 96], help="edges of the patches")
    parser.add_argument("--architecture", choices=["unet", "residual-unet"], default="unet")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each way gets")
    parser.add_argument("--settings", action="store_true", help="compare settings of OpenVINO, too")
    parser.add_argument("--int8", action="store_true", help="quantise with NNCF, too")
    parser.add_argument("--compiled", action="store_true", help="run PyTorch compiled, too")
    parser.add_argument("--device", type=torch.device, default=CPU, help="cpu, or cuda for PyTorch alone")
    arguments = parser.parse_args()
    if arguments.device.type != "cpu" and (arguments.settings or arguments.int8):
        parser.error("--settings and --int8 are about OpenVINO, which computes on the CPU")
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for features in arguments.features:
        for edge in arguments.patches:
            plan = build_plan(features, edge, arguments.architecture)
            network = build_random_network(plan)
            ways = build_ways(network, plan, arguments.device, with_compiled=arguments.compiled)
            if arguments.settings:
                ways |= build_openvino_settings(network, plan)
            if arguments.int8:
                ways |= build_int8(network, plan)
            print_table(ways, plan, network, arguments.rounds)


def build_plan(features: int, edge: int, architecture: str) -> Plan:
    """A network in nnU-Net's shape for cubic patches: halved until 4 or 6 voxels are left, at most 6 stages."""
    num_stages = min(6, 1 + next(halvings for halvings in range(9) if edge >> halvings <= 6))
    is_plain = architecture == "unet"
    return Plan(
        task="bench",
        modality="CT",
        configuration="3d",
        spacing=(1.0, 1.0, 1.0),
        median_shape=(edge, edge, edge),
        patch_size=(edge, edge, edge),
        batch_size=2,
        normalization=(Normalization(rule="none"),),
        network=NetworkPlan(
            architecture="unet" if is_plain else "residual-unet",
            spatial_dims=3,
            in_channels=1,
            out_channels=NUM_CLASSES,
            features=tuple(min(MAX_FEATURES, features * 2**stage) for stage in range(num_stages)),
            strides=((1, 1, 1), *[(2, 2, 2)] * (num_stages - 1)),
            kernels=((3, 3, 3),) * num_stages,
            encoder_blocks=(2,) * num_stages if is_plain else (1, 3, 4, 6, 6, 6)[:num_stages],
            decoder_convolutions=((2,) if is_plain else (1,)) * (num_stages - 1),
            num_scales=1,
        ),
        optimizer=OptimizerPlan(name="adamw", learning_rate=1e-3, weight_decay=0.0, schedule="cosine"),
        reasons={},
    )


def build_random_network(plan: Plan) -> nn.Module:
    """Weights that leave nothing out: fresh instance norms scale by one and shift by nothing."""
    torch.manual_seed(0)
    network = build_network(plan.network).eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.3)
        elif not parameter.any():
            nn.init.normal_(parameter, 0, 0.05)
    return network


def build_ways(
    network: nn.Module, plan: Plan, device: torch.device, *, with_compiled: bool = False
) -> dict[str, Compute]:
    """Every backend that is installed and computes on the device, in every precision that it has."""
    ways: dict[str, Compute] = {}
    choices: list[tuple[str, Any, Precision]] = [
        (BASE, "torch", "32-true"),
        ("PyTorch, bfloat16", "torch", "bf16-mixed"),
        ("OpenVINO, float32", "openvino", "32-true"),
        ("OpenVINO, bfloat16", "openvino", "bf16-mixed"),
        ("ONNX Runtime, float32", "onnxruntime", "32-true"),
    ]
    for title, name, precision in choices:
        if name != "torch" and (device.type != "cpu" or not is_installed(name)):
            print(f"{title}: not installed, or not for {device}")
            continue
        start = time.perf_counter()
        backend = build_backend([network], plan, device, precision, name=name)
        ways[title] = _compute_on(backend, device)
        print(f"{title}: built in {time.perf_counter() - start:.1f} s")
        if with_compiled and name == "torch":
            start = time.perf_counter()
            # A copy: what is compiled must not change what the others compute.
            compiled = TorchBackend(copy.deepcopy(network), device, precision, is_compiled=True)
            ways[f"{title}, compiled"] = _compute_on(compiled, device)
            ways[f"{title}, compiled"](_draw_patches(plan))  # compiles at the first call
            print(f"{title}, compiled: built in {time.perf_counter() - start:.1f} s")
    return ways


def _compute_on(backend: Backend, device: torch.device) -> Compute:
    """From patches on the CPU to logits there; waits for the device."""
    return backend if device.type == "cpu" else lambda patches: backend(patches.to(device)).cpu()


def _draw_patches(plan: Plan) -> Tensor:
    return torch.randn((2, 1, *plan.patch_size), generator=torch.Generator().manual_seed(1))


def build_openvino_settings(network: nn.Module, plan: Plan) -> dict[str, Compute]:
    """OpenVINO with other ways to use the cores; each takes two patches."""
    openvino = import_openvino()
    parts = convert_to_openvino(network, torch.zeros((1, 1, *plan.patch_size)))
    threads = torch.get_num_threads()
    ways: dict[str, Compute] = {}
    for title, batch, settings in (
        ("OpenVINO, both patches at once", 2, {"PERFORMANCE_HINT": "LATENCY"}),
        ("OpenVINO, any number of patches", -1, {"PERFORMANCE_HINT": "LATENCY"}),
        ("OpenVINO, a stream per patch", 1, {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": 2}),
    ):
        model = read_openvino(parts)
        model.reshape([batch, 1, *plan.patch_size])
        all_settings = {**settings, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(model, "CPU", all_settings)
        ways[title] = _compute_in_streams(compiled) if batch == 1 else _compute_at_once(compiled)
    return ways


def _compute_at_once(compiled: Any) -> Compute:
    request = compiled.create_infer_request()
    return lambda patches: torch.from_numpy(request.infer({0: patches.numpy()})[0])


def _compute_in_streams(compiled: Any) -> Compute:
    requests = [compiled.create_infer_request() for _ in range(2)]

    def compute(patches: Tensor) -> Tensor:
        for request, patch in zip(requests, patches, strict=True):
            request.start_async({0: patch[None].numpy()})
        for request in requests:
            request.wait()
        return torch.cat([torch.from_numpy(request.get_output_tensor().data.copy()) for request in requests])

    return compute


def build_int8(network: nn.Module, plan: Plan) -> dict[str, Compute]:
    """Convolutions in int8, calibrated on four random patches; the rest in float32 or bfloat16."""
    patches = torch.randn((4, 1, *plan.patch_size), generator=torch.Generator().manual_seed(7))
    with tempfile.TemporaryDirectory() as folder:
        quantize_networks([network], plan, patches, Path(folder))
        precisions: tuple[Precision, ...] = ("32-true", "bf16-mixed")
        return {
            f"OpenVINO, int8 and {words}": build_backend(
                [network], plan, CPU, precision, cache=Path(folder), numbers="int8"
            )
            for precision, words in zip(precisions, ("float32", "bfloat16"), strict=True)
        }


def print_table(ways: Mapping[str, Compute], plan: Plan, network: nn.Module, rounds: int) -> None:
    """Seconds per patch (median over the turns), ratio to PyTorch in float32, and what the answers differ by."""
    patches = _draw_patches(plan)
    expected = ways[BASE](patches)
    differences = {title: _compare(compute(patches), expected) for title, compute in ways.items()}
    seconds: dict[str, list[float]] = {title: [] for title in ways}
    for _ in range(rounds):
        for title, compute in ways.items():
            start = time.perf_counter()
            compute(patches)
            seconds[title].append((time.perf_counter() - start) / len(patches))
    num_weights = sum(parameter.numel() for parameter in network.parameters())
    size = "x".join(map(str, plan.patch_size))
    print(f"\n{plan.network.features[0]} channels, {num_weights / 1e6:.1f} M weights, patches of {size}, two per call")
    base = statistics.median(seconds[BASE])
    for title, times in seconds.items():
        middle = statistics.median(times)
        logits, labels = differences[title]
        print(
            f"{title:34} {middle:8.3f} s per patch  {base / middle:5.2f} x as fast   "
            f"logits {logits:.1e}   labels {labels:.1e}"
        )


def _compare(found: Tensor, expected: Tensor) -> tuple[float, float]:
    logits = float((found - expected).abs().max() / expected.abs().max())
    return logits, float((found.argmax(1) != expected.argmax(1)).float().mean())


if __name__ == "__main__":
    main()
