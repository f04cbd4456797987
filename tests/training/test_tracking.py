"""A training is followed in MLflow, and neither waits for it nor ends with it."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stand_in_mlflow import build_modules

from medunet.errors import InputError
from medunet.models import read_records
from medunet.training import TrainingResult, tracking
from medunet.training.loop import Trainer
from medunet.training.mlflow_sender import Sender

Train = Callable[..., TrainingResult]


@pytest.fixture(params=["stand-in", "mlflow"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder as a server: of a stand-in, and of MLflow where it is installed."""
    if request.param == "stand-in":
        for name, module in build_modules().items():
            monkeypatch.setitem(sys.modules, name, module)
    else:
        pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'medunet[mlflow]'")
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_ALLOW_FILE_STORE", *tracking._SILENCE):
        monkeypatch.setenv(name, "true")
    for name, value in tracking._PATIENCE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("medunet.training.loop._REPORT_SECONDS", 0.0)
    return str(tmp_path / "mlflow")


@pytest.fixture
def read_runs(store: str) -> Callable[[], dict[str, Any]]:
    """What MLflow itself finds there: name of a run -> run."""

    def read() -> dict[str, Any]:
        from mlflow import MlflowClient

        client = MlflowClient(Path(store).as_uri())
        (experiment,) = (one for one in client.search_experiments() if one.name == "medunet-tiny-mr")
        return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}

    return read


