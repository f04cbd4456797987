"""Where models are looked for when none is named."""

from __future__ import annotations

import os
from pathlib import Path

from medunet.errors import ModelError
from medunet.models.names import ENSEMBLE, PRETRAINING, TRAINING, WEIGHTS

HOME_VARIABLE = "MEDUNET_HOME"


def get_runs_folder() -> Path:
    """``$MEDUNET_HOME`` when it is set, else ``./runs``."""
    return Path(os.environ.get(HOME_VARIABLE, "runs"))


def find_newest_model(folder: Path | None = None) -> Path:
    """The model folder whose weights were written, or whose ensemble was put together, last.

    What was only pretrained segments nothing, and is passed over.

    Args:
        folder: Searched, one level deep, so that the folds of a cross-validation are not found alone;
            `get_runs_folder` when None.

    Raises:
        ModelError: If there is no model.
    """
    folder = folder or get_runs_folder()
    found = [path for name in (WEIGHTS, ENSEMBLE) for path in folder.glob(f"*/{name}")]
    candidates = [
        path for path in found if path.with_name(TRAINING).is_file() and not path.with_name(PRETRAINING).is_file()
    ]
    if not candidates:
        msg = (
            f"There is no model in {folder.resolve()}; train one with `medunet train`, name one with --model, or set "
            f"{HOME_VARIABLE} to the folder that holds your models."
        )
        raise ModelError(msg)
    return max(candidates, key=lambda path: path.stat().st_mtime_ns).parent
