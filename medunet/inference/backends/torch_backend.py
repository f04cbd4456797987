"""The network as PyTorch runs it: on the CPU, on CUDA, on any other device of torch."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from medunet.device import Precision, is_out_of_memory
from medunet.inference.backends.backend import describe_cpu

logger = logging.getLogger(__name__)

DTYPES: dict[str, torch.dtype] = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PRECISION_WORDS: dict[str, str] = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16"}
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class TorchBackend:
    """The network itself.

    Args:
        network: In evaluation mode; it is moved to the device, and on CUDA its weights go into channels-last order, which
            cuDNN's half-precision convolutions want.
        device: That computes.
        precision: Of the arithmetic; weights stay float32.
        is_compiled: Whether `torch.compile` is tried. Where it fails, the network runs as it is, and that is said once.
            Inference does not ask for it, because a scan may end before the compiler does; ``benchmarks/bench_backends.py
            --compiled`` measures what it gains.
        why: Ends the description.

    Attributes:
        name: ``"torch"``.
        description: One line for people.
    """

    name = "torch"

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        precision: Precision,
        *,
        is_compiled: bool = False,
        why: str = "",
    ) -> None:
        self._network = network.to(device).eval()
        self._device = device
        self._dtype = DTYPES.get(precision)
        if device.type == "cuda":
            _order_channels_last(self._network)
        self._compiled = torch.compile(self._network, dynamic=False) if is_compiled else None
        place = describe_cpu(torch.get_num_threads()) if device.type == "cpu" else str(device)
        self.description = f"PyTorch on {place}, {PRECISION_WORDS[precision]}{', compiled' if is_compiled else ''}{why}"

    def __call__(self, patches: Tensor) -> Tensor:
        """Logits ``(B, out_channels, *patch_size)`` float32 of patches ``(B, C, *patch_size)``."""
        with torch.inference_mode(), torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            if self._device.type == "cuda" and patches.ndim in _CHANNELS_LAST:
                patches = patches.contiguous(memory_format=_CHANNELS_LAST[patches.ndim])
            return self._compute(patches).float()

    def _compute(self, patches: Tensor) -> Tensor:
        if self._compiled is not None:
            try:
                logits: Tensor = self._compiled(patches)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                logits = self._network(patches)  # what fails here, too, is the network's own fault
                self._compiled = None
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                logger.warning("The network cannot be compiled here and runs uncompiled: %s", reason[:200])
            return logits
        logits = self._network(patches)
        return logits


def _order_channels_last(network: nn.Module) -> None:
    """Weights of convolutions in the order that cuDNN wants; a network may hold 2D and 3D ones."""
    for parameter in network.parameters():
        if parameter.ndim in _CHANNELS_LAST:
            parameter.data = parameter.data.contiguous(memory_format=_CHANNELS_LAST[parameter.ndim])
