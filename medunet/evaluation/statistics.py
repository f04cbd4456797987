"""From scores of cases to one line per label: mean, median, and how sure the mean is."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.evaluation.case import LabelScore

_DRAWS_AT_ONCE = 2**20  # 8 MB of indices however large the cohort
_MOST_KEPT_DRAWS = 2**21


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One label over all cases.

    Attributes:
        label: Name of the label or region.
        mean: Mean Dice over the scored cases, a missed or invented structure as 0; None without a scored case.
        median: Median over the same cases.
        interval_low: Lower end of the 95 % interval of the mean; None for fewer than 2 scored cases.
        interval_high: Upper end.
        num_scored: Cases in the mean: ok, missed and invented.
        num_missed: Cases where only the reference has the label.
        num_invented: Cases where only the prediction has the label.
        num_both_empty: Cases where neither has it; they are in no other number here.
    """

    label: str
    mean: float | None
    median: float | None
    interval_low: float | None
    interval_high: float | None
    num_scored: int
    num_missed: int
    num_invented: int
    num_both_empty: int


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, num_resamples: int = 9999, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean over cases.

    Whole cases are drawn with replacement (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13,
    https://doi.org/10.1201/9780429246593). It is too narrow for very few cases; read it with ``len(values)`` beside it.

    Args:
        values: One number per case.
        confidence: Share of the resampled means inside the interval, between 0 and 1.
        num_resamples: How often the cases are drawn.
        seed: The same seed gives the same interval.

    Returns:
        ``(low, high)``, or None for fewer than 2 values.

    Raises:
        ValueError: If ``confidence`` is not between 0 and 1, or ``num_resamples`` is below 1.

    Example:
        >>> bootstrap_interval([0.5, 0.5, 0.5])
        (0.5, 0.5)
    """
    if not 0 < confidence < 1 or num_resamples < 1:
        msg = f"Expected 0 < confidence < 1 and num_resamples >= 1; got {confidence} and {num_resamples}."
        raise ValueError(msg)
    if len(values) < 2:
        return None
    means = resample_means(np.asarray(values, dtype=np.float64)[:, None], num_resamples=num_resamples, seed=seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return low, high


def resample_means(values: NDArray[np.float64], *, num_resamples: int = 9999, seed: int = 0) -> NDArray[np.float64]:
    """Means of samples that are drawn with replacement, the same cases in all columns.

    Args:
        values: ``(cases, columns)``, one case at least.
        num_resamples: How often the cases are drawn.
        seed: The same seed draws the same cases.

    Returns:
        ``(num_resamples, columns)``.
    """
    if len(values) * num_resamples <= _MOST_KEPT_DRAWS:  # every label and metric of a cohort draws the same cases
        means: NDArray[np.float64] = _draw_counts(len(values), num_resamples, seed) @ values / len(values)
        return means
    generator = np.random.default_rng(seed)
    means = np.empty((num_resamples, values.shape[1]))
    step = max(1, _DRAWS_AT_ONCE // len(values))
    for start in range(0, num_resamples, step):
        stop = min(start + step, num_resamples)
        means[start:stop] = values[generator.integers(len(values), size=(stop - start, len(values)))].mean(axis=1)
    return means


@functools.lru_cache(maxsize=4)
def _draw_counts(num_cases: int, num_resamples: int, seed: int) -> NDArray[np.float64]:
    """How often every sample holds every case, ``(num_resamples, num_cases)``."""
    drawn = np.random.default_rng(seed).integers(num_cases, size=(num_resamples, num_cases))
    drawn += np.arange(num_resamples)[:, None] * num_cases
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * num_cases)
    return counts.reshape(num_resamples, num_cases).astype(np.float64)


def summarize_scores(scores: Iterable[LabelScore]) -> list[Summary]:
    """One summary per label, in the order in which the labels first appear."""
    scores_per_label: dict[str, list[LabelScore]] = {}
    for score in scores:
        scores_per_label.setdefault(score.label, []).append(score)
    return [_summarize_label(label, of_label) for label, of_label in scores_per_label.items()]


def _summarize_label(label: str, scores: list[LabelScore]) -> Summary:
    values = [score.dice for score in scores if score.dice is not None]
    low, high = bootstrap_interval(values) or (None, None)
    statuses = [score.status for score in scores]
    return Summary(
        label=label,
        mean=float(np.mean(values)) if values else None,
        median=float(np.median(values)) if values else None,
        interval_low=low,
        interval_high=high,
        num_scored=len(values),
        num_missed=statuses.count("missed"),
        num_invented=statuses.count("invented"),
        num_both_empty=statuses.count("both-empty"),
    )
