"""How good the network is: quickly on preprocessed cases while training, and on the cases' own grids at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medunet.device import Precision
from medunet.evaluation import Evaluation, LabelScore, build_evaluation, score_case
from medunet.inference import compute_logits, restore_label_map
from medunet.planning import Plan
from medunet.preprocessing import StoredCase, preprocess_image
from medunet.tasks import IGNORE_CODE, Case, Task, compute_membership, read_case
from medunet.training.progress import Observer
from medunet.volume import Volume


def compute_stored_dice(
    network: torch.nn.Module,
    cases: Sequence[StoredCase],
    task: Task,
    plan: Plan,
    device: torch.device,
    precision: Precision,
) -> float | None:
    """Mean Dice on the network's grid over labels and cases where a label occurs; None when none does.

    A quick look while training; the final numbers come from `validate_cases`.
    """
    membership = compute_membership(task).astype(bool)
    dices = []
    for case in cases:
        i, j, k = case.shape
        image, codes = case.read_box((slice(0, i), slice(0, j), slice(0, k)))
        volume = Volume(image.numpy(), np.eye(4))
        logits = compute_logits(network, volume, plan, device, precision).cpu()
        predicted = (
            logits > 0 if task.has_regions else logits.argmax(0) == torch.arange(len(logits))[:, None, None, None]
        )
        is_valid = codes != IGNORE_CODE
        for output in range(0 if task.has_regions else 1, len(membership)):
            reference = torch.from_numpy(membership[output])[codes.long().masked_fill(~is_valid, 0)] & is_valid
            prediction = predicted[output] & is_valid
            if reference.any():
                dices.append(2 * (reference & prediction).sum().item() / (reference.sum() + prediction.sum()).item())
    return float(np.mean(dices)) if dices else None


def validate_cases(
    network: torch.nn.Module,
    cases: Sequence[Case],
    task: Task,
    plan: Plan,
    device: torch.device,
    precision: Precision,
    observer: Observer,
) -> Evaluation:
    """Segment every case from its files and score the mask on the case's own grid, as a user would get it."""
    network.eval()
    scores: list[LabelScore] = []
    for number, case in enumerate(cases, start=1):
        image, labels = read_case(case, task)
        prepared = preprocess_image(image, plan)
        logits = compute_logits(network, prepared, plan, device, precision)
        mask = restore_label_map(logits, prepared, image, task)
        scores += score_case(labels, mask, task.labels, case_id=case.case_id, ignore_value=task.ignore)
        observer.on_case("validating", case.case_id, number, len(cases))
    return build_evaluation(scores)


def summarize_validation(evaluation: Evaluation | None) -> dict[str, Any]:
    """The content of ``metrics.json``; says so when there was no validation."""
    if evaluation is None:
        return {"num_cases": 0, "mean_dice": None, "labels": {}, "cases": []}
    return {
        "num_cases": len({score.case_id for score in evaluation.scores}),
        "mean_dice": evaluation.mean_dice,
        "labels": {
            summary.label: {key: value for key, value in dataclasses.asdict(summary).items() if key != "label"}
            for summary in evaluation.summaries
        },
        "cases": [dataclasses.asdict(score) for score in evaluation.scores],
    }
