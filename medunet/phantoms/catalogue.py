"""The phantoms by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from medunet.errors import InputError
from medunet.phantoms.case import Phantom, PhantomCase
from medunet.phantoms.cells_microscopy import CELL_LABELS, make_cells_microscopy, make_stained_cells
from medunet.phantoms.hippocampus_mr import HIPPOCAMPUS_LABELS, make_hippocampus_mr
from medunet.phantoms.male_pelvis_ct import make_male_pelvis_ct
from medunet.phantoms.nuclei_2d import NUCLEI_LABELS, make_nuclei_2d
from medunet.phantoms.pelvis_organs import PELVIS_LABELS

PHANTOMS: Mapping[str, Phantom] = MappingProxyType(
    {
        phantom.name: phantom
        for phantom in (
            Phantom(
                name="male-pelvis-ct",
                modality="CT",
                channels=("CT",),
                labels=MappingProxyType(PELVIS_LABELS),
                case_prefix="pelvis",
                make=make_male_pelvis_ct,
            ),
            Phantom(
                name="hippocampus-mr",
                modality="MR",
                channels=("MR",),
                labels=MappingProxyType(HIPPOCAMPUS_LABELS),
                case_prefix="hippocampus",
                make=make_hippocampus_mr,
            ),
            Phantom(
                name="cells-microscopy",
                modality="microscopy",
                channels=("microscopy",),
                labels=MappingProxyType(CELL_LABELS),
                case_prefix="cells",
                make=make_cells_microscopy,
            ),
            Phantom(
                name="stained-cells",
                modality="microscopy",
                channels=("red", "green", "blue"),
                labels=MappingProxyType(CELL_LABELS),
                case_prefix="stained",
                make=make_stained_cells,
            ),
            Phantom(
                name="nuclei-2d",
                modality="microscopy",
                channels=("fluorescence",),
                labels=MappingProxyType(NUCLEI_LABELS),
                case_prefix="nuclei",
                make=make_nuclei_2d,
            ),
        )
    }
)
"""The synthetic patients that medunet can make, by name."""


def get_phantom(name: str) -> Phantom:
    """The phantom of a name.

    Raises:
        InputError: If there is none; the message lists those there are.
    """
    if name not in PHANTOMS:
        msg = f"Unknown phantom {name!r}; choose one of {', '.join(PHANTOMS)}."
        raise InputError(msg)
    return PHANTOMS[name]


def make_phantom_case(name: str, seed: int) -> PhantomCase:
    """Make one synthetic patient with exactly known truth.

    Args:
        name: A key of `PHANTOMS`.
        seed: Any whole number from 0; the same seed gives the same bytes.

    Raises:
        InputError: If the name is unknown or the seed negative.

    Example:
        >>> case = make_phantom_case("hippocampus-mr", seed=3)
        >>> case.case_id, np.unique(case.labels.array).tolist()
        ('hippocampus_003', [0, 1, 2])
    """
    phantom = get_phantom(name)
    check_seed(seed)
    return phantom.make(seed)


def check_seed(seed: int) -> None:
    """Refuse a negative seed.

    Raises:
        InputError: If it is one.
    """
    if seed < 0:
        msg = f"The seed is {seed}; expected a whole number from 0."
        raise InputError(msg)
