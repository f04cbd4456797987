"""The small network that finds where the structures are (`medunet.planning.locator`), trained before the main one.

```text
locate/           its model folder, within that of the main network; its own validation cases are those of the main one
```
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medunet.inference.locating import Locator
from medunet.inference.settings import REPRODUCIBLE
from medunet.models import write_description
from medunet.models.folder import read_single_model
from medunet.models.names import LOCATE, METRICS
from medunet.planning import build_locator_task
from medunet.training.experiment import Experiment
from medunet.training.fit_plan import LOCATOR_SHARE
from medunet.training.fold import TrainingResult, train_fold
from medunet.training.state import has_state


def train_located(
    experiment: Experiment, folder: Path, fold: int | None, *, resumes: bool, masks: Path | None = None
) -> TrainingResult:
    """Train the small network on the training cases of a fold, then the main one.

    The small one gets a tenth of a budget in time; iterations are those of each. What was finished before is kept.

    Args:
        experiment: With the plans of both.
        folder: The run folder, which becomes the model folder; holds plan and task.
        fold: That validates; None trains on all cases.
        resumes: Whether the main network may go on from a state in the folder.
        masks: Where masks of the validation cases stay; None keeps none.

    Returns:
        What the main network leaves behind.
    """
    small = folder / LOCATE
    if not experiment.world.decide((small / METRICS).is_file()):
        _train_locator(experiment, small, fold)
    main = replace(experiment, locator_plan=None, budget=experiment.budget.take_share(1 - LOCATOR_SHARE))
    experiment.observer.on_message("The main network")
    locator = Locator(
        read_single_model(small),
        experiment.device,
        experiment.precision,
        REPRODUCIBLE,
    )
    return train_fold(main, folder, fold, resumes=resumes and has_state(folder), masks=masks, locator=locator)


def _train_locator(experiment: Experiment, folder: Path, fold: int | None) -> None:
    assert experiment.locator_plan is not None
    experiment.observer.on_message("A small network first, which finds where the structures are")
    first = replace(
        experiment,
        settings=replace(
            experiment.settings, from_model=None, loss="auto", network="auto", network_options=(), encoder=None
        ),
        task=build_locator_task(experiment.task),
        plan=experiment.locator_plan,
        locator_plan=None,
        source=None,
        encoder=None,
        budget=experiment.budget.take_share(LOCATOR_SHARE),
    )
    if experiment.world.is_first and not has_state(folder):
        write_description(folder, first.task, first.plan)
    train_fold(first, folder, fold, resumes=has_state(folder))
