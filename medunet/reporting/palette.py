"""One colour per label index, the same in every picture, chosen to be told apart with any colour vision.

The first 7 are those of Okabe and Ito (https://jfly.uni-koeln.de/color/; Wong 2011, https://doi.org/10.1038/nmeth.1618)
without black, which does not show on a scan. Their light and dark shades follow, and from label 28 on hues that keep
away from one another; so many can no longer be told apart by colour alone, whatever the palette.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from typing import TypeAlias

Colour: TypeAlias = tuple[float, float, float]
"""Red, green and blue, 0..1."""

_OKABE_ITO = (
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#009E73",  # bluish green
    "#F0E442",  # yellow
    "#CC79A7",  # reddish purple
    "#D55E00",  # vermillion
    "#0072B2",  # blue: last, because it is the darkest on a scan
)
_SHADES = (0.0, 0.5, -0.35, 0.75)  # towards white, or towards black when negative
_GOLDEN_RATIO = 0.618034  # successive multiples, modulo 1, keep away from one another


def get_colour(index: int) -> Colour:
    """The colour of the label with this index, counted from 0 in the order of the task.

    Example:
        >>> get_colour(0)
        (0.902, 0.624, 0.0)
    """
    if index < 0:
        msg = f"A label index counts from 0; got {index}."
        raise ValueError(msg)
    shade, hue = divmod(index, len(_OKABE_ITO))
    if shade < len(_SHADES):
        return _shade(_parse_hex(_OKABE_ITO[hue]), _SHADES[shade])
    return _round(colorsys.hls_to_rgb(index * _GOLDEN_RATIO % 1, 0.45 + 0.1 * (index % 4), 0.75))


def get_label_colours(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for every label name, by its place in the order given; pass all labels of the task, not a selection.

    Example:
        >>> get_label_colours(["liver", "spleen"])["spleen"] == get_colour(1)
        True
    """
    return {name: get_colour(index) for index, name in enumerate(names)}


def to_hex(colour: Colour) -> str:
    """A colour as pages write it.

    Example:
        >>> to_hex(get_colour(0))
        '#e69f00'
    """
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)


def _parse_hex(code: str) -> Colour:
    red, green, blue = (int(code[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


def _shade(colour: Colour, amount: float) -> Colour:
    target = 1.0 if amount > 0 else 0.0
    red, green, blue = (part + (target - part) * abs(amount) for part in colour)
    return _round((red, green, blue))


def _round(colour: Colour) -> Colour:
    red, green, blue = (round(part, 3) for part in colour)
    return red, green, blue
