"""A cascade: networks at low resolution say where things are, one at full resolution draws their borders.

From nnU-Net (Isensee 2021, doi:10.1038/s41592-020-01008-z). The second stage must learn from mistakes like those that it
will meet, so no case comes to it with labels of a network that was trained on this case. nnU-Net takes the networks of
five folds for that; here two, each of which learns from half of the patients, leave most of the time to the second stage:

```text
training cases   half A ----> network half_0 --segments--> half B
                 half B ----> network half_1 --segments--> half A
                                                             |
                 A and B, with these labels as channels -----+----> the network of the second stage

other cases      half_0 and half_1 together ---------------------> the network of the second stage
```

```text
low/half_0/ low/half_1/   model folders of the first stage
low/                      both as one model
state/previous/           labels of the cases of the second stage (medunet.training.previous_stage)
```
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medunet.errors import DatasetError
from medunet.models import write_description
from medunet.models.names import LOW, METRICS, STATE_FOLDER
from medunet.tasks import Case, Splits, split_fold
from medunet.training.cross_validation import MASKS_FOLDER, check_has_same_cases, train_every_fold
from medunet.training.experiment import Experiment
from medunet.training.fit_plan import FULL_SHARE, LOW_SHARE
from medunet.training.fold import TrainingResult, train_fold
from medunet.training.previous_stage import PreviousStage
from medunet.training.state import has_state

PREVIOUS_FOLDER = "previous"
_HALF = "half"
_HALVES_SEED = 12345


def train_cascade(
    experiment: Experiment, folder: Path, fold: int | None, *, resumes: bool, masks: Path | None = None
) -> TrainingResult:
    """Train both stages of a cascade on the training cases of a fold, and validate it.

    Each of the two networks of the first stage gets a sixth of a budget in time, the second stage two thirds;
    iterations are those of each. What was finished before is kept.

    Args:
        experiment: With the plans of both stages.
        folder: The run folder, which becomes the model folder; holds plan and task.
        fold: That validates; None trains on all cases.
        resumes: Whether the second stage may go on from a state in the folder.
        masks: Where masks of the validation cases stay; None keeps none.

    Returns:
        What the second stage leaves behind.

    Raises:
        DatasetError: If all training cases are of one patient.
        ModelError: If the first stage was finished with other cases than it would have now.
    """
    training_cases, _ = split_fold(experiment.dataset, fold, experiment.splits)
    halves = split_halves(training_cases)
    low, low_masks = folder / LOW, folder / STATE_FOLDER / LOW / MASKS_FOLDER
    if experiment.world.decide((low / METRICS).is_file()):
        for n, (seen, unseen) in enumerate(halves):
            check_has_same_cases(low / f"{_HALF}_{n}", seen, unseen)
    else:
        _train_low_resolution(experiment, low, training_cases, halves, low_masks)
    second = replace(experiment, budget=experiment.budget.take_share(FULL_SHARE))
    previous = PreviousStage(
        second,
        low,
        store=folder / STATE_FOLDER / PREVIOUS_FOLDER,
        unseen={case_id: f"{_HALF}_{n}" for n, (_, unseen) in enumerate(halves) for case_id in unseen},
        masks=low_masks,
    )
    experiment.observer.on_message("Cascade, second stage: full resolution")
    result = train_fold(second, folder, fold, resumes=resumes and has_state(folder), masks=masks, previous=previous)
    if experiment.world.is_first:
        shutil.rmtree(low_masks, ignore_errors=True)
    return result


def split_halves(cases: Sequence[Case]) -> Splits:
    """Two halves of the patients, as folds: each half trains once, while the other one validates.

    The same cases give the same halves; with an odd number of patients the first half has one more.

    Args:
        cases: Of two patients or more; cases without a patient are patients of their own.

    Raises:
        DatasetError: If they are of one patient.
    """
    patients = {case.case_id: case.case_id if case.group is None else case.group for case in cases}
    groups = np.random.default_rng(_HALVES_SEED).permutation(sorted(set(patients.values())))
    if len(groups) < 2:
        msg = (
            f"A cascade trains on two halves of the patients, but the {len(cases)} training case(s) are of one. Add "
            "cases, or use the configuration 3d."
        )
        raise DatasetError(msg)
    first = set(groups[: (len(groups) + 1) // 2].tolist())
    half_a = frozenset(case_id for case_id, patient in patients.items() if patient in first)
    half_b = frozenset(patients) - half_a
    return (half_a, half_b), (half_b, half_a)


def _train_low_resolution(
    experiment: Experiment, folder: Path, cases: tuple[Case, ...], halves: Splits, masks: Path
) -> None:
    """Two networks, which are one model; each leaves masks of the cases that it has not seen."""
    assert experiment.low_plan is not None
    experiment.observer.on_message(
        f"Cascade, first stage: low resolution, two networks, each of which learns from half of {len(cases)} cases"
    )
    first = replace(
        experiment,
        settings=replace(experiment.settings, configuration="3d-low", from_model=None),
        dataset=replace(experiment.dataset, cases=cases),
        splits=halves,
        plan=experiment.low_plan,
        low_plan=None,
        source=None,
        budget=experiment.budget.take_share(LOW_SHARE),
    )
    if experiment.world.is_first:
        write_description(folder, first.task, first.plan)
    train_every_fold(first, folder, name=_HALF, masks=masks)
