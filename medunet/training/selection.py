"""Which configuration, or which two together, are best: decided by cross-validation.

As nnU-Net's ``nnUNetv2_find_best_configuration`` (Isensee 2021, doi:10.1038/s41592-020-01008-z), every run and every pair
of runs is scored on all cases, each case by the networks of the fold that has not seen it. Unlike there, each candidate is
scored with its own post-processing, and a pair must beat a single run by more than rounding.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medunet.device import Precision, choose_device, choose_precision, is_out_of_memory
from medunet.errors import InputError, OutputError
from medunet.evaluation import CaseFailure
from medunet.inference import Prediction, Predictor, merge_predictions, restore_predictions
from medunet.inference.settings import REPRODUCIBLE
from medunet.io import check_output
from medunet.models import read_model
from medunet.models.names import TASK
from medunet.tasks import Case, Task, check_annotated, parse_mapping, read_case, read_dataset
from medunet.training.candidates import Candidate, choose_best
from medunet.training.comparable_runs import FoldedRun, find_cases, read_comparable_runs
from medunet.training.experiment import count_cases
from medunet.training.mask_pairs import MaskPair, write_mask_pair
from medunet.training.progress import Observer
from medunet.training.selected_model import write_selected_model
from medunet.training.validation import describe_failure, score_masks

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a comparison found.

    Attributes:
        folder: The model folder that was written.
        task: Of all runs.
        candidates: Every run, then every pair.
        best: The one that was taken.
        reason: Why.
    """

    folder: Path
    task: Task
    candidates: tuple[Candidate, ...]
    best: Candidate
    reason: str


def select(
    runs: Sequence[str | Path],
    data: str | Path,
    *,
    output: str | Path,
    mapping: Sequence[str] = (),
    ensembles: bool = True,
    device: str = "auto",
    observer: Observer | None = None,
) -> Selection:
    """Compare cross-validations and every pair of them as an ensemble, and write the best as a model folder.

    The best has the highest mean Dice over all cases (`choose_best`); a single run is taken instead of a pair that is
    not better than rounding, because it segments a scan in about half the time.

    Args:
        runs: Two or more run folders of ``medunet train --fold cv``, with the same task, cases and folds.
        data: The dataset that they learnt from.
        output: Becomes the model folder: an ensemble of copies of the folds of the best.
        mapping: Names of structures in SEG and RTSTRUCT for labels, each as ``"CTV_p=prostate"``.
        ensembles: Whether pairs are tried.
        device: ``"auto"`` or a torch device.
        observer: Told what happens.

    Returns:
        All candidates with their scores. A case that cannot be read or segmented is in no mean, and named in
        ``validation.failures``; the others are scored.

    Raises:
        InputError: If the runs cannot be compared, the dataset is another, or no case can be scored.
        OutputError: If the output exists already or cannot be written.
    """
    folder, observer = Path(output), observer or Observer()
    compared = read_comparable_runs([Path(run) for run in runs])
    _check_unused(folder, compared)
    task = compared[0].records.task
    dataset = read_dataset(data, mapping=parse_mapping(mapping))
    check_annotated(dataset.cases, task)
    folds = find_cases(compared[0], dataset)
    groups = [(run,) for run in compared] + (list(itertools.combinations(compared, 2)) if ensembles else [])
    chosen_device = choose_device(device)
    observer.on_message(
        f"Comparing {len(compared)} runs and {len(groups) - len(compared)} pair(s) on "
        f"{sum(map(len, folds))} cases of {dataset.name}"
    )
    with tempfile.TemporaryDirectory(prefix="medunet-selection-") as temporary:
        masks = [Path(temporary) / str(number) for number in range(len(groups))]
        scorer = _Segmenting(
            runs=compared,
            groups=groups,
            masks=masks,
            task=task,
            device=chosen_device,
            precision=choose_precision(chosen_device),
            observer=observer,
        )
        failures = scorer.segment(folds)
        cases = [case for of_fold in folds for case in of_fold]
        candidates = tuple(
            Candidate(runs=group, validation=score_masks(cases, task, where, failures))
            for group, where in zip(groups, masks, strict=True)
        )
        best, reason = choose_best(candidates)
        observer.on_message(f"Writing {best.name}: {reason}")
        write_selected_model(folder, candidates, best, folds, masks[candidates.index(best)])
    return Selection(folder=folder, task=task, candidates=candidates, best=best, reason=reason)


@dataclass(frozen=True, kw_only=True)
class _Segmenting:
    """Every case passes through the networks of its fold once; all candidates are made from what they say.

    Attributes:
        runs: What is compared.
        groups: The runs of each candidate.
        masks: A folder for the masks of each candidate.
        task: Of the runs.
        device: That computes.
        precision: Of the networks' arithmetic.
        observer: Told of every case.
    """

    runs: Sequence[FoldedRun]
    groups: Sequence[tuple[FoldedRun, ...]]
    masks: Sequence[Path]
    task: Task
    device: torch.device
    precision: Precision
    observer: Observer

    def segment(self, folds: Sequence[Sequence[Case]]) -> list[CaseFailure]:
        """Put the masks of all candidates aside; a case that fails for one is left out of all, so that means compare."""
        failures: list[CaseFailure] = []
        count = count_cases("segmenting", sum(map(len, folds)), self.observer)
        for fold, cases in enumerate(folds):
            failures += self._segment_fold(fold, cases, count)
        return failures

    def _segment_fold(self, fold: int, cases: Sequence[Case], count: Callable[[str], None]) -> list[CaseFailure]:
        failures: list[CaseFailure] = []
        predictors = {
            run.name: Predictor(read_model(run.folds[fold].folder), self.device, self.precision, REPRODUCIBLE)
            for run in self.runs
        }
        for case in cases:
            try:
                pairs = self._segment_case(case, predictors)
            except Exception as error:
                if not (isinstance(error, InputError) or is_out_of_memory(error)):
                    raise
                failures.append(_report_failure(case, error))
            else:
                for where, pair in zip(self.masks, pairs, strict=True):
                    write_mask_pair(where, pair)
            count(case.case_id)
        return failures

    def _segment_case(self, case: Case, predictors: dict[str, Predictor]) -> list[MaskPair]:
        image, reference = read_case(case, self.task)
        said: dict[str, list[Prediction]] = {name: one.predict(image) for name, one in predictors.items()}
        pairs = []
        for group in self.groups:
            predictions = merge_predictions(prediction for run in group for prediction in said[run.name])
            mask = restore_predictions(predictions, image, self.task)
            pairs.append(MaskPair(case_id=case.case_id, reference=reference, prediction=mask))
        return pairs


def _check_unused(folder: Path, runs: Sequence[FoldedRun]) -> None:
    """What is written is whole and new: no file of another model may stay in it, and no run is written into."""
    if any(folder.resolve().is_relative_to(run.records.folder.resolve()) for run in runs):
        msg = f"The output {folder} lies within a run that is compared; choose another --output."
        raise OutputError(msg)
    if folder.is_dir() and any(folder.iterdir()):
        msg = f"The output {folder} is not empty; choose another --output."
        raise OutputError(msg)
    check_output(folder / TASK)


def _report_failure(case: Case, error: BaseException) -> CaseFailure:
    failure = describe_failure(case, error)
    logger.warning("Case '%s' is left out of the comparison: %s", failure.case_id, failure.reason)
    return failure
