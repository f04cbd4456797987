"""What goes wrong in long trainings: kills, full disks, signals, changed data, faulty numbers, two runs in one folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medunet.errors import MedunetError, ModelError, OutputError, TrainingError, TrainingStoppedError
from medunet.io import describe_write_error, read_label_map, read_volume, write_nifti_image, write_nifti_labels
from medunet.models import read_model
from medunet.planning import Effort
from medunet.runs.lock import LOCK_FILE, RunLock
from medunet.training import Observer, Step, TrainingResult, train
from medunet.training.log import TrainingLog
from medunet.training.state import find_state, has_state
from medunet.volume import Volume

Train = Callable[..., TrainingResult]
OPTIONS: dict[str, Any] = {
    "budget": "6it",
    "fold": "all",
    "deterministic": True,
    "device": "cpu",
    "save_seconds": 0.0,
}
"""Of all trainings here; without validation, which is not what is tested."""
WEIGHTS = "weights.safetensors"
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits and signals")


@pytest.fixture(autouse=True)
def _survive_signals() -> Generator[None, None, None]:
    """A signal that the training does not take fails the test; it must not end the whole suite."""

    def fail(number: int, _: object) -> None:
        pytest.fail(f"{signal.Signals(number).name} was not taken by the training")

    names = [name for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
    before = {name: signal.signal(signal.Signals[name], fail) for name in names}
    yield
    for name, handler in before.items():
        signal.signal(signal.Signals[name], handler)


@pytest.fixture(autouse=True)
def _report_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.training.loop._REPORT_SECONDS", 0.0)


@pytest.fixture
def train_tiny(train_tiny: Train) -> Train:
    """The neighbours' fixture with the options of this file; saves after every step."""
    return lambda output, **options: train_tiny(output, **(OPTIONS | options))


@pytest.fixture(scope="module")
def unbroken_weights(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of a training that nobody disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDUNET_HOME", str(folder / "runs"))
        patch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=2 * 16**3, features=4))
        train(tiny_data / "task.yaml", tiny_data / "data", output=folder / "run", **OPTIONS)
    return read_weights(folder / "run")


class AtStep(Observer):
    """Does something once, when an iteration is reported."""

    def __init__(self, iteration: int, act: Callable[[], object]) -> None:
        self.iteration = iteration
        self.act = act
        self.last = 0

    def on_step(self, step: Step) -> None:
        is_due = self.last < self.iteration <= step.iteration
        self.last = step.iteration
        if is_due:
            self.act()


def read_weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


