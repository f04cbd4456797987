"""A browser runs the page's own script under its policy, and finds nothing to complain about."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from medunet.evaluation import LabelScore, build_evaluation
from medunet.reporting.evaluation_page import build_evaluation_page

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
