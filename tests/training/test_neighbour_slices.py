"""2.5D in training: the slices around a patch are changed with it, and the middle one is what 2D would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import build_tiny_batch, build_tiny_plan, build_tiny_task

from medunet.augmentation import AugmentationPolicy
from medunet.errors import InputError
from medunet.models import read_model
from medunet.planning import Effort, add_neighbour_slices
from medunet.preprocessing import NeighbourSlices, StoredCase, fold_slices
from medunet.training import train
from medunet.training.engine import Engine, measure_step_seconds
from medunet.training.sampling import PatchSampler
from medunet.training.settings import TrainingSettings

SPACING = (1.0, 1.0, 1.5)
ALWAYS = AugmentationPolicy(rotation_probability=1, scaling_probability=1, elastic_probability=1)


def build_case(num_slices: int = 5) -> StoredCase:
    """Every slice is the same picture plus 100 times its number."""
    picture = torch.rand((24, 20), generator=torch.Generator().manual_seed(0))
    image = torch.stack([picture + 100 * index for index in range(num_slices)], dim=-1)[None]
    labels = torch.zeros(image.shape[1:], dtype=torch.uint8)
    labels[8:16, 6:14, :] = 1
    return StoredCase(
        case_id="a", path=Path("nowhere"), shape=(24, 20, num_slices), fill=torch.tensor([-7.0]),
        foreground={1: torch.argwhere(labels == 1).to(torch.int16)}, image=image, labels=labels,
    )  # fmt: skip


def build_sampler(neighbours: NeighbourSlices | None, mode: str) -> PatchSampler:
    return PatchSampler(
        [build_case()], build_tiny_task(), (16, 16, 1), 6, SPACING, seed=3, mode=mode, policy=ALWAYS,  # type: ignore[arg-type]
        neighbours=neighbours,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["none", "fast"])
def test_neighbours_are_changed_as_the_slice_is(mode: str) -> None:
    flat = build_sampler(None, mode).draw(0)
    batch = build_sampler(NeighbourSlices(axis=2, number=2), mode).draw(0)
    assert batch.image.shape == (6, 1, 16, 16, 5)
    assert batch.codes.shape == (6, 16, 16, 1)
    assert torch.equal(batch.image[..., 2:3], flat.image)
    assert torch.equal(batch.codes, flat.codes)
    assert batch.changes == flat.changes
    for slices in batch.image[:, 0]:
        inside = slices[..., 2] != -7
        middle = int(slices[..., 2][inside].median()) // 100
        expected = torch.tensor([min(max(middle + offset, 0), 4) - middle for offset in range(-2, 3)])
        steps = (slices - slices[..., 2:3])[inside]
        torch.testing.assert_close(steps, (100.0 * expected).expand_as(steps), atol=1e-3, rtol=0)


def test_a_step_sees_the_slices_as_channels() -> None:
    plan = build_tiny_plan(spatial_dims=2).model_copy(update={"configuration": "2.5d"})
    plan = add_neighbour_slices(plan, 1)
    assert plan.network.in_channels == 3
    engine = Engine(plan, build_tiny_task(), device=torch.device("cpu"), precision="32-true")
    weight = next(parameter for parameter in engine.network.parameters() if parameter.dim() == 4)
    assert weight.shape[1] == 3
    batch = build_tiny_batch(build_tiny_plan(spatial_dims=2))
    from dataclasses import replace

    slices = torch.cat([batch.image - 1, batch.image, batch.image + 1], dim=-1)
    seen: list[torch.Tensor] = []
    engine.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    before = [parameter.clone() for parameter in engine.network.parameters()]
    compute = engine._scales.compute
    engine._scales.compute = lambda image: seen.append(image) or compute(image)  # type: ignore[func-returns-value]
    engine.step(replace(batch, image=slices), 1e-2)
    assert torch.equal(seen[0], fold_slices(slices, 2))
    assert any(not torch.equal(old, new) for old, new in zip(before, engine.network.parameters(), strict=True))
    assert measure_step_seconds(plan, build_tiny_task(), torch.device("cpu"), "32-true") > 0


def test_a_training_of_slices_with_neighbours(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=12 * 16**2, features=4))
    result = train(
        tiny_data / "task.yaml", tiny_data / "data", output=tmp_path / "run", budget="3it", device="cpu",
        configuration="2.5d", neighbour_slices=1,
    )  # fmt: skip
    model = read_model(result.folder)
    assert (model.plan.configuration, model.plan.num_neighbour_slices) == ("2.5d", 1)
    assert model.plan.network.in_channels == 3
    assert '"num_neighbour_slices": 1' in (result.folder / "plan.json").read_text()
    assert result.evaluation is not None
    assert not result.evaluation.failures
    assert np.isfinite(result.evaluation.mean_dice or 0)


def test_neighbours_without_the_configuration_are_refused() -> None:
    with pytest.raises(InputError, match=r"--neighbour-slices belongs to --configuration 2\.5d"):
        TrainingSettings(task="hippocampus-mr", neighbour_slices=2, configuration="2d")
    with pytest.raises(InputError, match=r"--neighbour-slices is 0; expected 1"):
        TrainingSettings(task="hippocampus-mr", neighbour_slices=0, configuration="2.5d")
    with pytest.raises(InputError, match="torchio"):
        TrainingSettings(task="hippocampus-mr", configuration="2.5d", augmentation="torchio")


def test_the_policy_of_the_paper_is_in_the_plan(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=12 * 16**2, features=4))
    result = train(
        tiny_data / "task.yaml", tiny_data / "data", output=tmp_path / "run", budget="2it", device="cpu",
        configuration="2d", augmentation="unet2015",
    )  # fmt: skip
    assert read_model(result.folder).plan.augmentation == "unet2015"
