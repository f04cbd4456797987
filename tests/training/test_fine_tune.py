"""What two networks share is carried over by name, to the last bit; the rest is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medunet.errors import ModelError
from medunet.models.folder import Model, TrainingRecord
from medunet.networks import PatchNetwork, build_network
from medunet.planning.plan import NetworkPlan, Normalization, OptimizerPlan, Plan
from medunet.tasks import Task
from medunet.training.fine_tune import adapt_plan, load_matching_weights

TASK = Task(
    name="pelvis",
    title="Pelvis",
    modality="MR",
    channels=("t1", "t2"),
    labels={"bladder": (1,), "femur": (2,)},
    intensity="zscore",
)
REGIONS = TASK.model_copy(update={"labels": {"bladder": (1, 2), "femur": (2,)}})


def change_task(**changes: Any) -> Task:
    return TASK.model_copy(update=changes)


def build_plan(task: Task = TASK, *, depth: int = 3, **changes: Any) -> Plan:
    network: dict[str, Any] = {
        "spatial_dims": 3,
        "in_channels": len(task.channels),
        "out_channels": task.num_outputs,
        "features": (4, 6, 8, 10)[:depth],
        "strides": ((1, 1, 1), *((2, 2, 2),) * (depth - 1)),
        "kernels": ((3, 3, 3),) * depth,
        "encoder_blocks": (2,) * depth,
        "decoder_convolutions": (2,) * (depth - 1),
        "num_scales": max(1, depth - 2),
    }
    names = set(NetworkPlan.model_fields)
    content: dict[str, Any] = {
        "task": task.name,
        "modality": task.modality,
        "configuration": "3d",
        "spacing": (1.0, 1.0, 2.0),
        "median_shape": (40, 48, 20),
        "patch_size": (16, 16, 16),
        "batch_size": 4,
        "normalization": (Normalization(rule="zscore"),) * len(task.channels),
        "network": NetworkPlan(**(network | {key: value for key, value in changes.items() if key in names})),
        "optimizer": OptimizerPlan(name="adamw", learning_rate=3e-3, weight_decay=1e-2, schedule="cosine"),
        "reasons": {},
    }
    return Plan(**(content | {key: value for key, value in changes.items() if key not in names}))


def build_model(task: Task = TASK, *, seed: int = 0, **changes: Any) -> Model:
    """A source whose every weight is its own, scales and shifts of the normalisation included."""
    plan = build_plan(task, **changes)
    torch.manual_seed(seed)
    network = build_network(plan.network)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return Model(
        folder=Path("runs/source"),
        task=task,
        plan=plan,
        training=TrainingRecord.model_construct(),
        metrics={},
        network=network.eval(),
    )


def build_fresh(task: Task, **changes: Any) -> tuple[PatchNetwork, Plan, dict[str, Tensor]]:
    plan = build_plan(task, **changes)
    torch.manual_seed(99)
    network = build_network(plan.network)
    return network, plan, {name: tensor.clone() for name, tensor in network.state_dict().items()}


def compute(network: PatchNetwork, image: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network.eval()(image)
    return logits


def make_image(num_channels: int) -> Tensor:
    return torch.randn(1, num_channels, 16, 16, 16, generator=torch.Generator().manual_seed(3))


def find_first(network: PatchNetwork) -> str:
    return next(name for name, tensor in network.state_dict().items() if tensor.ndim == 5)


# ---- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["unet", "residual-unet"])
def test_the_same_task_takes_over_everything(architecture: str) -> None:
    source = build_model(architecture=architecture)
    network, plan, _ = build_fresh(TASK, architecture=architecture)
    report = load_matching_weights(network, TASK, plan, source)
    assert set(report.loaded) == set(network.state_dict())
    assert report.fresh == report.in_part == ()
    assert torch.equal(compute(network, make_image(2)), compute(source.network, make_image(2)))
    num = len(report.loaded)
    assert report.describe() == [
        f"{num} of {num} tensors loaded from source",
        "input: kept t1, t2",
        "head: kept background, bladder, femur",
    ]


def test_labels_are_matched_by_name() -> None:
    """Of bladder 1, femur 2 to rectum 1, bladder 2: logits of background and bladder stay, in their new places."""
    task = change_task(labels={"rectum": (1,), "bladder": (2,)})
    source = build_model()
    network, plan, before = build_fresh(task)
    report = load_matching_weights(network, task, plan, source)
    found, theirs = compute(network, make_image(2)), compute(source.network, make_image(2))
    torch.testing.assert_close(found[:, [0, 2]], theirs[:, [0, 1]], rtol=0, atol=1e-5)
    head = [name for name in report.in_part if network.state_dict()[name].ndim == 5]
    assert head
    for name in head:
        assert torch.equal(network.state_dict()[name][1], before[name][1])
    assert report.outputs.describe() == "kept background, bladder; fresh: rectum; left behind: femur"
    assert report.channels.describe() == "kept t1, t2"
    assert report.fresh == ()


def test_channels_are_matched_by_name() -> None:
    """With a new channel of zeros and the old two in another order, the network computes what the source does."""
    task = change_task(channels=("t2", "flair", "t1"))
    source = build_model()
    network, plan, before = build_fresh(task)
    report = load_matching_weights(network, task, plan, source)
    image = make_image(2)
    wider = torch.stack([image[:, 1], torch.zeros_like(image[:, 0]), image[:, 0]], dim=1)
    torch.testing.assert_close(compute(network, wider), compute(source.network, image), rtol=0, atol=1e-4)
    first = find_first(network)
    assert report.in_part == (first,)
    assert torch.equal(network.state_dict()[first][:, 1], before[first][:, 1])
    assert report.channels.describe() == "kept t2, t1; fresh: flair"


def test_a_swap_of_equal_channels_is_followed() -> None:
    """Shapes alone would fit here, with the sequences in each other's place."""
    task = change_task(channels=("t2", "t1"))
    source = build_model()
    network, plan, _ = build_fresh(task)
    report = load_matching_weights(network, task, plan, source)
    image = make_image(2)
    torch.testing.assert_close(compute(network, image.flip(1)), compute(source.network, image), rtol=0, atol=1e-4)
    assert report.in_part == report.fresh == ()


