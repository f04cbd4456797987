"""`SpeedRecord`: what more or less work per scan is worth, measured on validation cases, as the model folder's ``speed.json``."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

SPEED_VERSION = 1

MIN_FLIP_GAIN = 0.0005
"""Mean Dice that mirrored passes must gain to be worth their time."""
MAX_LOCATE_LOSS = 0.002
"""Mean Dice that looking only where a small network points may cost."""


class MeasuredSpeed(BaseModel):
    """One way to segment.

    Attributes:
        step_fraction: Largest step between tiles as a share of the tile.
        num_flips: Passes per tile, the one that is not mirrored included.
        dice: Mean over labels and cases, as the network makes the masks.
        seconds: Mean per case, on the device that trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_fraction: float
    num_flips: int
    dice: float
    seconds: float


class SpeedRecord(BaseModel):
    """What was measured after training.

    Attributes:
        version: Of this format.
        num_cases: Validation cases that were segmented in every way.
        uses_flips: Whether mirrored passes gained `MIN_FLIP_GAIN` or more.
        fast: Larger steps, no mirrored passes.
        balanced: Usual steps, no mirrored passes.
        best: Usual steps, all mirrored passes; None where the network knows no mirrored tiles.
        located: As ``balanced``, but only in the box that the small network found; None where there is none.
        uses_locator: Whether that was faster, and lost no more than `MAX_LOCATE_LOSS`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = SPEED_VERSION
    num_cases: int
    uses_flips: bool
    fast: MeasuredSpeed
    balanced: MeasuredSpeed
    best: MeasuredSpeed | None
    located: MeasuredSpeed | None = None
    uses_locator: bool = False

    @classmethod
    def of(
        cls,
        num_cases: int,
        fast: MeasuredSpeed,
        balanced: MeasuredSpeed,
        best: MeasuredSpeed | None,
        located: MeasuredSpeed | None = None,
    ) -> SpeedRecord:
        """The record of what was measured on some cases."""
        return cls(
            num_cases=num_cases,
            uses_flips=best is not None and best.dice - balanced.dice >= MIN_FLIP_GAIN,
            fast=fast,
            balanced=balanced,
            best=best,
            located=located,
            uses_locator=located is not None
            and located.dice >= balanced.dice - MAX_LOCATE_LOSS
            and located.seconds < balanced.seconds,
        )

    def describe(self) -> str:
        """What each speed costs and scores, in one line for people; only ``located`` looked at a part of the scans."""
        ways = [("fast", self.fast), ("balanced", self.best if self.uses_flips and self.best else self.balanced)]
        ways += [("best", self.best)] if self.best is not None else []
        ways += [("located", self.located)] if self.located is not None else []
        scores = ", ".join(f"{name} Dice {way.dice:.4f} in {way.seconds:.1f} s" for name, way in ways)
        notes = [f"{self.num_cases} case{'' if self.num_cases == 1 else 's'}"]
        if self.best is not None:
            flips = "used" if self.uses_flips else "not used"
            notes.append(f"mirrored passes are {flips} unless asked for otherwise")
        if self.located is not None:
            box = "used" if self.uses_locator else "not used"
            notes.append(
                "located: without mirrored passes, and only the box that the small network found; all others looked at the whole "
                f"scan; the box is {box} unless asked for otherwise"
            )
        return f"{scores} ({'; '.join(notes)})"


def combine_speed_records(records: Sequence[SpeedRecord | None]) -> SpeedRecord | None:
    """What an ensemble can expect: the means over its members, weighted by their cases.

    Returns:
        None where a member says nothing, or members do not speak of the same ways to segment.
    """
    known = [record for record in records if record is not None]
    if not known or len(known) < len(records):
        return None
    ways = [(record.fast, record.balanced, record.best, record.located) for record in known]
    weights = [record.num_cases for record in known]
    fast, balanced, best, located = (_average([way[number] for way in ways], weights) for number in range(4))
    if fast is None or balanced is None:
        return None
    return SpeedRecord.of(sum(weights), fast, balanced, best, located)


def _average(measured: Sequence[MeasuredSpeed | None], weights: Sequence[int]) -> MeasuredSpeed | None:
    known = [one for one in measured if one is not None]
    if len(known) < len(measured) or len({(one.step_fraction, one.num_flips) for one in known}) > 1:
        return None

    def mean(values: Sequence[float]) -> float:
        return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)

    return known[0].model_copy(
        update={
            "dice": mean([one.dice for one in known]),
            "seconds": round(mean([one.seconds for one in known]), 4),
        }
    )
