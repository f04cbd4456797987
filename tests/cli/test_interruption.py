"""Whoever ends a training learns what is kept and how to go on."""

from __future__ import annotations

import pytest
import typer

from medunet.cli.interruption import explaining_interruption
from medunet.cli.progress import ConsoleObserver
from medunet.errors import TrainingError, TrainingStoppedError

AGAIN = "Go on with: medunet train --resume"
KEPT = "Training had not begun; preprocessed cases are kept."


@pytest.mark.parametrize(
    ("stop", "reason"), [(KeyboardInterrupt(), "Interrupted"), (TrainingStoppedError("SIGINT"), r"Stopped \(SIGINT\)")]
)
def test_ctrl_c_is_an_error_that_says_how_to_go_on(
    stop: BaseException, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f"^{reason}. {KEPT} {AGAIN}$"
    with pytest.raises(TrainingError, match=message) as caught, explaining_interruption(ConsoleObserver(), AGAIN):
        raise stop
    assert caught.value.__cause__ is stop
    assert capsys.readouterr().err == ""  # the command says it


def test_a_scheduler_that_warns_is_told_to_start_the_command_again(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, explaining_interruption(ConsoleObserver(), AGAIN):
        raise TrainingStoppedError("SIGTERM")
    assert caught.value.exit_code == 75
    assert capsys.readouterr().err == f"error: Stopped (SIGTERM). {KEPT} {AGAIN}\n"


def test_other_errors_and_good_ends_pass() -> None:
    with explaining_interruption(ConsoleObserver(), AGAIN):
        pass
    with pytest.raises(TrainingError, match=r"^the disk$"), explaining_interruption(ConsoleObserver(), AGAIN):
        raise TrainingError("the disk")
