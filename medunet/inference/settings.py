"""How much is computed for a scan: step between tiles, mirrored passes, networks, air."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from medunet.device import PrecisionName
from medunet.errors import InputError
from medunet.inference.backends.backend import BACKEND_NAMES, BackendName
from medunet.inference.tiling import STEP_FRACTION
from medunet.models.speed import SpeedRecord

if TYPE_CHECKING:
    import torch

Speed = Literal["fast", "balanced", "best"]
Flips = Literal["none", "auto", "all"]
Locate = Literal["never", "auto", "always"]
WhichPostprocessing = Literal["model", "none"]

FAST_STEP = 0.75
"""Midway between two tiles lies 3/8 of a tile from the centre of each: 3 standard deviations of a window of an eighth of a tile,
so that each weighs exp(-9/2), about a hundredth of a centre, along that axis. Both weigh the same there, and their mean decides;
what that costs is measured with validation cases."""


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """What the user decides about the work that a scan is worth.

    Attributes:
        speed: ``"fast"``: tiles three quarters of their size apart, one network, no mirrored passes, and on the CPU eight
            bits where the model has them. ``"balanced"``: half
            of their size apart, all networks, mirrored passes where training measured that they help. ``"best"``: with
            all mirrored passes.
        flips: Mirrored passes, whatever the speed says: ``"none"``, ``"auto"`` as measured in training, ``"all"``; None
            leaves it to the speed.
        step_fraction: Largest step between tiles as a share of the tile, in ``(0, 1]``; None leaves it to the speed.
        locate: Whether a small network finds the box in which the others look, where the model has one: ``"never"``,
            ``"auto"`` as measured in training, ``"always"``.
        skip_air: Whether tiles that hold nothing but air are left out.
        batch_size: Tiles at once; None takes what training's batch promises to fit.
        memory_gb: Memory in 10^9 bytes that a scan may take, on a GPU its memory, else that of the process: less is computed at
            a time until it fits (`medunet.inference.memory_need`); None sets no limit.
        backend: What computes the networks, see `medunet.inference.backends`.
        precision: Of the networks' arithmetic: ``"auto"``, ``"fp32"``, ``"bf16"``, ``"fp16"``. All but ``"auto"`` leave eight
            bits out.
        postprocessing: What is done to the mask after the network: ``"model"``, what the model says; or ``"none"``.

    Raises:
        InputError: If a value is none of these.
    """

    speed: Speed = "balanced"
    flips: Flips | None = None
    step_fraction: float | None = None
    locate: Locate = "auto"
    skip_air: bool = True
    batch_size: int | None = None
    memory_gb: float | None = None
    backend: BackendName = "auto"
    precision: PrecisionName = "auto"
    postprocessing: WhichPostprocessing = "model"

    def __post_init__(self) -> None:
        _check("speed", self.speed, get_args(Speed))
        if self.flips is not None:
            _check("flips", self.flips, get_args(Flips))
        _check("locate", self.locate, get_args(Locate))
        _check("backend", self.backend, BACKEND_NAMES)
        _check("precision", self.precision, get_args(PrecisionName))
        _check("postprocessing", self.postprocessing, get_args(WhichPostprocessing))
        if self.step_fraction is not None and not 0 < self.step_fraction <= 1:
            msg = f"The step is {self.step_fraction}; expected a share of the tile, above 0 and at most 1."
            raise InputError(msg)
        if self.batch_size is not None and self.batch_size < 1:
            msg = f"The batch size is {self.batch_size}; expected 1 or more tiles."
            raise InputError(msg)

        if self.memory_gb is not None and not self.memory_gb > 0:
            msg = f"The memory is {self.memory_gb} GB; expected more than 0."
            raise InputError(msg)

    def resolve_step(self) -> float:
        """Largest step between tiles."""
        if self.step_fraction is not None:
            return self.step_fraction
        return FAST_STEP if self.speed == "fast" else STEP_FRACTION

    def resolve_flips(self, measured: SpeedRecord | None) -> bool:
        """Whether tiles are mirrored in all ways that the network knows.

        Args:
            measured: Of the model; without it, ``"auto"`` mirrors nothing.
        """
        flips = self.flips or {"fast": "none", "balanced": "auto", "best": "all"}[self.speed]
        if flips == "auto":
            return measured is not None and measured.uses_flips
        return flips == "all"

    def resolve_locate(self, measured: SpeedRecord | None) -> bool:
        """Whether the box of the structures is looked for first.

        Args:
            measured: Of the model; without it, ``"auto"`` looks at the whole scan.
        """
        return self.locate == "always" or (self.locate == "auto" and measured is not None and measured.uses_locator)

    def may_take_int8(self, device: torch.device) -> bool:
        """Whether the network computes in eight bits where that was made and found good enough.

        Args:
            device: That computes.
        """
        is_left_open = self.precision == "auto" and self.backend in ("auto", "openvino")
        return self.speed == "fast" and is_left_open and device.type == "cpu"

    def keep_only_computing(self) -> InferenceSettings:
        """The usual amount of work, computed in the same way."""
        return InferenceSettings(
            batch_size=self.batch_size,
            memory_gb=self.memory_gb,
            backend=self.backend,
            precision=self.precision,
            skip_air=self.skip_air,
        )

    @property
    def takes_one_network(self) -> bool:
        """Whether only the first network of an ensemble is asked."""
        return self.speed == "fast"


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        msg = f"The {name} is '{value}'; expected {', '.join(known)}."
        raise InputError(msg)


REPRODUCIBLE = InferenceSettings(backend="torch")
"""For training: PyTorch gives the same labels whichever other backends are installed."""
