"""From the metrics of cases to one line per label and metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medunet.evaluation.case import LabelScore
from medunet.evaluation.catalogue import METRICS, Metric
from medunet.evaluation.statistics import bootstrap_interval

_NUM_WORST = 3


@dataclass(frozen=True, kw_only=True)
class MetricSummary:
    """One metric of one label over all cases.

    Attributes:
        label: Name of the label or region.
        metric: Name in `medunet.evaluation.METRICS`.
        mean: Over the scored cases, missed and invented structures with their worst value; None without a scored case.
        median: Over the same cases.
        lower_quartile: 25th percentile.
        upper_quartile: 75th percentile.
        interval_low: Lower end of the 95 % bootstrap interval of the mean; None for fewer than 2 scored cases.
        interval_high: Upper end.
        num_scored: Cases in these numbers.
        num_missed: Of them, only the reference has the label.
        num_invented: Of them, only the prediction has the label.
        num_both_empty: Cases in none of these numbers, as neither side has the label.
        worst_cases: Up to three case ids, the worst first.
    """

    label: str
    metric: str
    mean: float | None
    median: float | None
    lower_quartile: float | None
    upper_quartile: float | None
    interval_low: float | None
    interval_high: float | None
    num_scored: int
    num_missed: int
    num_invented: int
    num_both_empty: int
    worst_cases: tuple[str, ...]


def summarize_metrics(scores: Iterable[LabelScore], metrics: Sequence[str] | None = None) -> list[MetricSummary]:
    """One summary per label and metric, labels in the order in which they first appear.

    Args:
        scores: Of all cases; `LabelScore` has the Dice only, `LabelMetrics` all metrics.
        metrics: Names; None takes all that the scores have.
    """
    scores_per_label: dict[str, list[LabelScore]] = {}
    for score in scores:
        scores_per_label.setdefault(score.label, []).append(score)
    return [
        _summarize(label, METRICS[name], of_label)
        for label, of_label in scores_per_label.items()
        for name in metrics or METRICS
        if hasattr(of_label[0], name)
    ]


def _summarize(label: str, metric: Metric, scores: list[LabelScore]) -> MetricSummary:
    found = [(value, score.case_id) for score in scores if (value := getattr(score, metric.name)) is not None]
    values = [value for value, _ in found]
    low, high = bootstrap_interval(values) or (None, None)
    quartiles = np.quantile(values, [0.25, 0.5, 0.75]).tolist() if values else [None] * 3
    statuses = [score.status for score in scores]
    return MetricSummary(
        label=label,
        metric=metric.name,
        mean=float(np.mean(values)) if values else None,
        median=quartiles[1],
        lower_quartile=quartiles[0],
        upper_quartile=quartiles[2],
        interval_low=low,
        interval_high=high,
        num_scored=len(values),
        num_missed=statuses.count("missed"),
        num_invented=statuses.count("invented"),
        num_both_empty=statuses.count("both-empty"),
        worst_cases=tuple(
            case_id for _, case_id in sorted(found, key=lambda pair: -rate_badness(metric, pair[0]))[:_NUM_WORST]
        ),
    )


def rate_badness(metric: Metric, value: float) -> float:
    """A number that grows as a metric gets worse."""
    return {"higher": -value, "lower": value, "nearer to 0": abs(value)}[metric.better]
