"""Several models that answer together: a folder whose ``ensemble.json`` names the model folders below it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medunet.errors import ModelError
from medunet.io import write_bytes_atomic, write_json_atomic
from medunet.models.folder import TrainingRecord, combine_checksums
from medunet.models.members import EnsembleRecord, is_ensemble, list_members
from medunet.models.names import (
    BACKENDS,
    CARD,
    ENSEMBLE,
    INSTANCES,
    INT8,
    LOCATE,
    LOG,
    LOW,
    METRICS,
    PLAN,
    POSTPROCESSING,
    QUALITY,
    SPEED,
    TASK,
    TRAINING,
    WEIGHTS,
)

_COPIED = (
    TASK,
    PLAN,
    METRICS,
    POSTPROCESSING,
    INSTANCES,
    QUALITY,
    SPEED,
    INT8,
    CARD,
    LOG,
    WEIGHTS,
    ENSEMBLE,
    TRAINING,
)
"""In the order in which they are copied: without the last two, a folder counts as no model."""


def write_ensemble(folder: Path, members: Sequence[str], training: TrainingRecord) -> None:
    """Write ``training.json`` and ``ensemble.json``.

    Args:
        folder: That becomes a model, once it has task and plan too.
        members: Names of model folders directly below it; they are there already.
        training: From `combine_records` of the members.

    Raises:
        OutputError: If it cannot be written.
    """
    record = EnsembleRecord(members=tuple(members))
    write_json_atomic(folder / TRAINING, training.model_dump(mode="json"))
    write_json_atomic(folder / ENSEMBLE, record.model_dump(mode="json"))


def combine_records(records: Sequence[TrainingRecord]) -> TrainingRecord:
    """How an ensemble came to be: what its members did together, and of the rest what they have in common.

    Args:
        records: Of the members, one or more, in the order of the ensemble.

    Returns:
        All cases of all members, in the order in which they are first named; iterations and seconds added up; settings
        and versions that are the same everywhere; the seed of the first; ``weights_sha256`` of all.
    """
    first = records[0]
    training_cases = _merge(case_id for record in records for case_id in record.training_cases)
    validation_cases = _merge(case_id for record in records for case_id in record.validation_cases)
    return first.model_copy(
        update={
            "created": max(record.created for record in records),
            "dataset": ", ".join(_merge(record.dataset for record in records)),
            "is_synthetic": any(record.is_synthetic for record in records),
            "training_cases": training_cases,
            "validation_cases": validation_cases,
            "case_list_sha256": hash_case_ids(training_cases, validation_cases),
            "fold": None,
            "budget": ", ".join(_merge(record.budget for record in records)),
            "num_iterations": sum(record.num_iterations for record in records),
            "seconds": round(sum(record.seconds for record in records), 1),
            "is_deterministic": all(record.is_deterministic for record in records),
            "device": ", ".join(_merge(record.device for record in records)),
            "precision": ", ".join(_merge(record.precision for record in records)),
            "settings": _find_common([record.settings for record in records]),
            "versions": _find_common([record.versions for record in records]),
            "weights_sha256": combine_checksums(records),
        }
    )


def hash_case_ids(*groups: Sequence[str]) -> str:
    """SHA-256 of lists of case ids."""
    return hashlib.sha256(json.dumps([list(ids) for ids in groups]).encode()).hexdigest()


def copy_model(source: Path, target: Path) -> None:
    """Copy what makes a model folder a model, members and first stages included, without the state of its training.

    Args:
        source: A model folder.
        target: Becomes one; made where it is missing.

    Raises:
        ModelError: If the source cannot be read.
        OutputError: If the target cannot be written.
    """
    for member in list_members(source) if is_ensemble(source) else ():
        copy_model(member, target / member.name)
    for part in (LOW, LOCATE):
        if (source / part).is_dir():
            copy_model(source / part, target / part)
    kept = [
        BACKENDS + "/" + path.name for path in (source / BACKENDS).glob("*-int8-*")
    ]  # made from data, unlike the others
    for path in (source / name for name in (*kept, *_COPIED) if (source / name).is_file()):
        try:
            content = path.read_bytes()
        except OSError as error:
            msg = f"{path} cannot be read: {error.strerror or error}. Correct its permissions or disk."
            raise ModelError(msg) from error
        write_bytes_atomic(target / path.relative_to(source), content)


def _merge(values: Any) -> tuple[Any, ...]:
    """Every value once, in the order in which they first appear."""
    return tuple(dict.fromkeys(values))


def _find_common(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first, *others = documents
    return {
        name: value for name, value in first.items() if all(name in other and other[name] == value for other in others)
    }
