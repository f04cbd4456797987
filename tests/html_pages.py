"""Pages as a browser takes them: elements, tables, and that nothing reaches out."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from medunet.reporting.page import read_viewer_scripts

_REACHING_OUT = ("src", "href", "srcset", "action", "data", "poster", "background")


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.cells: list[list[list[tuple[str, str | None]]]] = []
        self.text: list[str] = []
        self.script = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._inside.append(tag)
        if tag == "table":
            self.tables.append([])
            self.cells.append([])
        elif tag == "tr":
            self.tables[-1].append([])
            self.cells[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.cells[-1][-1].append(("", dict(attrs).get("data-order")))

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] == "script":
            self.script += data
            return
        if "td" in self._inside or "th" in self._inside:
            self.tables[-1][-1][-1] += data
            text, order = self.cells[-1][-1][-1]
            self.cells[-1][-1][-1] = (text + data, order)
        self.text.append(data)

    def find_tables(self, *first_headings: str) -> list[list[list[str]]]:
        count = len(first_headings)
        return [table for table in self.tables if table[0][:count] == list(first_headings)]

    def find_table(self, *first_headings: str) -> list[list[str]]:
        (table,) = self.find_tables(*first_headings)
        return table

    def check_is_closed(self) -> None:
        """Nothing is fetched from anywhere, and no script runs but the page's own and the viewer's, which its own tests watch."""
        source = self.source
        for script in read_viewer_scripts():
            source = source.replace(f"<script>{script.text}</script>", "")
        if source != self.source:
            Page(source).check_is_closed()
            return
        assert all(value.startswith(("data:image/", "#")) for value in self.list_values(*_REACHING_OUT))
        assert not re.search(r"https?:|@import|url\(", re.sub(r"base64,[^\"]*", "", self.source))
        assert "default-src 'none'" in self.source
        assert [attributes for tag, attributes in self.elements if tag == "script" and "type" not in attributes] == [{}]
        assert "alert" not in self.script
        assert not [name for _, attributes in self.elements for name in attributes if name.startswith("on")]
        places = {value[1:] for value in self.list_values("href") if value.startswith("#")}
        assert places <= set(self.list_values("id"))
        assert all(attributes.get("alt") for tag, attributes in self.elements if tag == "img")

    def list_values(self, *names: str) -> list[str]:
        return [value or "" for _, attributes in self.elements for name, value in attributes.items() if name in names]
