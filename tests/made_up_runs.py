"""Runs with untrained networks, written by hand: what training would leave, in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oracles import build_plan_for, build_record

from medunet.evaluation import LabelScore
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.models import (
    Ensemble,
    Model,
    combine_records,
    read_records,
    write_description,
    write_ensemble,
    write_results,
    write_weights,
)
from medunet.networks import build_network
from medunet.planning import Plan
from medunet.tasks import Task
from medunet.volume import Volume

TASK = Task(
    name="blobs-mr",
    title="Two blobs",
    modality="MR",
    channels=("t1",),
    labels={"left": (1,), "right": (3,)},  # type: ignore[arg-type]
    intensity="none",
)
REGIONS = Task.model_validate(TASK.model_dump() | {"labels": {"core": (2,), "whole": (1, 2), "other": (3,)}})
CASES = ("case_0", "case_1", "case_2")
FOLDS = (("case_0", "case_2"), ("case_1",))
SPACING = (1.0, 1.25, 2.0)
PLAN = build_plan_for(TASK, SPACING, (8, 12, 8))
COARSE_PLAN = build_plan_for(TASK, (1.5, 1.5, 2.5), (8, 8, 8))


def write_blobs(folder: Path) -> Path:
    """Three cases whose two blobs are of different brightness."""
    shape = (14, 12, 10)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    affine = np.diag([*SPACING, 1.0])
    for number, name in enumerate(CASES):
        rng = np.random.default_rng(number)
        image, labels = rng.normal(0.0, 0.3, shape), np.zeros(shape, np.uint8)
        for value, i, brightness in ((1, 3, 2.0), (3, 10, -2.0)):
            inside = np.linalg.norm(grid - (i, 6 + number - 1, 5), axis=-1) < 3
            image[inside] += brightness
            labels[inside] = value
        write_nifti_image(Volume(image.astype(np.float32)[None], affine), folder / "images" / f"{name}.nii.gz")
        write_nifti_labels(Volume(labels[None], affine), folder / "labels" / f"{name}.nii.gz")
    return folder


def write_network(
    folder: Path,
    *,
    task: Task = TASK,
    plan: Plan = PLAN,
    seed: int = 0,
    fold: int = 0,
    folds: Sequence[Sequence[str]] = FOLDS,
) -> Path:
    """A model folder with random weights that says that it kept a fold apart."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = build_network(plan.network).state_dict()
    record = build_record().model_copy(
        update={
            "fold": fold,
            "validation_cases": tuple(folds[fold]),
            "training_cases": tuple(name for other in folds if other is not folds[fold] for name in other),
        }
    )
    write_description(folder, task, plan)
    write_weights(folder, weights, record)
    metrics = {"num_cases": len(folds[fold]), "mean_dice": None, "labels": {}, "cases": [], "failed": []}
    write_results(folder, task, plan, record, metrics)
    return folder


def write_run(
    folder: Path, *, task: Task = TASK, plan: Plan = PLAN, seed: int = 0, folds: Sequence[Sequence[str]] = FOLDS
) -> Path:
    """A finished cross-validation; every network has weights of its own."""
    names = [f"fold_{fold}" for fold in range(len(folds))]
    for fold, name in enumerate(names):
        write_network(folder / name, task=task, plan=plan, seed=100 * seed + fold, fold=fold, folds=folds)
    write_description(folder, task, plan)
    record = combine_records([read_records(folder / name).training for name in names])
    write_ensemble(folder, names, record)
    write_results(folder, task, plan, record, {"num_cases": len(CASES), "mean_dice": None, "labels": {}, "folds": []})
    return folder


def build_metrics(dices: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The content of ``metrics.json``; the n-th number of a label is the Dice of ``case_n``."""
    means = {label: float(np.mean(values)) for label, values in dices.items()}
    scores = [
        LabelScore(
            case_id=f"case_{n}",
            label=label,
            dice=dice,
            status="ok",
            reference_ml=1.0,
            prediction_ml=1.0,
            tp=1,
            fp=0,
            fn=0,
        )
        for label, row in dices.items()
        for n, dice in enumerate(row)
    ]
    return {
        "num_cases": max(map(len, dices.values())),
        "mean_dice": float(np.mean(list(means.values()))),
        "labels": {label: {"mean": means[label], "num_scored": len(row)} for label, row in dices.items()},
        "cases": [asdict(score) for score in scores],
        "failed": [],
    }


def write_scored_run(
    folder: Path,
    dices: Mapping[str, Sequence[float]] | None = None,
    *,
    task: Task = TASK,
    plan: Plan = PLAN,
    **record: Any,
) -> Path:
    """A finished training of one fold, with scores and a record that are known."""
    plan = plan.model_copy(update={"task": task.name})
    training = build_record().model_copy(update=record)
    metrics = build_metrics(dices or {"left": [0.5, 0.75], "right": [0.9, 0.85]})
    write_description(folder, task, plan)
    write_weights(folder, build_network(plan.network).state_dict(), training)
    write_results(folder, task, plan, training, metrics)
    return folder


def write_begun_run(folder: Path, *, budget: str | None = "2h") -> Path:
    """What a training leaves that was killed in the middle of a row of its log."""
    write_description(folder, TASK, PLAN)
    (folder / "state").mkdir()
    (folder / "state" / "settings.json").write_text(json.dumps({"task": TASK.name, "budget": budget, "fold": 1}))
    (folder / "log.csv").write_text(
        "iteration,seconds,learning_rate,loss,training_dice,validation_dice,data_wait\n"
        "10,1.00,1e-3,1.0,0.1,,0.0\n20,2.50,,,,0.25000,\n30,4.00,1e-3,0.9,0.2,,0.0\n40,5.5"
    )
    return folder


def build_model(seed: int, plan: Plan = PLAN, task: Task = TASK) -> Model:
    """A model in memory with an untrained network."""
    plan = plan.model_copy(
        update={"network": plan.network.model_copy(update={"out_channels": task.num_outputs}), "task": task.name}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(plan.network).eval()
    return Model(folder=Path("none"), task=task, plan=plan, training=build_record(), metrics={}, network=network)


def join(*members: Model) -> Ensemble:
    """Models in memory that answer together."""
    first = members[0]
    return Ensemble(
        folder=Path("none"), task=first.task, plan=first.plan, training=build_record(), metrics={}, members=members
    )
