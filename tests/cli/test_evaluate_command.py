"""``medunet evaluate`` beyond the Dice, and ``medunet compare``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_pages import Page
from oracles import Outcome
from synthetic_series import build_series

from medunet.cli import case_progress
from medunet.cli.case_progress import CaseProgress
from medunet.io import read_volume, write_nifti_image, write_nifti_labels
from medunet.reporting import figure
from medunet.volume import Volume

Command = Callable[..., Outcome]


def write_masks(folder: Path, width: int, *, num_cases: int = 6) -> Path:
    """Bars of two labels, as wide as asked and a little different in every case."""
    for case in range(num_cases):
        array = np.zeros((1, 10, 12, 14), np.uint8)
        array[0, 2:6, 2:9, 2 : 2 + width + case % 2] = 1
        array[0, 6:8, 2 : 6 + case, 2 : 2 + width] = 2
        write_nifti_labels(Volume(array, np.diag([1.0, 1.0, 2.0, 1.0])), folder / f"p{case}.nii.gz")
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A good set, a worse one, and the references."""
    return (
        write_masks(tmp_path / "good", 7),
        write_masks(tmp_path / "worse", 4),
        write_masks(tmp_path / "labels", 8),
    )


# ---- evaluate ----------------------------------------------------------------------------------------------------------


def test_tables_show_surfaces_and_advice(medunet_command: Command, sets: tuple[Path, Path, Path]) -> None:
    good, _, labels = sets
    outcome = medunet_command("evaluate", good, labels)
    assert outcome.exit_code == 0, outcome.err
    for word in ("NSD", "HD95 mm", "quartiles", "worst case"):
        assert word in outcome.out
    assert "note: 6 case(s): bootstrap intervals" in outcome.out
    content = json.loads(medunet_command("evaluate", good, labels, "--json").out)
    mean = np.mean([one["pixel_accuracy"] for one in content["agreement"]])
    assert f"Pixel accuracy {mean:.3f}, mean pixel accuracy" in outcome.out


