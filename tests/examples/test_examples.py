"""The example scripts run from an empty folder and leave what they announce."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_train_infer_evaluate(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MEDUNET_HOME"}
    done = subprocess.run(
        [
            *[sys.executable, EXAMPLES / "train_infer_evaluate.py"],
            *["--budget", "2it", "--output", "out", "--num-cases", "2"],
        ],
        cwd=tmp_path,
        env=environment | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Trained 2 iterations" in done.stdout
    for label in ("anterior", "posterior", "mean"):
        assert label in done.stdout
    assert "synthetic phantoms" in done.stderr
    assert (tmp_path / "out" / "unseen.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "model" / "weights.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "everything goes below --output"
