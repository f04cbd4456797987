"""The page about a finished training, with pictures of cases that the network had not seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medunet.postprocessing import apply_postprocessing
from medunet.reporting import draw_overlay
from medunet.reporting.case_pictures import CasePicture, draw_cases
from medunet.reporting.training_page import write_training_page
from medunet.tasks import Case, Task, read_case
from medunet.training.mask_pairs import has_mask_pair, read_mask_pair
from medunet.training.validation import Validation
from medunet.volume import Volume

MIDDLE_CASE = "validation.png"


def write_report(task: Task, folder: Path, validation: Validation | None, cases: Sequence[Case], masks: Path) -> None:
    """Write ``report.html`` into a finished model folder, and ``validation.png`` of the middle case.

    Args:
        task: What was learnt.
        folder: The model folder.
        validation: Scores of the cases; None when there are none.
        cases: That were validated.
        masks: Where `medunet.training.validation.predict_masks` put their masks.
    """
    write_training_page(folder, pictures=[] if validation is None else _draw(task, validation, cases, masks))
    if validation is not None:
        _draw_middle_case(task, validation, cases, masks, folder / MIDDLE_CASE)


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
    )


def _draw(task: Task, validation: Validation, cases: Sequence[Case], masks: Path) -> list[CasePicture]:
    def get_mask(case: Case, _: Volume) -> Volume:
        return apply_postprocessing(read_mask_pair(masks, case.case_id).prediction, task, validation.postprocessing)

    drawable = [case for case in cases if has_mask_pair(masks, case.case_id)]
    return draw_cases(drawable, task, validation.mean_dice_per_case(), get_mask)