@pytest.fixture
def client(store: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(Path(store).as_uri())


def list_files(client: Any, run_id: str, place: str = "") -> set[str]:
    files = set()
    for item in client.list_artifacts(run_id, place):
        files |= list_files(client, run_id, item.path) if item.is_dir else {item.path}
    return files


def interrupt_at(monkeypatch: pytest.MonkeyPatch, iteration: int, error: BaseException) -> None:
    step = Trainer._step

    def fail(self: Trainer, *arguments: Any) -> Any:
        if self.state.iteration == iteration:
            raise error
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", fail)


def test_parameters_curves_scores_and_the_model_arrive(
    train_tiny: Train, store: str, read_runs: Any, client: Any, tmp_path: Path
) -> None:
    train_tiny(tmp_path / "first", mlflow=store, seed=3)
    (run,) = read_runs().values()
    records = read_records(tmp_path / "first")
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    parameters = run.data.params
    assert parameters["seed"] == "3"
    assert parameters["budget"] == "4it"
    assert parameters["plan.patch_size"] == "x".join(map(str, records.plan.patch_size))
    assert parameters["plan.optimizer.name"] == records.plan.optimizer.name
    assert (parameters["training_cases"], parameters["validation_cases"]) == ("4", "1")
    assert not [value for value in parameters.values() if str(tmp_path) in value]
    assert run.data.tags["medunet.task"] == "tiny-mr"
    assert run.data.tags["medunet.version.medunet"] == records.training.medunet_version
    assert not [tag for tag in run.data.tags if "git" in tag]

    steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
    assert steps == [1, 2, 3, 4, 4]
    rates = [point.value for point in client.get_metric_history(run.info.run_id, "learning_rate")]
    assert 0 < max(rates) <= records.plan.optimizer.learning_rate
    assert rates[-1] == 0
    assert client.get_metric_history(run.info.run_id, "validation_dice")
    assert run.data.metrics["final_dice/mean"] == records.metrics["mean_dice"]
    for label, row in records.metrics["labels"].items():
        assert run.data.metrics[f"final_dice/{label}"] == row["mean"]

    files = list_files(client, run.info.run_id)
    assert {"model/weights.safetensors", "model/plan.json", "model/report.html", "pictures/validation.png"} <= files
    assert not [name for name in files if "state" in name or "tensorboard" in name or "run.lock" in name]
    copy = client.download_artifacts(run.info.run_id, "model/weights.safetensors", str(tmp_path))
    assert Path(copy).read_bytes() == (tmp_path / "first" / "weights.safetensors").read_bytes()


def test_a_resumed_run_goes_on_in_the_same_run(
    train_tiny: Train, store: str, read_runs: Any, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run", mlflow=store)
    (before,) = read_runs().values()
    assert before.info.status == "KILLED"
    train_tiny(tmp_path / "run", resume=True)  # without saying where
    (after,) = read_runs().values()
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    points = client.get_metric_history(after.info.run_id, "loss")
    assert {point.step for point in points} == {1, 2, 3, 4}


def test_a_run_that_was_deleted_in_mlflow_is_followed_as_a_new_one(
    train_tiny: Train, store: str, read_runs: Any, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run", mlflow=store)
    (before,) = read_runs().values()
    client.delete_run(before.info.run_id)
    train_tiny(tmp_path / "run", resume=True)
    (after,) = read_runs().values()
    assert after.info.run_id != before.info.run_id
    assert after.info.status == "FINISHED"


def test_an_error_marks_the_run_as_failed(
    train_tiny: Train, store: str, read_runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 2, RuntimeError("spoilt"))
    with pytest.raises(RuntimeError, match="spoilt"):
        train_tiny(tmp_path / "run", mlflow=store)
    (run,) = read_runs().values()
    assert run.info.status == "FAILED"


def test_folds_are_nested_runs(train_tiny: Train, store: str, read_runs: Any, client: Any, tmp_path: Path) -> None:
    splits = tmp_path / "splits.csv"
    splits.write_text("case,fold\n" + "\n".join(f"case_{number},{number % 2}" for number in range(5)) + "\n")
    train_tiny(tmp_path / "run", mlflow=store, fold="cv", splits=splits)
    runs = read_runs()
    assert set(runs) == {"run", "run/fold_0", "run/fold_1"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    root = runs["run"]
    for fold in (0, 1):
        run = runs[f"run/fold_{fold}"]
        assert run.data.tags["mlflow.parentRunId"] == root.info.run_id
        assert run.data.params["fold"] == str(fold)
        of_fold = json.loads((tmp_path / "run" / f"fold_{fold}" / "metrics.json").read_text())
        assert run.data.metrics["final_dice/mean"] == of_fold["mean_dice"]
        assert not [name for name in list_files(client, run.info.run_id) if name.startswith("model")]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert root.data.metrics["final_dice/mean"] == metrics["mean_dice"]
    assert "model/fold_1/weights.safetensors" in list_files(client, root.info.run_id)


def test_a_failing_server_costs_a_warning_and_later_gets_everything(
    train_tiny: Train,
    store: str,
    read_runs: Any,
    client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
) -> None:
    from mlflow import MlflowClient

    send, failures = MlflowClient.log_batch, iter(range(5))

    def fail_at_first(self: Any, *arguments: Any, **options: Any) -> Any:
        if next(failures, None) is not None:
            msg = "the server is away"
            raise OSError(msg)
        return send(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", fail_at_first)
    train_tiny(tmp_path / "run", mlflow=store)
    assert ["the server is away" in record.message for record in caplog.records] == [True]
    (run,) = read_runs().values()
    assert run.data.params["budget"] == "4it"
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 5
    assert "final_dice/mean" in run.data.metrics


def test_what_a_dead_server_did_not_get_is_said(
    train_tiny: Train, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from mlflow import MlflowClient

    def fail(self: Any, *arguments: Any, **options: Any) -> Any:
        msg = "the server is away"
        raise OSError(msg)

    monkeypatch.setattr(MlflowClient, "create_run", fail)
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 0.1)
    result = train_tiny(tmp_path / "run", mlflow=store)
    assert result.num_iterations == 4
    first, last = (record.message for record in caplog.records)
    assert "Training goes on" in first
    assert "could not be sent to MLflow" in last
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_a_server_that_is_not_there_is_said_before_training(train_tiny: Train, store: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(InputError, match=f"MLflow cannot be used at http://127.0.0.1:{port}.*Start the server"):
        train_tiny(tmp_path / "run", mlflow=f"http://127.0.0.1:{port}")
    assert not (tmp_path / "run").exists()


def test_a_database_needs_the_whole_of_mlflow(
    train_tiny: Train, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="the whole of MLflow: pip install mlflow"):
        train_tiny(tmp_path / "run", mlflow=f"sqlite:///{tmp_path}/mlflow.db")


def test_a_run_goes_on_though_the_server_or_mlflow_is_gone(
    train_tiny: Train, store: str, read_runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run", mlflow=store)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, KeyboardInterrupt())
        patch.setitem(sys.modules, "mlflow", None)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "run", resume=True)
    assert "is no longer followed" in caplog.text
    path = tmp_path / "run" / "state" / "mlflow.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"uri": "http://127.0.0.1:9"}))
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 0.1)
    assert train_tiny(tmp_path / "run", resume=True).num_iterations == 4
    assert "could not be sent to MLflow at http://127.0.0.1:9" in caplog.text
    path.write_text("{")
    assert [run.info.status for run in read_runs().values()] == ["KILLED"]


def test_a_password_in_the_address_is_refused(train_tiny: Train, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        train_tiny(tmp_path / "run", mlflow="http://me:secret@server:5000")
    assert "secret" not in str(caught.value)


def test_without_mlflow_the_error_names_the_extra(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"pip install 'medunet\[mlflow\]'"):
        train_tiny(tmp_path / "run", mlflow=str(tmp_path / "mlflow"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("http://server:5000", "http://server:5000"),
        ("sqlite:///runs.db", "sqlite:///runs.db"),
        ("/tmp/mlruns", "file:///tmp/mlruns"),
        ("file:///tmp/mlruns", "file:///tmp/mlruns"),
        ("file:/tmp/mlruns", "file:///tmp/mlruns"),
    ],
)
def test_a_folder_may_be_a_plain_path(text: str, uri: str) -> None:
    assert tracking._to_uri(text) == uri


# ---- the sender, without MLflow ----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.training.mlflow_sender._SECONDS", 0.01)
    monkeypatch.setattr("medunet.training.mlflow_sender._CLOSING_SECONDS", 0.01)


def test_numbers_arrive_in_order_and_in_batches() -> None:
    sent: list[tuple[str, list[int]]] = []
    sender = Sender("here", lambda name, metrics: sent.append((name, list(metrics))))
    sender.put_metrics("a", list(range(700)))
    sender.put_metrics("a", list(range(700, 1200)))
    sender.close(1.0)
    assert [number for _, metrics in sent for number in metrics] == list(range(1200))
    assert max(len(metrics) for _, metrics in sent) <= 500


def test_one_call_that_never_succeeds_blocks_no_other(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def fail() -> None:
        msg = "never"
        raise ValueError(msg)

    sender = Sender("here", lambda name, metrics: done.append(name))
    sender.put(fail)
    for name in ("b", "c"):
        sender.put(lambda name=name: done.append(name))  # type: ignore[misc]
    sender.close(0.5)
    assert done == ["b", "c"]
    assert "1 entries could not be sent to MLflow at here (never)" in caplog.messages[-1]
