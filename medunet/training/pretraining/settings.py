"""What the user decides about a pretraining, kept in the run folder so that it can be resumed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from medunet.device import PrecisionName
from medunet.errors import InputError, ModelError
from medunet.io import write_json_atomic
from medunet.models.names import STATE_FOLDER
from medunet.tasks import Task, load_task, suggest
from medunet.training.compilation import Compilation
from medunet.training.pretraining.body_masks import build_pretraining_task
from medunet.training.pretraining.restoring import Distance
from medunet.training.settings import TrainingSettings
from medunet.training.state import SAVE_SECONDS

SETTINGS = "pretraining-settings.json"
MODALITIES = ("CT", "MR")


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings:
    """Everything that the user decides.

    Attributes:
        data: Folder of scans, or a table.
        task: Recipe whose channels, modality and intensity rule are taken; None where the modality says enough.
        modality: ``"CT"`` or ``"MR"``; None where there is a task.
        fold: Whose cases are kept apart, to see what was learnt; the same cases as in a training with that fold. ``"all"``
            learns from all.
        budget: As in `TrainingSettings`; None takes the task's.
        configuration: ``"auto"``, ``"3d"`` or ``"2d"``.
        hidden_share: Of the blocks of a patch.
        distance: Between what was hidden and what the network says: ``"l1"`` or ``"l2"``.
        memory_gb: As in `TrainingSettings`.
        seed: Of weights, patches and what is hidden.
        deterministic: As in `TrainingSettings`.
        device: As in `TrainingSettings`.
        precision: As in `TrainingSettings`.
        compile: As in `TrainingSettings`.
        workers: As in `TrainingSettings`.
        save_seconds: Between two saves.

    Raises:
        InputError: If a value is not among the choices, or neither or both of task and modality are given.
    """

    data: str
    task: str | None = None
    modality: Literal["CT", "MR"] | None = None
    fold: int | Literal["all"] = 0
    budget: str | None = None
    configuration: Literal["auto", "3d", "2d"] = "auto"
    hidden_share: float = 0.6
    distance: Distance = "l1"
    memory_gb: float | None = None
    seed: int = 0
    deterministic: bool = False
    device: str = "auto"
    precision: PrecisionName = "auto"
    compile: Compilation = "auto"
    workers: int | None = None
    save_seconds: float = SAVE_SECONDS

    def __post_init__(self) -> None:
        if (self.task is None) == (self.modality is None):
            given = "both" if self.task is not None else "neither"
            msg = (
                f"A pretraining takes its channels from --task, or from --modality CT or MR; {given} of them was given."
            )
            raise InputError(msg)
        choices = {
            "modality": (None, *MODALITIES),
            "configuration": ("auto", "3d", "2d"),
            "distance": get_args(Distance),
        }
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                msg = f"--{name} is '{value}'; {suggest(str(value), [one for one in known if one])}"
                raise InputError(msg)
        if not isinstance(self.fold, int) and self.fold not in ("all",):
            msg = f"--fold is '{self.fold}'; expected a number from 0 to 4, or all."
            raise InputError(msg)
        if not 0 < self.hidden_share < 1:
            msg = f"--hidden is {self.hidden_share:g}; expected a share between 0 and 1, such as 0.6."
            raise InputError(msg)
        self.build_training_settings("x")  # checks what both have

    def load_task(self) -> Task:
        """The task that is pretrained for: its only label is the body."""
        return build_pretraining_task(None if self.task is None else load_task(self.task), self.modality)

    def build_training_settings(self, task_name: str) -> TrainingSettings:
        """The same for the parts that pretraining shares with training."""
        shared = {field.name for field in dataclasses.fields(TrainingSettings)} - {"task"}
        values = {name: value for name, value in dataclasses.asdict(self).items() if name in shared}
        return TrainingSettings(task=task_name, locate="never", **values)


def build_pretraining_settings(data: str | Path, options: dict[str, Any]) -> PretrainingSettings:
    """Settings with paths made absolute.

    Raises:
        InputError: If an option does not exist (the nearest is named), or a value cannot be used.
    """
    known = {field.name for field in dataclasses.fields(PretrainingSettings)} - {"data"}
    if unknown := sorted(set(options) - known):
        msg = f"There is no pretraining option '{unknown[0]}'; {suggest(unknown[0], known)}"
        raise InputError(msg)
    task = options.get("task")
    if task is not None:
        options = options | {"task": str(Path(task).resolve() if Path(task).is_file() else task)}
    return PretrainingSettings(data=str(Path(data).resolve()), **options)


def write_pretraining_settings(folder: Path, settings: PretrainingSettings) -> None:
    """Write ``state/pretraining-settings.json`` below a run folder."""
    write_json_atomic(folder / STATE_FOLDER / SETTINGS, dataclasses.asdict(settings))


def read_pretraining_settings(folder: Path) -> PretrainingSettings:
    """The settings of a pretraining that was begun in a folder.

    Raises:
        ModelError: If there is none, or they are damaged.
    """
    path = folder / STATE_FOLDER / SETTINGS
    try:
        return PretrainingSettings(**json.loads(path.read_text(encoding="utf-8")))
    except InputError:
        raise
    except (OSError, ValueError, TypeError) as error:
        msg = f"{folder} holds no pretraining to go on with: {path.name} is missing or damaged. Start anew without --resume."
        raise ModelError(msg) from error
