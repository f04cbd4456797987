"""What steps of post-processing, the dense CRF and supervoxels gain or lose in Dice.

On phantoms, whose made-up network blurs the truth by 2 mm and adds noise with a correlation of 2 mm to its logits; or, with a
dataset, on validation cases of a model, with the probabilities of its network. The model is given, or is trained first: the
planned network on fold 0, with a budget and a seed that are printed. Nothing is fitted to the cases on which steps are measured,
but the weights are those of the look at them that went best.

    python benchmarks/bench_postprocessing.py
    python benchmarks/bench_postprocessing.py --data hippocampus-mr --task hippocampus-mr          # 400 steps, seed 0
    python benchmarks/bench_postprocessing.py --data headneck-ct --task headneck-ct --device cuda --budget 10min
    python benchmarks/bench_postprocessing.py --data em-membranes-2d --task em-membranes --fold 0
    python benchmarks/bench_postprocessing.py --data DATASET --model MODEL
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

import medunet
from medunet.evaluation import score_case
from medunet.inference import InferenceSettings, Segmenter
from medunet.models import read_model
from medunet.phantoms import PHANTOMS, make_phantom_case
from medunet.postprocessing import postprocess
from medunet.tasks import Task, read_case, read_dataset
from medunet.volume import Volume

STEPS = (
    "keep-largest",
    "fill-holes",
    "remove-small:ml=0.03",
    "opening:mm=1",
    "closing:mm=1",
    "smooth:mm=0.5",
    "smooth:mm=1",
    "crf:smoothness=0",
    "crf:appearance=0",
    "crf",
    "slic:mm=2",
    "slic:mm=3",
    "slic:mm=5",
)
FROM_PROBABILITIES = ("crf", "slic")


@dataclass(frozen=True, kw_only=True)
class BenchCase:
    """A scan, the truth, and what a network said."""

    image: Volume
    reference: Volume
    mask: Volume
    probabilities: Volume


def main() -> None:
    """Print a table per set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="dataset, instead of phantoms")
    parser.add_argument(
        "--model", type=Path, help="model folder with validation cases of the dataset; default: train one"
    )
    parser.add_argument("--task", default="hippocampus-mr", help="of the model that is trained")
    parser.add_argument("--fold", type=int, default=0, help="that validates")
    parser.add_argument("--budget", default="400it", help="of the training, as for medunet train")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cases", type=int, default=10, help="cases of each set")
    parser.add_argument("--pelvis", type=int, default=2, help="cases of the large phantom")
    arguments = parser.parse_args()
    if arguments.data is not None:
        with tempfile.TemporaryDirectory(prefix="medunet-postprocessing-") as scratch:
            model = arguments.model or train(arguments, Path(scratch) / "model")
            segmenter = Segmenter(read_model(model), device=arguments.device, settings=InferenceSettings(flips="none"))
            cases = read_cases(segmenter, arguments.data, arguments.cases)
            title = f"{segmenter.task.name}, real, up to {arguments.cases} validation cases"
            measure(title, cases, segmenter.task)
        return
    if arguments.model is not None:
        parser.error("--model needs --data, the dataset that it learnt from")
    for name, num_cases, coarsest_mm in (
        ("hippocampus-mr", arguments.cases, 0.0),
        ("male-pelvis-ct", arguments.pelvis, 2.0),
    ):
        task = build_phantom_task(PHANTOMS[name].labels)
        measure(f"phantom {name}, {num_cases} cases", make_phantoms(name, num_cases, coarsest_mm), task)


def build_phantom_task(labels: Mapping[str, int]) -> Task:
    """With the labels of a phantom."""
    return Task.model_validate(
        {
            "name": "bench",
            "title": "",
            "modality": "MR",
            "channels": ["scan"],
            "labels": dict(labels),
            "intensity": "none",
        }
    )


def train(arguments: argparse.Namespace, folder: Path) -> Path:
    """The planned network on all folds but one."""
    result = medunet.train(
        arguments.task,
        arguments.data,
        output=folder,
        fold=arguments.fold,
        budget=arguments.budget,
        seed=arguments.seed,
        device=arguments.device,
    )
    print(
        f"medunet {medunet.__version__}: trained on {arguments.data.name} with task {arguments.task}, fold {arguments.fold} left out, "
        f"budget {arguments.budget} ({result.num_iterations} iterations), seed {arguments.seed}"
    )
    return folder


