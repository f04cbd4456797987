"""What labelled cases look like: the ranges that a scan and its mask can be held against later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from medunet.device import is_out_of_memory
from medunet.errors import MedunetError
from medunet.models.quality import AxisRanges, ChannelRanges, LabelRanges, QualityRanges, Range
from medunet.planning import compute_body_box, compute_body_mask
from medunet.postprocessing.parts import find_box, find_parts
from medunet.tasks import Case, Task, read_case
from medunet.volume import Array, Volume, to_orientation

logger = logging.getLogger(__name__)

Point = tuple[float, float, float]

_PERCENTILES = (0.5, 50.0, 99.5)
_SAMPLES = 200_000  # voxels of the body whose intensities are sorted


@dataclass(frozen=True, kw_only=True)
class LabelFacts:
    """One label in one mask.

    Attributes:
        volume_ml: Its volume.
        num_parts: Connected parts.
        position: Centre of mass, as a share of the body's box along R, A, S.
        is_cut: Whether it touches the border of the scan, so that its volume says little.
    """

    volume_ml: float
    num_parts: int
    position: Point
    is_cut: bool


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """One scan and its mask.

    Attributes:
        spacing_mm: Along R, A, S.
        field_of_view_mm: Along R, A, S.
        intensities: Per channel, the 0.5th, 50th and 99.5th percentile within the body.
        labels: Label -> what it looks like; None where it was searched for and is absent.
    """

    spacing_mm: Point
    field_of_view_mm: Point
    intensities: tuple[Point, ...]
    labels: dict[str, LabelFacts | None]


def measure_case(image: Volume, labels: Volume, task: Task, *, annotated: Collection[str] | None = None) -> CaseFacts:
    """Measure one scan with its reference, or with a mask that a network made.

    Args:
        image: ``(C, I, J, K)``.
        labels: ``(1, I, J, K)`` on the grid of ``image``.
        task: Gives labels and modality.
        annotated: Labels that were searched for; None means all.
    """
    image, labels = to_orientation(image), to_orientation(labels)
    body_box = compute_body_box(image.array, task.modality)
    right, anterior, superior = (n * mm for n, mm in zip(image.spatial_shape, image.spacing, strict=True))
    return CaseFacts(
        spacing_mm=image.spacing,
        field_of_view_mm=(right, anterior, superior),
        intensities=_measure_intensities(image.array, task.modality),
        labels={
            name: _measure_label(np.isin(labels.array[0], values), body_box, labels.voxel_volume_mm3)
            for name, values in task.labels.items()
            if annotated is None or name in annotated
        },
    )


def compute_quality_ranges(
    cases: Sequence[Case],
    task: Task,
    *,
    dices: Mapping[str, Sequence[float]] | None = None,
    num_workers: int = 2,
    on_case: Callable[[str], None] | None = None,
) -> QualityRanges | None:
    """Read every case once, and gather what it looks like; a few numbers per case are kept.

    Args:
        cases: Labelled cases; one that cannot be read is left out, with a warning.
        task: Channels and labels.
        dices: Label -> Dice of each validation case.
        num_workers: Threads that read.
        on_case: Called with the id of every finished case.

    Returns:
        The ranges; None when no case could be read.
    """

    def measure(case: Case) -> CaseFacts | None:
        try:
            facts = measure_case(*read_case(case, task), task, annotated=case.annotated)
        except (MedunetError, MemoryError, RuntimeError) as error:
            if not (isinstance(error, MedunetError) or is_out_of_memory(error)):
                raise
            logger.warning("Case '%s' is left out of the quality ranges: %s", case.case_id, error)
            facts = None
        if on_case:
            on_case(case.case_id)
        return facts

    with ThreadPoolExecutor(num_workers) as pool:
        return build_quality_ranges([facts for facts in pool.map(measure, cases) if facts is not None], task, dices)


def build_quality_ranges(
    facts: Sequence[CaseFacts], task: Task, dices: Mapping[str, Sequence[float]] | None = None
) -> QualityRanges | None:
    """`compute_quality_ranges` from cases that were measured before."""
    spacing_mm = AxisRanges.of([of_case.spacing_mm for of_case in facts])
    field_of_view_mm = AxisRanges.of([of_case.field_of_view_mm for of_case in facts])
    if spacing_mm is None or field_of_view_mm is None:
        return None
    return QualityRanges(
        num_cases=len(facts),
        spacing_mm=spacing_mm,
        field_of_view_mm=field_of_view_mm,
        channels={
            name: _gather_channel([of_case.intensities[channel] for of_case in facts])
            for channel, name in enumerate(task.channels)
        },
        labels={
            name: _gather_label(
                [of_case.labels[name] for of_case in facts if name in of_case.labels], (dices or {}).get(name, ())
            )
            for name in task.labels
        },
    )


def _measure_intensities(image: Array, modality: str) -> tuple[Point, ...]:
    body = np.flatnonzero(compute_body_mask(image, modality))
    if not body.size:
        body = np.arange(image[0].size)
    body = body[:: -(-body.size // _SAMPLES)]
    percentiles = [np.percentile(channel.reshape(-1)[body], _PERCENTILES).tolist() for channel in image]
    return tuple((low, median, high) for low, median, high in percentiles)


def _measure_label(mask: Array, body_box: tuple[slice, slice, slice], voxel_volume_mm3: float) -> LabelFacts | None:
    box = find_box(mask)
    if box[0].stop == 0:
        return None
    _, sizes = find_parts(mask[box].astype(np.uint8))
    num_voxels = int(sizes[1:].sum())
    position = []
    for axis, (edge, body) in enumerate(zip(box, body_box, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        centre = float(mask[box].sum(axis=others) @ (np.arange(edge.start, edge.stop) + 0.5)) / num_voxels
        position.append((centre - body.start) / (body.stop - body.start))
    right, anterior, superior = position
    return LabelFacts(
        volume_ml=num_voxels * voxel_volume_mm3 / 1000,
        num_parts=len(sizes) - 1,
        position=(right, anterior, superior),
        is_cut=any(edge.start == 0 or edge.stop == n for edge, n in zip(box, mask.shape, strict=True)),
    )


def _gather_channel(percentiles: Sequence[Point]) -> ChannelRanges:
    low, median, high = (Range.of([of_case[place] for of_case in percentiles]) for place in range(3))
    assert low is not None
    assert median is not None
    assert high is not None
    return ChannelRanges(percentile_00_5=low, median=median, percentile_99_5=high)


def _gather_label(facts: Iterable[LabelFacts | None], dices: Sequence[float]) -> LabelRanges:
    facts = list(facts)
    found = [of_case for of_case in facts if of_case is not None]
    return LabelRanges(
        num_cases=len(found),
        num_without=len(facts) - len(found),
        num_cut=sum(of_case.is_cut for of_case in found),
        volume_ml=Range.of([of_case.volume_ml for of_case in found if not of_case.is_cut]),
        num_parts=Range.of([of_case.num_parts for of_case in found]),
        position=AxisRanges.of([of_case.position for of_case in found]),
        dice=Range.of(dices),
    )
