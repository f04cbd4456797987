"""Several sets of masks on the same cases: which is better, by how much, and how sure that is.

Differences are paired, case by case. Each is tested with Wilcoxon's signed-rank test, and the p values of one metric are
corrected together by Holm's method (1979, https://www.jstor.org/stable/4615733). How stable a ranking is shows how often
it stays when cases are drawn anew (Wiesenfarth et al. 2021, https://doi.org/10.1038/s41598-021-82017-6).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.errors import InputError
from medunet.evaluation.catalogue import METRICS
from medunet.evaluation.cohort import Evaluation
from medunet.evaluation.metric_summary import rate_badness
from medunet.evaluation.statistics import bootstrap_interval, resample_means

COMPARED_METRICS = ("dice", "nsd", "hd95_mm")
ALL_LABELS = "mean of labels"
_MOST_EXACT = 200


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Two sets of masks on one label and metric, over the cases that both scored.

    Attributes:
        metric: Name in `medunet.evaluation.METRICS`.
        label: Name, or `ALL_LABELS`: the mean over the labels of a case.
        first: Name of a set.
        second: Name of another.
        num_cases: Pairs.
        first_mean: Of the first set.
        second_mean: Of the second set.
        mean_difference: First less second; None without a pair.
        median_difference: Likewise.
        interval_low: Lower end of the 95 % bootstrap interval of the mean difference; None for fewer than 2 pairs.
        interval_high: Upper end.
        p_value: Of Wilcoxon's test, two-sided; 1 where nothing differs, None without a pair.
        p_holm: The same after Holm's correction over all tests of the metric.
    """

    metric: str
    label: str
    first: str
    second: str
    num_cases: int
    first_mean: float | None
    second_mean: float | None
    mean_difference: float | None
    median_difference: float | None
    interval_low: float | None
    interval_high: float | None
    p_value: float | None
    p_holm: float | None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The sets ordered by one metric: the mean over cases of the mean over labels.

    Attributes:
        metric: Name.
        num_cases: In these means.
        order: Names of the sets, the best first.
        places: Of each set, in this order, from 1 on; equal sets share the first of their places.
        means: Of each set, in this order; of errors that are best at 0, without their sign.
        rank_shares: Set -> how often it takes each place when cases are drawn anew, alone or shared.
        stability: How often all places stay; a tie that a draw breaks has not stayed.
    """

    metric: str
    num_cases: int
    order: tuple[str, ...]
    places: tuple[int, ...]
    means: tuple[float, ...]
    rank_shares: Mapping[str, tuple[float, ...]]
    stability: float

    @property
    def place_names(self) -> tuple[str, ...]:
        """`places` for people: ``("1=", "1=", "3")``."""
        return tuple(f"{place}{'=' if self.places.count(place) > 1 else ''}" for place in self.places)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare_evaluations` found.

    Attributes:
        names: Of the sets.
        num_cases: That every set scored.
        left_out: One phrase per case that is not scored in every set: it fails there, or has no mask or no reference.
        differences: Per metric, label and pair of sets.
        rankings: One per metric with cases.
    """

    names: tuple[str, ...]
    num_cases: int
    left_out: tuple[str, ...]
    differences: tuple[PairedDifference, ...]
    rankings: tuple[Ranking, ...]


