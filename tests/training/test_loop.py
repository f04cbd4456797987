"""The loop: what it keeps, when it looks, saves and stops, and that nothing is lost on the way."""

from __future__ import annotations

import csv
import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import ADAMW, MUON, SGD, build_tiny_cases, build_tiny_identity, build_tiny_plan, build_tiny_task

from medunet.errors import OutputError, TrainingError, TrainingStoppedError
from medunet.planning.plan import OptimizerPlan
from medunet.training import Budget, Observer, Step
from medunet.training import clock as clock_module
from medunet.training.clock import Clock
from medunet.training.log import COLUMNS, TrainingLog
from medunet.training.loop import LoopResult, Trainer
from medunet.training.state import has_state

AVERAGED = ADAMW.model_copy(update={"averaging": 0.9})
BuildTrainer = Callable[..., Trainer]


@pytest.fixture
def build_trainer(tmp_path: Path) -> BuildTrainer:
    def build(optimizer: OptimizerPlan = AVERAGED, *, name: str = "run", **options: Any) -> Trainer:
        (tmp_path / name).mkdir(exist_ok=True)
        given: dict[str, Any] = {
            "plan": build_tiny_plan(optimizer, spatial_dims=options.pop("spatial_dims", 3)),
            "validation_cases": [],
            "budget": Budget(iterations=6),
            "precision": "32-true",
            "observer": Observer(),
            "is_deterministic": True,
        }
        return Trainer(
            folder=tmp_path / name,
            task=build_tiny_task(),
            training_cases=build_tiny_cases(),
            device=torch.device("cpu"),
            seed=1,
            augmentation="fast",
            identity=build_tiny_identity(),
            **(given | options),
        )

    return build


def fit(trainer: Trainer, *, resumes: bool = False) -> LoopResult:
    return trainer.fit(resumes=resumes, on_save=lambda _: None)


def read_rows(trainer: Trainer) -> list[dict[str, str]]:
    return list(csv.DictReader((trainer.folder / "log.csv").read_text().splitlines()))


# ---- stop and go on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "spatial_dims", "precision"),
    [
        (MUON, 3, "bf16-mixed"),
        (MUON, 2, "16-mixed"),
        (ADAMW, 3, "32-true"),
        (AVERAGED, 2, "bf16-mixed"),
        (SGD, 3, "bf16-mixed"),
        (SGD, 2, "32-true"),
    ],
    ids=["muon-3d", "muon-float16-2d", "adamw-3d", "adamw-mean-2d", "sgd-mean-3d", "sgd-mean-2d"],
)
def test_stopped_and_resumed_is_the_same_to_the_last_bit(
    build_trainer: BuildTrainer, optimizer: OptimizerPlan, spatial_dims: int, precision: str
) -> None:
    options: dict[str, Any] = {"spatial_dims": spatial_dims, "precision": precision}
    unbroken = fit(build_trainer(optimizer, name="unbroken", **options))
    trainer = build_trainer(optimizer, name="broken", **options)
    trainer.should_stop = lambda: "SIGTERM" if trainer.state.iteration == 3 else None
    with pytest.raises(TrainingStoppedError) as stop:
        fit(trainer)
    assert stop.value.reason == "SIGTERM"
    assert has_state(trainer.folder)
    resumed = fit(build_trainer(optimizer, name="broken", **options), resumes=True)
    assert resumed.iteration == unbroken.iteration == 6
    assert resumed.weights.keys() == unbroken.weights.keys()
    assert all(torch.equal(tensor, resumed.weights[name]) for name, tensor in unbroken.weights.items())


def test_a_stop_saves_before_it_is_raised(build_trainer: BuildTrainer) -> None:
    saved: list[int] = []
    trainer = build_trainer(budget=Budget(iterations=1000))
    trainer.should_stop = lambda: "SIGUSR1" if trainer.state.iteration == 2 else None
    with pytest.raises(TrainingStoppedError, match="SIGUSR1"):
        trainer.fit(resumes=False, on_save=lambda result: saved.append(result.iteration))
    assert saved == [2]


