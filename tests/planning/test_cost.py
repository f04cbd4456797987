"""What a patch costs: nnU-Net's own counts, its limits, and the voxels of an effort.

The counts of feature voxels were made with dynamic-network-architectures 0.4.4, which nnU-Net 2.8.1 builds on:

    network = PlainConvUNet(input_channels=1, n_stages=len(kernels), features_per_stage=features, num_classes=3,
        conv_op=nn.Conv3d, kernel_sizes=kernels, strides=strides, n_conv_per_stage=(2,) * len(kernels),
        n_conv_per_stage_decoder=(2,) * (len(kernels) - 1), conv_bias=True, norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU)
    network.compute_conv_feature_map_size(patch_size)

and ``ResidualEncoderUNet`` with ``n_blocks_per_stage=(1, 3, 4, 6, 6, ...)`` and one decoder convolution.
"""

from __future__ import annotations

from typing import Any

import pytest
from made_up_fingerprints import make_task

from medunet.errors import InputError
from medunet.planning import Effort, MemoryTarget, choose_memory_target, compute_topology
from medunet.planning.batch import choose_batch_size
from medunet.planning.cost import FeatureVoxels, PatchVoxels, build_cost_model
from medunet.planning.patch import Patch
from medunet.planning.stages import choose_blocks, choose_features

LIVER = ((128, 128, 128), (1.0, 1.0, 1.0))
PROSTATE = ((20, 320, 256), (3.6, 0.625, 0.625))
SLICE = ((512, 512), (1.0, 1.0))


@pytest.mark.parametrize(
    ("preset", "patch", "feature_voxels"),
    [
        ("default", LIVER, 452_796_416),
        ("default", PROSTATE, 483_315_200),
        ("default", SLICE, 82_886_656),
        ("M", LIVER, 557_420_544),
        ("M", PROSTATE, 706_336_000),
        ("M", SLICE, 129_703_936),
    ],
)
def test_feature_voxels_are_those_of_nnunet(preset: Any, patch: Any, feature_voxels: int) -> None:
    size, spacing = patch
    costs = FeatureVoxels(target=MemoryTarget(preset=preset), num_classes=3)
    assert costs.compute_cost(size, compute_topology(size, spacing)) == feature_voxels


def test_feature_voxels_by_hand() -> None:
    """8 x 8 pixels, two stages: 32 channels on 64 voxels twice down, twice up and once from the transposed convolution,
    64 channels on 16 voxels twice, and 5 classes on 64 voxels."""
    topology = compute_topology((8, 8), (1.0, 1.0))
    assert topology.strides == ((1, 1), (2, 2))
    costs = FeatureVoxels(target=MemoryTarget(), num_classes=5)
    assert costs.compute_cost((8, 8), topology) == 5 * 32 * 64 + 2 * 64 * 16 + 5 * 64
    # Residual: stem and one block above, three blocks of two and one shortcut below, one decoder convolution.
    residual = FeatureVoxels(target=MemoryTarget(preset="M"), num_classes=5)
    assert residual.compute_cost((8, 8), topology) == (1 + 2 + 1 + 1) * 32 * 64 + 7 * 64 * 16 + 5 * 64


@pytest.mark.parametrize(
    ("changes", "num_classes"),
    [
        ({}, 3),
        ({"ignore": 9}, 4),
        ({"labels": {"whole": [1, 2, 3], "core": [2, 3], "rim": [3]}}, 4),
    ],
)
def test_classes_are_counted_as_in_the_dataset_json(changes: dict[str, Any], num_classes: int) -> None:
    costs = build_cost_model(MemoryTarget(), make_task(**changes))
    assert isinstance(costs, FeatureVoxels)
    assert costs.num_classes == num_classes


@pytest.mark.parametrize(
    ("preset", "memory_gb", "limit_3d", "limit_2d"),
    [
        ("default", None, 560e6, 510e6),  # 85e6 are for one of 12 slices, and two must fit
        ("default", 16.0, 1120e6, 1020e6),
        ("M", None, 680e6, 135e6),
        ("M", 4.0, 340e6, 67.5e6),
        ("L", 24.0, 2.1e9, 380e6),
        ("XL", None, 3.6e9, 560e6),
        ("XL", 80.0, 7.2e9, 1120e6),
    ],
)
def test_limits_grow_with_the_memory(preset: Any, memory_gb: float | None, limit_3d: float, limit_2d: float) -> None:
    costs = FeatureVoxels(target=MemoryTarget(preset=preset, memory_gb=memory_gb), num_classes=3)
    assert costs.compute_limit(3) == pytest.approx(limit_3d)
    assert costs.compute_limit(2) == pytest.approx(limit_2d)


@pytest.mark.parametrize(("memory_gb", "preset"), [(4, "M"), (8, "M"), (23, "M"), (24, "L"), (39, "L"), (40, "XL")])
def test_the_memory_chooses_the_preset(memory_gb: float, preset: str) -> None:
    assert choose_memory_target(memory_gb) == MemoryTarget(preset=preset, memory_gb=memory_gb)  # type: ignore[arg-type]


@pytest.mark.parametrize("memory_gb", [0.0, -8.0, float("nan")])
def test_no_memory_is_refused(memory_gb: float) -> None:
    with pytest.raises(InputError, match=r"memory to plan for is (0|-8|nan) GB; expected a number above 0"):
        MemoryTarget(memory_gb=memory_gb)


def make_patch(size: tuple[int, ...], cost: float) -> Patch:
    return Patch(size=size, topology=compute_topology(size, (1.0,) * len(size)), cost=cost)


@pytest.mark.parametrize(
    ("preset", "dataset_voxels", "batch_size"),
    [
        # Hippocampus: 560e6 / 1.2e8 * 2 = 9.33 patches; 5 % of 260 and 200 cases of 36 x 50 x 35 are 9.14 and 7.03.
        ("default", 260 * 63_000, 9),
        ("default", 200 * 63_000, 7),
        ("default", 1000 * 63_000, 9),
        ("default", 20 * 63_000, 2),
        # The residual presets may show the whole dataset at once: 680e6 / 1.2e8 * 2 = 11.33.
        ("M", 200 * 63_000, 11),
        ("M", 5 * 63_000, 4),
    ],
)
def test_batches(preset: Any, dataset_voxels: float, batch_size: int) -> None:
    costs = FeatureVoxels(target=MemoryTarget(preset=preset), num_classes=3)
    found, reason = choose_batch_size(make_patch((40, 56, 40), 1.2e8), costs, dataset_voxels)
    assert found == batch_size
    assert "patches of 120,000,000 feature voxels can be paid for" in reason


def test_an_effort_is_never_exceeded() -> None:
    costs = PatchVoxels(effort=Effort(voxels=1000, features=16))
    assert costs.count_affordable(300, 3) == 3  # nnU-Net would round 3.33 and 3.9 alike, memory willing
    assert costs.count_affordable(256, 3) == 3
    assert (costs.compute_limit(3), costs.compute_limit(2)) == (500, 1000 / 12)


def test_an_effort_can_fix_the_batch() -> None:
    costs = PatchVoxels(effort=Effort(voxels=1000, features=16, batch_size=5))
    assert costs.compute_limit(3) == costs.compute_limit(2) == 200
    assert choose_batch_size(make_patch((8, 8, 8), 512), costs, 1.0) == (5, "what the budget was fitted to")


def test_stages() -> None:
    assert choose_features(7, 2) == (32, 64, 128, 256, 512, 512, 512)
    assert choose_features(7, 3) == (32, 64, 128, 256, 320, 320, 320)
    assert choose_features(3, 3, base=24) == (24, 48, 96)
    assert choose_blocks("residual-unet", 8).encoder == (1, 3, 4, 6, 6, 6, 6, 6)
    assert choose_blocks("residual-unet", 2) == choose_blocks("residual-unet", 2)
    assert choose_blocks("unet", 3).encoder == (2, 2, 2)
    assert (choose_blocks("unet", 3).decoder, choose_blocks("residual-unet", 3).decoder) == ((2, 2), (1, 1))
