"""Which array axis of a scan runs along which direction of the patient, so that nothing has to be turned to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from medunet.postprocessing.parts import Box
from medunet.volume import Shape3, Volume

ANATOMICAL_AXES: Final = ("right", "anterior", "superior")
_SIDES: Final = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The array axes of a volume among those of the patient.

    Attributes:
        places: For each of R, A, S the array axis that runs most nearly along it.
        is_flipped: For each of R, A, S whether that axis runs the other way.
    """

    places: tuple[int, int, int]
    is_flipped: tuple[bool, bool, bool]

    @classmethod
    def of(cls, volume: Volume) -> Axes:
        """The axes of a volume.

        Example:
            >>> Axes.of(make_volume(orientation="LPI")).is_flipped
            (True, True, True)
        """
        from nibabel.orientations import io_orientation

        orientation = io_orientation(volume.affine).astype(int).tolist()
        towards = [place for place, _ in orientation]
        right, anterior, superior = (towards.index(axis) for axis in range(3))
        flips = [orientation[place][1] < 0 for place in (right, anterior, superior)]
        return cls(places=(right, anterior, superior), is_flipped=(flips[0], flips[1], flips[2]))

    def order(self, values: Sequence[float]) -> tuple[float, float, float]:
        """One number per array axis as one per R, A, S."""
        right, anterior, superior = (values[place] for place in self.places)
        return right, anterior, superior

    def order_shares(self, shares: Sequence[float]) -> tuple[float, float, float]:
        """The same for shares of a length, which are counted from the other end along axes that run the other way."""
        ordered = zip(self.order(shares), self.is_flipped, strict=True)
        right, anterior, superior = (1 - share if flipped else share for share, flipped in ordered)
        return right, anterior, superior


def list_touched_sides(box: Box, shape: Shape3, axes: Axes) -> tuple[str, ...]:
    """The sides of a scan that a box reaches, by their anatomical names: ``"left"``, ``"right"``, ``"posterior"`` ...

    Args:
        box: In voxels.
        shape: Of the scan.
        axes: Of the scan.
    """
    touched = []
    for names, place, flipped in zip(_SIDES, axes.places, axes.is_flipped, strict=True):
        at_ends = (box[place].start == 0, box[place].stop == shape[place])
        touched += [name for name, reached in zip(names, at_ends[::-1] if flipped else at_ends, strict=True) if reached]
    return tuple(touched)
