"""How good the network is: quickly on preprocessed cases while training, and on the cases' own grids at the end.

At the end every validation case is segmented once, from its files, and its masks are put aside on the disk. From them
the post-processing is chosen; then the masks are scored as a user would get them. One case is in memory at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medunet.device import Precision, is_out_of_memory
from medunet.errors import InputError
from medunet.evaluation import CaseFailure, Evaluation, LabelScore, build_evaluation, score_case
from medunet.inference import InferenceSettings, build_tile_networks, compute_logits, paint_labels
from medunet.inference.at_once import AtOnce, Experience
from medunet.inference.backends import TorchBackend
from medunet.inference.locating import Locator, Region, segment_located
from medunet.inference.members import MembersWatch
from medunet.inference.predictor import OnSlab, choose_flips, get_largest_portions
from medunet.inference.surroundings import let_see_surroundings
from medunet.models import SpeedRecord
from medunet.planning import Plan
from medunet.postprocessing import (
    AgreementCounts,
    DiceCalibration,
    Postprocessing,
    apply_postprocessing,
    choose_postprocessing,
    choose_steps,
    compute_agreement,
    fit_dice_calibration,
)
from medunet.preprocessing import StoredCase, preprocess_image
from medunet.tasks import IGNORE_CODE, Case, Task, compute_membership, read_case
from medunet.training.mask_pairs import (
    MaskPair,
    get_mirrored_folder,
    has_mask_pair,
    read_mask_pair,
    write_mask_pair,
)
from medunet.training.previous_labels import build_channel_table, to_channels
from medunet.training.progress import Observer
from medunet.volume import Volume
from medunet.warned import strip_folders

logger = logging.getLogger(__name__)

Segment = Callable[[Volume], tuple[Volume, AgreementCounts | None]]
"""From a scan to a mask on its grid, without post-processing, and how far its members agree."""
AddChannels = Callable[[Volume, Volume], Volume]
"""From a preprocessed scan and the scan itself to the preprocessed one with more channels."""


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
        box = (slice(0, i), slice(0, j), slice(0, k))
        image, codes = case.read_box(box, torch.device("cpu"))
        if case.has_previous:
            previous = case.read_previous_box(box, torch.device("cpu"))
            image = torch.cat([image, to_channels(previous[None], build_channel_table(task))[0]])
        volume = Volume(image.numpy(), np.eye(4))
        logits = compute_logits(network, volume, plan, device, precision).cpu()
        predicted = (
            logits > 0 if task.has_regions else logits.argmax(0) == torch.arange(len(logits))[:, None, None, None]
        )
        is_valid = codes != IGNORE_CODE
        for output in range(0 if task.has_regions else 1, len(membership)):
            if case.annotated is not None and not case.annotated[output]:
                continue
            reference = torch.from_numpy(membership[output])[codes.long().masked_fill(~is_valid, 0)] & is_valid
            prediction = predicted[output] & is_valid
            if reference.any():
                dices.append(2 * (reference & prediction).sum().item() / (reference.sum() + prediction.sum()).item())
    return float(np.mean(dices)) if dices else None


@dataclass(frozen=True, kw_only=True)
class Validation(Evaluation):
    """Scores of masks as a user gets them, and what stood before.

    Attributes:
        raw: Scores of the same masks without post-processing.
        postprocessing: That was chosen, and why.
    """

    raw: Evaluation
    postprocessing: Postprocessing


@dataclass(frozen=True, kw_only=True)
class NetworkSegmenter:
    """A network that has just been trained, as `medunet.inference` would use it.

    Attributes:
        network: On ``device``, in evaluation mode.
        task: Labels.
        plan: That the network was trained with.
        device: That computes.
        precision: Of the network's arithmetic.
        add_channels: What the network sees beside the image; None adds nothing.
        locator: What finds the box in which the network has to look; None looks everywhere.
    """

    network: torch.nn.Module
    task: Task
    plan: Plan
    device: torch.device
    precision: Precision
    add_channels: AddChannels | None = None
    locator: Locator | None = None
    _experience: Experience = field(default_factory=Experience, init=False, repr=False, compare=False)

    def segment(
        self,
        image: Volume,
        settings: InferenceSettings | None = None,
        speed: SpeedRecord | None = None,
        *,
        on_slab: OnSlab | None = None,
    ) -> Volume:
        """From a scan to a mask on its grid, without post-processing.

        Args:
            image: ``(C, I, J, K)`` with the channels of the task.
            settings: How much is computed.
            speed: What was measured before; decides about mirrored passes where the settings leave it open.
            on_slab: Called with finished logits; then all of the scan is looked at.
        """
        if on_slab is not None:
            wanted = settings or InferenceSettings()
            return self._segment_region(image, None, wanted, speed, on_slab=on_slab, counts_agreement=False)[0]
        return self.segment_with_agreement(image, settings, speed, counts_agreement=False)[0]

    def segment_with_agreement(
        self,
        image: Volume,
        settings: InferenceSettings | None = None,
        speed: SpeedRecord | None = None,
        *,
        counts_agreement: bool = True,
    ) -> tuple[Volume, AgreementCounts | None]:
        """`segment`, and how far the mirrored passes agree; None where there are none, or it is not counted."""
        settings = settings or InferenceSettings()
        locator = self.locator if settings.resolve_locate(speed) else None
        return segment_located(
            None if locator is None else functools.partial(locator.find_region, image, self.plan),
            lambda region: self._segment_region(image, region, settings, speed, counts_agreement=counts_agreement),
        )

    def _segment_region(
        self,
        image: Volume,
        region: Region | None,
        settings: InferenceSettings,
        speed: SpeedRecord | None,
        *,
        counts_agreement: bool,
        on_slab: OnSlab | None = None,
    ) -> tuple[Volume, AgreementCounts | None]:
        prepared = preprocess_image(image, self.plan, region=region)
        if self.add_channels is not None:
            prepared = self.add_channels(prepared, image)
        networks = [TorchBackend(let_see_surroundings(self.network, self.plan), self.device, self.precision)]
        num_flips = len(choose_flips(self.plan, settings, speed))
        step = settings.resolve_step()
        watch = MembersWatch(self.task, 1, num_flips, step, self.device) if counts_agreement else None
        on_members = None if watch is None else watch.count
        at_once = AtOnce(self._experience.limit(get_largest_portions(self.plan, settings)), self._experience)
        tiles = build_tile_networks(
            networks, self.plan, self.task, settings, speed, at_once=at_once, on_members=on_members
        )
        labels = paint_labels(
            tiles, prepared, image, self.plan, self.task, self.device, settings, at_once=at_once, on_slab=on_slab
        )
        return labels, None if watch is None else watch.read()


def validate_cases(
    segmenter: NetworkSegmenter,
    cases: Sequence[Case],
    observer: Observer,
    *,
    masks: Path | None = None,
    speed: SpeedRecord | None = None,
) -> Validation:
    """Segment every case from its files, choose the post-processing, and score the masks on the cases' own grids.

    Args:
        segmenter: The trained network.
        cases: A case that cannot be read or scored becomes a failure; the others are scored.
        observer: Told of every case.
        masks: Folder where the masks stay, see `predict_masks`; None keeps none.
        speed: What was measured before (`medunet.training.speed`).

    Raises:
        OutputError: If the masks cannot be put aside.
    """

    def segment(image: Volume) -> tuple[Volume, AgreementCounts | None]:
        return segmenter.segment_with_agreement(image, speed=speed)

    task = segmenter.task
    if masks is not None:
        return score_masks(cases, task, masks, predict_masks(segment, cases, task, masks, observer))
    with tempfile.TemporaryDirectory(prefix="medunet-validation-") as folder:
        return score_masks(cases, task, Path(folder), predict_masks(segment, cases, task, Path(folder), observer))


def predict_masks(
    segment: Segment, cases: Sequence[Case], task: Task, folder: Path, observer: Observer
) -> list[CaseFailure]:
    """Segment cases from their files, and put reference and prediction of each aside in a folder.

    Args:
        segment: Makes the mask of a scan.
        cases: To segment.
        task: Channels and labels.
        folder: Gets one file per case, see `medunet.training.mask_pairs`; the folds of a cross-validation share one.
        observer: Told of every case.

    Returns:
        The cases that could not be segmented, each with a warning.

    Raises:
        OutputError: If the folder cannot be written.
    """
    failures = []
    for number, case in enumerate(cases, start=1):
        try:
            image, reference = read_case(case, task)
            prediction, agreement = segment(image)
            pair = MaskPair(case_id=case.case_id, reference=reference, prediction=prediction, agreement=agreement)
        except Exception as error:
            if not (isinstance(error, InputError) or is_out_of_memory(error)):
                raise
            failures.append(_report_failure(case, error))
        else:
            write_mask_pair(folder, pair)
        observer.on_case("validating", case.case_id, number, len(cases))
    return failures


def score_masks(cases: Sequence[Case], task: Task, folder: Path, failures: Iterable[CaseFailure] = ()) -> Validation:
    """Choose the post-processing on masks that `predict_masks` put aside, and score them with it.

    Args:
        cases: Those without masks in the folder are passed over.
        task: Labels.
        folder: Of `predict_masks`; that of a cross-validation holds the cases of all folds, which are judged together.
        failures: Known before; they go into the result, and these cases are not tried again.
    """
    scorer = _Scorer(task, folder)
    failures = list(failures)
    failed = {failure.case_id for failure in failures}
    failures += scorer.score_raw(
        [case for case in cases if case.case_id not in failed and has_mask_pair(folder, case.case_id)]
    )
    raw = scorer.score(Postprocessing())
    # Of objects the largest is no better than the others.
    num_judges = 0 if task.has_instances else scorer.num_cases
    postprocessing = choose_postprocessing(
        task, num_judges, lambda candidate: _compute_mean_dices(scorer.score(candidate), task)
    )
    if not task.has_instances:
        postprocessing = choose_steps(
            task, postprocessing, lambda candidate: _list_case_dices(scorer.score(candidate), task)
        )
    evaluation = build_evaluation(scorer.score(postprocessing), failures)
    return Validation(
        scores=evaluation.scores,
        summaries=evaluation.summaries,
        failures=evaluation.failures,
        unmatched=[],
        raw=build_evaluation(raw),
        postprocessing=postprocessing,
    )


class _Scorer:
    """Scores the masks of a folder with one post-processing after the other, one case in memory at a time."""

    def __init__(self, task: Task, folder: Path) -> None:
        self._task = task
        self._folder = folder
        self._raw: dict[Case, list[LabelScore]] = {}

    @property
    def num_cases(self) -> int:
        """Cases that can be scored."""
        return len(self._raw)

    def score_raw(self, cases: Iterable[Case]) -> list[CaseFailure]:
        """Score masks as the network made them; cases that cannot be scored are left out from then on."""
        failures = []
        for case in cases:
            try:
                pair = read_mask_pair(self._folder, case.case_id)
                self._raw[case] = self._score_case(case, pair.reference, pair.prediction)
            except (InputError, MemoryError) as error:
                failures.append(_report_failure(case, error))
        return failures

    def score(self, postprocessing: Postprocessing) -> list[LabelScore]:
        """Scores of all cases with a post-processing."""
        if postprocessing.does_nothing:
            return [score for scores in self._raw.values() for score in scores]
        scores: list[LabelScore] = []
        for case, raw in self._raw.items():
            pair = read_mask_pair(self._folder, case.case_id)
            mask = apply_postprocessing(pair.prediction, self._task, postprocessing)
            is_same = mask is pair.prediction  # nothing had to be removed, as in most cases
            scores += raw if is_same else self._score_case(case, pair.reference, mask)
        return scores

    def _score_case(self, case: Case, reference: Volume, mask: Volume) -> list[LabelScore]:
        task = self._task
        scores = score_case(reference, mask, task.labels, case_id=case.case_id, ignore_value=task.ignore)
        if case.annotated is None:
            return scores
        # What was not looked for is no background: a mask of it is neither right nor wrong.
        return [score for score in scores if score.label in case.annotated]


def _compute_mean_dices(scores: Iterable[LabelScore], task: Task) -> dict[str, float | None]:
    dices = list_dices(scores)
    return {name: float(np.mean(dices[name])) if name in dices else None for name in task.labels}


def _list_case_dices(scores: Iterable[LabelScore], task: Task) -> dict[str, dict[str, float | None]]:
    dices: dict[str, dict[str, float | None]] = {name: {} for name in task.labels}
    for score in scores:
        dices[score.label][score.case_id] = score.dice
    return dices


def list_dices(scores: Iterable[LabelScore]) -> dict[str, list[float]]:
    """Label -> Dice of every case where there was something to score; labels of which there is none are left out."""
    dices: dict[str, list[float]] = {}
    for score in scores:
        if score.dice is not None:
            dices.setdefault(score.label, []).append(score.dice)
    return dices


def describe_failure(case: Case, error: BaseException) -> CaseFailure:
    """A failure without folders: it goes into the model folder, which travels, and folders may be named after patients."""
    (reason,) = strip_folders([str(error) or type(error).__name__], [*case.images, case.labels])
    return CaseFailure(case_id=case.case_id, reason=reason)


def _report_failure(case: Case, error: BaseException) -> CaseFailure:
    failure = describe_failure(case, error)
    logger.warning("Validation case '%s' could not be scored: %s", failure.case_id, failure.reason)
    return failure


def summarize_validation(evaluation: Evaluation | None) -> dict[str, Any]:
    """The content of ``metrics.json``; says so when there was no validation."""
    if evaluation is None:
        return {"num_cases": 0, "mean_dice": None, "labels": {}, "cases": [], "failed": []}
    metrics: dict[str, Any] = {
        "num_cases": evaluation.num_scored_cases,
        "mean_dice": evaluation.mean_dice,
        "labels": _summarize_labels(evaluation),
        "cases": [dataclasses.asdict(score) for score in evaluation.scores],
        "failed": [dataclasses.asdict(failure) for failure in evaluation.failures],
    }
    if isinstance(evaluation, Validation) and not evaluation.postprocessing.does_nothing:
        metrics["without_postprocessing"] = {
            "mean_dice": evaluation.raw.mean_dice,
            "labels": _summarize_labels(evaluation.raw),
            "cases": [dataclasses.asdict(score) for score in evaluation.raw.scores],
        }
    return metrics


def _summarize_labels(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    return {
        summary.label: {key: value for key, value in dataclasses.asdict(summary).items() if key != "label"}
        for summary in evaluation.summaries
    }


def fit_calibrations(validation: Validation, task: Task, masks: Path) -> dict[str, DiceCalibration]:
    """What the agreement of mirrored passes says about the Dice of each label.

    Where the masks of validation were made without mirrored passes, because they gained too little, those of
    `medunet.training.speed` stand in, which are of some of the cases: whoever asks for mirrored passes later gets a prediction,
    too.

    Args:
        validation: Scores of the masks, after post-processing.
        task: Labels.
        masks: Where `predict_masks` and `measure_speeds` left them with their agreement.

    Returns:
        Label -> calibration; labels of which too few cases tell anything are left out.
    """
    scored: dict[str, dict[str, float | None]] = {}
    for score in validation.scores:
        scored.setdefault(score.case_id, {})[score.label] = score.dice
    mirrored = {
        case_id: found
        for case_id, dices in scored.items()
        if (found := _read_mirrored(case_id, dices, validation.postprocessing, task, masks)) is not None
    }
    members = {agreement.members for agreement, _ in mirrored.values()}
    if len(members) != 1:  # no mirrored passes, or not the same for all
        return {}
    pairs = [(compute_agreement(agreement), dices) for agreement, dices in mirrored.values()]
    calibrations = {}
    for label in task.labels:
        known = [(agreements[label], dices[label]) for agreements, dices in pairs if label in dices]
        calibration = fit_dice_calibration(
            [agreement for agreement, _ in known], [dice for _, dice in known], members=next(iter(members))
        )
        if calibration is not None:
            calibrations[label] = calibration
    return calibrations


def _read_mirrored(
    case_id: str, dices: dict[str, float | None], postprocessing: Postprocessing, task: Task, masks: Path
) -> tuple[AgreementCounts, dict[str, float | None]] | None:
    """How far the mirrored passes of a case agree, and the Dice of the mask that they made; None where none were made.

    Args:
        case_id: The case.
        dices: Label -> Dice of the mask of validation; labels that the case was not searched for are missing.
        postprocessing: Of all masks.
        task: Labels.
        masks: Of the validation.
    """
    usual = read_mask_pair(masks, case_id).agreement
    if usual is not None:
        return usual, dices
    folder = get_mirrored_folder(masks)
    if not has_mask_pair(folder, case_id):
        return None
    pair = read_mask_pair(folder, case_id)
    if pair.agreement is None:
        return None
    mask = apply_postprocessing(pair.prediction, task, postprocessing)
    scores = score_case(pair.reference, mask, task.labels, case_id=case_id, ignore_value=task.ignore)
    return pair.agreement, {score.label: score.dice for score in scores if score.label in dices}
