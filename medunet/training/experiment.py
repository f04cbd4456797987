"""What is learnt, from what and how: settled once, before the first step, and the same for every fold."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter

from medunet.device import Precision, choose_device, choose_precision, count_workers
from medunet.errors import InputError
from medunet.models import get_runs_folder
from medunet.models.folder import Model, read_single_model, write_description
from medunet.models.names import LOCATE, LOW, STATE_FOLDER
from medunet.networks import EncoderWeights, find_encoder_options, read_encoder_weights
from medunet.phantoms import write_phantom_dataset
from medunet.planning import Fingerprint, Plan, build_locator_task, compute_fingerprint
from medunet.preprocessing import StoredCase, prepare_cases
from medunet.tasks import (
    Case,
    Dataset,
    Splits,
    Task,
    check_annotated,
    count_folds,
    load_task,
    parse_mapping,
    read_dataset,
    read_splits,
    split_fold,
)
from medunet.training.budget import Budget
from medunet.training.distributed import World
from medunet.training.fine_tune import adapt_plan
from medunet.training.fit_plan import Plans, describe_plan, fit_plans
from medunet.training.folders import read_plan
from medunet.training.memory import limit_cases_gib
from medunet.training.progress import Observer
from medunet.training.settings import TrainingSettings, write_settings
from medunet.training.signals import StopSignals
from medunet.training.state import has_state

logger = logging.getLogger(__name__)

NUM_PHANTOMS = 24
_PLANS: TypeAdapter[Plans] = TypeAdapter(Plans)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that the trainings of one call share.

    Attributes:
        settings: What the user decided.
        task: What is learnt.
        dataset: From which cases.
        splits: Own folds; None for nnU-Net's.
        plan: How.
        low_plan: Of a cascade's first stage; None without a cascade.
        locator_plan: Of the small network that finds where the structures are; None where none is trained.
        source: Model to begin with; None begins anew.
        encoder: Weights of a 2D classifier, with which the network's encoder begins; None begins anew.
        budget: Of each training.
        device: Of this process.
        precision: Of the network's arithmetic.
        world: Processes that learn together.
        observer: Told what happens; by the first process only.
        signals: That end the learning early.
    """

    settings: TrainingSettings
    task: Task
    dataset: Dataset
    splits: Splits | None
    plan: Plan
    low_plan: Plan | None
    locator_plan: Plan | None
    source: Model | None
    encoder: EncoderWeights | None = None
    budget: Budget
    device: torch.device
    precision: Precision
    world: World
    observer: Observer
    signals: StopSignals

    def open_cases(self, cases: Sequence[Case]) -> list[StoredCase]:
        """Preprocess what is not preprocessed yet, in the first process; the others find its files."""
        if not cases:
            return []
        with self.world.in_turn():
            return prepare_cases(
                cases,
                self.task,
                self.plan,
                get_runs_folder() / "preprocessed" / self.task.name,
                num_workers=count_workers(),
                memory_gib=limit_cases_gib(self.plan, self.precision, self.device, self.settings.memory_gb),
                on_case=count_cases("preprocessing", len(cases), self.observer),
            )


def prepare_experiment(
    folder: Path,
    settings: TrainingSettings,
    *,
    world: World,
    observer: Observer,
    signals: StopSignals,
    resumes: bool,
) -> Experiment:
    """Find the cases, measure them, and fit a plan to them and the budget.

    Args:
        folder: Gets settings, task and plan, once the data have been read: a faulty dataset leaves no empty run behind.
        settings: What the user decided.
        world: Processes that learn together.
        observer: Told what happens.
        signals: That end the learning early.
        resumes: Whether the folder holds a plan to go on with.

    Raises:
        InputError: If task, data, budget or device cannot be used.
        OutputError: If the folder cannot be written.
    """
    task = load_task(settings.task)
    whole_budget = settings.resolve_budget(task)
    device = choose_device(settings.device, local_rank=world.local_rank)
    precision = choose_precision(device, settings.precision)
    # A training that has a state took over all it needs, and the source may be gone; folds to come still need it.
    needs_source = settings.from_model is not None and (settings.fold == "cv" or not has_state(folder))
    source = read_single_model(str(settings.from_model)) if needs_source else None
    encoder = _read_encoder(settings, folder)
    if encoder is not None and not resumes:
        settings = _fit_network_options(settings, encoder)
    with world.in_turn():
        dataset = _find_dataset(settings, task, observer)
    check_annotated(dataset.cases, task)
    _warn_about_mismatch(dataset, task)
    splits = None if settings.splits is None else read_splits(settings.splits, dataset)
    budget = share_budget(whole_budget, dataset, settings, splits)

    def settle_plans() -> Plans:
        if resumes:
            parts = [folder / STATE_FOLDER / name for name in (LOW, LOCATE)]
            low, locator = (read_plan(part) if part.is_dir() else None for part in parts)
            return Plans(read_plan(folder), low=low, locator=locator)
        fingerprint = compute_fingerprint(
            dataset.cases,
            task,
            num_workers=count_workers(),
            on_case=count_cases("reading", len(dataset.cases), observer),
        )
        _warn_about_absent_labels(fingerprint, dataset)
        plans = plan_trainings(fingerprint, task, dataset, budget, device, settings, precision, source=source)
        write_description(folder, task, plans.main)
        if plans.low is not None:
            write_description(folder / STATE_FOLDER / LOW, task, plans.low)
        if plans.locator is not None:
            write_description(folder / STATE_FOLDER / LOCATE, build_locator_task(task), plans.locator)
        write_settings(folder, settings)  # last: they say that there is something to go on with
        return plans

    settled = world.share(_PLANS.dump_json(settle_plans()).decode() if world.is_first else None)
    plan, low_plan, locator_plan = _PLANS.validate_json(settled)
    for stage in (one for one in (low_plan, locator_plan, plan) if one is not None):
        for topic, reason in stage.reasons.items():
            logger.info("plan: %s: %s", topic, reason)
        observer.on_message(describe_plan(stage))
        if "budget" in stage.reasons and not resumes:
            observer.on_message(f"Budget: {stage.reasons['budget']}")
    return Experiment(
        settings=settings,
        task=task,
        dataset=dataset,
        splits=splits,
        plan=plan,
        low_plan=low_plan,
        locator_plan=locator_plan,
        source=source,
        encoder=encoder,
        budget=budget,
        device=device,
        precision=precision,
        world=world,
        observer=observer,
        signals=signals,
    )


