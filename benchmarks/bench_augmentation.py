"""Patches per second: medunet's plain-torch augmentation beside the same policy through MONAI and TorchIO.

Both draw from the same preprocessed cases, on one thread, with the same probabilities; the ratio is what counts.

    python benchmarks/bench_augmentation.py [--patch 96] [--seconds 20]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from medunet.phantoms import write_phantom_dataset
from medunet.planning import CPU_EFFORT, build_plan, compute_fingerprint
from medunet.preprocessing import prepare_cases
from medunet.tasks import load_task, read_dataset
from medunet.training.sampling import PatchSampler

BATCH_SIZE = 2


def main() -> None:
    """Print patches per second of each path and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", type=int, default=96, help="edge of the patch in voxels")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each path")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        samplers = _build_samplers(Path(folder), arguments.patch)
        rates = _measure(samplers, arguments.seconds)
    print(f"patches of {arguments.patch}^3 with labels, one thread, torch {torch.__version__}")
    for name, rate in rates.items():
        print(f"{name:8} {rate:7.2f} patches/s  {rates['fast'] / rate:5.1f} x slower than fast")


def _build_samplers(folder: Path, edge: int) -> dict[str, PatchSampler]:
    task = load_task("prostate-ct")
    write_phantom_dataset("male-pelvis-ct", folder / "data", num_cases=2, num_workers=1)
    cases = read_dataset(folder / "data").cases
    plan = build_plan(compute_fingerprint(cases, task), task, CPU_EFFORT)
    stored = prepare_cases(cases, task, plan, folder / "store")
    return {
        mode: PatchSampler(stored, task, (edge, edge, edge), BATCH_SIZE, plan.spacing, seed=0, mode=mode)  # type: ignore[arg-type]
        for mode in ("none", "fast", "torchio")
    }


def _measure(samplers: dict[str, PatchSampler], seconds: float) -> dict[str, float]:
    """Median rate of each, measured in turns so that a drifting machine does not favour one."""
    rates: dict[str, list[float]] = {name: [] for name in samplers}
    number = 0
    for sampler in samplers.values():
        sampler.draw(number)  # imports and caches
    end = time.perf_counter() + seconds * len(samplers)
    while time.perf_counter() < end:
        for name, sampler in samplers.items():
            began = time.perf_counter()
            for _ in range(4):
                number += 1
                sampler.draw(number)
            rates[name].append(4 * BATCH_SIZE / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in rates.items()}


if __name__ == "__main__":
    main()
