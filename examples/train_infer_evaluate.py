"""Train on synthetic MR volumes, segment unseen ones in memory, score them, draw one of them.

    python examples/train_infer_evaluate.py --budget 1min --output runs/example

Everything is written below the output folder. The guard at the end is needed: the phantoms are made by several
processes, and each of them imports this file again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console

import medunet
from medunet.evaluation import Evaluation, build_evaluation, score_case
from medunet.phantoms import PhantomCase, make_phantom_case
from medunet.reporting import build_dice_table, draw_overlay

TASK = "hippocampus-mr"
FIRST_UNSEEN_SEED = 1000  # training makes the seeds 0 to 23


def main() -> None:
    """Parse, train, segment, score, draw."""
    arguments = parse_arguments()
    os.environ.setdefault("MEDUNET_HOME", str(arguments.output))  # where phantoms and preprocessed cases go
    result = medunet.train(TASK, budget=arguments.budget, output=arguments.output / "model")
    print(f"Trained {result.num_iterations} iterations: {result.folder}")

    unseen = [make_phantom_case(TASK, FIRST_UNSEEN_SEED + number) for number in range(arguments.num_cases)]
    segmenter = medunet.load(result.folder)
    evaluation = segment_and_score(segmenter, unseen)
    Console().print(build_dice_table(evaluation))

    picture = arguments.output / "unseen.png"
    draw(segmenter, unseen[0], picture)
    print(f"Picture: {picture}")


def parse_arguments() -> argparse.Namespace:
    """Three options, all with a default."""
    parser = argparse.ArgumentParser(description="Train, segment and evaluate on synthetic MR volumes.")
    parser.add_argument("--budget", default="1min", help="of training, such as 90s, 10min or 500it (default: 1min)")
    parser.add_argument("--output", type=Path, default=Path("runs/example"), help="new folder (default: runs/example)")
    parser.add_argument("--num-cases", type=int, default=4, help="unseen volumes (default: 4)")
    return parser.parse_args()


def segment_and_score(segmenter: medunet.Segmenter, cases: list[PhantomCase]) -> Evaluation:
    """Segment every case in memory and compare it with its known truth."""
    scores = []
    for case in cases:
        segmentation = segmenter.segment(case.image)
        scores += score_case(case.labels, segmentation.labels, segmenter.task.labels, case_id=case.case_id)
    return build_evaluation(scores)


def draw(segmenter: medunet.Segmenter, case: PhantomCase, path: Path) -> None:
    """The scan with the contours of truth and prediction."""
    prediction = segmenter.segment(case.image).labels
    draw_overlay(case.image, prediction, case.labels, segmenter.task.labels, path, title=case.case_id, modality="MR")


if __name__ == "__main__":
    main()
