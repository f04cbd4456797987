"""A small organ in a large scan: the whole scan beside the box that a small network finds first.

A made-up CT of a whole body, 512x512x900 voxels of 0.8x0.8x2 mm, with one bright organ in the pelvis. Both networks have the weights
that chance gives them and are computed in full; their answer is then replaced by one that follows from the intensity. So the time is
that of real networks of this size, and the box that of a small network that errs nowhere. The masks of both ways differ by what
another origin of the network's grid changes along borders.

    python benchmarks/bench_locate.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from peers.shared_model import build_shared_plan
from torch import Tensor, nn

from medunet.inference import InferenceSettings, Segmenter
from medunet.models import Model, TrainingRecord
from medunet.networks import build_network
from medunet.planning import Plan, build_locator_task
from medunet.tasks import Task
from medunet.volume import Volume

ORGAN_HU = 600.0


def main() -> None:
    """Print seconds of both ways and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 900))
    parser.add_argument("--features", type=int, default=8, help="channels of the main network's first stage")
    parser.add_argument("--spacing", type=float, default=1.5, help="mm of the main network's voxels")
    parser.add_argument("--patch", type=int, nargs=3, default=(96, 96, 96), help="voxels of a tile")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--backend", default="auto")
    arguments = parser.parse_args()
    scan = make_scan(tuple(arguments.shape))
    model = build_model(scan, arguments.features, arguments.spacing, tuple(arguments.patch))
    seconds: dict[str, list[float]] = {"never": [], "always": []}
    masks: dict[str, np.ndarray] = {}
    segmenters = {
        locate: Segmenter(model, "cpu", InferenceSettings(locate=locate, backend=arguments.backend))  # type: ignore[arg-type]
        for locate in seconds
    }
    for _ in range(arguments.rounds):
        for locate, segmenter in segmenters.items():
            began = time.perf_counter()
            segmentation = segmenter.segment(scan)
            seconds[locate].append(time.perf_counter() - began)
            masks[locate] = segmentation.labels.array
            print(f"{locate:7} {seconds[locate][-1]:8.1f} s   {segmentation.timings}", flush=True)
    one, other = (mask > 0 for mask in masks.values())
    dice = 2 * (one & other).sum() / (one.sum() + other.sum())
    whole, located = (statistics.median(values) for values in seconds.values())
    print(f"{segmenters['always'].description}; Dice of the two masks {dice:.4f}")
    print(f"whole scan {whole:.1f} s, located {located:.1f} s (medians of {arguments.rounds}): {whole / located:.1f} x")


def make_scan(shape: tuple[int, ...]) -> Volume:
    """A body of soft tissue with noise, and an organ of 60 mm a tenth above its lower end."""
    i, j, k = shape
    x = np.linspace(-1, 1, i, dtype=np.float32)[:, None] / 0.9
    y = np.linspace(-1, 1, j, dtype=np.float32)[None] / 0.6
    inside = x**2 + y**2 < 1
    noise = np.random.default_rng(0).normal(0, 15, (i, j)).astype(np.float32)
    array = np.empty((1, i, j, k), np.int16)
    array[0] = np.where(inside, 30 + noise, -1000)[..., None].astype(np.int16)
    grid = np.meshgrid(*[np.arange(n) for n in (i, j, k // 5)], indexing="ij", sparse=True)
    distance = sum(
        ((axis - centre) * mm) ** 2
        for axis, centre, mm in zip(grid, (i / 2, j / 2, k / 10), (0.8, 0.8, 2.0), strict=True)
    )
    array[0, :, :, : k // 5][distance < 30**2] = 700
    return Volume(array, np.diag([0.8, 0.8, 2.0, 1.0]))


def build_model(scan: Volume, features: int, spacing_mm: float, patch_size: tuple[int, ...]) -> Model:
    """Both networks in memory."""
    i, j, k = (round(n * mm / spacing_mm) for n, mm in zip(scan.spatial_shape, scan.spacing, strict=True))
    plan, task = build_shared_plan(2, (i, j, k), spacing_mm, features=features, patch_size=patch_size)  # type: ignore[arg-type]
    small_plan = plan.model_copy(
        update={
            "spacing": (9.0, 9.0, 9.0),
            "patch_size": (48, 48, 48),
            "network": plan.network.model_copy(
                update={
                    "features": (8, 16, 32, 64),
                    "strides": ((1, 1, 1), *((2, 2, 2),) * 3),
                    "kernels": ((3, 3, 3),) * 4,
                    "encoder_blocks": (2,) * 4,
                    "decoder_convolutions": (2,) * 3,
                    "num_scales": 1,
                }
            ),
        }
    )
    locator = _build(small_plan, build_locator_task(task))
    return Model(**vars(_build(plan, task)) | {"locator": locator})


class _ByIntensity(nn.Module):
    """The network is computed; the answer is whether the voxel is bright."""

    def __init__(self, network: nn.Module, threshold: float) -> None:
        super().__init__()
        self.network = network
        self.threshold = threshold

    def forward(self, patches: Tensor) -> Tensor:
        computed = self.network(patches) * 1e-30  # too little to change a winner, too much to be left out
        organ = (patches - self.threshold) * 100
        return torch.cat([-organ, organ], 1) + computed


def _build(plan: Plan, task: Task) -> Model:
    torch.manual_seed(0)
    (rule,) = plan.normalization
    assert rule.upper is not None
    assert rule.mean is not None
    assert rule.std is not None
    threshold = (min(ORGAN_HU, 0.9 * rule.upper) - rule.mean) / rule.std
    network = _ByIntensity(build_network(plan.network), threshold).eval()
    return Model(
        folder=Path("made-up"),
        task=task,
        plan=plan,
        training=TrainingRecord.model_construct(weights_sha256="", is_synthetic=False, medunet_version=""),
        metrics={},
        network=network,  # type: ignore[arg-type]
    )


if __name__ == "__main__":
    main()
