"""``log.csv`` and TensorBoard events of a run."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from medunet.io import describe_write_error, write_bytes_atomic

LOG = "log.csv"
COLUMNS = ("iteration", "seconds", "learning_rate", "loss", "training_dice", "validation_dice", "data_wait")


class TrainingLog:
    """Appends rows to ``log.csv``, each flushed at once, and the same numbers to TensorBoard.

    Args:
        folder: The run folder.
        resumes_at: Iteration of the state from which an existing log goes on: what a killed run wrote after it is
            dropped, because those iterations are done again. None begins a new log.

    Raises:
        OutputError: If it cannot be written.
    """

    def __init__(self, folder: Path, *, resumes_at: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / LOG
        rows = [] if resumes_at is None else _read_rows(self._path, last=resumes_at)
        write_bytes_atomic(self._path, _format_rows(rows))
        try:
            self._file = self._path.open("a", newline="", encoding="utf-8")
        except OSError as error:
            raise describe_write_error(self._path, error) from error
        self._rows = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")
        self._events: Any = SummaryWriter(
            str(folder / "tensorboard"), purge_step=None if resumes_at is None else resumes_at + 1
        )

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._events.close()

    def write_step(
        self, iteration: int, seconds: float, *, learning_rate: float, loss: float, dice: float, data_wait: float
    ) -> None:
        """Running means at an iteration, and the share of time that was spent waiting for patches since the last row."""
        self._write(
            {
                "iteration": iteration,
                "seconds": f"{seconds:.2f}",
                "learning_rate": f"{learning_rate:.3e}",
                "loss": f"{loss:.5f}",
                "training_dice": f"{dice:.5f}",
                "data_wait": f"{data_wait:.4f}",
            }
        )
        self._events.add_scalar("loss", loss, iteration)
        self._events.add_scalar("training_dice", dice, iteration)
        self._events.add_scalar("learning_rate", learning_rate, iteration)
        self._events.add_scalar("data_wait", data_wait, iteration)

    def write_validation(self, iteration: int, seconds: float, dice: float | None) -> None:
        """Dice on the watched validation cases; None when no label occurs in them."""
        text = "" if dice is None else f"{dice:.5f}"
        self._write({"iteration": iteration, "seconds": f"{seconds:.2f}", "validation_dice": text})
        if dice is not None:
            self._events.add_scalar("validation_dice", dice, iteration)

    def _write(self, row: dict[str, object]) -> None:
        try:
            self._rows.writerow(row)
            self._file.flush()
        except OSError as error:
            raise describe_write_error(self._path, error) from error


def _read_rows(path: Path, *, last: int) -> list[dict[str, str]]:
    """Rows up to an iteration; a row that a kill cut short, or a log that is gone, is no reason not to train."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    return [
        {name: row.get(name) or "" for name in COLUMNS}
        for row in csv.DictReader(whole.splitlines(), restval="")
        if (row.get("iteration") or "").isdecimal() and int(row["iteration"]) <= last
    ]


def _format_rows(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
