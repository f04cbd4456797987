"""The membranes of ISBI 2012 by the U-Net of 2015, trained as in its paper on 24 of the 30 slices, scored on the last 6.

Cross-entropy with the border weights (w0 = 10, sigma = 5), elastic deformations of 3 x 3 nodes with 10 pixels of deviation, and
the paper's network, by default narrower (16 channels in the first level, not 64) and with padded convolutions, so that it
learns in minutes on two cores. Printed are, slice by slice, the Dice of the cells' interior and of the membranes, and the
foreground-restricted Rand score after border thinning (doi:10.3389/fnana.2015.00142); then the processor time of the training.

    python benchmarks/bench_isbi2012.py --data em-membranes-2d
    python benchmarks/bench_isbi2012.py --data em-membranes-2d --width 64 --padding valid --seconds 3600 --device cuda
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from medunet.evaluation import score_partition
from medunet.inference import load
from medunet.models.folder import write_description
from medunet.networks import build_network
from medunet.networks.cost import count_parameters
from medunet.tasks import Case, Dataset, read_case, read_dataset
from medunet.training import Observer, TrainingSettings, parse_budget
from medunet.training.distributed import World
from medunet.training.experiment import prepare_experiment
from medunet.training.fold import train_fold
from medunet.training.signals import StopSignals

NUM_UNSEEN = 6


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the 30 slices and their labels")
    parser.add_argument("--iterations", type=int, default=300, help="of training")
    parser.add_argument("--seconds", type=float, help="instead of iterations")
    parser.add_argument("--width", type=int, default=16, help="channels of the first level; the paper's are 64")
    parser.add_argument("--padding", choices=["same", "valid"], default="same", help="the paper's is valid")
    parser.add_argument("--edge", type=int, default=128, help="of a training patch, in pixels")
    parser.add_argument("--batch", type=int, default=4, help="patches per step")
    parser.add_argument("--loss", default="boundary-ce")
    parser.add_argument("--augmentation", default="unet2015")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    logging.getLogger("medunet").setLevel(logging.ERROR)
    dataset = read_dataset(arguments.data)
    unseen = sorted(dataset.cases, key=lambda case: int(case.case_id))[-NUM_UNSEEN:]  # neighbours of one training slice
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        train(arguments, dataset, unseen, folder)
        score(folder, unseen, arguments.device)


def train(arguments: argparse.Namespace, dataset: Dataset, unseen: Sequence[Case], folder: Path) -> None:
    """A model folder, and a line about how it was made."""
    names = {case.case_id for case in unseen}
    splits = folder.with_name("splits.json")
    training = [case.case_id for case in dataset.cases if case.case_id not in names]
    splits.write_text(json.dumps([{"train": training, "val": sorted(names)}]))
    settings = TrainingSettings(
        task="em-membranes",
        data=str(arguments.data.resolve()),
        splits=str(splits),
        budget=f"{arguments.iterations}it",
        configuration="2d",
        network="unet-2015",
        network_options=(f"width={arguments.width}", f"padding={arguments.padding}"),
        loss=arguments.loss,
        augmentation=arguments.augmentation,
        device=arguments.device,
        compile="off",
        seed=arguments.seed,
    )
    experiment = prepare_experiment(
        folder, settings, world=World(), observer=Observer(), signals=StopSignals(), resumes=False
    )
    patch = (arguments.edge, arguments.edge, 1)
    plan = experiment.plan.model_copy(update={"patch_size": patch, "batch_size": arguments.batch})
    write_description(folder, experiment.task, plan)
    budget = experiment.budget if arguments.seconds is None else parse_budget(f"{arguments.seconds:g}s")
    began, used = time.perf_counter(), measure_processor_seconds()
    result = train_fold(dataclasses.replace(experiment, plan=plan, budget=budget), folder, 0, resumes=False)
    print(
        f"U-Net 2015, {arguments.width} channels, padding {arguments.padding}, "
        f"{count_parameters(build_network(plan.network)):,} parameters; {arguments.loss}, {arguments.augmentation}; "
        f"{arguments.batch} patches of {arguments.edge}x{arguments.edge}, {result.num_iterations} steps, seed {arguments.seed}"
    )
    print(
        f"Training and validation: {measure_processor_seconds() - used:.0f} s of processor time in "
        f"{time.perf_counter() - began:.0f} s, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def score(folder: Path, cases: Sequence[Case], device: str) -> None:
    """A row per slice, and the means."""
    segmenter = load(folder, device=device)
    rows = []
    print(f"{'slice':>5}{'Dice cells':>12}{'Dice membranes':>16}{'V_rand':>8}{'V_split':>9}{'V_merge':>9}")
    for case in cases:
        image, labels = read_case(case, segmenter.task)
        found = segmenter.segment(image).labels.array[0, :, :, 0] > 0
        truth = labels.array[0, :, :, 0] > 0
        rand = score_partition(truth, found)
        assert rand is not None
        rows.append((compute_dice(truth, found), compute_dice(~truth, ~found), rand.f_score, rand.split, rand.merge))
        print_row(case.case_id, rows[-1])
    print_row("mean", np.mean(rows, axis=0).tolist())


def print_row(name: str, numbers: Sequence[float]) -> None:
    """As the heading has it."""
    cells, membranes, f_score, split, merge = numbers
    print(f"{name:>5}{cells:>12.4f}{membranes:>16.4f}{f_score:>8.4f}{split:>9.4f}{merge:>9.4f}", flush=True)


def compute_dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Of two masks that are not both empty."""
    return float(2 * (reference & prediction).sum() / (reference.sum() + prediction.sum()))


def measure_processor_seconds() -> float:
    """Used by this process so far, over all cores."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
