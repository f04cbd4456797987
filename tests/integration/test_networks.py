"""Every network of the catalogue trains, infers and exports from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracles import Outcome
from small_networks import OPTIONS

from medunet.io import read_label_map, read_volume
from medunet.models import read_model
from medunet.networks import ARCHITECTURES
from medunet.phantoms import write_phantom_dataset
from medunet.planning import Effort

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "hippocampus"
    write_phantom_dataset("hippocampus-mr", folder, num_cases=6, seed=3, num_workers=1)
    return folder


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=2 * 16**3, features=4))


def train_infer_and_export(
    command: Command, phantoms: Path, folder: Path, name: str, configuration: str, options: dict[str, object]
) -> None:
    run = folder / "run"
    settings = [part for key, value in options.items() for part in ("--network-option", f"{key}={json.dumps(value)}")]
    outcome = command(
        "train", "--task", "hippocampus-mr", "--data", phantoms, "--output", run, "--budget", "3it", "--device", "cpu",
        "--configuration", configuration, "--network", name, *settings,
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.err
    model = read_model(run)
    assert model.plan.network.architecture == name
    assert {key: model.plan.network.options.get(key) for key in options} == json.loads(json.dumps(options))
    scan = sorted((phantoms / "imagesTr").glob("*.nii.gz"))[0]
    outcome = command("infer", scan, "-o", folder / "mask.nii.gz", "--model", run, "--device", "cpu")
    assert outcome.exit_code == 0, outcome.err
    mask = read_label_map(folder / "mask.nii.gz")
    assert mask.spatial_shape == read_volume(scan).spatial_shape
    assert set(np.unique(mask.array)) <= {0, 1, 2}
    # It is compared with the original on random patches before it is written.
    outcome = command("export", run, "-o", folder / "network.ts", "--format", "torchscript")
    assert outcome.exit_code == 0, outcome.err
    assert "largest difference" in outcome.out


def test_a_network_trains_infers_and_exports(medunet_command: Command, phantoms: Path, tmp_path: Path) -> None:
    options = {"width": 4, "norm": "instance"}
    train_infer_and_export(medunet_command, phantoms, tmp_path, "unet3d-2016", "3d", options)
    card = (tmp_path / "run" / "card.md").read_text()
    assert "3D 3D U-Net (2016), 4 stages of 8 to 64 channels" in card


@pytest.mark.slow
@pytest.mark.parametrize("configuration", ["2d", "3d"])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_network_trains_infers_and_exports(
    medunet_command: Command, phantoms: Path, tmp_path: Path, name: str, configuration: str
) -> None:
    train_infer_and_export(medunet_command, phantoms, tmp_path, name, configuration, OPTIONS.get(name, {}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "vnet2"], "There is no network 'vnet2'"),
        (["--network", "vnet", "--network-option", "widht=3"], "The network 'vnet' has no option 'widht'"),
        (
            ["--network", "vnet", "--network-option", "width"],
            "--network-option is 'width'; expected a name and a value",
        ),
        (["--network-option", "width=3"], "--network-option belongs to a network; name it with --network"),
        (["--network", "vnet", "--preset", "M", "--budget", "full"], "--preset M and --network vnet both choose"),
        (["--network", "vnet", "--from", "somewhere"], "--from takes over the network of that model"),
    ],
)
def test_networks_that_cannot_be_trained(
    medunet_command: Command, phantoms: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    budget = [] if "--budget" in arguments else ["--budget", "2it"]
    outcome = medunet_command(
        "train", "-t", "hippocampus-mr", "-d", phantoms, "-o", tmp_path / "run", *budget, *arguments
    )
    outcome.check_refused(message)
