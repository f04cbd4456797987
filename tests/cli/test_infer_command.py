"""``medunet infer`` through its real entry point: masks of an oracle, and every bad input in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from oracles import Outcome

from medunet.cli.infer_jobs import Wishes, list_jobs
from medunet.errors import InputError
from medunet.io import read_label_map, read_volume

Command = Callable[..., Outcome]
WISHES = Wishes(mask_format=None, split=False, seg_kind="binary", reference=None, untrusted=False, overwrite=False)


@pytest.fixture
def infer(medunet_command: Command, oracle_folder: Path) -> Command:
    def call(*arguments: object) -> Outcome:
        return medunet_command("infer", *arguments, "--model", oracle_folder, "--device", "cpu")

    return call


@pytest.fixture
def scan(tmp_path: Path, write_densities: Any) -> Path:
    path = tmp_path / "scan.nii.gz"
    write_densities(path, spacing=(1.0, 1.0, 1.0))
    return path


def list_files(folder: Path) -> set[str]:
    """Every file and folder but the label names and the manifest that lie beside each mask."""
    for path in folder.glob("*.json"):
        mask = path.with_name(path.name.removesuffix(".manifest.json"))
        assert mask.is_file() or path.with_name(f"{path.stem}.nii.gz").is_file()
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".json"}
    return found - {"manifests"}


# ---- what works --------------------------------------------------------------------------------------------------------


def test_a_scan_becomes_a_mask(infer: Command, tmp_path: Path, write_densities: Any) -> None:
    expected = write_densities(tmp_path / "scan.nii.gz", spacing=(1.0, 1.0, 1.0))
    outcome = infer(tmp_path / "scan.nii.gz", "-o", tmp_path / "mask.nii.gz")
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert np.array_equal(read_label_map(tmp_path / "mask.nii.gz").array, expected.array)
    assert "bone" in outcome.out
    assert " ml" in outcome.out
    assert "mask.nii.gz" in outcome.out


def test_a_folder_becomes_a_folder(infer: Command, tmp_path: Path, write_densities: Any) -> None:
    (tmp_path / "scans").mkdir()
    masks = {
        name: write_densities(tmp_path / "scans" / f"{name}.nii.gz", spacing=(1.0, 1.0, 1.0), seed=seed)
        for seed, name in enumerate(("a", "b"))
    }
    (tmp_path / "scans" / "notes.txt").write_text("not a scan")
    outcome = infer(tmp_path / "scans", "-o", tmp_path / "masks")
    assert outcome.exit_code == 0
    assert list_files(tmp_path / "masks") == {"a.nii.gz", "b.nii.gz"}
    for name, expected in masks.items():
        assert np.array_equal(read_label_map(tmp_path / "masks" / f"{name}.nii.gz").array, expected.array)


@pytest.mark.parametrize("folder", ["with some spaces", "Größe-体积-é", "a" * 100 + "/" + "b" * 100])
def test_row_72_odd_paths_work(infer: Command, tmp_path: Path, write_densities: Any, folder: str) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    write_densities(place / "der scan.nii.gz")
    outcome = infer(place / "der scan.nii.gz", "-o", place / "die Maske.nii.gz")
    assert outcome.exit_code == 0, outcome.err
    assert read_label_map(place / "die Maske.nii.gz").spatial_shape == (17, 22, 31)


def test_a_preview_is_drawn(infer: Command, scan: Path, tmp_path: Path) -> None:
    outcome = infer(scan, "-o", tmp_path / "mask.nii.gz", "--preview", tmp_path / "picture.png")
    assert outcome.exit_code == 0, outcome.err
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_scan_without_structures_is_no_error(infer: Command, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((9, 8, 7), -1000, np.int16), np.eye(4)), tmp_path / "air.nii.gz")
    outcome = infer(tmp_path / "air.nii.gz", "-o", tmp_path / "mask.nii.gz")
    assert outcome.exit_code == 0
    assert "no structure found" in outcome.out
    assert not read_label_map(tmp_path / "mask.nii.gz").array.any()


def test_the_newest_model_is_the_default(
    medunet_command: Command, oracle_folder: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(oracle_folder.parent))
    outcome = medunet_command("infer", scan, "-o", tmp_path / "mask.nii.gz")
    assert outcome.exit_code == 0, outcome.err
    assert str(oracle_folder) in outcome.out


def test_a_mask_is_replaced_on_request(infer: Command, scan: Path, tmp_path: Path) -> None:
    (tmp_path / "mask.nii.gz").write_bytes(b"precious")
    infer(scan, "-o", tmp_path / "mask.nii.gz").check_refused("mask.nii.gz", "exists already", "--overwrite")
    assert (tmp_path / "mask.nii.gz").read_bytes() == b"precious"
    assert infer(scan, "-o", tmp_path / "mask.nii.gz", "--overwrite").exit_code == 0
    assert read_label_map(tmp_path / "mask.nii.gz").array.any()


def test_the_patients_name_stays_in_the_scan(infer: Command, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((9, 8, 7), np.int16), np.eye(4))
    image.header["descrip"] = b"CANARY^JANE"
    image.header["db_name"] = b"CANARY"
    nib.save(image, tmp_path / "scan.nii")
    outcome = infer(tmp_path / "scan.nii", "-o", tmp_path / "mask.nii")
    assert outcome.exit_code == 0
    assert b"CANARY" not in (tmp_path / "mask.nii").read_bytes()
    assert "CANARY" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("output", "names", "expected"),
    [
        ("masks", ["p_0001", "p_0000"], ["p_0000", "p_0001"]),  # names that number the channels decide
        ("mask.nii.gz", ["p_0001", "p_0000"], ["p_0000", "p_0001"]),
        ("mask.nii.gz", ["t2", "adc"], ["t2", "adc"]),
        ("mask.nii.gz", ["p_0002", "p_0001"], ["p_0002", "p_0001"]),  # counted otherwise
        ("mask.nii.gz", ["t2/p_0000", "adc/p_0000"], ["t2/p_0000", "adc/p_0000"]),
    ],
)
def test_channels_by_their_numbers_or_as_given(
    tmp_path: Path, output: str, names: list[str], expected: list[str]
) -> None:
    (job,) = list_jobs([tmp_path / f"{name}.nii.gz" for name in names], tmp_path / output, WISHES, num_channels=2)
    assert list(job.images) == [tmp_path / f"{name}.nii.gz" for name in expected]


@pytest.mark.parametrize(
    "names", [("p_0000", "p_0002"), ("p_2019", "p_2020"), ("p", "p_0001"), ("a/p_0001", "b/p_0001")]
)
def test_numbers_that_are_no_channels(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"expected the numbers p_0000 to 0001\. Add what is missing"):
        list_jobs([tmp_path / f"{name}.nii.gz" for name in names], tmp_path / "masks", WISHES, num_channels=2)


# ---- what is refused ---------------------------------------------------------------------------------------------------


def write_text_scan(path: Path) -> None:
    path.write_text("dear radiologist")


def write_nan_scan(path: Path) -> None:
    array = np.zeros((9, 8, 7), np.float32)
    array[2, 3, 4] = np.nan
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def write_channels_scan(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((9, 8, 7, 3), np.float32), np.eye(4)), path)


def write_cut_scan(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(20, 20, 20)), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (None, ["does not exist"]),
        (write_text_scan, []),
        (write_nan_scan, ["1 NaN"]),
        (write_channels_scan, ["3 volumes or channels", "expects 1 (ct)", "--volume-index"]),
        (write_cut_scan, []),
    ],
)
def test_a_bad_scan_is_one_line(
    infer: Command, tmp_path: Path, write: Callable[[Path], None] | None, words: list[str]
) -> None:
    path = tmp_path / "a bad scan.nii.gz"
    if write:
        write(path)
    before = list_files(tmp_path)
    infer(path, "-o", tmp_path / "out" / "mask.nii.gz").check_refused("a bad scan.nii.gz", *words)
    assert list_files(tmp_path) == before


def test_a_text_file_as_scan(infer: Command, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("dear radiologist")
    infer(tmp_path / "report.txt", "-o", tmp_path / "mask.nii.gz").check_refused("report.txt", ".nii.gz")


def test_an_empty_folder(infer: Command, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    infer(tmp_path / "scans", "-o", tmp_path / "masks").check_refused("scans", "no volume (0 files seen)")
    (tmp_path / "scans" / "readme.txt").write_text("x")
    infer(tmp_path / "scans", "-o", tmp_path / "masks").check_refused("(1 files seen)")
    assert not (tmp_path / "masks").exists()


def test_the_output_is_the_scan(infer: Command, scan: Path, tmp_path: Path) -> None:
    before = scan.read_bytes()
    infer(scan, "-o", scan).check_refused("is the input")
    infer(scan, "-o", scan, "--overwrite").check_refused("is the input")
    (tmp_path / "link.nii.gz").symlink_to(scan)
    infer(scan, "-o", tmp_path / "link.nii.gz", "--overwrite").check_refused("is the input")
    infer(scan, "-o", tmp_path / "mask.nii.gz", "--preview", scan, "--overwrite").check_refused("is the input")
    assert scan.read_bytes() == before


def test_masks_beside_their_scans_are_refused(infer: Command, scan: Path) -> None:
    before = scan.read_bytes()
    infer(scan.parent, "-o", scan.parent, "--overwrite").check_refused("is the input")
    assert scan.read_bytes() == before


def test_a_full_disk_leaves_nothing(
    infer: Command, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    (tmp_path / "mask.nii.gz").write_bytes(b"old")
    before = list_files(tmp_path)
    infer(scan, "-o", tmp_path / "mask.nii.gz", "--overwrite").check_refused("mask.nii.gz", "disk is full")
    assert list_files(tmp_path) == before
    assert (tmp_path / "mask.nii.gz").read_bytes() == b"old"


def test_row_67_one_bad_scan_among_three(infer: Command, tmp_path: Path, write_densities: Any) -> None:
    (tmp_path / "scans").mkdir()
    for seed, name in enumerate(("a", "c")):
        write_densities(tmp_path / "scans" / f"{name}.nii.gz", seed=seed)
    write_text_scan(tmp_path / "scans" / "b.nii.gz")
    outcome = infer(tmp_path / "scans", "-o", tmp_path / "masks")
    assert outcome.exit_code == 2
    assert list_files(tmp_path / "masks") == {"a.nii.gz", "c.nii.gz"}
    assert len(outcome.errors) == 2
    assert "b.nii.gz" in outcome.errors[0]
    assert "1 of 3 scans failed" in outcome.errors[1]
    assert "Traceback" not in outcome.err


def test_a_mask_that_cannot_be_made_does_not_stop_the_others(
    infer: Command, tmp_path: Path, write_densities: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not only what medunet refuses: memory runs out on one huge scan.
    from medunet.inference import predictor

    (tmp_path / "scans").mkdir()
    for seed, name in enumerate("abc"):
        write_densities(tmp_path / "scans" / f"{name}.nii.gz", seed=seed)
    preprocess = predictor.preprocess_image
    calls = 0

    def fail(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError
        return preprocess(*arguments, **options)

    monkeypatch.setattr(predictor, "preprocess_image", fail)
    outcome = infer(tmp_path / "scans", "-o", tmp_path / "masks")
    assert outcome.exit_code == 2
    assert list_files(tmp_path / "masks") == {"a.nii.gz", "c.nii.gz"}
    assert "b.nii.gz" in outcome.errors[0]
    assert "memory" in outcome.errors[0].lower()


def test_two_scans_of_one_name(infer: Command, tmp_path: Path, write_densities: Any) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_densities(tmp_path / folder / "scan.nii.gz")
    paths = [tmp_path / folder / "scan.nii.gz" for folder in ("x", "y")]
    infer(*paths, "-o", tmp_path / "masks").check_refused("would become the mask 'scan'")
    assert not (tmp_path / "masks").exists()


def test_two_scans_and_one_mask_file(infer: Command, scan: Path, tmp_path: Path) -> None:
    infer(scan, scan, "-o", tmp_path / "mask.nii.gz").check_refused("need an output folder")


def test_one_scan_and_no_mask_file(infer: Command, scan: Path, tmp_path: Path) -> None:
    infer(scan, "-o", tmp_path / "mask.png").check_refused("mask.png", ".tif")
    infer(scan, "-o", tmp_path / "mask.txt").check_refused("mask.txt", ".nii.gz")


@pytest.mark.parametrize(
    ("name", "words"), [("nowhere", ["does not exist"]), ("empty", ["no complete model"]), ("file", ["is a file"])]
)
def test_a_wrong_model_folder(
    medunet_command: Command, scan: Path, tmp_path: Path, name: str, words: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    outcome = medunet_command("infer", scan, "-o", tmp_path / "mask.nii.gz", "--model", tmp_path / name)
    outcome.check_refused(name, *words)
    assert not (tmp_path / "mask.nii.gz").exists()


def test_no_model_at_all(medunet_command: Command, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "none"))
    medunet_command("infer", scan, "-o", tmp_path / "mask.nii.gz").check_refused("no model", "medunet train")


def test_an_absent_device(medunet_command: Command, oracle_folder: Path, scan: Path, tmp_path: Path) -> None:
    for device in ("cuda:97", "gpu", ""):
        outcome = medunet_command(
            "infer", scan, "-o", tmp_path / "mask.nii.gz", "--model", oracle_folder, "--device", device
        )
        outcome.check_refused(device)


def test_channels_of_two_grids(
    medunet_command: Command, write_model: Callable[..., Path], tmp_path: Path, write_densities: Any
) -> None:
    from oracles import ORACLE_TASK

    from medunet.tasks import Task

    task = Task.model_validate(ORACLE_TASK.model_dump() | {"channels": ("first", "second")})
    folder = write_model(tmp_path / "model", task)
    write_densities(tmp_path / "s_0000.nii.gz")
    write_densities(tmp_path / "s_0001.nii.gz", shape=(17, 22, 30))
    outcome = medunet_command(
        "infer", tmp_path / "s_0000.nii.gz", tmp_path / "s_0001.nii.gz", "-o", tmp_path / "m.nii.gz", "-m", folder
    )
    assert outcome.exit_code == 0
    assert "17x22x30" in outcome.err
    assert "resampled to the grid of" in outcome.err
    one = medunet_command("infer", tmp_path / "s_0000.nii.gz", "-o", tmp_path / "m1.nii.gz", "-m", folder)
    one.check_refused("1 channel(s)", "expects 2 (first, second)")


def test_reading_leaves_the_scan_alone(infer: Command, scan: Path, tmp_path: Path) -> None:
    before = scan.stat().st_mtime_ns, scan.read_bytes()
    infer(scan, "-o", tmp_path / "mask.nii.gz")
    assert (scan.stat().st_mtime_ns, scan.read_bytes()) == before
    assert read_volume(scan).spatial_shape == (17, 22, 31)
