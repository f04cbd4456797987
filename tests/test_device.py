"""The device that is asked for, or a message that says what is there; precision by what the hardware multiplies."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from medunet import device
from medunet.device import check_num_devices, choose_device, choose_precision, count_cores, count_workers
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
    ("num_cores", "limit", "expected"),
    [
        (12, None, (12, 8)),  # at most 8 read
        (3, "max 100000", (3, 3)),
        (16, "250000 100000", (3, 3)),  # two and a half
        (2, "800000 100000", (2, 2)),
        (4, "1000 100000", (1, 1)),
    ],
)
def test_the_cores_are_those_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, num_cores: int, limit: str | None, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(num_cores)), raising=False)
    monkeypatch.setattr(device.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(device, "_CPU_LIMIT", tmp_path / "cpu.max")
    if limit is not None:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert (count_cores(), count_workers()) == expected
