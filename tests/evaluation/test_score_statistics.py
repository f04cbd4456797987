"""Means that count failures, and intervals that behave like intervals."""

import numpy as np
import pytest

from medunet.evaluation import LabelScore, bootstrap_interval, summarize_scores


def make_score(case_id, label, dice, status="ok"):
    return LabelScore(
        case_id=case_id, label=label, dice=dice, status=status, reference_ml=0, prediction_ml=0, tp=0, fp=0, fn=0
    )


def test_missed_and_invented_pull_the_mean_down_and_both_empty_does_not():
    scores = [
        make_score("p1", "organ", 0.9),
        make_score("p2", "organ", 0.0, "missed"),
        make_score("p3", "organ", 0.0, "invented"),
        make_score("p4", "organ", None, "both-empty"),
    ]
    (summary,) = summarize_scores(scores)
    assert summary.mean == pytest.approx(0.3)
    assert summary.median == 0.0
    assert (summary.num_scored, summary.num_missed, summary.num_invented, summary.num_both_empty) == (3, 1, 1, 1)


def test_label_that_no_case_has():
    (summary,) = summarize_scores([make_score("p1", "organ", None, "both-empty")])
    assert (summary.mean, summary.median, summary.interval_low, summary.num_scored) == (None, None, None, 0)


def test_one_case_has_a_mean_but_no_interval():
    (summary,) = summarize_scores([make_score("p1", "organ", 0.8)])
    assert (summary.mean, summary.interval_low, summary.interval_high) == (0.8, None, None)


def test_labels_keep_their_order():
    scores = [make_score(case_id, label, 1.0) for case_id in "ab" for label in ("z", "y")]
    assert [summary.label for summary in summarize_scores(scores)] == ["z", "y"]


@pytest.mark.parametrize("values", [[], [0.7]])
def test_no_interval_below_two_values(values):
    assert bootstrap_interval(values) is None


def test_interval_of_two_values_by_hand():
    # Resampled means are 0, 0.5 and 1 with chances 1/4, 1/2, 1/4: 95 % reach both ends, 40 % stay in the middle.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)


@pytest.mark.parametrize("num_cases", [2, 5, 40])
def test_interval_contains_the_mean(num_cases):
    values = np.random.default_rng(num_cases).beta(8, 2, num_cases).tolist()
    low, high = bootstrap_interval(values)
    assert min(values) <= low <= np.mean(values) <= high <= max(values)


def test_interval_shrinks_with_more_cases():
    values = np.random.default_rng(0).beta(8, 2, 400).tolist()
    widths = [np.ptp(bootstrap_interval(values[:n])) for n in (10, 50, 400)]
    assert widths[0] > widths[1] > widths[2]


def test_interval_is_near_the_normal_one_for_many_cases():
    values = np.random.default_rng(1).normal(0.8, 0.1, 2000)
    low, high = bootstrap_interval(values.tolist(), num_resamples=2000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == (
        pytest.approx(values.mean() - half, abs=half / 5),
        pytest.approx(values.mean() + half, abs=half / 5),
    )


def test_more_confidence_is_wider():
    values = np.random.default_rng(2).random(20).tolist()
    assert np.ptp(bootstrap_interval(values, confidence=0.99)) > np.ptp(bootstrap_interval(values, confidence=0.5))


def test_same_seed_same_interval_other_seed_other_interval():
    values = np.random.default_rng(3).random(20).tolist()
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


@pytest.mark.parametrize("options", [{"confidence": 1.0}, {"confidence": 95}, {"num_resamples": 0}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ValueError, match="Expected 0 < confidence < 1"):
        bootstrap_interval([0.1, 0.2], **options)
