"""A picture of contours on a scan: three planes, the reference as a thin line, the prediction as a broad pale one.

All planes share one scale in mm, so that sizes can be compared across them. Nothing here touches matplotlib's global
state, so it is safe in a server, a notebook and a training loop.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medunet.io import write_bytes_atomic
from medunet.reporting.palette import Colour
from medunet.reporting.planes import Plane, cut_plane
from medunet.reporting.scene import Labels, Scene, build_scene
from medunet.reporting.window import Window
from medunet.volume import Array, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DrawPanel = Callable[["Axes", Scene, Plane], set[str]]
"""Draws one plane; returns the labels that it shows."""
DrawLegend = Callable[["Axes", Scene, set[str]], None]
"""Says what is what, given the labels that the planes show."""

_DPI = 150
_PAGE_DPI, _JPEG_QUALITY = 100, 85
_PANEL_INCHES = 4.2
_SINGLE_PANEL_INCHES = 7.0
_LEGEND_INCHES = 2.6
_GAP_INCHES = 0.08
_TITLE_INCHES = 0.42
_NOTE_INCHES = 0.3
_BACKGROUND = "#101214"
_TEXT = "#E8EAED"
_FAINT_TEXT = "#9AA0A6"
_REFERENCE_WIDTH = 1.1
_PREDICTION_WIDTH = 3.6
_PREDICTION_ALPHA = 0.6
_REFERENCE_SHADOW = 2.4  # a dark line below the thin one, so that it shows on bone
LEGEND_SIZE, _REMARK_SIZE = 11, 10
LEGEND_STEP = 1 / 19  # of the legend's height
_LEGEND_CHARACTERS = 24
_MAX_LEGEND_ROWS = 15
NEUTRAL = (0.92, 0.92, 0.92)


def draw_overlay(
    image: Volume | None,
    prediction: Volume | None,
    reference: Volume | None,
    labels: Labels,
    path: Path | str,
    *,
    title: str = "",
    modality: str = "CT",
    window: Window | None = None,
) -> None:
    """Draw the contours of a prediction, a reference or both on three planes of a scan, as a PNG.

    Each plane is cut where most labels are well seen. The pictures are in radiological convention (the patient's right
    on the left side), to scale in mm, and show the labelled region with some of what surrounds it. Without any label
    the middle slices are shown whole.

    Args:
        image: The scan; its first channel is shown. None draws the contours on a plain ground.
        prediction: Label map on the scan's grid, or None.
        reference: Label map on the scan's grid, or None.
        labels: Name -> values as stored. All labels of the task, so that each keeps its colour in every picture.
        path: The PNG file; written whole or not at all.
        title: One line above the pictures. It is drawn as it is: give no patient name.
        modality: ``"CT"`` shows HU, of soft tissue, lung or bone, as most of what is labelled is (soft tissue: -160 to
            240); anything else shows the 1st to 99th percentile of the scan.
        window: Grey values to show instead.

    Raises:
        GeometryError: If the grids differ.
        OutputError: If the file cannot be written.
        ValueError: If there is neither a scan nor a label map.
    """
    figure = build_overlay(image, prediction, reference, labels, title=title, modality=modality, window=window)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=_BACKGROUND)
    write_bytes_atomic(Path(path), file.getvalue())


def build_overlay(
    image: Volume | None,
    prediction: Volume | None,
    reference: Volume | None,
    labels: Labels,
    *,
    title: str = "",
    modality: str = "CT",
    window: Window | None = None,
) -> Figure:
    """The figure that `draw_overlay` writes: one axes per plane, in mm from the upper left corner, and the legend.

    Raises:
        GeometryError: If the grids differ.
        ValueError: If there is neither a scan nor a label map.
    """
    scene = build_scene(image, prediction, reference, labels, modality=modality, window=window)
    return lay_out_planes(scene, title, draw_contour_panel, draw_contour_legend)


def encode_jpeg(figure: Figure) -> bytes:
    """A figure as a JPEG, about 1550 pixels wide: more than a page shows, and a fifth of a PNG's size."""
    file = io.BytesIO()
    figure.savefig(
        file,
        format="jpeg",
        dpi=_PAGE_DPI,
        facecolor=figure.get_facecolor(),
        pil_kwargs={"quality": _JPEG_QUALITY, "optimize": True},
    )
    return file.getvalue()