def test_an_interrupt_between_steps_saves_and_one_within_a_step_keeps_the_older_state(
    build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    saved: list[int] = []
    trainer = build_trainer(save_seconds=0.0, budget=Budget(iterations=1000))
    trainer.should_stop = lambda: interrupt() if trainer.state.iteration == 3 else None
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(resumes=False, on_save=lambda result: saved.append(result.iteration))
    assert saved == [0, 1, 2, 3]
    resumed = build_trainer(save_seconds=0.0, budget=Budget(iterations=1000))
    monkeypatch.setattr("medunet.training.engine.update_average", interrupt)  # the weights are changed already
    with pytest.raises(KeyboardInterrupt):
        resumed.fit(resumes=True, on_save=lambda result: saved.append(result.iteration))
    assert saved == [0, 1, 2, 3, 3]


def test_a_save_that_fails_in_between_is_a_warning_and_at_the_end_an_error(
    build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = {2, 3}

    def save(folder: Path, state: Any, identity: Any) -> None:
        if state.iteration in failing:
            msg = "the disk is full."
            raise OutputError(msg)

    monkeypatch.setattr("medunet.training.loop.save_state", save)
    assert fit(build_trainer(save_seconds=0.0)).iteration == 6
    assert [record.message for record in caplog.records] == [
        "the disk is full. Training goes on, and the next save is in 0 s."
    ] * 2
    failing.add(6)
    with pytest.raises(OutputError, match="the disk is full"):
        fit(build_trainer(save_seconds=0.0, name="other"))


def test_the_running_mean_is_what_is_kept_and_validated(
    build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.nn.Module] = []
    monkeypatch.setattr("medunet.training.loop.compute_stored_dice", lambda network, *_: seen.append(network))
    trainer = build_trainer(validation_cases=build_tiny_cases(1))
    result = fit(trainer)
    assert trainer.network is trainer.engine.average is trainer.state.average
    assert seen == [trainer.engine.average] * 3
    mean = trainer.network.state_dict()
    assert all(torch.equal(tensor, mean[name]) for name, tensor in result.weights.items())
    assert all(tensor.is_contiguous() for tensor in result.weights.values())
    last = trainer.engine.network.state_dict()
    assert not all(torch.equal(tensor, last[name]) for name, tensor in result.weights.items())


def test_a_look_without_memory_is_given_up_and_training_goes_on(
    build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[bool] = []

    def fail(*_: Any) -> None:
        looks.append(True)
        msg = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        raise RuntimeError(msg)

    monkeypatch.setattr("medunet.training.loop.compute_stored_dice", fail)
    trainer = build_trainer(ADAMW, validation_cases=build_tiny_cases(1))
    assert fit(trainer).iteration == 6
    assert trainer.network.training
    assert looks == [True]
    assert ["not enough memory" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("has_saved", [False, True])
def test_a_step_without_memory_ends_with_what_would_help(
    build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch, has_saved: bool
) -> None:
    trainer = build_trainer(save_seconds=0.0 if has_saved else 300.0)
    step = trainer.engine.step

    def run_out(batch: Any, learning_rate: float) -> Any:
        if batch.iteration == 3:
            msg = "CUDA out of memory. Tried to allocate 2.00 GiB."
            raise torch.OutOfMemoryError(msg)
        return step(batch, learning_rate)

    monkeypatch.setattr(trainer.engine, "step", run_out)
    with pytest.raises(
        TrainingError,
        match=r"^Out of memory at iteration 4 \(cases case_\d, case_\d\), with 2 patches of 16 x 16 x 8 voxels at a time on cpu\. "
        r".* smaller --memory-gb, .*" + ("go on from it with --resume" if has_saved else "No state was saved yet"),
    ) as caught:
        fit(trainer)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert has_state(trainer.folder) is has_saved


def test_an_error_of_a_step_is_not_taken_for_want_of_memory(
    build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build_trainer()

    def fail(*arguments: Any) -> Any:
        msg = "shapes do not fit"
        raise RuntimeError(msg)

    monkeypatch.setattr(trainer.engine, "step", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fit(trainer)


def test_weights_loaded_before_the_training_begin_the_mean(build_trainer: BuildTrainer) -> None:
    trainer = build_trainer(budget=Budget(iterations=1))
    with torch.no_grad():
        for parameter in trainer.engine.network.parameters():
            parameter.fill_(0.25)
    trainer.should_stop = lambda: "SIGTERM"
    with pytest.raises(TrainingStoppedError):
        fit(trainer)
    assert all(bool((parameter == 0.25).all()) for parameter in trainer.network.parameters())


def test_deterministic_kernels_are_for_the_training_only(build_trainer: BuildTrainer) -> None:
    trainer = build_trainer()
    inside: list[bool] = []
    trainer.should_stop = lambda: inside.append(torch.are_deterministic_algorithms_enabled())  # type: ignore[func-returns-value]
    fit(trainer)
    assert all(inside)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_nan_on_a_gpu_is_noticed_at_the_next_report(
    build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where asking after every step would wait for the GPU: the update is skipped, later ones are not made blindly."""
    monkeypatch.setattr(Trainer, "_checks_every_step", False)
    monkeypatch.setattr("medunet.training.loop._REPORT_SECONDS", 1e9)
    trainer = build_trainer(budget=Budget(iterations=50))
    draw, report = trainer.sampler.draw, trainer._report

    def draw_nan(iteration: int) -> Any:
        batch = draw(iteration)
        if iteration == 4:
            batch.image.fill_(float("nan"))
        return batch

    monkeypatch.setattr(trainer.sampler, "draw", draw_nan)
    trainer.should_stop = lambda: report(None, None) if trainer.state.iteration == 9 else None  # type: ignore[func-returns-value,arg-type]
    with pytest.raises(
        TrainingError, match=r"not finite at iteration 5 \(cases case_\d, case_\d\).*No state was saved"
    ):
        fit(trainer)
    assert trainer.state.iteration == 9
    assert all(bool(torch.isfinite(tensor).all()) for tensor in trainer.network.state_dict().values())


def test_what_was_decided_is_on_record(build_trainer: BuildTrainer) -> None:
    assert build_trainer(SGD, loss="dice-focal").describe() == {
        "optimizer": SGD.model_dump(),
        "max_gradient_norm": 12.0,
        "loss": "dice-focal",
        "is_compiled": False,
        "num_processes": 1,
    }


# ---- waiting for patches -----------------------------------------------------------------------------------------------


def test_waiting_for_patches_is_measured_told_and_logged(
    build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medunet.training.loop._REPORT_SECONDS", 0.0)
    steps: list[Step] = []

    class Recorder(Observer):
        def on_step(self, step: Step) -> None:
            steps.append(step)

    trainer = build_trainer(observer=Recorder(), budget=Budget(iterations=3))
    draw = trainer.sampler.draw
    monkeypatch.setattr(trainer.sampler, "draw", lambda number: (time.sleep(0.5), draw(number))[1])
    result = fit(trainer)
    assert 0.1 < result.data_wait <= 1  # at least the first patch is waited for
    rows = [row for row in read_rows(trainer) if row["loss"]]
    assert max(float(row["data_wait"]) for row in rows) > 0.1
    assert [f"{step.data_wait:.4f}" for step in steps] == [row["data_wait"] for row in rows]
    assert all(0 <= float(row["data_wait"]) <= 1 for row in rows)


# ---- the clock ---------------------------------------------------------------------------------------------------------


class FakeState:
    iteration = 0
    seconds = 0.0


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which tests move on."""
    times = [100.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: times[0])
    return times


def build_clock(budget: Budget, *, iteration: int = 0, seconds: float = 0.0) -> Clock:
    state = FakeState()
    state.iteration, state.seconds = iteration, seconds
    return Clock(budget, state, report_seconds=0.5, save_seconds=300)  # type: ignore[arg-type]


def test_it_saves_every_five_minutes_and_reports_twice_a_second(now: list[float]) -> None:
    from medunet.training.loop import _REPORT_SECONDS, SAVE_SECONDS

    assert (SAVE_SECONDS, _REPORT_SECONDS) == (300.0, 0.5)
    clock = build_clock(Budget(seconds=1000))
    seen = []
    for _ in range(10_000):
        now[0] += 0.1
        due = clock.look()
        seen.append((due.save, due.report))
    assert sum(save for save, _ in seen) == 3
    assert sum(report for _, report in seen) == pytest.approx(2000, abs=400)  # 0.5 is not a multiple of 0.1 in binary
    assert due.progress == pytest.approx(1)


def test_earlier_sessions_count(now: list[float]) -> None:
    clock = build_clock(Budget(seconds=100), iteration=7, seconds=40.0)
    now[0] += 10
    due = clock.look()
    assert (due.seconds, due.progress) == (50.0, 0.5)


def test_three_looks_each_once(now: list[float]) -> None:
    clock = build_clock(Budget(seconds=100))
    looks = []
    for second in range(1, 101):
        now[0] = 100.0 + second
        if clock.look().validation:
            looks.append(second)
            with clock.validating():
                pass
    assert looks == [25, 50, 75]


def test_a_resumed_run_does_not_repeat_its_looks(now: list[float]) -> None:
    clock = build_clock(Budget(iterations=8), iteration=5)
    assert not clock.look().validation
    assert build_clock(Budget(iterations=8), iteration=5)._validations == [0.75]


@pytest.mark.parametrize(("cost", "are_more_due"), [(1.6, True), (1.7, False)])
def test_looks_that_would_cost_more_than_a_twentieth_are_given_up(
    now: list[float], cost: float, are_more_due: bool
) -> None:
    """Two more to come: 3 x 1.66 s is a twentieth of 100 s."""
    clock = build_clock(Budget(seconds=100))
    now[0] += 26
    assert clock.look().validation
    with clock.validating():
        now[0] += cost
    now[0] += 30
    assert clock.look().validation is are_more_due


def test_waiting_is_a_share_of_the_time(now: list[float]) -> None:
    clock = build_clock(Budget(seconds=100))
    now[0] += 3
    with clock.waiting():
        now[0] += 1
    assert clock.measure_data_wait() == pytest.approx(0.25)
    now[0] += 4
    assert clock.measure_data_wait() == 0
    assert clock.data_wait == pytest.approx(1 / 8)


# ---- the log -----------------------------------------------------------------------------------------------------------


def write_rows(log: TrainingLog, iterations: range) -> None:
    for iteration in iterations:
        log.write_step(iteration, iteration * 0.5, learning_rate=1e-3, loss=1.0, dice=0.5, data_wait=0.03)


def test_rows_after_the_state_are_dropped_and_written_again(tmp_path: Path) -> None:
    """A killed run logged until 9, its state is of 6, and its last row was cut short."""
    with TrainingLog(tmp_path) as log:
        write_rows(log, range(1, 10))
        log.write_validation(5, 2.5, 0.75)
    path = tmp_path / "log.csv"
    path.write_text(path.read_text() + "1")
    with TrainingLog(tmp_path, resumes_at=6) as log:
        write_rows(log, range(7, 9))
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [int(row["iteration"]) for row in rows] == [1, 2, 3, 4, 5, 6, 5, 7, 8]
    assert [row["validation_dice"] for row in rows if row["validation_dice"]] == ["0.75000"]
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["data_wait"] == "0.0300"


def test_a_log_of_an_older_version_goes_on_with_empty_columns(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("iteration,seconds,loss\n3,1.50,0.9\n")
    with TrainingLog(tmp_path, resumes_at=3) as log:
        write_rows(log, range(4, 5))
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [(row["iteration"], row["loss"], row["data_wait"]) for row in rows] == [
        ("3", "0.9", ""),
        ("4", "1.00000", "0.0300"),
    ]


def test_a_log_that_is_gone_is_begun_again(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, resumes_at=3):
        pass
    assert (tmp_path / "log.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_a_new_run_begins_a_new_log(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("old")
    with TrainingLog(tmp_path) as log:
        write_rows(log, range(1, 2))
    assert [row["iteration"] for row in csv.DictReader((tmp_path / "log.csv").read_text().splitlines())] == ["1"]


def test_a_full_disk_costs_rows_and_leaves_none_cut_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with TrainingLog(tmp_path) as log:
        write_rows(log, range(1, 3))
        file = log._file

        class FullDisk:
            room = 5

            def write(self, content: bytes) -> int:
                if not self.room:
                    raise OSError(errno.ENOSPC, "No space left on device")
                num_written = file.write(content[: self.room])
                self.room = 0
                return num_written

            truncate = file.truncate

        log._file = FullDisk()  # type: ignore[assignment]
        write_rows(log, range(3, 5))
        log._file = file
        write_rows(log, range(5, 6))
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["iteration"] for row in rows] == ["1", "2", "5"]
    assert [row["seconds"] for row in rows] == ["0.50", "1.00", "2.50"]
    assert len(caplog.records) == 1
    assert "log.csv: the disk is full" in caplog.records[0].message
    assert "Training goes on" in caplog.records[0].message


@pytest.mark.parametrize("call", ["add_scalar", "close"])
def test_a_full_disk_ends_tensorboard_and_not_the_training(
    build_trainer: BuildTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medunet.training.loop._REPORT_SECONDS", 0.0)
    monkeypatch.setattr(f"torch.utils.tensorboard.SummaryWriter.{call}", fail)
    trainer = build_trainer()
    assert fit(trainer).iteration == 6
    assert has_state(trainer.folder)
    assert len(read_rows(trainer)) > 1
    assert ["tensorboard: the disk is full" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize(("augmentation", "axes", "elastic"), [("nnunet", (0, 1, 2), 0.0), ("medunet", (0,), 0.2)])
def test_the_plan_says_how_patches_are_changed(
    build_trainer: BuildTrainer, augmentation: str, axes: tuple[int, ...], elastic: float
) -> None:
    plan = build_tiny_plan(AVERAGED).model_copy(update={"augmentation": augmentation})
    policy = build_trainer(plan=plan).sampler.policy
    assert (policy.mirror_axes, policy.elastic_probability) == (axes, elastic)
