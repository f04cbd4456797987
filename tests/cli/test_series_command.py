"""``medunet series`` through its real entry point: what lies in a folder, what speaks against it, and no magic in texts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracles import Outcome
from synthetic_series import (
    OBLIQUE,
    ORIENTATIONS,
    assert_private,
    build_enhanced,
    build_secondary_capture,
    build_segmentation,
    build_series,
    write_dicomdir,
    write_file,
    zip_folder,
)

from medunet.io import read_volume

List = Callable[..., Outcome]


@pytest.fixture
def list_series(medunet_command: Callable[..., Outcome]) -> List:
    """The command; nothing of the patient is ever printed."""

    def call(*arguments: object) -> Outcome:
        outcome = medunet_command("series", *arguments)
        assert_private(outcome.out + outcome.err)
        return outcome

    return call


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """A study as clinics export it: three series, one with a gap, and much else."""
    folder = tmp_path / "study"
    ct = build_series("CT", number=3, description="Becken 5 mm", directions=ORIENTATIONS["axial"])
    ct.write(folder / "a")
    build_series("PT", number=5, description="PET WB", like=ct).drop(3).write(folder / "b")
    build_series("MR", number=12, description="t2 tse", directions=ORIENTATIONS["sagittal"]).write(folder / "c" / "d")
    write_file(build_secondary_capture(ct, in_series=False), folder / "screenshot")
    write_file(build_segmentation(ct), folder / "seg.dcm")
    (folder / "readme.txt").write_text("x")
    (folder / ".DS_Store").write_text("x")
    return folder


def parse_rows(out: str) -> list[list[str]]:
    """The cells of the table, without its head."""
    rows = [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
    return [row for row in rows if len(row) == 8 and row[0] != "series"]


# ---- the table ---------------------------------------------------------------------------------------------------------


def test_rows_7_8_9_10_a_study_is_listed_with_all_that_is_odd(list_series: List, clinic: Path) -> None:
    outcome = list_series(clinic)
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert parse_rows(outcome.out) == [
        ["3", "CT", "8", "9x7x8", "1.3x0.8x2.5", "LPS", "yes", "Becken 5 mm"],
        ["5", "PT", "7", "-", "-", "-", "no", "PET WB"],
        ["12", "MR", "8", "9x7x8", "1.3x0.8x2.5", "PIR", "yes", "t2 tse"],
    ]
    said = outcome.out[outcome.out.rindex("t2 tse") :].splitlines()[1:]
    problems = [line for line in said if line.startswith("series 5:")]
    assert len(problems) == 1
    assert "gap of 5.00 mm" in problems[0]
    assert "--allow-gaps" in problems[0]
    assert any("Secondary Capture" in line and line.startswith("1 file(s)") for line in said)
    assert any("a SEG object" in line for line in said)
    assert any("2 file(s) that are no DICOM files were ignored" in line for line in said)


def test_gaps_may_be_allowed(list_series: List, clinic: Path) -> None:
    rows = parse_rows(list_series(clinic, "--allow-gaps").out)
    assert [row[6] for row in rows] == ["yes", "yes", "yes"]
    assert rows[1][3] == "9x7x8"  # the grid that the seven slices are resampled to


def test_the_table_says_what_is_read(list_series: List, tmp_path: Path) -> None:
    for number, (name, directions) in enumerate(ORIENTATIONS.items()):
        folder = build_series(number=number, directions=directions, shape=(4, 5, 3)).write(tmp_path / name)
        ((_, _, _, size, _, axes, _, _),) = parse_rows(list_series(folder).out)
        volume = read_volume(folder)
        assert size == "x".join(map(str, volume.spatial_shape))
        assert axes == volume.orientation


def test_several_volumes_at_one_place_are_a_problem(list_series: List, tmp_path: Path) -> None:
    folder = build_enhanced("MR", volumes=2).write(tmp_path / "twin")
    outcome = list_series(folder)
    assert parse_rows(outcome.out)[0][2:7] == ["16", "-", "-", "-", "no"]
    assert "--volume-index" in outcome.out


def test_the_table_fits_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medunet.cli.series import series

    folder = build_series(description="a very long description " * 2, directions=OBLIQUE).write(tmp_path / "s")
    monkeypatch.setenv("COLUMNS", "80")
    series(folder)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("description") == 3  # the head, and both in the folded cell


# ---- texts of strangers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "description",
    [
        "[red]bold[/red]",
        "[/]",
        "[link=http://x]y[/link]",
        ":warning: :x:",
        "a\\",
        "\\[b]",
        "Größe 体积",
        "<script>alert(1)</script>",
        "%s {0} $(rm)",
    ],
)
def test_row_41_descriptions_are_inert(list_series: List, tmp_path: Path, description: str) -> None:
    folder = build_series(description=description).write(tmp_path / "s")
    assert parse_rows(list_series(folder).out)[0][7] == description
    document = json.loads(list_series(folder, "--json").out)
    assert document["series"][0]["description"] == description


def test_row_41_control_characters_do_not_reach_the_terminal(list_series: List, tmp_path: Path) -> None:
    folder = build_series(description="t2\x1b[31m\x07\x08 tse\r\n").write(tmp_path / "s")
    for outcome in (list_series(folder), list_series(folder, "--json")):
        assert not set(outcome.out) & {"\x1b", "\x07", "\x08", "\r"}
        assert "tse" in outcome.out


@pytest.mark.parametrize("name", ["[red]", ":x:", "a b", "ü", "\x1b[31m"])
def test_row_41_folder_names_are_inert(list_series: List, tmp_path: Path, name: str) -> None:
    folder = build_series().drop(3).write(tmp_path / name)
    outcome = list_series(folder)
    assert outcome.exit_code == 0
    assert "\x1b" not in outcome.out
    assert f"/{name}/IM".replace("\x1b", "?") in outcome.out


# ---- JSON --------------------------------------------------------------------------------------------------------------


def test_json_holds_all_that_is_known(list_series: List, clinic: Path) -> None:
    outcome = list_series(clinic, "--json")
    assert (outcome.exit_code, outcome.err) == (0, "")
    document = json.loads(outcome.out)
    assert set(document) == {"num_files", "notes", "series"}
    assert document["num_files"] == 27
    assert len(document["notes"]) == 3
    ct, pet, mr = document["series"]
    assert set(ct) == {
        "uid", "number", "modality", "description", "num_slices", "shape", "spacing_mm", "orientation", "is_usable",
        "problems",
    }  # fmt: skip
    assert (ct["number"], ct["modality"], ct["num_slices"], ct["shape"]) == (3, "CT", 8, [9, 7, 8])
    assert ct["spacing_mm"] == pytest.approx([1.3, 0.8, 2.5])
    assert (ct["orientation"], ct["is_usable"], ct["problems"]) == ("LPS", True, [])
    assert (pet["shape"], pet["spacing_mm"], pet["orientation"], pet["is_usable"]) == (None, None, "", False)
    assert "gap of 5.00 mm" in pet["problems"][0]
    assert mr["uid"].startswith("1.2.826.")
    chosen: Any = read_volume(clinic, series=mr["uid"])  # what is listed can be chosen
    assert chosen.orientation == "PIR"


# ---- other sources -----------------------------------------------------------------------------------------------------


def test_a_zip_a_dicomdir_and_single_files_are_listed(list_series: List, clinic: Path, tmp_path: Path) -> None:
    def rows(path: Path) -> list[list[str]]:
        outcome = list_series(path)
        assert (outcome.exit_code, outcome.err) == (0, "")
        return parse_rows(outcome.out)

    assert rows(zip_folder(clinic, tmp_path / "study.zip")) == rows(clinic)
    write_dicomdir(build_series(number=7), tmp_path / "media")
    assert rows(tmp_path / "media" / "DICOMDIR") == rows(tmp_path / "media")
    build_enhanced("CT", number=8).write(tmp_path / "enhanced")
    assert rows(tmp_path / "enhanced" / "enhanced.dcm")[0][:4] == ["8", "CT", "8", "9x7x8"]
    a_slice = next((clinic / "a").iterdir())
    assert rows(a_slice)[0][:4] == ["3", "CT", "1", "9x7x1"]
    assert "one slice" in list_series(a_slice).out


def test_row_18_cut_files_are_named(list_series: List, tmp_path: Path) -> None:
    folder = build_series().write(tmp_path / "s")
    first, second = sorted(folder.iterdir())[:2]
    first.write_bytes(first.read_bytes()[:-20])
    second.write_bytes(second.read_bytes()[:500])
    outcome = list_series(folder)
    assert outcome.exit_code == 0
    assert parse_rows(outcome.out)[0][6] == "no"
    for path in (first, second):
        assert any(str(path) in line and "cut short" in line for line in outcome.out.splitlines())


def write_nothing(path: Path) -> None:
    path.mkdir()


def write_hidden(path: Path) -> None:
    path.mkdir()
    (path / ".DS_Store").write_text("x")


def write_text(path: Path) -> None:
    path.write_text("dear radiologist")


def write_empty(path: Path) -> None:
    path.touch()


def write_broken_zip(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(40))


def write_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (None, ["does not exist"]),
        (os.mkfifo, ["pipe"]),
        (write_link, ["gone"]),
        (write_nothing, ["No DICOM images", "0 files seen"]),
        (write_hidden, ["No DICOM images", "1 files seen"]),
        (write_text, ["No DICOM images", "1 files seen"]),
        (write_empty, ["No DICOM images"]),
        (write_broken_zip, []),
    ],
)
def test_rows_26_35_what_holds_no_series_is_one_line(
    list_series: List, tmp_path: Path, write: Callable[[Path], None] | None, words: list[str]
) -> None:
    path = tmp_path / "in.put"
    if write is not None:
        write(path)
    for options in ([], ["--json"]):
        outcome = list_series(path, *options)
        outcome.check_refused("in.put", *words)
        assert outcome.out == ""


def test_row_39_a_zip_that_leads_outside_is_refused(list_series: List, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil.dcm", b"\0" * 128 + b"DICM")
    list_series(tmp_path / "evil.zip").check_refused("evil.zip", "outside")
