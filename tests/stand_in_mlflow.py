"""A stand-in for MLflow's client, as far as a training needs it: runs in memory, files in a folder, its refusals.

It lets the following of trainings be tested where MLflow is not installed; where it is, the same tests ask MLflow itself.
"""

from __future__ import annotations

import shutil
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urlsplit


@dataclass
class _Run:
    info: Any
    data: Any
    history: dict[str, list[Any]] = field(default_factory=dict)


class MlflowException(Exception):  # noqa: N818  as MLflow calls it
    def __init__(self, message: str, error_code: str = "INTERNAL_ERROR") -> None:
        super().__init__(message)
        self.error_code = error_code


class MlflowClient:
    """Experiments and runs by the address of their folder; nothing answers at any other address."""

    stores: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri
        self._store = self.stores.setdefault(tracking_uri, {"experiments": {}, "runs": {}})

    def _answer(self) -> None:
        if not self._uri.startswith("file:"):
            raise ConnectionError("connection refused")

    def get_experiment_by_name(self, name: str) -> Any:
        self._answer()
        return self._store["experiments"].get(name)

    def create_experiment(self, name: str) -> str:
        number = str(len(self._store["experiments"]) + 1)
        self._store["experiments"][name] = SimpleNamespace(experiment_id=number, name=name, lifecycle_stage="active")
        return number

    def search_experiments(self) -> list[Any]:
        return list(self._store["experiments"].values())

    def search_runs(self, experiment_ids: list[str]) -> list[Any]:
        return [
            run
            for run in self._store["runs"].values()
            if run.info.experiment_id in experiment_ids and run.info.lifecycle_stage == "active"
        ]

    def create_run(self, experiment_id: str, tags: dict[str, str], run_name: str) -> Any:
        self._answer()
        run_id = f"{len(self._store['runs']):032x}"
        info = SimpleNamespace(
            run_id=run_id, run_name=run_name, experiment_id=experiment_id, status="RUNNING", lifecycle_stage="active"
        )
        self._store["runs"][run_id] = _Run(info, SimpleNamespace(params={}, metrics={}, tags=dict(tags)))
        return self._store["runs"][run_id]

    def get_run(self, run_id: str) -> Any:
        if run_id not in self._store["runs"]:
            raise MlflowException("no such run", "RESOURCE_DOES_NOT_EXIST")
        return self._store["runs"][run_id]

    def delete_run(self, run_id: str) -> None:
        self.get_run(run_id).info.lifecycle_stage = "deleted"

    def update_run(self, run_id: str, status: str) -> None:
        self.get_run(run_id).info.status = status

    def set_terminated(self, run_id: str, status: str) -> None:
        self.get_run(run_id).info.status = status

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        run = self.get_run(run_id)
        if len(metrics) > 1000 or len(params) > 100:
            raise MlflowException("too many at once", "INVALID_PARAMETER_VALUE")
        for param in params:
            if run.data.params.setdefault(param.key, param.value) != param.value:
                raise MlflowException("parameters cannot be changed", "INVALID_PARAMETER_VALUE")
        for metric in metrics:
            run.history.setdefault(metric.key, []).append(metric)
            run.data.metrics[metric.key] = metric.value

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return self.get_run(run_id).history.get(key, [])

    def _place(self, run_id: str) -> Path:
        return Path(urlsplit(self._uri).path) / run_id

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str) -> None:
        self.get_run(run_id)
        folder = self._place(run_id) / artifact_path
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(local_path, folder)

    def list_artifacts(self, run_id: str, path: str = "") -> Iterator[Any]:
        for entry in sorted((self._place(run_id) / path).glob("*")):
            yield SimpleNamespace(path=entry.relative_to(self._place(run_id)).as_posix(), is_dir=entry.is_dir())

    def download_artifacts(self, run_id: str, path: str, target: str) -> str:
        return shutil.copy(self._place(run_id) / path, target)


def build_modules() -> dict[str, types.ModuleType]:
    """What ``import mlflow`` and its parts find."""
    modules = {name: types.ModuleType(name) for name in ("mlflow", "mlflow.entities", "mlflow.exceptions")}
    vars(modules["mlflow"])["MlflowClient"] = MlflowClient
    vars(modules["mlflow.exceptions"])["MlflowException"] = MlflowException
    vars(modules["mlflow.entities"])["Param"] = lambda key, value: SimpleNamespace(key=key, value=value)
    vars(modules["mlflow.entities"])["Metric"] = lambda key, value, timestamp, step: SimpleNamespace(
        key=key, value=value, timestamp=timestamp, step=step
    )
    return modules
