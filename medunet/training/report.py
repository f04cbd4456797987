"""The page about a finished training, with pictures of cases that the network had not seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medunet.postprocessing import apply_postprocessing
from medunet.reporting.case_pictures import CasePicture, draw_cases
from medunet.reporting.training_page import write_training_page
from medunet.tasks import Case, Task
from medunet.training.mask_pairs import has_mask_pair, read_mask_pair
from medunet.training.validation import Validation
from medunet.volume import Volume


def write_report(task: Task, folder: Path, validation: Validation | None, cases: Sequence[Case], masks: Path) -> None:
    """Write ``report.html`` into a finished model folder.

    Args:
        task: What was learnt.
        folder: The model folder.
        validation: Scores of the cases; None when there are none.
        cases: That were validated.
        masks: Where `medunet.training.validation.predict_masks` put their masks.
    """
    write_training_page(folder, pictures=[] if validation is None else _draw(task, validation, cases, masks))


def _draw(task: Task, validation: Validation, cases: Sequence[Case], masks: Path) -> list[CasePicture]:
    def get_mask(case: Case, _: Volume) -> Volume:
        return apply_postprocessing(read_mask_pair(masks, case.case_id).prediction, task, validation.postprocessing)

    drawable = [case for case in cases if has_mask_pair(masks, case.case_id)]
    return draw_cases(drawable, task, validation.mean_dice_per_case(), get_mask)
