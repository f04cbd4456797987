"""Which device to compute on, and in which precision. torch is imported only when asked."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medunet.control_groups import find_processor_quota, measure_memory_room
from medunet.errors import InputError

if TYPE_CHECKING:
    import torch

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
PrecisionName = Literal["auto", "bf16", "fp16", "fp32"]

_MAX_WORKERS = 8
_NO_MEMORY = (
    "allocate memory",  # torch's allocator on the CPU, ONNX Runtime
    "bad_alloc",  # C++, such as OpenVINO
    "out of memory",  # CUDA, Apple's GPU
    "out_of_memory",  # CUDA's driver
    "memoryallocation",  # cudaErrorMemoryAllocation
    "alloc_failed",  # cuDNN 8 and cuBLAS: CUDNN_STATUS_ALLOC_FAILED
    "allocation_failed",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
)
"""What libraries say in lower case where torch passes their errors on as errors of any kind."""
_PRECISIONS: dict[str, Precision] = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}


def choose_device(name: str = "auto", *, local_rank: int = 0) -> torch.device:
    """``"auto"`` is the first CUDA device, else the CPU.

    Apple's GPU is taken only when named, because not every 3D operation runs there in every release of torch.

    Args:
        name: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        local_rank: Number of this process among those that train together on this machine: each takes the CUDA device of
            its number. Where a scheduler shows every process only a GPU of its own, it takes that one.

    Raises:
        InputError: If the device is unknown or absent.
    """
    import torch

    if name in ("auto", "cuda") and local_rank > 0 and torch.cuda.is_available() and torch.cuda.device_count() > 1:
        name = f"cuda:{local_rank}"
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


def check_num_devices(name: str, num_devices: int) -> None:
    """Whether so many processes of this machine can have a device each; any number of them shares the CPU.

    Args:
        name: As for `choose_device`.
        num_devices: Processes.

    Raises:
        InputError: If there are not as many CUDA devices, or one device is named for several processes.
    """
    import torch

    device = choose_device(name)
    if num_devices == 1 or device.type == "cpu":
        return
    if device.type != "cuda" or ":" in name:
        msg = f"--devices {num_devices} cannot share device '{name}'; use --device cuda, or one process."
        raise InputError(msg)
    if (found := torch.cuda.device_count()) < num_devices:
        msg = f"--devices {num_devices} needs as many GPUs; this machine shows {found}. Use --devices {found}."
        raise InputError(msg)


def choose_precision(device: torch.device, name: PrecisionName = "auto") -> Precision:
    """bfloat16 where the hardware multiplies it natively (it halves the time there), else float32.

    Args:
        device: That computes.
        name: ``"auto"`` chooses; ``"bf16"``, ``"fp16"`` and ``"fp32"`` are taken as they are.

    Raises:
        InputError: If half precision is asked for on a device that has none.
    """
    import torch

    if name != "auto":
        if name == "fp16" and device.type != "cuda":
            msg = f"--precision fp16 needs a CUDA device, this is '{device}'; use bf16 or fp32."
            raise InputError(msg)
        return _PRECISIONS[name]
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


def count_cores() -> int:
    """Cores that this process may use: job schedulers and containers give less than the machine has; at least 1."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(num_cores, find_processor_quota())))


def count_workers() -> int:
    """Threads that read cases: one per core, at most 8, as each holds a case in memory."""
    return min(_MAX_WORKERS, count_cores())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the CPU or on a GPU; numpy and torch have several words for it.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
        True
        >>> is_out_of_memory(RuntimeError("shapes do not fit"))
        False
    """
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def measure_free_memory() -> int:
    """Bytes of the machine's memory that can still be taken, or of what a container or a scheduler's job may take of it."""
    import psutil

    return int(min(psutil.virtual_memory().available, measure_memory_room()))


def measure_room(device: torch.device) -> int | None:
    """Bytes that this process may take of a device's memory: what is free, and what it has already.

    Args:
        device: The CPU stands for the memory of the machine, see `measure_free_memory`.

    Returns:
        None for other devices than the CPU and CUDA.
    """
    import psutil
    import torch

    if device.type == "cpu":
        return measure_free_memory() + psutil.Process().memory_info().rss
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return None


def restart_peak_memory(device: torch.device) -> None:
    """From here on `measure_peak_memory` looks; nothing happens on other devices than CUDA."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def measure_peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process's tensors have taken of a CUDA device since `restart_peak_memory`; None on other devices."""
    import torch

    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
