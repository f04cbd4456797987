"""Scores of a cohort: score every pair of mask and reference, keep going past a bad one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medunet.errors import InputError, MedunetError
from medunet.evaluation.case import Labels, LabelScore
from medunet.evaluation.case_instances import LabelInstances, build_no_instances, measure_instances, measure_objects
from medunet.evaluation.case_metrics import (
    CaseAgreement,
    CaseMeasures,
    LabelMetrics,
    compute_agreement,
    name_values,
    read_measures,
    take_measures,
)
from medunet.evaluation.catalogue import MetricSettings
from medunet.evaluation.pairing import Pairing, pair_sources
from medunet.evaluation.sides import LabelMapPair, NamedPair, SideOptions, read_sides
from medunet.evaluation.statistics import Summary, bootstrap_interval, summarize_scores
from medunet.tasks import Task, check_mapping, check_object_values, compute_semantic_map, load_task
from medunet.warned import strip_folders

OnCase = Callable[[str], None]
"""Told of every case when it is done, by its id."""


@dataclass(frozen=True, kw_only=True)
class CaseFailure:
    """A case that could not be scored, and why: files are named without the folders that lead to them."""

    case_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CaseFiles:
    """Where a case was read from."""

    case_id: str
    mask: Path
    reference: Path


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All scores of a cohort.

    Attributes:
        scores: One per case and label; `LabelMetrics` where surfaces were measured too.
        summaries: The Dice, one per label.
        failures: Cases that could not be scored; they are in no mean.
        unmatched: One phrase per file without a partner; these are in no mean either.
        agreements: Pixel accuracy per case, where files were compared by value.
        files: Of each scored case, where they came from files.
        label_values: Label -> values, where files were compared by value.
        instances: Per case and label, where they were asked for.
        unmatched_cases: Ids of the cases whose mask or reference has no partner.
        structure_names: That files list whose structures became labels of the task.
    """

    scores: list[LabelScore]
    summaries: list[Summary]
    failures: list[CaseFailure]
    unmatched: list[str]
    agreements: Sequence[CaseAgreement] = ()
    files: Sequence[CaseFiles] = ()
    label_values: Labels | None = None
    instances: Sequence[LabelInstances] = ()
    unmatched_cases: Sequence[str] = ()
    structure_names: frozenset[str] = frozenset()

    @property
    def mean_dice(self) -> float | None:
        """Mean over labels of the label means; None when no label was scored."""
        return _compute_mean([summary.mean for summary in self.summaries])

    @property
    def num_scored_cases(self) -> int:
        """Cases of which a label was scored; in the others neither side has any."""
        return sum(dice is not None for dice in self.mean_dice_per_case().values())

    def mean_dice_per_case(self) -> dict[str, float | None]:
        """Mean over the labels of each case; None where all labels are empty on both sides."""
        dice_per_case: dict[str, list[float | None]] = {}
        for score in self.scores:
            dice_per_case.setdefault(score.case_id, []).append(score.dice)
        return {case_id: _compute_mean(dice) for case_id, dice in dice_per_case.items()}

    def compute_interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of the mean over cases of each case's mean Dice; None for fewer than 2 cases."""
        dices = self.mean_dice_per_case().values()
        return bootstrap_interval([dice for dice in dices if dice is not None])


def build_evaluation(
    scores: Iterable[LabelScore], failures: Iterable[CaseFailure] = (), unmatched: Iterable[str] = ()
) -> Evaluation:
    """Summarize scores that were made one case at a time, for example while training."""
    scores = list(scores)
    return Evaluation(
        scores=scores, summaries=summarize_scores(scores), failures=list(failures), unmatched=list(unmatched)
    )


