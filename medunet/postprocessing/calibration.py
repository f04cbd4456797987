"""From the agreement of an ensemble's members to the Dice that its mask may have.

The relation is learnt per label from validation cases, whose agreement and true Dice are both known. It is a straight
line between the logits of the two: agreement is itself a Dice, of the members with their mean, so the line is near the
diagonal where members disagree as much as they err, and lies below it where they err together. That agreement follows
the Dice was found by Roy 2019 (https://doi.org/10.1016/j.neuroimage.2019.03.042), structure by structure.

The interval does not trust a distribution. It is as wide as the errors of the line on cases that it was not fitted to, each
left out in turn (the jackknife; Barber 2021, https://doi.org/10.1214/20-AOS1965, on what it holds and does not hold): with
ten cases, as wide as the worst of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import expit, logit

from medunet.models.quality import DiceCalibration
from medunet.volume import Array

MIN_CALIBRATION_CASES: Final = 10
"""Of fewer, no interval of `LEVEL` can be read off the cases: one more than 1 / (1 - level)."""
LEVEL: Final = 0.9
_NEAREST: Final = 0.002  # to 0 and 1, whose logits are infinite
_NOTICEABLE: Final = 0.05  # of Dice; where all validation cases are alike, less makes no mask poor


@dataclass(frozen=True, kw_only=True)
class PredictedDice:
    """The Dice that a mask may have.

    Attributes:
        value: The most that can be said in one number.
        low: Lower end of the prediction interval; one mask of twenty is worse.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def fit_dice_calibration(
    agreements: Sequence[float | None], dices: Sequence[float | None], *, members: str
) -> DiceCalibration | None:
    """Learn what the agreement says about the Dice of one label.

    Args:
        agreements: Of validation cases (`compute_agreement`), by networks that have not seen them.
        dices: Of the same cases, after post-processing; pairs with a None are left out.
        members: Whose agreement it is, see `AgreementCounts`.

    Returns:
        None of fewer than `MIN_CALIBRATION_CASES` pairs, or when all agreements are the same.
    """
    pairs = [
        (one, other) for one, other in zip(agreements, dices, strict=True) if one is not None and other is not None
    ]
    if len(pairs) < MIN_CALIBRATION_CASES:
        return None
    x, y = _to_logits(np.array(pairs)).T
    if np.ptp(x) < 1e-6:
        return None
    line = _fit_line(x, y)
    errors = []
    for left_out in range(len(pairs)):
        others = _fit_line(np.delete(x, left_out), np.delete(y, left_out))
        errors.append(abs(y[left_out] - others.at(x[left_out])) / others.grow(x[left_out]))
    rank = math.ceil((len(pairs) + 1) * LEVEL)  # of the errors, such that the next is smaller with this chance
    calibration = DiceCalibration(
        members=members,
        num_cases=len(pairs),
        intercept=line.intercept,
        slope=line.slope,
        mean_agreement=line.mean,
        highest_agreement=float(x.max()),
        sum_squares=line.sum_squares,
        half_width=float(sorted(errors)[rank - 1]),
        level=LEVEL,
        poor_dice=0.0,
    )
    return calibration.model_copy(update={"poor_dice": _choose_poor_dice(calibration, *zip(*pairs, strict=True))})


def predict_dice(calibration: DiceCalibration | None, agreement: float | None) -> PredictedDice | None:
    """The Dice that a mask with this agreement may have.

    More agreement never lowers the value, nor its lower end. Above the highest agreement of the validation cases nothing
    better is promised; towards low agreement, where few of them lie, the interval grows.

    Args:
        calibration: Of the label; None where there is none.
        agreement: Of the label, by the same members; None where nothing was found of it.

    Returns:
        None without calibration or agreement.
    """
    if calibration is None or agreement is None:
        return None
    line = _Line(
        intercept=calibration.intercept,
        slope=calibration.slope,
        mean=calibration.mean_agreement,
        sum_squares=calibration.sum_squares,
        num_cases=calibration.num_cases,
    )
    x = min(float(_to_logits(np.array(agreement))), calibration.highest_agreement)
    middle, reach = line.at(x), calibration.half_width * line.grow(x)
    return PredictedDice(
        value=float(expit(middle)), low=float(expit(middle - reach)), high=float(expit(middle + reach))
    )


def is_predicted_poor(calibration: DiceCalibration, predicted: PredictedDice) -> bool:
    """Whether a mask may be poor: whether the lower end of the interval lies below what was poor in validation.

    A Dice is poor that does not belong to the rest of the validation cases: 1.5 interquartile ranges below their first
    quartile (Tukey's fence, on logits, where it holds one of 300 normal numbers), and at least 0.05 below it; or half their
    median, if that is higher. It is lowered until at most one of twenty validation cases would have been flagged. Where even
    a mask of the usual agreement may be poor, agreement cannot tell poor masks from others, and 0 is poor, which flags none.
    """
    return predicted.low < calibration.poor_dice


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of least squares that does not fall."""

    intercept: float
    slope: float
    mean: float
    sum_squares: float
    num_cases: int

    def at(self, x: float) -> float:
        return self.intercept + self.slope * (x - self.mean)

    def grow(self, x: float) -> float:
        """Deviation of the error at x over that of the residuals. On the upper side it stays, lest more agreement lower
        the lower end of the interval."""
        below = max(0.0, self.mean - x)
        leverage = below**2 / self.sum_squares if self.sum_squares > 0 else 0.0
        return math.sqrt(1 + 1 / self.num_cases + leverage)


def _fit_line(x: Array, y: Array) -> _Line:
    mean = float(x.mean())
    sum_squares = float(((x - mean) ** 2).sum())
    slope = float((x - mean) @ y) / sum_squares if sum_squares > 0 else 0.0
    return _Line(intercept=float(y.mean()), slope=max(0.0, slope), mean=mean, sum_squares=sum_squares, num_cases=len(x))


def _to_logits(shares: Array) -> Array:
    logits: Array = logit(np.clip(shares, _NEAREST, 1 - _NEAREST))
    return logits


def _choose_poor_dice(calibration: DiceCalibration, agreements: Sequence[float], dices: Sequence[float]) -> float:
    """See `is_predicted_poor`."""
    first, median, third = np.percentile(dices, (25, 50, 75)).tolist()
    low, high = _to_logits(np.array([first, third])).tolist()
    fence = min(float(expit(low - 1.5 * (high - low))), first - _NOTICEABLE)
    poor = max(fence, median / 2)
    usual, *ends = (
        predicted.low
        for agreement in (float(expit(calibration.mean_agreement)), *agreements)
        if (predicted := predict_dice(calibration, agreement)) is not None
    )
    return min(poor, sorted(ends)[len(ends) // 20]) if usual >= poor else 0.0
