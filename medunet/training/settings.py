"""What the user decides about a training, kept in the run folder so that it can be resumed."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from medunet.errors import InputError, ModelError
from medunet.io import write_json_atomic
from medunet.planning import Configuration
from medunet.tasks import Task, load_task
from medunet.training.sampling import AugmentationMode
from medunet.training.state import STATE_FOLDER

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that the user decides.

    Attributes:
        task: Name or path of the recipe.
        data: Dataset folder; None for the task's phantoms.
        mapping: Names of structures in SEG and RTSTRUCT for labels, each as ``"CTV_p=prostate"``.
        fold: That validates; None trains on all cases.
        budget: Such as ``"10min"``; None takes the task's.
        configuration: ``"3d"`` or ``"2d"``.
        augmentation: ``"fast"``, ``"torchio"`` or ``"none"``.
        seed: Of everything random.
        is_deterministic: Same seed, same device, same weights; needs a budget in iterations.
        device: ``"auto"`` or a torch device.
    """

    task: str
    data: str | None = None
    mapping: tuple[str, ...] = ()
    fold: int | None = 0
    budget: str | None = None
    configuration: Configuration = "3d"
    augmentation: AugmentationMode = "fast"
    seed: int = 0
    is_deterministic: bool = False
    device: str = "auto"


def write_settings(folder: Path, settings: TrainingSettings) -> None:
    """Write ``state/settings.json`` below a run folder."""
    write_json_atomic(folder / STATE_FOLDER / SETTINGS, dataclasses.asdict(settings))


def take_over_settings(folder: Path, asked: TrainingSettings, task: Task) -> TrainingSettings:
    """The settings of the run that is resumed; what was asked for now and differs is named, because it has no effect."""
    settings = _read_settings(folder)
    if (found := load_task(settings.task).name) != task.name:
        msg = f"{folder} is a training of task '{found}', not of '{task.name}'; give that task, or another --output."
        raise InputError(msg)
    ignored = [
        field.name
        for field in dataclasses.fields(asked)
        if field.name != "task" and getattr(asked, field.name) not in (field.default, getattr(settings, field.name))
    ]
    if ignored:
        logger.warning("--resume goes on with the settings of the run; ignored: %s", ", ".join(ignored))
    return settings


def _read_settings(folder: Path) -> TrainingSettings:
    path = folder / STATE_FOLDER / SETTINGS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return TrainingSettings(**content | {"mapping": tuple(content.get("mapping", ()))})
    except (OSError, ValueError, TypeError) as error:
        msg = f"{folder} cannot be resumed: {path.name} is missing or damaged. Start a new training without --resume."
        raise ModelError(msg) from error