def evaluate(
    masks: Path | str,
    labels: Path | str,
    *,
    task: Task | str | None = None,
    settings: MetricSettings | None = None,
    mapping: Mapping[str, str] | None = None,
    images: Path | str | None = None,
    resample: bool = False,
    instances: bool = False,
    on_case: OnCase | None = None,
) -> Evaluation:
    """Score masks against references.

    Args:
        masks: A file, or a folder of files. DICOM SEG and RTSTRUCT count as files, also alone in a folder.
        labels: The reference file, or the folder of references. Folders are paired by file name without the ending of
            its format; a mask may also carry the ending ``_0000`` of nnU-Net's images.
        task: Names the labels and the value to ignore: a task, its name, or a YAML file. Without it, every value that
            occurs in a paired reference is a label, so that a structure that was missed everywhere still counts; DICOM
            objects are compared by the names of their structures.
        settings: Tolerances, and what counts as surface; None takes the tolerances of the task, else 2 mm.
        mapping: Name in a DICOM SEG or RTSTRUCT -> label of the task.
        images: Scan or folder of scans, for RTSTRUCT.
        resample: Interpolates a mask on another grid; else it is refused.
        instances: Also matches the connected parts of every label, for lesions. Of a task with instances objects are
            matched always, by the values that files give them.
        on_case: Told of every case when it is done.

    Returns:
        Scores and summaries. With folders, a case that cannot be read or does not fit becomes a failure and the others
        are scored; files without a partner are listed.

    Raises:
        InputError: If a path is missing, one is a file and the other a folder, no names match, or there is a mapping and
            no task. For two files also everything that is wrong with them.
        TaskError: If the mapping names labels that the task does not have.
    """
    masks, labels = Path(masks), Path(labels)
    task = load_task(task) if isinstance(task, str) else task
    if task is not None:
        check_mapping(mapping or {}, task)
    elif mapping:
        msg = "--map gives names to the labels of a task; name the task with --task."
        raise InputError(msg)
    if settings is None:
        settings = MetricSettings(tolerances_mm={} if task is None else task.tolerances_mm)
    options = SideOptions(
        task=task, mapping=mapping or {}, images=None if images is None else Path(images), resample=resample
    )
    pairing = pair_sources(masks, labels)
    scorer = _Scorer(
        options,
        settings,
        with_instances=instances or (task is not None and task.has_instances),
        sources=[masks, labels, *([] if options.images is None else [options.images])],
    )
    is_alone = list(pairing.pairs.values()) == [(masks, labels)]
    for case_id, (mask, reference) in pairing.pairs.items():
        scorer.measure(case_id, mask, reference, raises=is_alone)
        if on_case is not None:
            on_case(case_id)
    return scorer.finish(pairing, raises=is_alone)


