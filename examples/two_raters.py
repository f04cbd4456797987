"""How well two people agree who drew the same organs: Dice, surface distances, and where a number misleads.

    python examples/two_raters.py path/of/oncologist path/of/radiographer

Each folder holds a folder per patient, and below it a mask per organ, ``.nii.gz`` or ``.nrrd``, as the public head-neck
CTs of Nikolov et al. (2021, https://doi.org/10.2196/26151) come. Left and right of an organ count as one row. The first
rater takes the place of the reference; Dice and surface distances would be the same the other way round.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from medunet.evaluation import (
    Evaluation,
    LabelMetrics,
    MetricSettings,
    build_evaluation,
    measure_case,
    write_scores_csv,
)
from medunet.io import list_volumes, read_label_map, strip_suffix
from medunet.reporting.score_table import build_metric_table

SIDES = ("-Lt", "-Rt")


def main() -> None:
    """Pair the masks, measure every pair, print a table per metric of organs."""
    arguments = parse_arguments()
    settings = MetricSettings(tolerance_mm=arguments.tolerance_mm)
    evaluation = compare_raters(arguments.first, arguments.second, settings)
    Console().print(build_metric_table(evaluation, ["dice", "nsd", "hd95_mm", "assd_mm"]))
    if arguments.output:
        write_scores_csv(evaluation, arguments.output / "scores.csv")
        print(f"Scores: {arguments.output / 'scores.csv'}")


def parse_arguments() -> argparse.Namespace:
    """Two folders, and what is optional."""
    parser = argparse.ArgumentParser(description="Agreement of two raters on organs.")
    parser.add_argument("first", type=Path, help="folder of the first rater")
    parser.add_argument("second", type=Path, help="folder of the second rater")
    parser.add_argument("--tolerance-mm", type=float, default=2.0, help="of the NSD (default: 2)")
    parser.add_argument("--output", type=Path, help="folder for scores.csv")
    return parser.parse_args()


def compare_raters(first: Path, second: Path, settings: MetricSettings) -> Evaluation:
    """Every organ that both raters drew in a patient is a case of its organ."""
    scores: list[LabelMetrics] = []
    for patient in sorted(path.name for path in first.iterdir() if path.is_dir()):
        drawn = [find_masks(rater / patient) for rater in (first, second)]
        for organ in sorted(drawn[0].keys() & drawn[1].keys()):
            scores += measure_case(
                read_label_map(drawn[0][organ]),
                read_label_map(drawn[1][organ]),
                {merge_sides(organ): (1,)},
                case_id=f"{patient} {organ}",
                settings=settings,
            )
    return build_evaluation(sorted(scores, key=lambda score: score.label))


def find_masks(folder: Path) -> dict[str, Path]:
    """Organ -> file, in a folder or in the folders below it."""
    folders = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
    return {strip_suffix(path.name): path for place in folders for path in list_volumes(place)}


def merge_sides(organ: str) -> str:
    """``Parotid`` for ``Parotid-Lt`` and ``Parotid-Rt``."""
    for side in SIDES:
        organ = organ.removesuffix(side)
    return organ


if __name__ == "__main__":
    main()
