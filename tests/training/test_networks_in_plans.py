"""A network that was asked for is what a budget is measured with, and what settings keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_fingerprints import make_fingerprint, make_task

from medunet.errors import InputError
from medunet.networks.choose import count_plan_gflop
from medunet.planning import Plan
from medunet.reporting.plan_page import format_plan
from medunet.training import TrainingSettings, fit_plan, parse_budget
from medunet.training.settings import SETTINGS, read_settings, write_settings
from medunet.training.state import STATE_FOLDER

CPU = torch.device("cpu")


def test_a_budget_is_measured_with_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Plan] = []

    def measure(plan: Plan, *_: Any) -> float:
        timed.append(plan)
        return 0.05

    monkeypatch.setattr(fit_plan, "measure_step_seconds", measure)
    settings = TrainingSettings(task="x", configuration="3d", network="unet3d-2016")
    plain = TrainingSettings(task="x", configuration="3d")
    fingerprint, task = make_fingerprint(), make_task()
    plan, other = (
        fit_plan.fit_plan(fingerprint, task, parse_budget("10min"), CPU, each, "32-true") for each in (settings, plain)
    )
    assert {one.network.architecture for one in timed} == {"unet3d-2016", "unet"}
    assert plan.network.architecture == "unet3d-2016"
    assert 0.7 * count_plan_gflop(other) < count_plan_gflop(plan) <= count_plan_gflop(other)
    assert (plan.spacing, plan.batch_size, plan.optimizer) == (other.spacing, other.batch_size, other.optimizer)
    assert f"{plan.network.features[0]} channels of 3D U-Net (2016)" in plan.reasons["budget"]
    assert "channels of" not in other.reasons["budget"]
    assert "3d 3D U-Net (2016)" in fit_plan.describe_plan(plan)
    assert f"width {plan.network.options['width']}" in " ".join(format_plan(plan).split())


def test_options_are_json_or_text() -> None:
    settings = TrainingSettings(
        task="x",
        network="pixel-classifier",
        network_options=("width=8", "activation=elu", "kernels=[4, 4]", "connected=2.5"),
    )
    assert settings.parse_network_options() == {"width": 8, "activation": "elu", "kernels": [4, 4], "connected": 2.5}
    with pytest.raises(InputError, match="expected a name and a value, such as width=32"):
        TrainingSettings(task="x", network="vnet", network_options=("=3",))


def test_settings_of_runs_from_before_there_were_networks_are_read(tmp_path: Path) -> None:
    settings = TrainingSettings(task="x", network="vnet", network_options=("width=8",))
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings
    path = tmp_path / STATE_FOLDER / SETTINGS
    content = json.loads(path.read_text())
    del content["network"], content["network_options"]
    path.write_text(json.dumps(content))
    assert read_settings(tmp_path) == TrainingSettings(task="x")
