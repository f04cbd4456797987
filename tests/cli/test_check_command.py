"""``medunet check`` through its real entry point: exit codes, what is printed, what is written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import Outcome

from medunet.checking import DatasetReport
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.volume import Volume

Command = Callable[..., Outcome]
SHAPE = (12, 14, 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sound cases for hippocampus-mr."""
    place = tmp_path / "data"
    for number, name in enumerate(("p1", "p2", "p[bold]3")):
        image = np.random.default_rng(number).normal(300, 50, SHAPE).astype(np.float32)
        labels = np.zeros(SHAPE, np.uint8)
        labels[3:8, 3 + number : 8 + number, 2:5], labels[3:8, 3 + number : 8 + number, 5:8] = 1, 2
        volume = Volume(image[None], np.diag([1.0, 1.0, 1.5, 1.0]))
        write_nifti_image(volume, place / "images" / f"{name}.nii.gz")
        write_nifti_labels(volume.with_array(labels[None]), place / "labels" / f"{name}.nii.gz")
    return place


@pytest.fixture
def check(medunet_command: Command, folder: Path) -> Command:
    def call(*options: object) -> Outcome:
        return medunet_command("check", "--data", folder, "--task", "hippocampus-mr", *options)

    return call


def negate(folder: Path) -> None:
    """A case of negative values, which is no more than a note."""
    image = -np.random.default_rng(7).normal(300, 50, SHAPE).astype(np.float32)
    write_nifti_image(Volume(image[None], np.diag([1.0, 1.0, 1.5, 1.0])), folder / "images" / "p1.nii.gz")


def test_a_sound_dataset(check: Command) -> None:
    outcome = check()
    assert (outcome.exit_code, outcome.err) == (0, "")
    rows = [line.split() for line in outcome.out.splitlines()]
    assert rows[1][:4] == ["p1", "12x14x10", "1x1x1.5", "RAS"]
    assert rows[3][0] == "p[bold]3"  # as it is, no markup
    assert ["anterior", "1", "3/3", *["0.113"] * 3] in rows  # 75 voxels of 1.5 mm³
    assert outcome.out.splitlines()[-1] == "3 cases: 0 errors, 0 warnings, 0 notes. Training can start."


def test_notes_and_warnings_leave_the_exit_code_alone(check: Command, folder: Path) -> None:
    negate(folder)
    content = gzip.decompress((folder / "images" / "p2.nii.gz").read_bytes())
    (folder / "images" / "p2.nii.gz").write_bytes(gzip.compress(content + b"more"))
    outcome = check()
    assert (outcome.exit_code, outcome.err) == (0, "")  # what readers warn of is among the findings
    assert "note: p1: The image has values from" in outcome.out
    assert "bytes after its voxels" in next(line for line in outcome.out.splitlines() if line.startswith("warning: p2"))
    assert "1 warning, 1 note. Training would run" in outcome.out


def test_training_would_fail(check: Command, folder: Path) -> None:
    (folder / "labels" / "p2.nii.gz").write_bytes(b"no volume")
    outcome = check()
    assert outcome.exit_code == 1
    assert "error: p2: " in outcome.out
    assert "3 cases: 1 error, 0 warnings, 0 notes. Training would fail" in outcome.out
    assert [line.split()[0] for line in outcome.out.splitlines()[1:4]] == ["p1", "p2", "p[bold]3"]


def test_page_and_json_are_written(check: Command, folder: Path, tmp_path: Path) -> None:
    (folder / "labels" / "p2.nii.gz").write_bytes(b"no volume")
    page, numbers = tmp_path / "new" / "page.html", tmp_path / "new" / "report.json"
    outcome = check("-o", page, "--json-file", numbers)
    assert outcome.exit_code == 1
    assert outcome.out.splitlines()[-2:] == [f"Written: {page}", f"Written: {numbers}"]
    content = json.loads(numbers.read_text())
    assert content.pop("has_errors") is True
    report = DatasetReport.model_validate(content)
    assert [facts.case_id for facts in report.cases] == ["p1", "p2", "p[bold]3"]
    html = page.read_text()
    assert html.count("data:image/jpeg") == 2
    assert "Training would fail" in html


def test_json_to_stdout_is_nothing_but_json(check: Command) -> None:
    outcome = check("--json")
    assert outcome.exit_code == 0
    content = json.loads(outcome.out)
    assert content["has_errors"] is False
    assert content["cases"][0]["labels"]["anterior"]["num_voxels"] == 75


def test_files_that_exist_are_kept(check: Command, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("precious")
    check("-o", page).check_refused("exists already")
    assert page.read_text() == "precious"
    assert check("-o", page, "--overwrite").exit_code == 0
    assert page.read_text().startswith("<!doctype html>")


def test_page_and_json_are_two_files(check: Command, tmp_path: Path) -> None:
    both = tmp_path / "report.html"
    check("-o", both, "--json-file", both).check_refused("would both be written to")
    assert not both.exists()


def test_no_input_is_replaced(check: Command, folder: Path) -> None:
    label = folder / "labels" / "p1.nii.gz"
    before = label.read_bytes()
    check("--json-file", label, "--overwrite").check_refused("is the input")
    assert label.read_bytes() == before
    splits = folder / "splits.json"
    splits.write_text(json.dumps([{"train": ["p1"], "val": ["p2"]}]))
    check("--splits", splits, "--json-file", splits, "--overwrite").check_refused("is the input")


def test_a_page_has_the_name_of_one(check: Command, tmp_path: Path) -> None:
    check("-o", tmp_path / "page.pdf").check_refused("page.pdf", "expected a name ending in .html")


def test_a_folder_that_is_no_dataset(medunet_command: Command, tmp_path: Path) -> None:
    medunet_command("check", "--data", tmp_path, "--task", "hippocampus-mr").check_refused("is no dataset")


def test_own_splits(check: Command, tmp_path: Path) -> None:
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": ["p1"], "val": ["p9"]}]))
    outcome = check("--splits", splits)
    assert outcome.exit_code == 1
    assert "'p9', which is no case of the dataset" in outcome.out


def test_torch_is_not_needed(folder: Path) -> None:
    import subprocess
    import sys

    code = f"""
import sys
sys.argv = ["medunet", "check", "--data", {str(folder)!r}, "--task", "hippocampus-mr"]
from medunet.cli.app import main
try:
    main()
finally:
    print("torch" in sys.modules, "matplotlib" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"


def test_names_of_structures_can_be_mapped(check: Command) -> None:
    check("--map", "nonsense").check_refused("nonsense")


def test_options_are_asked_for(medunet_command: Any) -> None:
    assert medunet_command("check", "--task", "hippocampus-mr").exit_code == 2
