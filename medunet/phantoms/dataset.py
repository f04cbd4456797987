"""Phantoms as a dataset folder in the layout of the Medical Segmentation Decathlon (http://medicaldecathlon.com).

``dataset.json`` comes last: a folder without it was interrupted and is taken up again, a folder with it is complete.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from medunet import __version__
from medunet.errors import InputError, OutputError
from medunet.io import describe_write_error, write_json_atomic, write_nifti_image, write_nifti_labels
from medunet.phantoms.case import Phantom
from medunet.phantoms.catalogue import check_seed, get_phantom

GENERATOR_VERSION = 1
"""Raised whenever the same seed gives other bytes."""

MAX_CASES = 100_000
_STARTED_NAME = ".phantom.json"


def write_phantom_dataset(
    name: str,
    folder: Path,
    *,
    num_cases: int,
    seed: int = 0,
    num_workers: int | None = None,
    on_case: Callable[[str], None] | None = None,
) -> None:
    """Write a folder of synthetic cases; a complete one with the same settings is left alone.

    Args:
        name: A key of `PHANTOMS`.
        folder: Where to; made when missing.
        num_cases: How many cases.
        seed: Datasets of different seeds share no case.
        num_workers: Processes; 1 works in this one, None takes a process per core. The bytes do not depend on it.
        on_case: Called with the case id whenever a case is on the disk.

    Raises:
        InputError: If the name is unknown, or a number is out of range.
        OutputError: If the folder holds anything else, or cannot be written.
    """
    phantom = get_phantom(name)
    check_seed(seed)
    _check_counts(num_cases, num_workers)
    recipe = {"name": name, "num_cases": num_cases, "seed": seed, "generator_version": GENERATOR_VERSION}
    if _is_complete(folder, recipe):
        return
    write_json_atomic(folder / _STARTED_NAME, recipe)
    for case_id in _write_cases(phantom, folder, num_cases, seed, num_workers or os.cpu_count() or 1):
        if on_case is not None:
            on_case(case_id)
    write_json_atomic(folder / "dataset.json", _describe(phantom, num_cases, recipe))
    (folder / _STARTED_NAME).unlink(missing_ok=True)


def _check_counts(num_cases: int, num_workers: int | None) -> None:
    if not 1 <= num_cases <= MAX_CASES:
        msg = f"num_cases is {num_cases}; expected 1 to {MAX_CASES}."
        raise InputError(msg)
    if num_workers is not None and num_workers < 1:
        msg = f"num_workers is {num_workers}; expected 1 or more, or None for one per core."
        raise InputError(msg)


def _is_complete(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether this very dataset is there already.

    Raises:
        OutputError: If something else is there.
    """
    try:
        names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise describe_write_error(folder, error) from error
    if not names:
        return False
    marker = "dataset.json" if "dataset.json" in names else _STARTED_NAME
    found = _read_recipe(folder / marker)
    if found is None:
        msg = f"{folder} is not empty and holds no phantom dataset; nothing was changed. Choose an empty folder."
        raise OutputError(msg)
    if found != recipe:
        was = ", ".join(f"{key} {value}" for key, value in found.items())
        wanted = ", ".join(f"{key} {value}" for key, value in recipe.items())
        msg = (
            f"{folder} holds another phantom dataset ({was}; wanted {wanted}); nothing was changed. "
            "Choose another folder."
        )
        raise OutputError(msg)
    return marker == "dataset.json"


def _read_recipe(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    recipe = (
        content.get("phantom", None if path.name == "dataset.json" else content) if isinstance(content, dict) else None
    )
    return recipe if isinstance(recipe, dict) else None


def _write_cases(phantom: Phantom, folder: Path, num_cases: int, seed: int, num_workers: int) -> Iterator[str]:
    jobs = [(phantom.name, folder, seed, number) for number in range(num_cases)]
    num_workers = min(num_workers, num_cases)
    if num_workers == 1:
        yield from map(_write_case, jobs)
        return
    # "spawn" works on every system and copies no threads of torch into the children.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from _run(pool, jobs)


def _run(pool: ProcessPoolExecutor, jobs: Iterable[tuple[str, Path, int, int]]) -> Iterator[str]:
    try:
        yield from pool.map(_write_case, jobs)
    except BaseException:
        pool.shutdown(cancel_futures=True)  # after a full disk or Ctrl-C the rest need not be tried
        raise


def _write_case(job: tuple[str, Path, int, int]) -> str:
    name, folder, seed, number = job
    phantom = get_phantom(name)
    case = phantom.make(seed * MAX_CASES + number)
    case_id = _case_id(phantom, number)
    description = f"SYNTHETIC phantom, medunet {__version__}"
    write_nifti_image(case.image, folder / "imagesTr" / f"{case_id}.nii.gz", description=description)
    write_nifti_labels(case.labels, folder / "labelsTr" / f"{case_id}.nii.gz", description=description)
    return case_id


def _case_id(phantom: Phantom, number: int) -> str:
    return f"{phantom.case_prefix}_{number:03d}"


def _describe(phantom: Phantom, num_cases: int, recipe: dict[str, Any]) -> dict[str, Any]:
    case_ids = [_case_id(phantom, number) for number in range(num_cases)]
    return {
        "name": phantom.name,
        "description": "SYNTHETIC phantom with exactly known truth; no patient was scanned. Not for clinical use.",
        "synthetic": True,
        "reference": f"medunet {__version__}",
        "tensorImageSize": "3D",
        "modality": {str(number): channel for number, channel in enumerate(phantom.channels)},
        "labels": {"0": "background", **{str(value): label for label, value in phantom.labels.items()}},
        "numTraining": num_cases,
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{case_id}.nii.gz", "label": f"./labelsTr/{case_id}.nii.gz"} for case_id in case_ids
        ],
        "test": [],
        "phantom": recipe,
    }
