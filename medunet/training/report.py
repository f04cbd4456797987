"""The page about a finished training, with pictures of cases that the network had not seen."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medunet.augmentation import apply_intensity
from medunet.errors import MedunetError
from medunet.postprocessing import apply_postprocessing
from medunet.reporting import draw_overlay
from medunet.reporting.case_pictures import CasePicture, draw_cases
from medunet.reporting.patch_pictures import PatchPicture, draw_patch
from medunet.reporting.training_page import write_training_page
from medunet.reporting.window import get_task_window
from medunet.tasks import Case, Task, compute_membership, read_case
from medunet.training.mask_pairs import has_mask_pair, read_mask_pair
from medunet.training.sampling import PatchSampler
from medunet.training.validation import Validation
from medunet.volume import Volume

logger = logging.getLogger(__name__)

MIDDLE_CASE = "validation.png"
NUM_PATCHES = 8


def write_report(
    task: Task,
    folder: Path,
    validation: Validation | None,
    cases: Sequence[Case],
    masks: Path,
    patches: Sequence[PatchPicture] = (),
) -> None:
    """Write ``report.html`` into a finished model folder, and ``validation.png`` of the middle case.

    Args:
        task: What was learnt.
        folder: The model folder.
        validation: Scores of the cases; None when there are none.
        cases: That were validated.
        masks: Where `medunet.training.validation.predict_masks` put their masks.
        patches: From `draw_patches`.
    """
    pictures = [] if validation is None else _draw(task, validation, cases, masks)
    write_training_page(folder, pictures=pictures, patches=patches)
    if validation is not None:
        _draw_middle_case(task, validation, cases, masks, folder / MIDDLE_CASE)


def draw_patches(sampler: PatchSampler, task: Task, last_iteration: int) -> list[PatchPicture]:
    """Some patches of the last iterations, as the network saw them: they are drawn anew, which gives the same ones.

    Args:
        sampler: That the training drew from.
        task: Names the labels.
        last_iteration: Number of the last batch that was learnt from; -1 where there was none.

    Returns:
        None of them where a patch can no longer be made, with a warning.
    """
    labels = _list_label_codes(task)
    pictures: list[PatchPicture] = []
    for iteration in range(last_iteration, -1, -1):
        if len(pictures) >= NUM_PATCHES:
            break
        try:
            batch = sampler.draw(iteration)
        except MedunetError as error:
            logger.warning("The report shows no patches: %s", error)
            return []
        images = batch.image.cpu()
        if batch.changes:
            images = apply_intensity(images, batch.changes)
        for case_id, image, codes in zip(batch.case_ids, images, batch.codes.cpu(), strict=True):
            jpeg = draw_patch(image[0].numpy(), codes.numpy(), labels, sampler.spacing)
            pictures.append(PatchPicture(case_id=case_id, jpeg=jpeg))
    return pictures[:NUM_PATCHES]


def _list_label_codes(task: Task) -> dict[str, list[int]]:
    membership = compute_membership(task)  # (outputs, codes)
    rows = membership if task.has_regions else membership[1:]  # without background
    return {name: np.flatnonzero(row).tolist() for name, row in zip(task.labels, rows, strict=True)}


def _draw_middle_case(task: Task, validation: Validation, cases: Sequence[Case], masks: Path, path: Path) -> None:
    """The case of median Dice, with both contours, so that the first picture is neither luck nor accident."""
    dices = {name: dice for name, dice in validation.mean_dice_per_case().items() if dice is not None}
    ranked = sorted(dices, key=lambda name: dices[name]) or [case.case_id for case in cases]
    drawable = [case_id for case_id in ranked if has_mask_pair(masks, case_id)]
    if not drawable:
        return
    chosen = drawable[len(drawable) // 2]
    pair = read_mask_pair(masks, chosen)
    image, _ = read_case(next(case for case in cases if case.case_id == chosen), task)
    draw_overlay(
        image,
        apply_postprocessing(pair.prediction, task, validation.postprocessing),
        pair.reference,
        task.labels,
        path,
        title=f"{chosen}, mean Dice {dices[chosen]:.3f}" if chosen in dices else chosen,
        modality=task.modality,
        window=get_task_window(task),
    )


def _draw(task: Task, validation: Validation, cases: Sequence[Case], masks: Path) -> list[CasePicture]:
    def get_mask(case: Case, _: Volume) -> Volume:
        return apply_postprocessing(read_mask_pair(masks, case.case_id).prediction, task, validation.postprocessing)

    drawable = [case for case in cases if has_mask_pair(masks, case.case_id)]
    return draw_cases(drawable, task, validation.mean_dice_per_case(), get_mask)
