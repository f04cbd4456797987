"""What larger steps and mirrored passes are worth, measured on validation cases when a network has been trained."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from medunet.device import is_out_of_memory
from medunet.errors import InputError
from medunet.evaluation import score_case
from medunet.inference import InferenceSettings, list_flips
from medunet.inference.settings import FAST_STEP
from medunet.inference.tiling import STEP_FRACTION
from medunet.models import MeasuredSpeed, SpeedRecord
from medunet.postprocessing import AgreementCounts
from medunet.tasks import Case, Task, read_case
from medunet.training.mask_pairs import MaskPair, get_mirrored_folder, write_mask_pair
from medunet.training.progress import Observer
from medunet.training.validation import NetworkSegmenter
from medunet.volume import Volume

logger = logging.getLogger(__name__)

_MAX_CASES = 20
_MIN_SECONDS = 60.0
SHARE = 0.05
"""Of the time of training that measuring may take."""
_FAST = InferenceSettings(speed="fast")
_BALANCED = InferenceSettings(flips="none")
_BEST = InferenceSettings(speed="best")
_LOCATED = InferenceSettings(flips="none", locate="always")


def measure_speeds(
    segmenter: NetworkSegmenter,
    cases: Sequence[Case],
    training_seconds: float,
    observer: Observer,
    *,
    masks: Path | None = None,
) -> SpeedRecord | None:
    """Segment validation cases in every way, as many as a twentieth of the training's time allows, but one at least.

    Args:
        segmenter: The trained network.
        cases: Of the validation; a case that cannot be read or segmented is passed over.
        training_seconds: That training took.
        observer: Told of every case.
        masks: Folder in which masks of all mirrored passes stay, with how far these agree
            (`medunet.training.mask_pairs.get_mirrored_folder`); None keeps none.

    Returns:
        None where no case holds a label that can be scored.

    Raises:
        OutputError: If the masks cannot be put aside.
    """
    num_flips = len(list_flips(segmenter.plan))
    ways = [_FAST, _BALANCED]
    ways += [_BEST] if num_flips > 1 else []
    ways += [_LOCATED] if segmenter.locator is not None else []
    measured: dict[InferenceSettings, list[tuple[float, float]]] = {way: [] for way in ways}
    chosen = choose_cases(cases)
    began, limit = time.monotonic(), max(_MIN_SECONDS, SHARE * training_seconds)
    for number, case in enumerate(chosen, start=1):
        try:
            rows = [
                _measure_mirrored(segmenter, case, masks)
                if way is _BEST and masks is not None
                else measure_case(partial(segmenter.segment, settings=way), case, segmenter.task)
                for way in ways
            ]
        except Exception as error:
            if not (isinstance(error, InputError) or is_out_of_memory(error)):
                raise
            continue  # validation will say what is wrong with it
        for row, found in zip(measured.values(), rows, strict=True):
            if found is not None:
                row.append(found)
        observer.on_case("measuring speeds", case.case_id, number, len(chosen))
        if time.monotonic() - began > limit:
            break
    if not measured[_FAST]:
        return None
    record = SpeedRecord.of(
        len(measured[_FAST]),
        summarize_speed(measured[_FAST], FAST_STEP, 1),
        summarize_speed(measured[_BALANCED], STEP_FRACTION, 1),
        summarize_speed(measured[_BEST], STEP_FRACTION, num_flips) if _BEST in measured else None,
        summarize_speed(measured[_LOCATED], STEP_FRACTION, 1) if _LOCATED in measured else None,
    )
    observer.on_message(f"Speeds: {record.describe()}")
    return record


def choose_cases(cases: Sequence[Case]) -> list[Case]:
    """Those that are measured, spread over all, so that two measurements of a model are of the same cases."""
    return [cases[number] for number in np.linspace(0, len(cases) - 1, min(_MAX_CASES, len(cases))).round().astype(int)]


def _measure_mirrored(segmenter: NetworkSegmenter, case: Case, masks: Path) -> tuple[float, float] | None:
    """`measure_case` with all mirrored passes, whose mask and agreement are put aside: they predict the Dice later."""
    counts: list[AgreementCounts | None] = []

    def segment(image: Volume) -> Volume:
        labels, agreement = segmenter.segment_with_agreement(image, _BEST)
        counts.append(agreement)
        return labels

    def keep(reference: Volume, mask: Volume) -> None:
        pair = MaskPair(case_id=case.case_id, reference=reference, prediction=mask, agreement=counts[0])
        write_mask_pair(get_mirrored_folder(masks), pair)

    return measure_case(segment, case, segmenter.task, on_mask=keep)


def measure_case(
    segment: Callable[[Volume], Volume],
    case: Case,
    task: Task,
    *,
    on_mask: Callable[[Volume, Volume], None] | None = None,
) -> tuple[float, float] | None:
    """Mean Dice over labels and seconds of one case; None where there is nothing to score.

    Args:
        segment: From the image to the mask, without post-processing; what is timed.
        case: Read from its files.
        task: Channels and labels.
        on_mask: Called with the reference and the mask.

    Raises:
        InputError: If the case cannot be read or segmented.
    """
    image, reference = read_case(case, task)
    began = time.perf_counter()
    mask = segment(image)
    seconds = time.perf_counter() - began
    if on_mask is not None:
        on_mask(reference, mask)
    scores = score_case(reference, mask, task.labels, case_id=case.case_id, ignore_value=task.ignore)
    dices = [
        score.dice
        for score in scores
        if score.dice is not None and (case.annotated is None or score.label in case.annotated)
    ]
    return (float(np.mean(dices)), seconds) if dices else None


def summarize_speed(row: Sequence[tuple[float, float]], step_fraction: float, num_flips: int) -> MeasuredSpeed:
    """The means over cases of what `measure_case` gave, one or more."""
    dices, seconds = zip(*row, strict=True)
    return MeasuredSpeed(
        step_fraction=step_fraction,
        num_flips=num_flips,
        dice=round(float(np.mean(dices)), 6),
        seconds=round(float(np.mean(seconds)), 4),
    )
