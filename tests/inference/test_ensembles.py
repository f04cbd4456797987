"""Several networks give exactly the mean that is defined: of logits where plans agree, of probabilities elsewhere."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import COARSE_PLAN, PLAN, REGIONS, TASK, build_model, join, write_network, write_run
from oracles import build_plan_for
from scipy.ndimage import map_coordinates
from torch import Tensor

from medunet.inference import (
    InferenceSettings,
    Prediction,
    Predictor,
    Segmenter,
    collect_logits,
    compute_logits,
    load,
    merge_predictions,
    plan_tiles,
)
from medunet.inference import predictor as predictor_module
from medunet.inference import restoring as restoring_module
from medunet.models import AnyModel, MeasuredSpeed, Model, Postprocessing, SpeedRecord
from medunet.planning import Plan
from medunet.preprocessing import preprocess_image
from medunet.tasks import Task, list_class_values
from medunet.volume import Array, Volume, build_grid

CPU = torch.device("cpu")
FLAT_PLAN = build_plan_for(TASK, (1.0, 1.25, 2.0), (16, 16, 1)).model_copy(
    update={
        "configuration": "2d",
        "network": PLAN.network.model_copy(
            update={"spatial_dims": 2, "strides": ((1, 1, 1), (2, 2, 1)), "kernels": ((3, 3, 1), (3, 3, 1))}
        ),
    }
)


@pytest.fixture
def scan(make_volume: Any) -> Volume:
    volume: Volume = make_volume(shape=(15, 19, 11), spacing=(1.0, 1.25, 2.0), orientation="RAS")
    return volume.with_array((volume.array - 100) / 40)


@pytest.fixture
def turned_scan(make_volume: Any) -> Volume:
    volume: Volume = make_volume(shape=(15, 9, 21), spacing=(1.1, 2.1, 0.9), orientation="PSL")
    return volume.with_array((volume.array - 100) / 40)


def predict(model: AnyModel, scan: Volume) -> list[Prediction]:
    return Predictor(model, CPU, "32-true").predict(scan)


def segment(model: AnyModel, scan: Volume) -> Array:
    return Predictor(model, CPU, "32-true").segment(scan).array


def compute_alone(model: Model, scan: Volume) -> tuple[Tensor, Volume]:
    """Logits of one network and where they lie, by the steps of a single model."""
    prepared = preprocess_image(scan, model.plan)
    return compute_logits(model.network, prepared, model.plan, CPU, "32-true"), prepared


def interpolate(values: Array, source: Volume, target: Volume) -> Array:
    """Linear interpolation by scipy, clamped at the border."""
    voxels = np.stack(np.meshgrid(*map(np.arange, target.spatial_shape), indexing="ij")).reshape(3, -1)
    matrix = np.linalg.inv(source.affine) @ target.affine
    found = map_coordinates(values.astype(float), matrix[:3, :3] @ voxels + matrix[:3, 3:], order=1, mode="nearest")
    return np.asarray(found).reshape(target.spatial_shape)


def compute_mean_probabilities(models: Sequence[Model], scan: Volume) -> Array:
    """Mean over networks of softmax or sigmoid on the scan's grid, ``(outputs, I, J, K)``."""
    means = []
    for model in models:
        logits, prepared = compute_alone(model, scan)
        probabilities = torch.sigmoid(logits) if model.task.has_regions else torch.softmax(logits.double(), 0)
        means.append([interpolate(one.numpy(), prepared, scan) for one in probabilities])
    return np.mean(means, axis=0)


# ---- one plan ----------------------------------------------------------------------------------------------------------


def test_two_identical_networks_are_one_bit_for_bit(turned_scan: Volume) -> None:
    alone, twice = build_model(0), join(build_model(0), build_model(0))
    (one,), (two,) = predict(alone, turned_scan), predict(twice, turned_scan)
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(one.logits, compute_alone(alone, turned_scan)[0])
    assert (one.num_networks, two.num_networks) == (1, 2)
    assert np.array_equal(segment(alone, turned_scan), segment(twice, turned_scan))


