"""What people look at: contours on scans, tables of scores, HTML pages, one colour per label everywhere."""

from __future__ import annotations

from medunet.reporting.comparison_page import write_comparison_page
from medunet.reporting.evaluation_page import write_evaluation_page
from medunet.reporting.figure import draw_overlay
from medunet.reporting.palette import get_colour, get_label_colours
from medunet.reporting.table import build_dice_table
from medunet.reporting.view import View, build_small_view, build_view
from medunet.reporting.viewer_page import build_viewer_html, write_viewer_page

__all__ = [
    "View",
    "build_dice_table",
    "build_small_view",
    "build_view",
    "build_viewer_html",
    "draw_overlay",
    "get_colour",
    "get_label_colours",
    "write_comparison_page",
    "write_evaluation_page",
    "write_viewer_page",
]
