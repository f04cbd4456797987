"""A cascade's second network sees what the first one found: where it is, as one channel per label."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import COARSE_PLAN, TASK, write_network, write_run
from oracles import build_plan_for, build_record
from torch import Tensor, nn

from medunet.inference import (
    Predictor,
    Segmenter,
    append_previous_labels,
    compute_logits,
    load,
    restore_label_map,
)
from medunet.models import Ensemble, Model, Postprocessing, read_single_model
from medunet.networks import build_network
from medunet.planning import Normalization, Plan
from medunet.preprocessing import preprocess_image
from medunet.tasks import Task
from medunet.volume import Volume

CPU = torch.device("cpu")
LOW_PLAN = COARSE_PLAN.model_copy(update={"configuration": "3d-low"})


def make_cascade_plan(task: Task = TASK, patch_size: tuple[int, int, int] = (8, 12, 8)) -> Plan:
    plan = build_plan_for(task, (1.0, 1.25, 2.0), patch_size)
    network = plan.network.model_copy(update={"in_channels": 1 + len(task.labels)})
    return plan.model_copy(
        update={"configuration": "cascade", "num_previous_labels": len(task.labels), "network": network}
    )


@pytest.fixture
def scan(make_volume: Any) -> Volume:
    volume: Volume = make_volume(shape=(15, 9, 21), spacing=(1.1, 2.1, 0.9), orientation="PSL")
    return volume.with_array((volume.array - 100) / 40)


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    folder = write_network(tmp_path / "cascade", plan=make_cascade_plan(), seed=1)
    write_network(folder / "low", plan=LOW_PLAN, seed=2)
    return folder


# ---- channels --------------------------------------------------------------------------------------------------------


def test_a_label_map_becomes_one_channel_per_label_behind_the_image() -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    image = Volume(np.arange(12, dtype=np.float32).reshape(2, 1, 2, 3), affine)
    labels = Volume(np.array([[[[0, 1, 3], [3, 0, 1]]]], np.uint8), affine)
    seen = append_previous_labels(image, labels, TASK)
    assert np.array_equal(seen.array[:2], image.array)
    assert seen.array[2:, 0].tolist() == [[[0, 1, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0]]]
    assert seen.array.dtype == np.float32
    assert np.array_equal(seen.affine, affine)


def test_regions_within_each_other_share_voxels() -> None:
    task = Task.model_validate(TASK.model_dump() | {"labels": {"core": (5,), "whole": (2, 5)}, "ignore": 9})
    image = Volume(np.zeros((1, 1, 1, 4), np.float32), np.eye(4))
    seen = append_previous_labels(image, image.with_array(np.array([[[[0, 2, 5, 9]]]])), task)
    assert seen.array[1:, 0, 0].tolist() == [[0, 0, 1, 0], [0, 1, 1, 0]]  # core, whole; ignored is neither


def test_the_channels_lie_where_the_labels_are_on_any_grid(scan: Volume) -> None:
    labels = np.zeros(scan.spatial_shape, np.uint8)
    labels[2:9, 1:6, 3:12], labels[9:14, 5:8, 12:20] = 3, 1
    prepared = preprocess_image(scan, make_cascade_plan())
    seen = append_previous_labels(prepared, scan.with_array(labels[None]), TASK)
    assert seen.num_channels == 3
    assert set(np.unique(seen.array[1:])) == {0.0, 1.0}
    for channel, value in ((1, 1), (2, 3)):
        voxels = np.argwhere(labels == value).mean(0)
        found = np.argwhere(seen.array[channel] > 0).mean(0)
        expected = scan.affine[:3, :3] @ voxels + scan.affine[:3, 3]
        distance_mm = np.linalg.norm(seen.affine[:3, :3] @ found + seen.affine[:3, 3] - expected)
        assert distance_mm < 0.6  # a shift by half a voxel would be more
        volume_ml = (labels == value).sum() * scan.voxel_volume_mm3
        assert (seen.array[channel] > 0).sum() * seen.voxel_volume_mm3 == pytest.approx(volume_ml, rel=0.2)


# ---- around the volume -----------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, patches: Tensor) -> Tensor:
        self.seen.append(patches)
        return patches


@pytest.mark.parametrize(("nonzero_only", "around"), [(False, 3.0), (True, 0.0)])
def test_around_a_small_volume_nothing_was_found_before(nonzero_only: bool, around: float) -> None:
    plan = make_cascade_plan(patch_size=(4, 4, 4)).model_copy(
        update={"normalization": (Normalization(rule="zscore", nonzero_only=nonzero_only),)}
    )
    image = np.full((3, 2, 2, 2), 5.0, np.float32)
    image[0, 0, 0, 0] = 3.0
    image[1:] = 1.0  # found everywhere
    recorder = Recorder()
    compute_logits(recorder, Volume(image, np.eye(4)), plan, CPU, "32-true")
    (patches,) = recorder.seen
    assert torch.equal(patches[0, :, :2, :2, :2], torch.from_numpy(image))
    outside = patches[0].clone()
    outside[:, :2, :2, :2] = torch.tensor([around, 0.0, 0.0])[:, None, None, None]
    assert torch.equal(outside, torch.tensor([around, 0.0, 0.0])[:, None, None, None].expand(3, 4, 4, 4))


# ---- both stages -----------------------------------------------------------------------------------------------------


def test_the_second_network_sees_the_mask_of_the_first(cascade: Path, scan: Volume) -> None:
    model = read_single_model(cascade)
    low = read_single_model(cascade / "low")
    coarse = preprocess_image(scan, LOW_PLAN)
    found = restore_label_map(compute_logits(low.network, coarse, LOW_PLAN, CPU, "32-true"), coarse, scan, TASK)
    assert len(np.unique(found.array)) == 3
    seen = append_previous_labels(preprocess_image(scan, model.plan), found, TASK)
    expected = compute_logits(model.network, seen, model.plan, CPU, "32-true")
    (prediction,) = Predictor(model, CPU, "32-true").predict(scan)
    assert torch.equal(prediction.logits, expected)
    blind = append_previous_labels(preprocess_image(scan, model.plan), found.with_array(found.array * 0), TASK)
    assert not torch.allclose(compute_logits(model.network, blind, model.plan, CPU, "32-true"), expected, atol=1e-3)
    mask = Segmenter(model, "cpu").segment(scan)
    assert mask.labels.spatial_shape == scan.spatial_shape
    assert list(mask.timings) == ["read", "prepare", "low", "network", "restore", "postprocess", "flags"]


class Previous(nn.Module):
    """Says again what was found before: the second stage of a cascade that learnt nothing."""

    def forward(self, patches: Tensor) -> Tensor:
        nothing = 1 - patches[:, 1:].sum(1, keepdim=True)
        return torch.cat([nothing, patches[:, 1:]], 1) * 20


def test_a_label_keeps_its_channel(cascade: Path, scan: Volume) -> None:
    model = dataclasses.replace(
        read_single_model(cascade),
        plan=make_cascade_plan().model_copy(update={"spacing": (0.9, 1.1, 2.1)}),  # the scan's own, along R, A, S
        network=Previous(),  # type: ignore[arg-type]
    )
    assert model.low is not None
    found = Predictor(model.low, CPU, "32-true").segment(scan).array
    again = Predictor(model, CPU, "32-true").segment(scan).array
    assert np.array_equal(found, again)


def test_the_first_stage_is_seen_as_it_was_in_training_without_post_processing(cascade: Path, scan: Volume) -> None:
    model = read_single_model(cascade)
    assert model.low is not None
    kept = Postprocessing(keep_largest=("left", "right"))
    changed = dataclasses.replace(model, low=dataclasses.replace(model.low, postprocessing=kept))
    (one,), (other,) = (Predictor(each, CPU, "32-true").predict(scan) for each in (model, changed))
    assert torch.equal(one.logits, other.logits)


def test_an_ensemble_may_be_the_first_stage(tmp_path: Path, scan: Volume) -> None:
    folder = write_network(tmp_path / "cascade", plan=make_cascade_plan(), seed=1)
    write_run(folder / "low", plan=LOW_PLAN)
    model = read_single_model(folder)
    low = load(folder / "low", device="cpu").segment(scan).labels
    seen = append_previous_labels(preprocess_image(scan, model.plan), low, TASK)
    precision = Segmenter(model, "cpu").precision
    expected = compute_logits(model.network, seen, model.plan, CPU, precision)
    (prediction,) = Predictor(model, CPU, precision).predict(scan)
    assert torch.equal(prediction.logits, expected)


def build_cascade(seed: int, low_seed: int) -> Model:
    def build(plan: Plan, seed: int) -> dict[str, Any]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = build_network(plan.network).eval()
        return {"folder": Path("x"), "task": TASK, "plan": plan, "training": build_record(), "metrics": {}} | {
            "network": network
        }

    return Model(**build(make_cascade_plan(), seed), low=Model(**build(LOW_PLAN, low_seed)))


def test_folds_with_first_stages_of_their_own_average_their_logits(scan: Volume) -> None:
    models = [build_cascade(1, 11), build_cascade(2, 12)]
    expected = torch.stack([Predictor(model, CPU, "32-true").predict(scan)[0].logits for model in models]).mean(0)
    ensemble = Ensemble(
        folder=Path("x"), task=TASK, plan=models[0].plan, training=build_record(), metrics={}, members=tuple(models)
    )
    (prediction,) = Predictor(ensemble, CPU, "32-true").predict(scan)
    assert prediction.num_networks == 2
    torch.testing.assert_close(prediction.logits, expected, rtol=0, atol=1e-5)


def test_a_first_stage_that_folds_share_is_asked_once(
    cascade: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medunet.inference import predictor

    stream, seen = predictor.stream_logits, []

    def count(tiles: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(tiles)
        return stream(tiles, *arguments, **options)

    monkeypatch.setattr(predictor, "stream_logits", count)
    one, other = read_single_model(cascade), read_single_model(cascade)
    ensemble = Ensemble(
        folder=Path("x"), task=TASK, plan=one.plan, training=build_record(), metrics={}, members=(one, other)
    )
    Predictor(ensemble, CPU, "32-true").segment(scan)
    assert len(seen) == 2  # the first stage, then both second stages as one
