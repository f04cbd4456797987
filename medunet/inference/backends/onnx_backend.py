"""ONNX Runtime on the CPU (https://onnxruntime.ai): for machines where it is there and OpenVINO is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medunet.inference.backends.backend import describe_cpu
from medunet.inference.backends.convert import LOGITS, PATCHES, check_packages

GRAPH = "onnx"
"""The one part of a converted network."""


def import_onnxruntime() -> Any:
    """The package.

    Raises:
        InputError: If it is not installed.
    """
    check_packages("The backend onnxruntime", ("onnxruntime",), "onnx")
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


class OnnxBackend:
    """A converted network on the CPU, in float32. Python's lock is released while it computes.

    Args:
        parts: ``"onnx"``: from `convert_to_onnx`.
        num_threads: That compute.
        why: Ends the description.

    Attributes:
        name: ``"onnxruntime"``.
        description: One line for people.
    """

    name = "onnxruntime"

    def __init__(self, parts: Mapping[str, bytes], *, num_threads: int, why: str = "") -> None:
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(parts[GRAPH], options, providers=["CPUExecutionProvider"])
        self.description = f"ONNX Runtime {runtime.__version__} on {describe_cpu(num_threads)}, float32{why}"

    def __call__(self, patches: Tensor) -> Tensor:
        """Logits ``(B, out_channels, *patch_size)`` float32 of patches ``(B, C, *patch_size)``."""
        array = patches.detach().to("cpu", torch.float32).contiguous().numpy()
        return torch.from_numpy(self._session.run([LOGITS], {PATCHES: array})[0])
