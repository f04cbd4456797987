"""Follow a training in MLflow: parameters, curves, pictures, scores, and the model folder when it is finished.

MLflow is a guest: it is an observer like any other, loaded only when it is asked for. A server that cannot be reached is an error
before the training begins, and a warning afterwards. MLflow reports its usage to its makers; that is switched off before it is
imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from medunet.errors import InputError, ModelError, TrainingStoppedError
from medunet.io import write_json_atomic
from medunet.models.documents import read_document
from medunet.models.names import MLFLOW, STATE_FOLDER
from medunet.runs.lock import LOCK_FILE
from medunet.training.log import TENSORBOARD
from medunet.training.mlflow_sender import Sender, describe_error
from medunet.training.progress import Observer, Step, TrainingStart
from medunet.training.tensorboard_notes import list_pictures, read_final_scores

logger = logging.getLogger(__name__)

_SILENCE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout may belong to a JSON document
}
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Seven tries of two minutes are MLflow's own; `Sender` tries again by itself."""
_CLOSE_SECONDS = 60.0
_STOP_SECONDS = 10.0
"""After a signal: what sent it may not wait long."""
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_LEFT_OUT = frozenset({STATE_FOLDER, TENSORBOARD, LOCK_FILE})
_MAX_PARAMETERS = 100
_MAX_VALUE = 500

Status = Literal["FINISHED", "FAILED", "KILLED"]