def compare_evaluations(
    evaluations: Mapping[str, Evaluation], metrics: Sequence[str] = COMPARED_METRICS, *, seed: int = 0
) -> Comparison:
    """Compare sets of masks that were evaluated against the same references.

    A label of a case counts where every set has a number for it; where the reference is empty and one set leaves it
    empty too, none does.

    Args:
        evaluations: Name of a set -> its scores.
        metrics: Names in `medunet.evaluation.METRICS` that all scores have.
        seed: Of the bootstrap.

    Raises:
        InputError: If there are fewer than two sets, or no case is scored in all of them.
    """
    names = tuple(evaluations)
    if len(names) < 2:
        msg = f"{len(names)} set(s) of masks were given; expected two or more to compare."
        raise InputError(msg)
    scored = {name: {score.case_id for score in evaluation.scores} for name, evaluation in evaluations.items()}
    common = set.intersection(*scored.values())
    if not common:
        counts = ", ".join(f"{name}: {len(cases)}" for name, cases in scored.items())
        msg = f"No case is scored in every set ({counts}); expected masks of the same cases under the same names."
        raise InputError(msg)
    differences: list[PairedDifference] = []
    rankings = []
    for metric in metrics:
        table = {name: _tabulate(evaluation, metric, common) for name, evaluation in evaluations.items()}
        differences += _correct([_compare(metric, *row, seed) for row in _list_comparisons(table)])
        if ranking := _rank(metric, table, seed):
            rankings.append(ranking)
    return Comparison(
        names=names,
        num_cases=len(common),
        left_out=tuple(_say_left_out(case_id, scored) for case_id in sorted(_list_known(evaluations) - common)),
        differences=tuple(differences),
        rankings=tuple(rankings),
    )


def average_shared_labels(evaluations: Mapping[str, Evaluation], metric: str = "dice") -> dict[str, dict[str, float]]:
    """Name of a set -> case -> mean over the labels for which every set has a number, as in differences and rankings.

    A case without such a label is left out.
    """
    cases = {score.case_id for evaluation in evaluations.values() for score in evaluation.scores}
    table = {name: _tabulate(evaluation, metric, cases) for name, evaluation in evaluations.items()}
    shared = sorted(set.intersection(*(set(values) for values in table.values())))
    averaged = sorted({case_id for _, case_id in shared})
    return {name: dict(zip(averaged, _average_labels(table[name], shared), strict=True)) for name in table}


def _list_known(evaluations: Mapping[str, Evaluation]) -> set[str]:
    """Every case of which a set has a mask, a reference or a score."""
    known: set[str] = set()
    for evaluation in evaluations.values():
        known.update(score.case_id for score in evaluation.scores)
        known.update(failure.case_id for failure in evaluation.failures)
        known.update(evaluation.unmatched_cases)
    return known


def _say_left_out(case_id: str, scored: Mapping[str, set[str]]) -> str:
    lacking = [name for name, cases in scored.items() if case_id not in cases]
    return f"case {case_id} is not scored in {'any set' if len(lacking) == len(scored) else ', '.join(lacking)}"


def correct_by_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given.

    Example:
        >>> correct_by_holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def compute_signed_rank_p(differences: Sequence[float]) -> float:
    """Two-sided p value of Wilcoxon's signed-rank test (1945, https://doi.org/10.2307/3001968); zeros are dropped.

    Exact up to 200 differences, equal ones included (`scipy.stats.wilcoxon` is not, with these), else by the normal
    distribution; 1 where nothing differs.

    Example:
        >>> compute_signed_rank_p([0.1, 0.2, 0.3, 0.3])  # 2 of 2**4 choices of signs are as one-sided
        0.125
    """
    from scipy.stats import rankdata, wilcoxon

    values = np.round(differences, 12)  # rounding of a mean must not break a tie
    values = values[values != 0]
    if not len(values):
        return 1.0
    if len(values) > _MOST_EXACT:
        return float(wilcoxon(values, method="asymptotic").pvalue)
    ranks = np.rint(2 * rankdata(np.abs(values))).astype(int)  # twice, so that the ranks of ties are whole
    chances = np.zeros(ranks.sum() + 1)  # of every sum of the ranks of positive differences, when signs are thrown
    chances[0] = 1
    for rank in ranks.tolist():
        chances[rank:] += chances[:-rank].copy()
        chances /= 2
    found = int(ranks[values > 0].sum())
    return float(min(1.0, 2 * min(chances[: found + 1].sum(), chances[found:].sum())))


Values = dict[tuple[str, str], float]
"""``(label, case)`` -> number."""


def _tabulate(evaluation: Evaluation, metric: str, cases: set[str]) -> Values:
    return {
        (score.label, score.case_id): value
        for score in evaluation.scores
        if score.case_id in cases and (value := getattr(score, metric, None)) is not None
    }


