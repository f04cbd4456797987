"""The best candidate of a comparison as a model folder of its own, which may travel without the runs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medunet.errors import OutputError
from medunet.evaluation import build_evaluation
from medunet.io import describe_write_error
from medunet.models import (
    QualityRanges,
    combine_instance_rules,
    combine_records,
    combine_speed_records,
    copy_model,
    write_description,
    write_ensemble,
    write_results,
)
from medunet.models.quality import Range
from medunet.tasks import Case
from medunet.training.candidates import Candidate
from medunet.training.report import write_report
from medunet.training.validation import Validation, list_dices, summarize_validation


def write_selected_model(
    folder: Path, candidates: Sequence[Candidate], best: Candidate, folds: Sequence[Sequence[Case]], masks: Path
) -> None:
    """Copy the networks of the best candidate into one ensemble, with all that was found out about it.

    Args:
        folder: Appears whole or not at all; is missing or empty.
        candidates: All that were compared, for the record.
        best: One of them.
        folds: The cases of each fold.
        masks: Of the best, see `medunet.training.validation.predict_masks`.

    Raises:
        OutputError: If the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".selection-", dir=folder.parent) as temporary:
            whole = Path(temporary) / "model"
            _write_model(whole, candidates, best, folds)
            if folder.is_dir():  # empty; not every system renames over it
                folder.rmdir()
            whole.replace(folder)
    except OutputError:
        raise
    except OSError as error:
        raise describe_write_error(folder, error) from error
    cases = [case for of_fold in folds for case in of_fold]
    write_report(best.runs[0].records.task, folder, best.validation, cases, masks)


def _write_model(
    folder: Path, candidates: Sequence[Candidate], best: Candidate, folds: Sequence[Sequence[Case]]
) -> None:
    first = best.runs[0].records
    members = []
    for run in best.runs:
        for fold in run.folds:
            members.append(fold.folder.name if len(best.runs) == 1 else f"{run.name}-{fold.folder.name}")
            copy_model(fold.folder, folder / members[-1])
    record = combine_records([fold.training for run in best.runs for fold in run.folds])
    write_description(folder, first.task, first.plan)
    write_ensemble(folder, members, record)
    write_results(
        folder,
        first.task,
        first.plan,
        record,
        summarize_validation(best.validation)
        | {
            "num_networks": best.num_networks,
            "folds": [_summarize_fold(best.validation, cases) for cases in folds],
            "candidates": [_summarize_candidate(one, is_chosen=one is best) for one in candidates],
        },
        postprocessing=best.validation.postprocessing,
        instances=combine_instance_rules([fold.instances for run in best.runs for fold in run.folds])
        if first.task.has_instances
        else None,
        quality=_update_quality(first.quality, best.validation),
        speed=combine_speed_records([fold.speed for run in best.runs for fold in run.folds]),
        other_plans=[run.records.plan for run in best.runs[1:]],
    )


def _summarize_fold(validation: Validation, cases: Sequence[Case]) -> dict[str, Any]:
    case_ids = {case.case_id for case in cases}
    of_fold = build_evaluation(score for score in validation.scores if score.case_id in case_ids)
    return {"num_cases": of_fold.num_scored_cases, "mean_dice": of_fold.mean_dice}


def _summarize_candidate(candidate: Candidate, *, is_chosen: bool) -> dict[str, Any]:
    validation = candidate.validation
    return {
        "name": candidate.name,
        "runs": [run.name for run in candidate.runs],
        "configurations": [run.records.plan.configuration for run in candidate.runs],
        "num_networks": candidate.num_networks,
        "num_cases": validation.num_scored_cases,
        "mean_dice": candidate.mean_dice,
        "interval_95": candidate.compute_interval(),
        "labels": {summary.label: summary.mean for summary in validation.summaries},
        "mean_dice_without_postprocessing": validation.raw.mean_dice,
        "postprocessing": validation.postprocessing.describe(),
        "is_chosen": is_chosen,
    }


def _update_quality(quality: QualityRanges | None, validation: Validation) -> QualityRanges | None:
    """What cases look like stays; how well they are segmented is that of the new model. What predicts a Dice goes: it was
    learnt from the agreement of other members."""
    if quality is None:
        return None
    dices = list_dices(validation.scores)
    labels = {
        name: row.model_copy(update={"dice": Range.of(dices.get(name, [])), "dice_calibration": None})
        for name, row in quality.labels.items()
    }
    return quality.model_copy(update={"labels": labels})
