"""Quality flags: what about a scan or its mask is unlike everything that the model was trained and validated on.

A flag does not say that a mask is wrong, and no flag does not say that it is right: a flag is a reason to look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from medunet.models.quality import AxisRanges, LabelRanges, QualityRanges, Range
from medunet.postprocessing.agreement import AgreementCounts, compute_agreement
from medunet.postprocessing.calibration import is_predicted_poor, predict_dice
from medunet.postprocessing.quality import CaseFacts, LabelFacts, compute_relative_median, measure_case
from medunet.postprocessing.sides import ANATOMICAL_AXES
from medunet.postprocessing.tolerance import MIN_CASES, Scale, widen_range
from medunet.postprocessing.volumes import describe_cut
from medunet.tasks import Task
from medunet.volume import Volume

FlagCode = Literal[
    "spacing", "field-of-view", "intensity", "missing", "cut", "volume", "num-parts", "position", "predicted-dice"
]

_CHANCE_PER_SCAN: Final = 0.05  # that a usual scan with a right mask is flagged for one of its numbers
_USUALLY_CUT: Final = 0.1  # of the training cases
_SPACING_FACTOR: Final = 1.25  # every scan is resampled; a quarter more or less can hardly be seen afterwards
_FIELD_OF_VIEW_FACTOR: Final = 1.25  # networks see patches, not the size of the scan
_VOLUME_FACTOR: Final = 1.25  # two people who outline one small organ differ by as much
_POSITION_MARGIN: Final = 0.1  # of the body: what a bent arm or a table within the box moves
_INTENSITY_MARGIN: Final = 0.05  # of the distance between the outer percentiles
_PERCENTILES: Final = ("0.5th percentile", "median", "99.5th percentile")


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One thing that is unlike training; plain data (``dataclasses.asdict``).

    Attributes:
        code: Kind of flag; see `find_flags`.
        label: The structure that it is about; None when it is about the scan.
        quantity: What was measured, such as ``"spacing along superior"``.
        unit: Of the numbers; empty where they have none.
        found: In this scan or mask; None where nothing was measured.
        expected: Least and greatest in training; None where no range applies.
        tolerated: The limits that ``found`` crossed, see `medunet.postprocessing.tolerance`.
        message: One sentence for people, without names of patients or files.
    """

    code: FlagCode
    label: str | None
    quantity: str
    unit: str
    found: float | None
    expected: tuple[float, float] | None
    tolerated: tuple[float, float] | None
    message: str


def find_flags(
    image: Volume,
    labels: Volume,
    task: Task,
    ranges: QualityRanges | None,
    *,
    agreement: AgreementCounts | None = None,
) -> tuple[Flag, ...]:
    """What is unusual about a scan and its mask.

    - ``spacing``, ``field-of-view``: of the scan, along the axis that is farthest out.
    - ``intensity``: the 0.5th percentile, the median or the 99.5th percentile within the body; with the intensity rule
      ``zscore``, which takes away scale and offset, only where the median lies between the other two. A channel of a
      single intensity is flagged always.
    - ``missing``: nothing was found of a structure that every training case holds.
    - ``cut``: a structure touches the border of the scan, which it did in less than a tenth of the training cases.
    - ``volume``, ``num-parts``, ``position``: of a structure. The volume of a cut structure is not judged, nor the position
      along an axis whose field of view is flagged: it would follow from that.
    - ``predicted-dice``: the agreement of the members says that the mask may be poor, see `is_predicted_poor`.

    Numbers are held against the range of training, widened so that of usual scans with right masks about one in twenty is
    flagged, whatever the number of labels and of training cases; see `medunet.postprocessing.tolerance`. Of fewer than
    5 cases nothing is said.

    Args:
        image: ``(C, I, J, K)``, as it was read.
        labels: ``(1, I, J, K)`` on its grid, after post-processing.
        task: Of the model.
        ranges: Of the model; None finds no flags.
        agreement: Of the members that made the mask; held only against a calibration for the same members.

    Returns:
        Flags about the scan first, then label by label.
    """
    if ranges is None:
        return ()
    return judge_case(measure_case(image, labels, task), task, ranges, agreement=agreement)


def judge_case(
    facts: CaseFacts, task: Task, ranges: QualityRanges, *, agreement: AgreementCounts | None = None
) -> tuple[Flag, ...]:
    """`find_flags` of a case that was measured before."""
    judge = _Judge(chance=_CHANCE_PER_SCAN / _count_numbers(task))
    flags = list(_judge_spacing(facts, ranges, judge))
    far_axes = judge.list_outside(
        facts.field_of_view_mm, ranges.field_of_view_mm, ranges.num_cases, scale="log", margin=_FIELD_OF_VIEW_FACTOR
    )
    flags += _judge_field_of_view(far_axes)
    flags += _judge_intensities(facts, task, ranges, judge)
    for name, found in facts.labels.items():
        if (seen := ranges.labels.get(name)) is not None:
            flags += _judge_label(name, found, seen, ranges, judge, {outside.axis for outside in far_axes})
    return (*flags, *_judge_agreement(facts, ranges, agreement))


