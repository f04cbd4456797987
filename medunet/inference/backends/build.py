"""Which backend computes a network, and building it."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from medunet.device import Precision
from medunet.errors import InputError
from medunet.inference.backends.backend import BACKEND_NAMES, Backend, BackendName
from medunet.inference.backends.combine import combine_networks
from medunet.inference.backends.convert import check_packages, convert_to_onnx, is_installed
from medunet.inference.backends.kept import (
    ConversionKey,
    explain_no_conversion,
    get_version,
    hash_network,
    keep_conversion,
    read_conversion,
)
from medunet.inference.backends.onnx_backend import GRAPH, OnnxBackend
from medunet.inference.backends.openvino_backend import OpenVinoBackend, convert_to_openvino
from medunet.inference.backends.torch_backend import TorchBackend
from medunet.inference.surroundings import find_seen_size, let_see_surroundings
from medunet.planning import Plan

logger = logging.getLogger(__name__)

Numbers = Literal["float32", "int8"]
"""What the weights of a converted network are kept in."""

_OPENVINO_PRECISIONS = ("32-true", "bf16-mixed")
_CONVERTERS = {"openvino": ("openvino",), "onnxruntime": ("onnx", "onnxscript")}
"""Packages whose version decides what a conversion is."""


def build_backend(
    networks: Sequence[nn.Module],
    plan: Plan,
    device: torch.device,
    precision: Precision,
    *,
    name: BackendName = "auto",
    cache: Path | None = None,
    num_threads: int | None = None,
    numbers: Numbers = "float32",
) -> Backend:
    """Networks of one plan, ready to compute patches; several answer with the mean of their logits.

    Args:
        networks: One or more, in evaluation mode. With PyTorch they are moved to the device.
        plan: Of all of them: size and channels of a patch.
        device: That computes.
        precision: Of the arithmetic. ``"32-true"`` is float32 in every backend; ONNX Runtime always computes in it.
        name: ``"auto"`` takes OpenVINO on a CPU where it is installed, PyTorch everywhere else, and where the conversion
            fails, with a warning.
        cache: Folder for converted networks, such as ``model.folder / "backends"``; None, or a folder that cannot be
            written, keeps them in memory.
        num_threads: On the CPU, for OpenVINO and ONNX Runtime; those of torch when None.
        numbers: ``"int8"`` is for OpenVINO, and takes from ``cache`` what `quantize_networks` put there; what is not int8 in
            it is computed in ``precision``.

    Returns:
        The backend; its ``description`` says in one line what was taken and why.

    Raises:
        InputError: If a backend is unknown, not installed, cannot compute on that device or in that precision, or there is
            no int8 conversion of these weights.
    """
    if name not in BACKEND_NAMES:
        msg = f"There is no backend '{name}'; expected one of {', '.join(BACKEND_NAMES)}."
        raise InputError(msg)
    networks = [let_see_surroundings(network, plan) for network in networks]
    network = combine_networks(networks)
    threads = num_threads or torch.get_num_threads()
    if numbers == "int8":
        return _build_int8(network, networks, plan, device, precision, name, cache, threads)
    why_torch = ""
    if name == "auto":
        name, why_torch = _choose(device, precision)
        if name == "openvino":
            try:
                return _build_openvino(network, networks, plan, precision, cache, threads)
            except Exception as error:
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                logger.warning("OpenVINO cannot take this network, so PyTorch computes it, slower: %s", reason[:200])
                why_torch = " (OpenVINO cannot take this network)"
    elif name != "torch" and device.type != "cpu":
        msg = f"The backend {name} computes on the CPU only, and the device is '{device}'; use the device cpu, or the backend torch."
        raise InputError(msg)
    elif name == "openvino":
        return _build_openvino(network, networks, plan, precision, cache, threads)
    elif name == "onnxruntime":
        return _build_onnx(network, networks, plan, cache, threads)
    return TorchBackend(network, device, precision, why=why_torch)


def _choose(device: torch.device, precision: Precision) -> tuple[BackendName, str]:
    """The backend, and for PyTorch why no faster one was taken."""
    if device.type != "cpu":
        return "torch", ""
    if not is_installed("openvino"):
        return "torch", " (OpenVINO is faster here: pip install 'medunet[openvino]')"
    return ("openvino", "") if precision in _OPENVINO_PRECISIONS else ("torch", "")


def _build_openvino(
    network: nn.Module,
    networks: Sequence[nn.Module],
    plan: Plan,
    precision: Precision,
    cache: Path | None,
    threads: int,
) -> Backend:
    check_packages("The backend openvino", ("openvino",), "openvino")
    if precision not in _OPENVINO_PRECISIONS:
        msg = f"The backend openvino computes in float32 or bfloat16; {precision} was asked for. Use --precision fp32 or bf16."
        raise InputError(msg)
    patch = build_example_tile(plan)
    key = build_key("openvino", network, len(networks), plan)
    parts, how = _convert_on_cpu(cache, key, network, lambda: convert_to_openvino(network, patch))
    return OpenVinoBackend(parts, precision, num_threads=threads, why=f" ({how})")


def _build_int8(
    network: nn.Module,
    networks: Sequence[nn.Module],
    plan: Plan,
    device: torch.device,
    precision: Precision,
    name: BackendName,
    cache: Path | None,
    threads: int,
) -> Backend:
    check_packages("int8", ("openvino",), "openvino")
    if name not in ("auto", "openvino") or device.type != "cpu" or precision not in _OPENVINO_PRECISIONS:
        msg = (
            f"int8 is for the backend openvino on the CPU, beside fp32 or bf16; backend {name}, device '{device}' and {precision} "
            "were asked for."
        )
        raise InputError(msg)
    key = build_key("openvino", network, len(networks), plan, numbers="int8")
    parts = None if cache is None else read_conversion(cache / key.file_name, key)
    if parts is None:
        why = "" if cache is None else f" ({explain_no_conversion(cache / key.file_name, key)})"
        msg = (
            f"There is no int8 conversion of these weights in {cache}{why}; make one with medunet quantize or "
            "quantize_networks, or use float32."
        )
        raise InputError(msg)
    return OpenVinoBackend(parts, precision, num_threads=threads, numbers="int8", why=" (converted before)")


def _build_onnx(
    network: nn.Module, networks: Sequence[nn.Module], plan: Plan, cache: Path | None, threads: int
) -> Backend:
    check_packages("The backend onnxruntime", ("onnxruntime", "onnx", "onnxscript"), "onnx")
    patch = build_example_tile(plan)
    key = build_key("onnxruntime", network, len(networks), plan)
    parts, how = _convert_on_cpu(cache, key, network, lambda: {GRAPH: convert_to_onnx(network, patch)})
    return OnnxBackend(parts, num_threads=threads, why=f" ({how})")


def build_example_patch(plan: Plan) -> torch.Tensor:
    """One patch of a plan, ``(1, C, *patch_size)``, without meaning."""
    return torch.zeros((1, plan.network.in_channels, *plan.patch_size))


def build_example_tile(plan: Plan) -> torch.Tensor:
    """One tile of a plan as its networks see it in a scan: a patch, with what surrounds it where they have no padding."""
    return torch.zeros((1, plan.network.in_channels, *find_seen_size(plan)))


def _convert_on_cpu(
    cache: Path | None, key: ConversionKey, network: nn.Module, convert: Callable[[], Mapping[str, bytes]]
) -> tuple[Mapping[str, bytes], str]:
    network.to("cpu").eval()
    return keep_conversion(cache, key, convert)


def build_key(
    backend: str, network: nn.Module, num_networks: int, plan: Plan, *, numbers: Numbers = "float32"
) -> ConversionKey:
    """What a conversion of these networks by the installed packages would be made from.

    Args:
        backend: ``"openvino"`` or ``"onnxruntime"``.
        network: From `combine_networks`.
        num_networks: That it is made of.
        plan: Of all of them.
        numbers: What the weights are kept in.
    """
    versions = {package: importlib.metadata.version(package) for package in ("torch", *_CONVERTERS[backend])}
    return ConversionKey(
        backend=backend,
        numbers=numbers,
        patch_shape=(plan.network.in_channels, *find_seen_size(plan)),
        num_networks=num_networks,
        network=plan.network.model_dump(mode="json"),
        weights_sha256=hash_network(network),
        versions={"medunet": get_version(), **versions},
    )
