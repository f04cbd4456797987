"""A scan with the mask that a model made, as the pictures of a page."""

from __future__ import annotations

from dataclasses import dataclass

from medunet.reporting.figure import build_overlay, encode_jpeg
from medunet.reporting.thumbnail import Thumbnail, draw_thumbnail
from medunet.reporting.window import get_task_window
from medunet.tasks import Task
from medunet.volume import Volume


@dataclass(frozen=True, kw_only=True)
class ScanPictures:
    """Two sizes.

    Attributes:
        overlay: Three planes with contours; a JPEG.
        thumbnail: The axial slice that shows most labels.
    """

    overlay: bytes
    thumbnail: Thumbnail


def draw_scan(image: Volume, mask: Volume, task: Task) -> ScanPictures:
    """Draw a scan and its mask on one grid.

    Raises:
        GeometryError: If the grids differ.
    """
    window = get_task_window(task)
    figure = build_overlay(image, mask, None, task.labels, modality=task.modality, window=window)
    thumbnail = draw_thumbnail(image, mask, task.labels, modality=task.modality, window=window)
    return ScanPictures(overlay=encode_jpeg(figure), thumbnail=thumbnail)
