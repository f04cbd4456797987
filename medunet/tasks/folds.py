"""Which cases train and which validate: nnU-Net's folds, or a file of one's own. No patient is ever divided."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medunet.errors import DatasetError
from medunet.tasks.case import Case, suggest_case
from medunet.tasks.dataset import Dataset
from medunet.tasks.json_file import read_json
from medunet.tasks.table import check_width, read_table

NUM_FOLDS = 5
FOLD_SEED = 12345  # nnU-Net's, so that folds are the same cases

Splits = tuple[tuple[frozenset[str], frozenset[str]], ...]
"""Case ids that train and that validate, of each fold."""
_Fold = tuple[list[str], list[str]]

logger = logging.getLogger(__name__)


def split_fold(
    dataset: Dataset, fold: int | None, splits: Splits | None = None
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Training and validation cases of one fold.

    Without splits of one's own the rule is nnU-Net's: scikit-learn's ``KFold(5, shuffle=True, random_state=12345)`` over
    the sorted case ids. Cases of one group (a patient) stay together: then it is the same rule over the sorted groups.
    With fewer than five cases or groups every fold leaves one out.

    Args:
        dataset: The cases.
        fold: Number of the fold that validates; None trains on all cases and validates on none.
        splits: From `read_splits`.

    Raises:
        DatasetError: If the fold does not exist, or one case or patient alone is to be split.
    """
    if fold is None:
        return dataset.cases, ()
    num_folds = count_folds(dataset, splits)
    if not 0 <= fold < num_folds:
        why = _describe_units(dataset) + " give" if splits is None else "the splits have"
        msg = f"There is no fold {fold}; {why} the folds 0 to {num_folds - 1}."
        raise DatasetError(msg)
    training, validation = _split_by_rule(dataset, fold, num_folds) if splits is None else splits[fold]
    return (
        tuple(case for case in dataset.cases if case.case_id in training),
        tuple(case for case in dataset.cases if case.case_id in validation),
    )


def count_folds(dataset: Dataset, splits: Splits | None = None) -> int:
    """How many folds there are: those of the file; else five, or as many as there are cases or patients.

    Raises:
        DatasetError: If one case or patient alone is to be split.
    """
    if splits is not None:
        return len(splits)
    num_groups = len(_list_groups(dataset))
    if num_groups < 2:
        unit = "case" if len(dataset.cases) == 1 else "patient"
        msg = f"The dataset {dataset.name} holds one {unit}, which cannot be split; train on it with --fold all."
        raise DatasetError(msg)
    return min(NUM_FOLDS, num_groups)


