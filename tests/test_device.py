"""The device that is asked for, or a message that says what is there; precision by what the hardware multiplies."""

from __future__ import annotations

import errno
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from medunet import device
from medunet.device import (
    check_num_devices,
    choose_device,
    choose_precision,
    count_cores,
    count_workers,
    is_out_of_memory,
    measure_free_memory,
    measure_peak_memory,
    measure_room,
    restart_peak_memory,
)
from medunet.errors import InputError


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "cpu"), (False, False, "cpu")],
)
def test_auto_never_takes_apples_gpu(
    monkeypatch: pytest.MonkeyPatch, has_cuda: bool, has_mps: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert choose_device().type == choose_device("auto").type == chosen


def test_apples_gpu_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == torch.device("mps")


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "CPU", "cuda:-1"])
def test_an_unknown_device(name: str) -> None:
    with pytest.raises(InputError, match=f"There is no device '{name}'; expected auto, cpu, cuda, cuda:1 or mps"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "meta", "xpu"])
def test_an_absent_device(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"Device '{name}' is not here .*use --device auto or cpu"):
        choose_device(name)


@pytest.mark.parametrize(("name", "is_there"), [("cuda", True), ("cuda:1", True), ("cuda:2", False)])
def test_cuda_devices_are_counted(monkeypatch: pytest.MonkeyPatch, name: str, is_there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if is_there:
        assert choose_device(name) == torch.device(name)
        return
    with pytest.raises(InputError, match=r"Device 'cuda:2' is not here \(2 CUDA devices found\)"):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "num_found", "local_rank", "chosen"),
    [
        ("auto", 4, 3, "cuda:3"),
        ("cuda", 4, 0, "cuda"),
        ("cuda", 1, 3, "cuda"),  # the scheduler shows each process a GPU of its own
        ("cpu", 4, 3, "cpu"),
        ("auto", 0, 3, "cpu"),
    ],
)
def test_each_process_takes_the_gpu_of_its_number(
    monkeypatch: pytest.MonkeyPatch, name: str, num_found: int, local_rank: int, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_found)
    assert choose_device(name, local_rank=local_rank) == torch.device(chosen)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"Device 'cuda:3' is not here \(2 CUDA devices found\)"):
        choose_device(local_rank=3)


@pytest.mark.parametrize(
    ("name", "num_devices", "message"),
    [
        ("cuda", 3, "--devices 3 needs as many GPUs; this machine shows 2. Use --devices 2"),
        ("cuda:1", 2, "--devices 2 cannot share device 'cuda:1'"),
        ("mps", 2, "--devices 2 cannot share device 'mps'"),
        ("cuda:1", 1, None),
        ("auto", 2, None),
        ("cpu", 16, None),
    ],
)
def test_several_processes_need_several_gpus(
    monkeypatch: pytest.MonkeyPatch, name: str, num_devices: int, message: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with nullcontext() if message is None else pytest.raises(InputError, match=message):
        check_num_devices(name, num_devices)


@pytest.mark.parametrize(("is_native", "precision"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_cuda_precision(monkeypatch: pytest.MonkeyPatch, is_native: bool, precision: str) -> None:
    def is_supported(*, including_emulation: bool) -> bool:
        assert not including_emulation
        return is_native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert choose_precision(torch.device("cuda")) == precision


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("fpu avx512f avx512_bf16 sse", "bf16-mixed"),
        ("fpu amx_bf16", "bf16-mixed"),
        ("fpu avx512f avx2", "32-true"),
        (None, "32-true"),
    ],
)
def test_cpu_precision_is_what_the_processor_multiplies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str | None, precision: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\nbugs : none\n")
    monkeypatch.setattr(device, "Path", lambda name: cpuinfo if name == "/proc/cpuinfo" else Path(name))
    assert choose_precision(torch.device("cpu")) == precision


def test_other_devices_take_float32() -> None:
    assert choose_precision(torch.device("mps")) == "32-true"


@pytest.mark.parametrize(
    ("num_cores", "quota", "expected"),
    [
        (12, math.inf, (12, 8)),  # at most 8 read
        (16, 2.5, (3, 3)),
        (2, 8.0, (2, 2)),
        (4, 0.01, (1, 1)),
    ],
)
def test_the_cores_are_those_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, num_cores: int, quota: float, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(num_cores)), raising=False)
    monkeypatch.setattr(device.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(device, "find_processor_quota", lambda: quota)
    assert (count_cores(), count_workers()) == expected


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
        "unable to mmap 8 bytes from file <x>: Cannot allocate memory (12)",
        "CUDA error: out of memory",
        "CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
        "CUDA error: cudaErrorMemoryAllocation",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 9.00 GB)",
        "Exception from src/inference/src/cpp/infer_request.cpp:223:\nstd::bad_alloc",
        "bad allocation: Failed to allocate memory for requested buffer of size 8",
    ],
)
def test_every_library_has_words_for_too_little_memory(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(ValueError(words))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyError("out of memory"),
    ],
)
def test_other_errors_are_none_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_errors_of_memory_without_words() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))


def test_room_is_what_is_free_and_what_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    room = measure_room(torch.device("cpu"))
    assert room is not None
    assert (
        psutil.Process().memory_info().rss < room <= 1.1 * psutil.virtual_memory().total
    )  # pages of files are counted twice
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (5000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda where: 700)
    assert measure_room(torch.device("cuda:1")) == 5700
    assert measure_room(torch.device("mps")) is None


@pytest.mark.parametrize(("allowed", "free"), [(1300, 1300), (0, 0), (math.inf, 9000), (50_000, 9000)])
def test_room_of_a_container_is_what_it_may_take(monkeypatch: pytest.MonkeyPatch, allowed: float, free: int) -> None:
    import psutil

    monkeypatch.setattr(device, "measure_memory_room", lambda: allowed)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(rss=70))
    assert measure_free_memory() == free
    assert measure_room(torch.device("cpu")) == free + 70


def test_the_peak_of_a_gpu_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    restart_peak_memory(torch.device("cpu"))
    assert measure_peak_memory(torch.device("cpu")) is None
    peaks = {torch.device("cuda:1"): 9}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda where: peaks.update({where: 2}))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda where: peaks[where])
    assert measure_peak_memory(torch.device("cuda:1")) == 9
    restart_peak_memory(torch.device("cuda:1"))
    assert measure_peak_memory(torch.device("cuda:1")) == 2
