"""Several models that answer together: a folder whose ``ensemble.json`` names the model folders below it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medunet.io import write_json_atomic
from medunet.models.names import ENSEMBLE

ENSEMBLE_VERSION = 1


def write_ensemble(folder: Path, members: Sequence[str]) -> None:
    """Write ``ensemble.json``.

    Args:
        folder: That becomes a model.
        members: Names of model folders below it.

    Raises:
        OutputError: If it cannot be written.
    """
    write_json_atomic(folder / ENSEMBLE, {"version": ENSEMBLE_VERSION, "members": list(members)})
