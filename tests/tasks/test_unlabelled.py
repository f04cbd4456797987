"""Scans are found in the folders that people have, by the ids that a dataset of the same files gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medunet.errors import DatasetError
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.tasks import list_scans, read_dataset


@pytest.fixture
def write_scan(make_volume: Any) -> Any:
    def write(path: Path) -> None:
        write_nifti_image(make_volume(shape=(5, 6, 7)), path)

    return write


def list_ids(folder: Path) -> list[str]:
    return [scan.case_id for scan in list_scans(folder).scans]


def test_a_folder_of_nothing_but_scans(tmp_path: Path, write_scan: Any) -> None:
    for name in ("b.nii.gz", "a.nii.gz", "ab_123.nii.gz"):
        write_scan(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    found = list_scans(tmp_path)
    assert [(scan.case_id, scan.images) for scan in found.scans] == [
        ("a", (tmp_path / "a.nii.gz",)),
        ("ab_123", (tmp_path / "ab_123.nii.gz",)),
        ("b", (tmp_path / "b.nii.gz",)),
    ]
    assert (found.layout, found.name, found.is_synthetic) == ("scans", tmp_path.name, False)


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
def test_a_dataset_gives_the_same_ids_and_its_labels_are_left_alone(
    tmp_path: Path, write_scan: Any, make_volume: Any, images: str, labels: str
) -> None:
    for name in ("p1", "p2"):
        for channel in (0, 1):
            write_scan(tmp_path / images / f"{name}_{channel:04d}.nii.gz")
        volume = make_volume(shape=(5, 6, 7))
        write_nifti_labels(volume.with_array(np.zeros((1, 5, 6, 7), np.uint8)), tmp_path / labels / f"{name}.nii.gz")
    dataset = read_dataset(tmp_path)
    (tmp_path / labels / "p1.nii.gz").write_bytes(b"no label map")
    (tmp_path / "dataset.json").write_text(json.dumps({"synthetic": True, "name": "Two"}))
    found = list_scans(tmp_path)
    assert [(scan.case_id, scan.images) for scan in found.scans] == [
        (case.case_id, case.images) for case in dataset.cases
    ]
    assert (found.layout, found.name, found.is_synthetic) == (f"{images}/", "Two", True)


def test_a_missing_channel_is_refused(tmp_path: Path, write_scan: Any) -> None:
    for name in ("p1_0000", "p1_0001", "p2_0001"):
        write_scan(tmp_path / f"{name}.nii.gz")
    with pytest.raises(DatasetError, match=r"scan 'p2' .* has the files p2_0001.nii.gz; expected one file per channel"):
        list_scans(tmp_path)


def test_a_table(tmp_path: Path, write_scan: Any) -> None:
    for name in ("x", "y"):
        write_scan(tmp_path / f"{name}.nii.gz")
    (tmp_path / "cases.csv").write_text("case,image,label,patient\np,x.nii.gz,x.nii.gz,1\nq,y.nii.gz,y.nii.gz,1\n")
    found = list_scans(tmp_path / "cases.csv")
    assert [(scan.case_id, scan.group) for scan in found.scans] == [("p", "1"), ("q", "1")]


def test_what_holds_no_scan(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"holds no scan \(notes.txt\); expected volumes"):
        list_scans(tmp_path)
    with pytest.raises(DatasetError, match="does not exist; expected a folder of scans"):
        list_scans(tmp_path / "no")
