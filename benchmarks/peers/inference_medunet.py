"""medunet through its public interface, with its model in memory."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

import medunet.device
from peers.warm_inference import InferenceTool

EQUAL = {"backend": "eager", "flips": "none", "skip": False, "no_skip": True}
"""Settings under which it does exactly what the others do; those that `medunet.load` or `segment` do not have are left out."""


class _Medunet:
    def __init__(self, model: Path, device: str, *, is_equal: bool) -> None:
        if is_equal:
            # Before anything takes the name from there: the precision is no setting of inference.
            precision = "16-mixed" if device.startswith("cuda") else "32-true"
            medunet.device.choose_precision = lambda device, name="auto": precision  # type: ignore[assignment]
        from medunet.inference import Segmenter, load
        from medunet.models import read_single_model

        wanted = EQUAL if is_equal else {"flips": "none"}
        self._segmenter = load(model, device=device, **_choose(load, wanted))
        self._choices = _choose(Segmenter.segment, wanted)
        single = read_single_model(model)
        self.network = single.network.network.to(device)
        self.patch_size = single.plan.patch_size
        self.device = str(self._segmenter.device)
        named = ("precision", "backend")
        self.about = {name: str(getattr(self._segmenter, name)) for name in named if hasattr(self._segmenter, name)}

    def segment(self, scan: Path, mask: Path) -> tuple[dict[str, float], int]:
        done = [0]

        def note(num_done: int, num_tiles: int) -> None:
            done[0] = num_done

        found = self._segmenter.segment(scan, on_tiles=note, **self._choices)
        began = time.perf_counter()
        found.save(mask)
        return {**found.timings, "write": time.perf_counter() - began}, done[0]


def open_medunet(model: Path, device: str, *, is_equal: bool) -> InferenceTool:
    """Load a model folder.

    Args:
        model: A model folder of one network.
        device: That computes.
        is_equal: Whether it is kept to what all tools do: eager, float32 (float16 on a GPU), nothing skipped.
    """
    return _Medunet(model, device, is_equal=is_equal)


def _choose(function: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(function).parameters
    return {name: value for name, value in wanted.items() if name in known}
