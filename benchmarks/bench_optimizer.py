"""What Muon buys: the same training with each optimiser that a plan can name, and the Dice of the fold that validates.

Everything else is ``medunet train --budget 1500it``: patches, network, augmentation, the learning rate's course, the running
mean of the weights. SGD is nnU-Net's, with its own learning rate and course.

    python benchmarks/bench_optimizer.py --data hippocampus-mr
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import tempfile
from pathlib import Path

from medunet.models.folder import write_description
from medunet.planning.network import MUON, NNUNET_SGD
from medunet.planning.plan import OptimizerPlan
from medunet.training import Observer, TrainingSettings
from medunet.training.distributed import World
from medunet.training.experiment import prepare_experiment
from medunet.training.fold import train_fold
from medunet.training.signals import StopSignals
from medunet.training.validation import Validation

OPTIMIZERS = {
    "muon": MUON,
    "adamw": MUON.model_copy(update={"name": "adamw", "momentum": 0.0}),
    "sgd": NNUNET_SGD.model_copy(update={"averaging": MUON.averaging}),
}


def main() -> None:
    """Print a row per optimiser and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--task", default="hippocampus-mr")
    parser.add_argument("--fold", type=int, default=0, help="that validates")
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--optimizers", nargs="+", choices=list(OPTIMIZERS), default=["muon", "adamw"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    logging.getLogger("medunet").setLevel(logging.ERROR)
    for seed in range(arguments.seeds):
        for name in arguments.optimizers:
            dice, seconds = train(arguments, OPTIMIZERS[name], seed)
            per_step = 1000 * seconds / arguments.iterations
            print(f"{name:5}  seed {seed}  Dice {dice:.4f}  {per_step:.0f} ms a step", flush=True)


def train(arguments: argparse.Namespace, optimizer: OptimizerPlan, seed: int) -> tuple[float, float]:
    """Dice of the validation cases, and the seconds of the loop."""
    settings = TrainingSettings(
        task=arguments.task,
        data=str(arguments.data.resolve()),
        fold=arguments.fold,
        budget=f"{arguments.iterations}it",
        configuration="3d",
        device=arguments.device,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        experiment = prepare_experiment(
            folder, settings, world=World(), observer=Observer(), signals=StopSignals(), resumes=False
        )
        plan = experiment.plan.model_copy(update={"optimizer": optimizer})
        write_description(folder, experiment.task, plan)
        result = train_fold(dataclasses.replace(experiment, plan=plan), folder, arguments.fold, resumes=False)
    assert isinstance(result.evaluation, Validation)
    assert result.evaluation.raw.mean_dice is not None
    return result.evaluation.raw.mean_dice, result.seconds


if __name__ == "__main__":
    main()
