"""The installed nnU-Net plans the same: spacing, patch, strides, kernels, batch, low resolution, all presets.

Run where nnunetv2 is installed; elsewhere the tests are skipped. ``--log-cli-level=INFO`` shows the plans.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from made_up_fingerprints import make_fingerprint, make_task, make_varied_fingerprint
from nnunet_planner import PLANNERS, measure_with_nnunet, plan_with_nnunet, to_ras_order

from medunet.errors import InputError
from medunet.planning import (
    Fingerprint,
    MemoryTarget,
    Plan,
    Preset,
    build_plan,
    choose_configuration,
    compute_fingerprint,
)
from medunet.tasks import Task, load_task, read_dataset

LOGGER = logging.getLogger(__name__)
pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore")]

THICK = (0.05, 0.05, 0.4)
"""Slices whose distance differs a lot between cases."""
MADE_UP: dict[str, tuple[Fingerprint, dict[str, Any]]] = {
    "hippocampus": (make_varied_fingerprint((1, 1, 1), (36, 50, 35), 260, spread=(0.02, 0.05, 0.05)), {}),
    "heart": (make_varied_fingerprint((1.25, 1.25, 1.37), (232, 320, 115), 20, spread=(0.02, 0.02, 0.05)), {}),
    "prostate": (
        make_varied_fingerprint((0.62, 0.62, 3.6), (316, 316, 20), 32, spread=THICK, num_channels=2),
        {"channels": ["t2", "adc"]},
    ),
    "liver": (
        make_varied_fingerprint((0.77, 0.77, 1.0), (512, 512, 432), 131, spread=(0.1, 0.1, 0.5), seed=1),
        {"modality": "CT", "intensity": "ct-percentile"},
    ),
    "cardiac slices": (make_varied_fingerprint((1.5, 1.5, 9.0), (216, 247, 9), 100, spread=THICK, seed=2), {}),
    "brain": (
        make_varied_fingerprint((1, 1, 1), (137, 170, 138), 484, spread=(0, 0, 0), nonzero_share=0.36, num_channels=4),
        {"channels": ["a", "b", "c", "d"], "labels": {"x": [1, 2, 3], "y": [2, 3], "z": [3]}},
    ),
    "coronal": (make_varied_fingerprint((0.5, 4.5, 0.6), (400, 28, 380), 45, spread=(0.05, 0.3, 0.05), seed=3), {}),
    "five slices": (make_varied_fingerprint((0.9, 0.9, 6.0), (256, 256, 5), 60, spread=(0.1, 0.1, 0.1), seed=4), {}),
    "single slices": (make_fingerprint((0.4, 0.4, 1.0), (700, 500, 1), 300), {"ignore": 9}),
    "fine and large": (
        make_varied_fingerprint((0.3, 0.3, 0.5), (900, 800, 700), 12, seed=5),
        {"labels": {f"organ {n}": n for n in range(1, 31)}},
    ),
    "odd median": (make_varied_fingerprint((1.2, 0.8, 2.3), (61, 93, 44), 8, spread=(0.3, 0.3, 0.3), seed=6), {}),
    "two coarse axes": (make_varied_fingerprint((0.25, 1.3, 1.4), (800, 90, 80), 15, seed=7), {}),
}


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's folders in a temporary place, and its networks on the meta device, since only their sizes are asked."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    reason = "nnunetv2 is not installed; its plans are compared in the environment of the peers"
    pytest.importorskip("nnunetv2", reason=reason)
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as planner

    monkeypatch.setattr(planner, "nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setattr(planner, "nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setattr(planner, "maybe_convert_to_dataset_name", lambda name: name)
    build = planner.get_network_from_plans

    def build_without_memory(*arguments: Any, **options: Any) -> Any:
        import torch

        with torch.device("meta"):
            return build(*arguments, **options)

    monkeypatch.setattr(planner, "get_network_from_plans", build_without_memory)
    return tmp_path


def check_all_configurations(
    fingerprint: Fingerprint, task: Task, preset: Preset, folder: Path, memory_gb: float | None = None
) -> None:
    """Every configuration that nnU-Net plans is the same here, and none that it does not plan is planned here."""
    plans = plan_with_nnunet(fingerprint, task, preset, memory_gb, folder)
    target = MemoryTarget(preset=preset, memory_gb=memory_gb)
    theirs = plans["configurations"]
    check_configuration(build_plan(fingerprint, task, target, "2d"), theirs["2d"], plans)
    if "3d_fullres" not in theirs:
        assert choose_configuration(fingerprint, task, target)[0] == "2d"
        return
    check_configuration(build_plan(fingerprint, task, target, "3d"), theirs["3d_fullres"], plans)
    if "3d_lowres" not in theirs:
        for configuration in ("3d-low", "cascade"):
            with pytest.raises(InputError, match="no low resolution"):
                build_plan(fingerprint, task, target, configuration)
        assert choose_configuration(fingerprint, task, target)[0] == "3d"
        return
    check_configuration(build_plan(fingerprint, task, target, "3d-low"), theirs["3d_lowres"], plans)
    cascade = build_plan(fingerprint, task, target, "cascade")
    check_configuration(cascade, theirs["3d_fullres"], plans)
    assert cascade.network.in_channels == len(task.channels) + len(task.labels)
    assert choose_configuration(fingerprint, task, target)[0] == "cascade"


def check_configuration(ours: Plan, theirs: dict[str, Any], plans: dict[str, Any]) -> None:
    """Equal up to the order of the axes; logs one line."""
    network = theirs["architecture"]["arch_kwargs"]
    assert ours.patch_size == to_ras_order(theirs["patch_size"], plans)
    assert ours.batch_size == theirs["batch_size"]
    assert (ours.loss == "dice-ce") == theirs["batch_dice"]
    assert ours.network.strides == tuple(to_ras_order(stride, plans) for stride in network["strides"])
    assert ours.network.kernels == tuple(to_ras_order(kernel, plans) for kernel in network["kernel_sizes"])
    assert ours.network.features == tuple(network["features_per_stage"])
    assert ours.network.architecture == ("residual-unet" if "n_blocks_per_stage" in network else "unet")
    assert ours.network.encoder_blocks == tuple(network.get("n_blocks_per_stage", network.get("n_conv_per_stage")))
    assert ours.network.decoder_convolutions == tuple(network["n_conv_per_stage_decoder"])
    assert [rule.nonzero_only for rule in ours.normalization] == theirs["use_mask_for_norm"]
    spacing = to_ras_order(theirs["spacing"], plans)
    shown = plans["transpose_forward"][-len(theirs["spacing"]) :]  # a 2D plan says nothing of the axis across slices
    for axis in (2 - axis for axis in shown):
        assert ours.spacing[axis] == pytest.approx(spacing[axis])
    LOGGER.info(
        f"{ours.configuration:7} patch {'x'.join(map(str, ours.patch_size)):11} batch {ours.batch_size:3} "
        f"stages {len(ours.network.strides)} spacing {' x '.join(f'{mm:.4g}' for mm in ours.spacing)}"
    )


@pytest.mark.parametrize("preset", ["default", "M", "L", "XL"])
@pytest.mark.parametrize("name", MADE_UP)
def test_made_up_fingerprints(name: str, preset: Any, nnunet: Path) -> None:
    fingerprint, changes = MADE_UP[name]
    LOGGER.info(f"{name}, preset {preset}")
    check_all_configurations(fingerprint, make_task(**changes), preset, nnunet)


@pytest.mark.parametrize(("preset", "memory_gb"), [("default", 3.0), ("default", 11.0), ("M", 80.0), ("L", 16.0)])
@pytest.mark.parametrize("name", ["heart", "liver", "coronal"])
def test_other_memories(name: str, preset: Any, memory_gb: float, nnunet: Path) -> None:
    fingerprint, changes = MADE_UP[name]
    LOGGER.info(f"{name}, preset {preset} with {memory_gb:g} GB")
    check_all_configurations(fingerprint, make_task(**changes), preset, nnunet, memory_gb)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["hippocampus-mr", "headneck-ct"])
def test_real_datasets(name: str, nnunet: Path, real_data: Path) -> None:
    """nnU-Net measures the files with its own reader; then all presets plan from medunet's fingerprint."""
    task, cases = load_task(name), read_dataset(real_data / name).cases
    fingerprint, theirs = compute_fingerprint(cases, task), measure_with_nnunet(cases, num_samples=100_000)
    assert list(fingerprint.shapes) == [shape[::-1] for shape in theirs["shapes"]]
    for ours, spacing in zip(fingerprint.spacings, theirs["spacings"], strict=True):
        assert ours == pytest.approx(spacing[::-1], rel=1e-6)
    assert fingerprint.nonzero_share == pytest.approx(theirs["nonzero_share"])
    (channel,) = fingerprint.channels
    for statistic in ("mean", "median", "std", "percentile_00_5", "percentile_99_5"):
        # Theirs come from random voxels; a hundredth of the spread is what that leaves open.
        assert getattr(channel, statistic) == pytest.approx(theirs[statistic], abs=0.01 * channel.std), statistic
    for preset in PLANNERS:
        LOGGER.info(f"{name}, {len(cases)} cases, preset {preset}")
        check_all_configurations(fingerprint, task, preset, nnunet)
