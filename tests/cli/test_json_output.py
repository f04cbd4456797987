"""``--json`` of every command: one document on stdout, true, and nothing else there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import typer.main
import yaml
from made_up_runs import CASES, TASK, write_blobs, write_run, write_scored_run
from oracles import Outcome
from synthetic_series import build_series

import medunet
from medunet.cli.app import app
from medunet.cli.terminal import print_json, to_json
from medunet.io import read_label_map, read_volume
from medunet.models import read_records
from medunet.planning import Effort
from medunet.tasks import list_tasks
from medunet.training.quantizing import Quantized
from medunet.volume import Volume

WITHOUT = {"view"}
"""Commands that print no results."""


class Place(NamedTuple):
    """Where a command finds its inputs."""

    folder: Path
    data: Path
    task: Path
    request: pytest.FixtureRequest


Line = Callable[[Place], list[object]]
Check = Callable[[Any, Place], None]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Place:
    """Three cases of two blobs, and the task that names them."""
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "runs"))
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=2 * 8**3, features=4))
    monkeypatch.setattr("medunet.training.report._draw", lambda *arguments: [])  # pictures take most of the time
    task = tmp_path / "blobs.yaml"
    content = TASK.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    task.write_text(yaml.safe_dump(content | {"intensity": "zscore"}))
    return Place(tmp_path, write_blobs(tmp_path / "data"), task, request)


def check_dataset(content: Any, place: Place) -> None:
    assert content["has_errors"] is False
    assert [case["case_id"] for case in content["cases"]] == list(CASES)
    mask = read_label_map(place.data / "labels" / "case_0.nii.gz")
    volume_ml = (mask.array == 1).sum() * mask.voxel_volume_mm3 / 1000
    assert content["cases"][0]["labels"]["left"]["volume_ml"] == pytest.approx(volume_ml)


def check_plan(content: Any, place: Place) -> None:
    (plan,) = content["plans"].values()
    assert plan["task"] == "blobs-mr"
    assert plan["network"]["out_channels"] == 3
    assert content["fingerprint"]["num_cases"] == 3


def train(place: Place) -> list[object]:
    options = ["-b", "2it", "--deterministic", "--device", "cpu", "--workers", 0, "-o", place.folder / "model"]
    return ["train", "-t", place.task, "-d", place.data, *options]


def check_training(content: Any, place: Place) -> None:
    records = read_records(place.folder / "model")
    assert content["model"] == str(place.folder / "model")
    assert (content["task"], content["num_iterations"]) == ("blobs-mr", 2)
    assert content["mean_dice"] == records.metrics["mean_dice"]
    assert content["labels"] == records.metrics["labels"]
    assert content["interval_95"] is None  # one case
    assert Path(content["report"]).is_file()


def infer(place: Place) -> list[object]:
    model = place.request.getfixturevalue("oracle_folder")
    place.request.getfixturevalue("write_densities")(
        place.folder / "scan.nii.gz", spacing=(1.0, 1.0, 1.0), shape=(9, 10, 8)
    )
    return ["infer", place.folder / "scan.nii.gz", "-o", place.folder / "mask.nii.gz", "-m", model, "--device", "cpu"]


def check_inference(content: Any, place: Place) -> None:
    (manifest,) = content
    mask = read_label_map(place.folder / "mask.nii.gz")
    assert manifest["volumes"]["bone"]["visible_ml"] == pytest.approx((mask.array == 7).sum() / 1000)


def check_evaluation(content: Any, place: Place) -> None:
    assert (content["num_cases"], content["mean_dice"]) == (3, 1.0)
    assert {row["label"] for row in content["summary"]} == {"left", "right"}


def compare(place: Place) -> list[object]:
    labels = place.data / "labels"
    other = place.folder / "other"
    other.mkdir()
    for path in labels.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    return ["compare", labels, other, labels, "--metrics", "dice", "-t", place.task]


def check_comparison(content: Any, place: Place) -> None:
    assert content["num_cases"] == 3
    assert {row["mean_difference"] for row in content["differences"]} == {0.0}


def select(place: Place) -> list[object]:
    write_run(place.folder / "fine", seed=0)
    write_run(place.folder / "other", seed=1)
    runs = [place.folder / "fine", place.folder / "other"]
    return ["select", *runs, "-d", place.data, "-o", place.folder / "selected", "--no-ensembles", "--device", "cpu"]


def check_selection(content: Any, place: Place) -> None:
    assert [one["name"] for one in content["candidates"]] == ["fine", "other"]
    (best,) = (one for one in content["candidates"] if one["is_chosen"])
    assert (content["best"], content["mean_dice"]) == (best["name"], best["mean_dice"])
    assert (Path(content["model"]) / "ensemble.json").is_file()


def series(place: Place) -> list[object]:
    build_series("CT", number=7).write(place.folder / "ct")
    return ["series", place.folder / "ct"]


def check_series(content: Any, place: Place) -> None:
    (one,) = content["series"]
    assert (one["number"], one["modality"], one["is_usable"]) == (7, "CT", True)
    assert one["num_slices"] == one["shape"][2]


def check_image(content: Any, place: Place) -> None:
    volume = read_volume(place.folder / "out.nrrd")
    assert content["written"] == [str(place.folder / "out.nrrd")]
    assert (content["shape"], content["orientation"]) == (list(volume.shape), volume.orientation)
    assert content["spacing_mm"] == pytest.approx(volume.spacing)


def check_mask(content: Any, place: Place) -> None:
    mask = read_label_map(place.data / "labels" / "case_0.nii.gz")
    volumes = {one["name"]: one["volume_ml"] for one in content["structures"]}
    assert volumes == {
        name: pytest.approx((mask.array == value).sum() * mask.voxel_volume_mm3 / 1000)
        for name, value in (("left", 1), ("right", 3))
    }


def check_export(content: Any, place: Place) -> None:
    assert content["path"] == str(place.folder / "network.ts")
    assert content["parity"]["different_labels"] == 0
    assert content["format"] == "torchscript"


def check_doctor(content: Any, place: Place) -> None:
    assert content["medunet"] == medunet.__version__
    assert content["packages"]["torch"] == torch.__version__
    assert content["runs_folder"] == str(place.folder / "runs")
    assert content["free_memory_gib"] < content["memory_gib"]


def list_two_runs(place: Place) -> list[object]:
    write_scored_run(place.folder / "runs" / "a", {"left": [0.5], "right": [0.7]})
    (place.folder / "runs" / "b").mkdir()
    (place.folder / "runs" / "b" / "metrics.json").write_text("{")
    return ["runs"]


def check_runs(content: Any, place: Place) -> None:
    (run,) = content["runs"]
    assert (run["folder"], run["state"], run["mean_dice"]) == (str(place.folder / "runs" / "a"), "finished", 0.6)
    assert [one["folder"] for one in content["damaged"]] == [str(place.folder / "runs" / "b")]


def diff(place: Place) -> list[object]:
    write_scored_run(place.folder / "a", {"left": [0.5, 0.6]}, seed=1)
    write_scored_run(place.folder / "b", {"left": [0.75, 0.85]}, seed=2)
    return ["runs", "diff", place.folder / "a", place.folder / "b"]


def check_diff(content: Any, place: Place) -> None:
    assert content["settings"] == [{"path": "seed", "first": 1, "second": 2}]
    (label,) = content["labels"]
    assert label["paired"]["mean_difference"] == pytest.approx(0.25)
    assert label["paired"]["num_cases"] == 2


def check_phantom(content: Any, place: Place) -> None:
    folder = str(place.folder / "phantoms")
    assert content == {"folder": folder, "phantom": "hippocampus-mr", "num_cases": 1, "seed": 4}


def check_networks(content: Any, place: Place) -> None:
    assert [one["name"] for one in content] == ["unet-2015"]
    assert content[0]["parameters"] > 10**6


def check_tasks(content: Any, place: Place) -> None:
    assert [task["name"] for task in content] == list(list_tasks())


def check_task(content: Any, place: Place) -> None:
    assert content["labels"] == {"left": [1], "right": [3]}


def check_run(content: Any, place: Place) -> None:
    assert (content["num_iterations"], content["budget"], content["state"]) == (77, "4it", "finished")


def pretrain(place: Place) -> list[object]:
    options = ["-b", "2it", "--deterministic", "--device", "cpu", "--workers", 0, "-o", place.folder / "pretrained"]
    return ["pretrain", "-t", place.task, "-d", place.data / "images", *options]


def check_pretraining(content: Any, place: Place) -> None:
    assert (content["model"], content["num_iterations"]) == (str(place.folder / "pretrained"), 2)
    assert content["pretraining"]["task"] == "blobs-mr"
    assert content["pretraining"]["distance"] == "l1"


def quantize(place: Place) -> list[object]:
    done = Quantized(record=None, message="Eight bits are left out: OpenVINO and NNCF are not installed.")
    place.request.getfixturevalue("monkeypatch").setattr("medunet.training.quantize", lambda *_, **__: done)
    return ["quantize", place.folder / "model", "-d", place.data]


def check_quantizing(content: Any, place: Place) -> None:
    assert content["model"] == str(place.folder / "model")
    assert (content["int8"], content["message"][:10]) == (None, "Eight bits")


def postprocess(place: Place) -> list[object]:
    mask = place.data / "labels" / "case_0.nii.gz"
    return [
        "postprocess",
        mask,
        "-o",
        place.folder / "clean.nii.gz",
        "--step",
        "remove-small:ml=1000",
        "-t",
        place.task,
    ]


def check_steps(content: Any, place: Place) -> None:
    (one,) = content
    assert (one["output"], one["error"]) == (str(place.folder / "clean.nii.gz"), None)
    mask = read_label_map(place.data / "labels" / "case_0.nii.gz").array
    left, right = one["effects"]
    assert (left["step"]["label"], right["step"]["label"]) == ("left", "right")
    assert left["num_removed"] in (0, (mask == 1).sum())
    assert left["note"]  # it would be gone, or is


def check_baseline(content: Any, place: Place) -> None:
    mask = read_label_map(place.folder / "mask.nii.gz")
    assert (content["baseline"], content["mask"]) == ("otsu", str(place.folder / "mask.nii.gz"))
    found_ml = float((mask.array == 1).sum()) * mask.voxel_volume_mm3 / 1000
    assert content["volumes_ml"] == {"foreground": pytest.approx(found_ml)}
    assert found_ml > 0


COMMANDS: dict[str, tuple[Line, Check]] = {
    "check": (lambda p: ["check", "-d", p.data, "-t", p.task], check_dataset),
    "plan": (lambda p: ["plan", "-d", p.data, "-t", p.task, "-b", "full", "-c", "3d"], check_plan),
    "train": (train, check_training),
    "infer": (infer, check_inference),
    "evaluate": (lambda p: ["evaluate", p.data / "labels", p.data / "labels", "-t", p.task], check_evaluation),
    "compare": (compare, check_comparison),
    "select": (select, check_selection),
    "series": (series, check_series),
    "convert": (lambda p: ["convert", p.data / "images" / "case_0.nii.gz", "-o", p.folder / "out.nrrd"], check_image),
    "convert a mask": (
        lambda p: ["convert", p.data / "labels" / "case_0.nii.gz", "-o", p.folder / "m.seg.nrrd", "--task", p.task],
        check_mask,
    ),
    "export": (
        lambda p: ["export", write_run(p.folder / "cv") / "fold_0", "-o", p.folder / "network.ts", "-f", "torchscript"],
        check_export,
    ),
    "phantom": (
        lambda p: ["phantom", "-t", "hippocampus-mr", "-o", p.folder / "phantoms", "-n", 1, "--seed", 4],
        check_phantom,
    ),
    "networks": (lambda p: ["networks", "unet-2015", "--dims", 2], check_networks),
    "doctor": (lambda p: ["doctor"], check_doctor),
    "tasks": (lambda p: ["tasks"], check_tasks),
    "tasks show": (lambda p: ["tasks", "show", p.task], check_task),
    "pretrain": (pretrain, check_pretraining),
    "quantize": (quantize, check_quantizing),
    "postprocess": (postprocess, check_steps),
    "baseline": (
        lambda p: ["baseline", "otsu", p.data / "images" / "case_0.nii.gz", "-o", p.folder / "mask.nii.gz"],
        check_baseline,
    ),
    "runs": (list_two_runs, check_runs),
    "runs show": (lambda p: ["runs", "show", write_scored_run(p.folder / "a", num_iterations=77)], check_run),
    "runs diff": (diff, check_diff),
}
"""What is called, and what must be true of the document."""


def refuse_constant(text: str) -> None:
    pytest.fail(f"{text} is no JSON")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", COMMANDS)
def test_stdout_is_one_true_document(medunet_command: Callable[..., Outcome], place: Place, name: str) -> None:
    build, check = COMMANDS[name]
    outcome = medunet_command(*build(place), "--json")
    assert outcome.exit_code == 0, outcome.err
    content = json.loads(outcome.out, parse_constant=refuse_constant)
    assert outcome.out == json.dumps(content, indent=2) + "\n"
    check(content, place)


def test_every_command_has_it() -> None:
    commands: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for group in ("tasks", "runs"):
        commands |= {f"{group} {name}": one for name, one in commands[group].commands.items()}
    del commands["runs"]  # which is `runs list`
    without = {
        name
        for name, command in commands.items()
        if not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without <= WITHOUT


def test_an_error_leaves_stdout_empty(medunet_command: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = medunet_command("runs", "show", tmp_path, "--json")
    outcome.check_refused("holds no training")
    assert outcome.out == ""


def test_what_is_no_number_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"nan": math.nan, "list": [math.inf, np.float64("nan"), 0.5], "path": Path("a") / "b", 3: (1, None)})
    content = json.loads(capsys.readouterr().out, parse_constant=refuse_constant)
    assert content == {"nan": None, "list": [None, None, 0.5], "path": "a/b", "3": [1, None]}
    assert to_json({"word": "ä"}) == {"word": "ä"}
    assert to_json(Volume(np.zeros((1, 2, 2, 2)), np.eye(4)).spacing) == [1.0, 1.0, 1.0]
