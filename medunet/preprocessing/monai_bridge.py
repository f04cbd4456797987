"""`Volume` to MONAI's ``MetaTensor`` and back; the only place where the two meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from medunet.volume import Volume


def to_metatensor(volume: Volume) -> MetaTensor:
    """Voxels as float32 with the RAS+ affine, which MONAI shares with us; float32 voxels are not copied."""
    # torch warns about arrays that it must not write to, such as memory maps: those are copied.
    array = torch.from_numpy(np.require(volume.array, np.float32, ["C", "W"]))
    tensor: Any = MetaTensor(array, affine=torch.tensor(volume.affine))
    return tensor


def from_metatensor(tensor: MetaTensor) -> Volume:
    """Voxels as float32 and the affine that MONAI carried along."""
    return Volume(tensor.as_tensor().contiguous().numpy(), tensor.affine.numpy())