class _Scorer:
    """Measures every case first: only then are all values known that the references hold."""

    def __init__(
        self, options: SideOptions, settings: MetricSettings, *, with_instances: bool, sources: Sequence[Path]
    ) -> None:
        self._options = options
        self._settings = settings
        self._with_instances = with_instances
        self._sources = sources
        self._instances: dict[str, list[LabelInstances]] = {}
        self._measured: dict[str, CaseMeasures] = {}
        self._named: dict[str, list[LabelMetrics]] = {}
        self._files: dict[str, CaseFiles] = {}
        self._failures: list[CaseFailure] = []
        self._structure_names: frozenset[str] = frozenset()

    def measure(self, case_id: str, mask: Path, reference: Path, *, raises: bool) -> None:
        """Read and measure one case; what is wrong with it is a failure, or raised."""
        try:
            sides = read_sides(case_id, mask, reference, self._options)
            if isinstance(sides, NamedPair):
                self._named[case_id] = self._score_named(sides)
            else:
                self._measured[case_id] = self._measure_maps(case_id, sides)
                self._structure_names |= sides.structure_names
            self._files[case_id] = CaseFiles(case_id=case_id, mask=mask, reference=reference)
        except MedunetError as error:
            if raises:
                raise
            self._add_failure(case_id, str(error))

    def finish(self, pairing: Pairing, *, raises: bool) -> Evaluation:
        """Turn the measures into scores."""
        names, ignore_value = self._choose_labels()
        scores: list[LabelScore] = []
        agreements: list[CaseAgreement] = []
        instances: list[LabelInstances] = []
        for case_id in self._files:
            if case_id in self._named:
                scores += self._named[case_id]
                instances += self._instances.get(case_id, ())
                continue
            measures = self._measured[case_id]
            try:
                scores += read_measures(measures, names, ignore_value=ignore_value, settings=self._settings)
                agreements.append(compute_agreement(measures.counts, names, ignore_value=ignore_value))
                instances += self._complete_instances(case_id, names)
            except MedunetError as error:
                if raises:
                    raise
                self._add_failure(case_id, str(error))
        for case_id, reason in pairing.failures.items():
            self._add_failure(case_id, reason)
        failed = {failure.case_id for failure in self._failures}
        return Evaluation(
            scores=scores,
            summaries=summarize_scores(scores),
            failures=sorted(self._failures, key=lambda failure: failure.case_id),
            unmatched=list(pairing.unmatched),
            unmatched_cases=list(pairing.unmatched_cases),
            structure_names=self._structure_names,
            agreements=agreements,
            files=[files for case_id, files in self._files.items() if case_id not in failed],
            label_values=names if self._measured else None,
            instances=instances,
        )

    def _add_failure(self, case_id: str, reason: str) -> None:
        """Reasons go onto pages, which travel; mask and reference have one name, so the folder given tells them apart."""
        (reason,) = strip_folders([reason], self._sources)
        self._failures.append(CaseFailure(case_id=case_id, reason=reason))

    def _measure_maps(self, case_id: str, sides: LabelMapPair) -> CaseMeasures:
        task = self._options.task
        if task is not None and task.has_instances:
            return self._measure_objects(case_id, sides, task)
        ignore_value = None if task is None else task.ignore
        measures = take_measures(
            sides.reference,
            sides.prediction,
            None if task is None else task.labels,
            case_id=case_id,
            ignore_value=ignore_value,
            settings=self._settings,
        )
        if self._with_instances:
            values = measures.counts.reference_values | measures.counts.prediction_values
            self._instances[case_id] = measure_instances(
                sides.reference,
                sides.prediction,
                name_values(values) if task is None else task.labels,
                case_id=case_id,
                ignore_value=ignore_value,
            )
        return measures

    def _measure_objects(self, case_id: str, sides: LabelMapPair, task: Task) -> CaseMeasures:
        """Overlap and surfaces of the labels, whatever the object, and the objects one by one."""
        for side, name in ((sides.reference, "reference"), (sides.prediction, "mask")):
            check_object_values(side, task, f"The {name} of case '{case_id}'")
        self._instances[case_id] = measure_objects(sides.reference, sides.prediction, task, case_id=case_id)
        return take_measures(
            compute_semantic_map(sides.reference, task),
            compute_semantic_map(sides.prediction, task),
            task.semantic_labels,
            case_id=case_id,
            ignore_value=task.ignore,
            settings=self._settings,
        )

    def _score_named(self, sides: NamedPair) -> list[LabelMetrics]:
        scores = []
        for name, reference, prediction in sides.iterate_masks():
            labels = {name: (1,)}
            measures = take_measures(reference, prediction, labels, case_id=sides.case_id, settings=self._settings)
            scores += read_measures(measures, labels, settings=self._settings)
            if self._with_instances:
                found = measure_instances(reference, prediction, labels, case_id=sides.case_id)
                self._instances.setdefault(sides.case_id, []).extend(found)
        return scores

    def _complete_instances(self, case_id: str, names: Labels) -> list[LabelInstances]:
        """Every label of a case, also those that only other cases have: their scans count too."""
        if not self._with_instances:
            return []
        found = {one.label: one for one in self._instances[case_id]}
        return [found.get(name) or build_no_instances(case_id, name) for name in names]

    def _choose_labels(self) -> tuple[Labels, int | None]:
        task = self._options.task
        if task is not None:
            return task.semantic_labels, task.ignore
        values: set[int] = set().union(*(measures.counts.reference_values for measures in self._measured.values()))
        return name_values(values), None


def _compute_mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
