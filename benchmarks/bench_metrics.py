"""All surface metrics of 20 labels on a CT of 512x512x300: medunet beside MONAI and surface-distance, time and memory.

```sh
python benchmarks/bench_metrics.py                 # 512x512x300, the table of docs/evaluation.md; some minutes
python benchmarks/bench_metrics.py --scale 0.5     # a quick look at half the size
```

HD, HD95, ASSD and NSD at 2 mm of every label, from two label maps in memory; medunet gives its other metrics too. The
structures are ellipsoids between 1 cm and 30 cm, the prediction is moved by up to 2 voxels. Each tool runs once, as it
takes minutes, in a process of its own with one thread; the time is that of the processor, which other processes disturb
less. MONAI and surface-distance get one mask after the other: as one-hot volumes, which MONAI documents, 20 labels would
not fit into the memory of most machines. Memory is the peak of the process less what it had before, so the label maps do
not count. The numbers of the tools are compared before ratios are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from medunet.volume import Array, Spacing, Volume

SHAPE = (512, 512, 300)
SPACING: Spacing = (0.9, 0.9, 1.5)
TOLERANCE_MM = 2.0
TOOLS = ("medunet", "medunet-voxels", "MONAI", "surface-distance")
Numbers = dict[str, list[float]]
"""Label -> HD, HD95, ASSD, NSD."""


def main() -> None:
    """Run every tool in a process of its own, compare their numbers, print seconds, memory and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the volume, 1.0 is 512x512x300")
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tool:
        print(json.dumps(run_tool(arguments.tool, arguments.scale)))
        return
    tools = [tool for tool in TOOLS if tool != "surface-distance" or find_spec("surface_distance")]
    results = {tool: measure(tool, arguments.scale) for tool in tools}
    check_same(results, "medunet-voxels", "MONAI", 1e-3)
    check_same(results, "medunet", "surface-distance", 1e-3)
    shape = "x".join(str(length) for length in scale_shape(arguments.scale))
    print(f"HD, HD95, ASSD, NSD of 20 labels on {shape}, one thread each")
    for tool, result in results.items():
        print(f"{tool:18}{result['seconds']:8.2f} s   peak {result['peak_mib']:7.0f} MiB")
    for peer, own in (("MONAI", "medunet-voxels"), ("MONAI", "medunet"), ("surface-distance", "medunet")):
        if peer in results:
            print(f"time of {peer} / time of {own}: {results[peer]['seconds'] / results[own]['seconds']:.1f}")


def measure(tool: str, scale: float) -> dict[str, Any]:
    """One tool in a fresh process with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--tool", tool, "--scale", str(scale)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | threads)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{tool}: {result['seconds']:.1f} s", file=sys.stderr)
    return result


def check_same(results: dict[str, dict[str, Any]], one: str, other: str, tolerance: float) -> None:
    """Ratios of different numbers mean nothing."""
    if one not in results or other not in results:
        return
    for label, numbers in results[one]["numbers"].items():
        if not np.allclose(numbers, results[other]["numbers"][label], rtol=tolerance, atol=tolerance):
            raise SystemExit(f"{label}: {one} says {numbers}, {other} says {results[other]['numbers'][label]}")


def run_tool(tool: str, scale: float) -> dict[str, Any]:
    """Seconds, memory and numbers of one tool."""
    import resource
    import time

    reference, prediction = make_label_maps(scale)
    runners: dict[str, Callable[[Array, Array], Numbers]] = {
        "medunet": run_medunet,
        "medunet-voxels": run_medunet_voxels,
        "MONAI": run_monai,
        "surface-distance": run_surface_distance,
    }
    run = runners[tool]
    run(reference[::8, ::8, ::8], prediction[::8, ::8, ::8])  # imports, tables
    reset_peak()
    before = read_peak_kib(resource)
    start = time.process_time()
    numbers = run(reference, prediction)
    seconds = time.process_time() - start
    return {"seconds": seconds, "peak_mib": (read_peak_kib(resource) - before) / 1024, "numbers": numbers}


def reset_peak() -> None:
    """Forget the peak that making the volumes left, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def read_peak_kib(resource: Any) -> int:
    """Largest memory of the process since `reset_peak`."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    except OSError:
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def scale_shape(scale: float) -> tuple[int, int, int]:
    """The shape of the volume."""
    i, j, k = (round(length * scale) for length in SHAPE)
    return i, j, k


def make_label_maps(scale: float) -> tuple[Array, Array]:
    """Twenty ellipsoids; in the prediction each is moved a little, later ones on top."""
    rng = np.random.default_rng(0)
    shape = scale_shape(scale)
    reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    radii_mm = np.geomspace(150, 5, 20) * scale
    for label, radius_mm in enumerate(radii_mm, start=1):
        radii = radius_mm * rng.uniform(0.6, 1.0, 3) / SPACING
        centre = np.array([rng.uniform(0.3 * length, 0.7 * length) for length in shape])
        draw_ellipsoid(reference, centre, radii, label)
        draw_ellipsoid(prediction, centre + rng.uniform(-2, 2, 3), radii * rng.uniform(0.97, 1.03, 3), label)
    for name, labels in (("reference", reference), ("prediction", prediction)):
        assert len(np.unique(labels)) == 21, f"a label is hidden in the {name}"
    return reference, prediction


def draw_ellipsoid(labels: Array, centre: Array, radii: Array, value: int) -> None:
    """Paint within the ellipsoid's own box."""
    low = np.maximum(np.floor(centre - radii), 0).astype(int)
    high = np.minimum(np.ceil(centre + radii) + 1, labels.shape).astype(int)
    axes = [((np.arange(a, b) - c) / r) ** 2 for a, b, c, r in zip(low, high, centre, radii, strict=True)]
    inside = axes[0][:, None, None] + axes[1][:, None] + axes[2] <= 1
    labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]][inside] = value


