"""Settings of the dense CRF; `medunet.postprocessing.dense_crf` needs torch, these do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from medunet.tasks import check_positive


@dataclass(frozen=True, kw_only=True)
class DenseCrf:
    """How strongly voxels pull each other.

    Attributes:
        appearance: Weight of neighbours that look alike; 0 looks at no image.
        appearance_mm: Standard deviation of their distance.
        intensity_sd: Standard deviation of their difference in the image's unit; None is a quarter of the deviation of each
            channel over what is looked at.
        smoothness: Weight of neighbours whatever they look like.
        smoothness_mm: Standard deviation of their distance.
        window_mm: Voxels farther than this along any axis do not pull.
        iterations: Of the mean field.
    """

    name: ClassVar[str] = "crf"
    appearance: float = 2.0
    appearance_mm: float = 3.0
    intensity_sd: float | None = None
    smoothness: float = 1.0
    smoothness_mm: float = 1.0
    window_mm: float = 3.0
    iterations: int = 5

    def __post_init__(self) -> None:
        for key in ("appearance_mm", "smoothness_mm", "window_mm", "iterations"):
            check_positive(self.name, key, getattr(self, key))
        if self.intensity_sd is not None:
            check_positive(self.name, "intensity_sd", self.intensity_sd)
        for key in ("appearance", "smoothness"):
            if getattr(self, key) != 0:
                check_positive(self.name, key, getattr(self, key))
        if self.iterations % 1:
            msg = f"{self.name}: iterations is {self.iterations!r}; expected a whole number"
            raise ValueError(msg)
