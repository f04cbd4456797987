"""The one colour per label (`medunet.palette`) as pictures and pages take it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from medunet.palette import Color, get_color, get_label_colors

Colour: TypeAlias = tuple[float, float, float]
"""Red, green and blue, 0..1."""


def get_colour(index: int) -> Colour:
    """The colour of the label with this index, counted from 0 in the order of the task.

    Example:
        >>> get_colour(4)
        (0.8, 0.4745098039215686, 0.6549019607843137)
    """
    return from_bytes(get_color(index))


def from_bytes(color: Color) -> Colour:
    """A colour as files hold it, 0 to 255, as pictures take it.

    Example:
        >>> from_bytes((255, 51, 0))
        (1.0, 0.2, 0.0)
    """
    red, green, blue = (part / 255 for part in color)
    return red, green, blue


def get_label_colours(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for every label name, by its place in the order given; pass all labels of the task, not a selection.

    Example:
        >>> get_label_colours(["liver", "spleen"])["spleen"] == get_colour(1)
        True
    """
    return {name: from_bytes(color) for name, color in get_label_colors(names).items()}


def to_hex(colour: Colour) -> str:
    """A colour as pages write it.

    Example:
        >>> to_hex(get_colour(0))
        '#e69f00'
    """
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)
