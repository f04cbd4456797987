"""`StructureSet`: named masks on one grid, which may overlap; what every label format is read to and written from.

A label map holds one value per voxel, DICOM SEG and RTSTRUCT hold one mask per structure. Between the two stand layers,
as in 3D Slicer's segmentations: structures that do not overlap share a layer, each with values of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from medunet.errors import LabelError
from medunet.palette import Color, get_color
from medunet.volume import Array, Volume

_FIRST_COLOR = get_color(0)


class Code(BaseModel):
    """A term of a medical vocabulary, SNOMED CT unless ``scheme`` says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str
    meaning: str
    scheme: str = "SCT"


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What made masks, for DICOM objects.

    Attributes:
        name: Of the program or model.
        version: Of it.
        is_automatic: Whether it drew the masks, or only converted masks whose origin is unknown.
    """

    name: str = "medunet"
    version: str = ""
    is_automatic: bool = True


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One named structure.

    Attributes:
        name: For people and for the task, such as ``"bladder"``.
        values: The values in the layer that belong to it; several make a region.
        layer: Index of the layer.
        color: Red, green, blue, 0 to 255.
        code: Coded type (SNOMED CT), where the task or the file says it.
    """

    name: str
    values: tuple[int, ...]
    layer: int = 0
    color: Color = _FIRST_COLOR
    code: Code | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class StructureSet:
    """Named masks on one grid.

    Attributes:
        layers: ``(L, I, J, K)`` integers on one grid; 0 is background in every layer.
        structures: In the order in which files list them; names are unique. Structures without a voxel stay listed.

    Raises:
        LabelError: If two structures have the same name, or one points to a layer that is not there.
    """

    layers: Volume
    structures: tuple[Structure, ...]

    def __post_init__(self) -> None:
        names = [structure.name for structure in self.structures]
        for name in names:
            if names.count(name) > 1:
                msg = f"There are two structures named '{name}'; expected unique names. Rename one."
                raise LabelError(msg)
        for structure in self.structures:
            if not 0 <= structure.layer < self.layers.num_channels or not structure.values or min(structure.values) < 1:
                msg = (
                    f"Structure '{structure.name}' has layer {structure.layer} and values {list(structure.values)}; "
                    f"expected a layer below {self.layers.num_channels} and positive values."
                )
                raise LabelError(msg)

    def get_mask(self, structure: Structure) -> NDArray[np.bool_]:
        """The voxels of one structure, ``(I, J, K)`` bool; all False where it has none."""
        layer: Array = self.layers.array[structure.layer]
        mask: NDArray[np.bool_] = layer == structure.values[0]
        for value in structure.values[1:]:  # many times faster than np.isin on small integers
            mask |= layer == value
        return mask

    def to_label_map(self) -> Volume:
        """One label map ``(1, I, J, K)`` with the values of the layers.

        Raises:
            LabelError: If there are several layers: their structures may overlap, which a label map cannot show.
        """
        if self.layers.num_channels == 1:
            return self.layers
        names = ", ".join(f"'{structure.name}'" for structure in self.structures[:6])
        msg = (
            f"The structures {names} overlap or lie in {self.layers.num_channels} layers; one label map cannot show "
            "that. Write one file per structure with --split."
        )
        raise LabelError(msg)


def from_label_map(
    labels: Volume,
    label_values: Mapping[str, Iterable[int]],
    *,
    codes: Mapping[str, Code] | None = None,
    colors: Mapping[str, Color] | None = None,
) -> StructureSet:
    """Name the values of a label map.

    Args:
        labels: ``(1, I, J, K)`` integers.
        label_values: Name -> values in ``labels``; regions may share values.
        codes: Name -> coded type; names may be missing.
        colors: Name -> colour; what is missing is that of its place (`medunet.palette.get_color`).
    """
    structures = tuple(
        Structure(
            name=name,
            values=tuple(int(value) for value in values),
            color=(colors or {}).get(name, get_color(index)),
            code=(codes or {}).get(name),
        )
        for index, (name, values) in enumerate(label_values.items())
    )
    return StructureSet(layers=labels, structures=structures)


def from_masks(
    masks: Iterable[tuple[str, NDArray[np.bool_]]],
    grid: Volume,
    *,
    codes: Mapping[str, Code] | None = None,
    colors: Mapping[str, Color] | None = None,
) -> StructureSet:
    """Put masks into as few layers as their overlaps allow, one value each: 1, 2, 3 in the order given.

    Args:
        masks: Name and ``(I, J, K)`` bool, one after the other; only one needs to be in memory.
        grid: Gives shape and affine; its voxels are not looked at.
        codes: Name -> coded type.
        colors: Name -> colour; what is missing is that of its place (`medunet.palette.get_color`).
    """
    layers: list[Array] = []
    structures: list[Structure] = []
    for index, (name, mask) in enumerate(masks):
        value = index + 1
        layer = next((n for n, labels in enumerate(layers) if not labels[mask].any()), len(layers))
        if layer == len(layers):
            layers.append(np.zeros(grid.spatial_shape, dtype=np.uint16))
        layers[layer][mask] = value
        structures.append(
            Structure(
                name=name,
                values=(value,),
                layer=layer,
                color=(colors or {}).get(name, get_color(index)),
                code=(codes or {}).get(name),
            )
        )
    array: Any = np.stack(layers or [np.zeros(grid.spatial_shape, dtype=np.uint16)])
    if len(structures) <= 255:
        array = array.astype(np.uint8)
    return StructureSet(layers=Volume(array, grid.affine), structures=tuple(structures))
