"""Structures of several files, which may overlap, as label maps whose values mean the same in all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from medunet.io import StructureSet
from medunet.palette import Color, get_color
from medunet.volume import Array, Volume


def join_structures(sets: Sequence[StructureSet]) -> tuple[list[Volume], dict[str, tuple[int, ...]]]:
    """Give every combination of structures that a voxel can lie in a value of its own.

    Args:
        sets: The structures of one file each, each on a grid of its own.

    Returns:
        A label map ``(1, I, J, K)`` per file, and for each name, in the order in which names first come, the values of the
        voxels that lie in it. A structure without a voxel has none.

    Example:
        >>> from medunet.io import from_masks
        >>> grid = make_volume(shape=(3, 2, 1))
        >>> low, high = (np.arange(6).reshape(3, 2, 1) < 4), (np.arange(6).reshape(3, 2, 1) > 2)
        >>> (joined,), labels = join_structures([from_masks([("low", low), ("high", high)], grid)])
        >>> joined.array.ravel().tolist(), labels
        ([1, 1, 1, 2, 3, 3], {'low': (1, 2), 'high': (2, 3)})
    """
    names = _list_names(sets)
    values: dict[tuple[int, ...], int] = {(): 0}
    volumes = [_encode(of_file, names, values) for of_file in sets]
    labels = {name: tuple(value for key, value in values.items() if place in key) for place, name in enumerate(names)}
    return volumes, labels


def choose_colors(sets: Sequence[StructureSet]) -> dict[str, Color]:
    """The colour of each name: that of the first file that has it; where an earlier name has the same, one of the palette.

    Example:
        >>> from medunet.io import from_masks
        >>> grid = make_volume(shape=(3, 2, 1))
        >>> one, other = (from_masks([(name, grid.array[0] > 0)], grid) for name in ("liver", "spleen"))
        >>> choose_colors([one, other]) == {"liver": get_color(0), "spleen": get_color(1)}
        True
    """
    own: dict[str, Color] = {}
    for of_file in sets:
        for part in of_file.structures:
            own.setdefault(part.name, part.color)
    colors: dict[str, Color] = {}
    for place, name in enumerate(_list_names(sets)):
        taken = set(colors.values())
        wanted = itertools.chain([own[name]], map(get_color, itertools.count(place)))
        colors[name] = next(color for color in wanted if color not in taken)
    return colors


def _list_names(sets: Sequence[StructureSet]) -> list[str]:
    return list(dict.fromkeys(part.name for of_file in sets for part in of_file.structures))


def _encode(structures: StructureSet, names: Sequence[str], values: dict[tuple[int, ...], int]) -> Volume:
    layers = structures.layers.array  # (L, I, J, K)
    used = layers.any(axis=0)
    found, which = _list_combinations(layers[:, used])
    members = [
        tuple(
            sorted(names.index(part.name) for part in structures.structures if combination[part.layer] in part.values)
        )
        for combination in found.tolist()
    ]
    for key in sorted(set(members)):
        values.setdefault(key, len(values))
    table = np.array([values[key] for key in members], dtype=np.int32)
    labels = np.zeros(used.shape, dtype=np.int32)
    labels[used] = table[which]
    return structures.layers.with_array(labels[None])


def _list_combinations(voxels: Array) -> tuple[Array, Array]:
    """The different columns of ``(L, N)`` as ``(M, L)``, and for each of the N which it is.

    Layer by layer: sorting numbers is many times faster than sorting rows.
    """
    which = np.zeros(voxels.shape[1], dtype=np.int64)
    found = np.zeros((1, 0), dtype=np.int64)
    for layer in voxels.astype(np.int64, copy=False):
        pairs, which = np.unique(which * (int(layer.max(initial=0)) + 1) + layer, return_inverse=True)
        before, value = np.divmod(pairs, int(layer.max(initial=0)) + 1)
        found = np.column_stack([found[before], value])
    return found, which
