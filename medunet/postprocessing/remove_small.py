"""Connected parts of a mask that are smaller than a volume."""

from __future__ import annotations

import math

import numpy as np

from medunet.postprocessing.parts import find_parts
from medunet.volume import Array, Spacing


def remove_small_parts(mask: Array, spacing: Spacing, ml: float) -> Array:
    """Remove the connected parts that are smaller than a volume, be it all of them.

    Args:
        mask: ``(I, J, K)`` bool; parts touch by a face, an edge or a corner.
        spacing: In mm.
        ml: Parts of this volume or more stay.

    Returns:
        ``(I, J, K)`` bool; a mask without a voxel stays so.

    Example:
        >>> remove_small_parts(np.array([[[True, True, False, True]]]), (1.0, 1.0, 500.0), 1.0).tolist()
        [[[True, True, False, False]]]
    """
    parts, sizes = find_parts(mask.astype(np.uint8))
    # A part of exactly that volume stays, however its product of three spacings rounds.
    is_kept = sizes * math.prod(spacing) / 1000 >= ml * (1 - 1e-6)
    is_kept[0] = False
    kept: Array = is_kept[parts]
    return kept
