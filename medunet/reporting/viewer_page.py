"""The viewer on a page: one HTML file with scan, masks and NiiVue inside, which asks nothing of the network.

A report carries the same viewer in each case: its template imports a macro, and `render_page` puts NiiVue and the viewer's
script into the page once, whatever the number of cases::

    {% from "viewer_parts.html" import show_viewer %}
    {% for case in cases %}{{ show_viewer(case.view) }}{% endfor %}

    render_page("my_report.html", title=..., with_viewer=True, cases=cases)

with ``case.view`` from `medunet.reporting.view.build_small_view`. The reader sees a button per case; its volumes are
decoded, and NiiVue is started, when the button is pressed.
"""

from __future__ import annotations

from pathlib import Path

from medunet.io import write_text_atomic
from medunet.reporting.page import render_page
from medunet.reporting.view import View


def build_viewer_html(view: View) -> str:
    """The page of one scan."""
    return render_page("viewer.html", title=view.title or "Scan", with_viewer=True, view=view)


def build_viewer_fragment(view: View) -> str:
    """The viewer of a case alone, as HTML for a page with ``with_viewer=True`` that does not hold its cases in memory."""
    return render_page("viewer_case.html", title="", view=view)


def write_viewer_page(view: View, path: Path | str) -> None:
    """Write the page of one scan, whole or not at all. It holds the scan itself.

    Raises:
        OutputError: If the file cannot be written.
    """
    write_text_atomic(Path(path), build_viewer_html(view))
