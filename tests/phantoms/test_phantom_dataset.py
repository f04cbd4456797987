from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import medunet
from medunet.errors import InputError, OutputError
from medunet.io import read_label_map, read_volume
from medunet.phantoms import dataset, make_phantom_case, write_phantom_dataset

NAME = "hippocampus-mr"


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folder_holds_the_cases_of_its_seed(tmp_path):
    seen: list[str] = []
    write_phantom_dataset(NAME, tmp_path / "new" / "set", num_cases=3, seed=0, num_workers=1, on_case=seen.append)
    assert seen == ["hippocampus_000", "hippocampus_001", "hippocampus_002"]
    folder = tmp_path / "new" / "set"
    description = json.loads((folder / "dataset.json").read_text())
    assert description["labels"] == {"0": "background", "1": "anterior", "2": "posterior"}
    assert (description["modality"], description["numTraining"], description["test"]) == ({"0": "MR"}, 3, [])
    assert description["synthetic"] is True
    assert "SYNTHETIC" in description["description"]
    for number, entry in enumerate(description["training"]):
        case = make_phantom_case(NAME, number)
        image, labels = read_volume(folder / entry["image"]), read_label_map(folder / entry["label"])
        assert (image.array == case.image.array).all()
        assert (labels.array == case.labels.array).all()
        np.testing.assert_allclose(image.affine, case.image.affine, atol=1e-4)
    assert {path.split("/")[0] for path in read_all(folder)} == {"dataset.json", "imagesTr", "labelsTr"}


def test_files_say_that_they_are_synthetic(tmp_path):
    import nibabel as nib

    write_phantom_dataset(NAME, tmp_path, num_cases=1, num_workers=1)
    for folder in ("imagesTr", "labelsTr"):
        text = nib.load(tmp_path / folder / "hippocampus_000.nii.gz").header["descrip"].item().decode()
        assert text.startswith("SYNTHETIC phantom, medunet")


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    write_phantom_dataset(NAME, tmp_path / "one", num_cases=3, seed=4, num_workers=1)
    write_phantom_dataset(NAME, tmp_path / "two", num_cases=3, seed=4, num_workers=2)
    assert read_all(tmp_path / "one") == read_all(tmp_path / "two")


def test_seeds_share_no_case(tmp_path):
    write_phantom_dataset(NAME, tmp_path / "a", num_cases=2, seed=0, num_workers=1)
    write_phantom_dataset(NAME, tmp_path / "b", num_cases=2, seed=1, num_workers=1)
    images = [content for folder in "ab" for name, content in read_all(tmp_path / folder).items() if "images" in name]
    assert len(set(images)) == 4


def test_a_complete_folder_is_left_alone(tmp_path):
    write_phantom_dataset(NAME, tmp_path, num_cases=2, num_workers=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    seen: list[str] = []
    write_phantom_dataset(NAME, tmp_path, num_cases=2, num_workers=1, on_case=seen.append)
    assert seen == []
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_an_interrupted_folder_is_taken_up_again(tmp_path):
    def stop(case_id: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom_dataset(NAME, tmp_path / "set", num_cases=2, num_workers=1, on_case=stop)
    assert not (tmp_path / "set" / "dataset.json").exists()
    write_phantom_dataset(NAME, tmp_path / "set", num_cases=2, num_workers=1)
    write_phantom_dataset(NAME, tmp_path / "fresh", num_cases=2, num_workers=1)
    assert read_all(tmp_path / "set") == read_all(tmp_path / "fresh")


def test_a_lost_file_is_written_again(tmp_path):
    write_phantom_dataset(NAME, tmp_path, num_cases=2, num_workers=1)
    before = read_all(tmp_path)
    (tmp_path / "labelsTr" / "hippocampus_001.nii.gz").unlink()
    write_phantom_dataset(NAME, tmp_path, num_cases=2, num_workers=1)
    assert read_all(tmp_path) == before


def test_a_script_without_main_guard_still_gets_its_dataset(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom medunet.phantoms import write_phantom_dataset\n"
        f"write_phantom_dataset({NAME!r}, Path({str(tmp_path / 'set')!r}), num_cases=2, num_workers=2)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(medunet.__file__).parents[1])}
    done = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True, env=environment)
    assert "num_workers=1" in done.stderr
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["numTraining"] == 2


@pytest.mark.parametrize("change", [{"num_cases": 3}, {"seed": 9}, {"name": "male-pelvis-ct"}])
def test_other_settings_are_refused(tmp_path, change):
    write_phantom_dataset(NAME, tmp_path, num_cases=2, num_workers=1)
    before = read_all(tmp_path)
    settings = {"name": NAME, "num_cases": 2, "seed": 0} | change
    with pytest.raises(OutputError, match="another phantom dataset"):
        write_phantom_dataset(settings.pop("name"), tmp_path, num_workers=1, **settings)
    assert read_all(tmp_path) == before


def test_another_generator_version_is_refused(tmp_path, monkeypatch):
    write_phantom_dataset(NAME, tmp_path, num_cases=1, num_workers=1)
    monkeypatch.setattr(dataset, "GENERATOR_VERSION", dataset.GENERATOR_VERSION + 1)
    with pytest.raises(OutputError, match="generator_version"):
        write_phantom_dataset(NAME, tmp_path, num_cases=1, num_workers=1)


@pytest.mark.parametrize(
    ("name", "content"), [("notes.txt", "mine"), ("dataset.json", '{"name": "Task04"}'), ("dataset.json", "no JSON")]
)
def test_a_folder_of_somebody_else_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(OutputError, match="holds no phantom dataset"):
        write_phantom_dataset(NAME, tmp_path, num_cases=1, num_workers=1)
    assert read_all(tmp_path) == {name: content.encode()}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file, not a folder"):
        write_phantom_dataset(NAME, tmp_path / "file", num_cases=1, num_workers=1)


@pytest.mark.parametrize(
    ("settings", "match"), [({"num_cases": 0}, "num_cases is 0"), ({"num_workers": 0}, "num_workers")]
)
def test_numbers_out_of_range_are_refused(tmp_path, settings, match):
    with pytest.raises(InputError, match=match):
        write_phantom_dataset(NAME, tmp_path / "set", **({"num_cases": 1} | settings))
    assert not (tmp_path / "set").exists()
