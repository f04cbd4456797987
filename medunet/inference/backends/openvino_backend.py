"""OpenVINO on the CPU: the network as one graph whose parts are fused (https://docs.openvino.ai).

OpenVINO's Python package reports its use to Intel when `openvino_telemetry` can be imported; here it cannot.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medunet.device import Precision
from medunet.inference.backends.backend import describe_cpu
from medunet.inference.backends.convert import LOGITS, PATCHES, check_packages, trace_network
from medunet.inference.backends.signal_stack import keep_signal_stack
from medunet.inference.backends.torch_backend import PRECISION_WORDS

GRAPH, WEIGHTS = "xml", "bin"
"""Parts of a converted network, as OpenVINO names its files."""
_HINTS = {"32-true": "f32", "bf16-mixed": "bf16"}


def import_openvino() -> Any:
    """The package, which must not report to anybody what is computed here.

    Raises:
        InputError: If it is not installed.
    """
    check_packages("The backend openvino", ("openvino",), "openvino")
    if "openvino" not in sys.modules:
        # None makes an import fail, upon which OpenVINO takes a stand-in that sends nothing.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def convert_to_openvino(network: nn.Module, patch: Tensor) -> dict[str, bytes]:
    """The network as OpenVINO's graph and weights, float32, for any number of patches.

    Args:
        network: In evaluation mode, on the CPU.
        patch: One patch, ``(1, C, *patch_size)``; its values do not matter.

    Returns:
        ``"xml"`` and ``"bin"``, the content of the files that OpenVINO reads.

    Raises:
        InputError: If the package is missing.
    """
    import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # Not `openvino.convert_model`: it does the same and reports it.
    frontend = FrontEndManager().load_by_framework("pytorch")
    # The graph reads from this object while it is converted; without a name it would be gone by then.
    decoder = TorchScriptPythonDecoder(trace_network(network, patch), example_input=(patch,))
    model = frontend.convert(frontend.load(decoder))
    model.inputs[0].get_tensor().set_names({PATCHES})
    model.outputs[0].get_tensor().set_names({LOGITS})
    model.reshape([-1, *patch.shape[1:]])
    return serialize_openvino(model)


def serialize_openvino(model: Any) -> dict[str, bytes]:
    """A graph of OpenVINO as the content of its two files; weights stay as they are (`save_model` would halve them)."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory(prefix="medunet-") as name:
        graph, weights = Path(name) / "network.xml", Path(name) / "network.bin"
        openvino.serialize(model, str(graph), str(weights))
        return {GRAPH: graph.read_bytes(), WEIGHTS: weights.read_bytes()}


def read_openvino(parts: Mapping[str, bytes]) -> Any:
    """The graph back from the content of its two files."""
    openvino = import_openvino()
    return openvino.Core().read_model(parts[GRAPH], parts[WEIGHTS])


class OpenVinoBackend:
    """A converted network on the CPU.

    Patches run one after the other on all threads: on the CPU a batch is no faster than its patches, and so any number of
    patches needs one graph only, and the memory of one patch. Python's lock is released meanwhile.

    Args:
        parts: From `convert_to_openvino`.
        precision: Of the arithmetic. OpenVINO itself would take bfloat16 wherever the processor has it; here it is only
            taken when asked for.
        num_threads: That compute.
        numbers: What the weights are kept in, for the description.
        why: Ends the description.

    Attributes:
        name: ``"openvino"``.
        description: One line for people.
    """

    name = "openvino"

    def __init__(
        self,
        parts: Mapping[str, bytes],
        precision: Precision,
        *,
        num_threads: int,
        numbers: str = "float32",
        why: str = "",
    ) -> None:
        openvino = import_openvino()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            # Threads that are bound to cores stand in each other's way when two processes compute.
            "ENABLE_CPU_PINNING": False,
        }
        model = read_openvino(parts)
        model.reshape([1, *list(model.inputs[0].partial_shape)[1:]])
        with keep_signal_stack():
            self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        words = PRECISION_WORDS[precision] if numbers == "float32" else f"{numbers} and {PRECISION_WORDS[precision]}"
        release = openvino.__version__.split("-")[0]
        self.description = f"OpenVINO {release} on {describe_cpu(num_threads)}, {words}{why}"

    def __call__(self, patches: Tensor) -> Tensor:
        """Logits ``(B, out_channels, *patch_size)`` float32 of patches ``(B, C, *patch_size)``."""
        arrays = patches.detach().to("cpu", torch.float32).contiguous().numpy()
        shape: list[int] = list(self._compiled.outputs[0].shape)
        logits = torch.empty((len(arrays), *shape[1:]))
        with self._lend_request() as request:
            for number in range(len(arrays)):
                # Shared: read where it lies; the answer is copied before the request computes the next one.
                answer = request.infer({0: arrays[number : number + 1]}, share_inputs=True, share_outputs=True)
                logits[number] = torch.from_numpy(answer[0])[0]
        return logits

    @contextmanager
    def _lend_request(self) -> Iterator[Any]:
        """A request, with the memory in which one patch is computed, belongs to one thread at a time."""
        with self._lock:
            request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        try:
            yield request
        finally:
            with self._lock:
                self._idle.append(request)
