"""Scores of a cohort: pair files by name, score every pair, keep going past a bad one, write the table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medunet.errors import InputError, MedunetError
from medunet.evaluation.case import CaseCounts, Labels, LabelScore, count_case, score_counts
from medunet.evaluation.statistics import Summary, summarize_scores
from medunet.io import list_volumes, read_label_map, strip_suffix, write_text_atomic
from medunet.tasks import Task, load_task

_CHANNEL_SUFFIX = "_0000"  # nnU-Net names the first channel of case p012 p012_0000.nii.gz
_CSV_HEADER = ["case", "label", "dice", "status", "reference_ml", "prediction_ml", "tp", "fp", "fn"]


@dataclass(frozen=True, kw_only=True)
class CaseFailure:
    """A case that could not be scored, and why."""

    case_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All scores of a cohort.

    Attributes:
        scores: One per case and label.
        summaries: One per label.
        failures: Cases that could not be scored; they are in no mean.
        unmatched: One phrase per file without a partner; these are in no mean either.
    """

    scores: list[LabelScore]
    summaries: list[Summary]
    failures: list[CaseFailure]
    unmatched: list[str]

    @property
    def mean_dice(self) -> float | None:
        """Mean over labels of the label means; None when no label was scored."""
        return _compute_mean([summary.mean for summary in self.summaries])

    def mean_dice_per_case(self) -> dict[str, float | None]:
        """Mean over the labels of each case; None where all labels are empty on both sides."""
        dice_per_case: dict[str, list[float | None]] = {}
        for score in self.scores:
            dice_per_case.setdefault(score.case_id, []).append(score.dice)
        return {case_id: _compute_mean(dice) for case_id, dice in dice_per_case.items()}


def build_evaluation(
    scores: Iterable[LabelScore], failures: Iterable[CaseFailure] = (), unmatched: Iterable[str] = ()
) -> Evaluation:
    """Summarize scores that were made one case at a time, for example while training."""
    scores = list(scores)
    return Evaluation(
        scores=scores, summaries=summarize_scores(scores), failures=list(failures), unmatched=list(unmatched)
    )


def evaluate(masks: Path | str, labels: Path | str, *, task: Task | str | None = None) -> Evaluation:
    """Score masks against references.

    Args:
        masks: A file, or a folder of files.
        labels: The reference file, or the folder of references. Folders are paired by file name without its NIfTI
            ending; a mask may also carry the ending ``_0000`` of nnU-Net's images.
        task: Names the labels and the value to ignore: a task, its name, or a YAML file. Without it, every value that
            occurs in a paired reference is a label, so that a structure that was missed everywhere still counts.

    Returns:
        Scores and summaries. With folders, a case that cannot be read or does not fit becomes a failure and the others
        are scored; files without a partner are listed.

    Raises:
        InputError: If a path is missing, one is a file and the other a folder, or no names match. For two files also
            everything that is wrong with them.
    """
    masks, labels = Path(masks), Path(labels)
    task = load_task(task) if isinstance(task, str) else task
    if not _are_folders(masks, labels):
        counts = _count_files(strip_suffix(labels.name), masks, labels)
        names, ignore_value = _choose_labels([counts], task)
        return build_evaluation(score_counts(counts, names, ignore_value=ignore_value))
    pairing = _pair_files(list_volumes(masks), list_volumes(labels))
    if not pairing.pairs and not pairing.failures:
        raise InputError(_describe_no_match(masks, labels))
    return _evaluate_pairs(pairing, task)