def test_an_ensemble_of_one_is_the_network_itself(turned_scan: Volume) -> None:
    (one,), (same,) = predict(build_model(4), turned_scan), predict(join(build_model(4)), turned_scan)
    assert torch.equal(one.logits, same.logits)


def test_networks_of_one_plan_average_their_logits(turned_scan: Volume) -> None:
    models = [build_model(seed) for seed in range(3)]
    expected = torch.stack([compute_alone(model, turned_scan)[0].double() for model in models]).mean(0)
    (found,) = predict(join(*models), turned_scan)
    torch.testing.assert_close(found.logits.double(), expected, rtol=0, atol=1e-5)
    assert found.num_networks == 3
    assert not any(torch.allclose(found.logits, predict(model, turned_scan)[0].logits, atol=1e-3) for model in models)


def test_on_its_own_grid_the_largest_mean_logit_wins(scan: Volume) -> None:
    models = [build_model(seed) for seed in (5, 6)]
    mean = torch.stack([compute_alone(model, scan)[0].double() for model in models]).mean(0).numpy()
    expected = np.array(list_class_values(TASK))[mean.argmax(0)]
    assert np.array_equal(segment(join(*models), scan)[0], expected)
    assert len(np.unique(expected)) > 1
    assert not np.array_equal(segment(models[0], scan)[0], expected)