# ---- drawing ---------------------------------------------------------------------------------------------------------


def lay_out_planes(scene: Scene, title: str, draw_panel: DrawPanel, draw_legend: DrawLegend) -> Figure:
    """The planes side by side with what they are below, and the legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title_inches = _TITLE_INCHES if title else _GAP_INCHES
    panel_inches = _PANEL_INCHES if len(scene.planes) > 1 else _SINGLE_PANEL_INCHES
    left = _GAP_INCHES + len(scene.planes) * (panel_inches + _GAP_INCHES)  # of the legend
    width = left + _LEGEND_INCHES
    height = title_inches + panel_inches + _NOTE_INCHES
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)  # the canvas belongs to this figure alone; pyplot never hears of it
    if title:
        _write(figure, _GAP_INCHES / width, 1 - title_inches / 2 / height, title, size=13, weight="bold", va="center")
    drawn: set[str] = set()
    for column, plane in enumerate(scene.planes):
        panel_left = _GAP_INCHES + column * (panel_inches + _GAP_INCHES)
        box = (panel_left / width, _NOTE_INCHES / height, panel_inches / width, panel_inches / height)
        axes = figure.add_axes(box, facecolor="black")
        drawn |= draw_panel(axes, scene, plane)
        note = _describe_slice(scene, plane)
        _write(figure, box[0], _NOTE_INCHES / 2 / height, note, size=10.5, color=_FAINT_TEXT, va="center")
    bottom = _NOTE_INCHES + panel_inches - _PANEL_INCHES
    legend = figure.add_axes((left / width, bottom / height, _LEGEND_INCHES / width, _PANEL_INCHES / height))
    draw_legend(legend, scene, drawn)
    return figure


def _describe_slice(scene: Scene, plane: Plane) -> str:
    if scene.is_picture:
        return f"{scene.image.shape[plane.column_axis]} x {scene.image.shape[plane.row_axis]} pixels"
    number, num_slices = scene.slices[plane.axis] + 1, scene.image.shape[plane.axis]
    return f"{plane.name}, slice {number} of {num_slices} from {plane.first_side}"


def draw_contour_panel(axes: Axes, scene: Scene, plane: Plane) -> set[str]:
    """The scan with the contours of both sides; returns the labels that it shows."""
    draw_scan_panel(axes, scene, plane)
    pixel_mm = scene.spacing[plane.column_axis], scene.spacing[plane.row_axis]
    drawn: set[str] = set()
    for label_map, style in ((scene.prediction, _prediction_style), (scene.reference, _reference_style)):
        if label_map is not None:
            cut = cut_plane(label_map, plane, scene.slices[plane.axis])
            drawn |= _draw_contours(axes, cut, scene, pixel_mm, style)
    return drawn


def draw_scan_panel(axes: Axes, scene: Scene, plane: Plane) -> None:
    """One plane of the scan to scale, with the letters of its sides and a bar of known length; a picture has no sides."""
    index = scene.slices[plane.axis]
    pixels = cut_plane(scene.image, plane, index)
    if scene.rgb is not None:
        pixels = np.stack([cut_plane(channel, plane, index) for channel in np.moveaxis(scene.rgb, -1, 0)], axis=-1)
    column_mm, row_mm = scene.spacing[plane.column_axis], scene.spacing[plane.row_axis]
    width_mm, height_mm = pixels.shape[1] * column_mm, pixels.shape[0] * row_mm
    low, high = scene.window
    axes.imshow(
        pixels.astype(np.float32),
        cmap="gray",
        vmin=low,
        vmax=high,
        interpolation="bicubic",
        extent=(0, width_mm, height_mm, 0),  # mm from the left and from the top edge
    )
    # The axes of the picture fall where those of the array rise.
    centre_x = width_mm - scene.centre_mm[plane.column_axis]
    centre_y = height_mm - scene.centre_mm[plane.row_axis]
    half = scene.side_mm / 2
    axes.set(xlim=(centre_x - half, centre_x + half), ylim=(centre_y + half, centre_y - half), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if not scene.is_picture:
        _draw_letters(axes, plane)
    has_pixels_only = scene.is_picture and column_mm == row_mm == 1  # what a picture without a size is given
    _draw_scale_bar(axes, scene.side_mm, format_pixels if has_pixels_only else format_scale)


def _draw_contours(axes: Axes, label_map: Array, scene: Scene, pixel_mm: tuple[float, float], style: Any) -> set[str]:
    from matplotlib.patheffects import AbstractPathEffect, withStroke

    shadow: list[AbstractPathEffect] = [withStroke(linewidth=_REFERENCE_SHADOW, foreground="black", alpha=0.6)]
    drawn: set[str] = set()
    for name, values in scene.labels.items():
        mask = np.isin(label_map, list(values))
        if mask.any():
            lines = axes.contour(*trace_mask(mask, pixel_mm), levels=[0.5], **style(scene.colours[name]))
            if style is _reference_style:
                lines.set_path_effects(shadow)
            drawn.add(name)
    return drawn


def trace_mask(mask: Array, pixel_mm: tuple[float, float]) -> tuple[Array, Array, Array]:
    """Pixel centres in mm and values whose 0.5 contour is the outline of a mask ``(rows, columns)``.

    A frame of zeros closes the outline where the mask touches the edge of the picture.
    """
    rows, columns = mask.shape
    x = (np.arange(-1, columns + 1) + 0.5) * pixel_mm[0]
    y = (np.arange(-1, rows + 1) + 0.5) * pixel_mm[1]
    return x, y, np.pad(mask.astype(np.float32), 1)


def _reference_style(colour: Colour) -> dict[str, Any]:
    return {"colors": [colour], "linewidths": _REFERENCE_WIDTH, "linestyles": "solid", "zorder": 3}


def _prediction_style(colour: Colour) -> dict[str, Any]:
    return {"colors": [colour], "linewidths": _PREDICTION_WIDTH, "linestyles": "solid", "alpha": _PREDICTION_ALPHA}


def _draw_letters(axes: Axes, plane: Plane) -> None:
    inset = 0.03
    for letter, x, y in (
        (plane.left, inset, 0.5),
        (plane.right, 1 - inset, 0.5),
        (plane.top, 0.5, 1 - inset),
        (plane.bottom, 0.5, inset),
    ):
        write_on_image(axes, x, y, letter, size=13, weight="bold", ha="center", va="center")


def _draw_scale_bar(axes: Axes, side_mm: float, describe: Callable[[float], str]) -> None:
    length_mm = choose_scale_mm(side_mm)
    text = describe(length_mm)
    right, height = 0.96, 0.035
    left = right - length_mm / side_mm
    axes.plot([left, right], [height, height], color="black", linewidth=4, transform=axes.transAxes)
    axes.plot([left, right], [height, height], color="white", linewidth=2, transform=axes.transAxes)
    write_on_image(axes, (left + right) / 2, height + 0.015, text, size=10.5, ha="center", va="bottom")


def choose_scale_mm(side_mm: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is at most a quarter of the picture.

    Example:
        >>> choose_scale_mm(250.0)
        50.0
    """
    target = side_mm / 4
    power = 10.0 ** np.floor(np.log10(target))
    return float(power * max(step for step in (1, 2, 5) if step * power <= target * (1 + 1e-9)))


