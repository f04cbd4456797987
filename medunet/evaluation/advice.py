"""Where a number misleads, in words.

What Metrics Reloaded advises (Maier-Hein et al. 2024, https://doi.org/10.1038/s41592-023-02151-z; the pitfalls are in
Reinke et al. 2024, https://doi.org/10.1038/s41592-023-02150-0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from medunet.evaluation.case import LabelScore
from medunet.evaluation.case_metrics import LabelMetrics
from medunet.evaluation.cohort import Evaluation
from medunet.io import is_picture_file

_TINY_VOXELS = 100
_FEW_CASES = 10
_MOST_LABELS = 6


def give_advice(evaluation: Evaluation) -> list[str]:
    """One line per pitfall with the labels that it concerns; empty where the numbers can be read as they are."""
    scores_per_label: dict[str, list[LabelScore]] = {}
    for score in evaluation.scores:
        scores_per_label.setdefault(score.label, []).append(score)
    advice = []
    num_cases = len({score.case_id for score in evaluation.scores})
    if 0 < num_cases < _FEW_CASES:
        advice.append(
            f"{num_cases} case(s): bootstrap intervals from fewer than {_FEW_CASES} cases are too narrow; show every case."
        )
    if _has_no_pixel_size(evaluation):
        advice.append(
            "The pictures do not say how large a pixel is: 1 mm stands for 1 pixel, so distances and tolerances are in pixels, "
            "and 1 ml is 1000 pixels."
        )
    for judge, text in _PITFALLS:
        concerned = [f"{label} ({found})" for label, scores in scores_per_label.items() if (found := judge(scores))]
        if concerned:
            advice.append(f"{_list(concerned)}: {text}")
    return advice


def give_joint_advice(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """`give_advice` of several sets of masks, over the cases that all of them scored, each line once.

    Args:
        evaluations: Name of a set -> its scores.

    Returns:
        What holds for all sets as it is; what holds for some begins with their names: ``"ours, theirs: ..."``.
    """
    scored = [{score.case_id for score in evaluation.scores} for evaluation in evaluations.values()]
    common = set.intersection(*scored) if scored else set()
    named: dict[str, list[str]] = {}
    for name, evaluation in evaluations.items():
        shared = replace(
            evaluation,
            scores=[score for score in evaluation.scores if score.case_id in common],
            files=[files for files in evaluation.files if files.case_id in common],
        )
        for text in give_advice(shared):
            named.setdefault(text, []).append(name)
    return [text if len(names) == len(evaluations) else f"{', '.join(names)}: {text}" for text, names in named.items()]


def _has_no_pixel_size(evaluation: Evaluation) -> bool:
    """Whether all distances are of pictures whose pixels count as 1 mm."""
    measured = [score for score in evaluation.scores if isinstance(score, LabelMetrics)]
    are_pictures = all(is_picture_file(files.reference) for files in evaluation.files)
    return bool(measured and evaluation.files) and are_pictures and all(score.spacing_mm == 1.0 for score in measured)


def _judge_size(scores: Sequence[LabelScore]) -> str:
    sizes = [score.tp + score.fn for score in scores if score.tp + score.fn]
    return f"median {median(sizes):.0f} voxels" if sizes and median(sizes) < _TINY_VOXELS else ""


def _judge_missed(scores: Sequence[LabelScore]) -> str:
    num_present = sum(score.tp + score.fn > 0 for score in scores)
    num_missed = sum(score.status == "missed" for score in scores)
    return f"missed in {num_missed} of {num_present}" if num_missed else ""


def _judge_empty(scores: Sequence[LabelScore]) -> str:
    num_empty = sum(score.tp + score.fn == 0 for score in scores)
    num_invented = sum(score.status == "invented" for score in scores)
    return f"{num_empty} empty, {num_invented} of them invented" if num_empty else ""


def _judge_tolerance(scores: Sequence[LabelScore]) -> str:
    coarse = [
        score for score in scores if isinstance(score, LabelMetrics) and score.tolerance_mm < score.spacing_mm / 2
    ]
    if not coarse:
        return ""
    return f"{coarse[0].tolerance_mm:g} mm, voxels of up to {max(score.spacing_mm for score in coarse):g} mm"


_PITFALLS: tuple[tuple[Callable[[Sequence[LabelScore]], str], str], ...] = (
    (
        _judge_size,
        "references are tiny, so that one voxel changes the Dice much; read NSD, centre distance and the number of missed "
        "structures first.",
    ),
    (
        _judge_missed,
        "missed structures count as Dice 0 and as the diagonal of the image in distances, whose mean then says little about "
        "the others; read the number missed, and the median, which holds the diagonal too where half or more are missed or invented.",
    ),
    (
        _judge_empty,
        "where the reference is empty, Dice and distances cannot grade a false alarm by its size; read prediction_ml of "
        "these cases.",
    ),
    (
        _judge_tolerance,
        "the tolerance of the NSD is below half a voxel, so that a surface that is one voxel off is wholly wrong; choose a "
        "larger one, or compare cases of one spacing.",
    ),
)


def _list(items: Sequence[str]) -> str:
    more = f" and {len(items) - _MOST_LABELS} more" if len(items) > _MOST_LABELS else ""
    return ", ".join(items[:_MOST_LABELS]) + more
