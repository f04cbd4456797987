"""Pictures of the cases that say most about a model: the worst ones, the middle one and the best."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medunet.errors import MedunetError
from medunet.reporting.figure import build_overlay
from medunet.tasks import Case, Task, read_case
from medunet.volume import Volume

logger = logging.getLogger(__name__)

_DPI = 100  # about 1550 pixels wide: more than a page shows
_QUALITY = 85


@dataclass(frozen=True, kw_only=True)
class CasePicture:
    """One case with both contours.

    Attributes:
        case_id: The case.
        role: Why it is shown: ``"worst"``, ``"2nd worst"``, ``"median"``, ``"best"``.
        dice: Mean over its labels.
        jpeg: The picture.
    """

    case_id: str
    role: str
    dice: float
    jpeg: bytes


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
        cases: Where to find them; a case that is not here, or can no longer be read, has no picture, with a warning.
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
        try:
            jpeg = _draw_case(by_id[case_id], task, get_mask)
        except (MedunetError, KeyError) as error:
            logger.warning("Case '%s' has no picture in the report: %s", case_id, error)
            continue
        pictures.append(CasePicture(case_id=case_id, role=role, dice=dice, jpeg=jpeg))
    return pictures


def _draw_case(case: Case, task: Task, get_mask: Callable[[Case, Volume], Volume]) -> bytes:
    image, reference = read_case(case, task)
    figure = build_overlay(image, get_mask(case, image), reference, task.labels, modality=task.modality)
    file = io.BytesIO()
    figure.savefig(
        file,
        format="jpeg",
        dpi=_DPI,
        facecolor=figure.get_facecolor(),
        pil_kwargs={"quality": _QUALITY, "optimize": True},
    )
    return file.getvalue()
