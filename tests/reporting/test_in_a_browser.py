"""A browser runs the page's own script under its policy, and finds nothing to complain about."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from chromium import Browser

from medunet.evaluation import LabelScore, build_evaluation
from medunet.reporting.evaluation_page import build_evaluation_page
from medunet.reporting.page import UNDEFINED, Cell, Table, render_page

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_the_script_runs_and_nothing_is_refused(tmp_path: Path) -> None:
    scores = [
        LabelScore(
            case_id=f"p{case}", label="a", dice=0.5, status="ok", reference_ml=1.0, prediction_ml=1.0, tp=1, fp=1, fn=1
        )
        for case in range(3)
    ]
    page = tmp_path / "page.html"
    page.write_text(build_evaluation_page(build_evaluation(scores)))
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"{page.as_uri()}#everything",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(tmp_path)}
    )
    headings = re.findall(r"<th [^>]*>", done.stdout)
    assert len(headings) > 10
    assert all('role="button"' in heading for heading in headings)  # set by the script
    # What the page says on its console: errors of the script, and whatever its policy refuses.
    assert [line for line in done.stderr.splitlines() if ":CONSOLE" in line] == []


def test_tables_sort_and_closed_parts_are_printed(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers as numbers, what has no value last in both directions, the footer where it is."""
    from jinja2 import ChoiceLoader, DictLoader
    from selenium.webdriver import Keys

    from medunet.reporting import page

    template = """{% extends "base.html" %}{% from "parts.html" import show_table %}{% block content %}
        <details><summary>closed</summary>{{ show_table(table) }}</details>
        <details open><summary>open</summary></details>{% endblock %}"""
    environment = page._get_environment()
    monkeypatch.setattr(environment, "loader", ChoiceLoader([environment.loader, DictLoader({"t.html": template})]))
    values = {"p2": 9.0, "p10": 10.0, "p1": None, "p3": -1.5, "p4": 1e-3, "p5": None}
    rows = [
        [case_id, Cell(text=UNDEFINED if value is None else f"{value:.2f}", order=value)]
        for case_id, value in values.items()
    ]
    table = Table(headings=["case", "ml"], rows=rows, numeric=(1,), footer=[["mean", Cell(text="99", order=99.0)]])
    (tmp_path / "page.html").write_text(render_page("t.html", title="t", table=table))
    browser.open((tmp_path / "page.html").as_uri())

    def list_cases(part: str = "tBodies[0]") -> list[str]:
        script = f"return [...document.querySelector('table').{part}.rows].map((row) => row.cells[0].textContent)"
        return [str(text) for text in browser.run(script)]

    def list_open() -> list[bool]:
        return [bool(one) for one in browser.run("return [...document.querySelectorAll('details')].map((d) => d.open)")]

    assert (list_cases(), list_open()) == (list(values), [False, True])
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert list_open() == [True, True]
    case_heading, ml_heading = browser.driver.find_elements("css selector", "th")
    ml_heading.click()
    assert list_cases() == ["p3", "p4", "p2", "p10", "p1", "p5"]
    assert ml_heading.get_attribute("aria-sort") == "ascending"
    ml_heading.send_keys(Keys.ENTER)
    assert list_cases() == ["p10", "p2", "p4", "p3", "p1", "p5"]
    assert ml_heading.get_attribute("aria-sort") == "descending"
    case_heading.click()
    assert list_cases() == ["p1", "p2", "p3", "p4", "p5", "p10"]  # numbers within names too
    assert ml_heading.get_attribute("aria-sort") is None
    assert list_cases("tFoot") == ["mean"]
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert list_open() == [False, True]
    assert browser.list_errors() == []
