"""One colour per label, the same in pictures, tables, viewers and the files that masks are written to.

The first 7 are those of Okabe and Ito (https://jfly.uni-koeln.de/color/; Wong 2011, https://doi.org/10.1038/nmeth.1618)
without black, which does not show on a scan: they are told apart with any colour vision. Their light and dark shades follow,
and from label 28 on hues that keep away from one another; so many can no longer be told apart by colour alone, whatever the
palette.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

Color: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

_OKABE_ITO: tuple[Color, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (204, 121, 167),  # reddish purple
    (213, 94, 0),  # vermillion
    (0, 114, 178),  # blue: last, because it is the darkest on a scan
)
_SHADES = (0.0, 0.5, -0.35, 0.75)  # towards white, or towards black when negative
_VALUE_NAME = re.compile(r"(?:label|value) ([1-9][0-9]{0,9})")  # as labels are called that nothing names
_GOLDEN_RATIO = 0.618034  # successive multiples, modulo 1, keep away from one another


@lru_cache(maxsize=1024)
def get_color(index: int) -> Color:
    """The colour of the label with this index, counted from 0 in the order of the task.

    The first 1,000 all differ, as many as the objects of a mask that become structures of their own.

    Example:
        >>> get_color(0)
        (230, 159, 0)
    """
    if index < 0:
        msg = f"A label index counts from 0; got {index}."
        raise ValueError(msg)
    shade, hue = divmod(index, len(_OKABE_ITO))
    if shade < len(_SHADES):
        return _shade(_OKABE_ITO[hue], _SHADES[shade])
    return _to_bytes(*colorsys.hls_to_rgb(index * _GOLDEN_RATIO % 1, 0.45 + 0.1 * (index % 4), 0.75))


def get_label_colors(names: Iterable[str]) -> dict[str, Color]:
    """A colour for every label name, by its place in the order given; pass all labels of the task, not a selection.

    Where nothing but values is known (``label 3``), the colour is that of the value, since the places of values differ from
    file to file.

    Example:
        >>> get_label_colors(["liver", "spleen"])["spleen"] == get_color(1)
        True
        >>> get_label_colors(["label 3", "label 7"])["label 7"] == get_color(6)
        True
    """
    names = list(names)
    values = [_VALUE_NAME.fullmatch(name) for name in names]
    if all(values):
        return {name: get_color(int(value[1]) - 1) for name, value in zip(names, values, strict=True) if value}
    return {name: get_color(index) for index, name in enumerate(names)}


def _shade(color: Color, amount: float) -> Color:
    target = 255 if amount > 0 else 0
    red, green, blue = (round(part + (target - part) * abs(amount)) for part in color)
    return red, green, blue


def _to_bytes(*color: float) -> Color:
    red, green, blue = (round(255 * part) for part in color)
    return red, green, blue
