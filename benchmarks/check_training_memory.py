"""Peak memory of training beside the number of cases: on disk they must cost nothing, in memory no more than the store.

The same training, from the fingerprint to the model folder, on many and on ten times as many cases, each in a process of
its own, in three ways:

    on disk     no case is kept in memory, and none validates: memory must not grow with the cases
    defaults    preprocessed cases are kept in memory where all of them need no more than 4 GiB: memory grows by what the
                store grows, up to that
    fold 0      the defaults of `medunet train`: a fifth of the cases validates, and is segmented at the end

The cases are links to a few hippocampus phantoms; every link is preprocessed as a case. The first way preprocesses them, the
others find them preprocessed. A peak differs by some tens of MiB from run to run.

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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

NUM_PHANTOMS = 8
FACTOR = 10
TASK = "hippocampus-mr"


@dataclass(frozen=True, kw_only=True)
class Way:
    """How to train.

    Attributes:
        fold: That validates.
        on_disk: Whether no case may be kept in memory.
    """

    fold: str | int
    on_disk: bool = False


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of one training, MiB: before it began, at its peak, and the files of its preprocessed cases."""

    imported: float
    peak: float
    store: float


WAYS = {"on disk": Way(fold="all", on_disk=True), "defaults": Way(fold="all"), "fold 0": Way(fold=0)}


def main(words: Sequence[str] | None = None) -> None:
    """Print the peaks of all ways, and by how much they grow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases", type=int, default=80, help="of the small dataset; the large one has ten times as many"
    )
    parser.add_argument("--budget", default="20it")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what the processes are called with
    arguments = parser.parse_args(words)
    if arguments.measure:
        print(json.dumps(asdict(measure(**json.loads(arguments.measure)))))
        return
    numbers = arguments.cases, FACTOR * arguments.cases
    print(f"{TASK}, {arguments.budget}; MiB")
    print(f"{'':10}{'cases':>8}{'before':>8}{'peak':>8}{'store':>8}", flush=True)
    found: dict[str, list[Memory]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        write_phantoms(Path(folder) / "phantoms")
        for num_cases in numbers:
            data = Path(folder) / str(num_cases)
            link_cases(Path(folder) / "phantoms", data, num_cases)
            for name, way in WAYS.items():
                memory = measure_in_process(data, TASK, arguments.budget, way)
                found[name].append(memory)
                row = f"{memory.imported:8.0f}{memory.peak:8.0f}{memory.store:8.1f}"
                print(f"{name:10}{num_cases:8}{row}", flush=True)
    from medunet.training.memory import CASES_GIB

    for name, (small, large) in found.items():
        growth, allowed = large.peak - small.peak, large.store - small.store
        per_case = 1024 / (numbers[1] - numbers[0])
        bound = "" if WAYS[name].on_disk else f", of the store {per_case * allowed:.1f} (up to {CASES_GIB:g} GiB of it)"
        print(f"{name}: peaks {large.peak / small.peak:.3f} x, growth {per_case * growth:.1f} KiB per case{bound}")


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


def measure_in_process(data: Path, task: str, budget: str, way: Way) -> Memory:
    """Train in a process of its own, whose runs and preprocessed cases lie beside the data."""
    request = json.dumps({"data": str(data), "task": task, "budget": budget, "way": asdict(way)})
    environment = os.environ | {"MEDUNET_HOME": str(data / "runs")}
    command = [sys.executable, __file__, "--measure", request]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return Memory(**json.loads(output.splitlines()[-1]))


def measure(data: str, task: str, budget: str, way: dict[str, str | int | bool]) -> Memory:
    """Train in this process."""
    from medunet.models import get_runs_folder
    from medunet.training import experiment, train

    if way["on_disk"]:
        experiment.limit_cases_gib = lambda *_: 0.0
    imported = peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        train(task, data, budget=budget, fold=way["fold"], device="cpu", output=Path(folder) / "run")  # type: ignore[arg-type]
    files = (get_runs_folder() / "preprocessed").rglob("*.safetensors")
    store = sum(path.stat().st_size for path in files) / 2**20
    return Memory(imported=imported, peak=peak_mib(), store=store)


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
