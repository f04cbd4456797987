"""Scores as files: CSV with a row per case and label, JSON with everything, and nnU-Net's ``summary.json``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medunet.errors import InputError
from medunet.evaluation.advice import give_advice
from medunet.evaluation.case import LabelScore
from medunet.evaluation.case_instances import summarize_instances
from medunet.evaluation.catalogue import METRICS
from medunet.evaluation.cohort import Evaluation
from medunet.evaluation.metric_summary import summarize_metrics
from medunet.io import write_text_atomic

CSV_HEADER = (
    *("case", "label", "dice", "status", "reference_ml", "prediction_ml", "tp", "fp", "fn", "tn"),
    *(name for name in METRICS if name != "dice"),
    "tolerance_mm",
)
_NNUNET_METRICS = ("Dice", "IoU", "FP", "TP", "FN", "TN", "n_pred", "n_ref")


def write_scores_csv(evaluation: Evaluation, path: Path | str) -> None:
    """Write one row per case and label, whole or not at all.

    A number is empty where it is not defined or was not measured. A name that a spreadsheet would run as a formula gets
    a leading apostrophe (https://owasp.org/www-community/attacks/CSV_Injection).

    Raises:
        OutputError: If the file cannot be written.
    """
    write_csv(path, CSV_HEADER, (_list_cells(score) for score in evaluation.scores))


def write_csv(path: Path | str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table whose texts are safe to open in a spreadsheet; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_format_cell(cell) for cell in row])
    write_text_atomic(Path(path), text.getvalue())


def describe_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Everything about an evaluation, ready for JSON."""
    return {
        "num_cases": evaluation.num_scored_cases,
        "mean_dice": evaluation.mean_dice,
        "summary": [asdict(summary) for summary in summarize_metrics(evaluation.scores)],
        "cases": [asdict(score) for score in evaluation.scores],
        "agreement": [asdict(agreement) for agreement in evaluation.agreements],
        "instances": {
            "summary": [asdict(summary) for summary in summarize_instances(evaluation.instances)],
            "cases": [asdict(found) for found in evaluation.instances],
        },
        "advice": give_advice(evaluation),
        "failed": [asdict(failure) for failure in evaluation.failures],
        "unmatched": list(evaluation.unmatched),
    }


def write_nnunet_summary(evaluation: Evaluation, path: Path | str) -> None:
    """Write the scores as nnU-Net's evaluator does (``nnunetv2.evaluation.evaluate_predictions``).

    A label has its value as key, a region its values, ``(1, 2)``. What neither side has is NaN there, and left out of
    the means.

    Raises:
        InputError: If structures were compared by name, which have no values.
        OutputError: If the file cannot be written.
    """
    if evaluation.label_values is None:
        msg = "nnU-Net's summary names labels by value, but structures were compared by name; give a task."
        raise InputError(msg)
    keys = {name: _make_key(values) for name, values in evaluation.label_values.items()}
    of_case: dict[str, dict[str, dict[str, float]]] = {}
    for score in evaluation.scores:
        if score.label in keys:
            of_case.setdefault(score.case_id, {})[keys[score.label]] = _to_nnunet(score)
    files = {entry.case_id: entry for entry in evaluation.files}
    means = {
        key: {name: _mean_without_nan(metrics[key][name] for metrics in of_case.values()) for name in _NNUNET_METRICS}
        for key in keys.values()
    }
    content = {
        "foreground_mean": {name: _mean(of_label[name] for of_label in means.values()) for name in _NNUNET_METRICS},
        "mean": means,
        "metric_per_case": [
            {
                "metrics": metrics,
                "prediction_file": str(files[case_id].mask),
                "reference_file": str(files[case_id].reference),
            }
            for case_id, metrics in of_case.items()
        ],
    }
    write_text_atomic(Path(path), json.dumps(content, indent=4) + "\n")


def _list_cells(score: LabelScore) -> list[object]:
    names = {"case": "case_id"}
    return [getattr(score, names.get(column, column), None) for column in CSV_HEADER]


def _format_cell(cell: object) -> object:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return make_spreadsheet_safe(cell) if isinstance(cell, str) else cell


def make_spreadsheet_safe(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _make_key(values: Sequence[int]) -> str:
    return str(values[0]) if len(values) == 1 else str(tuple(values))


def _to_nnunet(score: LabelScore) -> dict[str, float]:
    union = score.tp + score.fp + score.fn
    return {
        "Dice": math.nan if score.dice is None else score.dice,
        "IoU": score.tp / union if union else math.nan,
        "FP": score.fp,
        "TP": score.tp,
        "FN": score.fn,
        "TN": getattr(score, "tn", math.nan),
        "n_pred": score.fp + score.tp,
        "n_ref": score.fn + score.tp,
    }


def _mean_without_nan(values: Iterable[float]) -> float:
    return _mean(value for value in values if not math.isnan(value))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan
