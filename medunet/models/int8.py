"""`Int8Record`: what a network in eight bits costs and scores beside itself, as the model folder's ``int8.json``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from medunet.models.speed import MeasuredSpeed

INT8_VERSION = 1

MAX_INT8_LOSS = 0.002
"""Mean Dice that eight bits must not cost."""


class Int8Record(BaseModel):
    """What was measured when a network was quantised. Both ways ran on the CPU, with the settings of ``--speed fast``.

    Attributes:
        version: Of this format.
        weights_sha256: Of the weights that were quantised, as in ``training.json``.
        num_patches: Of training cases, from which the ranges of the numbers were taken.
        num_cases: Validation cases that were segmented both ways.
        computed_by: What computed in eight bits, for people.
        int8: In eight bits.
        floating: By the same backend in floating point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = INT8_VERSION
    weights_sha256: str
    num_patches: int
    num_cases: int
    computed_by: str
    int8: MeasuredSpeed
    floating: MeasuredSpeed

    @property
    def is_used(self) -> bool:
        """Whether eight bits were faster and cost less than `MAX_INT8_LOSS`; else there is no file of them."""
        return self.int8.dice > self.floating.dice - MAX_INT8_LOSS and self.int8.seconds < self.floating.seconds

    def describe(self) -> str:
        """What both ways cost and score, in one line for people."""
        ways = (("eight bits", self.int8), ("floating point", self.floating))
        scores = ", ".join(f"{name} Dice {way.dice:.4f} in {way.seconds:.1f} s" for name, way in ways)
        cases = f"{self.num_cases} case{'' if self.num_cases == 1 else 's'}"
        return f"{scores} ({cases})"
