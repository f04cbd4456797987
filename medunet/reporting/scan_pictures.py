"""A scan with the mask that a model made, as the pictures of a page."""

from __future__ import annotations

from dataclasses import dataclass

from medunet.reporting.figure import build_overlay, encode_jpeg
from medunet.reporting.thumbnail import Thumbnail, draw_thumbnail
from medunet.reporting.view import build_small_view
from medunet.reporting.viewer_page import build_viewer_fragment
from medunet.reporting.window import get_task_window
from medunet.tasks import Task
from medunet.volume import Volume

VIEWER_BYTES = 2**20
"""Of the page, for one scan: a page may show many."""


@dataclass(frozen=True, kw_only=True)
class ScanPictures:
    """Two sizes, and the scan itself.

    Attributes:
        overlay: Three planes with contours; a JPEG.
        thumbnail: The slice that shows most labels.
        viewer: HTML of the viewer (`medunet.reporting.viewer_page.build_viewer_fragment`); empty where there is none.
    """

    overlay: bytes
    thumbnail: Thumbnail
    viewer: str = ""


def draw_scan(image: Volume, mask: Volume, task: Task) -> ScanPictures:
    """Draw a scan and its mask on one grid.

    Raises:
        GeometryError: If the grids differ.
    """
    window = get_task_window(task)
    figure = build_overlay(image, mask, None, task.labels, modality=task.modality, window=window)
    thumbnail = draw_thumbnail(image, mask, task.labels, modality=task.modality, window=window)
    view = build_small_view(image, mask, None, task.labels, modality=task.modality, max_bytes=VIEWER_BYTES)
    return ScanPictures(overlay=encode_jpeg(figure), thumbnail=thumbnail, viewer=build_viewer_fragment(view))
