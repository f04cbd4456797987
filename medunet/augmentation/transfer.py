"""Small numbers on their way to the device, without the host waiting for them to arrive."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_device(values: Any, device: torch.device | None) -> Tensor:
    """Numbers as a float32 or int64 tensor on a device.

    A GPU fetches them from pinned memory when it comes to it; an ordinary copy would make the host wait for all that the
    GPU still has to do.

    Args:
        values: Nested sequences of numbers, or an array; integers give int64, all else float32.
        device: The CPU when None.
    """
    array = np.asarray(values)
    tensor = torch.from_numpy(array.astype(np.int64 if array.dtype.kind in "iu" else np.float32))
    if device is None or device.type == "cpu":
        return tensor
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