@pytest.mark.parametrize(("depth", "source_depth"), [(4, 3), (3, 4)])
def test_another_depth_shares_the_fine_stages(depth: int, source_depth: int) -> None:
    source = build_model(depth=source_depth)
    network, plan, before = build_fresh(TASK, depth=depth)
    report = load_matching_weights(network, TASK, plan, source)
    weights, theirs = network.state_dict(), source.network.state_dict()
    for name, tensor in weights.items():
        if name in theirs and theirs[name].shape == tensor.shape:
            assert torch.equal(tensor, theirs[name])
            assert name in report.loaded
        else:
            assert torch.equal(tensor, before[name])
            assert name in report.fresh
    if depth > source_depth:
        assert len(report.fresh) > 10
        assert report.describe()[-1].startswith("fresh layers: encoder.3, ")
        assert f"{len(report.loaded)} of {len(weights)} tensors loaded" in report.describe()[0]
    else:
        assert report.fresh == ()


def test_another_kernel_leaves_its_stage_fresh_with_its_normalisation() -> None:
    source = build_model()
    network, plan, before = build_fresh(TASK, kernels=((3, 3, 1), (3, 3, 3), (3, 3, 3)))
    report = load_matching_weights(network, TASK, plan, source)
    weights = network.state_dict()
    finest = {name for name in weights if ".encoder.0." in name or ".decoder.0." in name}
    assert set(report.fresh) == finest
    assert any(weights[name].ndim == 1 for name in finest)
    assert all(torch.equal(weights[name], before[name]) for name in finest)
    assert report.describe()[-1] == "fresh layers: encoder.0, decoder.0"


def test_logits_of_regions_and_of_classes_are_not_mixed() -> None:
    source = build_model()
    network, plan, before = build_fresh(REGIONS)
    report = load_matching_weights(network, REGIONS, plan, source)
    assert REGIONS.has_regions
    assert report.outputs.kept == ()
    assert {name.split(".")[1] for name in report.fresh} == {"heads"}
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in report.fresh)


def test_a_cascade_takes_over_the_image_and_learns_the_rest() -> None:
    source = build_model()
    network, plan, _ = build_fresh(TASK, num_previous_labels=2, in_channels=4)
    report = load_matching_weights(network, TASK, plan, source)
    assert report.channels.describe() == "kept t1, t2; fresh: previous bladder, previous femur"
    first = find_first(network)
    theirs = source.network.state_dict()[find_first(source.network)]
    assert torch.equal(network.state_dict()[first][:, :2], theirs)


