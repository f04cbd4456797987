"""The other commands, what the command line does with errors, and that it starts fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from oracles import Outcome

import medunet
from medunet.io import read_label_map, write_nifti_image, write_nifti_labels
from medunet.tasks import list_tasks, parse_task

Command = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "runs"))


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)


# ---- starting ----------------------------------------------------------------------------------------------------------

_HEAVY = "heavy = {'torch', 'monai', 'torchio', 'nibabel', 'SimpleITK', 'scipy', 'matplotlib', 'lightning_fabric'}"


@pytest.mark.parametrize(
    "start",
    [
        "import medunet",
        "import medunet.cli.app",
        "import medunet.cli.app as a, sys; sys.argv = ['medunet', '--help']\ntry: a.main()\nexcept SystemExit: pass",
        "import medunet.cli.app as a, sys; sys.argv = ['medunet', 'infer', '--help']\ntry: a.main()\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(start: str) -> None:
    ended = run_python("-c", f"{start}\nimport sys\n{_HEAVY}\nprint('loaded:', sorted(heavy & set(sys.modules)))")
    assert ended.stdout.splitlines()[-1] == "loaded: []", ended.stdout + ended.stderr


def test_listing_tasks_loads_no_torch() -> None:
    start = "import medunet.cli.app as a, sys; sys.argv = ['medunet', 'tasks']\ntry: a.main()\nexcept SystemExit: pass"
    ended = run_python("-c", f"{start}\nprint({{'torch', 'monai', 'torchio', 'SimpleITK'}} & set(sys.modules))")
    assert ended.stdout.splitlines()[-1] == "set()", ended.stdout + ended.stderr


def test_help_names_every_command() -> None:
    ended = run_python("-m", "medunet", "--help")
    assert ended.returncode == 0
    for command in ("train", "infer", "evaluate", "compare", "phantom", "doctor", "tasks"):
        assert command in ended.stdout


def test_a_real_process_exits_with_two_and_one_line(tmp_path: Path) -> None:
    ended = run_python("-m", "medunet", "infer", str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "mask.nii.gz"))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: ")


def test_a_real_process_shows_the_traceback_on_request(tmp_path: Path) -> None:
    ended = run_python("-m", "medunet", "tasks", "show", "prostat-ct", "--debug")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "TaskError" in ended.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["train", "--help"], ["tasks", "--help"]])
def test_questions_are_answered(medunet_command: Command, arguments: list[str]) -> None:
    outcome = medunet_command(*arguments)
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert outcome.out


def test_the_version_is_the_packages(medunet_command: Command) -> None:
    assert medunet_command("--version").out == f"medunet {medunet.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["train"],
        ["infer"],
        ["train", "--task"],
        ["train", "-t", "x", "--colour", "red"],
        ["phantom", "-n", "x"],
    ],
)
def test_a_wrong_command_line_exits_with_two(medunet_command: Command, arguments: list[str]) -> None:
    outcome = medunet_command(*arguments)
    assert outcome.exit_code == 2
    assert "Traceback" not in outcome.err
    assert outcome.err


def test_a_line_break_in_a_path_does_not_break_the_line(medunet_command: Command, tmp_path: Path) -> None:
    outcome = medunet_command("infer", tmp_path / "a\nb.nii.gz", "-o", tmp_path / "mask.nii.gz")
    outcome.check_refused("does not exist")
    assert outcome.err.count("\n") == 1


def test_debug_shows_the_traceback(medunet_command: Command) -> None:
    assert medunet_command("tasks", "show", "nothing", "--debug").exit_code == 1
    assert medunet_command("--debug", "tasks", "show", "nothing").exit_code == 1


# ---- tasks, doctor, phantom --------------------------------------------------------------------------------------------


def test_tasks_lists_all_of_them(medunet_command: Command) -> None:
    outcome = medunet_command("tasks")
    assert outcome.exit_code == 0
    for name in list_tasks():
        assert name in outcome.out


@pytest.mark.parametrize("name", list_tasks())
def test_a_shown_task_is_a_recipe(medunet_command: Command, name: str) -> None:
    outcome = medunet_command("tasks", "show", name)
    assert outcome.exit_code == 0
    from medunet.tasks import load_task

    assert parse_task(yaml.safe_load(outcome.out), name) == load_task(name)


def test_an_unknown_task_is_refused_with_the_nearest(medunet_command: Command) -> None:
    medunet_command("tasks", "show", "prostat-ct").check_refused("did you mean 'prostate-ct'?")
    medunet_command("train", "--task", "hipocampus-mr").check_refused("did you mean 'hippocampus-mr'?")


def test_row_44_a_recipe_with_a_python_tag_is_refused(medunet_command: Command, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path / 'owned'}']\n")
    medunet_command("tasks", "show", tmp_path / "task.yaml").check_refused("no plain YAML")
    assert not (tmp_path / "owned").exists()


def test_doctor_says_what_is_here(medunet_command: Command) -> None:
    outcome = medunet_command("doctor")
    assert outcome.exit_code == 0
    for word in (medunet.__version__, "torch", "monai", "cores", "memory", "GiB free", "--device auto", "cpu"):
        assert word in outcome.out
    missing = [line for line in outcome.out.splitlines() if "missing" in line]
    assert all("train --mlflow" in line for line in missing)  # the only extra that tests do without


def test_doctor_names_what_is_missing(medunet_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from medunet.cli import doctor

    monkeypatch.setitem(doctor._PACKAGES, "no-such-package", "nothing at all")
    outcome = medunet_command("doctor")
    assert outcome.exit_code == 0
    assert "missing, needed for nothing at all: pip install no-such-package" in outcome.out


def test_phantoms_are_a_dataset(medunet_command: Command, tmp_path: Path) -> None:
    outcome = medunet_command("phantom", "-t", "hippocampus-mr", "-o", tmp_path / "data", "-n", "1")
    assert outcome.exit_code == 0, outcome.err
    content = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert content["synthetic"] is True
    assert len(content["training"]) == 1
    assert set(np.unique(read_label_map(tmp_path / "data" / content["training"][0]["label"]).array)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-t", "spleen-ct"], ["has no phantoms"]),
        (["-t", "hippocampus-mr", "-n", "0"], ["num_cases is 0"]),
        (["-t", "hippocampus-mr", "-n", "1", "--seed", "-1"], ["seed is -1"]),
    ],
)
def test_phantoms_that_cannot_be_made(
    medunet_command: Command, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    medunet_command("phantom", *arguments, "-o", tmp_path / "data").check_refused(*words)
    assert not (tmp_path / "data").exists()


def test_phantoms_replace_nothing(medunet_command: Command, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.doc").write_text("x")
    medunet_command("phantom", "-t", "hippocampus-mr", "-o", tmp_path / "data", "-n", "1").check_refused("not empty")


# ---- train -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def write_dataset(tmp_path: Path, make_volume: Any) -> Callable[..., Path]:
    """Two cases of the task hippocampus-mr; one may be spoilt."""

    def write(**changes: Any) -> Path:
        for name in ("a", "b"):
            image = make_volume(shape=(12, 13, 14), spacing=(1.0, 1.0, 1.0), seed=ord(name))
            labels = image.with_array((image.array > 140).astype(np.uint8))
            if name == "b":
                image, labels = changes.get("image", image), changes.get("labels", labels)
            write_nifti_image(image, tmp_path / "data" / "images" / f"{name}.nii.gz")
            write_nifti_labels(labels, tmp_path / "data" / "labels" / f"{name}.nii.gz")
        return tmp_path / "data"

    return write


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--configuration", "4d"], ["--configuration", "'4d'", "did you mean '3d'"]),
        (["--configuration", "3D"], ["'3D'", "did you mean '3d'"]),
        (["--augmentation", "torchoi"], ["did you mean 'torchio'?"]),
        (["--fold", "x"], ["--fold", "0 to 4, all, or cv"]),
        (["--fold", "9"], ["no fold 9"]),
        (["--budget", "a while"], ["a while", "10min"]),
        (["--device", "cuda:97"], ["cuda:97", "not here"]),
        (["--deterministic", "--budget", "1min"], ["--deterministic", "iterations"]),
        (["--preset", "L"], ["--preset", "add --budget full"]),
        (["--preset", "Q", "--budget", "full"], ["--preset is 'Q'"]),
        (["--loss", "dise-ce"], ["did you mean 'dice-ce'?"]),
        (["--precision", "fp16", "--device", "cpu"], ["fp16", "CUDA", "bf16"]),
        (["--memory-gb", "0"], ["--memory-gb is 0", "above 0"]),
        (["--requeue"], ["--requeue needs --output"]),
        (["--resume"], ["no interrupted training"]),
    ],
)
def test_an_unknown_option_value(
    medunet_command: Command, write_dataset: Callable[..., Path], options: list[str], words: list[str]
) -> None:
    medunet_command("train", "-t", "hippocampus-mr", "-d", write_dataset(), *options).check_refused(*words)


def move(volume: Any) -> Any:
    from medunet.volume import Volume

    affine = volume.affine.copy()
    affine[0, 3] += 2
    return Volume(volume.array, affine)


def test_labels_outside_the_task(medunet_command: Command, write_dataset: Any, make_volume: Any) -> None:
    labels = make_volume(shape=(12, 13, 14), spacing=(1.0, 1.0, 1.0))
    labels = labels.with_array(np.full(labels.shape, 5, np.uint8))
    outcome = medunet_command("train", "-t", "hippocampus-mr", "-d", write_dataset(labels=labels))
    outcome.check_refused("1 of 2 cases", "b.nii.gz", "5", "expected 0, 1, 2")


def test_image_and_labels_of_different_shape(medunet_command: Command, write_dataset: Any, make_volume: Any) -> None:
    labels = make_volume(shape=(12, 13, 15), spacing=(1.0, 1.0, 1.0))
    labels = labels.with_array(np.zeros(labels.shape, np.uint8))
    outcome = medunet_command("train", "-t", "hippocampus-mr", "-d", write_dataset(labels=labels))
    outcome.check_refused("different grids", "12x13x14", "12x13x15")


def test_image_and_labels_in_different_places(medunet_command: Command, write_dataset: Any, make_volume: Any) -> None:
    labels = move(make_volume(shape=(12, 13, 14), spacing=(1.0, 1.0, 1.0)))
    labels = labels.with_array(np.zeros(labels.shape, np.uint8))
    outcome = medunet_command("train", "-t", "hippocampus-mr", "-d", write_dataset(labels=labels))
    outcome.check_refused("different grids", "2.00 mm apart")


def test_nan_in_a_training_image(medunet_command: Command, write_dataset: Any, tmp_path: Path) -> None:
    import nibabel as nib

    data = write_dataset()
    image = nib.load(data / "images" / "b.nii.gz")
    array = np.asarray(image.dataobj).copy()
    array[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(array, image.affine), data / "images" / "b.nii.gz")
    medunet_command("train", "-t", "hippocampus-mr", "-d", data).check_refused("b.nii.gz", "1 NaN")
    assert not list((tmp_path / "runs").glob("*/weights.safetensors"))


def test_a_wrong_number_of_channels(medunet_command: Command, write_dataset: Any) -> None:
    outcome = medunet_command("train", "-t", "brain-tumour-mr", "-d", write_dataset())
    outcome.check_refused("1 channel(s)", "expects 4 (flair, t1, t1gd, t2)")


def test_an_empty_dataset(medunet_command: Command, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    medunet_command("train", "-t", "hippocampus-mr", "-d", tmp_path / "data").check_refused("holds nothing")
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir()
    medunet_command("train", "-t", "hippocampus-mr", "-d", tmp_path / "data").check_refused("no labelled case")
    medunet_command("train", "-t", "hippocampus-mr", "-d", tmp_path / "no").check_refused("does not exist")


def test_a_task_without_data(medunet_command: Command) -> None:
    medunet_command("train", "-t", "spleen-ct").check_refused("no embedded data", "--data")


def test_a_full_disk_while_training(
    medunet_command: Command, write_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    data = write_dataset()
    monkeypatch.setattr(os, "fsync", fail)
    outcome = medunet_command("train", "-t", "hippocampus-mr", "-d", data, "-o", tmp_path / "run")
    outcome.check_refused("disk is full")
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    medunet_command: Command, write_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medunet import training

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupt)
    outcome = medunet_command("train", "-t", "hippocampus-mr", "-o", tmp_path / "run")
    outcome.check_refused("Interrupted", "kept", "medunet train --task hippocampus-mr --resume", str(tmp_path / "run"))


# ---- evaluate ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path, make_volume: Any) -> tuple[Path, Path]:
    """A mask that holds half of its reference."""
    volume = make_volume(shape=(12, 13, 14), spacing=(1.0, 1.0, 1.0))
    reference, mask = np.zeros(volume.shape, np.uint8), np.zeros(volume.shape, np.uint8)
    reference[:, 2:6], mask[:, 2:4] = 1, 1
    write_nifti_labels(volume.with_array(mask), tmp_path / "masks" / "case 1.nii.gz")
    write_nifti_labels(volume.with_array(reference), tmp_path / "labels" / "case 1.nii.gz")
    return tmp_path / "masks", tmp_path / "labels"


def test_masks_are_scored(medunet_command: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    outcome = medunet_command("evaluate", *pair, "-o", tmp_path / "scores.csv", "--task", "hippocampus-mr")
    assert outcome.exit_code == 0, outcome.err
    assert "anterior" in outcome.out
    assert "0.667" in outcome.out  # 2 * 2 / (2 + 4)
    assert "0.666667" in (tmp_path / "scores.csv").read_text()


def test_scores_replace_neither_masks_nor_each_other(
    medunet_command: Command, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    mask = pair[0] / "case 1.nii.gz"
    before = mask.read_bytes()
    medunet_command("evaluate", *pair, "-o", mask, "--overwrite").check_refused("is the input")
    assert mask.read_bytes() == before
    (tmp_path / "scores.csv").write_text("precious")
    medunet_command("evaluate", *pair, "-o", tmp_path / "scores.csv").check_refused("exists already")
    assert (tmp_path / "scores.csv").read_text() == "precious"


def test_a_case_that_cannot_be_scored_shows_in_the_exit_code(
    medunet_command: Command, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    for folder in pair:
        (folder / "case 2.nii.gz").write_text("text")
    outcome = medunet_command("evaluate", *pair, "-o", tmp_path / "scores.csv")
    outcome.check_refused("1 case(s) could not be scored")
    assert "case 2" in outcome.out
    assert "0.666667" in (tmp_path / "scores.csv").read_text()


@pytest.mark.parametrize("which", [0, 1])
def test_nothing_to_score(medunet_command: Command, pair: tuple[Path, Path], tmp_path: Path, which: int) -> None:
    places = list(pair)
    places[which] = tmp_path / "nowhere"
    medunet_command("evaluate", *places).check_refused("nowhere")


def test_a_picture_shows_the_scan_of_its_case(
    medunet_command: Command, pair: tuple[Path, Path], tmp_path: Path, make_volume: Any
) -> None:
    """A folder of scans holds others too; the first of them is not meant."""
    volume = make_volume(shape=(12, 13, 14), spacing=(1.0, 1.0, 1.0))
    scan = volume.with_array(np.random.default_rng(0).normal(100, 10, volume.shape).astype(np.float32))
    scans = tmp_path / "scans"
    write_nifti_image(scan, scans / "case 1.nii.gz")
    write_nifti_image(scan.with_array(scan.array[:, ::-1].copy()), scans / "case 0.nii.gz")
    files = [folder / "case 1.nii.gz" for folder in pair]
    for name, images in (("folder", scans), ("file", scans / "case 1.nii.gz")):
        outcome = medunet_command("evaluate", *files, "--images", images, "--pictures", tmp_path / name)
        assert outcome.exit_code == 0, outcome.err
    pictures = [(tmp_path / name / "case 1.png").read_bytes() for name in ("folder", "file")]
    assert pictures[0] == pictures[1]
    (tmp_path / "none").mkdir()
    outcome = medunet_command("evaluate", *files, "--images", tmp_path / "none", "--pictures", tmp_path / "x")
    outcome.check_refused("no scan of case 'case 1'")


def test_paths_are_printed_as_they_are(medunet_command: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    scores = tmp_path / "x[bold]y.csv"  # rich would take it for markup
    assert f"Scores: {scores}" in medunet_command("evaluate", *pair, "-o", scores).out.splitlines()


def test_pictures_need_scans(medunet_command: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    medunet_command("evaluate", *pair, "--pictures", tmp_path).check_refused("--images and --pictures")
