"""Run folders: a name for a new one, the one that was interrupted, and its plan."""

from __future__ import annotations

import datetime
from pathlib import Path

from medunet.errors import ModelError, OutputError
from medunet.io import check_output
from medunet.models import get_runs_folder
from medunet.models.names import ENSEMBLE, METRICS, PLAN, WEIGHTS
from medunet.planning import Plan
from medunet.runs import list_network_folders
from medunet.training.state import has_state


def name_run_folder(task_name: str) -> Path:
    """A folder that does not exist yet, named after the task and the time."""
    started = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder = get_runs_folder() / f"{task_name}-{started}"
    number = 2
    while folder.exists():
        folder = folder.with_name(f"{task_name}-{started}-{number}")
        number += 1
    return folder


def find_unfinished_run(task_name: str) -> Path:
    """The newest run of a task that was interrupted: one of its networks has a state, but the run has no metrics yet.

    Raises:
        ModelError: If there is none.
    """
    runs = get_runs_folder()
    candidates = [
        folder
        for folder in runs.glob(f"{task_name}-*")
        if any(map(has_state, list_network_folders(folder))) and not (folder / METRICS).is_file()
    ]
    if not candidates:
        msg = (
            f"There is no interrupted training of task '{task_name}' in {runs.resolve()}; name its folder with --output, "
            "or start without --resume."
        )
        raise ModelError(msg)
    return max(candidates, key=lambda folder: folder.stat().st_mtime_ns)


def read_plan(folder: Path) -> Plan:
    """The plan of a run.

    Raises:
        ModelError: If it is missing or damaged.
    """
    try:
        return Plan.model_validate_json((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{folder} cannot be resumed: {PLAN} is missing or damaged. Start a new training without --resume."
        raise ModelError(msg) from error


def check_unused(folder: Path) -> None:
    """A finished model is not trained over, and a folder that cannot be written is noticed before any work.

    Raises:
        OutputError: If it holds a model, or cannot be written.
    """
    if (folder / ENSEMBLE).exists() or any((part / WEIGHTS).exists() for part in list_network_folders(folder)):
        msg = f"{folder} holds a model already; choose another --output, or go on with it by --resume."
        raise OutputError(msg)
    check_output(folder / WEIGHTS)
