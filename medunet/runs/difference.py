"""Two runs side by side: what was decided differently, which cases they saw, and what that did to the scores.

Scores are compared as `medunet.evaluation.compare_evaluations` compares sets of masks: paired, over the cases that both runs
validated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medunet.evaluation import Evaluation, PairedDifference, compare_evaluations
from medunet.models.names import PREVIOUS_FILE, STATE_FILE, STATE_FOLDER
from medunet.runs.documents import DocumentDifference, compare_documents
from medunet.runs.listing import Run, RunDocuments, list_network_folders, read_run, read_run_documents
from medunet.tasks import Task

_PATHS = ("task", "data", "splits", "from_model")
"""Settings that only ``state/settings.json`` holds, which need not be there: a model travels without them."""
_MEAN_DICE = "dice"


@dataclass(frozen=True, kw_only=True)
class CaseDifference:
    """Which cases two runs had.

    Attributes:
        num_shared: That both had.
        only_first: Ids that only the first run had.
        only_second: Ids that only the second run had.
        other_role: Ids that one run learnt from and the other one only validated.
        other_content: Ids whose preprocessed voxels or labels differ; None where that cannot be told, because a state is
            gone or the runs preprocess differently.
    """

    num_shared: int
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    other_role: tuple[str, ...]
    other_content: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class LabelDifference:
    """The Dice of one label in two runs.

    Attributes:
        label: Name, or `medunet.evaluation.compare.ALL_LABELS`.
        first_mean: Over the validation cases of the first run; None where it has no score.
        second_mean: Likewise, of the second run.
        first_cases: Cases in that mean.
        second_cases: Likewise.
        paired: Second less first over the cases that both scored; None where there is none.
    """

    label: str
    first_mean: float | None
    second_mean: float | None
    first_cases: int
    second_cases: int
    paired: PairedDifference | None


@dataclass(frozen=True, kw_only=True)
class RunDifference:
    """What `compare_runs` found.

    Attributes:
        first: A run.
        second: Another.
        settings: That were decided differently.
        plan: Places at which the plans differ, their reasons apart.
        task: Places at which the tasks differ, names of their labels in other systems apart.
        versions: Of medunet and the packages beneath.
        cases: Which cases they had; None where one of them has not saved anything yet.
        labels: The Dice, for every label of either run, and over all labels first.
    """

    first: Run
    second: Run
    settings: tuple[DocumentDifference, ...]
    plan: tuple[DocumentDifference, ...]
    task: tuple[DocumentDifference, ...]
    versions: tuple[DocumentDifference, ...]
    cases: CaseDifference | None
    labels: tuple[LabelDifference, ...]


def compare_runs(first: str | Path, second: str | Path) -> RunDifference:
    """What differs between two runs in settings, plan, task, versions, cases and scores.

    Args:
        first: A run folder, finished or not.
        second: Another.

    Raises:
        ModelError: If one is no run folder, or damaged.
    """
    runs = read_run(first), read_run(second)
    one, other = (read_run_documents(run.folder) for run in runs)
    return RunDifference(
        first=runs[0],
        second=runs[1],
        settings=_compare_settings(one, other),
        plan=_compare(_dump(one.plan), _dump(other.plan), silent=frozenset({"reasons"})),
        task=_compare_tasks(one.task, other.task),
        versions=_compare(_list_versions(one), _list_versions(other)),
        cases=_compare_cases(one, other),
        labels=_compare_scores(one.evaluation, other.evaluation),
    )


def _compare(
    first: Mapping[str, Any], second: Mapping[str, Any], *, silent: frozenset[str] = frozenset()
) -> tuple[DocumentDifference, ...]:
    """Nothing where one of them is empty: what is not known does not differ."""
    return tuple(compare_documents(first, second, silent=silent)) if first and second else ()


def _dump(document: Any) -> dict[str, Any]:
    content: dict[str, Any] = {} if document is None else document.model_dump(mode="json")
    return content


def _compare_tasks(first: Task | None, second: Task | None) -> tuple[DocumentDifference, ...]:
    found = _compare(_dump(first), _dump(second), silent=frozenset({"codes", "synonyms"}))
    if first is None or second is None or list(first.labels) == list(second.labels):
        return found
    if set(first.labels) != set(second.labels):  # then the labels are named one by one
        return found
    return (*found, DocumentDifference(path="labels", first=list(first.labels), second=list(second.labels)))


def _compare_settings(first: RunDocuments, second: RunDocuments) -> tuple[DocumentDifference, ...]:
    one, other = _list_settings(first), _list_settings(second)
    if (first.training is None, not first.settings) != (second.training is None, not second.settings):
        shared = (
            one.keys() & other.keys()
        )  # a run that has lost its state, or has saved nothing yet, is silent about some
        one, other = ({name: table[name] for name in table if name in shared} for table in (one, other))
    return _compare(one, other)


def _list_settings(documents: RunDocuments) -> dict[str, Any]:
    record = documents.training
    if record is None:
        return dict(documents.settings)
    paths = {name: documents.settings[name] for name in _PATHS if name in documents.settings}
    resolved = {name: value for name, value in record.settings.items() if name != "optimizer"}  # the plan holds it
    facts = {
        "budget": record.budget,
        "fold": documents.settings.get("fold", record.fold),
        "seed": record.seed,
        "dataset": record.dataset,
        "device": record.device,
        "precision": record.precision,
    }
    return resolved | facts | paths


def _list_versions(documents: RunDocuments) -> dict[str, Any]:
    record = documents.training
    return {} if record is None else {"medunet": record.medunet_version, **record.versions}


def _compare_cases(first: RunDocuments, second: RunDocuments) -> CaseDifference | None:
    one, other = first.training, second.training
    if one is None or other is None:
        return None
    of_one, of_other = ({*record.training_cases, *record.validation_cases} for record in (one, other))
    moved = (set(one.training_cases) - set(one.validation_cases)) & (
        set(other.validation_cases) - set(other.training_cases)
    )
    moved |= (set(one.validation_cases) - set(one.training_cases)) & (
        set(other.training_cases) - set(other.validation_cases)
    )
    return CaseDifference(
        num_shared=len(of_one & of_other),
        only_first=tuple(sorted(of_one - of_other)),
        only_second=tuple(sorted(of_other - of_one)),
        other_role=tuple(sorted(moved)),
        other_content=_find_other_content(first, second),
    )


def _find_other_content(first: RunDocuments, second: RunDocuments) -> tuple[str, ...] | None:
    """Cases whose checksums differ. Those are of preprocessed voxels, which say something only where all else is the same."""
    if first.plan is None or second.plan is None or first.task is None or second.task is None:
        return None
    rules = [(plan.spacing, plan.normalization, plan.orientation) for plan in (first.plan, second.plan)]
    if rules[0] != rules[1] or list(first.task.labels.items()) != list(second.task.labels.items()):
        return None
    checksums = [_read_checksums(documents.folder) for documents in (first, second)]
    if not checksums[0] or not checksums[1]:
        return None
    shared = checksums[0].keys() & checksums[1].keys()
    return tuple(sorted(case_id for case_id in shared if checksums[0][case_id] != checksums[1][case_id]))


def _read_checksums(folder: Path) -> dict[str, str]:
    """Case id -> checksum, from the states that a run has kept; a state that cannot be read says nothing."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, str] = {}
    for network in [folder, *(part for part in list_network_folders(folder) if part.name.startswith("fold_"))]:
        for name in (PREVIOUS_FILE, STATE_FILE):
            path = network / STATE_FOLDER / name
            if not path.is_file():
                continue
            try:
                with safe_open(path, framework="numpy") as file:
                    counters = json.loads((file.metadata() or {})["counters"])
                found |= counters["identity"]["case_checksums"]
            except (SafetensorError, OSError, KeyError, TypeError, ValueError):
                continue
    return found