def share_budget(budget: Budget, dataset: Dataset, settings: TrainingSettings, splits: Splits | None) -> Budget:
    """What each training of a call gets: all, or of a cross-validation a fold's share of the time.

    Raises:
        DatasetError: If the fold does not exist, or one case or patient alone is to be split.
    """
    if isinstance(settings.fold, int):
        split_fold(dataset, settings.fold, splits)  # a fold that does not exist shall not leave a plan behind
    return budget.take_share(1 / count_folds(dataset, splits)) if settings.fold == "cv" else budget


def plan_trainings(
    fingerprint: Fingerprint,
    task: Task,
    dataset: Dataset,
    budget: Budget,
    device: torch.device,
    settings: TrainingSettings,
    precision: Precision,
    *,
    source: Model | None,
) -> Plans:
    """The plans of one training, as `medunet plan` shows and `medunet train` takes them.

    Args:
        fingerprint: Of the dataset.
        task: Channels and labels.
        dataset: Says which cases were searched for all labels.
        budget: Of the training (`share_budget`).
        device: That trains.
        settings: What the user decided.
        precision: Of the network's arithmetic.
        source: Model to begin with; None begins anew.
    """
    has_partial_labels = any(case.annotated is not None for case in dataset.cases)
    plans = fit_plans(fingerprint, task, budget, device, settings, precision, has_partial_labels=has_partial_labels)
    return plans if source is None else plans._replace(main=adapt_plan(plans.main, task, source))


def _read_encoder(settings: TrainingSettings, folder: Path) -> EncoderWeights | None:
    """As for a source, a training that has a state took over all it needs."""
    if settings.encoder is None or (settings.fold != "cv" and has_state(folder)):
        return None
    return read_encoder_weights(settings.encoder)


def _fit_network_options(settings: TrainingSettings, encoder: EncoderWeights) -> TrainingSettings:
    """Settings whose network has an encoder of the shape of the weights, but for what the user says about it."""
    found = find_encoder_options(settings.network, encoder)
    options = tuple(f"{name}={json.dumps(value)}" for name, value in found.items())
    return replace(settings, network_options=(*options, *settings.network_options))


def count_cases(stage: str, num_cases: int, observer: Observer) -> Callable[[str], None]:
    """A callback that counts finished cases of a stage for the observer."""
    num_done = 0

    def count(case_id: str) -> None:
        nonlocal num_done
        num_done += 1
        observer.on_case(stage, case_id, num_done, num_cases)

    return count


def _find_dataset(settings: TrainingSettings, task: Task, observer: Observer) -> Dataset:
    if settings.data is not None:
        return read_dataset(settings.data, mapping=parse_mapping(settings.mapping))
    if task.phantom is None:
        msg = f"Task '{task.name}' has no embedded data; name a dataset folder with --data."
        raise InputError(msg)
    folder = get_runs_folder() / "phantoms" / f"{task.phantom}-{NUM_PHANTOMS}"
    observer.on_message(
        f"No --data given: using {NUM_PHANTOMS} SYNTHETIC phantoms ({task.phantom}) in {folder}. "
        "A model that learns from them is not for clinical use."
    )
    count = count_cases("making phantoms", NUM_PHANTOMS, observer)
    write_phantom_dataset(task.phantom, folder, num_cases=NUM_PHANTOMS, seed=0, on_case=count)
    return read_dataset(folder)


def _warn_about_mismatch(dataset: Dataset, task: Task) -> None:
    if dataset.modality is not None and dataset.modality != task.modality:
        logger.warning(
            "%s says that its images are %s; task '%s' is for %s. Is it the right task?",
            dataset.name,
            dataset.modality,
            task.name,
            task.modality,
        )


def _warn_about_absent_labels(fingerprint: Fingerprint, dataset: Dataset) -> None:
    absent = [name for name, share in fingerprint.label_frequencies.items() if share == 0]
    if absent:
        logger.warning(
            "No case of %s holds %s: the model cannot learn it. Is it the right task?", dataset.name, ", ".join(absent)
        )