@dataclass(frozen=True, kw_only=True)
class _Outside:
    """A number beyond its limits."""

    axis: str
    found: float
    expected: tuple[float, float]
    tolerated: tuple[float, float]
    excess: float  # beyond the limit, as a share of the tolerated width

    def build_flag(self, code: FlagCode, quantity: str, unit: str, subject: str, label: str | None = None) -> Flag:
        low, high = (format_number(limit) for limit in self.expected)
        seen = low if low == high else f"{low} to {high}"
        return Flag(
            code=code,
            label=label,
            quantity=quantity,
            unit=unit,
            found=self.found,
            expected=self.expected,
            tolerated=self.tolerated,
            message=f"{subject} is {_with_unit(format_number(self.found), unit)}; in training it was {_with_unit(seen, unit)}.",
        )


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Holds numbers against ranges."""

    chance: float

    def find_outside(
        self, found: float, seen: Range, num_cases: int, *, axis: str = "", scale: Scale = "linear", margin: float = 0.0
    ) -> _Outside | None:
        limits = widen_range(seen, num_cases, chance=self.chance, scale=scale, margin=margin)
        if limits is None:
            return None
        low, high = limits
        rounding = 1e-6 * max(abs(low), abs(high))  # of a file's header, or of the logarithm
        beyond = max(low - found, found - high)
        if beyond <= rounding:
            return None
        return _Outside(
            axis=axis,
            found=found,
            expected=(seen.minimum, seen.maximum),
            tolerated=limits,
            excess=beyond / (high - low) if high > low else float("inf"),
        )

    def list_outside(
        self,
        found: tuple[float, float, float],
        seen: AxisRanges,
        num_cases: int,
        *,
        scale: Scale = "linear",
        margin: float = 0.0,
    ) -> list[_Outside]:
        """Along which axes a number is outside, the farthest first."""
        ranges = (seen.right, seen.anterior, seen.superior)
        outside = [
            self.find_outside(value, of_axis, num_cases, axis=axis, scale=scale, margin=margin)
            for value, of_axis, axis in zip(found, ranges, ANATOMICAL_AXES, strict=True)
        ]
        return sorted((one for one in outside if one is not None), key=lambda one: -one.excess)


def _count_numbers(task: Task) -> int:
    """Numbers that are held against ranges in every scan: the more, the more are outside by chance."""
    num_intensities = 1 if task.intensity == "zscore" else len(_PERCENTILES)
    return 6 + num_intensities * len(task.channels) + 5 * len(task.labels)


def _judge_spacing(facts: CaseFacts, ranges: QualityRanges, judge: _Judge) -> Iterator[Flag]:
    outside = judge.list_outside(
        facts.spacing_mm, ranges.spacing_mm, ranges.num_cases, scale="log", margin=_SPACING_FACTOR
    )
    for worst in outside[:1]:
        quantity = f"spacing along {worst.axis}"
        yield worst.build_flag("spacing", quantity, "mm", f"The {quantity}")


def _judge_field_of_view(outside: list[_Outside]) -> Iterator[Flag]:
    for worst in outside[:1]:
        quantity = f"field of view along {worst.axis}"
        yield worst.build_flag("field-of-view", quantity, "mm", f"The {quantity}")


def _judge_intensities(facts: CaseFacts, task: Task, ranges: QualityRanges, judge: _Judge) -> Iterator[Flag]:
    unit = "HU" if task.modality == "CT" else ""
    for channel, percentiles in zip(task.channels, facts.intensities, strict=True):
        relative = compute_relative_median(percentiles)
        if relative is None:
            yield Flag(
                code="intensity",
                label=None,
                quantity=f"intensities of channel {channel}",
                unit=unit,
                found=percentiles[1],
                expected=None,
                tolerated=None,
                message=f"All of channel {channel} has one intensity, {format_number(percentiles[1])}: nothing can be seen in it.",
            )
            continue
        if (seen := ranges.channels.get(channel)) is None:
            continue
        outer = (seen.percentile_00_5, seen.median, seen.percentile_99_5)
        if task.intensity == "zscore":
            if seen.relative_median is None:
                continue
            numbers = [("relative median", relative, seen.relative_median, _INTENSITY_MARGIN)]
            unit = ""
        else:
            margin = _INTENSITY_MARGIN * (outer[2].median - outer[0].median)
            numbers = [(*of_one, margin) for of_one in zip(_PERCENTILES, percentiles, outer, strict=True)]
        outside = [
            judge.find_outside(found, of_cases, ranges.num_cases, axis=what, margin=margin)
            for what, found, of_cases, margin in numbers
        ]
        for worst in sorted((one for one in outside if one is not None), key=lambda one: -one.excess)[:1]:
            quantity = f"{worst.axis} of channel {channel}"
            yield worst.build_flag("intensity", quantity, unit, f"The {quantity} within the body")


def _judge_label(
    name: str,
    found: LabelFacts | None,
    seen: LabelRanges,
    ranges: QualityRanges,
    judge: _Judge,
    far_axes: set[str],
) -> Iterator[Flag]:
    if found is None:
        if seen.num_cases >= MIN_CASES and seen.num_without == 0:
            yield _build_missing(name, seen)
        return
    if found.is_cut:
        if seen.num_cases >= MIN_CASES and seen.num_cut < _USUALLY_CUT * seen.num_cases:
            yield _build_cut(name, found, seen)
    elif seen.volume_ml is not None:
        num_whole = seen.num_cases - seen.num_cut
        outside = judge.find_outside(found.volume_ml, seen.volume_ml, num_whole, scale="log", margin=_VOLUME_FACTOR)
        if outside:
            yield outside.build_flag("volume", "volume", "ml", f"The volume of {name}", name)
    if seen.num_parts is not None:
        outside = judge.find_outside(found.num_parts, seen.num_parts, seen.num_cases, scale="log")
        # Version 1 counted specks too, so there fewer parts mean nothing.
        if outside and (ranges.version > 1 or found.num_parts > seen.num_parts.maximum):
            yield outside.build_flag("num-parts", "parts", "", f"The number of parts of {name}", name)
    if seen.position is not None:
        positions = judge.list_outside(found.position, seen.position, seen.num_cases, margin=_POSITION_MARGIN)
        for worst in [one for one in positions if one.axis not in far_axes][:1]:
            quantity = f"position along {worst.axis}"
            subject = f"The {quantity} of {name}, as a share of the body,"
            yield worst.build_flag("position", quantity, "", subject, name)


def _build_missing(name: str, seen: LabelRanges) -> Flag:
    volume = seen.volume_ml
    return Flag(
        code="missing",
        label=name,
        quantity="volume",
        unit="ml",
        found=0.0,
        expected=None if volume is None else (volume.minimum, volume.maximum),
        tolerated=None,
        message=f"Nothing was found of {name}, which all {seen.num_cases} training cases hold.",
    )


def _build_cut(name: str, found: LabelFacts, seen: LabelRanges) -> Flag:
    how_often = f"{seen.num_cut} of the {seen.num_cases}" if seen.num_cut else f"none of the {seen.num_cases}"
    return Flag(
        code="cut",
        label=name,
        quantity="volume",
        unit="ml",
        found=None,
        expected=None,
        tolerated=None,
        message=(
            f"{name} {describe_cut(found.cut_sides)}, as in {how_often} training cases; part of it may lie outside, so "
            "its volume is not known."
        ),
    )


def _judge_agreement(facts: CaseFacts, ranges: QualityRanges, agreement: AgreementCounts | None) -> Iterator[Flag]:
    values: Mapping[str, float | None] = {} if agreement is None else compute_agreement(agreement)
    for name, value in values.items():
        calibration = ranges.labels[name].dice_calibration if name in ranges.labels else None
        if calibration is None or agreement is None or calibration.members != agreement.members:
            continue
        predicted = predict_dice(calibration, value)
        # Of what the mask does not hold, no Dice is predicted: another flag says that it is missing.
        if predicted is None or facts.labels.get(name) is None or not is_predicted_poor(calibration, predicted):
            continue
        yield Flag(
            code="predicted-dice",
            label=name,
            quantity="predicted Dice",
            unit="",
            found=predicted.value,
            expected=(calibration.poor_dice, 1.0),
            tolerated=(calibration.poor_dice, 1.0),
            message=(
                f"The predicted Dice of {name} is {predicted.value:.2f} ({predicted.low:.2f} to {predicted.high:.2f}); "
                f"in validation, less than {calibration.poor_dice:.2f} was poor."
            ),
        )


def format_number(value: float) -> str:
    """Three digits, or all of those before the point.

    Example:
        >>> format_number(0.12345), format_number(12345.6), format_number(2.0)
        ('0.123', '12346', '2')
    """
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _with_unit(number: str, unit: str) -> str:
    return f"{number} {unit}" if unit else number