def list_labels(reference: Array, prediction: Array) -> list[int]:
    """Values that both sides hold."""
    return sorted(set(np.unique(reference).tolist()) & set(np.unique(prediction).tolist()) - {0})


def run_medunet(reference: Array, prediction: Array, surface: Any = "elements") -> Numbers:
    """Every metric of every label of the case."""
    from medunet.evaluation import MetricSettings, measure_case

    affine = np.diag([*SPACING, 1.0])
    labels = {str(value): (value,) for value in range(1, 21)}
    settings = MetricSettings(tolerance_mm=TOLERANCE_MM, surface=surface)
    sides = [Volume(side[None], affine) for side in (reference, prediction)]
    scores = measure_case(*sides, labels, case_id="benchmark", settings=settings)
    return {score.label: [score.hd_mm, score.hd95_mm, score.assd_mm, score.nsd] for score in scores}  # type: ignore[misc]


def run_medunet_voxels(reference: Array, prediction: Array) -> Numbers:
    """The same with boundary voxels, which MONAI counts."""
    return run_medunet(reference, prediction, "voxels")


def run_monai(reference: Array, prediction: Array) -> Numbers:
    """MONAI's functions, one label at a time."""
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    numbers = {}
    for value in list_labels(reference, prediction):
        sides = [torch.from_numpy(side == value)[None, None] for side in (prediction, reference)]
        common: dict[str, Any] = {"include_background": True, "spacing": SPACING}
        found = [
            compute_hausdorff_distance(*sides, **common),
            compute_hausdorff_distance(*sides, percentile=95, **common),
            compute_average_surface_distance(*sides, symmetric=True, **common),
            compute_surface_dice(*sides, class_thresholds=[TOLERANCE_MM], **common),
        ]
        numbers[str(value)] = [float(number) for number in found]
    return numbers


def run_surface_distance(reference: Array, prediction: Array) -> Numbers:
    """DeepMind's package, which measures once and reads several metrics."""
    import warnings

    import surface_distance

    warnings.simplefilter("ignore", DeprecationWarning)  # of SciPy's names
    numbers = {}
    for value in list_labels(reference, prediction):
        distances = surface_distance.compute_surface_distances(reference == value, prediction == value, SPACING)
        means = surface_distance.compute_average_surface_distance(distances)
        areas = [distances[f"surfel_areas_{side}"].sum() for side in ("gt", "pred")]
        numbers[str(value)] = [
            float(surface_distance.compute_robust_hausdorff(distances, 100)),
            float(surface_distance.compute_robust_hausdorff(distances, 95)),
            float(np.average(means, weights=areas)),
            float(surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)),
        ]
    return numbers


if __name__ == "__main__":
    main()