def format_scale(length_mm: float) -> str:
    """Centimetres from 1 on, micrometres below a tenth of a millimetre, else millimetres.

    Example:
        >>> format_scale(50.0), format_scale(2.0), format_scale(0.05)
        ('5 cm', '2 mm', '50 µm')
    """
    if length_mm < 0.1:
        return f"{length_mm * 1000:g} µm"
    return f"{length_mm / 10:g} cm" if length_mm >= 10 else f"{length_mm:g} mm"


def format_pixels(length: float) -> str:
    """A length where nothing but pixels is known.

    Example:
        >>> format_pixels(50.0)
        '50 px'
    """
    return f"{length:g} px"


def draw_contour_legend(axes: Axes, scene: Scene, drawn: set[str]) -> None:
    """Which line is which, then a colour per label, with a word where one side lacks it or these slices do."""
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    y = 1 - LEGEND_STEP / 2
    for label_map, style, text in (
        (scene.reference, _reference_style, "reference"),
        (scene.prediction, _prediction_style, "prediction"),
    ):
        if label_map is not None:
            _draw_legend_row(axes, y, text, "", style(NEUTRAL))
            y -= LEGEND_STEP
    y -= LEGEND_STEP / 2
    shown = [name for name in scene.labels if any(scene.num_voxels[name])]
    shown.sort(key=lambda name: name not in drawn)  # a stable sort: those that can be seen come first
    for name in shown[:_MAX_LEGEND_ROWS]:
        line = {"colors": [scene.colours[name]], "linewidths": _PREDICTION_WIDTH}
        _draw_legend_row(axes, y, name, _describe_label(scene, name, is_drawn=name in drawn), line)
        y -= LEGEND_STEP
    if len(shown) > _MAX_LEGEND_ROWS:
        draw_faint(axes, 0.0, y, f"and {len(shown) - _MAX_LEGEND_ROWS} more labels")
    if not shown and (scene.prediction is not None or scene.reference is not None):
        draw_faint(axes, 0.0, y, "no label in this scan")


