"""What a scan takes is known beforehand, a limit is kept by computing less at a time, and the labels are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from oracles import ORACLE_HU, ORACLE_TASK, NearestIntensity, Outcome, build_plan_for
from torch import Tensor

from medunet.errors import InputError
from medunet.inference import InferenceSettings, Segmenter, sliding_window
from medunet.inference.at_once import Portions
from medunet.inference.boundary import BLOCK
from medunet.inference.memory_need import (
    Work,
    choose_portions,
    count_activation_bytes,
    estimate_memory,
    measure_axes,
)
from medunet.models import Model
from medunet.networks import build_network
from medunet.networks.cost import count_pass_bytes
from medunet.planning import Plan

FACTOR = 1.5
"""By which the estimate may be off, either way; docs/inference.md states it."""
SHAPE, SPACING = (120, 90, 70), (1.0, 1.2, 2.0)
PLAN = build_plan_for(ORACLE_TASK, (2.0, 2.0, 2.0), (32, 24, 16))
LARGEST = Portions(batch_size=4)


def build_plan(
    architecture: str, spatial_dims: int, features: tuple[int, ...], patch_size: tuple[int, int, int]
) -> Plan:
    stride, kernel = ((2, 2, 2), (3, 3, 3)) if spatial_dims == 3 else ((2, 2, 1), (3, 3, 1))
    network = PLAN.network.model_copy(
        update={
            "architecture": architecture,
            "spatial_dims": spatial_dims,
            "features": features,
            "strides": ((1, 1, 1), *[stride] * (len(features) - 1)),
            "kernels": (kernel,) * len(features),
            "encoder_blocks": (2,) * len(features),
            "decoder_convolutions": (2 if architecture == "unet" else 1,) * (len(features) - 1),
        }
    )
    return PLAN.model_copy(update={"network": network, "patch_size": patch_size})


# ---- terms -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "spatial_dims", "features", "patch_size"),
    [
        ("unet", 3, (8, 16, 32, 64), (32, 24, 16)),
        ("unet", 2, (8, 16, 32), (32, 24, 1)),
        ("residual-unet", 3, (8, 16, 24), (16, 24, 16)),
    ],
)
def test_what_a_network_holds_is_what_torch_counts(
    architecture: str, spatial_dims: int, features: tuple[int, ...], patch_size: tuple[int, int, int]
) -> None:
    plan = build_plan(architecture, spatial_dims, features, patch_size)
    with torch.device("meta"):
        network = build_network(plan.network)
    counted = count_pass_bytes(network, plan.network.in_channels, patch_size, 2)
    assert count_activation_bytes(plan, 2) == pytest.approx(counted, rel=0.05)


def test_a_pass_by_hand() -> None:
    """Two convolutions of 4 and 2 channels: with the input, the first holds 1 + 4, and copies of both."""
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, 2, 1)).to("meta")
    voxels = 6 * 5 * 4
    assert count_pass_bytes(network, 1, (6, 5, 4)) == 4 * voxels * max((1 + 4) + (1 + 4), (1 + 4 + 2) + (4 + 2))


def test_the_sums_are_those_that_are_allocated(
    build_oracle: Callable[..., Model], make_volume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    allocate = sliding_window._allocate

    def record(size: Any, device: torch.device) -> Tensor:
        sums = allocate(size, device)
        sizes.append(sums.nbytes)
        return sums

    monkeypatch.setattr(sliding_window, "_allocate", record)
    scan = make_volume(shape=(40, 33, 50), spacing=(1.0, 1.2, 1.5), orientation="LPI")
    found = Segmenter(build_oracle(spacing=(1.0, 1.2, 1.5)), "cpu", InferenceSettings(skip_air=False)).segment(scan)
    assert found.memory is not None
    assert found.memory.stages["network"]["sums of a row"] == sizes[0]


def test_the_sum_is_that_of_the_constant_and_the_largest_stage() -> None:
    need = estimate_memory(SHAPE, SPACING, Work(plan=PLAN), LARGEST, voxel_bytes=2)
    largest = max(sum(stage.values()) for stage in need.stages.values())
    assert need.host_bytes == sum(need.constant.values()) + largest
    assert need.constant["scan"] == 2 * 120 * 90 * 70
    content = need.to_json()
    parts = sum(value for name, value in content.items() if name.startswith("host: "))
    assert content["host"] == pytest.approx(parts, abs=1)
    assert f"{need.host_bytes / 1e9:.1f} GB" in need.describe()


@pytest.mark.parametrize(
    ("change", "terms"),
    [
        ({"num_flips": 8}, {"tiles"}),
        ({"num_networks": 5}, {"weights", "tiles"}),
        ({"keeps_logits": True}, {"all logits"}),
        ({"label_bytes": 4}, {"mask"}),
        ({"step_fraction": 0.75}, set()),
    ],
)
def test_more_work_takes_more(change: dict[str, Any], terms: set[str]) -> None:
    usual = estimate_memory(SHAPE, SPACING, Work(plan=PLAN), LARGEST)
    more = estimate_memory(SHAPE, SPACING, replace(Work(plan=PLAN), **change), LARGEST)
    before, after = ({**need.constant, **need.stages["network"]} for need in (usual, more))
    assert {name for name in after if after[name] > before.get(name, 0)} == terms


def test_a_gpu_holds_what_it_computes() -> None:
    need = estimate_memory(SHAPE, SPACING, Work(plan=PLAN, on_device=True), LARGEST)
    cpu = estimate_memory(SHAPE, SPACING, Work(plan=PLAN), LARGEST)
    assert need.device["network at work"] == cpu.stages["network"]["network at work"]
    assert "network at work" not in need.stages["network"]
    assert "preprocessed scan" not in need.device  # only its tiles are moved
    assert need.stages["network"]["preprocessed scan"] == cpu.stages["network"]["preprocessed scan"]
    longer = estimate_memory((120, 90, 700), SPACING, Work(plan=PLAN, on_device=True), LARGEST)
    assert longer.device == pytest.approx(need.device, rel=0.01)
    assert need.limited_bytes == need.device_bytes < cpu.host_bytes


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAL", "ASR"])
def test_axes_are_those_of_the_plan(make_volume: Any, orientation: str) -> None:
    scan = make_volume(orientation=orientation)
    shape, spacing = measure_axes(scan)
    from medunet.volume import to_orientation

    turned = to_orientation(scan, "RAS")
    assert shape == turned.spatial_shape
    assert spacing == pytest.approx(turned.spacing)


# ---- a limit ---------------------------------------------------------------------------------------------------------------


def choose(memory_gb: float | None, room: int | None = None) -> Any:
    return choose_portions(SHAPE, SPACING, Work(plan=PLAN), LARGEST, memory_gb=memory_gb, room=room)


def test_the_largest_that_fits_is_taken() -> None:
    portions, need = choose(None)
    assert portions == LARGEST
    assert LARGEST.block_logits == BLOCK
    before = need.host_bytes
    while portions.batch_size > 1:
        portions, need = choose((before - 1) / 1e9)
        assert need.host_bytes < before
        assert need.host_bytes <= (before - 1)
        assert choose(need.host_bytes / 1e9)[0] == portions
        before = need.host_bytes


def test_what_is_free_refuses_nothing() -> None:
    _, most = choose(None)
    portions, need = choose(None, most.host_bytes - 1)
    assert need.host_bytes < most.host_bytes
    assert (portions, need) == choose((most.host_bytes - 1) / 1e9)
    assert choose(None, 1)[0] == Portions(batch_size=1, block_logits=BLOCK // 16)
    assert choose(most.host_bytes / 1e9, 1)[1] == most  # a limit that somebody has set comes first


def test_what_is_found_by_a_small_network_is_not_restored() -> None:
    need = estimate_memory(SHAPE, SPACING, Work(plan=PLAN, finds_box=True), Portions(batch_size=1))
    seen = 60 * 54 * 70
    assert need.stages["network"]["all logits"] == 4 * PLAN.network.out_channels * seen
    restored = estimate_memory(SHAPE, SPACING, Work(plan=PLAN, keeps_logits=True), Portions(batch_size=1))
    assert restored.stages["network"]["all logits"] == need.stages["network"]["all logits"] + 12 * 120 * 90 * 70


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(InputError) as refused:
        choose_portions(SHAPE, SPACING, Work(plan=PLAN, num_flips=8, num_networks=5), LARGEST, memory_gb=0.1)
    words = str(refused.value)
    smallest = estimate_memory(
        SHAPE, SPACING, Work(plan=PLAN, num_flips=8, num_networks=5), Portions(batch_size=1, block_logits=BLOCK // 16)
    )
    enough = float(words.split("Allow ")[1].split(" GB")[0])
    assert smallest.host_bytes / 1e9 <= enough < smallest.host_bytes / 1e9 + 0.11
    for word in ("120x90x70", "0.1 GB are allowed", "--flips none", "--speed fast", "program", "network at work"):
        assert word in words
    choose_portions(SHAPE, SPACING, Work(plan=PLAN, num_flips=8, num_networks=5), LARGEST, memory_gb=enough)


class Counting(NearestIntensity):
    batches: ClassVar[list[int]] = []

    def forward(self, patches: Tensor) -> Tensor:
        Counting.batches.append(len(patches))
        return super().forward(patches)


def test_a_limit_changes_no_label(build_oracle: Callable[..., Model], make_densities: Any) -> None:
    model = build_oracle(spacing=(1.4, 2.0, 3.0), network=Counting(list(ORACLE_HU)))
    scan, _ = make_densities(shape=(60, 50, 40))
    Counting.batches = []
    free = Segmenter(model, "cpu", InferenceSettings(batch_size=8)).segment(scan)
    assert max(Counting.batches) == 8
    assert free.memory is not None
    one = Portions(batch_size=1, block_logits=BLOCK // 16)
    smallest = estimate_memory(*measure_axes(scan), Work(plan=model.plan, weight_bytes=24), one)
    limited = InferenceSettings(batch_size=8, memory_gb=smallest.host_bytes / 1e9 + 1e-5)
    Counting.batches = []
    tight = Segmenter(model, "cpu", limited).segment(scan)
    assert max(Counting.batches) == 1
    assert tight.memory is not None
    assert tight.memory.host_bytes < free.memory.host_bytes
    assert np.array_equal(free.labels.array, tight.labels.array)


def test_the_command_keeps_the_limit_and_writes_the_estimate(
    medunet_command: Callable[..., Outcome], oracle_folder: Path, write_densities: Any, tmp_path: Path
) -> None:
    write_densities(tmp_path / "scan.nii.gz", spacing=(1.0, 1.0, 1.0))
    call = ("infer", tmp_path / "scan.nii.gz", "-m", oracle_folder, "--device", "cpu", "-o", tmp_path / "mask.nii.gz")
    medunet_command(*call, "--memory-gb", 0.1).check_refused("0.1 GB are allowed", "--memory-gb")
    medunet_command(*call, "--memory-gb", 0).check_refused("memory is 0.0 GB", "more than 0")
    assert not (tmp_path / "mask.nii.gz").exists()
    assert medunet_command(*call, "--memory-gb", 20).exit_code == 0
    manifest = json.loads((tmp_path / "mask.nii.gz.manifest.json").read_text())
    assert manifest["estimated_memory_mib"]["host"] > 300
    assert "memory_gb" not in manifest["settings"]  # another limit makes no other mask
    assert "finished already" in medunet_command(*call, "--continue").out


# ---- held against what is measured ---------------------------------------------------------------------------------------------

_MEASURE = """
import json, sys
import numpy as np, torch
torch.set_num_threads(1)
from medunet.inference import InferenceSettings, Segmenter
from medunet.models import Model
from medunet.networks import build_network
from medunet.planning import Plan
from medunet.tasks import Task
from medunet.models import TrainingRecord
from medunet.volume import Volume
from pathlib import Path

