"""What a dataset looks like: voxel sizes, extents and foreground intensities (nnU-Net's fingerprint, doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pydantic import BaseModel, ConfigDict

from medunet.errors import DatasetError, MedunetError
from medunet.planning.body import compute_body_box, compute_nonzero_box
from medunet.planning.intensity import (
    ChannelStatistics,
    ForegroundSketch,
    choose_num_points,
    combine_sketches,
    sketch_foreground,
)
from medunet.tasks import Case, Task, is_picture, read_case
from medunet.volume import Shape3, Spacing, Volume, to_orientation

_SPACING_DIGITS = 7
"""Significant ones; finer differences of voxel size are noise of an affine in float32."""


class Fingerprint(BaseModel):
    """What planning needs to know about a dataset; axes run along R, A and S.

    Attributes:
        num_cases: Cases measured.
        spacings: Voxel sizes in mm, one per case.
        shapes: Voxels within the box of nonzero voxels, one per case; nnU-Net plans with these.
        body_shapes: Voxels within the body box, which preprocessing crops to; smaller than ``shapes`` in CT, where air
            is not zero.
        nonzero_share: Share of a case's voxels that lie within the box of nonzero voxels, median over the cases.
        channels: Foreground statistics, one per channel.
        label_frequencies: Label -> share of cases that hold it.
        label_volumes_ml: Label -> median volume over the cases that hold it; labels that no case holds are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_cases: int
    spacings: tuple[Spacing, ...]
    shapes: tuple[Shape3, ...]
    body_shapes: tuple[Shape3, ...]
    nonzero_share: float
    channels: tuple[ChannelStatistics, ...]
    label_frequencies: dict[str, float]
    label_volumes_ml: dict[str, float]


class _CaseFacts(BaseModel):
    model_config = ConfigDict(frozen=True)

    spacing: Spacing
    shape: Shape3
    body_shape: Shape3
    nonzero_share: float
    channels: tuple[ForegroundSketch, ...] | None  # None: a case without foreground
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
    num_points = choose_num_points(len(cases))

    def measure(case: Case) -> _CaseFacts | str:
        try:
            facts: _CaseFacts | str = _measure_case(case, task, num_points)
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
        body_shapes=tuple(fact.body_shape for fact in facts),
        nonzero_share=float(np.median([fact.nonzero_share for fact in facts])),
        channels=_combine_channels([fact.channels for fact in facts if fact.channels is not None], task),
        label_frequencies={name: sum(name in fact.volumes_ml for fact in facts) / len(facts) for name in task.labels},
        label_volumes_ml={
            name: float(np.median(volumes))
            for name in task.labels
            if (volumes := [fact.volumes_ml[name] for fact in facts if name in fact.volumes_ml])
        },
    )


def _measure_case(case: Case, task: Task, num_points: int) -> _CaseFacts:
    image, labels = read_case(case, task)
    image, labels = to_orientation(image), to_orientation(labels)
    # Black is a colour in a picture, and no air.
    shape = image.spatial_shape if is_picture(task.modality) else _measure_box(compute_nonzero_box(image.array))
    i, j, k = (float(f"{mm:.{_SPACING_DIGITS}g}") for mm in image.spacing)
    foreground = np.isin(labels.array[0], task.all_values)
    return _CaseFacts(
        spacing=(i, j, k),
        shape=shape,
        body_shape=_measure_box(compute_body_box(image.array, task.modality)),
        nonzero_share=math.prod(shape) / math.prod(image.spatial_shape),
        channels=tuple(sketch_foreground(channel[foreground], num_points) for channel in image.array)
        if foreground.any()
        else None,
        volumes_ml=_compute_volumes_ml(labels, task),
    )


def _measure_box(box: tuple[slice, slice, slice]) -> Shape3:
    i, j, k = (edge.stop - edge.start for edge in box)
    return i, j, k


def _compute_volumes_ml(labels: Volume, task: Task) -> dict[str, float]:
    values, counts = np.unique(labels.array, return_counts=True)
    num_voxels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    volumes_ml = {
        name: sum(num_voxels.get(value, 0) for value in values) * labels.voxel_volume_mm3 / 1000
        for name, values in task.labels.items()
    }
    return {name: volume_ml for name, volume_ml in volumes_ml.items() if volume_ml > 0}


def _combine_channels(cases: list[tuple[ForegroundSketch, ...]], task: Task) -> tuple[ChannelStatistics, ...]:
    if not cases:
        msg = f"No case holds a voxel of any label of task '{task.name}'; expected {list(task.labels)}. Is it the right task?"
        raise DatasetError(msg)
    return tuple(combine_sketches(channel) for channel in zip(*cases, strict=True))
