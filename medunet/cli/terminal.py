"""What commands print: text for people, or one JSON document for programs.

Text is plain, without colours or moving bars, where the output is no terminal or ``NO_COLOR`` is set. With ``--json``, stdout
holds the document and nothing else; what is said on the way goes to stderr.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NO_COLOR = "NO_COLOR"
"""https://no-color.org"""

_FILE_WIDTH = 160
"""Columns where the output is no terminal: rich would fold tables at 80, which nothing asks for in a log."""


def build_console(*, stderr: bool = False) -> Console:
    """Where text goes.

    Args:
        stderr: Whether to print to stderr, because stdout belongs to a document.
    """
    from rich.console import Console

    if os.environ.get(NO_COLOR):  # rich leaves out only colours, not bold type or bars
        console = Console(stderr=stderr, force_terminal=False, color_system=None)
    else:
        console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _FILE_WIDTH
    return console


def print_wide_table(console: Console, rows: Sequence[Mapping[str, str]]) -> None:
    """Print a table of one line per row. A terminal gets as many columns as fit into it, a file gets all.

    Args:
        console: Where to.
        rows: Heading -> cell, the same headings in each; at least one row.
    """
    has_room = not console.is_terminal and "COLUMNS" not in os.environ
    headings = list(rows[0])
    table = _build_table(headings, rows)
    while not has_room and len(headings) > 1 and _measure(console, table) > console.width:
        headings.pop()
        table = _build_table(headings, rows)
    if has_room:
        console.width = _measure(console, table)
    console.print(table)


def _measure(console: Console, table: Table) -> int:
    """The width that a table takes when nothing is folded."""
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum


def _build_table(headings: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(
            *(Text(row[heading]) for heading in headings)
        )  # not str: a name may hold what rich reads as markup
    return table


def print_json(content: Any) -> None:
    """Print a document: dataclasses and models as objects, paths as text, and what is no number as null."""
    print(json.dumps(to_json(content), indent=2, allow_nan=False))


def to_json(content: Any) -> Any:
    """What JSON knows: objects, lists, text, finite numbers, true, false and null.

    Example:
        >>> to_json({"dice": (0.5, float("nan"))})
        {'dice': [0.5, None]}
    """
    if dataclasses.is_dataclass(content) and not isinstance(content, type):
        return {field.name: to_json(getattr(content, field.name)) for field in dataclasses.fields(content)}
    if hasattr(content, "model_dump"):
        return to_json(content.model_dump(mode="json"))
    if isinstance(content, Mapping):
        return {str(key): to_json(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [to_json(item) for item in content]
    if isinstance(content, PurePath):
        return str(content)
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    return content
