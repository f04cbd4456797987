"""NRRD files to `Volume`, and the segments that 3D Slicer keeps in them to `StructureSet`.

World axes are what the header's ``space`` says (RAS, LAS or LPS), turned into RAS+ mm; a header without ``space`` is
taken as LPS, as ITK does, with a warning. The segment fields:
https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medunet.errors import LabelError, VolumeError
from medunet.io.affine import check_affine
from medunet.io.nrrd import NrrdHeader, read_nrrd_header, read_nrrd_voxels
from medunet.io.stored_voxels import MM_PER_UNIT, build_volume, explain_failures, parse_numbers, parse_whole
from medunet.io.structures import Code, Structure, StructureSet
from medunet.palette import Color, get_color
from medunet.volume import Affine, Volume

logger = logging.getLogger(__name__)

_RAS_FROM_SPACE = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
}
_SPATIAL_KINDS = ("domain", "space")
_UNKNOWN_KINDS = ("none", "???")
_CHANNEL_KINDS = (
    "list", "vector", "covariant-vector", "normal", "point", "scalar", "stub", "time", "rgb-color", "3-color",
    "2-vector", "3-vector", "4-vector", "3-gradient", "3-normal",
)  # fmt: skip
_LABELMAP = "binary labelmap"


def read_nrrd(path: Path, *, volume_index: int | None = None) -> Volume:
    """Read an image; an axis of lists, vectors or colours becomes channels, wherever it stands.

    Args:
        path: ``.nrrd``, or ``.nhdr`` with its data file beside it.
        volume_index: Which channel, from 0; None takes all.

    Returns:
        Volume with the integer type of the file, or float32 where the file is float. A 2D image has ``K == 1``.

    Raises:
        VolumeError: If the file is missing, is no NRRD file, is damaged, is stored in a way that is not understood
            (text, several files, complex or tensor voxels), holds NaN, or has an affine that is not finite, singular or
            sheared.
    """
    with explain_failures(path):
        return _read_volume(read_nrrd_header(path), volume_index)


def read_nrrd_structures(path: Path) -> StructureSet | None:
    """Read the segments of a ``.seg.nrrd`` file of 3D Slicer.

    Files of Slicer before 4.11 give each segment a layer of its own and say neither layer nor value.

    Returns:
        Layers ``(L, I, J, K)`` with one structure per segment, or None where the header lists no segments. Segments
        without a voxel stay listed.

    Raises:
        VolumeError: As `read_nrrd`; if the segments are no binary labelmap, or a layer or value is no whole number.
        LabelError: If the layers are no integers, or a segment has a layer that is not there or another's name.
    """
    with explain_failures(path):
        header = read_nrrd_header(path)
        numbers = sorted({int(found[1]) for key in header.keys if (found := re.match(r"Segment(\d{1,6})_", key))})
        if not numbers:
            return None
        structures = tuple(_parse_segment(header, number) for number in numbers)
        _check_representation(header)
        layers = _read_volume(header, None)
    if layers.array.dtype.kind not in "iu":
        msg = f"{path} lists segments but holds {layers.array.dtype} voxels; expected integers. Export it again."
        raise LabelError(msg)
    try:
        return StructureSet(layers=layers, structures=structures)
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error  # noqa: EM102


def _read_volume(header: NrrdHeader, volume_index: int | None) -> Volume:
    sizes = header.sizes
    directions = _read_directions(header)  # one per axis, None for a channel axis
    channel_axes = [axis for axis, direction in enumerate(directions) if direction is None]
    num_spatial = len(sizes) - len(channel_axes)
    if num_spatial not in (2, 3) or len(channel_axes) > 1:
        msg = (
            f"{header.path} has {num_spatial} axes in space and {len(channel_axes)} of other kinds; expected 2 or 3, and "
            "at most 1. Split it first."
        )
        raise VolumeError(msg)
    affine = _build_affine(header, [direction for direction in directions if direction is not None])
    voxels = read_nrrd_voxels(header)
    voxels = np.moveaxis(voxels, channel_axes[0], 0) if channel_axes else voxels[None]  # (C, I, J) or (C, I, J, K)
    voxels = voxels if voxels.ndim == 4 else voxels[..., None]
    return build_volume(voxels, affine, str(header.path), volume_index)


# ---- geometry --------------------------------------------------------------------------------------------------------


def _read_directions(header: NrrdHeader) -> list[NDArray[np.float64] | None]:
    """One step along each axis in the axes of the header's space, (3,); None for an axis of channels."""
    kinds = _read_kinds(header)
    if "spacedirections" not in header.fields:
        return _build_directions_from_spacings(header, kinds)
    if "spacings" in header.fields and any(word.lower() != "nan" for word in header.fields["spacings"].split()):
        msg = f"{header.path} gives both 'spacings' and 'space directions'; expected one of them. Write it again."
        raise VolumeError(msg)
    words = re.findall(r"none|\([^()]*\)", header.fields["spacedirections"], re.IGNORECASE)
    if len(words) != len(kinds):
        msg = f"{header.path} has {len(words)} 'space directions' for {len(kinds)} axes; expected one each. Repair it."
        raise VolumeError(msg)
    directions = [None if word.lower() == "none" else _parse_vector(word, header) for word in words]
    directions = [None if direction is None or np.isnan(direction).all() else direction for direction in directions]
    for kind, direction in zip(kinds, directions, strict=True):
        if (kind in _SPATIAL_KINDS and direction is None) or (kind in _CHANNEL_KINDS and direction is not None):
            has = "no" if direction is None else "a"
            msg = f"{header.path} gives an axis of kind '{kind}' {has} direction; expected the opposite. Repair it."
            raise VolumeError(msg)
    return directions


