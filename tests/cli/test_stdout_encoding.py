"""A terminal that knows no umlauts does not end a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from synthetic_series import build_series


def test_row_72_an_ascii_terminal_shows_escapes(tmp_path: Path) -> None:
    folder = build_series(description="Größe 体积").write(tmp_path / "Ordner für Köpfe")
    outcome = subprocess.run(
        [sys.executable, "-m", "medunet", "convert", str(folder), "-o", str(tmp_path / "köpfe.nii.gz")],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "köpfe.nii.gz").is_file()
    assert "k\\xf6pfe.nii.gz" in outcome.stdout
