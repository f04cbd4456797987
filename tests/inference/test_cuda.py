"""Inference on CUDA: the mask of the CPU, in the memory that was expected, and with less at a time where that does not suffice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from oracles import ORACLE_TASK, build_plan_for
from scipy.ndimage import gaussian_filter

from medunet.inference import InferenceSettings, Segmentation, Segmenter
from medunet.models import Model
from medunet.networks import build_network
from medunet.planning import Plan
from medunet.volume import Volume

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

PATCH_SIZE = (64, 64, 48)
FACTOR = 2.0
"""By which the estimate of the GPU's memory may be off, either way."""


@pytest.fixture(autouse=True)
def clean_gpu() -> Iterator[None]:
    """No memory of one test is left for the next."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.fixture
def build(build_oracle: Callable[..., Model]) -> Callable[..., Segmenter]:
    """Every model has the same random weights and its own network: a device takes the network it is given."""

    def call(device: str, features: tuple[int, ...] = (8, 16), **choices: Any) -> Segmenter:
        plan = widen(build_plan_for(ORACLE_TASK, (1.0, 1.0, 1.0), PATCH_SIZE), features)
        torch.manual_seed(0)
        model = dataclasses.replace(build_oracle(), plan=plan, network=build_network(plan.network).eval())
        return Segmenter(model, device, InferenceSettings(backend="torch", skip_air=False, **choices))

    return call


def widen(plan: Plan, features: tuple[int, ...]) -> Plan:
    return plan.model_copy(update={"network": plan.network.model_copy(update={"features": features})})


def make_scan(shape: tuple[int, int, int] = (90, 80, 70)) -> Volume:
    """Smooth blobs, as structures are: in noise every second voxel would lie between two labels."""
    noise = np.random.default_rng(0).normal(size=shape)
    smooth = gaussian_filter(noise, 3, mode="wrap")
    return Volume((smooth / smooth.std()).astype(np.float32)[None], np.eye(4))


def count_differing(one: Segmentation, other: Segmentation) -> float:
    """Share of the voxels."""
    assert len(np.unique(one.labels.array)) > 2
    return float((one.labels.array != other.labels.array).mean())


@pytest.mark.parametrize(("precision", "tolerated"), [("fp32", 1e-4), ("bf16", 0.03)])
def test_the_mask_is_that_of_the_cpu(
    build: Callable[..., Segmenter], monkeypatch: pytest.MonkeyPatch, precision: str, tolerated: float
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # rounds to 10 bits, which the CPU does not
    scan = make_scan()
    expected = build("cpu", precision="fp32").segment(scan)
    found = build("cuda", precision=precision).segment(scan)
    assert found.device.startswith("cuda")
    assert count_differing(expected, found) <= tolerated


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_of_the_gpu_is_near_its_peak(build: Callable[..., Segmenter], precision: str) -> None:
    segmenter = build("cuda", (32, 64), precision=precision, batch_size=4)
    scan = make_scan((130, 120, 110))
    segmenter.segment(scan)  # cuDNN tries its ways to compute a convolution on the first one
    found = segmenter.segment(scan)
    assert found.memory is not None
    assert found.peak_device_bytes is not None
    assert 1 / FACTOR < found.memory.device_bytes / found.peak_device_bytes < FACTOR, found.memory.describe()


def test_a_longer_scan_takes_no_more_of_the_gpu(build: Callable[..., Segmenter]) -> None:
    segmenter = build("cuda", precision="fp32", batch_size=2)
    peaks = []
    for length in (100, 100, 800):
        peak = segmenter.segment(make_scan((70, 70, length))).peak_device_bytes
        assert peak is not None
        peaks.append(peak)
    assert peaks[2] < 1.1 * peaks[1], peaks


def test_a_small_scan_has_a_small_peak_after_a_large_one(build: Callable[..., Segmenter]) -> None:
    segmenter = build("cuda", precision="fp32", batch_size=8)
    large, small = (segmenter.segment(make_scan(shape)).peak_device_bytes for shape in ((200, 190, 180), (40, 40, 40)))
    assert large is not None
    assert small is not None
    assert small < 0.8 * large


def test_too_little_memory_of_the_gpu_takes_fewer_tiles_and_is_said_once(
    build: Callable[..., Segmenter], caplog: pytest.LogCaptureFixture
) -> None:
    scan, features = make_scan((130, 120, 110)), (32, 64)
    one_by_one = build("cuda", features, precision="fp32", batch_size=1).segment(scan)
    many = build("cuda", features, precision="fp32", batch_size=8).segment(scan)
    least, most = one_by_one.peak_device_bytes, many.peak_device_bytes
    assert least is not None
    assert most is not None
    assert most > 2 * least
    caplog.clear()
    torch.cuda.empty_cache()
    segmenter = build("cuda", features, precision="fp32", batch_size=8)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((least + most) / 2 / total)
    found = segmenter.segment(scan)
    said = [record.getMessage() for record in caplog.records]
    assert said, "eight tiles at once were expected to be too many"
    assert all("Memory does not suffice for" in message for message in said)
    assert count_differing(many, found) <= 1e-3  # TF32, and other ways to compute a convolution for other batches
    caplog.clear()
    segmenter.segment(scan)
    assert caplog.records == []
