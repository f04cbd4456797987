"""What a model folder says about its model: everything but the weights. Reading it loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from medunet.errors import ModelError
from medunet.models.documents import read_document, read_json
from medunet.models.instances import InstanceRules
from medunet.models.int8 import Int8Record
from medunet.models.members import is_ensemble
from medunet.models.names import (
    ENSEMBLE,
    INSTANCES,
    INT8,
    METRICS,
    PLAN,
    POSTPROCESSING,
    QUALITY,
    SPEED,
    TASK,
    TRAINING,
    WEIGHTS,
)
from medunet.models.postprocessing import Postprocessing
from medunet.models.pretraining import PretrainingRecord, read_pretraining
from medunet.models.quality import QualityRanges
from medunet.models.speed import SpeedRecord
from medunet.planning import Plan
from medunet.tasks import Task, parse_task


class TrainingRecord(BaseModel):
    """How a model came to be; of an ensemble, what its members have in common.

    Attributes:
        medunet_version: That wrote it.
        created: ISO date and time, UTC.
        dataset: Name of the dataset.
        is_synthetic: Whether it learnt from phantoms.
        training_cases: Ids.
        validation_cases: Ids.
        case_list_sha256: Of the ids of both.
        fold: That validated; None when it trained on all.
        budget: As asked for.
        num_iterations: Done.
        seconds: Spent in the loop.
        seed: Of everything random.
        is_deterministic: Whether the same seed gives the same weights.
        device: That trained.
        precision: Of the network's arithmetic.
        settings: Everything else that was resolved.
        versions: Of the packages beneath.
        weights_sha256: Of the weights; of an ensemble, of those of its members. Empty until weights are written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    medunet_version: str
    created: str
    dataset: str
    is_synthetic: bool
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    case_list_sha256: str
    fold: int | None
    budget: str
    num_iterations: int
    seconds: float
    seed: int
    is_deterministic: bool
    device: str
    precision: str
    settings: dict[str, Any]
    versions: dict[str, str]
    weights_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelRecords:
    """What a model folder says about its model: everything but the weights.

    Attributes:
        folder: Where it was read from.
        task: What it segments.
        plan: How.
        training: Where it comes from.
        metrics: What it scored in validation; empty when it was not validated.
        postprocessing: What is done to a mask after the network; what the task asks for, where the folder does not say.
        instances: How objects are told apart, of a task with instances.
        quality: What scans and masks looked like in training; None where the folder does not say.
        speed: What more or less work per scan is worth; None where the folder does not say.
        int8: What the network in eight bits costs and scores; None where the folder does not say.
        pretraining: Of a network that restores images and segments nothing; None of one that segments.
    """

    folder: Path
    task: Task
    plan: Plan
    training: TrainingRecord
    metrics: dict[str, Any]
    postprocessing: Postprocessing = field(default_factory=Postprocessing)
    instances: InstanceRules = field(default_factory=InstanceRules)
    quality: QualityRanges | None = None
    speed: SpeedRecord | None = None
    int8: Int8Record | None = None
    pretraining: PretrainingRecord | None = None


def read_records(folder: str | Path) -> ModelRecords:
    """Read a model folder without its weights.

    Raises:
        ModelError: If it is no model folder, or a file is missing or wrong.
    """
    folder = Path(folder)
    check_is_model(folder)
    task = parse_task(read_json(folder / TASK), str(folder / TASK))
    plan = read_document(Plan, folder / PLAN)
    pretraining = read_pretraining(folder)
    _check_fits(task, plan, folder, num_outputs=task.num_outputs if pretraining is None else len(task.channels))
    training = read_document(TrainingRecord, folder / TRAINING)
    metrics = read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
    postprocessing = Postprocessing.of_task(task)
    if (folder / POSTPROCESSING).is_file():
        postprocessing = read_document(Postprocessing, folder / POSTPROCESSING)
        _check_names_labels(postprocessing, task, folder)
    return ModelRecords(
        folder=folder,
        task=task,
        plan=plan,
        training=training,
        metrics=metrics,
        postprocessing=postprocessing,
        instances=read_document(InstanceRules, folder / INSTANCES)
        if (folder / INSTANCES).is_file()
        else InstanceRules(),
        quality=read_document(QualityRanges, folder / QUALITY) if (folder / QUALITY).is_file() else None,
        speed=read_document(SpeedRecord, folder / SPEED) if (folder / SPEED).is_file() else None,
        int8=read_document(Int8Record, folder / INT8) if (folder / INT8).is_file() else None,
        pretraining=pretraining,
    )


def check_is_model(folder: Path) -> None:
    """Refuse what is no model folder.

    Raises:
        ModelError: With what is missing.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        msg = f"The model folder {folder} {what}; expected a folder that `medunet train` made."
        raise ModelError(msg)
    weights = ENSEMBLE if is_ensemble(folder) else WEIGHTS
    missing = [name for name in (TASK, PLAN, TRAINING, weights) if not (folder / name).is_file()]
    if missing:
        msg = (
            f"{folder} is no complete model: {', '.join(missing)} missing; expected a folder that `medunet train` made."
        )
        raise ModelError(msg)


def check_same_task(records: ModelRecords, part: ModelRecords) -> None:
    """Every network of a model must be given the same channels, and mean the same by its outputs.

    Args:
        records: Of the whole.
        part: Of one of its models.

    Raises:
        ModelError: If modality, channels or labels differ.
    """
    for what, wanted, found in (
        ("modality", records.task.modality, part.task.modality),
        ("channels", records.task.channels, part.task.channels),
        ("labels", list(records.task.labels.items()), list(part.task.labels.items())),
    ):
        if wanted != found:
            msg = (
                f"{part.folder} has other {what} than {records.folder}, to which it belongs: {found} instead of {wanted}. "
                "Copy the model folder again."
            )
            raise ModelError(msg)


def _check_fits(task: Task, plan: Plan, folder: Path, *, num_outputs: int) -> None:
    num_previous = len(task.labels) if plan.configuration == "cascade" else 0
    wanted = (len(task.channels) * (1 + 2 * plan.num_neighbour_slices) + num_previous, num_outputs)
    found = (plan.network.in_channels, plan.network.out_channels)
    if wanted != found or plan.num_previous_labels != num_previous:
        msg = (
            f"{folder / TASK} and {PLAN} do not fit: the channels and labels of the task need {wanted[0]} inputs and "
            f"{wanted[1]} outputs, the network has {found[0]} and {found[1]}. Are the files of one model?"
        )
        raise ModelError(msg)


def _check_names_labels(postprocessing: Postprocessing, task: Task, folder: Path) -> None:
    if unknown := [name for name in postprocessing.label_names if name not in task.labels]:
        msg = (
            f"{folder / POSTPROCESSING} names the label '{unknown[0]}'; {TASK} has {', '.join(task.labels)}. Are the "
            "files of one model?"
        )
        raise ModelError(msg)
