"""Cross-validations that may be compared: the same task, the same cases, the same folds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medunet.errors import DatasetError, InputError, ModelError
from medunet.models import ModelRecords, is_ensemble, list_members, read_records
from medunet.tasks import Case, Dataset

_SHOWN = 5
"""Cases that a message names; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class FoldedRun:
    """A finished cross-validation.

    Attributes:
        name: Of its folder; numbered where two runs share one.
        records: Of the ensemble of all folds.
        folds: Of the network of each fold.
    """

    name: str
    records: ModelRecords
    folds: tuple[ModelRecords, ...]


def read_comparable_runs(folders: Sequence[Path]) -> list[FoldedRun]:
    """Read runs, and make sure that each case was kept from the same fold in all of them.

    Raises:
        ModelError: If a folder is no cross-validation, or a file of it is missing or wrong.
        InputError: If there are fewer than two runs, one is named twice, or they differ in task, cases or folds.
    """
    if len(folders) < 2:
        msg = f"There is {len(folders)} run to compare; expected two or more cross-validations."
        raise InputError(msg)
    resolved = [folder.resolve() for folder in folders]
    if twice := [folder for folder in folders if resolved.count(folder.resolve()) > 1]:
        msg = f"{twice[0]} is named twice; name every run once."
        raise InputError(msg)
    runs = [
        _read_run(folder, name)
        for folder, name in zip(folders, _name_runs([one.name for one in resolved]), strict=True)
    ]
    for run in runs[1:]:
        _check_same_task(runs[0], run)
        _check_same_folds(runs[0], run)
    return runs


def find_cases(run: FoldedRun, dataset: Dataset) -> list[tuple[Case, ...]]:
    """The validation cases of every fold.

    Raises:
        DatasetError: If the dataset lacks one.
    """
    by_id = {case.case_id: case for case in dataset.cases}
    case_ids = [case_id for records in run.folds for case_id in records.training.validation_cases]
    if missing := [case_id for case_id in case_ids if case_id not in by_id]:
        msg = (
            f"The dataset {dataset.name} lacks {_list_names(missing)} of {len(case_ids)} cases on which "
            f"{run.name} was validated. Give the dataset that the runs learnt from."
        )
        raise DatasetError(msg)
    return [tuple(by_id[case_id] for case_id in records.training.validation_cases) for records in run.folds]


def _read_run(folder: Path, name: str) -> FoldedRun:
    records = read_records(folder)
    if not is_ensemble(folder):
        msg = f"{folder} is a single model; expected a cross-validation, which `medunet train --fold cv` makes."
        raise ModelError(msg)
    folds = tuple(map(read_records, list_members(folder)))
    seen: set[str] = set()
    for fold in folds:
        kept_apart = set(fold.training.validation_cases)
        if not kept_apart or kept_apart & set(fold.training.training_cases):
            msg = (
                f"{fold.folder} kept no cases apart from its training, so it cannot be compared; train with --fold cv."
            )
            raise ModelError(msg)
        if both := seen & kept_apart:
            msg = (
                f"{folder} has several networks for {_list_names(both)}; expected one per fold. To compare an ensemble of "
                "several runs, name the runs that it was made of."
            )
            raise ModelError(msg)
        seen |= kept_apart
    return FoldedRun(name=name, records=records, folds=folds)


def _name_runs(names: Sequence[str]) -> list[str]:
    """Names that tell runs apart and may begin the name of a folder on any system.

    Example:
        >>> _name_runs(["liver-3d", "liver 2d", "liver-3d"])
        ['liver-3d', 'liver_2d', 'liver-3d-2']
    """
    given: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w.-]+", "_", name)
        number, chosen = 1, plain
        while chosen in given:
            number += 1
            chosen = f"{plain}-{number}"
        given.append(chosen)
    return given


def _check_same_task(run: FoldedRun, other: FoldedRun) -> None:
    task, others = run.records.task, other.records.task
    for what, one, two in (
        ("modality", task.modality, others.modality),
        ("channels", list(task.channels), list(others.channels)),
        (
            "labels",
            {name: list(values) for name, values in task.labels.items()},
            {name: list(values) for name, values in others.labels.items()},
        ),
        ("ignored value", task.ignore, others.ignore),
    ):
        if one != two or str(one) != str(two):  # the order of labels counts
            msg = f"{run.name} and {other.name} differ in their task: {what} {one} against {two}. Compare runs of one task."
            raise InputError(msg)


def _check_same_folds(run: FoldedRun, other: FoldedRun) -> None:
    remedy = "Train both on the same dataset with --fold cv and the same --splits."
    if len(run.folds) != len(other.folds):
        msg = f"{run.name} has {len(run.folds)} folds, {other.name} has {len(other.folds)}. {remedy}"
        raise InputError(msg)
    for number, (fold, others) in enumerate(zip(run.folds, other.folds, strict=True)):
        for what, one, two in (
            ("validates", fold.training.validation_cases, others.training.validation_cases),
            ("learns from", fold.training.training_cases, others.training.training_cases),
        ):
            for having, lacking, ids in (
                (run, other, set(one) - set(two)),
                (other, run, set(two) - set(one)),
            ):
                if ids:
                    msg = (
                        f"The folds differ: fold {number} of {having.name} {what} {_list_names(ids)}, that of "
                        f"{lacking.name} does not. {remedy}"
                    )
                    raise InputError(msg)


def _list_names(case_ids: set[str] | Sequence[str]) -> str:
    ids = sorted(case_ids)
    return ", ".join(ids[:_SHOWN]) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
