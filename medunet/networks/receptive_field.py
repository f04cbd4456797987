"""How far a voxel of the logits sees, by the arithmetic of kernels, strides and dilations.

A path is walked backwards from a voxel: each step turns an interval of its output into the interval of its input that it
was computed from. Because of strides the answer depends on where the voxel lies, and the largest one is given.
Normalisations, whose statistics see the whole patch, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Interval = tuple[int, int]


class Step(Protocol):
    """A layer, as far as it matters here; the same along every axis."""

    @property
    def factor(self) -> float:
        """Voxels of its output per voxel of its input."""

    def find_source(self, first: int, last: int) -> Interval:
        """The input from which the output from ``first`` to ``last`` is computed."""


@dataclass(frozen=True)
class Slide:
    """A convolution or a pooling.

    Attributes:
        kernel: Edge.
        stride: Of the output.
        dilation: Between the elements of the kernel.
        padding: At the near side; None keeps the grid but for the stride, 0 is a valid convolution.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int | None = None

    @property
    def factor(self) -> float:
        """1 over the stride."""
        return 1 / self.stride

    def find_source(self, first: int, last: int) -> Interval:
        """``[first s - p, last s - p + d (k - 1)]``."""
        reach = self.dilation * (self.kernel - 1)
        padding = (reach + 1 - self.stride + 1) // 2 if self.padding is None else self.padding
        return first * self.stride - padding, last * self.stride - padding + reach


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution: input ``i`` is spread over the outputs from ``i s - p`` to ``i s - p + k - 1``."""

    kernel: int
    stride: int
    padding: int = 0

    @property
    def factor(self) -> float:
        """The stride."""
        return self.stride

    def find_source(self, first: int, last: int) -> Interval:
        """All inputs that are spread over one of the outputs."""
        return math.ceil((first + self.padding - self.kernel + 1) / self.stride), (last + self.padding) // self.stride


@dataclass(frozen=True)
class Repeat:
    """Nearest neighbour, or unpooling: every output has one input."""

    stride: int

    @property
    def factor(self) -> float:
        """The stride."""
        return self.stride

    def find_source(self, first: int, last: int) -> Interval:
        """``floor(o / s)``."""
        return first // self.stride, last // self.stride


@dataclass(frozen=True)
class Linear:
    """Linear interpolation between voxel centres: every output has the two inputs beside it."""

    stride: int

    @property
    def factor(self) -> float:
        """The stride."""
        return self.stride

    def find_source(self, first: int, last: int) -> Interval:
        """Output ``o`` lies at ``(o + 1/2) / s - 1/2`` of the input."""
        if self.stride == 1:
            return first, last
        near, far = ((n + 0.5) / self.stride - 0.5 for n in (first, last))
        return math.floor(near), math.floor(far) + 1


def compute_receptive_field(path: Sequence[Step]) -> int:
    """Edge of the largest box of the image that one voxel of the logits sees.

    Args:
        path: The steps from the image to the logits; of parallel ways the one that reaches farthest.

    Example:
        >>> compute_receptive_field([Slide(3), Slide(2, 2), Slide(3), Transposed(2, 2), Slide(3)])
        10
    """
    factor, deepest = 1.0, 1.0
    for step in path:
        factor *= step.factor
        deepest = min(deepest, factor)
    period = round(1 / deepest)
    boxes = [find_seen_interval(path, voxel) for voxel in range(period)]
    return max(last - first + 1 for first, last in boxes)


def find_seen_interval(path: Sequence[Step], voxel: int) -> Interval:
    """The first and the last voxel of an endless image that one voxel of the logits sees, along one axis.

    Example:
        >>> find_seen_interval([Slide(3)], 5)
        (4, 6)
    """
    first = last = voxel
    for step in reversed(path):
        first, last = step.find_source(first, last)
    return first, last