def _list_comparisons(table: Mapping[str, Values]) -> list[tuple[str, str, str, list[float], list[float]]]:
    """Label, two names and their paired values, for every label and pair of sets; the mean of labels comes first."""
    shared = sorted(set.intersection(*(set(values) for values in table.values())))
    labels = list(dict.fromkeys(label for values in table.values() for label, _ in values))
    rows: list[tuple[str, str, str, list[float], list[float]]] = []
    for first, second in itertools.combinations(table, 2):
        if len(labels) > 1:
            means = [_average_labels(table[name], shared) for name in (first, second)]
            rows.append((ALL_LABELS, first, second, means[0], means[1]))
        for label in labels:
            keys = [key for key in shared if key[0] == label]
            rows.append(
                (label, first, second, [table[first][key] for key in keys], [table[second][key] for key in keys])
            )
    return rows


def _average_labels(values: Values, keys: Sequence[tuple[str, str]]) -> list[float]:
    """The mean over labels of every case, in the order of the case ids."""
    of_case: dict[str, list[float]] = {}
    for label, case_id in keys:
        of_case.setdefault(case_id, []).append(values[label, case_id])
    return [float(np.mean(of_case[case_id])) for case_id in sorted(of_case)]


def _compare(
    metric: str, label: str, first: str, second: str, of_first: list[float], of_second: list[float], seed: int
) -> PairedDifference:
    differences = [one - other for one, other in zip(of_first, of_second, strict=True)]
    low, high = bootstrap_interval(differences, seed=seed) or (None, None)
    return PairedDifference(
        metric=metric,
        label=label,
        first=first,
        second=second,
        num_cases=len(differences),
        first_mean=float(np.mean(of_first)) if differences else None,
        second_mean=float(np.mean(of_second)) if differences else None,
        mean_difference=float(np.mean(differences)) if differences else None,
        median_difference=float(np.median(differences)) if differences else None,
        interval_low=low,
        interval_high=high,
        p_value=compute_signed_rank_p(differences) if differences else None,
        p_holm=None,
    )


def _correct(rows: list[PairedDifference]) -> list[PairedDifference]:
    from dataclasses import replace

    tested = [row for row in rows if row.p_value is not None]
    corrected = iter(correct_by_holm([row.p_value for row in tested if row.p_value is not None]))
    return [row if row.p_value is None else replace(row, p_holm=next(corrected)) for row in rows]


def _rank(metric: str, table: Mapping[str, Values], seed: int) -> Ranking | None:
    shared = sorted(set.intersection(*(set(values) for values in table.values())))
    if not shared:
        return None
    names = list(table)
    ranked = table if METRICS[metric].better != "nearer to 0" else {name: _drop_signs(table[name]) for name in names}
    values = np.array([_average_labels(ranked[name], shared) for name in names]).T  # (cases, sets)
    badness = np.vectorize(lambda value: rate_badness(METRICS[metric], value))(values)
    (found,) = _rank_rows(badness.mean(axis=0, keepdims=True))
    drawn = _rank_rows(resample_means(badness, seed=seed))  # (resamples, sets): the place of each set
    order = np.argsort(found, kind="stable")
    return Ranking(
        metric=metric,
        num_cases=len(values),
        order=tuple(names[index] for index in order),
        places=tuple(int(found[index]) for index in order),
        means=tuple(float(values[:, index].mean()) for index in order),
        rank_shares={
            name: tuple(float((drawn[:, index] == place).mean()) for place in range(1, len(names) + 1))
            for index, name in enumerate(names)
        },
        stability=float((drawn == found).all(axis=1).mean()),
    )


def _drop_signs(values: Values) -> Values:
    """Before labels are averaged: one volume that is too large does not make up for another that is too small."""
    return {key: abs(value) for key, value in values.items()}


def _rank_rows(badness: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of every column in each row, from 1 on, the least first; equals share the first of their places.

    Example:
        >>> _rank_rows(np.array([[0.2, 0.1, 0.1, 0.3]])).tolist()
        [[3, 1, 1, 4]]
    """
    rounded = np.round(badness, 12)  # rounding of a mean must not break a tie
    places: NDArray[np.int64] = 1 + (rounded[:, None, :] < rounded[:, :, None]).sum(axis=2)
    return places
