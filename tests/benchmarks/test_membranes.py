"""The U-Net of 2015 learns the membranes of ISBI 2012 within the minutes that its benchmark takes by default."""

from __future__ import annotations

import sys
from pathlib import Path

import bench_isbi2012
import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.timeout(3600)  # two minutes of processor time, on whatever machine
def test_the_inside_of_cells_is_found(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path))
    data = str(real_data / "em-membranes-2d")
    monkeypatch.setattr(sys, "argv", ["bench_isbi2012.py", "--data", data, "--device", "cpu"])
    bench_isbi2012.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (heading,) = [number for number, line in enumerate(lines) if line[:1] == ["slice"]]
    *rows, mean = lines[heading + 1 :]
    assert [row[0] for row in rows] == ["24", "25", "26", "27", "28", "29"]  # none of them was trained on
    assert mean[0] == "mean"
    cells = [float(row[1]) for row in rows]
    assert float(mean[1]) == pytest.approx(np.mean(cells), abs=2e-4)
    assert float(mean[1]) >= 0.93
