"""The look of charts on pages, apart from what they show. matplotlib's global state is left alone."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from medunet.reporting.page import Picture, embed_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, LINE = "#1c2126", "#667079", "#d9dee3"
BLUE, ORANGE, RED = "#0072B2", "#D55E00", "#a8261f"

_DPI = 144
_NAME_LETTERS = 28


def build_chart(width_inches: float, height_inches: float) -> Figure:
    """An empty figure that no other code hears of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)  # the canvas belongs to this figure alone; pyplot never hears of it
    return figure


def style_axes(axes: Axes, title: str = "") -> None:
    """Two thin axes, small letters, and a title that is not read as a formula."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(which="both", labelsize=8, colors=FAINT, length=2)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, loc="left", fontsize=9.5, color=INK, weight="bold", parse_math=False)


def embed_chart(figure: Figure, description: str) -> Picture:
    """The figure as a picture within a page."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Picture(source=embed_png(file.getvalue()), description=description, is_chart=True)


def shorten(name: str) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS - 1]}…"