def _compare_scores(first: Evaluation | None, second: Evaluation | None) -> tuple[LabelDifference, ...]:
    sides = [_list_means(evaluation) for evaluation in (first, second)]
    paired: dict[str, PairedDifference] = {}
    if first is not None and second is not None and _share_cases(first, second):
        comparison = compare_evaluations({"second": second, "first": first}, (_MEAN_DICE,))
        paired = {row.label: row for row in comparison.differences if row.num_cases}
    labels = list(dict.fromkeys(label for label in (*paired, *sides[0], *sides[1])))
    rows = []
    for label in labels:
        (one, num_one), (other, num_other) = (side.get(label, (None, 0)) for side in sides)
        rows.append(
            LabelDifference(
                label=label,
                first_mean=one,
                second_mean=other,
                first_cases=num_one,
                second_cases=num_other,
                paired=paired.get(label),
            )
        )
    return tuple(rows)


def _share_cases(first: Evaluation, second: Evaluation) -> bool:
    return bool({score.case_id for score in first.scores} & {score.case_id for score in second.scores})


def _list_means(evaluation: Evaluation | None) -> dict[str, tuple[float | None, int]]:
    """Label -> mean Dice and cases in it; over all labels, the mean of their means."""
    from medunet.evaluation.compare import ALL_LABELS

    if evaluation is None:
        return {}
    of_labels = {summary.label: (summary.mean, summary.num_scored) for summary in evaluation.summaries}
    return (
        {ALL_LABELS: (evaluation.mean_dice, evaluation.num_scored_cases), **of_labels}
        if len(of_labels) > 1
        else of_labels
    )