def measure(title: str, cases: Iterator[BenchCase], task: Task) -> None:
    """Print mean Dice over labels and cases, the change by each step, cases that rise and fall, and seconds per case."""
    dices: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for case in cases:
        dices["network"].append(compute_dice(case, case.mask, task.labels))
        for step in STEPS:
            for chances in (None, case.probabilities) if step.startswith(FROM_PROBABILITIES) else (None,):
                name = step + (", probabilities" if chances is not None else "")
                began = time.perf_counter()
                done = postprocess(case.mask, [step], task=task, image=case.image, probabilities=chances, device="cpu")
                seconds[name] += time.perf_counter() - began
                dices[name].append(compute_dice(case, done.labels, task.labels))
    base = np.array(dices["network"])
    print(f"\n{title}: mean Dice {base.mean():.4f} without post-processing")
    print(f"{'step':34} {'change':>8} {'rise':>5} {'fall':>5} {'s/case':>7}")
    for name, found in dices.items():
        if name != "network":
            change = np.array(found) - base
            rise, fall = int((change > 1e-9).sum()), int((change < -1e-9).sum())
            print(f"{name:34} {change.mean():+8.4f} {rise:5} {fall:5} {seconds[name] / len(base):7.2f}", flush=True)


def compute_dice(case: BenchCase, mask: Volume, labels: Mapping[str, tuple[int, ...]]) -> float:
    """Mean over labels."""
    scores = score_case(case.reference, mask, labels, case_id="case")
    return float(np.mean([score.dice for score in scores if score.dice is not None]))


def make_phantoms(name: str, num_cases: int, coarsest_mm: float) -> Iterator[BenchCase]:
    """Phantoms on the box of their structures with 10 mm around, with a made-up network; finer voxels are left out."""
    values = [0, *PHANTOMS[name].labels.values()]
    for seed in range(num_cases):
        made = make_phantom_case(name, seed)
        stride = [max(round(coarsest_mm / mm), 1) for mm in made.labels.spacing]
        thinned = tuple(slice(None, None, step) for step in (1, *stride))
        affine = made.labels.affine @ np.diag([*stride, 1.0])
        labels, image = Volume(made.labels.array[thinned], affine), Volume(made.image.array[thinned], affine)
        spacing = np.array(labels.spacing)
        inside = np.argwhere(labels.array[0] > 0)
        low = np.maximum(inside.min(axis=0) - np.ceil(10 / spacing).astype(int), 0)
        high = inside.max(axis=0) + np.ceil(10 / spacing).astype(int)
        box = (slice(None), *(slice(start, stop) for start, stop in zip(low, high, strict=True)))
        grid = Volume(labels.array[box], affine)
        rng = np.random.default_rng(seed)
        sigmas = 2.0 / spacing
        logits = np.stack([blur_to_logit(grid.array[0] == value, sigmas, rng) for value in values])
        exponentials = np.exp(logits - logits.max(axis=0))
        probabilities = exponentials / exponentials.sum(axis=0)
        mask = np.array(values, np.uint8)[probabilities.argmax(axis=0)]
        yield BenchCase(
            image=grid.with_array(image.array[box]),
            reference=grid,
            mask=grid.with_array(mask[None]),
            probabilities=grid.with_array(probabilities.astype(np.float32)),
        )


def blur_to_logit(mask: np.ndarray, sigmas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a network might say of one class."""
    noise = gaussian_filter(rng.normal(size=mask.shape), sigmas)
    return np.log(gaussian_filter(mask.astype(np.float32), sigmas) + 0.01) + 0.8 * noise / noise.std()


def read_cases(segmenter: Segmenter, data: Path, num_cases: int) -> Iterator[BenchCase]:
    """The first validation cases of a model, as its network sees them."""
    dataset = read_dataset(data)
    held_out = set(segmenter.model.training.validation_cases)
    for case in itertools.islice((case for case in dataset.cases if case.case_id in held_out), num_cases):
        image, reference = read_case(case, segmenter.task)
        found = segmenter.segment(image, probabilities=True)
        assert found.probabilities is not None
        yield BenchCase(image=image, reference=reference, mask=found.labels, probabilities=found.probabilities)


if __name__ == "__main__":
    main()