def read_all(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop_at(iteration: int, number: signal.Signals = signal.SIGTERM) -> AtStep:
    return AtStep(iteration, lambda: os.kill(os.getpid(), number))


def interrupt(train_tiny: Train, folder: Path, **options: Any) -> None:
    """A run that was stopped after its third or fourth step: the loop may have looked for signals just before."""
    with pytest.raises(TrainingStoppedError):
        train_tiny(folder, observer=stop_at(3), **options)


# ---- rows 58 and 62: kill -9, and on to the last bit ------------------------------------------------------------------

_TRAIN_AND_HANG = """
import json, sys, time
from medunet.planning import Effort
from medunet.training import Observer, fit_plan, loop, train

if __name__ == "__main__":  # data workers may import this file again
    fit_plan.CPU_EFFORT = Effort(voxels=2 * 16**3, features=4)
    loop._REPORT_SECONDS = 0.0

    class Hang(Observer):
        def on_step(self, step):
            if step.iteration >= 4:
                print(step.iteration, flush=True)
                time.sleep(600)

    task, data, output, options = sys.argv[1:]
    train(task, data, output=output, observer=Hang(), **json.loads(options))
"""


@posix
def test_a_killed_training_goes_on_to_the_very_same_weights(
    train_tiny: Train, tiny_data: Path, tmp_path: Path, runs: Path, unbroken_weights: bytes
) -> None:
    script, run = tmp_path / "train_and_hang.py", tmp_path / "killed"
    script.write_text(_TRAIN_AND_HANG)
    arguments = [str(tiny_data / "task.yaml"), str(tiny_data / "data"), str(run), json.dumps(OPTIONS)]
    with subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MEDUNET_HOME": str(runs)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "4\n", process.stderr.read()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert has_state(run)
    assert (run / LOCK_FILE).is_file()  # nobody could remove it
    assert train_tiny(run, resume=True).num_iterations == 6
    assert read_weights(run) == unbroken_weights
    assert not (run / LOCK_FILE).exists()


# ---- row 59: full disks -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def limit_file_size(num_bytes: int) -> Generator[None, None, None]:
    """The kernel refuses to let any file grow beyond this, as a full disk would."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))  # Python ignores SIGXFSZ
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path, None, None]:
    """A file system of 64 KiB, where this machine lets us make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def make_mask(seed: int) -> Volume:
    """Noise, which hardly compresses: about 30 KiB."""
    array = np.random.default_rng(seed).integers(0, 200, (1, 40, 30, 25)).astype(np.uint8)
    return Volume(array, np.eye(4))


@posix
def test_a_mask_that_does_not_fit_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "mask.nii.gz"
    write_nifti_labels(make_mask(0), path)
    before = path.read_bytes()
    with (
        limit_file_size(8192),
        pytest.raises(OutputError, match=r"Cannot write .*mask.nii.gz: the file is larger than"),
    ):
        write_nifti_labels(make_mask(1), path)
    assert read_all(tmp_path) == {path: before}


def test_a_mask_on_a_full_disk_leaves_the_older_one(small_disk: Path) -> None:
    path = small_disk / "mask.nii.gz"
    write_nifti_labels(make_mask(0), path)
    before = path.read_bytes()
    (small_disk / "filler").write_bytes(b"x" * 20_000)
    with pytest.raises(OutputError, match="the disk is full; free some space or choose another place"):
        write_nifti_labels(make_mask(1), path)
    (small_disk / "filler").unlink()
    assert read_all(small_disk) == {path: before}


@posix
def test_a_state_on_a_full_disk_leaves_both_older_ones(small_disk: Path) -> None:
    import torch

    from medunet.training.identity import RunIdentity
    from medunet.training.state import TrainingState, load_state, save_state

    identity = RunIdentity(
        medunet_version="",
        case_checksums={},
        training_cases=(),
        validation_cases=(),
        plan={},
        task={},
        loss="",
        seed=0,
        augmentation="",
    )
    network = torch.nn.Linear(40, 100)  # 16 KB: three of them fit at the same time, four do not
    state = TrainingState(network=network, optimizer=torch.optim.SGD(network.parameters(), lr=0.1))
    for state.iteration in (1, 2):
        save_state(small_disk, state, identity)
    before = read_all(small_disk)
    (small_disk / "filler").write_bytes(b"x" * 24_000)
    state.iteration = 3
    with pytest.raises(OutputError, match="the disk is full"):
        save_state(small_disk, state, identity)
    (small_disk / "filler").unlink()
    assert read_all(small_disk) == before
    save_state(small_disk, state, identity)  # and there is room again
    state.iteration = 0
    load_state(small_disk, state, identity)
    assert state.iteration == 3


@posix
def test_a_log_that_cannot_grow_is_named_and_keeps_its_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Training goes on, and so does the log once there is room again."""
    with TrainingLog(tmp_path) as log:
        for iteration in range(1, 6):
            log.write_validation(iteration, 1.0, None)
        before = (tmp_path / "log.csv").read_bytes()
        with limit_file_size(len(before) + 3):
            log.write_validation(6, 1.0, None)
        assert (tmp_path / "log.csv").read_bytes() == before
        log.write_validation(7, 1.0, None)
    assert (tmp_path / "log.csv").read_bytes() == before + b"7,1.00,,,,,\n"
    (warning,) = [record.message for record in caplog.records]
    assert (
        re.match(r"Cannot write .*log.csv: the file is larger than .* Training goes on", warning)
        or "disk is full" in warning
    )


def test_a_full_disk_in_between_is_a_warning_and_the_training_goes_on(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from medunet.training import state

    write = state.write_bytes_atomic
    num_saves = 0

    def fail_twice(path: Path, *arguments: Any, **options: Any) -> None:
        nonlocal num_saves
        num_saves += 1
        if num_saves in (3, 4):
            raise describe_write_error(path, OSError(errno.ENOSPC, "No space left on device"))
        write(path, *arguments, **options)

    monkeypatch.setattr(state, "write_bytes_atomic", fail_twice)
    assert train_tiny(tmp_path / "run").num_iterations == 6
    assert num_saves >= 6
    warnings = [message for message in caplog.messages if "disk is full" in message]
    assert 1 <= len(warnings) <= 2
    assert has_state(tmp_path / "run")


def test_a_full_disk_at_the_end_is_an_error(train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medunet.training import state

    def fail(path: Path, *_: Any, **__: Any) -> None:
        raise describe_write_error(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(state, "write_bytes_atomic", fail)
    with pytest.raises(OutputError, match="disk is full"):
        train_tiny(tmp_path / "run", budget="2it")


# ---- row 60: places where nothing can be written -----------------------------------------------------------------------


def fail_to_read(*_: object, **__: object) -> None:
    pytest.fail("the dataset was read before the output was looked at")


def test_an_output_that_is_a_file_is_refused_before_any_work(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medunet.training.experiment.read_dataset", fail_to_read)
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        train_tiny(tmp_path / "run")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        train_tiny(tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EROFS, "read-only"), (errno.EACCES, "no permission"), (errno.ENOSPC, "disk is full")]
)
def test_a_place_without_room_or_permission_is_refused_before_any_work(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """Root may write anywhere, so the system's answer is made up."""
    monkeypatch.setattr("medunet.training.experiment.read_dataset", fail_to_read)
    make, open_file = Path.mkdir, os.open

    def refuse_folder(self: Path, *arguments: Any, **options: Any) -> None:
        if tmp_path / "disk" in (self, *self.parents):
            raise OSError(number, "made up", str(self))
        make(self, *arguments, **options)

    def refuse_file(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).startswith(str(tmp_path / "disk")):
            raise OSError(number, "made up", str(path))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse_folder)
    monkeypatch.setattr(os, "open", refuse_file)
    with pytest.raises(OutputError, match=words):
        train_tiny(tmp_path / "disk" / "run")
    assert not (tmp_path / "disk").exists()


