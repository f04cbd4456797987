"""What computes the network: PyTorch, OpenVINO or ONNX Runtime, all behind one call from patches to logits."""

from medunet.inference.backends.backend import BACKEND_NAMES, Backend, BackendName
from medunet.inference.backends.build import Numbers, build_backend, build_example_patch, build_example_tile
from medunet.inference.backends.combine import MeanOfLogits, combine_networks
from medunet.inference.backends.convert import check_packages, convert_to_onnx, is_installed, trace_network
from medunet.inference.backends.int8 import quantize_networks
from medunet.inference.backends.kept import FOLDER, hash_network
from medunet.inference.backends.onnx_backend import OnnxBackend
from medunet.inference.backends.openvino_backend import OpenVinoBackend, convert_to_openvino
from medunet.inference.backends.torch_backend import TorchBackend

__all__ = [
    "BACKEND_NAMES",
    "FOLDER",
    "Backend",
    "BackendName",
    "MeanOfLogits",
    "Numbers",
    "OnnxBackend",
    "OpenVinoBackend",
    "TorchBackend",
    "build_backend",
    "build_example_patch",
    "build_example_tile",
    "check_packages",
    "combine_networks",
    "convert_to_onnx",
    "convert_to_openvino",
    "hash_network",
    "is_installed",
    "quantize_networks",
    "trace_network",
]