def read_splits(path: str | Path, dataset: Dataset) -> Splits:
    """Folds from a file.

    A ``.json`` file is nnU-Net's ``splits_final.json``: ``[{"train": [case ids], "val": [case ids]}, ...]``. A ``.csv``
    table has the columns ``case`` and ``fold``: the case validates in that fold, counted from 0, and trains in the others.
    Cases that a fold names nowhere take no part in it, which is logged.

    Args:
        path: The file.
        dataset: Whose cases it splits.

    Raises:
        DatasetError: If the file cannot be read or has another form, a case is unknown or in both lists, the cases of a
            patient are in both lists, or a list is empty.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        folds = _read_json_folds(path)
    elif path.suffix.lower() == ".csv":
        folds = _read_csv_folds(path)
    else:
        msg = (
            f"The splits {path} have the ending '{path.suffix}'; expected .json (nnU-Net's splits_final.json) or .csv."
        )
        raise DatasetError(msg)
    for number, fold in enumerate(folds):
        _check_fold(f"{path}, fold {number}", fold, dataset)
    _warn_of_missing(path, folds, dataset)
    return tuple((frozenset(training), frozenset(validation)) for training, validation in folds)


def _split_by_rule(dataset: Dataset, fold: int, num_folds: int) -> tuple[set[str], set[str]]:
    groups = _list_groups(dataset)
    order = np.arange(len(groups))
    np.random.RandomState(FOLD_SEED).shuffle(order)
    validation = {groups[index] for index in np.array_split(order, num_folds)[fold].tolist()}
    validating = {case.case_id for case in dataset.cases if _get_group(case) in validation}
    return {case.case_id for case in dataset.cases} - validating, validating


def _list_groups(dataset: Dataset) -> list[str]:
    return sorted({_get_group(case) for case in dataset.cases})


def _describe_units(dataset: Dataset) -> str:
    num_groups = len(_list_groups(dataset))
    return f"{num_groups} {'cases' if num_groups == len(dataset.cases) else 'patients'}"


def _get_group(case: Case) -> str:
    return case.case_id if case.group is None else case.group


def _read_json_folds(path: Path) -> list[_Fold]:
    content = read_json(path, "a file like nnU-Net's splits_final.json")
    if not isinstance(content, list) or not content or not all(map(_is_fold, content)):
        msg = f'{path} has another form; expected [{{"train": [case ids], "val": [case ids]}}, ...] with a fold each.'
        raise DatasetError(msg)
    return [(fold["train"], fold["val"]) for fold in content]


def _is_fold(fold: Any) -> bool:
    if not isinstance(fold, dict) or set(fold) != {"train", "val"}:
        return False
    return all(isinstance(ids, list) and all(isinstance(name, str) for name in ids) for ids in fold.values())


def _read_csv_folds(path: Path) -> list[_Fold]:
    columns, rows = read_table(path, "case, fold")
    if sorted(columns) != ["case", "fold"]:
        msg = f"{path} has the columns {', '.join(columns)[:200]}; expected case, fold."
        raise DatasetError(msg)
    fold_of: dict[str, int] = {}
    for number, row in rows:
        cells = check_width(path, number, row, columns)
        if not re.fullmatch(r"\d{1,4}", cells["fold"], re.ASCII):
            msg = f"{path} has the fold {cells['fold'][:40]!r} in row {number}; expected a number from 0 on."
            raise DatasetError(msg)
        if cells["case"] in fold_of:
            msg = f"{path} lists the case '{cells['case'][:80]}' twice, again in row {number}. Remove one."
            raise DatasetError(msg)
        fold_of[cells["case"]] = int(cells["fold"])
    folds = sorted(set(fold_of.values()))
    if len(folds) < 2 or folds != list(range(len(folds))):
        found = ", ".join(map(str, folds[:10])) or "none"
        msg = f"{path} has the folds {found}; expected two or more, numbered from 0 on without a gap."
        raise DatasetError(msg)
    return [
        ([case for case, own in fold_of.items() if own != fold], [case for case, own in fold_of.items() if own == fold])
        for fold in folds
    ]


def _check_fold(name: str, fold: _Fold, dataset: Dataset) -> None:
    for role, case_ids in zip(("train", "val"), fold, strict=True):
        _check_list(f"{name}: the list '{role}'", case_ids, dataset)
    training, validation = map(set, fold)
    if both := training & validation:
        msg = f"{name}: {_list_names(both)} would train and validate. Leave them in one list."
        raise DatasetError(msg)
    groups = {case.case_id: _get_group(case) for case in dataset.cases}
    if shared := {groups[case_id] for case_id in training} & {groups[case_id] for case_id in validation}:
        divided = [case_id for case_id in training | validation if groups[case_id] == min(shared)]
        msg = (
            f"{name}: {_list_names(divided)} are of one patient, but would train and validate. Put them into one list."
        )
        raise DatasetError(msg)


def _check_list(name: str, case_ids: list[str], dataset: Dataset) -> None:
    if not case_ids:
        msg = f"{name} is empty; expected a case. To train on all cases without validation, use --fold all."
        raise DatasetError(msg)
    known = {case.case_id for case in dataset.cases}
    if unknown := [case_id for case_id in case_ids if case_id not in known]:
        msg = f"{name} has '{unknown[0][:80]}', which is no case of the dataset; {suggest_case(unknown[0], known)}"
        raise DatasetError(msg)
    if twice := [case_id for case_id, count in Counter(case_ids).items() if count > 1]:
        msg = f"{name} has {_list_names(twice)} twice. Remove one."
        raise DatasetError(msg)


def _warn_of_missing(path: Path, folds: Sequence[_Fold], dataset: Dataset) -> None:
    for number, (training, validation) in enumerate(folds):
        missing = {case.case_id for case in dataset.cases} - {*training, *validation}
        if missing:
            logger.warning("%s, fold %d: %s neither train nor validate.", path, number, _list_names(missing))


def _list_names(case_ids: Iterable[str]) -> str:
    """Some ids, sorted, for a message."""
    ids = sorted(case_ids)
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return f"the case(s) {', '.join(ids[:5])}{more}"
