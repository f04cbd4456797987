"""Every network of the catalogue on the same fold with the same budget: Dice, size, arithmetic, time and memory.

The plan is the one that ``medunet train --configuration 3d`` makes for a budget in iterations: the same spacing, patch, batch,
loss, optimiser and augmentation for all. Every network is as wide as `--gflop` per patch allows (by default what the planned
U-Net costs; where even its narrowest is dearer, the table shows it), and its patch is the plan's or the next that it takes.
Each trains in a process of its own for the same time, so that memory can be told apart.

    python benchmarks/bench_networks.py --data hippocampus-mr                      # 4 minutes each
    python benchmarks/bench_networks.py --data hippocampus-mr --iterations 2 --networks unet vnet
    python benchmarks/bench_networks.py --windows 512                              # the pixel classifier's cost beside FCN's
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from medunet.models.folder import write_description
from medunet.networks import ARCHITECTURES, build_network, replace_network, summarize_networks
from medunet.networks.choose import count_plan_gflop
from medunet.networks.cost import count_gflop, count_parameters
from medunet.planning import Plan
from medunet.training import Observer, TrainingSettings, parse_budget
from medunet.training.distributed import World
from medunet.training.experiment import Experiment, prepare_experiment
from medunet.training.fold import train_fold
from medunet.training.signals import StopSignals
from medunet.training.validation import Validation

_NUM_PASSES = 5


def main() -> None:
    """Print a row per network as soon as it has trained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="dataset folder")
    parser.add_argument("--task", default="hippocampus-mr")
    parser.add_argument("--fold", type=int, default=0, help="that validates")
    parser.add_argument("--configuration", choices=["2d", "3d"], default="3d")
    parser.add_argument("--seconds", type=float, default=240.0, help="of training, each")
    parser.add_argument("--iterations", type=int, help="instead of seconds")
    parser.add_argument("--gflop", type=float, help="per patch; default: what the planned U-Net costs")
    parser.add_argument("--networks", nargs="+", choices=list(ARCHITECTURES), default=list(ARCHITECTURES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--windows", type=int, help="print the costs of the pixel classifier for images of this edge, and end"
    )
    arguments = parser.parse_args()
    if arguments.windows is not None:
        compare_windows(arguments.windows)
    elif arguments.data is None:
        parser.error("--data is needed to train")
    elif arguments.one:
        print(json.dumps(train(arguments, arguments.networks[0])))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """A child process per network."""
    budget = f"{arguments.seconds:g} s" if arguments.iterations is None else f"{arguments.iterations} iterations"
    cost = f"{arguments.gflop} GFLOP per patch, as asked for"
    if arguments.gflop is None:
        with tempfile.TemporaryDirectory() as scratch:
            plan = plan_training(arguments, Path(scratch) / "run").plan
        cost = f"{count_plan_gflop(plan):.2f} GFLOP per patch, what the planned U-Net costs"
    print(
        f"{arguments.task}, fold {arguments.fold}, {arguments.configuration}, {budget} each, seed {arguments.seed}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"every network as wide as fits into {cost}, or the narrowest there is")
    print(
        f"{'network':<17}{'Dice':>7}{'width':>7}{'patch':>11}{'parameters':>12}{'GFLOP':>7}{'steps':>7}"
        f"{'s/step':>8}{'s/pass':>8}{'GiB':>6}"
    )
    for name in arguments.networks:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", "--networks", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{name:<17} failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name:<17}{row['dice']:>7.3f}{row['width']:>7}{row['patch']:>11}{row['parameters']:>12,}{row['gflop']:>7.2f}"
            f"{row['steps']:>7}{row['seconds_per_step']:>8.3f}{row['seconds_per_pass']:>8.3f}{row['gib']:>6.2f}",
            flush=True,
        )


def train(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """One network: the row of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        experiment = plan_training(arguments, folder)
        plan = replace_network(experiment.plan, name, gflop=arguments.gflop)
        write_description(folder, experiment.task, plan)
        budget = experiment.budget if arguments.iterations else parse_budget(f"{arguments.seconds:g}s")
        experiment = dataclasses.replace(experiment, plan=plan, budget=budget)
        result = train_fold(experiment, folder, arguments.fold, resumes=False)
    assert isinstance(result.evaluation, Validation)
    dice = result.evaluation.raw.mean_dice
    network = build_network(plan.network)
    return {
        "dice": 0.0 if dice is None else dice,
        "width": plan.network.options.get("width", plan.network.features[0]),
        "patch": "x".join(map(str, plan.patch_size)),
        "parameters": count_parameters(network),
        "gflop": count_plan_gflop(plan),
        "steps": result.num_iterations,
        "seconds_per_step": result.seconds / max(1, result.num_iterations),
        "seconds_per_pass": time_pass(plan, experiment.device),
        "gib": measure_memory(experiment.device),
    }


def plan_training(arguments: argparse.Namespace, folder: Path) -> Experiment:
    """The training of the planned U-Net, in whose plan the networks are put."""
    logging.getLogger("medunet").setLevel(logging.ERROR)
    settings = TrainingSettings(
        task=arguments.task,
        data=str(arguments.data.resolve()),
        fold=arguments.fold,
        budget=f"{arguments.iterations or 1000}it",
        configuration=arguments.configuration,
        device=arguments.device,
        compile="off",
        seed=arguments.seed,
    )
    return prepare_experiment(
        folder, settings, world=World(), observer=Observer(), signals=StopSignals(), resumes=False
    )


def time_pass(plan: Plan, device: torch.device) -> float:
    """Median seconds of one pass over one patch, float32, evaluation mode."""
    network = build_network(plan.network).to(device).eval()
    image = torch.randn((1, plan.network.in_channels, *plan.patch_size), device=device)
    seconds = []
    with torch.no_grad():
        for _ in range(_NUM_PASSES + 1):
            began = time.perf_counter()
            network(image)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def measure_memory(device: torch.device) -> float:
    """The most memory that this process had, of the device where it is a GPU, GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compare_windows(edge: int) -> None:
    """Arithmetic for one slice: window by window as in 2012, the same weights densely, and FCN-8s, all as in the papers."""
    dense, fcn = summarize_networks((edge, edge), names=["pixel-classifier", "fcn-8s"])
    architecture = ARCHITECTURES["pixel-classifier"]
    config: Any = architecture.build_config((edge, edge), 1, 2)
    with torch.device("meta"):
        network: Any = architecture.build_network(config)
    network.forward = network.classify_windows
    window = count_gflop(network, 1, (config.window, config.window))
    print(f"one slice of {edge} x {edge}, one channel, two classes")
    print(
        f"pixel classifier, a window of {config.window} x {config.window} per pixel  {edge * edge * window:14,.0f} GFLOP"
    )
    print(f"pixel classifier, dense                              {dense.gflop:14,.0f} GFLOP")
    print(f"FCN-8s                                               {fcn.gflop:14,.0f} GFLOP")


if __name__ == "__main__":
    main()
