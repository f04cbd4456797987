"""What TensorBoard shows beside the curves of `medunet.training.log`: parameters, final scores, pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medunet.io import describe_write_error
from medunet.models.names import METRICS
from medunet.training.log import TENSORBOARD
from medunet.training.progress import Observer, TrainingStart

logger = logging.getLogger(__name__)

FINAL = "final_dice"


class TensorBoardNotes(Observer):
    """Writes parameters when a network begins to learn, scores and pictures when its model is complete.

    They are for people: what cannot be written, as on a full disk, is a warning.
    """

    def __init__(self) -> None:
        self._parameters: dict[Path, Mapping[str, Any]] = {}

    def on_training(self, start: TrainingStart) -> None:
        """Write settings and plan as a table, under the tab of texts."""
        self._parameters[start.folder] = start.parameters
        if not start.resumes:
            table = "| | |\n|---|---|\n" + "\n".join(
                f"| {name} | {value} |" for name, value in start.parameters.items()
            )
            self._write(start.folder, "parameters", lambda writer: writer.add_text("parameters", table))

    def on_model(self, folder: Path) -> None:
        """Write the Dice of every label, the pictures, and one row for the tab that compares runs by their parameters."""
        scores = read_final_scores(folder)
        parameters = self._parameters.get(folder, {})

        def write(writer: Any) -> None:
            for name, score in scores.items():
                writer.add_scalar(name, score, 0)
            for path in list_pictures(folder):
                writer.add_image(path.stem, _read_picture(path), 0, dataformats="HWC")
            if parameters and scores:
                _add_parameter_row(writer, parameters, list(scores))

        self._write(folder, "results", write)

    def _write(self, folder: Path, suffix: str, write: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = folder / TENSORBOARD
        try:
            with SummaryWriter(str(place), filename_suffix=f".{suffix}") as writer:
                write(writer)
        except OSError as error:
            logger.warning("%s TensorBoard does not show the %s.", describe_write_error(place, error), suffix)


def read_final_scores(folder: Path) -> dict[str, float]:
    """Name of a curve -> mean Dice of a label over the validation cases, and over all labels; nothing without a validation."""
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    labels = {name: row["mean"] for name, row in metrics.get("labels", {}).items()}
    scores = {f"{FINAL}/mean": metrics.get("mean_dice")} | {f"{FINAL}/{name}": mean for name, mean in labels.items()}
    return {name: float(score) for name, score in scores.items() if score is not None}


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a finished model folder."""
    return sorted(folder.glob("*.png"))


def _read_picture(path: Path) -> np.ndarray[Any, Any]:
    """``(height, width, 3)``, uint8."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _add_parameter_row(writer: Any, parameters: Mapping[str, Any], scores: list[str]) -> None:
    """What `SummaryWriter.add_hparams` does, without its folder of its own."""
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(dict(parameters), dict.fromkeys(scores, 0.0)):  # type: ignore[no-untyped-call]
        writer.file_writer.add_summary(summary)