def test_what_fits_nowhere_is_an_error_not_a_silent_fresh_start() -> None:
    source = build_model()
    network, plan, before = build_fresh(
        TASK, spatial_dims=2, kernels=((3, 3, 1),) * 3, strides=((1, 1, 1), (2, 2, 1), (2, 2, 1))
    )
    with pytest.raises(
        ModelError, match=r"Nothing of runs/source fits: .*3D unet of 3 stages .*2D unet .*without --from"
    ):
        load_matching_weights(network, TASK, plan, source)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_source_stays_as_it_was() -> None:
    source = build_model()
    before = {name: tensor.clone() for name, tensor in source.network.state_dict().items()}
    network, plan, _ = build_fresh(TASK)
    load_matching_weights(network, TASK, plan, source)
    for parameter in network.parameters():
        parameter.data.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.network.state_dict().items())


# ---- plans -------------------------------------------------------------------------------------------------------------


def test_the_plan_takes_over_voxels_and_network() -> None:
    task = change_task(channels=("t1", "flair"), labels={"rectum": (1,)})
    scaled = Normalization(rule="ct-window", lower=0, upper=9, mean=4, std=2)
    source = build_model(depth=4, spacing=(0.5, 0.5, 1.0), normalization=(scaled, scaled))
    plan = build_plan(task)
    adapted = adapt_plan(plan, task, source)
    assert adapted.spacing == (0.5, 0.5, 1.0)
    assert adapted.median_shape == (80, 96, 40)  # as many mm as 40 x 48 x 20 voxels of 1 x 1 x 2
    assert adapted.network == source.plan.network.model_copy(update={"out_channels": 2})
    assert adapted.normalization == (scaled, plan.normalization[1])  # t1 as in the source, flair as planned
    assert (adapted.patch_size, adapted.batch_size) == ((16, 16, 16), 4)
    assert adapted.optimizer == plan.optimizer
    assert adapted.reasons["spacing"] == adapted.reasons["patch_size"] == "that of source"
    assert adapted.reasons["fine_tuning"] == "spacing, network and intensities of source, so that its weights fit"


@pytest.mark.parametrize("features", [(4, 6, 8), (8, 12, 16)])
def test_a_dear_patch_is_made_smaller(features: tuple[int, ...]) -> None:
    source = build_model(patch_size=(64, 64, 32), features=features)
    plan = build_plan(patch_size=(32, 32, 16), batch_size=4)
    adapted = adapt_plan(plan, TASK, source)
    affordable = 32 * 32 * 16 * 4 * 4 / features[0]
    used = math.prod(adapted.patch_size) * adapted.batch_size
    assert affordable / 2 < used <= affordable
    assert adapted.batch_size >= 2
    assert all(n % 4 == 0 and n <= limit for n, limit in zip(adapted.patch_size, (64, 64, 32), strict=True))
    assert adapted.reasons["patch_size"] == "that of source, made smaller to keep an iteration as cheap as planned"


def test_a_patch_is_never_smaller_than_the_network_needs() -> None:
    source = build_model(depth=4, patch_size=(64, 64, 64))
    adapted = adapt_plan(build_plan(patch_size=(8, 8, 8), batch_size=2), TASK, source)
    assert (adapted.patch_size, adapted.batch_size) == ((16, 16, 16), 2)  # two voxels per axis in the coarsest stage


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modality": "CT"}, "own plan, because the modality of source is CT, not MR"),
        ({"configuration": "3d-low"}, "own plan, because the configuration of source is 3d-low, not 3d"),
    ],
)
def test_other_images_keep_their_own_plan(changes: dict[str, Any], words: str) -> None:
    plan = build_plan()
    adapted = adapt_plan(plan, TASK, build_model(depth=4, **changes))
    assert adapted == plan.model_copy(update={"reasons": {"fine_tuning": words}})


def test_what_the_budget_bought_is_said_to_be_of_the_other_plan() -> None:
    plan = build_plan(reasons={"budget": "a step takes 1 s here"})
    adapted = adapt_plan(plan, TASK, build_model(depth=4))
    assert (
        adapted.reasons["budget"]
        == "of the plan that was made for the new data, not of this one: a step takes 1 s here"
    )
    own = adapt_plan(plan, TASK, build_model(modality="CT"))
    assert own.reasons["budget"] == "a step takes 1 s here"


def test_with_the_adapted_plan_all_but_new_names_fits() -> None:
    task = change_task(labels={"bladder": (1,), "femur": (2,), "rectum": (3,)})
    source = build_model(depth=4, spacing=(0.7, 0.7, 2.0))
    plan = adapt_plan(build_plan(task), task, source)
    network = build_network(plan.network)
    report = load_matching_weights(network, task, plan, source)
    assert report.fresh == ()
    assert all("heads" in name for name in report.in_part)
