"""`Volume` to MONAI's ``MetaTensor`` and back; the only place where the two meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from medunet.volume import Volume


def to_metatensor(volume: Volume) -> MetaTensor:
    """Voxels as float32 with the RAS+ affine, which MONAI shares with us."""
    array = torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))
    tensor: Any = MetaTensor(array, affine=torch.from_numpy(volume.affine))
    return tensor


def from_metatensor(tensor: MetaTensor) -> Volume:
    """Voxels as float32 and the affine that MONAI carried along."""
    return Volume(tensor.as_tensor().contiguous().numpy(), tensor.affine.numpy())
