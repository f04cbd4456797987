"""Scores of one case: every label of a prediction against its reference, on one grid."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from medunet.errors import LabelError
from medunet.evaluation.overlap import OverlapCounts, PairCounts, compute_dice, count_value_pairs, read_overlap
from medunet.volume import Volume, check_same_grid

Status: TypeAlias = Literal["ok", "missed", "invented", "both-empty"]
Labels: TypeAlias = Mapping[str, Sequence[int]]
"""Label or region name -> the values as stored in the files; regions may overlap."""


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """How well one label of one case agrees.

    Attributes:
        case_id: The case.
        label: Name of the label or region.
        dice: 0..1; 0.0 when missed or invented; None when both sides are empty.
        status: ``"missed"``: only the reference has it; ``"invented"``: only the prediction has it; ``"both-empty"``:
            neither; else ``"ok"``, which says that both have it, not that they agree.
        reference_ml: Volume of the reference in millilitres, without ignored voxels.
        prediction_ml: Volume of the prediction in millilitres, without ignored voxels.
        tp: Voxels in both.
        fp: Voxels in the prediction only.
        fn: Voxels in the reference only.
    """

    case_id: str
    label: str
    dice: float | None
    status: Status
    reference_ml: float
    prediction_ml: float
    tp: int
    fp: int
    fn: int


@dataclass(frozen=True, kw_only=True)
class CaseCounts:
    """What one pass over the voxels of a case leaves: small, and enough for every overlap number.

    Attributes:
        case_id: The case.
        pairs: Voxels per ``(reference value, prediction value)``.
        voxel_volume_mm3: Volume of one voxel.
    """

    case_id: str
    pairs: PairCounts
    voxel_volume_mm3: float

    @property
    def reference_values(self) -> set[int]:
        """Values that the reference holds, 0 included where it does."""
        return {reference_value for reference_value, _ in self.pairs}

    @property
    def prediction_values(self) -> set[int]:
        """Values that the prediction holds, 0 included where it does."""
        return {prediction_value for _, prediction_value in self.pairs}


def score_case(
    reference: Volume,
    prediction: Volume,
    labels: Labels,
    *,
    case_id: str,
    ignore_value: int | None = None,
) -> list[LabelScore]:
    """Score every label of one case.

    Args:
        reference: Label map ``(1, I, J, K)`` to compare with.
        prediction: Label map ``(1, I, J, K)`` on the same grid.
        labels: Name -> values as stored; a region has several, and regions may overlap.
        case_id: Goes into the scores and the messages.
        ignore_value: Voxels with this value in the reference leave both sides.

    Returns:
        One score per label, in the order of ``labels``. A label that is empty on both sides has the Dice None.

    Raises:
        GeometryError: If the grids differ.
        LabelError: If a side is no label map of whole numbers, or holds a value that no label has (0 and
            ``ignore_value`` may always occur).

    Example:
        >>> reference = make_volume(shape=(1, 1, 3), dtype=np.uint8).with_array(np.array([[[[1, 1, 0]]]]))
        >>> prediction = reference.with_array(np.array([[[[0, 1, 1]]]]))
        >>> score_case(reference, prediction, {"spleen": [1]}, case_id="p012")[0].dice
        0.5
    """
    return score_counts(count_case(reference, prediction, case_id=case_id), labels, ignore_value=ignore_value)


def count_case(reference: Volume, prediction: Volume, *, case_id: str) -> CaseCounts:
    """Check the two sides of a case and count their value pairs; the only pass over the voxels.

    Raises:
        GeometryError: If the grids differ.
        LabelError: If a side is no label map of whole numbers.
    """
    for volume, name in ((reference, "reference"), (prediction, "prediction")):
        if volume.num_channels != 1 or volume.array.dtype.kind not in "biu":
            msg = (
                f"The {name} of case '{case_id}' has {volume.num_channels} channels of {volume.array.dtype}; expected "
                "1 channel of whole numbers. Give the label map, not an image or probabilities."
            )
            raise LabelError(msg)
    check_same_grid(reference, prediction, f"The reference of case '{case_id}'", "its prediction")
    pairs = count_value_pairs(reference.array[0], prediction.array[0])
    return CaseCounts(case_id=case_id, pairs=pairs, voxel_volume_mm3=reference.voxel_volume_mm3)


def score_counts(counts: CaseCounts, labels: Labels, *, ignore_value: int | None = None) -> list[LabelScore]:
    """`score_case` from counts that were made before.

    Raises:
        LabelError: If a side holds a value that no label has.
    """
    known = {0, *(value for values in labels.values() for value in values)}
    if ignore_value is not None:
        known.add(ignore_value)
    _check_values(counts.reference_values, known, f"The reference of case '{counts.case_id}'")
    _check_values(counts.prediction_values, known, f"The prediction of case '{counts.case_id}'")
    ml_per_voxel = counts.voxel_volume_mm3 / 1000
    return [
        _build_score(counts.case_id, label, read_overlap(counts.pairs, set(values), ignore_value), ml_per_voxel)
        for label, values in labels.items()
    ]


def _check_values(found: Collection[int], known: Collection[int], name: str) -> None:
    if unknown := sorted(set(found) - set(known)):
        msg = (
            f"{name} holds {_list_values(unknown)}, which no label has; expected only {_list_values(sorted(known))}. "
            "Correct the file, or name the missing label in the task; many values mean that it is an image."
        )
        raise LabelError(msg)


def _list_values(values: Iterable[int], limit: int = 12) -> str:
    shown = [str(value) for value in values]
    return ", ".join(shown[:limit]) + (f", ... ({len(shown)} values)" if len(shown) > limit else "")


def _build_score(case_id: str, label: str, overlap: OverlapCounts, ml_per_voxel: float) -> LabelScore:
    return LabelScore(
        case_id=case_id,
        label=label,
        dice=compute_dice(overlap),
        status=_choose_status(overlap),
        reference_ml=overlap.num_reference * ml_per_voxel,
        prediction_ml=overlap.num_prediction * ml_per_voxel,
        tp=overlap.tp,
        fp=overlap.fp,
        fn=overlap.fn,
    )


def _choose_status(overlap: OverlapCounts) -> Status:
    if not overlap.num_reference and not overlap.num_prediction:
        return "both-empty"
    if not overlap.num_prediction:
        return "missed"
    return "ok" if overlap.num_reference else "invented"
