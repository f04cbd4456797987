"""Text is plain where it should be: in files, in pipes, and where NO_COLOR is set."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_runs import write_begun_run, write_scored_run
from oracles import Outcome

from medunet.cli.progress import ConsoleObserver
from medunet.cli.terminal import build_console, print_wide_table
from medunet.training import Step

ESCAPE = "\x1b"
STEP = Step(iteration=3, loss=0.5, dice=0.25, progress=0.5, seconds=1.0, seconds_left=1.0)


class Terminal(io.StringIO):
    """What rich takes for one."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal()


def test_a_terminal_gets_colours_and_bars(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", terminal)
    build_console().print("bold", style="bold red")
    with ConsoleObserver() as observer:
        observer.on_step(STEP)
    assert ESCAPE in terminal.getvalue()
    assert "━" in terminal.getvalue()


def test_no_color_leaves_nothing_but_text(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout", terminal)
    build_console().print("bold", style="bold red")
    with ConsoleObserver() as observer:
        observer.on_case("reading", "a", 1, 1)
        observer.on_step(STEP)
    assert terminal.getvalue().splitlines() == [
        "bold",
        "reading: 1 of 1 cases",
        "training:  50%  iteration 3  loss 0.500  Dice 0.250  0:01 left",
    ]


def test_what_is_said_while_a_document_is_made_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleObserver(stderr=True) as observer:
        observer.on_message("a message")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "a message\n")


def test_a_narrow_terminal_gets_fewer_columns_and_a_file_all(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", terminal)
    row = {"first": "a" * 30, "second": "b" * 30, "third": "c" * 30}
    console = build_console()
    console.width = 70
    print_wide_table(console, [row])
    text = terminal.getvalue()
    assert "a" * 30 in text
    assert "b" * 30 in text
    assert "third" not in text
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    print_wide_table(build_console(), [row] * 2)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all(cell in lines[1] for cell in row.values())


@pytest.mark.parametrize("command", [["tasks"], ["runs"], ["runs", "diff", "a", "b"]])
def test_a_pipe_gets_no_codes(tmp_path: Path, command: list[str]) -> None:
    for name in ("a", "b"):
        write_scored_run(tmp_path / name)
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color", "MEDUNET_HOME": str(tmp_path)}
    arguments = [str(tmp_path / word) if word in ("a", "b") else word for word in command]
    ended = subprocess.run(
        [sys.executable, "-m", "medunet", *arguments], env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout
    assert ESCAPE not in ended.stdout + ended.stderr


# ---- runs --------------------------------------------------------------------------------------------------------------


def test_runs_are_a_line_each(medunet_command: Callable[..., Outcome], tmp_path: Path) -> None:
    write_scored_run(tmp_path / "good[red]", {"left": [0.5, 0.7], "right": [0.9, 0.9]}, budget="2h", seconds=754.0)
    write_begun_run(tmp_path / "killed")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "training.json").write_text("{")
    outcome = medunet_command("runs", tmp_path, "--sort", "dice")
    assert outcome.exit_code == 0, outcome.err
    heading, good, killed, broken = outcome.out.splitlines()
    assert heading.split()[:7] == ["run", "state", "task", "Dice", "cases", "budget", "time"]
    assert good.split()[:2] == ["good[red]", "finished"]
    assert good.split()[3:7] == ["0.750", "2", "2h", "12:34"]
    assert "0.700–0.800" in good
    assert "8x12x8" in good
    assert killed.split()[:2] == ["killed", "interrupted"]
    assert killed.split()[3:7] == ["(0.250)", "-", "2h", "0:04"]
    assert broken.startswith("warning: ")
    assert "training.json is no readable JSON" in broken
    assert medunet_command("runs", tmp_path, "-t", "other").out.startswith("No runs in ")


def test_a_terminal_of_80_columns_shows_task_dice_and_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medunet.cli.runs import list_all

    write_scored_run(tmp_path / "first-try", {"left": [0.5, 0.7], "right": [0.9, 0.9]}, budget="2h", seconds=754.0)
    monkeypatch.setenv("COLUMNS", "80")
    list_all(tmp_path, sort="date")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[:8] == ["run", "state", "task", "Dice", "cases", "budget", "time", "patch"]
    assert "8x12x8" in lines[1]


def test_runs_are_shown_and_compared(medunet_command: Callable[..., Outcome], tmp_path: Path) -> None:
    a = write_scored_run(tmp_path / "a", {"left": [0.5, 0.6]}, seed=1, training_cases=("x", "y"))
    b = write_scored_run(tmp_path / "b", {"left": [0.75, 0.85]}, seed=2, training_cases=("x", "z"))
    shown = medunet_command("runs", "show", a).out
    assert "mean Dice    0.550 (95 % interval 0.500–0.600, 2 cases)" in shown
    out = medunet_command("runs", "diff", a, b).out
    assert "seed      1  2" in out
    assert "Plan: no difference" in out
    assert "1 only in A: y" in out
    assert "1 only in B: z" in out
    (row,) = (line.split() for line in out.splitlines() if line.startswith("left"))
    assert row == ["left", "0.550", "2", "0.800", "2", "+0.250", "+0.250", "to", "+0.250", "2", "0.500"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sort", "name"], ["--sort name", "date, dice or time"]),
        (["/no/such/folder"], ["There is no folder /no/such/folder"]),
        (["diff", "a", "b"], ["a does not exist"]),
    ],
)
def test_runs_that_cannot_be_listed(
    medunet_command: Callable[..., Outcome],
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.delenv("MEDUNET_HOME", raising=False)
    medunet_command("runs", *arguments).check_refused(*words)


def test_listing_runs_loads_no_torch(tmp_path: Path) -> None:
    write_scored_run(tmp_path / "a")
    start = "import medunet.cli.app as a, sys; sys.argv = ['medunet', 'runs', sys.argv[1]]\ntry: a.main()\nexcept SystemExit: pass"
    code = f"{start}\nprint({{'torch', 'monai', 'torchio', 'SimpleITK'}} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "set()", ended.stdout + ended.stderr
