"""Which case every patch comes from, and which label it shall show: pure functions of the seed and the patch's number.

Two thirds of the patches go through the patients in turn, each epoch in a new order; of a patient with several scans
each turn takes the next scan. A third is centred on a label, as nnU-Net does it, but the labels take turns first and the
patients that show them second: nnU-Net picks a case first, so that a label which one case in ten shows is met ten times
less often than the others.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

FOREGROUND_SHARE = 1 / 3
_PLAIN, _LABELS, _LABEL_CASES = 0, 10, 11  # streams of random numbers; patches themselves have another


@dataclass(frozen=True, kw_only=True)
class PatchChoice:
    """Where a patch comes from.

    Attributes:
        case: Its index.
        code: Of the label at the patch's centre; None leaves the place to chance.
    """

    case: int
    code: int | None


class PatchOrder:
    """Cases and labels in turn.

    Args:
        codes: Per case, the codes of the labels that it shows.
        groups: Per case, its patient; cases of one patient share a turn. None is a patient of its own.
        num_patches: Per iteration, over all processes.
        seed: Of the order.
    """

    def __init__(
        self, codes: Sequence[Sequence[int]], groups: Sequence[Hashable | None], *, num_patches: int, seed: int
    ) -> None:
        self._seed = seed
        self._num_patches = num_patches
        self._patients = _group_cases(range(len(codes)), groups)
        holders: dict[int, list[int]] = {}
        for case, shown in enumerate(codes):
            for code in shown:
                holders.setdefault(code, []).append(case)
        self._labels = sorted(holders)
        self._patients_by_label = {code: _group_cases(cases, groups) for code, cases in holders.items()}

    def choose(self, iteration: int, position: int) -> PatchChoice:
        """The patch at a position of an iteration's patches, which are counted over all processes."""
        forced, is_forced = self._count_forced(iteration, position)
        if is_forced:
            return self._choose_label(forced)
        return self._choose_case(iteration * self._num_patches + position - forced)

    def _count_forced(self, iteration: int, position: int) -> tuple[int, bool]:
        """How many patches before this one are centred on a label, and whether this one is; spread evenly."""
        if not self._labels:
            return 0, False
        n = self._num_patches
        if n == 1:  # every third iteration
            return iteration // 3, iteration % 3 == 2
        per_iteration = max(1, n - round(n * (1 - FOREGROUND_SHARE)))
        before, after = position * per_iteration // n, (position + 1) * per_iteration // n
        return iteration * per_iteration + before, after > before

    def _choose_case(self, number: int) -> PatchChoice:
        epoch, turn = divmod(number, len(self._patients))
        patient = self._patients[self._shuffle(len(self._patients), _PLAIN, epoch)[turn]]
        return PatchChoice(case=patient[epoch % len(patient)], code=None)

    def _choose_label(self, number: int) -> PatchChoice:
        round_, turn = divmod(number, len(self._labels))
        code = self._labels[self._shuffle(len(self._labels), _LABELS, round_)[turn]]
        patients = self._patients_by_label[code]
        epoch, turn = divmod(round_, len(patients))
        patient = patients[self._shuffle(len(patients), _LABEL_CASES, code, epoch)[turn]]
        return PatchChoice(case=patient[epoch % len(patient)], code=code)

    def _shuffle(self, length: int, *stream: int) -> list[int]:
        return _shuffle(length, (self._seed, *stream))


@lru_cache(maxsize=64)  # each order is asked for as often as it is long
def _shuffle(length: int, stream: tuple[int, ...]) -> list[int]:
    order: list[int] = np.random.default_rng(stream).permutation(length).tolist()
    return order


def _group_cases(cases: Sequence[int], groups: Sequence[Hashable | None]) -> list[list[int]]:
    """Cases of each patient, patients in the order of their first case."""
    patients: dict[Hashable, list[int]] = {}
    for case in cases:
        group = groups[case]
        patients.setdefault((case,) if group is None else ("group", group), []).append(case)
    return list(patients.values())
