"""``medunet plan`` through its real entry point."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracles import Outcome

from medunet.io import write_nifti_image, write_nifti_labels
from medunet.planning import Fingerprint, MemoryTarget, Plan, build_plan, compute_fingerprint
from medunet.tasks import load_task, read_dataset
from medunet.volume import Volume

Command = Callable[..., Outcome]
SHAPE = (30, 40, 28)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cases for hippocampus-mr."""
    for number, name in enumerate(("p1", "p2")):
        image = np.random.default_rng(number).normal(300, 50, SHAPE).astype(np.float32)
        labels = np.zeros(SHAPE, np.uint8)
        labels[5:15, 5:15, 5:15], labels[5:15, 15:25, 5:15] = 1, 2
        volume = Volume(image[None], np.diag([1.0, 1.0, 1.0, 1.0]))
        write_nifti_image(volume, tmp_path / "data" / "images" / f"{name}.nii.gz")
        write_nifti_labels(volume.with_array(labels[None]), tmp_path / "data" / "labels" / f"{name}.nii.gz")
    return tmp_path / "data"


@pytest.fixture
def plan(medunet_command: Command, folder: Path) -> Command:
    def call(*options: object) -> Outcome:
        return medunet_command("plan", "--data", folder, "--task", "hippocampus-mr", *options)

    return call


def measure(folder: Path) -> Fingerprint:
    return compute_fingerprint(read_dataset(folder).cases, load_task("hippocampus-mr"))


def test_fingerprint_and_plan_with_every_reason(plan: Command, folder: Path) -> None:
    outcome = plan("--budget", "full", "--configuration", "3d")
    assert (outcome.exit_code, outcome.err) == (0, "")
    flat = " ".join(outcome.out.split())
    expected = build_plan(measure(folder), load_task("hippocampus-mr"), MemoryTarget(), "3d")
    assert all(" ".join(reason.split()) in flat for reason in expected.reasons.values())
    assert "Dataset: 2 case(s)" in flat
    assert "posterior 2 1" in flat  # 1 ml in both
    assert "Plan for task hippocampus-mr configuration 3d why: as asked for spacing 1x1x1 mm" in flat


def test_the_memory_of_inference_is_said(plan: Command) -> None:
    (line,) = [line for line in plan("--budget", "10it").out.splitlines() if line.startswith("Inference of a scan")]
    assert line.startswith("Inference of a scan of 30x40x28 voxels takes about 0.")
    for word in ("program", "scan", "weights"):
        assert word in line


def test_json_holds_what_the_functions_give(plan: Command, folder: Path, tmp_path: Path) -> None:
    written = tmp_path / "plan.json"
    assert plan("--budget", "full", "--preset", "M", "-c", "2d", "--json-file", written).exit_code == 0
    printed = plan("--budget", "full", "--preset", "M", "-c", "2d", "--json")
    content = json.loads(written.read_text())
    assert json.loads(printed.out) == content
    fingerprint = measure(folder)
    assert Fingerprint.model_validate(content["fingerprint"]) == fingerprint
    expected = build_plan(fingerprint, load_task("hippocampus-mr"), MemoryTarget(preset="M"), "2d")
    expected = expected.model_copy(update={"reasons": {"configuration": "as asked for"} | expected.reasons})
    assert {name: Plan.model_validate(one) for name, one in content["plans"].items()} == {"2d": expected}


def test_auto_says_why(plan: Command) -> None:
    (chosen,) = json.loads(plan("--budget", "full", "--preset", "L", "--json").out)["plans"].values()
    assert chosen["configuration"] == "3d"
    assert chosen["network"]["architecture"] == "residual-unet"
    assert "a patch covers 100% of the median case" in chosen["reasons"]["configuration"]


def test_a_budget_in_iterations_is_planned_as_training_would(plan: Command) -> None:
    import torch

    from medunet.training import TrainingSettings, parse_budget
    from medunet.training.fit_plan import fit_plans

    content = json.loads(plan("--budget", "300it", "--device", "cpu", "--json").out)
    expected = fit_plans(
        Fingerprint.model_validate(content["fingerprint"]),
        load_task("hippocampus-mr"),
        parse_budget("300it"),
        torch.device("cpu"),
        TrainingSettings(task="hippocampus-mr", budget="300it", device="cpu"),
        "32-true",
    )
    assert Plan.model_validate(content["plans"]["3d"]) == expected.main
    assert expected.locator is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "full", "--preset", "XXL"), ("--preset is 'XXL'", "XL")),
        (("--memory-gb", "0"), ("--memory-gb is 0",)),
        (("--preset", "M", "--budget", "10min"), ("--preset", "add --budget full")),
        (("--configuration", "4d"), ("--configuration is '4d'",)),
        (("--budget", "full", "-c", "cascade"), ("There is no low resolution to plan",)),
        (("--budget", "soon"), ("The budget 'soon' is not understood",)),
    ],
)
def test_what_cannot_be_planned(plan: Command, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    plan(*options).check_refused(*words)


def test_a_faulty_case_is_named(plan: Command, folder: Path) -> None:
    (folder / "labels" / "p2.nii.gz").write_bytes(b"no volume")
    plan("--budget", "full").check_refused("1 of 2 cases cannot be used", "p2.nii.gz")


def test_the_json_of_another_run_is_kept(plan: Command, tmp_path: Path) -> None:
    written = tmp_path / "plan.json"
    written.write_text("precious")
    plan("--budget", "full", "--json-file", written).check_refused("exists already")
    assert written.read_text() == "precious"
    assert plan("--budget", "full", "--json-file", written, "--overwrite").exit_code == 0
