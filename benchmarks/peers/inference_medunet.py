"""medunet through its public interface, with its model in memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from peers.warm_inference import InferenceTool

DEFAULTS: dict[str, Any] = {"flips": "none"}
"""Its own choices, but no mirrored passes, which no tool makes here."""


class _Medunet:
    def __init__(self, model: Path, device: str, *, is_equal: bool) -> None:
        from medunet.inference import load
        from medunet.models import read_single_model

        equal = {"backend": "torch", "skip_air": False, "precision": "fp16" if device.startswith("cuda") else "fp32"}
        self._segmenter = load(model, device=device, **DEFAULTS, **(equal if is_equal else {}))
        single = read_single_model(model)
        self.network = single.network.network.to(device)
        self.patch_size = single.plan.patch_size
        self.device = str(self._segmenter.device)
        self.about = {"computed by": self._segmenter.description}

    def segment(self, scan: Path, mask: Path) -> tuple[dict[str, float], int]:
        done = [0]

        def note(num_done: int, num_tiles: int) -> None:
            done[0] = num_done

        found = self._segmenter.segment(scan, on_tiles=note)
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
