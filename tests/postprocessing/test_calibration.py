"""Predicted Dice, on made-up pairs of agreement and Dice whose law is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from medunet.models.quality import DiceCalibration
from medunet.postprocessing import fit_dice_calibration, is_predicted_poor, predict_dice
from medunet.volume import Array

MEMBERS = "4 flips"


def make_pairs(
    generator: np.random.Generator, num_cases: int, *, slope: float = 0.9, deviation: float = 0.3, heavy: bool = False
) -> tuple[list[float], list[float]]:
    """Agreement around 0.95, Dice around 0.9."""
    x = generator.normal(3.0, 0.6, num_cases)
    errors: Array = generator.standard_t(3, num_cases) if heavy else generator.normal(0, 1, num_cases)
    return expit(x).tolist(), expit(2.2 + slope * (x - 3.0) + deviation * errors).tolist()


def fit(agreements: list[float], dices: list[float]) -> DiceCalibration:
    calibration = fit_dice_calibration(agreements, dices, members=MEMBERS)
    assert calibration is not None
    return calibration


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy tails"])
@pytest.mark.parametrize("num_cases", [10, 15, 40])
def test_the_interval_holds_the_share_of_new_cases_that_it_states(num_cases: int, heavy: bool) -> None:
    generator = np.random.default_rng(num_cases)
    inside = []
    for _ in range(200):
        calibration = fit(*make_pairs(generator, num_cases, heavy=heavy))
        for agreement, dice in zip(*make_pairs(generator, 10, heavy=heavy), strict=True):
            predicted = predict_dice(calibration, agreement)
            assert predicted is not None
            inside.append(predicted.low <= dice <= predicted.high)
    assert 0.86 <= np.mean(inside) <= 0.96  # 0.90 is stated


def test_many_cases_find_the_law() -> None:
    calibration = fit(*make_pairs(np.random.default_rng(1), 400))
    assert calibration.slope == pytest.approx(0.9, abs=0.1)
    assert calibration.half_width == pytest.approx(1.645 * 0.3, rel=0.15)
    for x in (2.0, 3.0, 4.0):
        predicted = predict_dice(calibration, float(expit(x)))
        assert predicted is not None
        assert logit(predicted.value) == pytest.approx(2.2 + 0.9 * (x - 3.0), abs=0.1)


@pytest.mark.parametrize("slope", [0.9, 0.05, 0.0, -0.5])
def test_more_agreement_never_lowers_what_is_promised(slope: float) -> None:
    for seed in range(20):
        calibration = fit(*make_pairs(np.random.default_rng(seed), 12, slope=slope))
        predicted = [predict_dice(calibration, agreement) for agreement in np.linspace(0, 1, 201).tolist()]
        values, lows = np.array([(one.value, one.low) for one in predicted if one is not None]).T
        assert len(values) == 201
        assert (np.diff(values) >= -1e-12).all()
        assert (np.diff(lows) >= -1e-12).all()
        assert all(0 <= one.low <= one.value <= one.high <= 1 for one in predicted if one is not None)


def test_nothing_better_is_promised_than_was_seen() -> None:
    agreements, dices = make_pairs(np.random.default_rng(2), 20)
    calibration = fit(agreements, dices)
    assert predict_dice(calibration, 1.0) == predict_dice(calibration, max(agreements))
    assert predict_dice(calibration, 0.0).high < 1  # type: ignore[union-attr]


def test_the_interval_grows_where_no_case_was() -> None:
    calibration = fit(*make_pairs(np.random.default_rng(2), 12))
    near, far = (predict_dice(calibration, float(expit(x))) for x in (3.0, 0.5))
    assert near is not None
    assert far is not None
    assert logit(far.high) - logit(far.low) > 1.5 * (logit(near.high) - logit(near.low))


def test_too_few_cases_or_one_agreement_predict_nothing() -> None:
    agreements, dices = make_pairs(np.random.default_rng(0), 10)
    assert fit_dice_calibration(agreements, dices, members=MEMBERS) is not None
    assert fit_dice_calibration(agreements[:9], dices[:9], members=MEMBERS) is None
    assert fit_dice_calibration([None, *agreements[1:]], dices, members=MEMBERS) is None
    assert fit_dice_calibration(agreements, [*dices[:9], None], members=MEMBERS) is None
    assert fit_dice_calibration([0.9] * 10, dices, members=MEMBERS) is None
    assert predict_dice(None, 0.9) is None
    assert predict_dice(fit(agreements, dices), None) is None


def test_perfect_and_missed_cases_are_finite() -> None:
    calibration = fit([1.0] * 5 + [0.0] * 3 + [0.8] * 4, [1.0] * 5 + [0.0] * 3 + [0.7] * 4)
    predicted = predict_dice(calibration, 1.0)
    assert predicted is not None
    assert predicted.value > 0.95
    assert DiceCalibration.model_validate_json(calibration.model_dump_json()) == calibration


def flag_share(calibration: DiceCalibration, agreements: list[float]) -> float:
    predicted = [predict_dice(calibration, agreement) for agreement in agreements]
    return float(np.mean([is_predicted_poor(calibration, one) for one in predicted if one is not None]))


@pytest.mark.parametrize("num_cases", [10, 30, 100])
def test_poor_masks_are_told_and_usual_ones_left_alone(num_cases: int) -> None:
    generator = np.random.default_rng(num_cases)
    usual, poor = [], []
    for _ in range(60):
        calibration = fit(*make_pairs(generator, num_cases, deviation=0.2))
        usual.append(flag_share(calibration, make_pairs(generator, 20)[0]))
        poor.append(flag_share(calibration, [0.3, 0.5]))  # a Dice of about 0.2 and 0.4
    assert np.mean(usual) < 0.1
    assert np.mean(poor) > 0.9


def test_where_agreement_says_nothing_hardly_anything_is_told() -> None:
    generator = np.random.default_rng(5)
    shares = []
    for _ in range(40):
        calibration = fit(*make_pairs(generator, 15, slope=0.0, deviation=1.0))
        shares.append(flag_share(calibration, make_pairs(generator, 20)[0]))
    assert np.mean(shares) < 0.04
    # One case of twelve was a failure in spite of full agreement: the usual mask is not told from it.
    agreements, dices = make_pairs(generator, 12, deviation=0.1)
    calibration = fit(agreements, [0.05, *dices[1:]])
    assert calibration.poor_dice == 0
    assert flag_share(calibration, np.linspace(0, 1, 101).tolist()) == 0


def test_what_is_poor_by_hand() -> None:
    agreements = np.linspace(0.8, 0.95, 11).tolist()
    follow = [0.9 + 0.001 * case for case in range(11)]  # quartiles 0.9025 and 0.9075
    assert fit(agreements, follow).poor_dice == pytest.approx(0.8525)
    spread = expit(np.linspace(1.0, 3.0, 11)).tolist()  # logits of the quartiles 1.5 and 2.5
    exact = expit(np.linspace(2.0, 4.0, 11)).tolist()
    assert fit(exact, spread).poor_dice == pytest.approx(expit(0.0), abs=1e-3)
    wide = expit(np.linspace(-3.0, 3.0, 11)).tolist()  # the fence, at a logit of -6, is lower than half the median
    assert fit(exact, wide).poor_dice == pytest.approx(min(wide), abs=1e-6)  # one of eleven would be flagged at 0.25


@pytest.mark.parametrize("num_cases", [10, 40])
def test_at_most_one_of_twenty_validation_cases_would_have_been_flagged(num_cases: int) -> None:
    for seed in range(20):
        agreements, dices = make_pairs(np.random.default_rng(seed), num_cases, slope=1.5, deviation=0.1, heavy=True)
        assert flag_share(fit(agreements, dices), agreements) <= 0.05
