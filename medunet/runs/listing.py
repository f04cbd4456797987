"""Training runs as their folders tell them: what was trained, how far it came, how good it is. Loads no torch.

A run folder is read and never written, whether it is finished, being written at this moment, left by a kill, or damaged.
"""

from __future__ import annotations

import csv
import datetime
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from medunet.errors import MedunetError, ModelError
from medunet.evaluation import Evaluation, LabelScore, build_evaluation
from medunet.models import ModelRecords, TrainingRecord, get_runs_folder, is_ensemble, read_records
from medunet.models.documents import Document, read_document, read_json
from medunet.models.names import (
    ENSEMBLE,
    FAILURE,
    LOCATE,
    LOG,
    LOW,
    METRICS,
    PLAN,
    SETTINGS,
    STATE_FOLDER,
    TASK,
    TRAINING,
    WEIGHTS,
)
from medunet.planning import Plan
from medunet.runs.failure import Failure
from medunet.runs.lock import LOCK_FILE, Holder, find_holder
from medunet.tasks import Task, parse_task

RunState: TypeAlias = Literal["running", "interrupted", "failed", "finished"]
SortKey: TypeAlias = Literal["date", "dice", "time"]

_DEPTH = 3
"""Folders within folders that are searched for runs."""
_NOT_RUNS = frozenset({"preprocessed", "phantoms"})
"""What `medunet train` puts beside runs."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training, as far as its folder tells. What is not known yet is None.

    Attributes:
        folder: The run folder.
        state: ``"running"``: a process holds it; ``"finished"``: it was validated; ``"failed"``: it ended by an error;
            ``"interrupted"``: by a person, a signal or a kill, and can go on.
        task: Name of the task.
        configuration: ``"3d"``, ``"2d"``, ``"3d-low"`` or ``"cascade"``.
        network: Its architecture.
        fold: That validates; ``"all"`` trains on all cases, ``"cv"`` trains every fold.
        num_networks: Networks that are finished.
        patch_size: Voxels.
        spacing: Voxel size in mm.
        features: Channels of the finest stage, and the most of any.
        budget: As asked for.
        num_iterations: Done, over all networks.
        seconds: In the loop, over all networks.
        mean_dice: Over labels of the mean over validation cases; None without a validation.
        interval_low: Lower end of the 95 % bootstrap interval of the mean over cases; None for fewer than 2.
        interval_high: Upper end.
        num_cases: Validation cases that were scored.
        watched_dice: Of a run that is not finished: the last look at a few validation cases.
        device: That trained.
        dataset: Name of the dataset.
        is_synthetic: Whether it learnt from phantoms.
        medunet_version: That wrote it.
        when: Last change, ISO date and time, UTC.
        holder: Of a running one: the process that trains it.
        reason: Of a failed one: what the error said.
    """

    folder: Path
    state: RunState
    task: str | None = None
    configuration: str | None = None
    network: str | None = None
    fold: int | Literal["all", "cv"] | None = None
    num_networks: int = 0
    patch_size: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    features: tuple[int, int] | None = None
    budget: str | None = None
    num_iterations: int = 0
    seconds: float = 0.0
    mean_dice: float | None = None
    interval_low: float | None = None
    interval_high: float | None = None
    num_cases: int = 0
    watched_dice: float | None = None
    device: str | None = None
    dataset: str | None = None
    is_synthetic: bool | None = None
    medunet_version: str | None = None
    when: str
    holder: Holder | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name


