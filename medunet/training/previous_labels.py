"""What the second network of a cascade sees of the labels that the first one found: channels, and what may happen to them.

The first network is right more often than not, so the second could learn to copy it. In training, its labels are made
worse at random: grown, shrunk, smoothed, or short of a part. Operations, probabilities and sizes are those of nnU-Net 2.8.1
(Isensee 2021, doi:10.1038/s41592-020-01008-z; ``ApplyRandomBinaryOperatorTransform`` and
``RemoveRandomConnectedComponentFromOneHotEncodingTransform`` in batchgeneratorsv2), but for radii, which are whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from medunet.preprocessing import Box
from medunet.tasks import Task, compute_membership

OPERATOR_PROBABILITY = 0.4
REMOVAL_PROBABILITY = 0.2
LABEL_PROBABILITY = 0.5
"""Of every label, in a patch where the operation happens at all."""
LARGEST_RADIUS = 8
LARGEST_REMOVED_SHARE = 0.15
"""Of a patch; a larger part is the organ itself rather than a slip."""
_FAR = 100
"""Above any squared radius, and with one added still no overflow of uint8."""

Operator = Literal["dilation", "erosion", "opening", "closing"]


@dataclass(frozen=True, kw_only=True)
class Reshaping:
    """A label's shape is changed with a ball.

    Attributes:
        code: Of the label.
        operator: Binary morphology.
        radius: Of the ball, voxels.
    """

    code: int
    operator: Operator
    radius: int


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A connected part of a label is lost.

    Attributes:
        code: Of the label.
        which: From 0 to below 1: the first of the parts that may be lost, up to the last.
    """

    code: int
    which: float


@dataclass(frozen=True, kw_only=True)
class PreviousChange:
    """What was drawn for one patch, in the order in which it happens.

    Attributes:
        reshapings: Of some labels, first.
        removals: Of parts, then.
    """

    reshapings: tuple[Reshaping, ...] = ()
    removals: tuple[Removal, ...] = ()


def sample_previous_change(rng: np.random.Generator, num_codes: int) -> PreviousChange:
    """Draw what happens to the previous labels of one patch.

    Args:
        rng: Decides; as many numbers are drawn whatever happens.
        num_codes: Codes of the task, background included.
    """
    reshapes, removes = rng.random(2) < (OPERATOR_PROBABILITY, REMOVAL_PROBABILITY)
    reshapings, removals = [], []
    for code in (rng.permutation(num_codes - 1) + 1).tolist():  # a label that grows takes voxels from its neighbours
        operator = get_args(Operator)[int(rng.integers(len(get_args(Operator))))]
        radius = int(rng.integers(1, LARGEST_RADIUS, endpoint=True))
        if rng.random() < LABEL_PROBABILITY and reshapes:
            reshapings.append(Reshaping(code=code, operator=operator, radius=radius))
    for code in (rng.permutation(num_codes - 1) + 1).tolist():
        which = float(rng.random())
        if rng.random() < LABEL_PROBABILITY and removes:
            removals.append(Removal(code=code, which=which))
    return PreviousChange(reshapings=tuple(reshapings), removals=tuple(removals))


def apply_previous_change(codes: Tensor, change: PreviousChange) -> Tensor:
    """The labels of a patch after a change.

    What a label gains is lost to the others, what it loses becomes background. Beyond the patch a label goes on as it
    is at the border, so that nothing is eroded from there.

    Args:
        codes: ``(I, J, K)`` uint8 on any device; stays as it is.
        change: From `sample_previous_change`. A label that the patch does not show is passed over.
    """
    for reshaping in change.reshapings:
        codes = _reshape(codes, reshaping)
    for removal in change.removals:
        codes = _remove(codes, removal)
    return codes


def build_channel_table(task: Task) -> Tensor:
    """Which channels show a code: ``(labels, 256)`` float32, rows in the order of the task, without background.

    Example:
        >>> from medunet.tasks import load_task
        >>> build_channel_table(load_task("brain-tumour-mr"))[:, :4].int().tolist()  # regions within one another
        [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    """
    membership = torch.from_numpy(compute_membership(task))
    table = torch.zeros((len(task.labels), 256))
    table[:, : membership.shape[1]] = membership if task.has_regions else membership[1:]
    return table


def to_channels(codes: Tensor, table: Tensor) -> Tensor:
    """One channel per label, 1 where it is and 0 elsewhere.

    Args:
        codes: ``(B, I, J, K)`` uint8.
        table: From `build_channel_table`, on the same device.

    Returns:
        ``(B, labels, I, J, K)`` float32.
    """
    return table.index_select(1, codes.flatten().int()).reshape(-1, *codes.shape).transpose(0, 1)


def _reshape(codes: Tensor, reshaping: Reshaping) -> Tensor:
    mask = codes == reshaping.code
    box = _find_box(mask, 2 * reshaping.radius)  # a closing first grows, and may not meet the edge of the box
    if box is None:
        return codes
    inner, before = codes[box], mask[box]
    after = _OPERATIONS[reshaping.operator](before, reshaping.radius)
    reshaped = codes.clone()
    reshaped[box] = torch.where(after, reshaping.code, torch.where(before, 0, inner)).to(torch.uint8)
    return reshaped


def _remove(codes: Tensor, removal: Removal) -> Tensor:
    import cc3d

    mask = (codes == removal.code).to(torch.uint8).cpu().numpy()  # cc3d fails for bool where the box is thin
    parts, num_parts = cc3d.connected_components(mask, return_N=True)
    sizes = np.bincount(parts.ravel(), minlength=num_parts + 1)[1:]
    small = np.flatnonzero(sizes < LARGEST_REMOVED_SHARE * mask.size) + 1
    if len(small) == 0:
        return codes
    lost = torch.from_numpy(parts == small[int(removal.which * len(small))])
    return codes.masked_fill(lost.to(codes.device), 0)


def _find_box(mask: Tensor, margin: int) -> Box | None:
    """The box of a mask with a margin around it, as far as the patch goes; None where there is no mask."""
    edges = []
    for axis, size in enumerate(mask.shape):
        others = [other for other in range(3) if other != axis]
        shown = torch.nonzero(mask.amax(others))
        if len(shown) == 0:
            return None
        edges.append(slice(max(0, int(shown[0]) - margin), min(size, int(shown[-1]) + 1 + margin)))
    i, j, k = edges
    return i, j, k


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """All voxels that are no further than a radius from a mask ``(I, J, K)``.

    The squared distance is a sum over the axes, so its minimum is taken along one after the other, within the radius.
    """
    squares = torch.where(mask, 0, _FAR).to(torch.uint8)
    for axis, size in enumerate(mask.shape):
        nearest = squares.clone()
        for step in range(1, min(radius, size - 1) + 1):
            for target, source in ((0, step), (step, 0)):
                part = nearest.narrow(axis, target, size - step)
                torch.minimum(part, squares.narrow(axis, source, size - step) + step**2, out=part)
        squares = nearest
    return squares <= radius**2


def _erode(mask: Tensor, radius: int) -> Tensor:
    return ~_dilate(~mask, radius)


def _open(mask: Tensor, radius: int) -> Tensor:
    return _dilate(_erode(mask, radius), radius)


def _close(mask: Tensor, radius: int) -> Tensor:
    return _erode(_dilate(mask, radius), radius)


_OPERATIONS = {"dilation": _dilate, "erosion": _erode, "opening": _open, "closing": _close}
