"""What labelled cases look like: the ranges that a scan and its mask can be held against later."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from medunet.device import is_out_of_memory
from medunet.errors import MedunetError
from medunet.models.quality import AxisRanges, ChannelRanges, DiceCalibration, LabelRanges, QualityRanges, Range
from medunet.planning import compute_body_box, compute_body_mask
from medunet.postprocessing.parts import Box, find_parts, find_value_boxes, join_boxes
from medunet.postprocessing.sides import Axes, list_touched_sides
from medunet.tasks import Case, Task, read_case
from medunet.volume import Array, Volume, turn_to_grid

logger = logging.getLogger(__name__)

Point = tuple[float, float, float]

_PERCENTILES = (0.5, 50.0, 99.5)
_SAMPLES = 200_000  # voxels of the body whose intensities are sorted
_LATTICE = 2_000_000  # voxels that are looked at to find them
_MIN_PART = 0.01  # of a structure; smaller parts are specks, which pencils and networks leave alike


@dataclass(frozen=True, kw_only=True)
class LabelFacts:
    """One label in one mask.

    Attributes:
        volume_ml: Its volume.
        num_parts: Connected parts that hold at least 1 % of it.
        position: Centre of mass, as a share of the body's box along R, A, S.
        cut_sides: Sides of the scan whose border it touches, such as ``"superior"``.
    """

    volume_ml: float
    num_parts: int
    position: Point
    cut_sides: tuple[str, ...]

    @property
    def is_cut(self) -> bool:
        """Whether it touches the border of the scan, so that its volume says little."""
        return bool(self.cut_sides)


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
    labels = turn_to_grid(labels, image)
    axes = Axes.of(image)
    body_box = compute_body_box(image.array, task.modality)
    boxes = find_value_boxes(labels.array[0], task.all_values)
    return CaseFacts(
        spacing_mm=axes.order(image.spacing),
        field_of_view_mm=axes.order([n * mm for n, mm in zip(image.spatial_shape, image.spacing, strict=True)]),
        intensities=_measure_intensities(image.array, task.modality),
        labels={
            name: _measure_label(labels, values, [boxes[value] for value in values if value in boxes], body_box, axes)
            for name, values in task.labels.items()
            if annotated is None or name in annotated
        },
    )


def compute_quality_ranges(
    cases: Sequence[Case],
    task: Task,
    *,
    dices: Mapping[str, Sequence[float]] | None = None,
    calibrations: Mapping[str, DiceCalibration] | None = None,
    num_workers: int = 2,
    on_case: Callable[[str], None] | None = None,
) -> QualityRanges | None:
    """Read every case once, and gather what it looks like; a few numbers per case are kept.

    Args:
        cases: Labelled cases; one that cannot be read is left out, with a warning.
        task: Channels and labels.
        dices: Label -> Dice of each validation case.
        calibrations: Label -> what predicts the Dice of a mask, see `fit_dice_calibration`.
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
        facts = [of_case for of_case in pool.map(measure, cases) if of_case is not None]
    return build_quality_ranges(facts, task, dices, calibrations)


def build_quality_ranges(
    facts: Sequence[CaseFacts],
    task: Task,
    dices: Mapping[str, Sequence[float]] | None = None,
    calibrations: Mapping[str, DiceCalibration] | None = None,
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
                [of_case.labels[name] for of_case in facts if name in of_case.labels],
                (dices or {}).get(name, ()),
                (calibrations or {}).get(name),
            )
            for name in task.labels
        },
    )


def _measure_intensities(image: Array, modality: str) -> tuple[Point, ...]:
    i, j, k = _choose_steps(image.shape[1:])
    image = image[:, ::i, ::j, ::k]
    body = np.flatnonzero(compute_body_mask(image, modality))
    if not body.size:
        body = np.arange(image[0].size)
    body = body[:: -(-body.size // _SAMPLES)]
    percentiles = [np.percentile(channel.reshape(-1)[body], _PERCENTILES).tolist() for channel in image]
    return tuple((low, median, high) for low, median, high in percentiles)


def _choose_steps(shape: Sequence[int]) -> list[int]:
    """Steps of a lattice through a volume of at most `_LATTICE` points, as even as whole steps make it."""
    steps = [1] * len(shape)

    def count_points() -> list[int]:
        return [-(-length // step) for length, step in zip(shape, steps, strict=True)]

    while math.prod(points := count_points()) > _LATTICE:
        steps[int(np.argmax(points))] += 1
    return steps


def _measure_label(
    labels: Volume, values: Sequence[int], boxes: Sequence[Box], body_box: Box, axes: Axes
) -> LabelFacts | None:
    if not boxes:
        return None
    box = join_boxes(boxes)
    within = labels.array[0][box]
    mask = within == values[0] if len(values) == 1 else np.isin(within, values)
    _, sizes = find_parts(mask.astype(np.uint8))
    num_voxels = int(sizes[1:].sum())
    return LabelFacts(
        volume_ml=num_voxels * labels.voxel_volume_mm3 / 1000,
        num_parts=int((sizes[1:] >= _MIN_PART * num_voxels).sum()),
        position=axes.order_shares(
            [
                (edge.start + centre - body.start) / (body.stop - body.start)
                for edge, centre, body in zip(box, _compute_centre(mask), body_box, strict=True)
            ]
        ),
        cut_sides=list_touched_sides(box, labels.spatial_shape, axes),
    )


def _compute_centre(mask: Array) -> list[float]:
    """Centre of mass, in voxels from the corner of the first."""
    columns, rows = mask.sum(axis=2), mask.sum(axis=0)  # (I, J), (J, K)
    profiles = columns.sum(axis=1), columns.sum(axis=0), rows.sum(axis=0)
    return [float(profile @ (np.arange(len(profile)) + 0.5)) / int(profile.sum()) for profile in profiles]


def _gather_channel(percentiles: Sequence[Point]) -> ChannelRanges:
    low, median, high = (Range.of([of_case[place] for of_case in percentiles]) for place in range(3))
    assert low is not None
    assert median is not None
    assert high is not None
    relative = [value for of_case in percentiles if (value := compute_relative_median(of_case)) is not None]
    return ChannelRanges(percentile_00_5=low, median=median, percentile_99_5=high, relative_median=Range.of(relative))


def compute_relative_median(percentiles: Point) -> float | None:
    """Where the median lies between the 0.5th and the 99.5th percentile, 0 to 1; None where these are equal.

    Example:
        >>> compute_relative_median((10.0, 40.0, 110.0))
        0.3
    """
    low, median, high = percentiles
    return (median - low) / (high - low) if high > low else None


def _gather_label(
    facts: Iterable[LabelFacts | None], dices: Sequence[float], calibration: DiceCalibration | None
) -> LabelRanges:
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
        dice_calibration=calibration,
    )
