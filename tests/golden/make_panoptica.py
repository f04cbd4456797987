"""What panoptica says of instances, written to ``panoptica.json`` beside this file, for `tests/evaluation/test_instances.py`.

panoptica (https://github.com/BrainLesion/panoptica) needs older libraries than medunet's tests, so that it runs in an environment of
its own, once::

    python -m venv panoptica-venv && panoptica-venv/bin/pip install panoptica==2.1.7 SimpleITK
    panoptica-venv/bin/python tests/golden/make_panoptica.py PATH/OF/REAL/DATA

The arrays are made here, for both sides of the comparison, with nothing but NumPy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("panoptica.json")
SEEDS = range(4)
SHIFT = (2, 3)
"""By how many rows and columns the real nuclei are moved."""
RATERS = ("oncologist", "radiographer")
RATED_PATIENT = "0522c0017"


def make_instances(seed: int) -> np.ndarray:
    """Reference and prediction, ``(2, 40, 40, 10)``: cubes that are moved, shrunk and left out."""
    rng = np.random.default_rng(seed)
    sides = np.zeros((2, 40, 40, 10), np.int32)
    for number, (i, j) in enumerate(((i, j) for i in range(2, 36, 9) for j in range(2, 36, 9)), start=1):
        sides[0, i : i + 7, j : j + 7, 2:8] = number * (rng.random() < 0.9)
        a, b = rng.integers(0, 3, 2)
        sides[1, i + a : i + 7, j + b : j + 8, 2:8] = number * (rng.random() < 0.9)
    return sides


def shift(labels: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """The same objects further along each axis; those at the far edge are cut."""
    moved = np.zeros_like(labels)
    kept = tuple(slice(0, n - step) for n, step in zip(labels.shape, steps, strict=True))
    moved[tuple(slice(step, None) for step in steps)] = labels[kept]
    return moved


def number_organs(masks: Sequence[np.ndarray]) -> np.ndarray:
    """One object per organ, numbered from 1; where two overlap, the later."""
    labels = np.zeros(masks[0].shape, np.int32)
    for number, mask in enumerate(masks, start=1):
        labels[mask != 0] = number
    return labels


def list_rated_organs(data: Path) -> list[list[Path]]:
    """Files of the organs of a patient that two people drew, by person, in the order of the names."""
    return [
        sorted((data / "two-raters-ct-labels" / rater / RATED_PATIENT / "segmentations").glob("*.nrrd"))
        for rater in RATERS
    ]


def _score(reference: np.ndarray, prediction: np.ndarray) -> dict[str, Any]:
    import panoptica

    evaluator = panoptica.Panoptica_Evaluator(
        expected_input=panoptica.InputType.UNMATCHED_INSTANCE,
        instance_matcher=panoptica.NaiveThresholdMatching(matching_threshold=0.5),
    )
    result = evaluator.evaluate(prediction, reference, verbose=False)["ungrouped"]
    counts = {name: int(getattr(result, name)) for name in ("tp", "fp", "fn")}
    return counts | {name: float(getattr(result, name)) for name in ("pq", "sq", "rq")}


def main() -> None:
    import SimpleITK
    import tifffile

    data = Path(sys.argv[1])
    nuclei = tifffile.imread(data / "nuclei" / "mask2d.tif")
    raters = [
        number_organs([SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)) for path in paths])
        for paths in list_rated_organs(data)
    ]
    content = {
        "panoptica": version("panoptica"),
        "seeds": [_score(*make_instances(seed)) for seed in SEEDS],
        "nuclei": _score(nuclei.astype(np.int32), shift(nuclei, SHIFT).astype(np.int32)),
        "raters": _score(*raters),
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
