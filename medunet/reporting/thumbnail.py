"""A small picture of a labelled case: the slice that shows most labels, with their outlines.

Drawn by Pillow and contourpy, without matplotlib: some milliseconds, no shared state, so that it can be made in the threads
that read a dataset, while the case is in memory.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medunet.planning import compute_body_mask
from medunet.reporting.figure import choose_scale_mm, format_pixels, format_scale, trace_mask
from medunet.reporting.page import Picture, embed_jpeg
from medunet.reporting.palette import Colour, get_label_colours
from medunet.reporting.planes import PLANES, Plane, cut_plane, find_flat_plane, measure_areas, to_ras_array
from medunet.reporting.scene import has_colours, take_colours
from medunet.reporting.window import CT_WINDOW_HU, Window, choose_ct_window
from medunet.tasks import is_picture
from medunet.volume import Array, Volume, to_orientation

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 30_000
"""Of one picture; a page may hold hundreds."""
_SIDE = 288  # pixels along the longer edge
_SUPERSAMPLING = 3  # lines are drawn so much larger and shrunk, which smooths them
_LINE_WIDTH, _SHADOW_WIDTH = 1.3, 3.0
_MARGIN_MM = 8.0
_LABEL_SHARE = 0.3  # of the picture's edge that the labels fill at least
_MIN_SIDE_MM = 60.0
_MIN_HU_RANGE = 100.0
_PERCENTILES = (1.0, 99.0)
_SMALLER = 0.8
_QUALITIES = (85, 75, 60)


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small picture and its scale.

    Attributes:
        jpeg: The picture.
        side_mm: What its longer edge shows.
        plane: Whose sides it has; None of a picture, which is no part of a body.
        has_pixels_only: Whether ``side_mm`` counts pixels, the only size that is known.
    """

    jpeg: bytes
    side_mm: float
    plane: Plane | None = PLANES[0]
    has_pixels_only: bool = False


def describe_thumbnails(modality: str) -> str:
    """What the thumbnails of a page show, in a sentence."""
    if is_picture(modality):
        return "The pictures with the outlines of their labels."
    return (
        "The axial slice that shows most labels, or the one slice that a scan has; the patient's right (R) is on the left side "
        "of axial and coronal slices, the front (A) on that of sagittal ones."
    )


def embed_thumbnail(thumbnail: Thumbnail, description: str) -> Picture:
    """A thumbnail as a picture of a page, which draws the bar of known length."""
    length_mm = choose_scale_mm(thumbnail.side_mm)
    plane = thumbnail.plane
    return Picture(
        source=embed_jpeg(thumbnail.jpeg),
        description=description,
        bar_percent=round(100 * length_mm / thumbnail.side_mm, 3),
        bar_text=format_pixels(length_mm) if thumbnail.has_pixels_only else format_scale(length_mm),
        sides=() if plane is None else (plane.left, plane.right, plane.top, plane.bottom),
    )


def draw_thumbnail(
    image: Volume,
    label_map: Volume,
    labels: Mapping[str, Sequence[int]],
    *,
    modality: str,
    window: Window | None = None,
) -> Thumbnail:
    """Draw the slice that shows most labels, as a JPEG of at most `MAX_BYTES`.

    It is an axial one, or the one slice that the scan has. It lies in radiological convention (the patient's right on the left
    side), to scale, and shows the body; where labels are small, their surroundings. Without any label it is the middle slice.

    Args:
        image: The scan; its first channel is shown, or the colours of a picture that has three.
        label_map: On its grid.
        labels: Name -> values as stored. All labels of the task, so that each keeps its colour.
        modality: ``"CT"`` shows HU, of soft tissue (-160 to 240), lung or bone, as most of what is labelled is; anything
            else, and a CT that is not in HU, the 1st to 99th percentile.
        window: HU to show instead.
    """
    turned, codes = to_orientation(Volume(image.array[:1], image.affine)), to_ras_array(label_map)
    plane = find_flat_plane(turned.spatial_shape) or PLANES[0]
    scan, pixel_mm = turned.array[0], (turned.spacing[plane.column_axis], turned.spacing[plane.row_axis])
    index = measure_areas(codes, labels, turned.spatial_shape).choose_slice(plane.axis)
    pixels, cut = cut_plane(scan, plane, index), cut_plane(codes, plane, index)
    region = _choose_region(compute_body_mask(pixels[None], modality), np.isin(cut, _list_values(labels)), pixel_mm)
    if has_colours(image, modality):
        colours = take_colours(image, _choose_window(image.array, modality, codes, window))
        channels = [cut_plane(channel, plane, index)[region] for channel in np.moveaxis(colours, -1, 0)]
        shown = to_grey(np.stack(channels, axis=-1), (0.0, 1.0))  # (rows, columns, 3)
    else:
        shown = to_grey(pixels[region], _choose_window(scan, modality, codes, window))
    return Thumbnail(
        jpeg=encode_small(draw_slice(shown, cut[region], labels, pixel_mm)),
        side_mm=max(shown.shape[0] * pixel_mm[1], shown.shape[1] * pixel_mm[0]),
        plane=None if is_picture(modality) else plane,
        has_pixels_only=is_picture(modality) and pixel_mm == (1.0, 1.0),  # what a picture without a size is given
    )