# ---- row 61: signals --------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_stops_after_its_step_and_saves(train_tiny: Train, tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    handlers = signal.getsignal(number)
    with pytest.raises(TrainingStoppedError, match=f"stopped by {name} .*--resume") as caught:
        train_tiny(tmp_path / "run", observer=stop_at(3, number))
    assert caught.value.reason == name
    assert signal.getsignal(number) is handlers
    assert read_model(tmp_path / "run").training.num_iterations in (3, 4)
    assert has_state(tmp_path / "run")
    assert not (tmp_path / "run" / LOCK_FILE).exists()


class _EndedError(Exception):
    """What a signal does outside of the loop, in this test."""


class _AtPreprocessing(Observer):
    def on_case(self, stage: str, case_id: str, num_done: int, num_cases: int) -> None:
        if stage == "preprocessing" and num_done == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@posix
def test_a_signal_before_the_loop_acts_at_once(train_tiny: Train, tmp_path: Path) -> None:
    """Nobody would ask for it until the last case is preprocessed, and the batch system kills long before."""

    def end(*_: object) -> None:
        raise _EndedError

    signal.signal(signal.SIGTERM, end)  # restored by the fixture above
    with pytest.raises(_EndedError):
        train_tiny(tmp_path / "run", observer=_AtPreprocessing())
    assert not (tmp_path / "run" / LOCK_FILE).exists()