class FollowedRun(BaseModel):
    """``state/mlflow.json``: where a run is followed, so that it goes on there when it is resumed.

    Attributes:
        uri: Of the server, or of a folder.
        experiment_id: MLflow's id of the experiment.
        runs: Network -> MLflow's id of its run. A network is named by its folder below the run folder; ``""`` is the run
            itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    experiment_id: str
    runs: dict[str, str]


@contextlib.contextmanager
def follow_in_mlflow(
    uri: str | None, folder: Path, task_name: str, observer: Observer, *, resumes: bool
) -> Iterator[Observer]:
    """An observer that tells MLflow, for as long as the block runs.

    Args:
        uri: ``http://server:5000``, a folder, or what else MLflow knows; None goes on where a resumed run was followed, and
            follows no new one.
        folder: The run folder.
        task_name: Names the experiment.
        observer: Told where the training is followed.
        resumes: Whether the run goes on.

    Raises:
        InputError: If MLflow is not installed, or cannot be used there. A run that goes on where it was followed is not
            refused.
    """
    before = _read_followed(folder) if resumes else None
    if uri is None and before is None:
        yield Observer()
        return
    try:
        follower = _start(uri, folder, task_name, before)
    except InputError as error:
        if uri is not None:
            raise
        logger.warning("%s The training goes on, and is no longer followed.", error)  # nobody has asked for it now
        yield Observer()
        return
    observer.on_message(
        f"MLflow: experiment medunet-{task_name} at {follower.uri}. MLflow's reports of its usage are switched off in this process."
    )
    try:
        yield follower
    except (TrainingStoppedError, KeyboardInterrupt):
        follower.close("KILLED", _STOP_SECONDS)
        raise
    except BaseException:
        follower.close("FAILED", _STOP_SECONDS)
        raise
    follower.close("FINISHED", _CLOSE_SECONDS)


def _start(uri: str | None, folder: Path, task_name: str, before: FollowedRun | None) -> _Follower:
    address = _to_uri(uri) if uri is not None else before.uri if before is not None else ""
    client = _build_client(address)
    if before is not None and before.uri == address:  # a job that goes on at night shall not end because MLflow sleeps
        return _Follower(client, before.experiment_id, address, folder, before.runs)
    return _Follower(client, _find_experiment(client, f"medunet-{task_name}", address), address, folder, {})


class _Follower(Observer):
    """Hands everything to a thread that talks to MLflow; each method returns at once."""

    def __init__(self, client: Any, experiment_id: str, uri: str, folder: Path, known: Mapping[str, str]) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self.uri = uri
        self._folder = folder
        self._runs = dict(known)
        self._opened: set[str] = set()
        self._ended: set[str] = set()
        self._current = ""
        self._tags: Mapping[str, str] = {}
        self._sender = Sender(uri, self._send_metrics)
        self._is_used = False

    def on_training(self, start: TrainingStart) -> None:
        """Open the run of a network, with its parameters."""
        self._is_used = True
        name = self._current = self._name(start.folder)
        self._tags = {f"medunet.{key}": value for key, value in start.tags.items()}
        self._sender.put(lambda: self._describe(name, start))

    def on_step(self, step: Step) -> None:
        """Send the curves of training."""
        numbers = {
            "loss": step.loss,
            "learning_rate": step.learning_rate,
            "data_wait": step.data_wait,
        }
        if step.dice is not None:
            numbers["training_dice"] = step.dice
        self._put_metrics(self._current, numbers, step.iteration)

    def on_look(self, iteration: int, dice: float) -> None:
        """Send the curve of validation."""
        self._put_metrics(self._current, {"validation_dice": dice}, iteration)

    def on_model(self, folder: Path) -> None:
        """Send scores and pictures, and of the whole run the model folder."""
        name = self._name(folder)
        self._put_metrics(name, {_clean(key): score for key, score in read_final_scores(folder).items()}, 0)
        for picture in list_pictures(folder):
            self._put_file(name, picture, "pictures")
        if not name:
            for path in _list_model_files(folder):
                self._put_file(name, path, "/".join(("model", *path.relative_to(folder).parent.parts)))
        else:
            self._sender.put(lambda: self._end(name, "FINISHED"))

    def close(self, status: Status, seconds: float) -> None:
        """Send what is left, and end the runs that are open."""
        if self._is_used:
            self._sender.put(lambda: self._end_all(status))
        self._sender.close(seconds)

    def _name(self, folder: Path) -> str:
        relative = folder.relative_to(self._folder).as_posix()
        return "" if relative == "." else relative

    def _put_metrics(self, name: str, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._sender.put_metrics(name, [Metric(key, number, now, step) for key, number in numbers.items()])

    def _put_file(self, name: str, path: Path, place: str) -> None:
        self._sender.put(lambda: self._client.log_artifact(self._open(name), str(path), place))

    # ---- in the thread of the sender ---------------------------------------------------------------------------------

    def _send_metrics(self, name: str, metrics: list[Any]) -> None:
        self._client.log_batch(self._open(name), metrics=metrics)

    def _describe(self, name: str, start: TrainingStart) -> None:
        from mlflow.entities import Param

        run_id = self._open(name)
        if start.resumes:  # MLflow refuses other values than those it has
            return
        parameters = [Param(_clean(key), str(value)[:_MAX_VALUE]) for key, value in start.parameters.items()]
        for first in range(0, len(parameters), _MAX_PARAMETERS):
            self._client.log_batch(run_id, params=parameters[first : first + _MAX_PARAMETERS])

    def _open(self, name: str) -> str:
        """MLflow's id of a run, which is made or opened again when it is first used."""
        if name in self._opened:
            return self._runs[name]
        if name not in self._runs or not self._reopen(self._runs[name]):
            parent = {"mlflow.parentRunId": self._open("")} if name else {}
            title = f"{self._folder.resolve().name}/{name}".rstrip("/")
            tags = {**self._tags, **parent, "mlflow.source.name": "medunet train", "mlflow.source.type": "LOCAL"}
            run = self._client.create_run(self._experiment_id, tags=tags, run_name=title)
            self._runs[name] = run.info.run_id
        self._opened.add(name)
        record = FollowedRun(uri=self.uri, experiment_id=self._experiment_id, runs=self._runs)
        with contextlib.suppress(OSError):  # then a resumed run is followed as a new one
            write_json_atomic(self._folder / STATE_FOLDER / MLFLOW, record.model_dump(mode="json"))
        return self._runs[name]

    def _reopen(self, run_id: str) -> bool:
        """Whether a run that was known before is still there; a server that is away raises."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        if run.info.lifecycle_stage != "active":
            return False
        self._client.update_run(run_id, status="RUNNING")
        return True

    def _end(self, name: str, status: Status) -> None:
        self._client.set_terminated(self._open(name), status)
        self._ended.add(name)

    def _end_all(self, status: Status) -> None:
        for name in sorted(self._opened - self._ended):
            self._end(name, status)


def _to_uri(text: str) -> str:
    """An address as MLflow wants it; a folder may be written as a plain path.

    Raises:
        InputError: If it holds a password, which would be written into files.
    """
    scheme = urlsplit(text).scheme
    if urlsplit(text).password is not None:
        msg = (
            "The address of --mlflow holds a password, which would be written into files; leave it out and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
        raise InputError(msg)
    if len(scheme) > 1 and scheme != "file":  # one letter is a drive
        return text
    return Path(text.removeprefix("file://").removeprefix("file:")).expanduser().resolve().as_uri()


def _read_followed(folder: Path) -> FollowedRun | None:
    path = folder / STATE_FOLDER / MLFLOW
    try:
        return read_document(FollowedRun, path) if path.is_file() else None
    except ModelError as error:
        logger.warning("%s Where the run was followed is not known any more.", error)
        return None


def _build_client(uri: str) -> Any:
    """MLflow's client for an address.

    Raises:
        InputError: If MLflow is not installed, or does not know such an address.
    """
    os.environ.update(_SILENCE)
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    if uri.startswith("file:"):  # MLflow asks for this word, since it would rather have a database
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        msg = "--mlflow needs MLflow, which is not installed; install it with: pip install 'medunet[mlflow]'"
        raise InputError(msg) from error
    if urlsplit(uri).scheme.split("+")[0] in _DATABASES and importlib.util.find_spec("sqlalchemy") is None:
        msg = f"A database such as {uri} needs the whole of MLflow: pip install mlflow. Or give a server, or a folder."
        raise InputError(msg)
    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as error:
        raise _build_refusal(uri, error) from error


def _find_experiment(client: Any, name: str, uri: str) -> str:
    """The experiment of a task, made when there is none.

    Raises:
        InputError: If the server cannot be reached, or the experiment was deleted.
    """
    try:
        found = client.get_experiment_by_name(name)
        experiment_id = str(client.create_experiment(name) if found is None else found.experiment_id)
    except Exception as error:  # of requests, of MLflow, of a disk
        raise _build_refusal(uri, error) from error
    if found is not None and found.lifecycle_stage != "active":
        msg = f"The experiment {name} in MLflow at {uri} was deleted; restore it there, or give another --mlflow."
        raise InputError(msg)
    return experiment_id


def _build_refusal(uri: str, error: Exception) -> InputError:
    remedy = "Start the server, correct --mlflow, or leave it out."
    if isinstance(error, ImportError):
        remedy = (
            "A database needs the whole of MLflow: pip install mlflow. Or give the address of a server, or a folder."
        )
    return InputError(f"MLflow cannot be used at {uri}: {describe_error(error).rstrip('.')}. {remedy}")


def _list_model_files(folder: Path) -> list[Path]:
    """What makes a model folder, and its report; neither states nor other programs' curves."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _LEFT_OUT.intersection(path.relative_to(folder).parts)
    ]


def _clean(name: str) -> str:
    """A name with the letters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", name)
