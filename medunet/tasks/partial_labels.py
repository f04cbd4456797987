"""Cases in which only some labels of a task were looked for, so that the others may hide in their background."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medunet.errors import DatasetError, LabelError
from medunet.tasks.case import Case, suggest_case
from medunet.tasks.json_file import read_json
from medunet.tasks.suggestion import suggest
from medunet.tasks.task import Task
from medunet.volume import Volume

_FILE_NAME = "annotated.json"
_FORM = '{"case id": ["label", ...], ...}'


def read_annotated(folder: Path, cases: Sequence[Case]) -> list[Case]:
    """The cases, each with the labels that ``annotated.json`` in the dataset folder lists for it, if there is one.

    The file is ``{"case id": ["label", ...], ...}``; a case that it does not name annotates all labels.

    Raises:
        DatasetError: If the file is no such JSON, or names an unknown case.
    """
    path = folder / _FILE_NAME
    if not path.exists():
        return list(cases)
    content = _read_file(path)
    known = {case.case_id for case in cases}
    for case_id, labels in content.items():
        if case_id not in known:
            msg = f"{path}: the dataset holds no case '{case_id[:80]}'; {suggest_case(case_id, known)}"
            raise DatasetError(msg)
        _check_labels(path, case_id, labels)
    return [
        replace(case, annotated=frozenset(content[case.case_id])) if case.case_id in content else case for case in cases
    ]


def check_annotated(cases: Iterable[Case], task: Task) -> None:
    """Refuse annotated labels that the task does not have.

    Raises:
        DatasetError: With the case and the nearest label.
    """
    for case in cases:
        for label in sorted(case.annotated or ()):
            if label not in task.labels:
                msg = (
                    f"case '{case.case_id}' is said to annotate '{label[:80]}', which is no label of task '{task.name}'; "
                    f"{suggest(label, task.labels)}"
                )
                raise DatasetError(msg)


def check_annotated_values(labels: Volume, case: Case, task: Task) -> None:
    """Refuse a label map that holds a label which its case is said not to annotate.

    Args:
        labels: Stored values; must have been checked against the task.
        case: Says what is annotated; None allows everything.
        task: The labels. A value that belongs to several regions is allowed if one of them is annotated.

    Raises:
        LabelError: With the labels.
    """
    if case.annotated is None:
        return
    allowed = {value for label in case.annotated for value in task.labels[label]}
    found = {int(value) for value in np.unique(labels.array)} & set(task.all_values)
    if hidden := found - allowed:
        names = [name for name, values in task.labels.items() if hidden & set(values)]
        msg = (
            f"{case.labels} holds {', '.join(names)}, but case '{case.case_id}' is said to annotate only "
            f"{', '.join(sorted(case.annotated))}. Add to the list what was annotated, or correct the label map."
        )
        raise LabelError(msg)


def _read_file(path: Path) -> dict[str, Any]:
    content = read_json(path, f"a file {_FORM}")
    if not isinstance(content, dict):
        msg = f"{path} holds a {type(content).__name__}; expected {_FORM}."
        raise DatasetError(msg)
    return content


def _check_labels(path: Path, case_id: str, labels: Any) -> None:
    is_list = isinstance(labels, list) and labels and all(isinstance(label, str) and label for label in labels)
    if not is_list or len(set(labels)) != len(labels):
        msg = (
            f"{path} gives case '{case_id}' the labels {str(labels)[:80]}; expected a list of different names. Leave the "
            "case out of the file if all labels are annotated."
        )
        raise DatasetError(msg)
