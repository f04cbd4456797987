"""Where labels are: some voxel positions of every code, for patches that shall show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from torch import Tensor

from medunet.tasks import IGNORE_CODE
from medunet.volume import Array

PER_CODE = 5_000
"""Positions kept of a code: more would not change where patches fall."""


class ForegroundIndex(Mapping[int, Tensor]):
    """Code -> voxel positions ``(N, 3)`` int16, read when they are asked for.

    Args:
        counts: ``(num_codes, 2)`` rows of code and number of positions, codes rising.
        read: Gives rows ``start`` to ``stop`` of all positions, which follow each other in the order of the codes.
    """

    def __init__(self, counts: Array, read: Callable[[int, int], Tensor]) -> None:
        self._codes = counts[:, 0]
        self._ends = np.cumsum(counts[:, 1])
        self._read = read

    def __getitem__(self, code: int) -> Tensor:
        row = int(np.searchsorted(self._codes, code))
        if row == len(self._codes) or self._codes[row] != code:
            raise KeyError(code)
        return self._read(int(self._ends[row - 1]) if row else 0, int(self._ends[row]))

    def __iter__(self) -> Iterator[int]:
        return iter(self._codes.tolist())

    def __len__(self) -> int:
        return len(self._codes)


def index_foreground(codes: Array, case_id: str) -> tuple[Array, Array]:
    """Voxel positions per code, at most `PER_CODE`, the same ones each time.

    Args:
        codes: ``(I, J, K)`` uint8; background and ignored voxels are left out.
        case_id: Seeds the choice.

    Returns:
        ``counts`` ``(num_codes, 2)`` int32 and ``positions`` ``(N, 3)`` int16, as `ForegroundIndex` takes them; both
        are empty where there is no label.
    """
    rng = np.random.default_rng(list(case_id.encode()))
    counts, positions = [], [np.empty((0, 3), np.int16)]
    occurring = np.flatnonzero(np.bincount(codes.reshape(-1), minlength=256)).tolist()
    for code in occurring:
        if code in (0, IGNORE_CODE):
            continue
        flat = np.flatnonzero(codes == code)
        if flat.size > PER_CODE:
            flat = rng.choice(flat, PER_CODE, replace=False)
        counts.append((code, flat.size))
        positions.append(np.stack(np.unravel_index(flat, codes.shape), axis=1).astype(np.int16))
    return np.array(counts, np.int32).reshape(-1, 2), np.concatenate(positions)
