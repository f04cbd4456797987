"""Folders of pictures through the command line without a conversion: check, plan, train, infer, evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from oracles import Outcome
from PIL import Image

from medunet.models import read_model
from medunet.phantoms import make_phantom_case
from medunet.planning import Effort

TRAINING, UNSEEN = 5, 2


def write_pictures(folder: Path, phantom: str, seeds: range, *, masks: str, value: int = 255) -> None:
    """``images/`` and masks of equal names; pictures of several sizes."""
    for name in ("images", masks):
        (folder / name).mkdir(parents=True)
    for seed in seeds:
        case = make_phantom_case(phantom, seed)
        pixels = case.image.array[..., 0].transpose(2, 1, 0)
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(folder / "images" / f"{seed}.png")
        mask = np.where(case.labels.array[0, ..., 0].T > 0, value, 0).astype(np.uint8)
        Image.fromarray(mask).save(folder / masks / f"{seed}.png", dpi=(300, 300))  # the picture says nothing


@pytest.mark.parametrize(
    ("phantom", "value"), [("cells-microscopy", 255), pytest.param("stained-cells", 1, marks=pytest.mark.slow)]
)
def test_from_pictures_to_scores(
    medunet_command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantom: str, value: int
) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=12 * 48**2, features=8))
    task = {
        "name": "cells",
        "title": "Cells",
        "modality": "microscopy",
        "channels": ["grey"] if phantom == "cells-microscopy" else ["red", "green", "blue"],
        "labels": {"cell": value},
        "intensity": "zscore",
    }
    recipe = tmp_path / "cells.yaml"
    recipe.write_text(yaml.safe_dump(task))
    data, unseen = tmp_path / "data", tmp_path / "unseen"
    write_pictures(data, phantom, range(TRAINING), masks="masks", value=value)
    write_pictures(unseen, phantom, range(100, 100 + UNSEEN), masks="labels", value=value)

    outcome = medunet_command("check", "--data", data, "--task", recipe)
    assert outcome.exit_code == 0, outcome.err
    assert "1 mm stands for 1 pixel" in outcome.out
    outcome = medunet_command("plan", "--data", data, "--task", recipe, "--budget", "10it", "--json")
    assert outcome.exit_code == 0, outcome.err
    (plan,) = json.loads(outcome.out)["plans"].values()
    assert plan["configuration"] == "2d"
    assert plan["patch_size"][2] == 1
    assert plan["network"]["in_channels"] == len(task["channels"])

    run = tmp_path / "run"
    outcome = medunet_command(
        "train", "--task", recipe, "--data", data, "-o", run, "--budget", "80it", "--device", "cpu"
    )
    assert outcome.exit_code == 0, outcome.err
    model = read_model(run)
    assert model.plan.configuration == "2d"

    masks = tmp_path / "masks"
    outcome = medunet_command(
        "infer", unseen / "images", "-o", masks, "--model", run, "--preview", tmp_path / "pictures", "--device", "cpu"
    )
    assert outcome.exit_code == 0, outcome.err
    assert {path.name for path in masks.iterdir()} == {"100.png", "101.png", "manifests"}
    for path in masks.glob("*.png"):
        with Image.open(path) as mask, Image.open(unseen / "images" / path.name) as picture:
            assert mask.size == picture.size
            assert mask.mode == "L"
            assert set(np.unique(np.asarray(mask)).tolist()) <= {0, value}
        with Image.open(tmp_path / "pictures" / path.name) as preview:
            assert preview.size[0] > 100

    outcome = medunet_command(
        "evaluate", masks, unseen / "labels", "--task", recipe, "--json-file", tmp_path / "scores.json"
    )
    assert outcome.exit_code == 0, outcome.err
    assert "1 mm stands for 1 pixel" in outcome.out
    assert json.loads((tmp_path / "scores.json").read_text())["mean_dice"] > 0.85
