"""The example scripts run from an empty folder and leave what they announce."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pydicom

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "MEDUNET_HOME"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *options, "--output", "out"],
        cwd=cwd,
        env=environment | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in cwd.iterdir()] == ["out"], "everything goes below --output"
    return done


def test_train_infer_evaluate(tmp_path: Path) -> None:
    done = run_example("train_infer_evaluate.py", "--budget", "2it", "--num-cases", "2", cwd=tmp_path)
    assert "Trained 2 iterations" in done.stdout
    for label in ("anterior", "posterior", "mean"):
        assert label in done.stdout
    assert "synthetic phantoms" in done.stderr
    assert (tmp_path / "out" / "unseen.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "model" / "weights.safetensors").is_file()


def test_dicom_segmentation(tmp_path: Path) -> None:
    """The volumes that are read back from each format are those of the mask in memory, and not nothing."""
    done = run_example("dicom_segmentation.py", "--budget", "10it", cwd=tmp_path)
    found = {line[:14].strip(): line[14:].strip() for line in done.stdout.splitlines()}
    assert list(found) == ["in memory", "mask.nii.gz", "seg.dcm", "rtstruct.dcm"]
    assert len(set(found.values())) == 1, done.stdout
    assert sum(map(float, re.findall(r"(\S+) ml", found["in memory"]))) > 0
    slices = [pydicom.dcmread(path) for path in sorted((tmp_path / "out" / "series").iterdir())]
    for name, modality in (("seg.dcm", "SEG"), ("rtstruct.dcm", "RTSTRUCT")):
        written = pydicom.dcmread(tmp_path / "out" / name)
        assert written.Modality == modality
        assert written.StudyInstanceUID == slices[0].StudyInstanceUID
        assert written.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
