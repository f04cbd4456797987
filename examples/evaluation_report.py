"""Spoil the known truth of synthetic patients in several ways, score the spoilt masks, write the page about them.

    python examples/evaluation_report.py --output runs/report

Nothing is trained. The picture `worst.jpg`, which stands in docs/reports.md, is that of the worst case on the page: contours of
both sides above, the wrong voxels below.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

import medunet
from medunet.evaluation.sides import SideOptions
from medunet.io import write_nifti_labels
from medunet.phantoms import write_phantom_dataset
from medunet.reporting import write_evaluation_page
from medunet.reporting.case_pictures import CasePicture, draw_evaluated_cases
from medunet.tasks import Task
from medunet.volume import Volume


def main() -> None:
    """Make patients, spoil, score, show."""
    arguments = parse_arguments()
    task = medunet.load_task(arguments.task)
    folder: Path = arguments.output
    assert task.phantom is not None, f"{task.name} has no phantoms; prostate-ct and hippocampus-mr have"
    write_phantom_dataset(task.phantom, folder / "phantoms", num_cases=arguments.num_cases, seed=7, num_workers=1)
    images, labels = folder / "phantoms" / "imagesTr", folder / "phantoms" / "labelsTr"
    for number, path in enumerate(sorted(labels.iterdir())):
        write_nifti_labels(spoil(medunet.read_volume(path), task, number), folder / "masks" / path.name)

    scores = medunet.evaluate(folder / "masks", labels, task=task)
    page = write_evaluation_page(scores, folder / "scores.html", task=task, images=images)
    print(f"Mean Dice {scores.mean_dice:.3f}; page: {page}")

    worst, *_ = draw_evaluated_cases(scores, SideOptions(task=task), images=images, num_worst=1)
    stack(worst).save(folder / "worst.jpg", quality=80, optimize=True)
    print(f"Picture of {worst.case_id}: {folder / 'worst.jpg'}")


def parse_arguments() -> argparse.Namespace:
    """Three options, all with a default."""
    parser = argparse.ArgumentParser(description="Score spoilt masks of synthetic patients and show them on a page.")
    parser.add_argument("--task", default="prostate-ct", help="with phantoms of its own (default: prostate-ct)")
    parser.add_argument("--output", type=Path, default=Path("runs/report"), help="new folder (default: runs/report)")
    parser.add_argument("--num-cases", type=int, default=6, help="patients (default: 6)")
    return parser.parse_args()


def spoil(labels: Volume, task: Task, number: int) -> Volume:
    """Shift the truth a little further with every case; from the second case on a label is lost in every third."""
    array = np.roll(labels.array.astype(np.uint8), (number % 4, -(number // 2)), axis=(1, 2))
    if number % 3 == 1:
        lost = list(task.labels.values())[-1]
        array[np.isin(array, lost)] = 0
    return labels.with_array(array)


def stack(picture: CasePicture) -> Image.Image:
    """Contours above the map of errors."""
    assert picture.jpeg is not None
    assert picture.error_map is not None
    parts = [Image.open(io.BytesIO(content)) for content in (picture.jpeg, picture.error_map)]
    stacked = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)))
    for place, part in enumerate(parts):
        stacked.paste(part, (0, place * parts[0].height))
    return stacked


if __name__ == "__main__":
    main()
