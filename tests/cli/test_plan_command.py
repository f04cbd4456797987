"""``medunet plan`` through its real entry point."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import Outcome

from medunet.device import choose_device, choose_precision
from medunet.io import read_label_map, write_nifti_image, write_nifti_labels
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
    precision = choose_precision(choose_device())
    reasons = {name: text for name, text in content["plans"]["2d"]["reasons"].items() if name != "precision"}
    assert content["plans"]["2d"]["reasons"]["precision"].startswith(f"{precision}: ")
    assert reasons == {"configuration": "as asked for"} | expected.reasons
    expected = expected.model_copy(update={"reasons": content["plans"]["2d"]["reasons"]})
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
        choose_precision(torch.device("cpu")),
    )
    assert Plan.model_validate(content["plans"]["3d"]) == expected.main
    assert expected.locator is None


def read_plan(outcome: Outcome, configuration: str = "3d") -> dict[str, Any]:
    assert outcome.exit_code == 0, outcome.err
    content: dict[str, Any] = json.loads(outcome.out)["plans"][configuration]
    return content


def test_the_memory_chooses_the_residual_preset(plan: Command) -> None:
    for memory_gb, preset in ((8, "M"), (24, "L"), (40, "XL")):
        chosen = read_plan(plan("--budget", "full", "--preset", "residual", "--memory-gb", memory_gb, "--json"))
        assert chosen["network"]["architecture"] == "residual-unet"
        assert chosen["reasons"]["preset"] == f"{preset}, the largest residual one for {memory_gb} GB, as stated"
        named = read_plan(plan("--budget", "full", "--preset", preset, "--memory-gb", memory_gb, "--json"))
        assert chosen["reasons"].pop("preset")
        assert chosen == named
    here = read_plan(plan("--budget", "full", "--preset", "residual", "--device", "cpu", "--json"))
    assert here["reasons"]["preset"].startswith("M, the largest residual one for the CPU")


def test_a_budget_is_that_of_each_fold(plan: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two cases give two folds, so that a fold has half of the time."""
    monkeypatch.setattr("medunet.training.fit_plan.measure_step_seconds", lambda *_: 0.1)
    for options, bought in (((), "60 min buy 36,000 steps"), (("--fold", "cv"), "30 min buy 18,000 steps")):
        reasons = read_plan(plan("--budget", "1h", "--locate", "never", *options, "--json"))["reasons"]
        assert bought in reasons["budget"]
    plan("--budget", "1h", "--fold", "4").check_refused("There is no fold 4")


def test_precision_is_that_of_the_training(plan: Command) -> None:
    reasons = read_plan(plan("--budget", "10it", "--precision", "fp32", "--json"))["reasons"]
    assert reasons["precision"] == "32-true, as asked for"


def test_what_training_begins_with_shapes_the_plan(
    plan: Command, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = write_model(tmp_path / "source", load_task("hippocampus-mr"))
    begun = read_plan(plan("--budget", "10it", "--from", source, "--json"))
    theirs = json.loads((source / "plan.json").read_text())
    assert begun["network"]["features"] == theirs["network"]["features"]
    assert begun["reasons"]["fine_tuning"].startswith("spacing, network and intensities of source")
    assert begun["reasons"]["budget"].startswith(
        "of the plan that was made for the new data, not of this one: 10 steps"
    )
    assert "fine_tuning" not in read_plan(plan("--budget", "10it", "--json"))["reasons"]


def test_no_network_locates_what_some_cases_were_not_searched_for(
    plan: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in training: where the unsearched structures are, nobody can tell a network that is to find all."""
    asked: list[bool] = []

    def locate(*_: Any) -> tuple[None, str]:
        asked.append(True)
        return None, "made up"

    monkeypatch.setattr("medunet.training.fit_plan.plan_locator", locate)
    assert read_plan(plan("--budget", "10it", "--json"))["reasons"]["locator"] == "made up"
    assert read_plan(plan("--budget", "10it", "--locate", "never", "--json"))["reasons"].get("locator") is None
    assert len(asked) == 1
    labels = read_label_map(folder / "labels" / "p1.nii.gz")
    write_nifti_labels(labels.with_array(labels.array * (labels.array == 1)), folder / "labels" / "p1.nii.gz")
    (folder / "annotated.json").write_text(json.dumps({"p1": ["anterior"]}))
    assert read_plan(plan("--budget", "10it", "--json"))["reasons"].get("locator") is None
    assert len(asked) == 1
    (folder / "annotated.json").write_text(json.dumps({"p1": ["anteror"]}))
    plan("--budget", "10it").check_refused("annotate 'anteror'", "did you mean 'anterior'")


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
