"""Sets of masks beside each other: paired differences, corrected p values, rankings."""

import itertools

import numpy as np
import pytest

from medunet.errors import InputError
from medunet.evaluation import LabelScore, build_evaluation, compare_evaluations
from medunet.evaluation.compare import ALL_LABELS, compute_signed_rank_p, correct_by_holm


def make_evaluation(dices, label="organ"):
    """Case number -> Dice."""
    return build_evaluation(
        [
            LabelScore(
                case_id=f"p{case}", label=label, dice=dice, status="ok" if dice is not None else "both-empty",
                reference_ml=1, prediction_ml=1, tp=1, fp=0, fn=0,
            )
            for case, dice in dices.items()
        ]
    )  # fmt: skip


def compare_dice(**sets):
    return compare_evaluations({name: make_evaluation(dices) for name, dices in sets.items()}, ["dice"])


def test_differences_are_paired():
    """The means of all cases would say the opposite: the first set lacks the easy case."""
    comparison = compare_dice(first={1: 0.5, 2: 0.6}, second={1: 0.4, 2: 0.4, 3: 1.0})
    (row,) = comparison.differences
    assert (row.num_cases, row.first_mean, row.second_mean) == (2, pytest.approx(0.55), pytest.approx(0.4))
    assert (row.mean_difference, row.median_difference) == (pytest.approx(0.15), pytest.approx(0.15))
    assert comparison.left_out == ("case p3 is not scored in first",)
    assert comparison.num_cases == 2


def test_the_interval_holds_the_difference_and_a_constant_has_none():
    rng = np.random.default_rng(0)
    values = dict(enumerate(rng.uniform(0.5, 0.9, 30)))
    lower = {case: value - 0.1 for case, value in values.items()}
    (row,) = compare_dice(first=values, second=lower).differences
    assert (row.interval_low, row.interval_high) == (pytest.approx(0.1), pytest.approx(0.1))
    noisy = {case: value - rng.normal(0.1, 0.05) for case, value in values.items()}
    (row,) = compare_dice(first=values, second=noisy).differences
    assert row.interval_low < row.mean_difference < row.interval_high
    assert row.p_value < 1e-4


def test_the_exact_p_value_of_few_cases():
    """Five differences of one sign: 2 of 2**5 signs are as extreme."""
    assert compute_signed_rank_p([1, 2, 3, 4, 5]) == pytest.approx(2 / 2**5)
    assert compute_signed_rank_p([-1, -2, -3]) == pytest.approx(2 / 2**3)
    assert compute_signed_rank_p([0.5, 0, 0]) == 1  # one case proves nothing
    assert compute_signed_rank_p([0, 0, 0]) == 1


def test_the_exact_p_value_by_counting_signs():
    values = [3, -1, 4, 5, -2, 6]
    rank_sum = sum(value for value in values if value > 0)
    total = sum(range(1, 7))
    sums = [
        sum(rank for rank, is_up in zip(range(1, 7), signs, strict=True) if is_up)
        for signs in itertools.product((0, 1), repeat=6)
    ]
    extreme = sum(found >= rank_sum or found <= total - rank_sum for found in sums)
    assert compute_signed_rank_p(values) == pytest.approx(extreme / 2**6)


def test_equal_differences_are_exact_too():
    """Twenty of one sign: 2 of 2**20 choices. Ranks 1.5, 1.5, 3, 4 of which the last is negative: sums 0 to 10."""
    assert compute_signed_rank_p([0.1] * 20) == pytest.approx(2 / 2**20)
    ranks, found = (1.5, 1.5, 3, 4), 6
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=4)]
    expected = 2 * sum(one >= found for one in sums) / 2**4
    assert compute_signed_rank_p([0.1, 0.1 + 1e-15, 0.3, -0.4]) == pytest.approx(min(1, expected))