def test_json_csv_and_nnunet_summary(medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    good, _, labels = sets
    files = {name: tmp_path / "out" / name for name in ("scores.csv", "scores.json", "summary.json")}
    outcome = medunet_command(
        "evaluate", good, labels, "-o", files["scores.csv"], "--json-file", files["scores.json"],
        "--nnunet-summary", files["summary.json"], "--tolerance", "3", "--tolerance", "label 2=1.5", "--beta", "1",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.err
    rows = list(csv.DictReader(files["scores.csv"].read_text().splitlines()))
    assert [row["tolerance_mm"] for row in rows[:2]] == ["3", "1.5"]
    assert all(row["f_beta"] == row["dice"] for row in rows)
    content = json.loads(files["scores.json"].read_text())
    means = {(row["label"], row["metric"]): row["mean"] for row in content["summary"]}
    assert means["label 1", "nsd"] == 1.0  # the end is one voxel of 2 mm off
    assert means["label 1", "hd_mm"] == 2.0
    assert 0 < means["label 2", "nsd"] < 1
    assert set(json.loads(files["summary.json"].read_text())["mean"]) == {"1", "2"}
    for name in files:
        assert str(files[name]) in outcome.out
    medunet_command("evaluate", good, labels, "--json-file", files["scores.json"]).check_refused("exists already")


def test_json_on_stdout_is_json_alone(medunet_command: Command, sets: tuple[Path, Path, Path]) -> None:
    good, _, labels = sets
    outcome = medunet_command("evaluate", good, labels, "--json", "--surface", "voxels")
    assert json.loads(outcome.out)["num_cases"] == 6


def test_lesions(medunet_command: Command, sets: tuple[Path, Path, Path]) -> None:
    good, _, labels = sets
    outcome = medunet_command("evaluate", good, labels, "--instances")
    assert "sensitivity" in outcome.out
    content = json.loads(medunet_command("evaluate", good, labels, "--instances", "--json").out)
    assert [row["num_found"] for row in content["instances"]["summary"]] == [6, 6]
    assert json.loads(medunet_command("evaluate", good, labels, "--json").out)["instances"]["cases"] == []


def test_another_grid(medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, _, labels = sets
    array = np.ones((1, 5, 6, 7), np.uint8)
    write_nifti_labels(Volume(array, np.diag([2.0, 2.0, 4.0, 1.0])), tmp_path / "mask.nii.gz")
    files = (tmp_path / "mask.nii.gz", labels / "p0.nii.gz")
    medunet_command("evaluate", *files).check_refused("different grids", "10x12x14", "5x6x7", "--resample")
    assert medunet_command("evaluate", *files, "--resample").exit_code == 0


def test_page_with_scans_below_the_contours(
    medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    good, _, labels = sets
    page, scores = tmp_path / "scores.html", tmp_path / "scores.csv"
    outcome = medunet_command("evaluate", good, labels, "--html", page, "-o", scores)
    assert outcome.exit_code == 0, outcome.err
    assert f"Written: {page}" in outcome.out
    found = Page(page.read_text())
    found.check_is_closed()
    assert str(tmp_path) not in found.source
    rows = {(row["case"], row["label"]): row["dice"] for row in csv.DictReader(scores.read_text().splitlines())}
    for row in found.find_table("case", "label", "status")[1:]:
        assert float(row[3]) == pytest.approx(float(rows[row[0], row[1]]), abs=0.0005)
    images = [attributes for tag, attributes in found.elements if tag == "img"]
    assert sum("contours" in str(image["alt"]) for image in images) == 5
    medunet_command("evaluate", good, labels, "--html", page).check_refused("exists already")
    medunet_command("evaluate", good, labels, "--html", tmp_path / "a.txt").check_refused("ending in .html")
    medunet_command("evaluate", good, labels, "--html", page, "-o", page, "--overwrite").check_refused(
        "different names"
    )


def test_page_of_a_comparison(medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    page, numbers = tmp_path / "compared.html", tmp_path / "compared.csv"
    outcome = medunet_command("compare", *sets, "--html", page, "-o", numbers, "--agreement")
    assert outcome.exit_code == 0, outcome.err
    found = Page(page.read_text())
    found.check_is_closed()
    shown = [row for table in found.find_tables("label", "set") for row in table[1:]]
    written = list(csv.DictReader(numbers.read_text().splitlines()))
    assert [row[0] for row in shown] == [row["label"] for row in written]
    assert [float(row[6]) for row in shown] == pytest.approx(
        [float(row["mean_difference"]) for row in written], abs=0.0051
    )
    assert "good and worse" in " ".join(found.text)
    medunet_command("compare", *sets, "--html", page).check_refused("exists already")


def write_scans(folder: Path, *, flipped: bool = False, num_cases: int = 6) -> Path:
    """Of the masks' grid; or the same voxels with the first axis the other way round."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    if flipped:
        affine[0] = [-1.0, 0, 0, 9.0]
    array = np.arange(10 * 12 * 14, dtype=np.float32).reshape(1, 10, 12, 14)
    for case in range(num_cases):
        write_nifti_image(Volume(array[:, ::-1] if flipped else array, affine), folder / f"p{case}.nii.gz")
    return folder


@pytest.fixture
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pixels take long."""
    monkeypatch.setattr(figure, "_DPI", 20)


@pytest.mark.usefixtures("quick_pictures")
def test_pictures_of_scans_along_other_axes_are_the_same(
    medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    good, _, labels = sets
    for name, is_flipped in (("plain", False), ("flipped", True)):
        scans = write_scans(tmp_path / f"scans-{name}", flipped=is_flipped)
        files = (good / "p1.nii.gz", labels / "p1.nii.gz")
        outcome = medunet_command("evaluate", *files, "--images", scans, "--pictures", tmp_path / name)
        assert outcome.exit_code == 0, outcome.err
    assert (tmp_path / "plain" / "p1.png").read_bytes() == (tmp_path / "flipped" / "p1.png").read_bytes()


@pytest.mark.usefixtures("quick_pictures")
def test_scans_may_be_folders_of_dicom_slices(medunet_command: Command, tmp_path: Path) -> None:
    build_series().write(tmp_path / "scans" / "p0")
    scan = read_volume(tmp_path / "scans" / "p0")
    for name in ("masks", "labels"):
        array = np.zeros((1, *scan.spatial_shape), np.uint8)
        array[0, 2:5, 2:5, 1:3] = 1
        write_nifti_labels(scan.with_array(array), tmp_path / name / "p0.nii.gz")
    outcome = medunet_command(
        "evaluate", tmp_path / "masks", tmp_path / "labels", "--images", tmp_path / "scans", "--pictures", tmp_path
    )
    assert outcome.exit_code == 0, outcome.err
    assert (tmp_path / "p0.png").is_file()


@pytest.mark.usefixtures("quick_pictures")
def test_what_is_in_the_way_of_pictures_is_said_before_scoring(
    medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    good, _, labels = sets
    scans = write_scans(tmp_path / "scans", num_cases=5)
    scores = tmp_path / "scores.csv"
    command = ("evaluate", good, labels, "-o", scores, "--images", scans, "--pictures", tmp_path)
    medunet_command(*command).check_refused("no scan of case 'p5'")
    write_scans(scans)
    (tmp_path / "p3.png").write_bytes(b"")
    medunet_command(*command).check_refused("p3.png", "exists already")
    assert not scores.exists()


@pytest.mark.usefixtures("quick_pictures")
def test_a_scan_that_does_not_fit_costs_its_own_picture(
    medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    good, _, labels = sets
    for case in range(3, 6):
        (labels / f"p{case}.nii.gz").unlink()
    scans = write_scans(tmp_path / "scans", num_cases=3)
    write_nifti_image(Volume(np.zeros((1, 4, 5, 6), np.float32), np.eye(4)), scans / "p1.nii.gz")
    outcome = medunet_command("evaluate", good, labels, "--images", scans, "--pictures", tmp_path / "out")
    outcome.check_refused("1 case(s) have no picture", "The scan of case 'p1'")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p0.png", "p2.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tolerance", "wide"), "expected millimetres"),
        (("--tolerance", "-1"), "expected a number from 0 on"),
        (("--tolerance", "liver=2", "--task", "hippocampus-mr"), "names the label 'liver'"),
        (("--surface", "mesh"), "expected elements or voxels"),
        (("--beta", "0"), "expected a positive number"),
        (("--map", "a=b", "--task", "hippocampus-mr"), "names a label that task"),
        (("--map", "nonsense=liver"), "name the task with --task"),
        (("--map", "nonsense=anterior", "--task", "hippocampus-mr"), "'nonsense', which no mask and no reference has"),
        (("--tolerance", "labell 1=1"), "'labell 1', which no reference has; expected one of label 1, label 2"),
    ],
)
def test_wrong_options_are_refused(
    medunet_command: Command, sets: tuple[Path, Path, Path], options: tuple[str, ...], words: str
) -> None:
    good, worse, labels = sets
    medunet_command("evaluate", good, labels, *options).check_refused(words)
    medunet_command("compare", good, worse, labels, *options).check_refused(words)


def test_a_name_that_no_file_has_costs_no_results(
    medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Which names there are is known when all files are read."""
    good, worse, labels = sets
    for command, paths in (("evaluate", (good, labels)), ("compare", (good, worse, labels))):
        table, content = tmp_path / command / "table.csv", tmp_path / command / "all.json"
        outcome = medunet_command(command, *paths, "-o", table, "--json-file", content, "--tolerance", "labell 1=1")
        outcome.check_refused("'labell 1', which no reference has")
        assert "NSD" in outcome.out
        assert "label 1" in table.read_text()
        assert json.loads(content.read_text())["num_cases"] == 6


TOLERANT_TASK = {
    "name": "bars",
    "title": "Bars",
    "modality": "MR",
    "channels": ["mr"],
    "labels": {"one": 1, "two": 2},
    "intensity": "zscore",
    "tolerances_mm": {"one": 1.5, "two": 4},
}


@pytest.mark.parametrize(
    ("options", "tolerances"),
    [
        ((), {"one": "1.5", "two": "4"}),
        (("--tolerance", "3"), {"one": "3", "two": "3"}),
        (("--tolerance", "one=1"), {"one": "1", "two": "4"}),
    ],
)
def test_tolerances_of_the_task_hold_where_none_is_given(
    medunet_command: Command,
    sets: tuple[Path, Path, Path],
    tmp_path: Path,
    options: tuple[str, ...],
    tolerances: dict[str, str],
) -> None:
    good, _, labels = sets
    (tmp_path / "bars.yaml").write_text(json.dumps(TOLERANT_TASK))  # which is YAML, too
    table = tmp_path / "scores.csv"
    outcome = medunet_command("evaluate", good, labels, "--task", tmp_path / "bars.yaml", "-o", table, *options)
    assert outcome.exit_code == 0, outcome.err
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {(row["label"], row["tolerance_mm"]) for row in rows} == set(tolerances.items())


def test_one_file_for_two_results_is_refused(
    medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    good, _, labels = sets
    same = tmp_path / "same"
    medunet_command("evaluate", good, labels, "-o", same, "--json-file", same).check_refused("different names")


# ---- compare -----------------------------------------------------------------------------------------------------------


def test_two_sets_side_by_side(medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    outcome = medunet_command(
        "compare",
        *sets,
        "-o",
        tmp_path / "out" / "table.csv",
        "--json-file",
        tmp_path / "out" / "all.json",
        "--agreement",
    )
    assert outcome.exit_code == 0, outcome.err
    for word in ("p (Holm)", "keeps its place", "Agreement of good and worse"):
        assert word in outcome.out
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines()))
    assert {(row["metric"], row["label"]) for row in rows} == {
        (metric, label) for metric in ("dice", "nsd", "hd95_mm") for label in ("mean of labels", "label 1", "label 2")
    }
    dice = next(row for row in rows if row["metric"] == "dice" and row["label"] == "label 1")
    assert (dice["first"], dice["second"], dice["num_cases"]) == ("good", "worse", "6")
    assert float(dice["mean_difference"]) > 0.2
    assert float(dice["p_value"]) == pytest.approx(0.03125, abs=0.01)  # six of one sign, some of them equal
    content = json.loads((tmp_path / "out" / "all.json").read_text())
    assert content["rankings"][0]["order"] == ["good", "worse"]
    assert content["rankings"][0]["stability"] == 1.0
    good, worse, labels = sets
    (between,) = (get_means(rows) for rows in content["agreement"].values())
    assert list(content["agreement"]) == ["good and worse"]
    assert between == {key: pytest.approx(mean) for key, mean in evaluate(medunet_command, worse, good).items()}
    assert all(abs(between[key] - mean) > 0.01 for key, mean in evaluate(medunet_command, good, labels).items())


def evaluate(medunet_command: Command, masks: Path, references: Path) -> dict[tuple[str, str], float]:
    content = json.loads(medunet_command("evaluate", masks, references, "--json").out)
    return get_means([row for row in content["summary"] if row["metric"] in ("dice", "nsd", "hd95_mm")])


def get_means(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["label"], row["metric"]): row["mean"] for row in rows}


@pytest.mark.parametrize("options", [("--tolerance", "9"), ("--surface", "voxels")])
def test_sets_are_measured_as_asked(
    medunet_command: Command, sets: tuple[Path, Path, Path], options: tuple[str, ...]
) -> None:
    means = [
        get_means(
            json.loads(medunet_command("compare", *sets, "--metrics", "nsd", "--json", *given).out)["sets"]["worse"]
        )
        for given in ((), options)
    ]
    usual, asked = (of_run["label 1", "nsd"] for of_run in means)
    assert usual < 0.9
    if options[0] == "--tolerance":
        assert asked == 1.0  # no end is further off than 8 mm
    else:
        assert abs(asked - usual) > 0.01


def test_sets_on_other_grids_are_interpolated_if_asked(medunet_command: Command, sets: tuple[Path, Path, Path]) -> None:
    array = np.ones((1, 5, 6, 7), np.uint8)
    write_nifti_labels(Volume(array, np.diag([2.0, 2.0, 4.0, 1.0])), sets[0] / "p0.nii.gz")
    medunet_command("compare", *sets).check_refused("good: p0", "different grids")
    outcome = medunet_command("compare", *sets, "--resample", "--json")
    assert outcome.exit_code == 0, outcome.err
    assert json.loads(outcome.out)["num_cases"] == 6


def test_progress_counts_every_pair_that_is_scored(
    medunet_command: Command, sets: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sets of six, and one pair of sets as raters."""
    seen: list[object] = []

    class Recorder(CaseProgress):
        def __init__(self, stage: str, num_cases: int) -> None:
            super().__init__(stage, num_cases)
            seen.append((stage, num_cases))

        def on_case(self, case_id: str) -> None:
            seen.append(case_id)

    monkeypatch.setattr(case_progress, "CaseProgress", Recorder)
    assert medunet_command("compare", *sets, "--agreement").exit_code == 0
    assert seen == [("scoring", 18), *[f"p{case}" for case in range(6)] * 3]


def test_the_picture_of_differences(medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "differences.png"
    outcome = medunet_command("compare", *sets, "--picture", picture)
    assert f"Written: {picture}" in outcome.out
    with Image.open(picture) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**24)}
    assert (0, 0x72, 0xB2) in colours  # dots and intervals
    medunet_command("compare", *sets, "--picture", tmp_path / "x.jpg").check_refused("ending in .png")


def test_chosen_metrics(medunet_command: Command, sets: tuple[Path, Path, Path]) -> None:
    content = json.loads(medunet_command("compare", *sets, "--metrics", "volume_error_ml, recall", "--json").out)
    assert {row["metric"] for row in content["differences"]} == {"volume_error_ml", "recall"}
    medunet_command("compare", *sets, "--metrics", "dise").check_refused("expected some of dice")


def test_recall_counts_as_much_as_asked(medunet_command: Command, sets: tuple[Path, Path, Path]) -> None:
    """With 1 the F-beta is the Dice, with the default it is not."""
    means = {}
    for options in (("--beta", "1"), ()):
        outcome = medunet_command("compare", *sets, "--metrics", "dice,f_beta", *options, "--json")
        rows = json.loads(outcome.out)["sets"]["good"]
        means[options] = [row["mean"] for row in rows if row["label"] == "label 1"]
    assert means["--beta", "1"][0] == pytest.approx(means["--beta", "1"][1])
    assert means[()][0] != pytest.approx(means[()][1], abs=0.01)


def test_advice_and_cases_that_no_set_has(
    medunet_command: Command, sets: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """One set misses a structure, both lack the mask of a case."""
    _, worse, labels = sets
    (labels / "p9.nii.gz").write_bytes((labels / "p0.nii.gz").read_bytes())
    write_nifti_labels(Volume(np.zeros((1, 10, 12, 14), np.uint8), np.diag([1.0, 1.0, 2.0, 1.0])), worse / "p0.nii.gz")
    page = tmp_path / "page.html"
    outcome = medunet_command("compare", *sets, "--html", page)
    assert outcome.exit_code == 0, outcome.err
    missed = "worse: label 1 (missed in 1 of 6), label 2 (missed in 1 of 6): missed structures count as Dice 0"
    for words in ("note: 6 case(s): bootstrap", f"note: {missed}", "warning: case p9 is not scored in any set"):
        assert outcome.out.count(words) == 1, words
    shown = " ".join(Page(page.read_text()).text)
    for words in ("6 case(s): bootstrap intervals", missed, "case p9 is not scored in any set"):
        assert words in shown
    content = json.loads(medunet_command("compare", *sets, "--json").out)
    assert content["advice"][0].startswith("6 case(s)")
    assert content["advice"][1].startswith(missed)
    assert content["left_out"] == ["case p9 is not scored in any set"]


def test_what_cannot_be_compared(medunet_command: Command, sets: tuple[Path, Path, Path]) -> None:
    good, _, labels = sets
    medunet_command("compare", good, labels).check_refused("expected two or more sets of masks and then the references")
    medunet_command("compare", good, good, labels).check_refused("expected different folders")


def test_sets_of_one_name_get_the_folder_before(medunet_command: Command, tmp_path: Path) -> None:
    sets = [write_masks(tmp_path / name / "masks", width) for name, width in (("a", 5), ("b", 6))]
    labels = write_masks(tmp_path / "labels", 8)
    content = json.loads(medunet_command("compare", *sets, labels, "--json").out)
    assert content["names"] == ["a/masks", "b/masks"]


def test_a_case_that_fails_in_one_set_is_named(medunet_command: Command, sets: tuple[Path, Path, Path]) -> None:
    (sets[1] / "p3.nii.gz").write_bytes(b"text")
    outcome = medunet_command("compare", *sets)
    outcome.check_refused("1 case(s) could not be scored", "worse: p3")
    assert "case p3 is not scored in worse" in outcome.out
