"""nnU-Net's own trainer, quiet, with its batches and its predictor at hand.

Imported only where nnunetv2 is; call within `peers.environment.nnunet_environment`.
"""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from medunet.evaluation import Evaluation, build_evaluation, score_case
from medunet.io import read_label_map
from medunet.tasks import Case, Task, list_class_values, read_case
from peers.environment import nnunet_workers, silence
from peers.nnunet_data import NnunetDataset
from peers.plans import CONFIGURATION

_FILLING_SECONDS = 60.0


class QuietTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's trainer as it is, without what it prints and logs."""

    def print_to_log_file(self, *args: Any, **kwargs: Any) -> None:
        """Say nothing."""


def build_trainer(dataset: NnunetDataset, device: torch.device, *, seed: int = 0) -> QuietTrainer:
    """A trainer of fold 0 whose network has fresh weights; networks of one seed start alike."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002, what nnU-Net draws from
    torch.manual_seed(seed)
    plans = copy.deepcopy(dataset.plans) | {"continue_training": False}
    with silence():
        trainer = QuietTrainer(plans, CONFIGURATION, 0, copy.deepcopy(dataset.description), device)
        trainer.initialize()
    return trainer


@contextlib.contextmanager
def open_batches(trainer: QuietTrainer, *, workers: int | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    """Its training batches, with all queues full at first; ends its processes.

    Args:
        trainer: From `build_trainer`.
        workers: Processes that augment, see `nnunet_workers`.
    """
    with silence(), nnunet_workers(workers):
        loaders = trainer.get_dataloaders()
    try:
        if (queue := getattr(loaders[0], "results_loop_queue", None)) is not None:
            end = time.perf_counter() + _FILLING_SECONDS
            while not queue.full() and time.perf_counter() < end:
                time.sleep(0.05)
        trainer.network.train()
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        yield loaders[0]
    finally:
        for loader in loaders:
            if hasattr(loader, "_finish"):
                loader._finish()


def train_nnunet(
    trainer: QuietTrainer,
    compute_progress: Callable[[int, float], float],
    *,
    looks: Sequence[float] = (),
    look: Callable[[int, float], None] = lambda iteration, seconds: None,
) -> tuple[int, float]:
    """Its training iterations until the progress is 1; the poly learning rate falls over exactly that.

    What else nnU-Net does in an epoch (50 validation iterations per 250, a picture, checkpoints) is left out.

    Args:
        trainer: From `build_trainer`.
        compute_progress: From finished iterations and seconds to the share of the budget that is used.
        looks: Rising shares of the budget at which ``look`` is called with iterations and seconds; not counted as time.
        look: May change the network's mode, but not its weights.

    Returns:
        Iterations and seconds.
    """
    waiting = list(looks)
    iteration, seconds = 0, 0.0
    with open_batches(trainer) as batches:
        while (progress := compute_progress(iteration, seconds)) < 1:
            if waiting and progress >= waiting[0]:
                waiting.pop(0)
                look(iteration, seconds)
                trainer.network.train()
                trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
            began = time.perf_counter()
            trainer.lr_scheduler.step(progress * trainer.num_epochs)
            trainer.train_step(next(batches))  # copies the loss to the host, so a GPU has finished
            seconds += time.perf_counter() - began
            iteration += 1
    return iteration, seconds


def validate_nnunet(trainer: QuietTrainer, cases: Sequence[Case], task: Task, folder: Path) -> Evaluation:
    """Masks by nnU-Net's predictor (mirrored eight times, as it does), scored on the cases' own grids by medunet.

    Args:
        trainer: Whose network predicts.
        cases: Preprocessed by nnU-Net.
        task: Of the cases.
        folder: Gets the masks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    managers = trainer.plans_manager, trainer.configuration_manager
    mirror_axes = trainer.inference_allowed_mirroring_axes
    trainer.set_deep_supervision_enabled(False)
    with silence():
        predictor = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
        predictor.manual_initialization(trainer.network, *managers, None, trainer.dataset_json, "", mirror_axes)
    values = np.array(list_class_values(task))
    stored = trainer.dataset_class(trainer.preprocessed_dataset_folder, [case.case_id for case in cases])
    scores = []
    for case in cases:
        image, _, _, properties = stored.load_case(case.case_id)
        with silence():
            logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(image[:])).cpu()
            export_prediction_from_logits(
                logits,
                properties,
                *managers[::-1],
                trainer.dataset_json,
                str(folder / case.case_id),
                num_threads_torch=torch.get_num_threads(),
            )
        codes = read_label_map(folder / f"{case.case_id}.nii.gz")
        _, reference = read_case(case, task)
        mask = codes.with_array(values[codes.array])
        scores += score_case(reference, mask, task.labels, case_id=case.case_id, ignore_value=task.ignore)
    return build_evaluation(scores)