def write_scores_csv(evaluation: Evaluation, path: Path | str) -> None:
    """Write one row per case and label, whole or not at all.

    The Dice is empty where it is not defined. A name that a spreadsheet would run as a formula gets a leading
    apostrophe (https://owasp.org/www-community/attacks/CSV_Injection).

    Raises:
        OutputError: If the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for score in evaluation.scores:
        dice = "" if score.dice is None else f"{score.dice:.6f}"
        volumes = [f"{score.reference_ml:.6g}", f"{score.prediction_ml:.6g}"]
        names = [_make_spreadsheet_safe(score.case_id), _make_spreadsheet_safe(score.label)]
        writer.writerow([*names, dice, score.status, *volumes, score.tp, score.fp, score.fn])
    write_text_atomic(Path(path), text.getvalue())


# ---- pairing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Pairing:
    pairs: dict[str, tuple[Path, Path]]  # case -> mask, reference
    failures: list[CaseFailure]
    unmatched: list[str]


def _are_folders(masks: Path, labels: Path) -> bool:
    for path in (masks, labels):
        if not path.exists():
            msg = f"{path} does not exist; expected a volume or a folder of volumes. Check the path."
            raise InputError(msg)
    if masks.is_dir() != labels.is_dir():
        folder, file = (masks, labels) if masks.is_dir() else (labels, masks)
        msg = f"{folder} is a folder and {file} is a file; expected two files or two folders."
        raise InputError(msg)
    return masks.is_dir()


def _pair_files(masks: Sequence[Path], references: Sequence[Path]) -> _Pairing:
    references_by_case = _group_by_case([(strip_suffix(path.name), path) for path in references])
    masks_by_case = _group_by_case([(_find_case(path, references_by_case), path) for path in masks])
    pairs: dict[str, tuple[Path, Path]] = {}
    failures, unmatched = [], []
    for case_id in sorted(references_by_case | masks_by_case):
        of_case, to_compare = masks_by_case.get(case_id, []), references_by_case.get(case_id, [])
        if not to_compare:
            unmatched += [f"mask {path.name} has no reference" for path in of_case]
        elif not of_case:
            unmatched += [f"reference {path.name} has no mask" for path in to_compare]
        elif len(of_case) == len(to_compare) == 1:
            pairs[case_id] = of_case[0], to_compare[0]
        else:
            names = ", ".join(str(path) for path in [*of_case, *to_compare])
            reason = f"several files belong to case '{case_id}' ({names}); keep one mask and one reference."
            failures.append(CaseFailure(case_id=case_id, reason=reason))
    return _Pairing(pairs=pairs, failures=failures, unmatched=unmatched)


def _find_case(mask: Path, cases: Iterable[str]) -> str:
    """The case that a mask belongs to: its name, or its name without nnU-Net's channel suffix if only that is known."""
    name = strip_suffix(mask.name)
    shortened = name.removesuffix(_CHANNEL_SUFFIX)
    return shortened if name not in cases and shortened in cases else name


def _group_by_case(named: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for case_id, path in named:
        groups.setdefault(case_id, []).append(path)
    return groups


def _describe_no_match(masks: Path, labels: Path) -> str:
    return (
        f"No mask in {masks} ({_show_names(masks)}) has the name of a reference in {labels} ({_show_names(labels)}). "
        "Give mask and reference of a case the same file name."
    )


def _show_names(folder: Path) -> str:
    names = [path.name for path in list_volumes(folder)]
    if not names:
        return "no volumes there"
    return ", ".join(names[:3]) + (f", ... {len(names)} in all" if len(names) > 3 else "")


# ---- scoring ---------------------------------------------------------------------------------------------------------


def _evaluate_pairs(pairing: _Pairing, task: Task | None) -> Evaluation:
    """Count every case first: only then are all values known that the references hold."""
    failures = list(pairing.failures)
    counted: list[CaseCounts] = []
    for case_id, (mask, reference) in pairing.pairs.items():
        try:
            counted.append(_count_files(case_id, mask, reference))
        except MedunetError as error:
            failures.append(CaseFailure(case_id=case_id, reason=str(error)))
    names, ignore_value = _choose_labels(counted, task)
    scores: list[LabelScore] = []
    for counts in counted:
        try:
            scores += score_counts(counts, names, ignore_value=ignore_value)
        except MedunetError as error:
            failures.append(CaseFailure(case_id=counts.case_id, reason=str(error)))
    return build_evaluation(scores, sorted(failures, key=lambda failure: failure.case_id), pairing.unmatched)


def _count_files(case_id: str, mask: Path, reference: Path) -> CaseCounts:
    return count_case(read_label_map(reference), read_label_map(mask), case_id=case_id)


def _choose_labels(counted: Iterable[CaseCounts], task: Task | None) -> tuple[Labels, int | None]:
    if task is not None:
        return task.labels, task.ignore
    values = set().union(*(counts.reference_values for counts in counted)) - {0}
    return {f"label {value}": (value,) for value in sorted(values)}, None


def _compute_mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _make_spreadsheet_safe(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
