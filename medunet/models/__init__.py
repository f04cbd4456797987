"""The model folder: read, write, verify, find."""

from typing import TYPE_CHECKING, Any

from medunet.models.card import SYNTHETIC_WARNING
from medunet.models.find import HOME_VARIABLE, find_newest_model, get_runs_folder
from medunet.models.postprocessing import Postprocessing, TriedStep
from medunet.models.quality import QualityRanges

if TYPE_CHECKING:
    from medunet.models.folder import (
        Model,
        ModelRecords,
        TrainingRecord,
        check_is_model,
        read_model,
        read_records,
        write_description,
        write_results,
        write_weights,
    )

_TORCH_NAMES = (
    "Model",
    "ModelRecords",
    "TrainingRecord",
    "check_is_model",
    "read_model",
    "read_records",
    "write_description",
    "write_results",
    "write_weights",
)

__all__ = [
    "HOME_VARIABLE",
    "SYNTHETIC_WARNING",
    "Model",
    "ModelRecords",
    "Postprocessing",
    "QualityRanges",
    "TrainingRecord",
    "TriedStep",
    "check_is_model",
    "find_newest_model",
    "get_runs_folder",
    "read_model",
    "read_records",
    "write_description",
    "write_results",
    "write_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _TORCH_NAMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from medunet.models import folder

    return getattr(folder, name)
