"""Patches per second: medunet's plain-torch augmentation beside the same drawn changes through MONAI and TorchIO.

All draw from the same preprocessed cases, on one thread, by the same policy; the ratio is what counts. Then the labels
alone: `warp_labels` beside one-hot maps that are interpolated one after the other.

    python benchmarks/bench_augmentation.py [--patch 96] [--seconds 20] [--modality CT]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medunet.augmentation import (
    AugmentationPolicy,
    apply_intensity,
    apply_spatial,
    build_policy,
    compute_source_offsets,
    sample_change,
    warp_labels,
)
from medunet.phantoms import write_phantom_dataset
from medunet.planning import CPU_EFFORT, build_plan, compute_fingerprint
from medunet.preprocessing import prepare_cases
from medunet.tasks import load_task, read_dataset
from medunet.training.sampling import PatchSampler

BATCH_SIZE = 2
BATCHES_PER_TURN = 4
NUM_LABELS = (4, 16, 117)


def main() -> None:
    """Print patches per second of each path and their ratio, then milliseconds per deformed label map."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", type=int, default=96, help="edge of the patch in voxels")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each path")
    parser.add_argument("--modality", choices=["CT", "MR"], default="CT", help="whose policy")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policy = build_policy(arguments.modality)
    with tempfile.TemporaryDirectory() as folder:
        samplers = _build_samplers(Path(folder), arguments.patch, policy)
        rates = _measure_samplers(samplers, arguments.seconds)
    print(f"patches of {arguments.patch}^3 with labels, {arguments.modality}, one thread, torch {torch.__version__}")
    for name, rate in rates.items():
        print(f"{name:8} {rate:8.2f} patches/s {rates['fast'] / rate:6.1f} x slower than fast")
    print(f"labels of {arguments.patch}^3, turned and deformed, one thread")
    for num_labels in NUM_LABELS:
        one_pass, one_hot = _measure_labels(num_labels, arguments.patch)
        print(
            f"{num_labels:4} labels: one pass {1e3 * one_pass:7.1f} ms   one-hot {1e3 * one_hot:8.1f} ms   "
            f"{one_hot / one_pass:6.1f} x"
        )


def _build_samplers(folder: Path, edge: int, policy: AugmentationPolicy) -> dict[str, PatchSampler]:
    task = load_task("prostate-ct")
    write_phantom_dataset("male-pelvis-ct", folder / "data", num_cases=2, num_workers=1)
    cases = read_dataset(folder / "data").cases
    plan = build_plan(compute_fingerprint(cases, task), task, CPU_EFFORT)
    stored = prepare_cases(cases, task, plan, folder / "store", num_workers=1)
    common: dict[str, Any] = {"seed": 0, "policy": policy, "num_workers": 0}
    return {
        mode: PatchSampler(stored, task, (edge, edge, edge), BATCH_SIZE, plan.spacing, mode=mode, **common)  # type: ignore[arg-type]
        for mode in ("none", "fast", "torchio")
    }


def _measure_samplers(samplers: dict[str, PatchSampler], seconds: float) -> dict[str, float]:
    """Mean rate of each over the same batches, measured in turns so that a drifting machine does not favour one."""
    spent = dict.fromkeys(samplers, 0.0)
    for sampler in samplers.values():
        _draw(sampler, 0)  # imports and caches
    number = 1
    end = time.perf_counter() + seconds * len(samplers)
    while time.perf_counter() < end:
        for name, sampler in samplers.items():
            began = time.perf_counter()
            for turn in range(BATCHES_PER_TURN):
                _draw(sampler, number + turn)
            spent[name] += time.perf_counter() - began
        number += BATCHES_PER_TURN
    return {name: BATCH_SIZE * (number - 1) / seconds for name, seconds in spent.items()}


def _draw(sampler: PatchSampler, iteration: int) -> None:
    batch = sampler.draw(iteration)
    if batch.changes:  # in training the device that trains does this
        apply_intensity(batch.image, batch.changes)


def _measure_labels(num_labels: int, edge: int) -> tuple[float, float]:
    """Median seconds in one pass and label by label."""
    size = (edge, edge, edge)
    noise = np.random.default_rng(0).normal(size=(num_labels, *size)).astype(np.float32)
    smooth = np.stack([gaussian_filter(one, edge / 16) for one in noise])
    codes = torch.from_numpy(smooth.argmax(0).astype(np.uint8))
    always = AugmentationPolicy(rotation_probability=1.0, elastic_probability=1.0)
    change = sample_change(always, np.random.default_rng(1), size, (1.0, 1.0, 1.0))
    offsets = compute_source_offsets(change.spatial, size, (1.0, 1.0, 1.0))
    assert offsets is not None
    coordinates = offsets + (edge - 1) / 2
    return (
        _time(lambda: warp_labels(codes, coordinates), 9),
        _time(lambda: _warp_one_hot(codes, coordinates, num_labels), 3),
    )


def _warp_one_hot(codes: Tensor, coordinates: Tensor, num_labels: int) -> Tensor:
    """One label after the other, so that memory does not grow with their number."""
    best = torch.full(coordinates.shape[:-1], -1.0)
    result = torch.zeros(coordinates.shape[:-1], dtype=torch.uint8)
    for label in range(num_labels):
        score = apply_spatial((codes == label)[None], coordinates, "bilinear")[0]
        result = torch.where(score > best, label, result)
        best = torch.maximum(best, score)
    return result


def _time(work: Callable[[], Tensor], rounds: int) -> float:
    work()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
