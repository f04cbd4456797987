"""``log.csv`` and TensorBoard events of a run."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medunet.io import describe_write_error, write_bytes_atomic
from medunet.models.names import LOG

logger = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"
COLUMNS = ("iteration", "seconds", "learning_rate", "loss", "training_dice", "validation_dice", "data_wait")


class TrainingLog:
    """Appends rows to ``log.csv``, each written at once, and the same numbers to TensorBoard.

    What cannot be written later on, as on a full disk, is a warning: a missing row is no reason to lose what was learnt.

    Args:
        folder: The run folder.
        resumes_at: Iteration of the state from which an existing log goes on: what a killed run wrote after it is
            dropped, because those iterations are done again. None begins a new log.

    Raises:
        OutputError: If it cannot be begun.
    """

    def __init__(self, folder: Path, *, resumes_at: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / LOG
        rows = [] if resumes_at is None else _read_rows(self._path, last=resumes_at)
        content = _format_header() + _format_rows(rows)
        write_bytes_atomic(self._path, content)
        self._size = len(content)
        self._is_failing = False
        purge_step = None if resumes_at is None else resumes_at + 1
        try:
            self._file = self._path.open("ab", buffering=0)
            self._events: Any = SummaryWriter(str(folder / TENSORBOARD), purge_step=purge_step)
        except OSError as error:
            raise describe_write_error(self._path, error) from error

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        try:
            if self._events is not None:
                self._events.close()
        except OSError as error:
            self._give_up_events(error)

    def write_step(
        self, iteration: int, seconds: float, *, learning_rate: float, loss: float, dice: float | None, data_wait: float
    ) -> None:
        """Running means at an iteration, and the share of time that was spent waiting for patches since the last row.

        A Dice of None, where nothing is segmented, leaves its column empty.
        """
        self._write(
            {
                "iteration": iteration,
                "seconds": f"{seconds:.2f}",
                "learning_rate": f"{learning_rate:.3e}",
                "loss": f"{loss:.5f}",
                "training_dice": "" if dice is None else f"{dice:.5f}",
                "data_wait": f"{data_wait:.4f}",
            }
        )
        numbers = {"loss": loss, "learning_rate": learning_rate, "data_wait": data_wait}
        if dice is not None:
            numbers["training_dice"] = dice
        self._add_events(iteration, numbers)

    def write_validation(self, iteration: int, seconds: float, dice: float | None) -> None:
        """Dice on the watched validation cases; None when no label occurs in them."""
        text = "" if dice is None else f"{dice:.5f}"
        self._write({"iteration": iteration, "seconds": f"{seconds:.2f}", "validation_dice": text})
        if dice is not None:
            self._add_events(iteration, {"validation_dice": dice})

    def _write(self, row: Mapping[str, object]) -> None:
        content = _format_rows([row])
        try:
            if self._file.write(content) != len(content):  # as much as there was room for
                raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            with contextlib.suppress(OSError):  # the disk may refuse this, too; then a row stays cut short
                self._file.truncate(self._size)  # or the next row would follow upon half of this one
            if not self._is_failing:
                fault = describe_write_error(self._path, error)
                logger.warning("%s Training goes on; until there is room, the log has no new rows.", fault)
            self._is_failing = True
        else:
            self._size += len(content)
            self._is_failing = False

    def _add_events(self, iteration: int, numbers: Mapping[str, float]) -> None:
        if self._events is None:
            return
        try:
            for name, number in numbers.items():
                self._events.add_scalar(name, number, iteration)
        except OSError as error:
            self._give_up_events(error)

    def _give_up_events(self, error: OSError) -> None:
        """TensorBoard's writer ends with its first fault."""
        self._events = None
        folder = self._path.with_name(TENSORBOARD)
        fault = describe_write_error(folder, error)
        logger.warning("%s Training goes on; TensorBoard shows no more of this session.", fault)


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


def _format_header() -> bytes:
    return f"{','.join(COLUMNS)}\n".encode()


def _format_rows(rows: Iterable[Mapping[str, object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