def _read_kinds(header: NrrdHeader) -> list[str]:
    num_axes = len(header.sizes)
    kinds = header.fields.get("kinds", "none " * num_axes).lower().split()
    known = _SPATIAL_KINDS + _UNKNOWN_KINDS + _CHANNEL_KINDS
    odd = [kind for kind in kinds if kind not in known]
    if len(kinds) != num_axes or odd:
        found = f"an axis of kind '{odd[0][:20]}'" if odd else f"{len(kinds)} kinds for {num_axes} axes"
        msg = f"{header.path} has {found}; expected axes in space, and one of vectors or a list. Convert it first."
        raise VolumeError(msg)
    return kinds


def _build_directions_from_spacings(header: NrrdHeader, kinds: list[str]) -> list[NDArray[np.float64] | None]:
    """Along the axes of the space, as ITK does; without kinds, up to three axes are in space."""
    name, num_axes = str(header.path), len(kinds)
    is_channel = [kind in _CHANNEL_KINDS for kind in kinds]
    if num_axes - sum(is_channel) > 3:
        msg = f"{name} has {num_axes} axes; expected 'kinds' that say which 3 are in space. Add them to its header."
        raise VolumeError(msg)
    logger.warning("%s says no 'space directions': orientation and position are guessed.", name)
    steps = parse_numbers(header.fields.get("spacings", "nan " * num_axes), "spacings", name, count=num_axes)
    in_space = np.diag(_read_units(header, "units"))
    directions: list[NDArray[np.float64] | None] = []
    for step, skipped in zip(steps, is_channel, strict=True):
        position = sum(direction is not None for direction in directions)
        if not skipped and np.isnan(step):
            logger.warning("%s says no spacing for an axis; 1 mm is assumed.", name)
            directions.append(np.eye(3)[position])
        else:
            directions.append(None if skipped else step * in_space[position])
    return directions


def _build_affine(header: NrrdHeader, directions: list[NDArray[np.float64]]) -> Affine:
    """RAS+ mm from the directions of two or three axes."""
    affine = np.eye(4)
    if len(directions) == 2:  # a slice without thickness: 1 mm
        normal = np.cross(directions[0], directions[1])
        directions = [*directions, normal / (np.linalg.norm(normal) or 1.0)]
    affine[:3, :3] = np.stack(directions, axis=1)
    if "spaceorigin" in header.fields:
        affine[:3, 3] = _parse_vector(header.fields["spaceorigin"], header)
    elif "spacedirections" in header.fields:
        logger.warning("%s says no 'space origin': its position is unknown, 0 is assumed.", header.path)
    return check_affine(np.diag([*_read_ras_signs(header), 1.0]) @ affine, str(header.path))


