"""Peak memory of training beside the number of cases: what is preprocessed stays on disk, so it must not grow.

The same training, from the fingerprint to the last of a few iterations, on many and on ten times as many cases, each in
a process of its own. The cases are links to a few hippocampus phantoms; every link is preprocessed as a case. Keeping
cases in memory is switched off, because small datasets would live there up to the limit of 4 GiB.

    python benchmarks/check_training_memory.py [--cases 80] [--budget 20it]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NUM_PHANTOMS = 8
FACTOR = 10
TASK = "hippocampus-mr"


def main() -> None:
    """Print both peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases", type=int, default=80, help="of the small dataset; the large one has ten times as many"
    )
    parser.add_argument("--budget", default="20it")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # what the processes are called with
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.budget)))
        return
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        write_phantoms(Path(folder) / "phantoms")
        for num_cases in (arguments.cases, FACTOR * arguments.cases):
            data = Path(folder) / str(num_cases)
            link_cases(Path(folder) / "phantoms", data, num_cases)
            peaks[num_cases] = measure_in_process(data, arguments.budget)
            imported, peak = peaks[num_cases]
            print(f"{num_cases:5} cases: peak {peak:7.0f} MiB, of which {imported:.0f} MiB before training", flush=True)
    (_, small), (_, large) = peaks.values()
    print(
        f"ratio of the peaks {large / small:.3f}; {(large - small) / (FACTOR - 1) / arguments.cases * 1024:.1f} KiB per case"
    )


def write_phantoms(folder: Path) -> None:
    """A few cases with exactly known truth."""
    from medunet.phantoms import write_phantom_dataset

    write_phantom_dataset(TASK, folder, num_cases=NUM_PHANTOMS, num_workers=1)


def link_cases(source: Path, folder: Path, num_cases: int) -> None:
    """A dataset of images/ and labels/ whose files are links to those of the phantoms."""
    images, labels = sorted((source / "imagesTr").iterdir()), sorted((source / "labelsTr").iterdir())
    for name, files in (("images", images), ("labels", labels)):
        (folder / name).mkdir(parents=True)
        for number in range(num_cases):
            (folder / name / f"case_{number:04}.nii.gz").symlink_to(files[number % len(files)])


def measure_in_process(data: Path, budget: str) -> tuple[float, float]:
    """MiB at the start and at the peak of a training in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(data), "--budget", budget]
    environment = os.environ | {"MEDUNET_HOME": str(data / "runs")}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    imported, peak = json.loads(output.splitlines()[-1])
    return imported, peak


def measure(data: Path, budget: str) -> tuple[float, float]:
    """Train in this process."""
    from medunet.preprocessing import StoredCase, prepare_cases
    from medunet.training import experiment, train

    def keep_on_disk(*cases: Any, memory_gib: float, **options: Any) -> list[StoredCase]:
        return prepare_cases(*cases, memory_gib=0.0, **options)

    experiment.prepare_cases = keep_on_disk  # type: ignore[assignment]
    imported = peak_mib()
    train(TASK, data, budget=budget, fold="all", device="cpu", output=data / "run")
    return imported, peak_mib()


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
