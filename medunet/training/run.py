"""`train`: from a task and a dataset to a model folder."""

from __future__ import annotations

import logging
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Literal

from medunet.models import SYNTHETIC_WARNING
from medunet.runs.failure import recorded_failure
from medunet.runs.lock import RunLock
from medunet.tasks import load_task
from medunet.training.cascade import train_cascade
from medunet.training.cross_validation import train_every_fold
from medunet.training.distributed import World
from medunet.training.experiment import prepare_experiment
from medunet.training.fold import TrainingResult, train_fold
from medunet.training.folders import check_unused, find_unfinished_run, name_run_folder
from medunet.training.launch import open_world
from medunet.training.locating import train_located
from medunet.training.progress import Observer, Observers
from medunet.training.settings import TrainingSettings, build_settings, has_settings, read_settings, take_over_settings
from medunet.training.signals import StopSignals
from medunet.training.state import has_state
from medunet.training.tensorboard_notes import TensorBoardNotes
from medunet.training.tracking import follow_in_mlflow

logger = logging.getLogger(__name__)


def train(
    task: str | Path,
    data: str | Path | None = None,
    *,
    output: str | Path | None = None,
    resume: bool | Literal["auto"] = False,
    observer: Observer | None = None,
    mlflow: str | None = None,
    **options: Any,
) -> TrainingResult:
    """Train a network and validate it.

    Args:
        task: Built-in task or path of a YAML recipe.
        data: Dataset folder (see `medunet.tasks.read_dataset`); None makes the task's synthetic phantoms.
        output: The run folder, which becomes the model folder; None makes one in ``$MEDUNET_HOME`` or ``./runs``.
        resume: Go on with ``output``, or with the newest unfinished run of the task; ``"auto"`` starts anew where
            ``output`` holds no run yet, as a job that is requeued needs it.
        observer: Told what happens.
        mlflow: Also follow the training in MLflow (``medunet[mlflow]``): address of a server such as
            ``"http://server:5000"``, or a folder. A resumed run goes on where it was followed.
        **options: Everything else that can be decided, as in `TrainingSettings`: ``fold``, ``budget``,
            ``configuration``, ``device``, ``seed`` and so on.

    Raises:
        InputError: If task, data, budget, device, MLflow or another option cannot be used.
        OutputError: If the run folder cannot be written, is being written by another run, or holds a model already.
        TrainingError: If the loss is no longer finite.
        TrainingStoppedError: On SIGTERM, SIGUSR1 or Ctrl-C, after the state and the weights so far were saved.
    """
    settings = build_settings(task, data, options)
    arguments = {"task": str(task), "data": None if data is None else str(data), "resume": resume, **_to_json(options)}
    arguments |= {"output": None if output is None else str(output)}
    begun = _find_begun(settings, output, resume)
    started = settings if begun is None else read_settings(begun)  # a run goes on with as many processes as it had
    with open_world(arguments, devices=started.devices, nodes=started.nodes, device=started.device) as world:
        folder = Path(world.share(str(begun or _name_folder(settings, output)) if world.is_first else None))
        observer = observer or Observer()
        with ExitStack() as stack:
            if world.is_first:
                stack.enter_context(RunLock(folder))
                name = load_task(settings.task).name
                follower = follow_in_mlflow(mlflow, folder, name, observer, resumes=begun is not None)
                observer = Observers([observer, TensorBoardNotes(), stack.enter_context(follower)])
            return _train_in(folder, settings, world, observer, resume=resume)


def _find_begun(settings: TrainingSettings, output: str | Path | None, resume: bool | Literal["auto"]) -> Path | None:
    """The folder of the run that goes on; None for a new one."""
    if resume == "auto":
        return Path(output) if output is not None and has_settings(Path(output)) else None
    if not resume:
        return None
    return find_unfinished_run(load_task(settings.task).name) if output is None else Path(output)


def _name_folder(settings: TrainingSettings, output: str | Path | None) -> Path:
    return name_run_folder(load_task(settings.task).name) if output is None else Path(output)


def _train_in(
    folder: Path, settings: TrainingSettings, world: World, observer: Observer, *, resume: bool | Literal["auto"]
) -> TrainingResult:
    is_begun = has_settings(folder) if resume == "auto" else resume
    if is_begun:
        settings = take_over_settings(folder, settings, load_task(settings.task))
    elif world.is_first:
        check_unused(folder)
    experiment = prepare_experiment(
        folder,
        settings,
        world=world,
        observer=observer if world.is_first else Observer(),
        signals=StopSignals(),
        resumes=is_begun,
    )
    train_one = train_fold if experiment.low_plan is None else train_cascade
    if experiment.locator_plan is not None:
        train_one = train_located
    with recorded_failure(folder) if world.is_first else nullcontext():
        if settings.fold == "cv":
            result = train_every_fold(experiment, folder, train_one=train_one)
        else:
            # A run that was killed before its first save has a plan, but no state to go on from.
            resumes = has_state(folder) if resume == "auto" else resume
            fold = None if settings.fold == "all" else settings.fold
            result = train_one(experiment, folder, fold, resumes=resumes)
    if experiment.dataset.is_synthetic and world.is_first:
        logger.warning(SYNTHETIC_WARNING)
    return result


def _to_json(options: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