@posix
def test_the_command_stops_on_sigterm_with_the_exit_code_for_a_requeue(tiny_data: Path, tmp_path: Path) -> None:
    """75 is EX_TEMPFAIL of sysexits.h: try again."""
    command = [sys.executable, "-m", "medunet", "train", "--task", str(tiny_data / "task.yaml")]
    command += ["--data", str(tiny_data / "data"), "--output", str(tmp_path / "run"), "--budget", "2000it"]
    environment = os.environ | {"MEDUNET_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--device", "cpu", "--requeue"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stderr is not None
        try:
            _wait_for_rows(tmp_path / "run" / "log.csv", process)
            process.terminate()
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 75, errors
    assert "SIGTERM" in errors
    assert find_state(tmp_path / "run") is not None
    assert read_model(tmp_path / "run").training.num_iterations >= 1


def _wait_for_rows(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if path.is_file() and path.read_text().count("\n") >= 2:
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.1)
    pytest.fail("the command trained no step")


# ---- row 63: resuming nothing -----------------------------------------------------------------------------------------


def test_a_run_without_a_state_is_not_begun_anew_over_its_results(train_tiny: Train, tmp_path: Path) -> None:
    interrupt(train_tiny, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "state")
    before = read_all(tmp_path / "run")
    with pytest.raises(ModelError, match=r"without --resume"):
        train_tiny(tmp_path / "run", resume=True)
    assert read_all(tmp_path / "run") == before


def test_auto_begins_where_there_is_nothing_and_goes_on_where_there_is(
    train_tiny: Train, tmp_path: Path, unbroken_weights: bytes
) -> None:
    interrupt(train_tiny, tmp_path / "run", resume="auto")
    assert read_model(tmp_path / "run").training.num_iterations in (3, 4)
    assert train_tiny(tmp_path / "run", resume="auto").num_iterations == 6
    assert read_weights(tmp_path / "run") == unbroken_weights


def test_auto_begins_where_a_run_was_killed_before_its_first_save(train_tiny: Train, tmp_path: Path) -> None:
    interrupt(train_tiny, tmp_path / "run")
    for path in [*(tmp_path / "run" / "state").glob("*.safetensors"), tmp_path / "run" / WEIGHTS]:
        path.unlink()
    assert train_tiny(tmp_path / "run", resume="auto").num_iterations == 6


def test_auto_does_not_begin_anew_over_results_without_a_state(train_tiny: Train, tmp_path: Path) -> None:
    interrupt(train_tiny, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "state")
    before = read_all(tmp_path / "run")
    with pytest.raises(MedunetError):
        train_tiny(tmp_path / "run", resume="auto")
    assert read_all(tmp_path / "run") == before


def test_a_damaged_state_costs_one_save_interval(
    train_tiny: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, unbroken_weights: bytes
) -> None:
    interrupt(train_tiny, tmp_path / "run")
    newest = find_state(tmp_path / "run")
    assert newest is not None
    newest.write_bytes(newest.read_bytes()[:-100])
    assert train_tiny(tmp_path / "run", resume=True).num_iterations == 6
    assert "going on from the previous state" in caplog.text
    assert read_weights(tmp_path / "run") == unbroken_weights


# ---- row 64: resuming with something else ------------------------------------------------------------------------------


def change_voxels(data: Path) -> None:
    path = data / "images" / "case_2.nii.gz"
    image = read_volume(path)
    write_nifti_image(image.with_array(image.array + np.arange(image.array.shape[1])[:, None, None]), path)


def change_labels(data: Path) -> None:
    path = data / "labels" / "case_2.nii.gz"
    labels = read_label_map(path)
    write_nifti_labels(labels.with_array(np.where(labels.array == 1, 3, labels.array).astype(np.uint8)), path)


def remove_case(data: Path) -> None:
    for kind in ("images", "labels"):
        (data / kind / "case_2.nii.gz").unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_voxels, "case case_2 has other voxels or labels"),
        (change_labels, "case case_2 has other voxels or labels"),
        (remove_case, "1 case fewer: case_2"),
    ],
)
def test_changed_data_are_refused_by_name(
    train_tiny: Train, tiny_data: Path, tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    data = shutil.copytree(tiny_data / "data", tmp_path / "data")
    interrupt(train_tiny, tmp_path / "run", data=data)
    before = read_all(tmp_path / "run")
    change(data)
    with pytest.raises(ModelError, match=words):
        train_tiny(tmp_path / "run", resume=True)
    after = read_all(tmp_path / "run")
    assert {path: after[path] for path in before if "tensorboard" not in path.parts} == {
        path: content for path, content in before.items() if "tensorboard" not in path.parts
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("left: 1,", "left: 5,", "label 'left' had value 1, has 5"),
        ("ignore: 9", "", "task.ignore 9 -> none"),
    ],
)
def test_changed_classes_are_refused_by_name(
    train_tiny: Train, tiny_data: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    task = Path(shutil.copy(tiny_data / "task.yaml", tmp_path / "task.yaml"))
    data = shutil.copytree(tiny_data / "data", tmp_path / "data")
    interrupt(train_tiny, tmp_path / "run", task=task, data=data)
    task.write_text(task.read_text().replace(old, new))
    if "5" in new:  # files and task agree, but not with the run
        for path in (data / "labels").iterdir():
            labels = read_label_map(path)
            write_nifti_labels(labels.with_array(np.where(labels.array == 1, 5, labels.array).astype(np.uint8)), path)
    with pytest.raises(ModelError, match=words):
        train_tiny(tmp_path / "run", task=task, resume=True)


# ---- row 65: numbers that are none -------------------------------------------------------------------------------------


def test_huge_voxels_stop_the_training_and_name_the_case(train_tiny: Train, tiny_data: Path, tmp_path: Path) -> None:
    """float32 holds 3e38; the first convolution of such voxels does not."""
    data = shutil.copytree(tiny_data / "data", tmp_path / "data")
    path = data / "images" / "case_3.nii.gz"
    image = read_volume(path)
    write_nifti_image(image.with_array(np.where(image.array > 120, 3e38, image.array).astype(np.float32)), path)
    task = tmp_path / "task.yaml"
    task.write_text((tiny_data / "task.yaml").read_text().replace("zscore", "none"))
    # With the seed of these tests, the case comes in the third batch first.
    message = r"not finite at iteration 3 \(.*case_3.*The last good state is in .*--resume"
    with pytest.raises(TrainingError, match=message):
        train_tiny(tmp_path / "run", data=data, task=task, budget="40it", augmentation="none")
    model = read_model(tmp_path / "run")
    assert model.training.num_iterations == 2
    assert all(bool(tensor.isfinite().all()) for tensor in model.network.state_dict().values())


# ---- row 71: two runs in one folder ------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_that_another_run_writes_is_refused(train_tiny: Train, tmp_path: Path, resume: bool) -> None:
    if resume:
        interrupt(train_tiny, tmp_path / "run")
    with RunLock(tmp_path / "run"):
        before = read_all(tmp_path / "run")
        with pytest.raises(OutputError, match=f"is being written by process {os.getpid()} on "):
            train_tiny(tmp_path / "run", resume=resume)
        assert read_all(tmp_path / "run") == before
    assert train_tiny(tmp_path / "run", resume=resume).num_iterations > 0
