"""Structures of other systems (RTSTRUCT, DICOM SEG) to the labels of a task, by their names.

Clinics name the same organ in many ways. What a name means is settled in this order: an explicit mapping (``--map``),
the name of a label, a synonym of the task. Case, spaces and ``_-.`` make no difference. What stays unclear is an error:
a model that learns from the wrong structure says nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medunet.errors import InputError, LabelError, TaskError
from medunet.io.structures import Structure, StructureSet
from medunet.tasks.suggestion import suggest
from medunet.tasks.task import Task, fold_name
from medunet.volume import Array, Volume

logger = logging.getLogger(__name__)

_SHOWN_NAMES = 12
_SHOWN_LETTERS = 64


class _Claim(NamedTuple):
    """Which label a name stands for, and how strong its claim is: 0 by mapping, 1 by name, 2 by synonym."""

    label: str
    rank: int


def match_structure(name: str, task: Task, mapping: Mapping[str, str] = {}) -> str | None:
    """The label that a structure's name stands for; None where it stands for none.

    An explicit mapping comes first, then the names of the labels, then their synonyms. Case, spaces and ``_-.`` make no
    difference; where two labels differ by nothing else, only the exact name counts.

    Args:
        name: From a list of structures.
        task: Gives labels and synonyms.
        mapping: Name in the list -> label, checked by `check_mapping`.

    Example:
        >>> from medunet.tasks import load_task
        >>> match_structure("Femur_Head_L", load_task("prostate-ct"))
        'femoral_head_left'
        >>> match_structure("CTV_p", load_task("prostate-ct"), {"ctv p": "prostate"})
        'prostate'
    """
    claim = _find_claim(name, task, mapping)
    return claim.label if claim else None


def parse_mapping(entries: Iterable[str]) -> dict[str, str]:
    """What ``--map "CTV_p=prostate"`` says: name in the file -> label; the last ``=`` divides.

    Raises:
        InputError: If an entry has no name, no label or no ``=``.
    """
    mapping: dict[str, str] = {}
    for entry in entries:
        name, divider, label = (part.strip() for part in entry.rpartition("="))
        if not divider or not name or not label:
            msg = f"--map is '{entry}'; expected NAME=label, such as --map \"CTV_p=prostate\"."
            raise InputError(msg)
        if mapping.get(name, label) != label:
            msg = f"--map gives '{name}' two labels, {mapping[name]} and {label}; expected one."
            raise InputError(msg)
        mapping[name] = label
    return mapping


def check_mapping(mapping: Mapping[str, str], task: Task) -> None:
    """Refuse a mapping to labels that the task does not have, or that maps one name twice.

    Raises:
        TaskError: With the nearest label.
    """
    seen: dict[str, str] = {}
    for name, label in mapping.items():
        if label not in task.labels:
            msg = (
                f"The mapping '{name}={label}' names a label that task '{task.name}' does not have; "
                f"{suggest(label, task.labels)}"
            )
            raise TaskError(msg)
        if seen.setdefault(fold_name(name), label) != label:
            msg = f"The mapping gives '{name}' two labels, {seen[fold_name(name)]} and {label}; expected one."
            raise TaskError(msg)


def structures_to_labels(structures: StructureSet, task: Task, *, mapping: Mapping[str, str] = {}, name: str) -> Volume:
    """Structures as a label map with the values of a task.

    Structures without a voxel are passed over. Where several others stand for one label, those that are mapped
    explicitly count, all of them; without a mapping the one that has the label's name, before its synonyms. Regions are
    painted over each other from the outermost on. What was not found, is empty or was not used is logged.

    Args:
        structures: What a file holds.
        task: Gives labels, synonyms and values.
        mapping: Name in the file -> label, see `match_structure`.
        name: What messages call the file.

    Returns:
        ``(1, I, J, K)`` on the grid of the structures; 0 everywhere where all structures are empty.

    Raises:
        LabelError: If the file holds no label of the task; if two structures stand for one label with equal right; or
            if structures overlap whose labels do not lie within each other.
        TaskError: If the mapping names unknown labels.
    """
    check_mapping(mapping, task)
    claims = {part.name: claim for part in structures.structures if (claim := _find_claim(part.name, task, mapping))}
    if not claims:
        raise _build_not_found_error(structures, task, name)
    filled = [part for part in structures.structures if part.name in claims and structures.get_mask(part).any()]
    chosen = {label: _choose(label, filled, claims, name) for label in task.labels}
    _report(structures, task, claims, filled, chosen, name)
    return _paint(structures, {label: parts for label, parts in chosen.items() if parts}, task, name)


def _find_claim(name: str, task: Task, mapping: Mapping[str, str]) -> _Claim | None:
    if name in mapping:
        return _Claim(mapping[name], 0)
    folded = fold_name(name)
    for mapped, label in mapping.items():
        if fold_name(mapped) == folded:
            return _Claim(label, 0)
    if name in task.labels:
        return _Claim(name, 1)
    labels = [label for label in task.labels if fold_name(label) == folded]
    if labels:
        return _Claim(labels[0], 1) if len(labels) == 1 else None
    for label, synonyms in task.synonyms.items():
        if folded in map(fold_name, synonyms):
            return _Claim(label, 2)
    return None


def _build_not_found_error(structures: StructureSet, task: Task, name: str) -> LabelError:
    names = [structure.name for structure in structures.structures]
    example = f'--map "{_show(names[0])[1:-1]}={next(iter(task.labels))}"' if names else '--map "NAME=label"'
    msg = (
        f"{name} holds no label of task '{task.name}': it lists {_list(names)}; expected some of "
        f"{', '.join(task.labels)}. Say which is which, for example by {example}, or choose another task."
    )
    return LabelError(msg)


def _choose(label: str, filled: Sequence[Structure], claims: Mapping[str, _Claim], name: str) -> tuple[Structure, ...]:
    """The structures that make up one label; none where there is none with voxels."""
    ranked: dict[int, list[Structure]] = {}
    for structure in filled:
        if claims[structure.name].label == label:
            ranked.setdefault(claims[structure.name].rank, []).append(structure)
    if not ranked:
        return ()
    best = ranked[min(ranked)]
    if len(best) > 1 and 0 not in ranked:
        msg = (
            f"{name} holds {len(best)} structures for the label '{label}': {_list(part.name for part in best)}; "
            f'expected one. Choose by --map "{_show(best[0].name)[1:-1]}={label}".'
        )
        raise LabelError(msg)
    return tuple(best)


def _report(
    structures: StructureSet,
    task: Task,
    claims: Mapping[str, _Claim],
    filled: Sequence[Structure],
    chosen: Mapping[str, tuple[Structure, ...]],
    name: str,
) -> None:
    """Log what was not found, is empty, or was not used."""
    names = [structure.name for structure in structures.structures]
    used = {structure.name for parts in chosen.values() for structure in parts}
    full = {structure.name for structure in filled}
    meant = {claim.label for claim in claims.values()}
    if unknown := [other for other in names if other not in claims]:
        logger.info("%s: %s mean no label of task '%s'.", name, _list(unknown), task.name)
    if beaten := [other for other in names if other in full - used]:
        logger.warning("%s: %s not used, as another structure has the better claim to the label.", name, _list(beaten))
    if empty := [other for other in names if other in claims and other not in full]:
        logger.warning("%s: %s without a voxel.", name, _list(empty))
    if absent := [label for label in task.labels if label not in meant]:
        logger.warning("%s: no structure for %s; such voxels count as background.", name, ", ".join(absent))


def _paint(structures: StructureSet, chosen: Mapping[str, tuple[Structure, ...]], task: Task, name: str) -> Volume:
    dtype: Any = np.uint8 if max(task.all_values) <= 255 else np.int32
    labels = np.zeros(structures.layers.spatial_shape, dtype=dtype)
    painted: dict[str, int] = {}
    for label, value in _list_paint(task):
        if label not in chosen:
            continue
        mask = np.logical_or.reduce([structures.get_mask(part) for part in chosen[label]])
        below = labels[mask]
        for other, other_value in painted.items():
            _check_overlap(below, (label, other), other_value, chosen, task, name)
        labels[mask] = value
        painted[label] = value
    return Volume(labels[None], structures.layers.affine)


def _list_paint(task: Task) -> list[tuple[str, int]]:
    """Labels in the order of painting, and the value of each."""
    return task.compute_region_values() if task.has_regions else [(name, v[0]) for name, v in task.labels.items()]


def _check_overlap(
    below: Array,
    pair: tuple[str, str],
    other_value: int,
    chosen: Mapping[str, tuple[Structure, ...]],
    task: Task,
    name: str,
) -> None:
    """What lies under a label that is about to be painted.

    Args:
        below: Values that were painted before where the label goes.
        pair: The label and another one, painted before.
        other_value: What the other one painted.
        chosen: The structures of each label.
        task: Says which labels lie within each other.
        name: Of the file.
    """
    label, other = pair
    if set(task.labels[label]) & set(task.labels[other]):  # within the other, as painting goes from large to small
        num_outside = int((~np.isin(below, task.labels[other])).sum())
        if num_outside:
            logger.warning(
                "%s: %d voxels of '%s' lie outside '%s', which contains it; they count as both.",
                name, num_outside, label, other,
            )  # fmt: skip
        return
    num_shared = int((below == other_value).sum())
    if num_shared:
        msg = (
            f"{name}: {_list(s.name for s in chosen[other])} ({other}) and {_list(s.name for s in chosen[label])} "
            f"({label}) share {num_shared} voxels; expected none, as a voxel has one label in task '{task.name}'. "
            "Correct the structures."
        )
        raise LabelError(msg)


def _list(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(map(_show, names[:_SHOWN_NAMES])) + more if names else "nothing"


def _show(name: str) -> str:
    """A name from a file, in one line and of bounded length."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f"'{text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS] + '...'}'"
