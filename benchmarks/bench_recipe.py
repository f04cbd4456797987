"""Does ``medunet train --budget full`` follow nnU-Net's recipe? The same short training by both, several seeds each.

The same plan for both, made small so that it takes minutes: nnU-Net's network with fewer features, smaller patches and
batches, and a few hundred iterations of nnU-Net's optimiser, whose learning rate falls over exactly these. In float32 on
the CPU and float16 on a GPU, as nnU-Net trains. What is compared is all the rest: preprocessing, how patches are chosen and
augmented, loss, updates, and prediction (nnU-Net averages eight mirrored passes, medunet takes one). Masks are scored by
medunet on the cases' own grids, without post-processing.

    .venv-peers/bin/python benchmarks/bench_recipe.py --data hippocampus-mr
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from peers.environment import require_nnunet
from peers.nnunet_runs import RunNnunet, open_nnunet
from peers.plans import change_plan

from medunet.device import choose_device
from medunet.evaluation import Evaluation
from medunet.models.folder import write_description
from medunet.planning import MemoryTarget, Plan, build_plan, compute_fingerprint
from medunet.tasks import load_task, read_dataset, split_fold
from medunet.training import Observer, TrainingSettings
from medunet.training.distributed import World
from medunet.training.experiment import prepare_experiment
from medunet.training.fold import train_fold
from medunet.training.signals import StopSignals
from medunet.training.validation import Validation

TOOLS = ("medunet", "nnU-Net")


def main() -> None:
    """Print Dice per seed, means, and the difference beside the spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="dataset folder; one file per channel")
    parser.add_argument("--task", default="hippocampus-mr")
    parser.add_argument("--fold", type=int, default=0, help="that validates")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--features", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--patch", type=int, nargs=3, default=(32, 48, 32), help="voxels along R, A and S")
    parser.add_argument("--batch", type=int, default=4, help="patches per batch")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    require_nnunet()
    logging.getLogger("medunet").setLevel(logging.ERROR)
    task, device = load_task(arguments.task), choose_device(arguments.device)
    plan = make_plan(arguments)
    size = " x ".join(map(str, plan.patch_size))
    print(f"{arguments.iterations} iterations, patches of {size}, {plan.batch_size} per batch, features", end=" ")
    print(*plan.network.features, flush=True)
    training, validation = split_fold(read_dataset(arguments.data), arguments.fold)
    dices: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    with open_nnunet(training, validation, task, device, plan=plan) as run:
        for seed in range(arguments.seeds):
            dices["medunet"].append(train_medunet(arguments, plan, seed))
            dices["nnU-Net"].append(train_nnunet(run, arguments.iterations, seed))
            print(f"seed {seed}: " + ", ".join(f"{tool} {dices[tool][-1]:.4f}" for tool in TOOLS), flush=True)
    print(describe_difference(dices["medunet"], dices["nnU-Net"]))


def make_plan(arguments: argparse.Namespace) -> Plan:
    """nnU-Net's plan of the dataset, made small."""
    task = load_task(arguments.task)
    cases = read_dataset(arguments.data).cases
    plan = build_plan(compute_fingerprint(cases, task, num_workers=os.cpu_count() or 1), task, MemoryTarget())
    i, j, k = arguments.patch
    return change_plan(plan, patch_size=(i, j, k), batch_size=arguments.batch, features=arguments.features)


def train_medunet(arguments: argparse.Namespace, plan: Plan, seed: int) -> float:
    """``medunet train --budget "full 300it"`` with another plan; the Dice of the fold that validates."""
    settings = TrainingSettings(
        task=arguments.task,
        data=str(arguments.data.resolve()),
        fold=arguments.fold,
        budget=f"full {arguments.iterations}it",
        configuration="3d",
        device=arguments.device,
        precision="fp32" if choose_device(arguments.device).type == "cpu" else "fp16",
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        experiment = prepare_experiment(
            folder, settings, world=World(), observer=Observer(), signals=StopSignals(), resumes=False
        )
        experiment = dataclasses.replace(experiment, plan=plan)
        write_description(folder, experiment.task, plan)
        result = train_fold(experiment, folder, arguments.fold, resumes=False)
    assert isinstance(result.evaluation, Validation)
    return _get_dice(result.evaluation.raw)


def train_nnunet(run: RunNnunet, iterations: int, seed: int) -> float:
    """nnU-Net's own trainer for as many iterations."""
    found: list[float] = []
    run(
        seed,
        lambda iteration, seconds: iteration / iterations,
        lambda iteration, seconds, evaluation: found.append(_get_dice(evaluation)),
    )
    return found[-1]


def describe_difference(medunet: Sequence[float], nnunet: Sequence[float]) -> str:
    """Means, spread (standard deviation over seeds), and the difference of the means beside its standard error.

    Example:
        >>> print(describe_difference([0.80, 0.82, 0.84], [0.81, 0.82, 0.83]))
        means: medunet 0.8200 +- 0.0200, nnU-Net 0.8200 +- 0.0100
        difference +0.0000, standard error 0.0129
    """
    means = [statistics.mean(dices) for dices in (medunet, nnunet)]
    if len(medunet) < 2:
        return f"difference {means[0] - means[1]:+.4f}; its noise is not known from one seed"
    spreads = [statistics.stdev(dices) for dices in (medunet, nnunet)]
    error = math.sqrt(sum(spread**2 for spread in spreads) / len(medunet))
    shown = ", ".join(f"{tool} {m:.4f} +- {s:.4f}" for tool, m, s in zip(TOOLS, means, spreads, strict=True))
    return f"means: {shown}\ndifference {means[0] - means[1]:+.4f}, standard error {error:.4f}"


def _get_dice(evaluation: Evaluation) -> float:
    assert evaluation.mean_dice is not None
    return evaluation.mean_dice


if __name__ == "__main__":
    main()
