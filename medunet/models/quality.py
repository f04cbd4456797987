"""`QualityRanges`: what scans and masks looked like in training, as the model folder's ``quality.json``.

A scan or a mask outside these ranges is not wrong by itself; it is unlike anything that the model has learnt from or was
validated on, and a person should look. `medunet.postprocessing.find_flags` holds scans and masks against them.

Files of version 1 are read too: they lack `ChannelRanges.relative_median` and `LabelRanges.dice_calibration`, and count
parts of a single voxel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

QUALITY_VERSION = 2

_PERCENTILES = (0.0, 5.0, 50.0, 95.0, 100.0)


class Range(BaseModel):
    """How one number is spread over cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum: float
    percentile_05: float
    median: float
    percentile_95: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Range | None:
        """The range of some values; None of no values.

        Example:
            >>> Range.of([3.0, 1.0, 2.0]).median
            2.0
        """
        if not values:
            return None
        low, percentile_05, median, percentile_95, high = np.percentile(values, _PERCENTILES).tolist()
        return cls(minimum=low, percentile_05=percentile_05, median=median, percentile_95=percentile_95, maximum=high)


class AxisRanges(BaseModel):
    """One range along each anatomical axis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    right: Range
    anterior: Range
    superior: Range

    @classmethod
    def of(cls, points: Sequence[tuple[float, float, float]]) -> AxisRanges | None:
        """The ranges of some points ``(R, A, S)``; None of no points."""
        right, anterior, superior = (Range.of([point[axis] for point in points]) for axis in range(3))
        if right is None or anterior is None or superior is None:
            return None
        return cls(right=right, anterior=anterior, superior=superior)


class ChannelRanges(BaseModel):
    """Intensities within the body: percentiles of a case, spread over cases.

    Attributes:
        percentile_00_5: In the unit of the files.
        median: The same.
        percentile_99_5: The same.
        relative_median: Where the median lies between the other two, 0 to 1: the same whatever an MR scanner's gain is.
            None where no case has two intensities, and in files of version 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    percentile_00_5: Range
    median: Range
    percentile_99_5: Range
    relative_median: Range | None = None


class DiceCalibration(BaseModel):
    """What the agreement of a model's members says about the Dice of a label, learnt from validation cases.

    A straight line between the logits of the two, which rises or is level, with a prediction interval around it.
    `medunet.postprocessing.fit_dice_calibration` makes it, and says how; `medunet.postprocessing.predict_dice` applies it.

    Attributes:
        members: Whose agreement was measured, in the words of `medunet.postprocessing.AgreementCounts`; it says nothing
            about the agreement of others.
        num_cases: Validation cases that it was learnt from.
        intercept: Logit of the Dice at ``mean_agreement``.
        slope: Logits of Dice per logit of agreement, not negative.
        mean_agreement: Mean logit of the agreement.
        highest_agreement: Largest logit of the agreement; beyond it, no better Dice is promised.
        sum_squares: Of the distances of the agreements to their mean, in logits.
        half_width: Of the prediction interval, in logits, before it grows towards low agreement.
        level: Share of cases whose Dice lies within the interval.
        poor_dice: A Dice below this was poor by the measure of the validation cases; 0 where agreement cannot tell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: str
    num_cases: int
    intercept: float
    slope: float
    mean_agreement: float
    highest_agreement: float
    sum_squares: float
    half_width: float
    level: float
    poor_dice: float


class LabelRanges(BaseModel):
    """What one label or region looked like in the reference masks.

    Attributes:
        num_cases: Cases that hold it.
        num_without: Cases that were searched for it and do not hold it.
        num_cut: Cases where it touches the border of the scan; their volumes are left out.
        volume_ml: Over the cases where it lies whole within the scan; None where there is none.
        num_parts: Connected parts (26 neighbours) that hold at least 1 % of it; None where no case holds it.
        position: Centre of mass, as a share of the body's box: 0 at its left, posterior or inferior side, 1 at the other.
        dice: Of the validation cases; None where none was scored.
        dice_calibration: Predicts the Dice of a mask; None where too few cases were validated for that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_cases: int
    num_without: int
    num_cut: int
    volume_ml: Range | None
    num_parts: Range | None
    position: AxisRanges | None
    dice: Range | None
    dice_calibration: DiceCalibration | None = None


class QualityRanges(BaseModel):
    """What a model has seen.

    Attributes:
        version: Of this format.
        num_cases: Cases measured.
        spacing_mm: Voxel size along R, A, S.
        field_of_view_mm: Size of the whole scan along R, A, S.
        channels: Channel name -> intensities.
        labels: Label name -> its ranges, for every label of the task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = QUALITY_VERSION
    num_cases: int
    spacing_mm: AxisRanges
    field_of_view_mm: AxisRanges
    channels: dict[str, ChannelRanges]
    labels: dict[str, LabelRanges]