@dataclass(frozen=True, kw_only=True)
class DamagedRun:
    """A folder of a run that cannot be read, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunList:
    """What lies below a folder.

    Attributes:
        folder: That was searched.
        runs: In the order that was asked for.
        damaged: Folders of runs that cannot be read.
    """

    folder: Path
    runs: tuple[Run, ...]
    damaged: tuple[DamagedRun, ...]


@dataclass(frozen=True, kw_only=True)
class RunDocuments:
    """Everything that a run folder says, read once.

    Attributes:
        folder: The run folder.
        task: None where the run has not come so far.
        plan: Likewise.
        settings: Of ``state/settings.json``; empty where it is gone.
        training: None until weights were saved.
        metrics: Empty until the run is finished.
        is_finished: Whether it was validated, or needs no validation.
    """

    folder: Path
    task: Task | None
    plan: Plan | None
    settings: Mapping[str, Any]
    training: TrainingRecord | None
    metrics: Mapping[str, Any]
    is_finished: bool

    @property
    def evaluation(self) -> Evaluation | None:
        """Scores of the validation cases; None where there are none.

        Raises:
            ModelError: If they are not in the form in which training writes them.
        """
        rows = self.metrics.get("cases") or []
        known = [field.name for field in fields(LabelScore)]
        try:
            scores = [LabelScore(**{name: row[name] for name in known}) for row in rows]
        except (KeyError, TypeError) as error:
            msg = f"{self.folder / METRICS} holds no scores in a form that is known ({error}). Copy the model folder again."
            raise ModelError(msg) from error
        return build_evaluation(scores) if scores else None


def list_runs(folder: str | Path | None = None, *, task: str | None = None, sort: SortKey = "date") -> RunList:
    """The training runs below a folder; it is searched a few levels deep, but not within runs.

    Args:
        folder: Itself a run, or holds some; None for ``$MEDUNET_HOME`` or ``./runs``.
        task: Keeps only the runs of this task.
        sort: ``"date"``: newest first; ``"dice"``: best first; ``"time"``: longest first. Runs without a Dice come last.

    Returns:
        All runs. One that cannot be read is named with the reason, and the others are listed.

    Raises:
        ModelError: If the folder does not exist.
        ValueError: If ``sort`` is none of these.
    """
    if sort not in ("date", "dice", "time"):
        msg = f"Runs cannot be sorted by '{sort}'; expected date, dice or time."
        raise ValueError(msg)
    folder = get_runs_folder() if folder is None else Path(folder)
    if not folder.is_dir():
        msg = (
            f"There is no folder {folder.resolve()}; name the one that holds your runs, or train with `medunet train`."
        )
        raise ModelError(msg)
    runs, damaged = [], []
    for path in _find_run_folders(folder, _DEPTH):
        try:
            run = read_run(path)
        except MedunetError as error:
            damaged.append(DamagedRun(folder=path, reason=str(error)))
        else:
            runs += [run] if task in (None, run.task) else []
    runs.sort(key=lambda run: run.when, reverse=True)
    if sort == "dice":
        runs.sort(key=lambda run: -1.0 if run.mean_dice is None else run.mean_dice, reverse=True)
    elif sort == "time":
        runs.sort(key=lambda run: run.seconds, reverse=True)
    return RunList(folder=folder, runs=tuple(runs), damaged=tuple(damaged))


def read_run(folder: str | Path) -> Run:
    """One run.

    Raises:
        ModelError: If it is no run folder, or a file of it is damaged.
    """
    folder = Path(folder)
    documents = read_run_documents(folder)
    holder, failure = find_holder(folder), _read_failure(folder)
    is_finished = documents.is_finished
    state: RunState = "finished" if is_finished else "failed" if failure is not None else "interrupted"
    return Run(
        folder=folder,
        state=state if holder is None else "running",
        **_describe_plan(documents),
        **(_describe_finished(documents) if is_finished else _describe_unfinished(documents)),
        when=_find_when(documents),
        holder=holder,
        reason=failure.reason if failure is not None and holder is None and not is_finished else None,
    )


def read_run_documents(folder: Path) -> RunDocuments:
    """What a run folder says, whether the run is finished or not.

    Raises:
        ModelError: If it is no run folder, or a file of it is damaged.
    """
    if not _is_run(folder):
        what = "holds no training" if folder.is_dir() else "does not exist"
        msg = f"{folder} {what}; expected a run folder of `medunet train`."
        raise ModelError(msg)
    if (folder / METRICS).is_file():
        records: ModelRecords = read_records(folder)
        return RunDocuments(
            folder=folder,
            task=records.task,
            plan=records.plan,
            settings=_read_settings(folder),
            training=records.training,
            metrics=_check_is_table(records.metrics, folder / METRICS),
            is_finished=True,
        )
    return RunDocuments(
        folder=folder,
        task=parse_task(read_json(folder / TASK), str(folder / TASK)) if (folder / TASK).is_file() else None,
        plan=_read_if_there(Plan, folder / PLAN),
        settings=_read_settings(folder),
        training=_read_if_there(TrainingRecord, folder / TRAINING),
        metrics={},
        is_finished=False,
    )


def list_network_folders(folder: Path) -> list[Path]:
    """Where the networks of a run are trained: in itself, its folds, and what comes before each of them."""
    folds = [folder, *sorted(folder.glob("fold_*"))]
    return [
        part for fold in folds for part in (fold, *sorted(fold.glob(f"{LOW}/half_*")), fold / LOCATE) if part.is_dir()
    ]


def _find_run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
        return
    try:
        inner = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError:  # of somebody else
        return
    for path in map(Path, inner) if depth else ():
        if path.name not in _NOT_RUNS and not path.name.startswith("."):
            yield from _find_run_folders(path, depth - 1)


def _is_run(folder: Path) -> bool:
    alone = (TRAINING, METRICS, WEIGHTS, ENSEMBLE, LOCK_FILE, f"{STATE_FOLDER}/{SETTINGS}")
    return any((folder / name).is_file() for name in alone) or all((folder / name).is_file() for name in (PLAN, TASK))


def _read_if_there(kind: type[Document], path: Path) -> Document | None:
    return read_document(kind, path) if path.is_file() else None


def _read_settings(folder: Path) -> Mapping[str, Any]:
    path = folder / STATE_FOLDER / SETTINGS
    return _check_is_table(read_json(path), path) if path.is_file() else {}


def _read_failure(folder: Path) -> Failure | None:
    return _read_if_there(Failure, folder / STATE_FOLDER / FAILURE)


def _check_is_table(content: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        msg = f"{path} holds a {type(content).__name__}; expected an object. Copy the run folder again."
        raise ModelError(msg)
    return content


def _describe_plan(documents: RunDocuments) -> dict[str, Any]:
    plan, settings = documents.plan, documents.settings
    fact: dict[str, Any] = {
        "task": None if documents.task is None else documents.task.name,
        "fold": settings.get("fold"),
    }
    if documents.training is not None and not settings:
        is_folded = is_ensemble(documents.folder)
        fact["fold"] = "cv" if is_folded else "all" if documents.training.fold is None else documents.training.fold
    if plan is None:
        return fact
    return fact | {
        "configuration": plan.configuration,
        "network": plan.network.architecture,
        "patch_size": plan.patch_size,
        "spacing": plan.spacing,
        "features": (plan.network.features[0], max(plan.network.features)),
    }


def _describe_finished(documents: RunDocuments) -> dict[str, Any]:
    record, evaluation = documents.training, documents.evaluation
    assert record is not None  # without it the folder is no model, which `read_records` refuses
    low, high = (None, None) if evaluation is None else evaluation.compute_interval() or (None, None)
    return {
        "num_networks": len(documents.metrics.get("folds") or [1]),
        "budget": record.budget,
        "num_iterations": record.num_iterations,
        "seconds": record.seconds,
        "mean_dice": documents.metrics.get("mean_dice"),
        "interval_low": low,
        "interval_high": high,
        "num_cases": 0 if evaluation is None else evaluation.num_scored_cases,
        "device": record.device,
        "dataset": record.dataset,
        "is_synthetic": record.is_synthetic,
        "medunet_version": record.medunet_version,
    }


def _describe_unfinished(documents: RunDocuments) -> dict[str, Any]:
    """What is done by the last saved weights and the log, which knows more."""
    networks = list_network_folders(documents.folder)
    records = [record for folder in networks if (record := _read_if_there(TrainingRecord, folder / TRAINING))]
    record = documents.training or (records[-1] if records else None)
    progress = [_read_progress(folder) for folder in networks]
    looks = [look for one in progress if (look := one.watched_dice) is not None]
    return {
        "num_networks": sum((folder / METRICS).is_file() for folder in networks),
        "budget": documents.settings.get("budget") or (documents.task and documents.task.budget),
        "num_iterations": sum(one.iteration for one in progress),
        "seconds": round(sum(one.seconds for one in progress), 1),
        "watched_dice": looks[-1] if looks else None,
        "device": record.device if record else documents.settings.get("device"),
        "dataset": record.dataset if record else None,
        "is_synthetic": record.is_synthetic if record else None,
        "medunet_version": record.medunet_version if record else None,
    }


@dataclass(frozen=True, kw_only=True)
class _Progress:
    """The end of a log."""

    iteration: int = 0
    seconds: float = 0.0
    watched_dice: float | None = None


def _read_progress(folder: Path) -> _Progress:
    """How far a network has come; a row that is being written, or a log that is gone, counts as nothing."""
    try:
        text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _Progress()
    iteration, seconds, watched = 0, 0.0, None
    for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
        try:
            iteration, seconds = int(row["iteration"]), float(row["seconds"])
            watched = float(row["validation_dice"]) if row["validation_dice"] else watched
        except (KeyError, TypeError, ValueError):
            continue
    return _Progress(iteration=iteration, seconds=seconds, watched_dice=watched)


def _find_when(documents: RunDocuments) -> str:
    """Of a finished run, when its weights were written; else when anything was."""
    if documents.is_finished and documents.training is not None:
        return documents.training.created
    times = [documents.folder.stat().st_mtime]
    for folder in list_network_folders(documents.folder):
        for name in (LOG, TRAINING, f"{STATE_FOLDER}/{SETTINGS}"):
            path = folder / name
            times += [path.stat().st_mtime] if path.is_file() else []
    return datetime.datetime.fromtimestamp(max(times), datetime.UTC).isoformat(timespec="seconds")
