"""Phantoms as a dataset folder in the layout of the Medical Segmentation Decathlon (http://medicaldecathlon.com).

Scans become NIfTI, pictures PNG.

``dataset.json`` comes last: a folder without it was interrupted and is taken up again, a folder with it is complete.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from medunet import __version__
from medunet.device import count_cores
from medunet.errors import InputError, OutputError
from medunet.io import describe_write_error, write_json_atomic, write_nifti_image, write_nifti_labels
from medunet.io.planar import write_picture, write_planar_labels
from medunet.phantoms.case import Phantom
from medunet.phantoms.catalogue import check_seed, get_phantom
from medunet.tasks import is_picture

logger = logging.getLogger(__name__)

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
    if _is_complete(folder, recipe, phantom):
        return
    write_json_atomic(folder / _STARTED_NAME, recipe)
    jobs = [_Job(phantom.name, folder, seed, number) for number in range(num_cases)]
    num_workers = min(num_workers or count_cores(), num_cases)
    _write_cases(jobs, num_workers, on_case or (lambda case_id: None))
    write_json_atomic(folder / "dataset.json", _describe(phantom, num_cases, recipe))
    (folder / _STARTED_NAME).unlink(missing_ok=True)


def _check_counts(num_cases: int, num_workers: int | None) -> None:
    if not 1 <= num_cases <= MAX_CASES:
        msg = f"num_cases is {num_cases}; expected 1 to {MAX_CASES}."
        raise InputError(msg)
    if num_workers is not None and num_workers < 1:
        msg = f"num_workers is {num_workers}; expected 1 or more, or None for one per core."
        raise InputError(msg)


def _is_complete(folder: Path, recipe: dict[str, Any], phantom: Phantom) -> bool:
    """Whether this very dataset is there already, with all its files.

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
    entries = _list_entries(phantom, recipe["num_cases"])
    return marker == "dataset.json" and all((folder / path).is_file() for entry in entries for path in entry.values())


def _read_recipe(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    recipe = (
        content.get("phantom", None if path.name == "dataset.json" else content) if isinstance(content, dict) else None
    )
    return recipe if isinstance(recipe, dict) else None


class _Job(NamedTuple):
    """One case to write, small enough to send to another process."""

    name: str
    folder: Path
    seed: int
    number: int


def _write_cases(jobs: list[_Job], num_workers: int, on_case: Callable[[str], None]) -> None:
    num_done = 0
    if num_workers > 1:
        num_done = _write_cases_in_pool(jobs, num_workers, on_case)
    for job in jobs[num_done:]:
        on_case(_write_case(job))


def _write_cases_in_pool(jobs: list[_Job], num_workers: int, on_case: Callable[[str], None]) -> int:
    """Write cases with several processes.

    Returns:
        How many of the first jobs are done: fewer than all when the processes died, as they do when a script without
        ``if __name__ == "__main__"`` is started again in each of them, or when the memory is too small.
    """
    num_done = 0
    # "spawn" works on every system and copies no threads of torch into the children.
    pool = ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for case_id in pool.map(_write_case, jobs):
            num_done += 1
            on_case(case_id)
    except BrokenProcessPool:
        logger.warning("The worker processes ended early; going on with one. num_workers=1 avoids them.")
    finally:
        pool.shutdown(cancel_futures=True)  # after a full disk or Ctrl-C the rest need not be tried
    return num_done


def _write_case(job: _Job) -> str:
    phantom = get_phantom(job.name)
    case = phantom.make(job.seed * MAX_CASES + job.number)
    case_id = _case_id(phantom, job.number)
    description = f"SYNTHETIC phantom, medunet {__version__}"
    entry = _entry(phantom, case_id)
    if is_picture(phantom.modality):
        write_picture(case.image, job.folder / entry["image"])
        write_planar_labels(case.labels, job.folder / entry["label"])
        return case_id
    write_nifti_image(case.image, job.folder / entry["image"], description=description)
    write_nifti_labels(case.labels, job.folder / entry["label"], description=description)
    return case_id


def _list_entries(phantom: Phantom, num_cases: int) -> list[dict[str, str]]:
    """The ``training`` list of dataset.json."""
    return [_entry(phantom, _case_id(phantom, number)) for number in range(num_cases)]


def _entry(phantom: Phantom, case_id: str) -> dict[str, str]:
    suffix = ".png" if is_picture(phantom.modality) else ".nii.gz"
    return {"image": f"./imagesTr/{case_id}{suffix}", "label": f"./labelsTr/{case_id}{suffix}"}


def _case_id(phantom: Phantom, number: int) -> str:
    return f"{phantom.case_prefix}_{number:03d}"


def _describe(phantom: Phantom, num_cases: int, recipe: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": phantom.name,
        "description": "SYNTHETIC phantom with exactly known truth; no patient was scanned. Not for clinical use.",
        "synthetic": True,
        "reference": f"medunet {__version__}",
        "tensorImageSize": "2D" if is_picture(phantom.modality) else "3D",
        "modality": {str(number): channel for number, channel in enumerate(phantom.channels)},
        "labels": {"0": "background", **{str(value): label for label, value in phantom.labels.items()}},
        "numTraining": num_cases,
        "numTest": 0,
        "training": _list_entries(phantom, num_cases),
        "test": [],
        "phantom": recipe,
    }
