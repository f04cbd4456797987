"""Where a number misleads, in words.

What Metrics Reloaded advises (Maier-Hein et al. 2024, https://doi.org/10.1038/s41592-023-02151-z; the pitfalls are in
Reinke et al. 2024, https://doi.org/10.1038/s41592-023-02150-0).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from medunet.evaluation.case import LabelScore
from medunet.evaluation.case_metrics import LabelMetrics
from medunet.evaluation.cohort import Evaluation

_TINY_VOXELS = 100
_FEW_CASES = 10


def give_advice(evaluation: Evaluation) -> list[str]:
    """One sentence or two per label and pitfall; empty where the numbers can be read as they are."""
    scores_per_label: dict[str, list[LabelScore]] = {}
    for score in evaluation.scores:
        scores_per_label.setdefault(score.label, []).append(score)
    advice = []
    num_cases = len({score.case_id for score in evaluation.scores})
    if 0 < num_cases < _FEW_CASES:
        advice.append(
            f"{num_cases} case(s): bootstrap intervals from fewer than {_FEW_CASES} cases are too narrow; show every case."
        )
    for label, scores in scores_per_label.items():
        advice += [f"{label}: {text}" for text in _judge_label(scores)]
    return advice


def _judge_label(scores: Sequence[LabelScore]) -> list[str]:
    advice = []
    present = [score for score in scores if score.tp + score.fn]
    sizes = [score.tp + score.fn for score in present]
    if sizes and median(sizes) < _TINY_VOXELS:
        advice.append(
            f"half of the references have fewer than {_TINY_VOXELS} voxels (median {median(sizes):.0f}). One voxel changes "
            "the Dice much; read NSD, centre distance and the number of missed structures first."
        )
    num_missed = sum(score.status == "missed" for score in scores)
    if num_missed:
        advice.append(
            f"missed in {num_missed} of {len(present)} cases. These count as Dice 0 and as the diagonal of the image in "
            "distances, which then say little about the others: read their median, and the number missed."
        )
    num_empty = len(scores) - len(present)
    if num_empty:
        num_invented = sum(score.status == "invented" for score in scores)
        advice.append(
            f"{num_empty} reference(s) are empty, and {num_invented} of their masks are not. Dice and distances cannot grade "
            "a false alarm by its size: read prediction_ml of these cases."
        )
    measured = [score for score in present if isinstance(score, LabelMetrics)]
    if any(score.tolerance_mm < score.spacing_mm / 2 for score in measured):
        coarsest = max(score.spacing_mm for score in measured)
        advice.append(
            f"the tolerance of the NSD ({measured[0].tolerance_mm:g} mm) is below half a voxel ({coarsest:g} mm) in some "
            "case: a surface that is one voxel off is then wholly wrong. Choose a larger tolerance, or compare cases of one "
            "spacing."
        )
    return advice
