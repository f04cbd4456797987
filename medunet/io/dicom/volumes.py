"""Series that hold several slices at one place: exact duplicates, or several volumes (b-values, phases, echoes)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from medunet.errors import VolumeError
from medunet.io.dicom.frames import Frame
from medunet.io.dicom.header import get_text, to_line
from medunet.io.dicom.pixels import read_stored
from medunet.io.dicom.volume_keys import PHYSICAL_KEYS, VOLUME_KEYS, read_keys, read_volume_keys

_QUIET_KEYS = {"AcquisitionDateTime", "AcquisitionTime", "FrameAcquisitionDateTime", "ContentTime"}
"""Told by their order only: the time of a scan helps to find a patient."""
_MEASURED = {
    "ORIGINAL", "DERIVED",
    "M", "P", "R", "I", "M_FFE", "M_SE", "M_IR", "PHASE MAP", "MAGNITUDE", "PHASE", "REAL", "IMAGINARY",
    "WATER", "FAT", "W", "F", "IN_PHASE", "OUT_PHASE", "IP", "OP", "OPP_PHASE", "ADC", "FA", "TRACEW", "T1", "T2",
    "T1 MAP", "T2 MAP", "DIFFUSION", "PERFUSION",
}  # fmt: skip


def choose_volume(groups: list[list[Frame]], volume_index: int | None) -> tuple[list[Frame], list[str]]:
    """One slice per place.

    Args:
        groups: Slices at the same place, along the normal.
        volume_index: Which volume, where there are several.

    Returns:
        One slice per place, and notes.

    Raises:
        VolumeError: If there are several volumes and none is chosen, or slices differ without saying how.
    """
    groups, notes = _drop_copies(groups)
    volumes = _split(groups) if any(len(group) > 1 for group in groups) else _split_by_physics(groups)
    if volumes is None:
        groups, more = _drop_twins(groups, _is_same_slice)
        return _take_only(groups, volume_index), notes + more
    listed = "; ".join(f"{index}: {name} ({len(frames)} slices)" for index, (name, frames) in enumerate(volumes))
    if volume_index is None:
        msg = (
            f"The series in {groups[0][0].file.path.parent} holds {len(volumes)} volumes ({listed}). Choose one with "
            "--volume-index."
        )
        raise VolumeError(msg)
    if not 0 <= volume_index < len(volumes):
        msg = f"There is no --volume-index {volume_index}; the series holds {len(volumes)} volumes ({listed})."
        raise VolumeError(msg)
    name, frames = volumes[volume_index]
    notes.append(f"Volume {volume_index} of {len(volumes)} was taken: {name}.")
    if len(frames) < max(len(found) for _, found in volumes):
        notes.append(f"It may be incomplete: it has {len(frames)} slices, others of the series have more.")
    return frames, notes


def _take_only(groups: list[list[Frame]], volume_index: int | None) -> list[Frame]:
    crowded = next((group for group in groups if len(group) > 1), None)
    if crowded is not None:
        msg = (
            f"{crowded[0]} and {crowded[1]} lie at the same place and differ, and no attribute tells the volumes apart; "
            "expected one slice per place. Separate them first."
        )
        raise VolumeError(msg)
    if volume_index not in (None, 0):
        msg = (
            f"The series in {groups[0][0].file.path.parent} holds 1 volume; there is no --volume-index {volume_index}."
        )
        raise VolumeError(msg)
    return [group[0] for group in groups]


def _drop_copies(groups: list[list[Frame]]) -> tuple[list[list[Frame]], list[str]]:
    """Keep one of files that are there twice: the same object, or everything at every crowded place the same."""
    crowded = [group for group in groups if len(group) > 1]
    if all(_is_same_slice(frame, group[0]) for group in crowded for frame in group[1:]):
        dropped = [frame for group in crowded for frame in group[1:]]
        return [group[:1] for group in groups], _describe_dropped(dropped)
    return _drop_twins(groups, _is_same_object)


def _drop_twins(
    groups: list[list[Frame]], is_twin: Callable[[Frame, Frame], bool]
) -> tuple[list[list[Frame]], list[str]]:
    """Keep the first of the slices at each place that are twins."""
    kept: list[list[Frame]] = []
    dropped: list[Frame] = []
    for group in groups:
        unique: list[Frame] = []
        for frame in group:
            has_twin = any(is_twin(frame, other) for other in unique)
            (dropped if has_twin else unique).append(frame)
        kept.append(unique)
    return kept, _describe_dropped(dropped)


def _describe_dropped(dropped: list[Frame]) -> list[str]:
    if not dropped:
        return []
    names = ", ".join(str(frame) for frame in dropped[:4]) + (", ..." if len(dropped) > 4 else "")
    return [f"{len(dropped)} slice(s) are there twice and were taken once: {names}."]


def _is_same_object(frame: Frame, other: Frame) -> bool:
    uid = get_text(frame.header, "SOPInstanceUID")
    is_same = bool(uid) and uid == get_text(other.header, "SOPInstanceUID") and frame.index == other.index
    return is_same and _is_same_slice(frame, other)


def _is_same_slice(frame: Frame, other: Frame) -> bool:
    if (frame.slope, frame.intercept) != (other.slope, other.intercept):
        return False
    if read_keys(frame, ("DiffusionBValue",)) != read_keys(other, ("DiffusionBValue",)):
        return False
    return np.array_equal(read_stored(frame), read_stored(other))


def _split_by_physics(groups: list[list[Frame]]) -> list[tuple[str, list[Frame]]] | None:
    """Volumes that lie between each other's slices: what was measured differs, though every place is held once.

    None where it does not differ, or differs from slice to slice: then it is a property of slices, not of volumes.
    """
    frames = [group[0] for group in groups]
    keys = [read_keys(frame, PHYSICAL_KEYS) for frame in frames]
    for key in PHYSICAL_KEYS:
        values = [_simplify(key, found.get(key, "")) for found in keys]
        found = sorted(set(values), key=_sort_key)
        if 1 < len(found) <= max(2, len(frames) // 2):
            return [
                (
                    _describe((key,), (value,), n),
                    [frame for frame, own in zip(frames, values, strict=True) if own == value],
                )
                for n, value in enumerate(found)
            ]
    return None


def _simplify(key: str, value: str) -> str:
    """Of numbers three digits: an echo time of 98.01 ms in one slice is that of 98 ms in the next."""
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return _keep_measured(key, value)


def _keep_measured(key: str, value: str) -> str:
    """Of ImageType the words that say what was measured.

    A CT series may hold ``AXIAL`` and ``AXIAL\\ADD`` slices of one volume.
    """
    if key not in ("ImageType", "FrameType"):
        return value
    return "\\".join(word for word in value.upper().split("\\") if word in _MEASURED)


def _split(groups: list[list[Frame]]) -> list[tuple[str, list[Frame]]] | None:
    """Volumes told apart by one attribute, or else by two; None where none does.

    First those with a slice at every place; else as many as the fullest place holds, one of which lacks slices.
    """
    keys = {id(frame): read_volume_keys(frame) for group in groups for frame in group}
    known = [key for key in VOLUME_KEYS if any(key in values for values in keys.values())]
    combinations = [(key,) for key in known] + list(itertools.combinations(known, 2))
    for needs_all, combination in itertools.product((True, False), combinations):
        volumes: dict[tuple[str, ...], list[Frame]] = {}
        for group in groups:
            for frame in group:
                values = tuple(_keep_measured(key, keys[id(frame)].get(key, "")) for key in combination)
                volumes.setdefault(values, []).append(frame)
        is_complete = all(len(frames) == len(groups) for frames in volumes.values())
        is_plausible = is_complete if needs_all else len(volumes) == max(map(len, groups))
        if len(volumes) < 2 or not is_plausible or not _holds_no_place_twice(volumes, groups):
            continue
        # An attribute that crosses the volumes would mix them: what was measured must be one within each.
        if all(_split_by_physics([[frame] for frame in frames]) is None for frames in volumes.values()):
            ordered = sorted(volumes, key=lambda values: [_sort_key(value) for value in values])
            return [(_describe(combination, values, n), volumes[values]) for n, values in enumerate(ordered)]
    return None


def _holds_no_place_twice(volumes: dict[tuple[str, ...], list[Frame]], groups: list[list[Frame]]) -> bool:
    place = {id(frame): index for index, group in enumerate(groups) for frame in group}
    return all(len({place[id(frame)] for frame in frames}) == len(frames) for frames in volumes.values())


def _sort_key(value: str) -> tuple[int, float, str]:
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def _describe(keys: tuple[str, ...], values: tuple[str, ...], index: int) -> str:
    shown = [
        f"{key} no. {index + 1}" if key in _QUIET_KEYS else f"{key} {to_line(value)[:64] or 'absent'}"
        for key, value in zip(keys, values, strict=True)
    ]
    return ", ".join(shown)
