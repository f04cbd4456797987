"""Where a mask is wrong: three planes of the scan with every wrong voxel painted, one colour per kind of error.

The colours are sky blue, vermillion and yellow of Okabe and Ito, which differ in brightness too; contours are those of the
reference, without colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from medunet.reporting.figure import (
    LEGEND_SIZE,
    LEGEND_STEP,
    NEUTRAL,
    draw_faint,
    draw_scan_panel,
    lay_out_planes,
    trace_mask,
    write_on_image,
)
from medunet.reporting.palette import Colour
from medunet.reporting.planes import Plane, cut_plane, measure_areas
from medunet.reporting.scene import Labels, Scene, build_scene
from medunet.reporting.window import Window
from medunet.volume import Array, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Errors: TypeAlias = Array
"""``(I, J, K)`` uint8: 0 where both agree, else the number of an error kind."""

_ALPHA = 0.8
_CONTOUR_WIDTH = 0.9


@dataclass(frozen=True, kw_only=True)
class ErrorKind:
    """A way to be wrong.

    Attributes:
        code: In the array of errors.
        title: For the legend.
        remark: Which side has what.
        colour: Of the voxels.
    """

    code: int
    title: str
    remark: str
    colour: Colour


ERROR_KINDS = (
    ErrorKind(code=1, title="missed", remark="only the reference", colour=(0.337, 0.706, 0.914)),
    ErrorKind(code=2, title="invented", remark="only the mask", colour=(0.835, 0.369, 0.0)),
    ErrorKind(code=3, title="another label", remark="both, but not the same", colour=(0.941, 0.894, 0.259)),
)


def build_error_map(
    image: Volume | None,
    prediction: Volume,
    reference: Volume,
    labels: Labels,
    *,
    title: str = "",
    modality: str = "CT",
    window: Window | None = None,
    ignore_value: int | None = None,
) -> Figure:
    """Three planes with the wrong voxels painted, each cut where most voxels are wrong.

    Args:
        image: The scan; None paints on a plain ground.
        prediction: Label map ``(1, I, J, K)``.
        reference: Label map on the same grid.
        labels: Name -> values; other values count as background.
        title: One line above the pictures.
        modality: As for `medunet.reporting.draw_overlay`.
        window: As there.
        ignore_value: Voxels with this value in the reference are not judged.

    Raises:
        GeometryError: If the grids differ.
    """
    scene = build_scene(image, prediction, reference, labels, modality=modality, window=window)
    assert scene.prediction is not None
    assert scene.reference is not None
    errors = find_errors(scene.reference, scene.prediction, labels, ignore_value=ignore_value)
    scene = replace(scene, slices=_choose_slices(errors, scene))
    amounts = {kind.code: _describe_amount(int((errors == kind.code).sum()), scene) for kind in ERROR_KINDS}

    def draw_panel(axes: Axes, scene: Scene, plane: Plane) -> set[str]:
        _draw_panel(axes, scene, plane, errors)
        return set()

    def draw_legend(axes: Axes, scene: Scene, drawn: set[str]) -> None:
        _draw_legend(axes, amounts, scene)

    return lay_out_planes(scene, title, draw_panel, draw_legend)


def find_errors(reference: Array, prediction: Array, labels: Labels, *, ignore_value: int | None = None) -> Errors:
    """The kind of error of every voxel (`ERROR_KINDS`).

    Example:
        >>> find_errors(np.array([1, 1, 0, 1, 9]), np.array([1, 0, 1, 2, 1]), {"a": [1], "b": [2]}, ignore_value=9)
        array([0, 1, 2, 3, 0], dtype=uint8)
    """
    values = sorted({value for of_label in labels.values() for value in of_label})
    has_reference, has_prediction = (np.isin(side, values) for side in (reference, prediction))
    errors: Errors = np.zeros(reference.shape, np.uint8)
    errors[has_reference & ~has_prediction] = 1
    errors[has_prediction & ~has_reference] = 2
    errors[has_reference & has_prediction & (reference != prediction)] = 3
    if ignore_value is not None:
        errors[reference == ignore_value] = 0
    return errors


def _choose_slices(errors: Errors, scene: Scene) -> tuple[int, int, int]:
    """Where most voxels are wrong; where none is, the slices that show the labels."""
    areas = measure_areas(errors, {"wrong": [kind.code for kind in ERROR_KINDS]}, scene.image.shape)
    if not areas.has_any():
        return scene.slices
    i, j, k = (areas.choose_slice(axis) for axis in range(3))
    return i, j, k


def _draw_panel(axes: Axes, scene: Scene, plane: Plane, errors: Errors) -> None:
    draw_scan_panel(axes, scene, plane)
    cut = cut_plane(errors, plane, scene.slices[plane.axis])
    painted = np.zeros((*cut.shape, 4), np.float32)  # (rows, columns, RGBA)
    for kind in ERROR_KINDS:
        painted[cut == kind.code] = (*kind.colour, _ALPHA)
    axes.imshow(painted, interpolation="nearest", extent=axes.images[0].get_extent(), zorder=1)
    assert scene.reference is not None
    expected = cut_plane(scene.reference, plane, scene.slices[plane.axis])
    pixel_mm = scene.spacing[plane.column_axis], scene.spacing[plane.row_axis]
    for values in scene.labels.values():
        mask = np.isin(expected, list(values))
        if mask.any():
            axes.contour(*trace_mask(mask, pixel_mm), levels=[0.5], colors=[NEUTRAL], linewidths=_CONTOUR_WIDTH)


def _describe_amount(num_voxels: int, scene: Scene) -> str:
    if scene.is_picture:
        return f"{num_voxels:,} px"
    return f"{num_voxels * float(np.prod(scene.spacing)) / 1000:.3g} ml"


def _draw_legend(axes: Axes, amounts: Mapping[int, str], scene: Scene) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    y = 1 - LEGEND_STEP / 2
    axes.plot([0.0, 0.12], [y, y], color=NEUTRAL, linewidth=_CONTOUR_WIDTH)
    write_on_image(axes, 0.17, y, "reference", size=LEGEND_SIZE, va="center")
    y -= 1.5 * LEGEND_STEP
    for kind in ERROR_KINDS:
        axes.fill_between([0.0, 0.12], y - LEGEND_STEP / 3, y + LEGEND_STEP / 3, color=kind.colour, linewidth=0)
        write_on_image(axes, 0.17, y, kind.title, size=LEGEND_SIZE, va="center")
        draw_faint(axes, 0.98, y, amounts[kind.code], ha="right")
        draw_faint(axes, 0.17, y - LEGEND_STEP, kind.remark)
        y -= 2.25 * LEGEND_STEP
    if not scene.is_picture:
        draw_faint(axes, 0.0, y, "Volumes of the whole scan;")
        draw_faint(axes, 0.0, y - LEGEND_STEP, "slices with most errors")
