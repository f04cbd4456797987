"""What a plan may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What one training iteration may cost.

    Attributes:
        voxels: Voxels of a batch.
        features: Channels of the first stage.
        total_voxels: Voxels that the whole budget can show the network; None where nobody counts.
        batch_size: Patches per batch; None lets the rules choose, from two patches upwards.
    """

    voxels: int
    features: int
    total_voxels: float | None = None
    batch_size: int | None = None


GPU_EFFORT = Effort(voxels=2 * 128**3, features=32)
CPU_EFFORT = Effort(voxels=2 * 64**3, features=16, batch_size=2)
