"""What cross-validation compares, and which is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medunet.errors import InputError
from medunet.training.comparable_runs import FoldedRun
from medunet.training.validation import Validation

TOLERANCE = 0.0005
"""Mean Dice within which candidates are equal: half of the last digit that is shown."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One run, or two whose networks answer together.

    Attributes:
        runs: One or two.
        validation: Scores of all cases by networks that have not seen them, with the post-processing that helps.
    """

    runs: tuple[FoldedRun, ...]
    validation: Validation

    @property
    def name(self) -> str:
        """Names of the runs."""
        return " + ".join(run.name for run in self.runs)

    @property
    def num_networks(self) -> int:
        """Networks through which a scan passes."""
        return sum(len(run.folds) for run in self.runs)

    @property
    def mean_dice(self) -> float | None:
        """Mean over labels of the mean over cases; None when nothing could be scored."""
        return self.validation.mean_dice

    def compute_interval(self) -> tuple[float, float] | None:
        """As `Evaluation.compute_interval`."""
        return self.validation.compute_interval()


def choose_best(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The candidate with the highest mean Dice, or a single run that is as good within rounding.

    Raises:
        InputError: If no case of any candidate could be scored.
    """
    ranked = sorted(
        ((one.mean_dice, one) for one in candidates if one.mean_dice is not None), key=lambda pair: -pair[0]
    )  # the first of equals stays first
    if not ranked:
        failures = candidates[0].validation.failures
        why = f" The first: {failures[0].reason}" if failures else ""
        msg = f"No case could be scored, so nothing can be compared.{why}"
        raise InputError(msg)
    highest, leader = ranked[0]
    dice, chosen = min(
        ((dice, one) for dice, one in ranked if dice > highest - TOLERANCE), key=lambda pair: len(pair[1].runs)
    )
    if chosen is leader:
        return chosen, f"the highest mean Dice, {dice:.4f}"
    return chosen, (
        f"mean Dice {dice:.4f}, as good within rounding as {leader.name} ({highest:.4f}) with fewer networks"
    )
