"""Series that hold several slices at one place: exact duplicates, or several volumes (b-values, phases, echoes)."""

from __future__ import annotations

import itertools

import numpy as np

from medunet.errors import VolumeError
from medunet.io.dicom.frames import VOLUME_KEYS, Frame, read_volume_keys
from medunet.io.dicom.pixels import read_stored

_QUIET_KEYS = {"AcquisitionDateTime", "AcquisitionTime", "FrameAcquisitionDateTime", "ContentTime"}
"""Told by their order only: the time of a scan helps to find a patient."""


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
    groups, notes = _drop_duplicates(groups)
    if all(len(group) == 1 for group in groups):
        if volume_index not in (None, 0):
            msg = f"The series in {groups[0][0].file.path.parent} holds 1 volume; there is no --volume-index {volume_index}."
            raise VolumeError(msg)
        return [group[0] for group in groups], notes
    volumes = _split(groups)
    if volumes is None:
        first, second = next(group for group in groups if len(group) > 1)[:2]
        msg = (
            f"{first} and {second} lie at the same place and differ, and no attribute tells the volumes apart; expected "
            "one slice per place. Separate them first."
        )
        raise VolumeError(msg)
    listed = "; ".join(f"{index}: {name} ({len(frames)} slices)" for index, (name, frames) in enumerate(volumes))
    if volume_index is None:
        msg = (
            f"The series in {groups[0][0].file.path.parent} holds {len(volumes)} volumes at the same place ({listed}). "
            "Choose one with --volume-index."
        )
        raise VolumeError(msg)
    if not 0 <= volume_index < len(volumes):
        msg = f"There is no --volume-index {volume_index}; the series holds {len(volumes)} volumes ({listed})."
        raise VolumeError(msg)
    name, frames = volumes[volume_index]
    return frames, [*notes, f"Volume {volume_index} of {len(volumes)} was taken: {name}."]


def _drop_duplicates(groups: list[list[Frame]]) -> tuple[list[list[Frame]], list[str]]:
    """Keep one of slices that are the same in every pixel."""
    kept_groups, dropped = [], []
    for group in groups:
        kept = [group[0]]
        for frame in group[1:]:
            if any(_is_same_slice(frame, other) for other in kept):
                dropped.append(frame)
            else:
                kept.append(frame)
        kept_groups.append(kept)
    if not dropped:
        return groups, []
    names = ", ".join(str(frame) for frame in dropped[:4]) + (", ..." if len(dropped) > 4 else "")
    return kept_groups, [f"{len(dropped)} slice(s) are there twice and were taken once: {names}."]


def _is_same_slice(frame: Frame, other: Frame) -> bool:
    if (frame.slope, frame.intercept) != (other.slope, other.intercept):
        return False
    if read_volume_keys(frame).get("DiffusionBValue") != read_volume_keys(other).get("DiffusionBValue"):
        return False
    return np.array_equal(read_stored(frame), read_stored(other))


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
                volumes.setdefault(tuple(keys[id(frame)].get(key, "") for key in combination), []).append(frame)
        is_complete = all(len(frames) == len(groups) for frames in volumes.values())
        is_plausible = is_complete if needs_all else len(volumes) == max(map(len, groups))
        if len(volumes) > 1 and is_plausible and _holds_no_place_twice(volumes, groups):
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
        f"{key} no. {index + 1}" if key in _QUIET_KEYS else f"{key} {value or 'absent'}"
        for key, value in zip(keys, values, strict=True)
    ]
    return ", ".join(shown)
