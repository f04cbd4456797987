"""How well masks agree with references: overlap, surfaces, instances, calibration; cohorts, comparisons, tables.

The expensive things, a pass over the voxels and a distance transform per side, are done once per case and structure; the
numbers are small readers on top. A missed or an invented structure has the worst value of every metric; where both sides
are empty there is nothing to score and the case is counted apart (Metrics Reloaded,
https://doi.org/10.1038/s41592-023-02151-z).
"""

from __future__ import annotations

from medunet.evaluation.advice import give_advice, give_joint_advice
from medunet.evaluation.calibration import Calibration, compute_calibration
from medunet.evaluation.case import CaseCounts, LabelScore, count_case, score_case, score_counts
from medunet.evaluation.case_instances import (
    InstanceSummary,
    LabelInstances,
    measure_instances,
    measure_objects,
    select_objects,
    summarize_instances,
)
from medunet.evaluation.case_metrics import CaseAgreement, LabelMetrics, compute_agreement, measure_case
from medunet.evaluation.catalogue import METRICS, Metric, MetricSettings
from medunet.evaluation.cohort import CaseFailure, CaseFiles, Evaluation, build_evaluation, evaluate
from medunet.evaluation.compare import Comparison, PairedDifference, Ranking, average_shared_labels, compare_evaluations
from medunet.evaluation.instances import (
    InstanceOverlaps,
    InstanceScore,
    LesionScore,
    compute_average_precision,
    compute_instance_overlaps,
    find_instances,
    score_instances,
    score_lesions,
)
from medunet.evaluation.metric_summary import MetricSummary, summarize_metrics
from medunet.evaluation.overlap import OverlapCounts, compute_dice, compute_overlap
from medunet.evaluation.rand import RandScores, compute_rand_scores, find_segments, score_partition, thin_borders
from medunet.evaluation.statistics import Summary, bootstrap_interval, summarize_scores
from medunet.evaluation.surface import (
    SurfaceDistances,
    compute_assd_mm,
    compute_hausdorff_mm,
    compute_nsd,
    compute_rmsd_mm,
    compute_surface_distances,
)
from medunet.evaluation.tables import describe_evaluation, write_nnunet_summary, write_scores_csv

__all__ = [
    "METRICS",
    "Calibration",
    "CaseAgreement",
    "CaseCounts",
    "CaseFailure",
    "CaseFiles",
    "Comparison",
    "Evaluation",
    "InstanceOverlaps",
    "InstanceScore",
    "InstanceSummary",
    "LabelInstances",
    "LabelMetrics",
    "LabelScore",
    "LesionScore",
    "Metric",
    "MetricSettings",
    "MetricSummary",
    "OverlapCounts",
    "PairedDifference",
    "RandScores",
    "Ranking",
    "Summary",
    "SurfaceDistances",
    "average_shared_labels",
    "bootstrap_interval",
    "build_evaluation",
    "compare_evaluations",
    "compute_agreement",
    "compute_assd_mm",
    "compute_average_precision",
    "compute_calibration",
    "compute_dice",
    "compute_hausdorff_mm",
    "compute_instance_overlaps",
    "compute_nsd",
    "compute_overlap",
    "compute_rand_scores",
    "compute_rmsd_mm",
    "compute_surface_distances",
    "count_case",
    "describe_evaluation",
    "evaluate",
    "find_instances",
    "find_segments",
    "give_advice",
    "give_joint_advice",
    "measure_case",
    "measure_instances",
    "measure_objects",
    "score_case",
    "score_counts",
    "score_instances",
    "score_lesions",
    "score_partition",
    "select_objects",
    "summarize_instances",
    "summarize_metrics",
    "summarize_scores",
    "thin_borders",
    "write_nnunet_summary",
    "write_scores_csv",
]