@pytest.mark.parametrize("count", [20, 250])
def test_many_differences_beside_scipy(count):
    from scipy.stats import wilcoxon

    values = np.random.default_rng(0).normal(0.1, 1, count)
    assert compute_signed_rank_p(values) == pytest.approx(wilcoxon(values).pvalue, rel=1e-6)


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.06 (no smaller than the one before)."""
    assert correct_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct_by_holm([0.9, 0.8]) == [1.0, 1.0]
    assert correct_by_holm([]) == []


def test_all_tests_of_a_metric_are_corrected_together():
    rng = np.random.default_rng(0)
    sets = {name: dict(enumerate(rng.uniform(0.5, 0.9, 12))) for name in ("a", "b", "c")}
    rows = compare_dice(**sets).differences
    assert [(row.first, row.second) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [row.p_holm for row in rows] == pytest.approx(correct_by_holm([row.p_value for row in rows]))


def test_what_one_set_cannot_score_counts_in_none():
    comparison = compare_dice(first={1: None, 2: 0.5}, second={1: 0.0, 2: 0.5})
    (row,) = comparison.differences
    assert (row.num_cases, row.p_value, row.p_holm) == (1, 1.0, 1.0)
    nothing = compare_dice(first={1: None}, second={1: None})
    assert nothing.rankings == ()
    assert all(row.mean_difference is None and row.p_holm is None for row in nothing.differences)


def test_the_mean_of_labels_comes_first():
    sets = {}
    for name, (liver, spleen) in {"a": (0.9, 0.7), "b": (0.8, 0.5)}.items():
        scores = make_evaluation({1: liver}, "liver").scores + make_evaluation({1: spleen}, "spleen").scores
        sets[name] = build_evaluation(scores)
    rows = compare_evaluations(sets, ["dice"]).differences
    assert [row.label for row in rows] == [ALL_LABELS, "liver", "spleen"]
    assert [row.mean_difference for row in rows] == pytest.approx([0.15, 0.1, 0.2])


def test_a_clear_ranking_is_stable_and_a_draw_is_not():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.6, 20)
    clear = compare_dice(worse=dict(enumerate(base)), better=dict(enumerate(base + 0.2))).rankings[0]
    assert (clear.order, clear.stability) == (("better", "worse"), 1.0)
    assert clear.rank_shares == {"worse": (0.0, 1.0), "better": (1.0, 0.0)}
    assert clear.means == (pytest.approx(base.mean() + 0.2), pytest.approx(base.mean()))
    other = base + rng.normal(0, 0.05, 20)
    other -= (other - base).mean() + 1e-6  # almost a tie
    draw = compare_dice(first=dict(enumerate(base)), second=dict(enumerate(other))).rankings[0]
    assert 0.3 < draw.stability < 0.7
    assert sum(draw.rank_shares["first"]) == pytest.approx(1)


def test_equal_sets_share_a_place():
    """Neither is better, however often cases are drawn; a third one that is worse comes third."""
    values = dict(enumerate(np.random.default_rng(0).uniform(0.5, 0.9, 7)))
    sets = {"x": values, "y": dict(values), "worse": {case: value - 0.1 for case, value in values.items()}}
    ranking = compare_dice(**sets).rankings[0]
    assert (ranking.order, ranking.places) == (("x", "y", "worse"), (1, 1, 3))
    assert ranking.place_names == ("1=", "1=", "3")
    assert ranking.rank_shares == {"x": (1.0, 0.0, 0.0), "y": (1.0, 0.0, 0.0), "worse": (0.0, 0.0, 1.0)}
    assert (ranking.stability, ranking.num_cases) == (1.0, 7)


def test_a_tie_that_other_cases_break_is_not_stable():
    """Drawn anew, four cases in six leave the tie in 3 of 8 draws: two of one kind and two of the other."""
    ranking = compare_dice(x={1: 0.9, 2: 0.9, 3: 0.5, 4: 0.5}, y={1: 0.5, 2: 0.5, 3: 0.9, 4: 0.9}).rankings[0]
    assert ranking.place_names == ("1=", "1=")
    assert ranking.stability == pytest.approx(6 / 16, abs=0.02)
    assert ranking.rank_shares["x"] == pytest.approx((11 / 16, 5 / 16), abs=0.02)


def test_signed_errors_are_ordered_and_shown_without_their_sign():
    """Errors of +5 and -5 are 5 ml on average, not 0, over cases as well as over the labels of a case."""
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class WithVolume(LabelScore):
        volume_error_ml: float

    def build(errors_ml):
        return build_evaluation(
            WithVolume(**vars(score), volume_error_ml=error_ml)
            for label, of_label in errors_ml.items()
            for error_ml, score in zip(of_label, make_evaluation({1: 0.5, 2: 0.5}, label).scores, strict=True)
        )

    sets = {"wild": build({"a": (5.0, -5.0), "b": (-5.0, 5.0)}), "tame": build({"a": (-2.0, -2.0), "b": (-2.0, -2.0)})}
    ranking = compare_evaluations(sets, ["volume_error_ml"]).rankings[0]
    assert (ranking.order, ranking.means) == (("tame", "wild"), (2.0, 5.0))


def test_a_case_that_no_set_scores_is_named():
    from dataclasses import replace

    from medunet.evaluation import CaseFailure

    first, second = make_evaluation({1: 0.5}), make_evaluation({1: 0.5})
    failures = [CaseFailure(case_id="p8", reason="damaged")]
    first = replace(first, unmatched_cases=["p7"], failures=failures)
    second = replace(second, unmatched_cases=["p7"], failures=failures)
    comparison = compare_evaluations({"first": first, "second": second}, ["dice"])
    assert comparison.left_out == ("case p7 is not scored in any set", "case p8 is not scored in any set")


def test_advice_is_of_the_cases_that_are_compared():
    """Ten cases would be enough; nine are compared, and what one set misses in another case is not said."""
    from dataclasses import replace

    from medunet.evaluation import give_advice, give_joint_advice

    full, short = make_evaluation(dict.fromkeys(range(10), 0.5)), make_evaluation(dict.fromkeys(range(9), 0.5))
    full = replace(full, scores=[*full.scores[:9], replace(full.scores[9], status="missed")])
    assert any("missed in 1 of 10" in text for text in give_advice(full))
    advice = give_joint_advice({"full": full, "short": short})
    assert advice[0].startswith("9 case(s): ")
    assert advice == give_advice(short)


def test_a_smaller_distance_is_better():
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class WithDistance(LabelScore):
        hd95_mm: float

    def build(mm):
        (score,) = make_evaluation({1: 0.5}).scores
        return build_evaluation([WithDistance(**vars(score), hd95_mm=mm)])

    ranking = compare_evaluations({"far": build(9.0), "near": build(3.0)}, ["hd95_mm"]).rankings[0]
    assert ranking.order == ("near", "far")


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="expected two or more"):
        compare_dice(only={1: 0.5})
    with pytest.raises(InputError, match="No case is scored in every set"):
        compare_dice(first={1: 0.5}, second={2: 0.5})