def _list_values(labels: Mapping[str, Sequence[int]]) -> list[int]:
    return [value for values in labels.values() for value in values]


def _choose_window(scan: Array, modality: str, codes: Array, window: Window | None) -> Window:
    low, high = np.percentile(scan, _PERCENTILES).tolist()
    is_hu = low < CT_WINDOW_HU[0] < high and high - low > _MIN_HU_RANGE
    if modality == "CT" and is_hu:
        return window or choose_ct_window(scan[codes > 0])
    return low, max(high, low + 1e-6)


def _choose_region(body: Array, labelled: Array, pixel_mm: tuple[float, float]) -> tuple[slice, slice]:
    """Rows and columns that show the body; only the surroundings of the labels where they would be tiny."""
    shown = body | labelled if body.any() or labelled.any() else np.ones_like(body)
    region = []
    for axis, mm in ((0, pixel_mm[1]), (1, pixel_mm[0])):
        first, last = _find_range(_project(shown, axis))
        if labelled.any():
            inner_first, inner_last = _find_range(_project(labelled, axis))
            room = max((inner_last - inner_first) / _LABEL_SHARE, _MIN_SIDE_MM / mm)
            middle = (inner_first + inner_last) / 2
            first, last = max(first, int(middle - room / 2)), min(last, int(np.ceil(middle + room / 2)))
        margin = int(np.ceil(_MARGIN_MM / mm))
        region.append(slice(max(0, first - margin), min(body.shape[axis], last + margin)))
    rows, columns = region
    return rows, columns


def _project(mask: Array, axis: int) -> Array:
    """Which rows (axis 0) or columns (axis 1) hold anything."""
    return np.asarray(mask.any(axis=1 - axis))


def _find_range(along: Array) -> tuple[int, int]:
    """First index that is set, and one behind the last."""
    found = np.flatnonzero(along)
    return int(found[0]), int(found[-1]) + 1


def to_grey(pixels: Array, window: Window) -> Array:
    """Pixels as uint8: 0 at the lower end of the window, 255 at the upper one."""
    low, high = window
    grey: Array = ((pixels.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    return grey


def draw_slice(shown: Array, cut: Array, labels: Mapping[str, Sequence[int]], pixel_mm: tuple[float, float]) -> Image:
    """Grey values or colours with the outlines of labels, as large as a thumbnail is.

    Args:
        shown: ``(rows, columns)`` or ``(rows, columns, 3)`` uint8.
        cut: Label values of the same pixels.
        labels: Name -> values.
        pixel_mm: Width and height of a pixel.
    """
    from PIL import Image, ImageDraw

    height_mm, width_mm = shown.shape[0] * pixel_mm[1], shown.shape[1] * pixel_mm[0]
    scale = _SIDE / max(height_mm, width_mm)  # pixels per mm
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    large = (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING)
    picture = Image.fromarray(shown).resize(large, Image.Resampling.BICUBIC).convert("RGB")
    pen = ImageDraw.Draw(picture)
    lines = [
        ([tuple(point) for point in (line * (scale * _SUPERSAMPLING)).tolist()], colour)
        for name, colour in get_label_colours(labels).items()
        for line in _trace(np.isin(cut, list(labels[name])), pixel_mm)
    ]
    for points, _ in lines:  # all shadows below all lines
        pen.line(points, fill=(0, 0, 0), width=round(_SHADOW_WIDTH * _SUPERSAMPLING), joint="curve")
    for points, colour in lines:
        pen.line(points, fill=_to_bytes(colour), width=round(_LINE_WIDTH * _SUPERSAMPLING), joint="curve")
    return picture.resize(size, Image.Resampling.LANCZOS)


def _trace(mask: Array, pixel_mm: tuple[float, float]) -> list[Array]:
    """Closed outlines in mm from the upper left corner, ``(points, 2)`` each."""
    from contourpy import LineType, contour_generator

    if not mask.any():
        return []
    lines: list[Array] = contour_generator(*trace_mask(mask, pixel_mm), line_type=LineType.Separate).lines(0.5)  # type: ignore[assignment]
    return lines


def _to_bytes(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colour)
    return red, green, blue


def encode_small(picture: Image) -> bytes:
    """A JPEG of at most `MAX_BYTES`; noise needs many: the quality is lowered first, then the size."""
    from PIL import Image

    while True:
        for quality in _QUALITIES:
            file = io.BytesIO()
            # Without subsampling of colour, which would blur thin lines.
            picture.save(file, "JPEG", quality=quality, subsampling=0, optimize=True)
            if file.tell() <= MAX_BYTES:
                return file.getvalue()
        width, height = (max(1, round(length * _SMALLER)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
