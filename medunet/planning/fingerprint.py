"""What a dataset looks like: voxel sizes, extents and foreground intensities (nnU-Net's fingerprint, doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pydantic import BaseModel, ConfigDict

from medunet.errors import DatasetError, MedunetError
from medunet.planning.body import compute_body_box
from medunet.tasks import Case, Task, read_case
from medunet.volume import Array, Shape3, Spacing, Volume, to_orientation

_SAMPLES_PER_CASE = 10_000


class ChannelStatistics(BaseModel):
    """Foreground intensities of one channel over all cases, in the unit of the files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class Fingerprint(BaseModel):
    """What planning needs to know about a dataset; axes run along R, A and S.

    Attributes:
        num_cases: Cases measured.
        spacings: Voxel sizes in mm, one per case.
        shapes: Voxels within the body box, one per case.
        channels: Foreground statistics, one per channel.
        label_frequencies: Label -> share of cases that hold it.
        label_volumes_ml: Label -> median volume over the cases that hold it; labels that no case holds are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_cases: int
    spacings: tuple[Spacing, ...]
    shapes: tuple[Shape3, ...]
    channels: tuple[ChannelStatistics, ...]
    label_frequencies: dict[str, float]
    label_volumes_ml: dict[str, float]


class _CaseFacts(BaseModel):
    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    spacing: Spacing
    shape: Shape3
    foreground: Array  # (C, N) intensities of random foreground voxels
    volumes_ml: dict[str, float]  # of the labels that occur


def compute_fingerprint(
    cases: Sequence[Case], task: Task, *, num_workers: int = 2, on_case: Callable[[str], None] | None = None
) -> Fingerprint:
    """Read every case once, check it, and measure it.

    Args:
        cases: At least one.
        task: Channels and labels that the cases must have.
        num_workers: Threads that read.
        on_case: Called with the id of every finished case.

    Raises:
        DatasetError: If a case is faulty: the first fault and how many cases have one.
    """

    def measure(case: Case) -> _CaseFacts | str:
        try:
            facts: _CaseFacts | str = _measure_case(case, task)
        except MedunetError as error:
            facts = str(error)
        if on_case:
            on_case(case.case_id)
        return facts

    with ThreadPoolExecutor(num_workers) as pool:
        measured = list(pool.map(measure, cases))
    faults = [facts for facts in measured if isinstance(facts, str)]
    if faults:
        count = f"{len(faults)} of {len(cases)} cases cannot be used; the first: " if len(cases) > 1 else ""
        raise DatasetError(count + faults[0])
    facts = [fact for fact in measured if not isinstance(fact, str)]
    return Fingerprint(
        num_cases=len(facts),
        spacings=tuple(fact.spacing for fact in facts),
        shapes=tuple(fact.shape for fact in facts),
        channels=tuple(
            _compute_statistics(np.concatenate([fact.foreground[channel] for fact in facts]), task)
            for channel in range(len(task.channels))
        ),
        label_frequencies={name: sum(name in fact.volumes_ml for fact in facts) / len(facts) for name in task.labels},
        label_volumes_ml={
            name: float(np.median(volumes))
            for name in task.labels
            if (volumes := [fact.volumes_ml[name] for fact in facts if name in fact.volumes_ml])
        },
    )


def _measure_case(case: Case, task: Task) -> _CaseFacts:
    image, labels = read_case(case, task)
    image, labels = to_orientation(image), to_orientation(labels)
    box = compute_body_box(image.array, task.modality)
    size_i, size_j, size_k = (edge.stop - edge.start for edge in box)
    return _CaseFacts(
        spacing=image.spacing,
        shape=(size_i, size_j, size_k),
        foreground=_sample_foreground(image, labels, task),
        volumes_ml=_compute_volumes_ml(labels, task),
    )


def _compute_volumes_ml(labels: Volume, task: Task) -> dict[str, float]:
    values, counts = np.unique(labels.array, return_counts=True)
    num_voxels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    volumes_ml = {
        name: sum(num_voxels.get(value, 0) for value in values) * labels.voxel_volume_mm3 / 1000
        for name, values in task.labels.items()
    }
    return {name: volume_ml for name, volume_ml in volumes_ml.items() if volume_ml > 0}


def _sample_foreground(image: Volume, labels: Volume, task: Task) -> Array:
    foreground = np.flatnonzero(np.isin(labels.array[0], task.all_values))
    if foreground.size > _SAMPLES_PER_CASE:
        foreground = np.random.default_rng(1234).choice(foreground, _SAMPLES_PER_CASE, replace=False)
    return image.array.reshape(image.num_channels, -1)[:, foreground].astype(np.float32)


def _compute_statistics(values: Array, task: Task) -> ChannelStatistics:
    if values.size == 0:
        msg = f"No case holds a voxel of any label of task '{task.name}'; expected {list(task.labels)}. Is it the right task?"
        raise DatasetError(msg)
    low, high = np.percentile(values, [0.5, 99.5]).tolist()
    return ChannelStatistics(
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        percentile_00_5=low,
        percentile_99_5=high,
    )
