"""``log.csv`` and TensorBoard events of a run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from medunet.io import describe_write_error

LOG = "log.csv"
_COLUMNS = ("iteration", "seconds", "learning_rate", "loss", "training_dice", "validation_dice")


class TrainingLog:
    """Appends rows to ``log.csv``, each flushed at once, and the same numbers to TensorBoard.

    Args:
        folder: The run folder.
        resumes: Whether to go on with an existing log.
    """

    def __init__(self, folder: Path, *, resumes: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / LOG
        try:
            self._file = self._path.open("a" if resumes else "w", newline="", encoding="utf-8")
        except OSError as error:
            raise describe_write_error(self._path, error) from error
        self._rows = csv.writer(self._file)
        if self._file.tell() == 0:
            self._rows.writerow(_COLUMNS)
        self._events: Any = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._events.close()

    def write_step(self, iteration: int, seconds: float, learning_rate: float, loss: float, dice: float) -> None:
        """Running means at an iteration."""
        self._write([iteration, f"{seconds:.2f}", f"{learning_rate:.3e}", f"{loss:.5f}", f"{dice:.5f}", ""])
        self._events.add_scalar("loss", loss, iteration)
        self._events.add_scalar("training_dice", dice, iteration)
        self._events.add_scalar("learning_rate", learning_rate, iteration)

    def write_validation(self, iteration: int, seconds: float, dice: float | None) -> None:
        """Dice on the watched validation cases; None when no label occurs in them."""
        self._write([iteration, f"{seconds:.2f}", "", "", "", "" if dice is None else f"{dice:.5f}"])
        if dice is not None:
            self._events.add_scalar("validation_dice", dice, iteration)

    def _write(self, row: list[object]) -> None:
        try:
            self._rows.writerow(row)
            self._file.flush()
        except OSError as error:
            raise describe_write_error(self._path, error) from error