content = json.load(sys.stdin)
plan, task = Plan.model_validate(content["plan"]), Task.model_validate(content["task"])
record = TrainingRecord.model_validate(content["record"])
model = Model(folder=Path("none"), task=task, plan=plan, training=record, metrics={}, network=build_network(plan.network).eval())
scan = np.random.default_rng(0).integers(0, 300, (1, 130, 120, 110), dtype=np.int16)
segmenter = Segmenter(model, "cpu", InferenceSettings(backend=content["backend"], precision="fp32"))
found = segmenter.segment(Volume(scan, np.diag([1.0, 1.0, 1.0, 1.0])))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"peak": int(peak.split()[1]) * 1024, "estimate": found.memory.host_bytes}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("num_labels", "features", "backend", "has_regions"),
    [
        (2, (8, 16, 32), "torch", False),
        (24, (4, 8), "torch", False),
        (12, (4, 8), "torch", True),
        (2, (8, 16, 32), "openvino", False),
    ],
)
def test_the_estimate_is_near_the_peak(
    num_labels: int, features: tuple[int, ...], backend: str, has_regions: bool
) -> None:
    from oracles import build_record

    if backend != "torch":
        pytest.importorskip(backend)
    values = range(1, num_labels + 1)
    labels = {f"label{number}": tuple(values)[number - 1 :] if has_regions else (number,) for number in values}
    task = ORACLE_TASK.model_validate(ORACLE_TASK.model_dump() | {"labels": labels})
    assert task.has_regions == has_regions
    plan = build_plan("unet", 3, features, (64, 64, 48))
    plan = plan.model_copy(update={"network": plan.network.model_copy(update={"out_channels": task.num_outputs})})
    content = {
        name: one.model_dump(mode="json") for name, one in (("plan", plan), ("task", task), ("record", build_record()))
    } | {"backend": backend}
    ended = subprocess.run(
        [sys.executable, "-c", _MEASURE],
        input=json.dumps(content),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert 1 / FACTOR < found["estimate"] / found["peak"] < FACTOR, found
