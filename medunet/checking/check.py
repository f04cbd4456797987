"""The dataset doctor: reads every case as training does, measures it, and says what a person should know first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medunet.checking.judge_cohort import Folds, judge_duplicates, judge_outliers
from medunet.checking.judge_intensity import judge_intensities
from medunet.checking.judge_labels import judge_labels
from medunet.checking.measure_case import OnVolumes, measure_case
from medunet.checking.report import SEVERITIES, CaseFacts, DatasetReport, Finding
from medunet.errors import DatasetError, MedunetError
from medunet.planning import compute_fingerprint
from medunet.tasks import Case, Dataset, Task, count_folds, is_picture, read_splits, split_fold
from medunet.warned import collect_warnings, strip_folders


def check_dataset(
    dataset: Dataset,
    task: Task,
    *,
    num_workers: int = 2,
    splits: str | Path | None = None,
    on_case: Callable[[str], None] | None = None,
    on_volumes: OnVolumes | None = None,
) -> DatasetReport:
    """Examine every case of a dataset; a faulty one does not stop the others.

    An error among the findings means that training would refuse the dataset, since cases are read and split by the
    functions that training uses. Each worker holds one case in memory.

    Args:
        dataset: Labelled cases.
        task: Channels and labels that they must have.
        num_workers: Threads that read.
        splits: File of one's own folds (`medunet.tasks.read_splits`); None takes nnU-Net's.
        on_case: Called with the id of every finished case, in any order, from the threads.
        on_volumes: Called with id, image and label map of every sound case, both in RAS orientation, while they are in
            memory, from the threads.
    """

    def measure(case: Case) -> CaseFacts:
        facts = measure_case(case, task, on_volumes)
        if on_case is not None:
            on_case(case.case_id)
        return facts

    with ThreadPoolExecutor(num_workers) as pool:
        cases = tuple(pool.map(measure, dataset.cases))
        folds, split_findings = _split(dataset, splits)
    findings = [
        *_judge_dataset(dataset, cases, task),
        *split_findings,
        *_judge_files(cases),
        *judge_intensities(cases, task),
        *judge_labels(cases, task),
        *judge_duplicates(cases, folds, {case.case_id: case.group for case in dataset.cases}),
        *judge_outliers(cases, task),
    ]
    return DatasetReport(
        dataset=dataset.name,
        layout=dataset.layout,
        task=task.name,
        cases=cases,
        findings=tuple(_sort(findings, cases)),
    )


def _judge_files(cases: Sequence[CaseFacts]) -> list[Finding]:
    findings: list[Finding] = []
    for facts in cases:
        name = facts.case_id
        findings += [Finding(case_id=name, severity="error", topic="file", text=text) for text in facts.refusals]
        findings += [Finding(case_id=name, severity="warning", topic="file", text=text) for text in facts.remarks]
    return findings


def _judge_dataset(dataset: Dataset, cases: Sequence[CaseFacts], task: Task) -> list[Finding]:
    findings = []
    if dataset.modality is not None and dataset.modality != task.modality:
        text = (
            f"The dataset says that its images are {dataset.modality}; task '{task.name}' is for {task.modality}. Choose "
            "another task, or correct dataset.json."
        )
        findings.append(Finding(severity="warning", topic="task", text=text))
    grids = [facts.grid for facts in cases if facts.grid is not None]
    if is_picture(task.modality) and grids and all(grid.spacing == (1.0, 1.0, 1.0) for grid in grids):
        text = (
            "The pictures do not say how large a pixel is: 1 mm stands for 1 pixel, and 1 ml for 1000 pixels. Fine where all "
            "of them are equally magnified."
        )
        findings.append(Finding(severity="note", topic="task", text=text))
    if all(facts.is_usable for facts in cases) and not any(facts.labels for facts in cases):
        # Every case is sound, and still training may refuse them all: it is asked itself.
        try:
            compute_fingerprint(dataset.cases, task)
        except MedunetError as error:
            findings.append(Finding(severity="error", topic="labels", text=str(error)))
    return findings


def _split(dataset: Dataset, splits: str | Path | None) -> tuple[Folds, list[Finding]]:
    """The folds that training would use; why there are none, and what to know about them."""
    paths = [dataset.folder, *([] if splits is None else [Path(splits)])]
    with collect_warnings() as remarks:
        try:
            own = None if splits is None else read_splits(splits, dataset)
            folds = [split_fold(dataset, fold, own) for fold in range(count_folds(dataset, own))]
        except DatasetError as error:
            (text,) = strip_folders([str(error)], paths)
            return [], [Finding(severity="error", topic="folds", text=text)]
    findings = [Finding(severity="note", topic="folds", text=text) for text in strip_folders(remarks, paths)]
    return [(_list_ids(training), _list_ids(validation)) for training, validation in folds], findings


def _list_ids(cases: Sequence[Case]) -> frozenset[str]:
    return frozenset(case.case_id for case in cases)


def _sort(findings: Sequence[Finding], cases: Sequence[CaseFacts]) -> list[Finding]:
    """By severity; then what speaks of the dataset, then by case."""
    order = {None: -1} | {facts.case_id: index for index, facts in enumerate(cases)}
    return sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), order[finding.case_id]))
