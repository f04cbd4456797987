"""What a training step on the CPU takes beside what the planner thinks that it takes, each in a process of its own.

    python benchmarks/check_step_memory.py [--edges 48 64 96] [--features 16] [--network auto] [--precision fp32 bf16]

`medunet.training.memory` takes its factors from here: the estimate should be rather above what is taken, but for a few dozen
MiB that a process needs for its first large step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medunet.planning import Plan

MIB = 2**20
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def main() -> None:
    """A line per patch and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=int, nargs="+", default=[48, 64, 96], help="of the patches, two per batch")
    parser.add_argument("--features", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--network", default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=list(PRECISIONS))
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # what the processes are called with
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.edges[0], arguments.features, arguments.network, arguments.precision[0])))
        return
    for precision in arguments.precision:
        for edge in arguments.edges:
            command = [sys.executable, __file__, "--measure", "--edges", str(edge), "--precision", precision]
            command += ["--features", str(arguments.features), "--network", arguments.network]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            estimate, taken = json.loads(output.splitlines()[-1])
            print(f"{precision} 2 x {edge}^3: estimated {estimate:6.0f} MiB, taken {taken:6.0f} MiB", flush=True)


def measure(edge: int, features: int, network: str, precision: str) -> tuple[float, float]:
    """MiB that a step is estimated to take, and that it takes."""
    import torch

    from medunet.planning import Effort, Fingerprint, build_plan
    from medunet.tasks import load_task
    from medunet.training import engine
    from medunet.training.memory import estimate_step_bytes

    task, name = load_task("hippocampus-mr"), PRECISIONS[precision]
    large = {"num_cases": 1, "spacings": ((1.0,) * 3,), "shapes": ((300,) * 3,), "body_shapes": ((300,) * 3,)}
    labels = {"label_frequencies": dict.fromkeys(task.labels, 1.0), "label_volumes_ml": dict.fromkeys(task.labels, 1e3)}
    fingerprint = Fingerprint.model_validate(large | labels | {"nonzero_share": 1.0, "channels": ()})

    def build(edge: int, features: int) -> Plan:
        return put_network(
            build_plan(fingerprint, task, Effort(voxels=2 * edge**3, features=features, batch_size=2)), network
        )

    engine._TIMING_SECONDS = 0.0
    # What a first step loads is no part of what a step takes.
    engine.measure_step_seconds(build(16, 4), task, torch.device("cpu"), name)  # type: ignore[arg-type]
    before, plan = peak_mib(), build(edge, features)
    engine.measure_step_seconds(plan, task, torch.device("cpu"), name)  # type: ignore[arg-type]
    return estimate_step_bytes(plan, name) / MIB, peak_mib() - before  # type: ignore[arg-type]


def put_network(plan: Plan, name: str) -> Plan:
    """The plan with another network of the catalogue."""
    from medunet.networks import replace_network

    return plan if name == "auto" else replace_network(plan, name)


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
