"""What a run folder tells, in every state that a training can leave it in, without touching it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import TASK, write_begun_run, write_run, write_scored_run

from medunet.errors import ModelError
from medunet.evaluation import bootstrap_interval
from medunet.runs import list_runs, read_run
from medunet.runs.failure import recorded_failure
from medunet.runs.lock import LOCK_FILE, RunLock


def test_a_finished_run(tmp_path: Path) -> None:
    write_scored_run(tmp_path / "a", num_iterations=1234, seconds=98.5, budget="2h", device="cuda:0 (H200)", fold=2)
    run = read_run(tmp_path / "a")
    assert (run.name, run.state, run.task) == ("a", "finished", "blobs-mr")
    assert (run.configuration, run.network, run.fold, run.num_networks) == ("3d", "unet", 2, 1)
    assert (run.patch_size, run.spacing, run.features) == ((8, 12, 8), (1.0, 1.25, 2.0), (4, 8))
    assert (run.budget, run.num_iterations, run.seconds, run.device) == ("2h", 1234, 98.5, "cuda:0 (H200)")
    assert run.mean_dice == pytest.approx(0.75)
    assert (run.interval_low, run.interval_high) == bootstrap_interval([0.7, 0.8])
    assert run.num_cases == 2
    assert run.when == "2026-01-02T03:04:05+00:00"


def test_a_run_that_was_killed_is_interrupted_and_tells_how_far_it_came(tmp_path: Path) -> None:
    run = read_run(write_begun_run(tmp_path / "a"))
    assert (run.state, run.task, run.fold, run.budget) == ("interrupted", "blobs-mr", 1, "2h")
    assert (run.num_iterations, run.seconds) == (30, 4.0)  # the last row was cut short
    assert (run.mean_dice, run.watched_dice) == (None, 0.25)


def test_the_budget_of_the_task_counts_where_none_was_given(tmp_path: Path) -> None:
    assert read_run(write_begun_run(tmp_path / "a", budget=None)).budget == TASK.budget


def test_an_error_is_remembered_until_the_run_goes_on(tmp_path: Path) -> None:
    folder = write_begun_run(tmp_path / "a")
    with pytest.raises(RuntimeError), recorded_failure(folder):
        raise RuntimeError("the loss is\nnot finite")
    run = read_run(folder)
    assert (run.state, run.reason) == ("failed", "the loss is not finite")
    with pytest.raises(KeyboardInterrupt), recorded_failure(folder):
        raise KeyboardInterrupt
    assert (read_run(folder).state, read_run(folder).reason) == ("interrupted", None)


def test_a_refusal_to_go_on_is_no_failure(tmp_path: Path) -> None:
    folder = write_begun_run(tmp_path / "a")
    with pytest.raises(ModelError), recorded_failure(folder):
        raise ModelError("other cases")
    assert read_run(folder).state == "interrupted"


def test_an_error_before_anything_was_settled_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), RunLock(tmp_path / "a"), recorded_failure(tmp_path / "a"):
        raise RuntimeError
    assert not (tmp_path / "a").exists()


def test_a_running_one_is_recognised_and_not_disturbed(tmp_path: Path) -> None:
    folder = write_begun_run(tmp_path / "a")
    with RunLock(folder):
        before = (folder / LOCK_FILE).stat()
        run = read_run(folder)
        assert run.state == "running"
        assert run.holder is not None
        assert run.holder.process == os.getpid()
        after = (folder / LOCK_FILE).stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
        script = (
            "import sys, pathlib; from medunet.runs.lock import RunLock; RunLock(pathlib.Path(sys.argv[1])).__enter__()"
        )
        ended = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, check=False)
        assert b"is being written by process" in ended.stderr  # the lock was not lost by the look
    assert read_run(folder).state == "interrupted"


def test_looking_never_takes_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        pytest.fail("asked the kernel")

    folder = write_begun_run(tmp_path / "a")
    with RunLock(folder):
        monkeypatch.setattr("medunet.runs.lock.fcntl.flock", refuse)
        assert read_run(folder).state == "running"


@pytest.mark.parametrize(
    ("changes", "age", "state"),
    [
        ({"process": 2**22 + 12345}, 0, "interrupted"),  # on this machine, but dead
        ({"started": "2001-01-01T00:00:00+00:00", "process": os.getpid()}, 0, "interrupted"),  # the number went to us
        ({"boot": "another boot"}, 0, "interrupted"),
        ({"host": "elsewhere"}, 0, "running"),
        ({"host": "elsewhere"}, 3600, "interrupted"),
    ],
)
def test_what_a_lock_of_another_process_means(tmp_path: Path, changes: dict[str, Any], age: float, state: str) -> None:
    folder = write_begun_run(tmp_path / "a")
    with RunLock(folder):
        holder = json.loads((folder / LOCK_FILE).read_text())
    (folder / LOCK_FILE).write_text(json.dumps(holder | changes))
    then = time.time() - age
    for path in folder.rglob("*"):
        os.utime(path, (then, then))
    assert read_run(folder).state == state


def test_a_run_that_has_only_begun_is_listed(tmp_path: Path) -> None:
    with RunLock(tmp_path / "new"):
        (run,) = list_runs(tmp_path).runs
    assert (run.state, run.task, run.patch_size, run.num_iterations) == ("running", None, None, 0)


def test_a_cross_validation_counts_its_networks(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "cv"))
    assert (run.state, run.fold, run.num_iterations, run.seconds) == ("finished", "cv", 8, 3.0)
    (tmp_path / "cv" / "metrics.json").unlink()
    (tmp_path / "cv" / "fold_1" / "metrics.json").unlink()
    run = read_run(tmp_path / "cv")
    assert (run.state, run.num_networks) == ("interrupted", 1)


def test_the_list_is_sorted_and_filtered(tmp_path: Path) -> None:
    other = TASK.model_copy(update={"name": "other-mr"})
    write_scored_run(tmp_path / "a", {"left": [0.9]}, created="2026-01-01T00:00:00+00:00", seconds=10.0)
    write_scored_run(tmp_path / "b", {"left": [0.5]}, created="2026-01-03T00:00:00+00:00", seconds=30.0)
    write_scored_run(
        tmp_path / "deep" / "c", {"left": [0.7]}, created="2026-01-02T00:00:00+00:00", seconds=20.0, task=other
    )
    write_begun_run(tmp_path / "d")
    for name in ("preprocessed", "phantoms", ".hidden"):
        shutil.copytree(tmp_path / "a", tmp_path / name / "a")

    def names(**options: Any) -> list[str]:
        return [run.name for run in list_runs(tmp_path, **options).runs]

    assert names() == ["d", "b", "c", "a"]
    assert names(sort="dice") == ["a", "c", "b", "d"]
    assert names(sort="time") == ["b", "c", "a", "d"]
    assert names(task="other-mr") == ["c"]
    assert names(task="none") == []
    assert [run.name for run in list_runs(tmp_path / "a").runs] == ["a"]
    with pytest.raises(ValueError, match="by 'name'; expected date, dice or time"):
        list_runs(tmp_path, sort="name")  # type: ignore[arg-type]


def test_the_default_place_is_that_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scored_run(tmp_path / "home" / "a")
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    assert [run.name for run in list_runs().runs] == ["a"]
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"There is no folder .*nowhere"):
        list_runs()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("training.json", "{", "training.json is no readable JSON"),
        ("metrics.json", "[1]", "metrics.json holds a list; expected an object"),
        ("metrics.json", '{"cases": [{"case_id": "a"}], "folds": []}', "metrics.json holds no scores in a form"),
        ("plan.json", "{}", "plan.json"),
        ("weights.safetensors", None, "weights.safetensors missing"),
        ("task.json", None, "task.json missing"),
    ],
)
def test_a_damaged_run_is_named_and_stops_nothing(tmp_path: Path, name: str, content: str | None, reason: str) -> None:
    write_scored_run(tmp_path / "whole")
    damaged = write_scored_run(tmp_path / "damaged") / name
    if content is None:
        damaged.unlink()
    else:
        damaged.write_text(content)
    found = list_runs(tmp_path)
    assert [run.name for run in found.runs] == ["whole"]
    (fault,) = found.damaged
    assert fault.folder == tmp_path / "damaged"
    assert reason in fault.reason


def test_nothing_is_written_by_looking(tmp_path: Path) -> None:
    write_scored_run(tmp_path / "a")
    write_begun_run(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    list_runs(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no training; expected a run folder"):
        read_run(tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        read_run(tmp_path / "nothing")
