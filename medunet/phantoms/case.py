"""What a phantom generator makes, and how the generator itself is described."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medunet.tasks import Modality
from medunet.volume import Volume


@dataclass(frozen=True, kw_only=True)
class PhantomCase:
    """One synthetic patient.

    Attributes:
        case_id: Name of the case, for example ``"pelvis_007"``.
        image: Intensities, ``(C, I, J, K)``; of pictures uint8, one slice, one channel or R, G and B.
        labels: The exact truth on the same grid, ``(1, I, J, K)`` uint8, or uint16 with a value per object.
    """

    case_id: str
    image: Volume
    labels: Volume


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A family of synthetic patients.

    Attributes:
        name: The name by which `make_phantom_case` knows it.
        modality: ``"CT"`` (intensities in HU), ``"MR"`` (arbitrary positive intensities), or that of a picture.
        channels: Names of the image channels, in order.
        labels: Label name to the value in the label map; the background is 0 and is not listed.
        case_prefix: Start of the case ids.
        make: Makes the case of a seed; the same seed gives the same bytes.
    """

    name: str
    modality: Modality
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    case_prefix: str
    make: Callable[[int], PhantomCase]
