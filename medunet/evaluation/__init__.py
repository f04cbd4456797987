"""How well masks agree with references: overlap per case and label, cohort means with intervals, a table on disk.

The expensive thing, a pass over the voxels, is done once per case (`count_case`); the numbers are small readers on top.
A missed or an invented structure counts as Dice 0; where both sides are empty there is nothing to score and the case
is counted apart (Metrics Reloaded, https://doi.org/10.1038/s41592-023-02151-z).
"""

from __future__ import annotations

from medunet.evaluation.case import CaseCounts, LabelScore, count_case, score_case, score_counts
from medunet.evaluation.cohort import CaseFailure, Evaluation, build_evaluation, evaluate, write_scores_csv
from medunet.evaluation.overlap import OverlapCounts, compute_dice, compute_overlap
from medunet.evaluation.statistics import Summary, bootstrap_interval, summarize_scores

__all__ = [
    "CaseCounts",
    "CaseFailure",
    "Evaluation",
    "LabelScore",
    "OverlapCounts",
    "Summary",
    "bootstrap_interval",
    "build_evaluation",
    "compute_dice",
    "compute_overlap",
    "count_case",
    "evaluate",
    "score_case",
    "score_counts",
    "summarize_scores",
    "write_scores_csv",
]
