"""Pages of HTML: one file that opens anywhere, with its style, its pictures and its few lines of script inside.

A page never reaches for the network, and says so to the browser: its Content-Security-Policy admits embedded pictures
and the scripts of this package, known by their hashes. Every value is escaped by Jinja2; a case id that holds a script
is text on the page.

A report is a template that extends ``base.html`` and fills its blocks::

    {% extends "base.html" %}
    {% from "parts.html" import show_table, show_picture, show_facts, show_notice %}
    {% block content %}
    <section id="cases"><h2>Cases</h2>{{ show_table(table) }}</section>
    {% endblock %}
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medunet.io.atomic import open_atomic

if TYPE_CHECKING:
    from jinja2 import Environment

Tone = Literal["plain", "good", "warning", "bad", "faint"]

UNDEFINED = "–"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: As shown.
        order: What sorting goes by; None sorts last. Text sorts by itself.
        tone: How it is set off.
        anchor: Id of the element of the page that it leads to; empty leads nowhere.
        swatch: Colour shown before the text, ``"#e69f00"``; empty shows none.
    """

    text: str
    order: float | str | None = None
    tone: Tone = "plain"
    anchor: str = ""
    swatch: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that the reader can sort by a click on a heading.

    Attributes:
        headings: One per column.
        rows: Cells; plain strings are cells that sort by their text.
        numeric: Columns, counted from 0, that are set flush right.
        caption: One line below it.
        footer: Rows that stay below the others, however these are sorted.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    numeric: Sequence[int] = ()
    caption: str = ""
    footer: Sequence[Sequence[Cell | str]] = ()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture within the page.

    Attributes:
        source: ``data:`` URI, see `embed_png`.
        caption: One line below it.
        description: For readers who do not see it.
        is_chart: Whether it is a drawing on white, which on a dark page needs a frame of white.
        bar_percent: Length of the bar of known length, in percent of the longer edge; None shows none.
        bar_text: How long that is.
        sides: Letters at the left, right, top and bottom edge; none of what is no part of a body.
    """

    source: str
    caption: str = ""
    description: str = ""
    is_chart: bool = False
    bar_percent: float | None = None
    bar_text: str = ""
    sides: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """An entry of the page's table of contents: the id of a ``<section>`` and what it is called."""

    anchor: str
    title: str


def render_page(template: str, *, title: str, sections: Sequence[Section] = (), **values: object) -> str:
    """Fill a template of this package.

    Args:
        template: File name in ``medunet/reporting/templates``; it extends ``base.html``.
        title: Of the page.
        sections: The page's table of contents.
        **values: What the template names; a name that is missing is an error, not a blank.
    """
    return _get_environment().get_template(template).render(_gather(title, sections, values))


def write_page(path: Path, template: str, *, title: str, sections: Sequence[Section] = (), **values: object) -> None:
    """`render_page` into a file piece by piece, so that no more than a piece is in memory; whole or not at all.

    Args:
        path: The page.
        template: As `render_page`.
        title: As `render_page`.
        sections: As `render_page`.
        **values: As `render_page`; an iterator is asked for one item after the other.

    Raises:
        OutputError: If the file cannot be written.
    """
    pieces = _get_environment().get_template(template).generate(_gather(title, sections, values))
    with open_atomic(path) as file:
        for piece in pieces:
            file.write(piece.encode("utf-8", "backslashreplace"))  # odd bytes of a file name are escaped


def _gather(title: str, sections: Sequence[Section], values: Mapping[str, object]) -> dict[str, object]:
    """What every page names, and what this one does."""
    import medunet

    script = _read_script()
    return {
        "title": title,
        "sections": sections,
        "version": medunet.__version__,
        "script": script,
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    }


def embed_png(content: bytes) -> str:
    """A PNG as a ``data:`` URI."""
    return _embed(content, "image/png")


def embed_jpeg(content: bytes) -> str:
    """A JPEG as a ``data:`` URI; a fifth of a PNG's size where grey values are noisy."""
    return _embed(content, "image/jpeg")


def number_cell(value: float | None, digits: int = 3, *, tone: Tone = "plain") -> Cell:
    """A number that sorts as one; None is shown as a dash and sorts last.

    Example:
        >>> number_cell(0.87649).text
        '0.876'
    """
    return Cell(text=UNDEFINED if value is None else f"{value:.{digits}f}", order=value, tone=tone)


def _embed(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _get_environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medunet.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["read_viewer_scripts"] = read_viewer_scripts  # of pages with ``with_viewer=True``
    return environment


@cache
def _read_script() -> str:
    return (files("medunet.reporting") / "templates" / "page.js").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script within a page, and the hash by which the page's policy admits it."""

    text: str
    sha256: str


@cache
def read_viewer_scripts() -> tuple[Script, ...]:
    """NiiVue as its authors built it, which sets the global ``niivue``, and what connects it with the page."""
    package = files("medunet.reporting")
    texts = [
        (package / folder / name).read_text(encoding="utf-8")
        for folder, name in (("assets", "niivue.umd.js"), ("templates", "viewer.js"))
    ]
    return tuple(
        Script(text=text, sha256=base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()) for text in texts
    )
