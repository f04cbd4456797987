"""One network over one preprocessed volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from medunet.inference.sliding_window import apply_sliding_window
from medunet.planning import Plan
from medunet.preprocessing import compute_fill
from medunet.volume import Volume

OnTiles: TypeAlias = Callable[[int, int], None]
"""Called with the number of finished tiles and of all."""


def compute_logits(
    network: torch.nn.Module,
    prepared: Volume,
    plan: Plan,
    device: torch.device,
    precision: str,
    *,
    on_tiles: OnTiles | None = None,
) -> Tensor:
    """Logits ``(num_outputs, I, J, K)`` float32 on the network's grid.

    Args:
        network: On ``device``, in evaluation mode.
        prepared: Result of `preprocess_image`; for a cascade, of `append_previous_labels`.
        plan: Patch size; says what lies around a volume that is smaller than a patch, as in training.
        device: That computes.
        precision: Of the network's arithmetic.
        on_tiles: Called with the number of finished tiles and of all.
    """
    image = torch.from_numpy(prepared.array).to(device)
    around = torch.zeros(len(image))  # where nothing is, nothing was found before
    num_channels = len(plan.normalization)
    around[:num_channels] = torch.from_numpy(compute_fill(prepared.array[:num_channels], plan))
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)

    def predict(tiles: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits: Tensor = network(tiles)
        return logits

    with torch.inference_mode():
        return apply_sliding_window(
            image,
            predict,
            plan.patch_size,
            fill=around,
            batch_size=max(1, plan.batch_size // 2),
            on_tiles=on_tiles,
        )