def test_networks_of_one_plan_share_preprocessing_and_tiles(scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, windows = [], []

    def count_prepared(*arguments: Any) -> Volume:
        prepared.append(arguments)
        return preprocess_image(*arguments)

    def count_windows(*arguments: Any, **options: Any) -> Tensor:
        windows.append(arguments)
        return collect_logits(*arguments, **options)

    monkeypatch.setattr(predictor_module, "preprocess_image", count_prepared)
    monkeypatch.setattr(predictor_module, "collect_logits", count_windows)
    predict(join(build_model(0), build_model(1), build_model(2)), scan)
    assert (len(prepared), len(windows)) == (1, 1)
    predict(join(build_model(0), build_model(1, FLAT_PLAN)), scan)
    assert (len(prepared), len(windows)) == (2, 3)  # the same voxels, other patches
    predict(join(build_model(0), build_model(1, COARSE_PLAN), build_model(2)), scan)
    assert (len(prepared), len(windows)) == (4, 5)


def test_what_is_only_about_training_divides_no_networks(scan: Volume) -> None:
    other = PLAN.model_copy(update={"reasons": {"x": "y"}, "batch_size": 2, "median_shape": (9, 9, 9)})
    (prediction,) = predict(join(build_model(0), build_model(1, other)), scan)
    assert prediction.num_networks == 2


# ---- several plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other_plan", [COARSE_PLAN, FLAT_PLAN], ids=["coarse", "2d"])
def test_networks_of_different_plans_average_their_probabilities_on_the_scan(
    turned_scan: Volume, other_plan: Plan
) -> None:
    models = [build_model(0), build_model(1, other_plan)]
    mean = compute_mean_probabilities(models, turned_scan)
    found = segment(join(*models), turned_scan)[0]
    ordered = np.sort(mean, axis=0)
    certain = ordered[-1] - ordered[-2] > 1e-5
    assert certain.mean() > 0.99
    assert np.array_equal(found[certain], np.array(list_class_values(TASK))[mean.argmax(0)][certain])
    for model in models:  # neither decides alone
        assert not np.array_equal(found, segment(model, turned_scan)[0])


def test_regions_are_where_the_mean_probability_is_above_one_half(turned_scan: Volume) -> None:
    models = [build_model(2, task=REGIONS), build_model(3, COARSE_PLAN, task=REGIONS)]
    core, whole, other = compute_mean_probabilities(models, turned_scan)
    expected = np.zeros(turned_scan.spatial_shape, int)
    expected[whole > 0.5] = 1
    expected[core > 0.5] = 2
    expected[other > 0.5] = 3
    found = segment(join(*models), turned_scan)[0]
    certain = np.min([np.abs(mean - 0.5) for mean in (core, whole, other)], axis=0) > 1e-5
    assert certain.mean() > 0.99
    assert np.array_equal(found[certain], expected[certain])
    assert len(np.unique(found)) > 2


def test_every_network_counts_once_however_they_are_grouped(turned_scan: Volume) -> None:
    # The first two average logits, so the expected share of their softmax is two thirds.
    models = [build_model(0), build_model(1), build_model(2, COARSE_PLAN)]
    logits = torch.stack([compute_alone(model, turned_scan)[0] for model in models[:2]]).mean(0)
    prepared = preprocess_image(turned_scan, PLAN)
    of_pair = np.stack([interpolate(one.numpy(), prepared, turned_scan) for one in torch.softmax(logits, 0)])
    mean = (2 * of_pair + compute_mean_probabilities(models[2:], turned_scan)) / 3
    found = segment(join(*models), turned_scan)[0]
    ordered = np.sort(mean, axis=0)
    certain = ordered[-1] - ordered[-2] > 1e-5
    assert np.array_equal(found[certain], np.array(list_class_values(TASK))[mean.argmax(0)][certain])
    even = (of_pair + compute_mean_probabilities(models[2:], turned_scan)) / 2
    assert not np.array_equal(even.argmax(0), mean.argmax(0))


def test_the_order_of_members_does_not_matter(turned_scan: Volume) -> None:
    models = [build_model(0), build_model(1, COARSE_PLAN), build_model(2, FLAT_PLAN)]
    assert np.array_equal(segment(join(*models), turned_scan), segment(join(*models[::-1]), turned_scan))


def test_memory_does_not_grow_with_the_number_of_labels(scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    resample, alive, most = restoring_module.resample_linear, list[weakref.ref[Tensor]](), []

    def watch(*arguments: Any) -> Tensor:
        most.append(sum(one() is not None for one in alive))
        map_ = resample(*arguments)
        alive.append(weakref.ref(map_))
        return map_

    monkeypatch.setattr(restoring_module, "resample_linear", watch)
    task = Task.model_validate(TASK.model_dump() | {"labels": {f"label {n}": (n,) for n in range(1, 12)}})
    segment(join(build_model(0, task=task), build_model(1, COARSE_PLAN, task=task)), scan)
    assert len(alive) == 2 * 12
    assert max(most) <= 1


def test_predictions_of_one_plan_merge_into_the_mean_over_networks() -> None:
    grid = build_grid((1, 1, 2), np.eye(4))
    logits = torch.tensor([[[[0.0, 4.0]]], [[[1.0, -2.0]]]])
    three = Prediction(logits=logits, grid=grid, plan=PLAN, num_networks=3)
    one = Prediction(logits=logits + 4, grid=grid, plan=PLAN.model_copy(update={"batch_size": 1}))
    other = Prediction(logits=logits, grid=grid, plan=COARSE_PLAN)
    merged, alone = merge_predictions([three, other, one])
    assert alone is other
    assert merged.num_networks == 4
    assert torch.equal(merged.logits, logits + 1)
    assert three.logits[0, 0, 0].tolist() == [0.0, 4.0]  # what came in stays as it was


# ---- the whole way -----------------------------------------------------------------------------------------------------


def test_a_folder_of_folds_segments_with_all_of_them(tmp_path: Path, turned_scan: Volume) -> None:
    run = write_run(tmp_path / "run")
    segmenter = load(run, device="cpu")
    members = [load(run / f"fold_{fold}", device="cpu").model for fold in range(2)]
    expected = Segmenter(join(*members), "cpu").segment(turned_scan)  # type: ignore[arg-type]
    found = segmenter.segment(turned_scan)
    assert np.array_equal(found.labels.array, expected.labels.array)
    assert np.array_equal(found.labels.affine, turned_scan.affine)
    assert list(found.timings) == ["read", "prepare", "network", "restore", "postprocess", "flags"]
    assert (segmenter.task, segmenter.plan) == (TASK, PLAN)


@pytest.mark.parametrize(
    ("speed", "flips_gain", "expected"),
    [  # networks, passes of each tile, step
        ("fast", True, (1, 1, 0.75)),
        ("balanced", False, (3, 1, 0.5)),
        ("balanced", True, (3, 2, 0.5)),
        ("best", False, (3, 2, 0.5)),
    ],
)
def test_a_speed_decides_about_networks_passes_and_steps(
    scan: Volume, speed: Any, flips_gain: bool, expected: tuple[int, int, float]
) -> None:
    num_networks, num_passes, step = expected
    models = [build_model(seed) for seed in range(3)]
    seen = [0] * len(models)
    for number, model in enumerate(models):

        def count(_: Any, inputs: tuple[Tensor], number: int = number) -> None:
            seen[number] += len(inputs[0])

        model.network.register_forward_pre_hook(count)
    usual = MeasuredSpeed(step_fraction=0.5, num_flips=1, dice=0.8, seconds=1.0)
    mirrored = usual.model_copy(update={"num_flips": 2, "dice": 0.81 if flips_gain else 0.8})
    ensemble = dataclasses.replace(join(*models), speed=SpeedRecord.of(3, usual, usual, mirrored))
    Segmenter(ensemble, "cpu", InferenceSettings(speed=speed, skip_air=False)).segment(scan)
    shape = preprocess_image(scan, PLAN).spatial_shape
    num_tiles = len(plan_tiles(shape, PLAN.patch_size, step_fraction=step))
    assert num_tiles != len(plan_tiles(shape, PLAN.patch_size, step_fraction=1.25 - step))
    assert seen == [num_passes * num_tiles] * num_networks + [0] * (3 - num_networks)


def test_the_post_processing_is_that_of_the_ensemble(scan: Volume) -> None:
    members = [
        dataclasses.replace(build_model(seed), postprocessing=Postprocessing(keep_largest=("left", "right")))
        for seed in (5, 6)
    ]
    ensemble = join(*members)
    segmenter = Segmenter(ensemble, "cpu")
    raw = Predictor(ensemble, CPU, segmenter.precision).segment(scan).array
    assert np.array_equal(segmenter.segment(scan).labels.array, raw)
    kept = dataclasses.replace(ensemble, postprocessing=Postprocessing(keep_largest=("left", "right")))
    reduced = Segmenter(kept, "cpu").segment(scan).labels.array
    assert (reduced != raw).any()
    assert np.array_equal(reduced[reduced > 0], raw[reduced > 0])


def test_the_command_takes_an_ensemble(tmp_path: Path, turned_scan: Volume, medunet_command: Any) -> None:
    from medunet.io import read_label_map, write_nifti_image

    run = write_run(tmp_path / "run")
    write_nifti_image(turned_scan, tmp_path / "scan.nii.gz")
    outcome = medunet_command("infer", tmp_path / "scan.nii.gz", "-o", tmp_path / "mask.nii.gz", "--model", run)
    assert outcome.exit_code == 0, outcome.err
    expected = load(run).segment(tmp_path / "scan.nii.gz").labels
    assert np.array_equal(read_label_map(tmp_path / "mask.nii.gz").array, expected.array)


def test_a_damaged_member_is_refused_before_anything_is_segmented(tmp_path: Path, medunet_command: Any) -> None:
    run = write_run(tmp_path / "run")
    (run / "fold_1" / "weights.safetensors").write_bytes(b"")
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"never read")
    outcome = medunet_command("infer", scan, "-o", tmp_path / "mask.nii.gz", "--model", run)
    outcome.check_refused("fold_1", "no whole safetensors file")


def test_write_network_gives_what_the_tests_assume(tmp_path: Path) -> None:
    """Different seeds, different networks: else every test of means would pass by chance."""
    one, other = (load(write_network(tmp_path / str(seed), seed=seed), device="cpu").model for seed in (0, 1))
    patches = torch.randn(1, 1, *PLAN.patch_size)
    with torch.no_grad():
        assert not torch.allclose(one.network(patches), other.network(patches), atol=1e-3)  # type: ignore[union-attr]
