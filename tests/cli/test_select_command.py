"""``medunet select`` through its real entry point."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_runs import COARSE_PLAN, write_blobs, write_network, write_run
from oracles import Outcome

from medunet.models import read_model

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and two cross-validations."""
    folder = tmp_path_factory.mktemp("select")
    write_blobs(folder / "data")
    write_run(folder / "fine", seed=0)
    write_run(folder / "coarse", plan=COARSE_PLAN, seed=1)
    return folder


@pytest.fixture
def select(medunet_command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    def call(*options: object, runs: tuple[str, ...] = ("fine", "coarse"), data: str = "data") -> Outcome:
        paths = [folder / name for name in runs]
        return medunet_command("select", *paths, "--data", folder / data, "--device", "cpu", *options)

    monkeypatch.setattr("medunet.training.report._draw", lambda *arguments: [])  # pictures take most of the time
    return call


def test_a_table_of_all_candidates_and_the_model_of_the_best(select: Command, tmp_path: Path) -> None:
    outcome = select("-o", tmp_path / "model")
    assert (outcome.exit_code, outcome.errors) == (0, [])
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    rows = {line.strip().split("  ")[0]: line.strip() for line in outcome.out.splitlines() if "–" in line}
    assert list(rows) == ["fine", "coarse", "fine + coarse"]
    for entry in metrics["candidates"]:
        low, high = entry["interval_95"]
        cells = rows[entry["name"]].removeprefix(entry["name"]).split()
        expected = [f"{entry['mean_dice']:.4f}", f"{low:.3f}–{high:.3f}", str(entry["num_cases"])]
        labels = [f"{entry['labels'][name]:.3f}" for name in ("left", "right")]
        assert cells == [str(entry["num_networks"]), *expected, *labels]
    (best,) = [entry for entry in metrics["candidates"] if entry["is_chosen"]]
    assert f"Best: {best['name']}: " in outcome.out
    assert f"Model: {tmp_path / 'model'}\n" in outcome.out
    assert len(read_model(tmp_path / "model").members) == best["num_networks"]


def test_pairs_can_be_left_out(select: Command, tmp_path: Path) -> None:
    outcome = select("-o", tmp_path / "model", "--no-ensembles")
    assert outcome.exit_code == 0, outcome.err
    assert "fine + coarse" not in outcome.out
    assert "Comparing 2 runs and 0 pair(s) on 3 cases of data" in outcome.out


def test_the_model_is_used_like_any_other(
    select: Command, medunet_command: Command, folder: Path, tmp_path: Path
) -> None:
    assert select("-o", tmp_path / "model").exit_code == 0
    scan = folder / "data" / "images" / "case_0.nii.gz"
    outcome = medunet_command("infer", scan, "-o", tmp_path / "mask.nii.gz", "--model", tmp_path / "model")
    assert (outcome.exit_code, outcome.errors) == (0, [])
    assert (tmp_path / "mask.nii.gz").is_file()


def test_row_67_a_faulty_case_is_counted(select: Command, folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder / "data", folder / "broken")
    image = broken / "images" / "case_2.nii.gz"
    image.write_bytes(image.read_bytes()[:80])
    outcome = select("-o", tmp_path / "model", data="broken")
    assert outcome.exit_code == 0, outcome.err
    assert "1 case(s) could not be scored and are in no mean; metrics.json says why." in outcome.out
    assert outcome.err.count("case_2") == 2  # the case, and its file in the reason


def test_what_cannot_be_compared_is_refused(select: Command, folder: Path, tmp_path: Path) -> None:
    write_network(folder / "alone")
    write_run(folder / "other", folds=(("case_0", "case_1"), ("case_2",)))
    select("-o", tmp_path / "model", runs=("fine", "alone")).check_refused("alone is a single model", "--fold cv")
    select("-o", tmp_path / "model", runs=("fine", "other")).check_refused("The folds differ", "case_2")
    select("-o", tmp_path / "model", runs=("fine",)).check_refused("There is 1 run to compare")
    select("-o", folder / "fine").check_refused("lies within a run that is compared", "--output")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("missing", ["--data", "--output"])
def test_data_and_output_are_needed(medunet_command: Command, folder: Path, tmp_path: Path, missing: str) -> None:
    options = {"--data": folder / "data", "--output": tmp_path / "model"}
    given = [part for name, value in options.items() if name != missing for part in (name, value)]
    outcome = medunet_command("select", folder / "fine", folder / "coarse", *given)
    assert outcome.exit_code == 2
    assert missing in outcome.err
