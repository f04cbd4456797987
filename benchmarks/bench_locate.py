"""A small organ in a large scan: the whole scan beside the box that a small network finds first.

A made-up CT of a whole body, 512x512x900 voxels of 0.8x0.8x2 mm.

Without ``--model``, it holds one bright organ. Both networks have the weights that chance gives them and are computed in full; their
answer is then replaced by one that follows from the intensity. So the time is that of real networks of this size, and the box that of a
small network that errs nowhere. The masks of both ways differ by what another origin of the network's grid changes along borders.

With ``--model``, a folder that `medunet train --task prostate-ct` wrote with a locator, it holds a synthetic pelvis that training
never saw; above it the body goes on. Both masks are scored against the truth.

    python benchmarks/bench_locate.py
    python benchmarks/bench_locate.py --model runs/prostate-ct
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
from medunet.models import Model, TrainingRecord, read_single_model
from medunet.networks import build_network
from medunet.phantoms import make_phantom_case
from medunet.planning import Plan, build_locator_task
from medunet.preprocessing import resample_label_map, resample_linear
from medunet.tasks import Task
from medunet.volume import Volume

ORGAN_HU = 600.0
SPACING_MM = (0.8, 0.8, 2.0)


def main() -> None:
    """Print seconds of both ways and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 900))
    parser.add_argument("--features", type=int, default=8, help="channels of the main network's first stage")
    parser.add_argument("--spacing", type=float, default=1.5, help="mm of the main network's voxels")
    parser.add_argument("--patch", type=int, nargs=3, default=(96, 96, 96), help="voxels of a tile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--model", type=Path, help="trained on the pelvis phantom, with a locator")
    arguments = parser.parse_args()
    if arguments.model is None:
        scan, truth = make_scan(tuple(arguments.shape)), None
        model = build_model(scan, arguments.features, arguments.spacing, tuple(arguments.patch))
    else:
        scan, truth = embed_pelvis(tuple(arguments.shape))
        model = read_single_model(arguments.model)
    compare(model, scan, truth, rounds=arguments.rounds, backend=arguments.backend)


def compare(model: Model, scan: Volume, truth: Volume | None, *, rounds: int, backend: str = "auto") -> float:
    """Print seconds and Dice of both ways; the ratio of their medians."""
    seconds: dict[str, list[float]] = {"never": [], "always": []}
    masks: dict[str, np.ndarray] = {}
    segmenters = {
        locate: Segmenter(model, "cpu", InferenceSettings(locate=locate, backend=backend))  # type: ignore[arg-type]
        for locate in seconds
    }
    for _ in range(rounds):
        for locate, segmenter in segmenters.items():
            began = time.perf_counter()
            segmentation = segmenter.segment(scan)
            seconds[locate].append(time.perf_counter() - began)
            masks[locate] = segmentation.labels.array[0]
            stages = ", ".join(f"{name} {stage:.1f}" for name, stage in segmentation.timings.items() if stage >= 0.05)
            print(f"{locate:7}{seconds[locate][-1]:7.1f} s   {stages}", flush=True)
    print(segmenters["always"].description)
    if truth is not None:
        for locate, mask in masks.items():
            print(f"{locate:7} mean Dice against the truth {compute_mean_dice(mask, truth.array[0]):.4f}")
    print(f"mean Dice of the two masks {compute_mean_dice(masks['always'], masks['never']):.4f}")
    whole, located = (statistics.median(values) for values in seconds.values())
    print(f"whole scan {whole:.1f} s, located {located:.1f} s (medians of {rounds}): {whole / located:.1f} x")
    return whole / located


def compute_mean_dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the labels of the truth."""
    labels = [value for value in np.unique(truth) if value]
    scores = []
    for value in labels:
        one, other = mask == value, truth == value
        scores.append(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))
    return statistics.mean(scores)


def embed_pelvis(shape: tuple[int, ...]) -> tuple[Volume, Volume]:
    """A synthetic pelvis at the lower end of a body whose other slices are as its uppermost, and its labels."""
    case = make_phantom_case("male-pelvis-ct", seed=1000)
    i, j, k = shape
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = case.image.affine[:3, 3] + 0.5 * np.array([*_measure_spare_mm(case.image, (i, j)), 0.0])
    image = resample_linear(torch.from_numpy(case.image.array[0]).float(), case.image.affine, affine, (i, j, k))
    labels = resample_label_map(case.labels, affine, (i, j, k)).array.copy()
    num_slices = int(case.image.spatial_shape[2] * case.image.spacing[2] / SPACING_MM[2])
    labels[..., num_slices:] = 0
    noise = np.random.default_rng(0).normal(0, 10, (i, j)).astype(np.float32)
    array = (image.numpy() + noise[..., None]).round().astype(np.int16)
    return Volume(array[None], affine), Volume(labels, affine)


def _measure_spare_mm(scan: Volume, size: tuple[int, int]) -> list[float]:
    """How much longer a scan is than another with so many voxels, along the first two axes; negative where it is shorter."""
    return [
        n * mm - other * other_mm
        for n, mm, other, other_mm in zip(scan.spatial_shape[:2], scan.spacing[:2], size, SPACING_MM[:2], strict=True)
    ]


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
        ((axis - centre) * mm) ** 2 for axis, centre, mm in zip(grid, (i / 2, j / 2, k / 10), SPACING_MM, strict=True)
    )
    array[0, :, :, : k // 5][distance < 30**2] = 700
    return Volume(array, np.diag([*SPACING_MM, 1.0]))


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
