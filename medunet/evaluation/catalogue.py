"""Every number that a structure of a case gets: its name, its unit, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from medunet.evaluation.surface import SurfaceKind

Better = Literal["higher", "lower", "nearer to 0"]
DEFAULT_TOLERANCE_MM = 2.0


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number.

    Attributes:
        name: Field of `medunet.evaluation.LabelMetrics`, column of the table.
        title: For people, with the unit.
        better: Which way is better.
    """

    name: str
    title: str
    better: Better

    @property
    def ranked_title(self) -> str:
        """What sets are ordered by: errors that are best at 0 count without their sign.

        Example:
            >>> METRICS["volume_error_ml"].ranked_title
            'volume error ml, without sign'
        """
        return f"{self.title}, without sign" if self.better == "nearer to 0" else self.title


_METRICS = (
    Metric(name="dice", title="Dice", better="higher"),
    Metric(name="iou", title="IoU", better="higher"),
    Metric(name="f_beta", title="F-beta", better="higher"),
    Metric(name="precision", title="precision", better="higher"),
    Metric(name="recall", title="recall", better="higher"),
    Metric(name="specificity", title="specificity", better="higher"),
    Metric(name="accuracy", title="accuracy", better="higher"),
    Metric(name="nsd", title="NSD", better="higher"),
    Metric(name="hd95_mm", title="HD95 mm", better="lower"),
    Metric(name="hd_mm", title="HD mm", better="lower"),
    Metric(name="assd_mm", title="ASSD mm", better="lower"),
    Metric(name="rmsd_mm", title="RMSD mm", better="lower"),
    Metric(name="centre_distance_mm", title="centre distance mm", better="lower"),
    Metric(name="volume_error_ml", title="volume error ml", better="nearer to 0"),
    Metric(name="absolute_volume_error_ml", title="absolute volume error ml", better="lower"),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _METRICS}
"""By name, in the order of the table."""


@dataclass(frozen=True, kw_only=True)
class MetricSettings:
    """What metrics leave open.

    Attributes:
        tolerance_mm: Of the NSD, for labels that have none of their own.
        tolerances_mm: Label -> tolerance of the NSD.
        surface: What counts as surface, see `medunet.evaluation.surface`.
        beta: Of F-beta: recall counts this many times as much as precision.

    Raises:
        ValueError: If a tolerance is negative or ``beta`` is not positive.
    """

    tolerance_mm: float = DEFAULT_TOLERANCE_MM
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    surface: SurfaceKind = "elements"
    beta: float = 2.0

    def __post_init__(self) -> None:
        for tolerance_mm in (self.tolerance_mm, *self.tolerances_mm.values()):
            if not 0 <= tolerance_mm < float("inf"):
                msg = f"The tolerance is {tolerance_mm} mm; expected a number from 0 on."
                raise ValueError(msg)
        if not 0 < self.beta < float("inf"):
            msg = f"beta is {self.beta}; expected a positive number."
            raise ValueError(msg)

    def get_tolerance_mm(self, label: str) -> float:
        """The tolerance of a label."""
        return self.tolerances_mm.get(label, self.tolerance_mm)
