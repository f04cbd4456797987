"""From phantoms to scores through the command line, as a new user goes: plan, train, infer, evaluate."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracles import Outcome

import medunet
from medunet.io import read_label_map, read_volume
from medunet.models import SYNTHETIC_WARNING, read_model
from medunet.phantoms import write_phantom_dataset
from medunet.planning import Effort

MODEL_FILES = {"card.md", "metrics.json", "plan.json", "task.json", "training.json", "weights.safetensors"}
RUN_FILES = MODEL_FILES | {
    *("postprocessing.json", "quality.json", "speed.json", "log.csv", "report.html", "validation.png"),
    *("state/settings.json", "state/state.safetensors"),
}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "hippocampus"
    write_phantom_dataset("hippocampus-mr", folder, num_cases=6, seed=3, num_workers=1)
    return folder


@pytest.mark.parametrize(("configuration", "num_iterations", "least_dice"), [("3d", 120, 0.5), ("2d", 100, 0.2)])
def test_from_phantoms_to_scores(
    medunet_command: Callable[..., Outcome],
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    configuration: str,
    num_iterations: int,
    least_dice: float,
) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=2 * 24**3, features=8))
    monkeypatch.setattr("medunet.training.loop._REPORT_SECONDS", 0.0)

    run = tmp_path / "home" / "first run"
    outcome = medunet_command(
        "train", "--task", "hippocampus-mr", "--data", phantoms, "--output", run, "--budget", f"{num_iterations}it",
        "--configuration", configuration, "--device", "cpu",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.err
    assert outcome.err.splitlines() == [f"warning: {SYNTHETIC_WARNING}"]
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("tensorboard/events.out.tfevents")}
    assert files == RUN_FILES | events
    assert len(events) == 3  # curves; parameters; scores and pictures
    assert sum((run / name).stat().st_size for name in events) > 1000

    rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert len(losses) == num_iterations + 1
    assert losses[-1] < losses[0]
    assert sum(bool(row["validation_dice"]) for row in rows) == 3

    model = read_model(run)
    assert model.training.num_iterations == num_iterations
    assert model.training.is_synthetic
    assert SYNTHETIC_WARNING in (run / "card.md").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["mean_dice"] > least_dice

    # The model is found by itself; the masks lie on the scans' grids; scoring them gives what training said.
    held_out = model.training.validation_cases
    scans, references = tmp_path / "scans", tmp_path / "references"
    for folder, source in ((scans, "imagesTr"), (references, "labelsTr")):
        folder.mkdir()
        for case_id in held_out:
            (folder / f"{case_id}.nii.gz").write_bytes((phantoms / source / f"{case_id}.nii.gz").read_bytes())
    outcome = medunet_command("infer", scans, "-o", tmp_path / "masks", "--device", "cpu")
    assert outcome.exit_code == 0, outcome.err
    for case_id in held_out:
        scan = read_volume(scans / f"{case_id}.nii.gz")
        mask = read_label_map(tmp_path / "masks" / f"{case_id}.nii.gz")
        assert mask.spatial_shape == scan.spatial_shape
        assert np.array_equal(mask.affine, scan.affine)

    outcome = medunet_command(
        "evaluate", tmp_path / "masks", references, "-o", tmp_path / "scores.csv", "-t", "hippocampus-mr"
    )
    assert outcome.exit_code == 0, outcome.err
    scores = medunet.evaluate(tmp_path / "masks", references, task="hippocampus-mr")
    assert scores.mean_dice == pytest.approx(metrics["mean_dice"], abs=1e-6)
    table = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert len(table) == 2 * len(held_out)

    # The same model from Python.
    mask = medunet.load(run, device="cpu").segment(scans / f"{held_out[0]}.nii.gz").labels
    assert np.array_equal(mask.array, read_label_map(tmp_path / "masks" / f"{held_out[0]}.nii.gz").array)

    outcome = medunet_command("train", "-t", "hippocampus-mr", "-d", phantoms, "-o", run, "--budget", "1it")
    outcome.check_refused("holds a model already")


def test_without_data_the_embedded_phantoms_are_used(
    medunet_command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path))
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=2 * 16**3, features=4))
    monkeypatch.setattr("medunet.training.experiment.NUM_PHANTOMS", 2)
    write_phantom_dataset("hippocampus-mr", tmp_path / "phantoms" / "hippocampus-mr-2", num_cases=2, num_workers=1)
    outcome = medunet_command("train", "--task", "hippocampus-mr", "--budget", "2it", "--device", "cpu")
    assert outcome.exit_code == 0, outcome.err
    assert "SYNTHETIC phantoms" in outcome.out
    (folder,) = tmp_path.glob("hippocampus-mr-2*")
    assert f"Model: {folder}" in outcome.out
    assert read_model(folder).training.is_synthetic
    outcome = medunet_command("train", "--task", "hippocampus-mr", "--budget", "2it", "--fold", "all")
    assert outcome.exit_code == 0, outcome.err
    assert len(list(tmp_path.glob("hippocampus-mr-2*"))) == 2