def _describe_label(scene: Scene, name: str, *, is_drawn: bool) -> str:
    in_prediction, in_reference = scene.num_voxels[name]
    if scene.prediction is not None and scene.reference is not None:
        if not in_prediction:
            return "missed"
        if not in_reference:
            return "invented"
    return "" if is_drawn else "other slices"


def _draw_legend_row(axes: Axes, y: float, text: str, remark: str, style: dict[str, Any]) -> None:
    (colour,) = style["colors"]
    alpha, width = style.get("alpha"), style["linewidths"]
    axes.plot([0.0, 0.12], [y, y], color=colour, linewidth=width, alpha=alpha, solid_capstyle="butt")
    room = _LEGEND_CHARACTERS - (len(remark) + 1 if remark else 0)
    write_on_image(axes, 0.17, y, text if len(text) <= room else f"{text[: room - 1]}…", size=LEGEND_SIZE, va="center")
    if remark:
        draw_faint(axes, 0.98, y, remark, ha="right")


def draw_faint(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """A remark in the legend."""
    write_on_image(axes, x, y, text, size=_REMARK_SIZE, va="center", color=_FAINT_TEXT, **options)


def _write(figure: Figure, x: float, y: float, text: str, **options: Any) -> None:
    # A "$" in a name is no formula, and bytes of a file name that are no letters cannot be drawn.
    text = text.encode("utf-8", "backslashreplace").decode()
    figure.text(x, y, text, **{"color": _TEXT, "parse_math": False, **options})


def write_on_image(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Light letters with a dark edge, at a place in shares of the axes."""
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2, foreground=_BACKGROUND)]
    options = {"color": _TEXT, "parse_math": False, "transform": axes.transAxes, "path_effects": outline, **options}
    axes.text(x, y, text, **options)
