"""The model folder: read, write, verify, find, put together."""

from typing import TYPE_CHECKING, Any

from medunet.models.card import SYNTHETIC_WARNING
from medunet.models.find import HOME_VARIABLE, find_newest_model, get_runs_folder
from medunet.models.instances import InstanceRules, ObjectRule, combine_instance_rules
from medunet.models.int8 import Int8Record
from medunet.models.postprocessing import LabelStep, Postprocessing, TriedStep
from medunet.models.quality import QualityRanges
from medunet.models.speed import MeasuredSpeed, SpeedRecord, combine_speed_records

if TYPE_CHECKING:
    from medunet.models.ensemble import combine_records, copy_model, write_ensemble
    from medunet.models.folder import (
        AnyModel,
        Ensemble,
        Model,
        read_model,
        read_single_model,
        write_description,
        write_results,
        write_weights,
    )
    from medunet.models.members import is_ensemble, list_members
    from medunet.models.records import ModelRecords, TrainingRecord, check_is_model, read_records

_HOMES = {
    "AnyModel": "folder",
    "Ensemble": "folder",
    "Model": "folder",
    "ModelRecords": "records",
    "TrainingRecord": "records",
    "check_is_model": "records",
    "combine_records": "ensemble",
    "copy_model": "ensemble",
    "is_ensemble": "members",
    "list_members": "members",
    "read_model": "folder",
    "read_records": "records",
    "read_single_model": "folder",
    "write_description": "folder",
    "write_ensemble": "ensemble",
    "write_results": "folder",
    "write_weights": "folder",
}

__all__ = [
    "HOME_VARIABLE",
    "SYNTHETIC_WARNING",
    "AnyModel",
    "Ensemble",
    "InstanceRules",
    "Int8Record",
    "LabelStep",
    "MeasuredSpeed",
    "Model",
    "ModelRecords",
    "ObjectRule",
    "Postprocessing",
    "QualityRanges",
    "SpeedRecord",
    "TrainingRecord",
    "TriedStep",
    "check_is_model",
    "combine_instance_rules",
    "combine_records",
    "combine_speed_records",
    "copy_model",
    "find_newest_model",
    "get_runs_folder",
    "is_ensemble",
    "list_members",
    "read_model",
    "read_records",
    "read_single_model",
    "write_description",
    "write_ensemble",
    "write_results",
    "write_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
