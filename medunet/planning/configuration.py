"""What to train when nobody says: slices, volumes, or a cascade."""

from __future__ import annotations

from medunet.planning.fingerprint import Fingerprint
from medunet.planning.grid import build_full_resolution
from medunet.planning.plan import Configuration
from medunet.planning.targets import Effort, MemoryTarget
from medunet.tasks import Task

MIN_SLICES = 4
"""Slices below which a 3D network has nothing to gain."""
MAX_SLICE_DISTANCE = 16.0
"""Pixels between neighbouring slices from which on a 3D network has nothing to gain."""


def choose_configuration(
    fingerprint: Fingerprint, task: Task, target: MemoryTarget | Effort
) -> tuple[Configuration, str]:
    """One configuration by rule; nnU-Net trains all and lets cross-validation decide, which costs several trainings.

    - ``"2d"`` for cases of a single slice, for which nnU-Net plans nothing else. Also for fewer than 4 slices, which
      cannot be halved, and for slices 16 pixels apart or more: kernels would not look across them before the fourth
      halving, so that a 3D network would be a 2D one in all but its coarsest stages. These two bounds are reasoned,
      not measured.
    - ``"cascade"`` where nnU-Net plans one (a patch covers less than a quarter of the median case) and the target is
      its recipe; a budget in time is better spent on one network.
    - ``"3d"`` otherwise.

    Returns:
        The configuration and the reason.
    """
    full, _ = build_full_resolution(fingerprint, task, target)
    num_slices, distance = full.ordered_size[0], full.ordered_spacing[0] / min(full.ordered_spacing)
    if num_slices < MIN_SLICES:
        return "2d", f"the median case has {num_slices:g} slice(s), fewer than {MIN_SLICES}"
    if distance >= MAX_SLICE_DISTANCE:
        return "2d", f"slices are {distance:.3g} pixels apart, {MAX_SLICE_DISTANCE:g} or more"
    if isinstance(target, Effort):
        return "3d", "one network that sees all three axes is the best use of a budget"
    low, reason = full.find_low_resolution()
    return ("3d", f"no cascade: {reason}") if low is None else ("cascade", reason)