def _read_ras_signs(header: NrrdHeader) -> tuple[float, float, float]:
    space = header.fields.get("space", "").lower()
    if not space:
        if "spacedirections" in header.fields:
            logger.warning("%s says no 'space'; its axes are taken as left, posterior, superior.", header.path)
        space = "lps"
    if space not in _RAS_FROM_SPACE:
        msg = (
            f"{header.path} has space = '{space[:40]}' in its header, which does not say where the patient's right is; "
            "expected RAS, LAS or LPS. Correct its header."
        )
        raise VolumeError(msg)
    return _RAS_FROM_SPACE[space]


def _parse_vector(text: str, header: NrrdHeader) -> NDArray[np.float64]:
    """``(x,y,z)`` in mm; where the header names no space, two numbers lie in the plane of the first two axes."""
    inside = text.strip().removeprefix("(").removesuffix(")")
    count = 2 if "space" not in header.fields and inside.count(",") == 1 else 3
    numbers = parse_numbers(inside, "a vector", str(header.path), count=count)
    return np.array([*numbers, 0.0][:3]) * _read_units(header, "spaceunits")


def _read_units(header: NrrdHeader, field: str) -> NDArray[np.float64]:
    """Millimetres per unit along each axis in space, (3,); 1 where the header does not say."""
    words = re.findall(r'"([^"]*)"', header.fields.get(field, ""))
    if field == "units":
        words = [word for word, kind in zip(words, _read_kinds(header), strict=False) if kind not in _CHANNEL_KINDS]
    if len(words) > 3 or any(word.strip().lower() not in MM_PER_UNIT for word in words):
        msg = f"{header.path} has {field} = {words[:4]} in its header; expected mm, um, cm or m. Correct its header."
        raise VolumeError(msg)
    return np.array([MM_PER_UNIT[word.strip().lower()] for word in words] + [1.0] * (3 - len(words)))


# ---- segments --------------------------------------------------------------------------------------------------------


def _parse_segment(header: NrrdHeader, number: int) -> Structure:
    keys, start, name = header.keys, f"Segment{number}_", str(header.path)
    value = keys.get(f"{start}LabelValue")
    # Without a value the file is from a Slicer that stores one segment per layer, as 1.
    layer = keys.get(f"{start}Layer", "0" if value else str(number))
    return Structure(
        name=keys.get(f"{start}Name") or keys.get(f"{start}ID") or f"Segment_{number + 1}",
        values=parse_whole(value or "1", f"{start}LabelValue", name, count=1),
        layer=parse_whole(layer, f"{start}Layer", name, count=1)[0],
        color=_parse_color(keys.get(f"{start}Color"), number, name),
        code=_parse_terminology(keys.get(f"{start}Tags", "")),
    )


def _parse_color(text: str | None, number: int, name: str) -> Color:
    if text is None:
        return get_color(number)
    parts = parse_numbers(text, f"Segment{number}_Color", name, count=3)
    if not all(0 <= part <= 1 for part in parts):
        logger.warning("%s has a Segment%d_Color that is not in 0 to 1; another colour is used.", name, number)
        return get_color(number)
    red, green, blue = (round(255 * part) for part in parts)
    return red, green, blue


def _parse_terminology(tags: str) -> Code | None:
    """The type of ``context~category~type~modifier~...``, each a ``scheme^value^meaning``."""
    entry = next((tag for tag in tags.split("|") if tag.strip().startswith("TerminologyEntry:")), "")
    parts = entry.split("~")
    triple = parts[2].split("^") if len(parts) > 2 else []
    if len(triple) != 3 or not triple[0] or not triple[1]:
        return None
    return Code(scheme=triple[0], value=triple[1], meaning=triple[2])


def _check_representation(header: NrrdHeader) -> None:
    for word in ("Source", "Master"):
        found = header.keys.get(f"Segmentation_{word}Representation", _LABELMAP)
        if found.lower() != _LABELMAP:
            msg = f"{header.path} holds a segmentation that is no binary labelmap. Export it as binary labelmap."
            raise VolumeError(msg)
