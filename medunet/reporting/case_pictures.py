"""Pictures of the cases that say most about a model: the worst ones, the middle one and the best."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medunet.errors import GeometryError, MedunetError
from medunet.evaluation import CaseFiles, Evaluation
from medunet.evaluation.cohort import OnCase
from medunet.evaluation.sides import LabelMapPair, SideOptions, find_scan_path, read_sides
from medunet.io import read_volume
from medunet.reporting.error_map import build_error_map
from medunet.reporting.figure import build_overlay, encode_jpeg
from medunet.reporting.scene import Labels
from medunet.reporting.view import View, build_small_view
from medunet.reporting.window import choose_modality, get_task_window
from medunet.tasks import Case, Task, is_picture, read_case
from medunet.volume import Volume, align_to_grid

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CasePicture:
    """One case with both contours.

    Attributes:
        case_id: The case.
        role: Why it is shown: ``"worst"``, ``"2nd worst"``, ``"median"``, ``"best"``.
        dice: Mean over its labels.
        jpeg: The picture; None where the case could not be drawn, and the remark says why.
        error_map: The same planes with the wrong voxels painted; None where it was not drawn.
        remark: What is to be said of the pictures; empty where nothing is.
        view: Scan and both masks for the viewer of the page; None where there is no scan.
    """

    case_id: str
    role: str
    dice: float
    jpeg: bytes | None
    error_map: bytes | None = None
    remark: str = ""
    view: View | None = None


def describe_planes(task: Task | None) -> str:
    """What the pictures show, in a sentence; of pictures nothing needs to be said."""
    if task is not None and is_picture(task.modality):
        return ""
    return "Three planes through the labels, the patient's right on the left side."


def choose_cases(dices: Mapping[str, float | None], *, num_worst: int = 3) -> dict[str, str]:
    """The cases to look at, worst first, and why; none twice.

    Args:
        dices: Case id -> mean Dice of the case; None where there was nothing to score.
        num_worst: How many of the worst are shown; of few cases only the worst, the median and the best.

    Example:
        >>> choose_cases({"a": 0.9, "b": 0.2, "c": 0.8, "d": None, "e": 0.5}, num_worst=1)
        {'b': 'worst', 'c': 'median', 'a': 'best'}
    """
    scored = {case_id: dice for case_id, dice in dices.items() if dice is not None}
    ranked = sorted(scored, key=lambda case_id: (scored[case_id], case_id))
    if not ranked:
        return {}
    roles = {ranked[0]: "worst"}
    for place in range(1, min(num_worst, len(ranked) // 2)):
        roles[ranked[place]] = f"{('2nd', '3rd')[place - 1] if place < 3 else f'{place + 1}th'} worst"
    roles.setdefault(ranked[len(ranked) // 2], "median")
    roles.setdefault(ranked[-1], "best")
    return roles


def draw_cases(
    cases: Sequence[Case],
    task: Task,
    dices: Mapping[str, float | None],
    get_mask: Callable[[Case, Volume], Volume],
    *,
    num_worst: int = 3,
) -> list[CasePicture]:
    """Draw the cases that `choose_cases` names.

    Args:
        cases: Where to find them; a case that is not here, or can no longer be read, has a remark in place of pictures.
        task: Labels and modality.
        dices: Case id -> mean Dice.
        get_mask: The mask of a case, given the case and its image, such as
            ``lambda case, image: segmenter.segment(image).labels``.
        num_worst: How many of the worst are drawn.
    """
    by_id = {case.case_id: case for case in cases}
    pictures = []
    for case_id, role in choose_cases(dices, num_worst=num_worst).items():
        dice = dices[case_id]
        assert dice is not None  # such cases are not chosen
        if case_id not in by_id:
            pictures.append(_say_not_drawn(case_id, role, dice, "its mask is no longer there"))
            continue
        case = by_id[case_id]
        try:
            image, reference = read_case(case, task)
            pair = LabelMapPair(reference=reference, prediction=get_mask(case, image))
            jpeg, error_map = draw_pair(image, pair, task.labels, task)
        except MedunetError as error:
            pictures.append(_say_not_drawn(case_id, role, dice, str(error)))
            continue
        view = _build_view(image, pair, task.labels, task, case_id)
        pictures.append(CasePicture(case_id=case_id, role=role, dice=dice, jpeg=jpeg, error_map=error_map, view=view))
    return pictures


def draw_evaluated_cases(
    evaluation: Evaluation,
    options: SideOptions,
    *,
    images: Path | None = None,
    num_worst: int = 3,
    on_case: OnCase | None = None,
) -> list[CasePicture]:
    """Draw the worst cases of an evaluation, the median one and the best; their files are read once more.

    Args:
        evaluation: Of files that were compared by value; of others nothing is drawn. A case that can no longer be read has
            a remark in place of pictures.
        options: How the sides were read.
        images: Scan, or folder of scans named after the cases. Without a scan, or with one on another grid, contours lie
            on a plain ground, and the remark says so.
        num_worst: How many of the worst are drawn.
        on_case: Told of every case when it is drawn.
    """
    if evaluation.label_values is None:
        return []
    files = {entry.case_id: entry for entry in evaluation.files}
    dices = evaluation.mean_dice_per_case()
    pictures = []
    for case_id, role in choose_cases(dices, num_worst=num_worst).items():
        dice = dices[case_id]
        assert dice is not None  # such cases are not chosen
        pictures.append(_draw_evaluated(files[case_id], role, dice, evaluation.label_values, options, images))
        if on_case is not None:
            on_case(case_id)
    return pictures


def _draw_evaluated(
    files: CaseFiles, role: str, dice: float, labels: Labels, options: SideOptions, images: Path | None
) -> CasePicture:
    case_id = files.case_id
    try:
        sides = read_sides(case_id, files.mask, files.reference, options)
        if not isinstance(sides, LabelMapPair):
            return _say_not_drawn(
                case_id, role, dice, "its structures were compared by name and have no values to draw"
            )
        image, remark = _read_image(images, case_id, sides.reference)
        jpeg, error_map = draw_pair(image, sides, labels, options.task)
    except MedunetError as error:
        return _say_not_drawn(case_id, role, dice, str(error))
    view = _build_view(image, sides, labels, options.task, case_id)
    return CasePicture(case_id=case_id, role=role, dice=dice, jpeg=jpeg, error_map=error_map, remark=remark, view=view)


def _say_not_drawn(case_id: str, role: str, dice: float, reason: str) -> CasePicture:
    """The reason may hold a path, which pages do not show: it goes to the log."""
    logger.warning("Case '%s' has no picture in the report: %s", case_id, reason)
    remark = "This case could not be drawn; the log says why."
    return CasePicture(case_id=case_id, role=role, dice=dice, jpeg=None, remark=remark)


def read_scan_of_case(images: Path, case_id: str, reference: Volume) -> Volume:
    """The scan of a case along the axes of its reference.

    Args:
        images: As `medunet.evaluation.sides.find_scan_path`.
        case_id: The case.
        reference: Label map on the scan's grid, its axes in any order.

    Raises:
        InputError: If there is none.
        VolumeError: If it cannot be read.
        GeometryError: If it lies on another grid.
    """
    image = read_volume(find_scan_path(images, case_id))
    return align_to_grid(image, reference, f"The scan of case '{case_id}'", "its reference")


def draw_pair(image: Volume | None, pair: LabelMapPair, labels: Labels, task: Task | None) -> tuple[bytes, bytes]:
    """Contours of both sides, and where they differ, as JPEGs.

    Args:
        image: The scan on the grid of both; None draws on a plain ground.
        pair: Both sides.
        labels: Name -> values.
        task: Says how scans look; without one their values do (`medunet.reporting.window.choose_modality`).

    Raises:
        GeometryError: If the scan lies on another grid.
    """
    modality = _choose_modality(image, task)
    window = None if image is None else get_task_window(task)
    overlay = build_overlay(image, pair.prediction, pair.reference, labels, modality=modality, window=window)
    errors = build_error_map(
        image,
        pair.prediction,
        pair.reference,
        labels,
        modality=modality,
        window=window,
        ignore_value=None if task is None else task.ignore,
    )
    return encode_jpeg(overlay), encode_jpeg(errors)


def _build_view(
    image: Volume | None, pair: LabelMapPair, labels: Labels, task: Task | None, case_id: str
) -> View | None:
    """There is nothing to turn over without a scan; a case that the viewer cannot show keeps its pictures."""
    if image is None:
        return None
    modality = _choose_modality(image, task)
    try:
        return build_small_view(image, pair.prediction, pair.reference, labels, modality=modality)
    except MedunetError as error:
        logger.warning("Case '%s' has no viewer in the report: %s", case_id, error)
        return None


def _choose_modality(image: Volume | None, task: Task | None) -> str:
    if image is None:
        return "MR" if task is None else task.modality
    return choose_modality(image.array[0], task)


def _read_image(images: Path | None, case_id: str, reference: Volume) -> tuple[Volume | None, str]:
    """The scan of a case along the axes of its reference; None, and why, where there is none."""
    if images is None:
        return None, ""
    try:
        return read_scan_of_case(images, case_id, reference), ""
    except MedunetError as error:
        logger.warning("Case '%s' is drawn without its scan: %s", case_id, error)
        why = "lies on another grid than the reference" if isinstance(error, GeometryError) else "could not be read"
        return None, f"The scan {why}, so that only contours are shown."
