"""The example scripts run from an empty folder and leave what they announce."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medunet.io import write_nifti_labels
from medunet.volume import Volume

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


def test_evaluation_report(tmp_path: Path) -> None:
    done = run_example("evaluation_report.py", "--task", "hippocampus-mr", "--num-cases", "2", cwd=tmp_path)
    assert "Mean Dice 0." in done.stdout
    page = (tmp_path / "out" / "scores.html").read_text()
    assert page.count("<img") == 3 + 2 * 2  # charts, and two cases with two pictures each
    assert "missed" in page
    assert (tmp_path / "out" / "worst.jpg").read_bytes().startswith(b"\xff\xd8")


def write_raters(folder: Path) -> tuple[Path, Path]:
    """Two raters, one patient, both sides of an organ; the second rater's left one is a voxel wider."""
    for rater, width in (("one", 4), ("two", 5)):
        for organ, columns in (("Parotid-Lt", width), ("Parotid-Rt", 4)):
            array = np.zeros((1, 9, 9, 9), np.uint8)
            array[0, 2:6, 2:6, 2 : 2 + columns] = 1
            write_nifti_labels(Volume(array, np.eye(4)), folder / rater / "p1" / f"{organ}.nii.gz")
    return folder / "one", folder / "two"


def test_two_raters(tmp_path: Path) -> None:
    raters = write_raters(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    done = run_example("two_raters.py", *map(str, raters), cwd=tmp_path / "empty")
    (row,) = [line.split() for line in done.stdout.splitlines() if "Parotid" in line and "Dice" in line]
    assert row[2] == "0.944"  # of 2 * 4 / (4 + 5) and 1
    scores = (tmp_path / "empty" / "out" / "scores.csv").read_text()
    assert "p1 Parotid-Lt,Parotid,0.888889,ok" in scores


def test_viewer_page(tmp_path: Path) -> None:
    done = run_example("viewer_page.py", cwd=tmp_path)
    assert done.stdout.startswith("Page: out/page.html, ")
    assert "seminal_vesicles" in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")


@pytest.mark.realdata
def test_two_raters_agree_as_published(real_data: Path, tmp_path: Path) -> None:
    """Nikolov et al.: about 0.83 for the parotid, 0.90 for the brainstem, 0.96 for the mandible."""
    folder = real_data / "two-raters-ct-labels"
    done = run_example("two_raters.py", str(folder / "oncologist"), str(folder / "radiographer"), cwd=tmp_path)
    found = {line.split()[0]: float(line.split()[2]) for line in done.stdout.splitlines() if " Dice " in line}
    for organ, dice in (("Parotid", 0.83), ("Brainstem", 0.90), ("Mandible", 0.96)):
        assert abs(found[organ] - dice) < 0.01
