"""Which device to compute on, and in which precision. torch is imported only when asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medunet.errors import InputError

if TYPE_CHECKING:
    import torch

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def choose_device(name: str = "auto") -> torch.device:
    """``"auto"`` is the first CUDA device, else the CPU.

    Apple's GPU is taken only when named, because not every 3D operation runs there in every release of torch.

    Raises:
        InputError: If the device is unknown or absent.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f"There is no device '{name}'; expected auto, cpu, cuda, cuda:1 or mps."
        raise InputError(msg) from error
    is_absent = {
        "cuda": not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count(),
        "mps": not torch.backends.mps.is_available(),
        "cpu": False,
    }.get(device.type, True)
    if is_absent:
        msg = f"Device '{name}' is not here ({torch.cuda.device_count()} CUDA devices found); use --device auto or cpu."
        raise InputError(msg)
    return device


def choose_precision(device: torch.device) -> Precision:
    """bfloat16 where the hardware multiplies it natively (it halves the time there), else float32."""
    import torch

    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if device.type == "cpu" and _has_native_bf16() else "32-true"


def _has_native_bf16() -> bool:
    """oneDNN also emulates bfloat16, slower than float32, so ask the processor itself."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))
