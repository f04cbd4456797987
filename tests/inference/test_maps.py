"""Probabilities and entropy on the scan's grid are those of interpolating the networks' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import COARSE_PLAN, PLAN, REGIONS, TASK, build_model, join
from scipy.ndimage import map_coordinates

from medunet.errors import InputError, OutputError
from medunet.inference import InferenceSettings, Segmenter, compute_logits
from medunet.io import read_volume, write_nifti_image
from medunet.models import Model
from medunet.preprocessing import preprocess_image
from medunet.tasks import Task
from medunet.volume import Array, Volume

CPU = torch.device("cpu")


@pytest.fixture
def scan(make_volume: Any) -> Volume:
    volume: Volume = make_volume(shape=(15, 9, 21), spacing=(1.1, 2.1, 0.9), orientation="PSL")
    return volume.with_array((volume.array - 100) / 40)


def interpolate(values: Array, source: Volume, target: Volume) -> Array:
    voxels = np.stack(np.meshgrid(*map(np.arange, target.spatial_shape), indexing="ij")).reshape(3, -1)
    matrix = np.linalg.inv(source.affine) @ target.affine
    found = map_coordinates(values.astype(float), matrix[:3, :3] @ voxels + matrix[:3, 3:], order=1, mode="nearest")
    return np.asarray(found).reshape(target.spatial_shape)


def compute_expected(model: Model, scan: Volume) -> tuple[Array, Array]:
    """Probabilities and entropy by the definition, with scipy."""
    prepared = preprocess_image(scan, model.plan)
    logits = compute_logits(model.network, prepared, model.plan, CPU, "32-true").double()
    if model.task.has_regions:
        inside = torch.sigmoid(logits)
        both = torch.stack([inside, 1 - inside])
        entropy = (torch.special.entr(both).sum(0) / np.log(2)).amax(0)
        return np.stack([interpolate(one.numpy(), prepared, scan) for one in inside]), interpolate(
            entropy.numpy(), prepared, scan
        )
    probabilities = torch.softmax(logits, 0)
    entropy = torch.special.entr(probabilities).sum(0) / np.log(len(probabilities))
    return np.stack([interpolate(one.numpy(), prepared, scan) for one in probabilities]), interpolate(
        entropy.numpy(), prepared, scan
    )


@pytest.mark.parametrize("task", [TASK, REGIONS], ids=["labels", "regions"])
def test_maps_in_memory(scan: Volume, task: Task) -> None:
    model = build_model(1, task=task)
    segmenter = Segmenter(model, "cpu")
    segmenter.precision = "32-true"
    found = Segmenter(model, "cpu").segment(scan, probabilities=True, uncertainty=True)
    assert found.probabilities is not None
    assert found.uncertainty is not None
    probabilities, entropy = compute_expected(model, scan)
    tolerance = 0.02 if segmenter.device.type == "cpu" else 0.05  # the network may compute in bfloat16
    assert np.abs(found.probabilities.array - probabilities).max() < tolerance
    assert np.abs(found.uncertainty.array[0] - entropy).max() < 2 * tolerance
    assert np.array_equal(found.probabilities.affine, scan.affine)
    assert found.labels.array.any()


@pytest.mark.parametrize("orientation", ["RAS", "PSL"])
def test_maps_on_the_disk_are_those_in_memory(tmp_path: Path, make_volume: Any, orientation: str) -> None:
    scan = make_volume(shape=(15, 9, 21), spacing=(1.1, 2.1, 0.9), orientation=orientation)
    write_nifti_image(scan.with_array((scan.array - 100) / 40), tmp_path / "scan.nii.gz")
    segmenter = Segmenter(build_model(1), "cpu")
    in_memory = segmenter.segment(tmp_path / "scan.nii.gz", probabilities=True, uncertainty=True)
    found = segmenter.segment(
        tmp_path / "scan.nii.gz", probabilities=tmp_path / "p.nii.gz", uncertainty=tmp_path / "u.nii.gz"
    )
    assert found.probabilities is None
    assert "maps" in found.timings
    for name, expected in (("p", in_memory.probabilities), ("u", in_memory.uncertainty)):
        assert expected is not None
        map_ = read_volume(tmp_path / f"{name}.nii.gz")
        assert np.abs(map_.array - expected.array.astype(np.float32)).max() <= 0.5 / 255 + 1e-3
        assert np.array_equal(map_.affine, read_volume(tmp_path / "scan.nii.gz").affine)
    assert np.allclose(read_volume(tmp_path / "p.nii.gz").array.sum(0), 1, atol=0.01)


def test_around_the_body_background_is_certain(build_oracle: Callable[..., Model], make_densities: Any) -> None:
    scan, _ = make_densities(shape=(9, 8, 11), spacing=(1.0, 2.0, 1.5), orientation="RAS")
    wide = Volume(np.pad(scan.array, [(0, 0), (13, 10), (9, 5), (7, 12)], constant_values=-1000), scan.affine)
    found = Segmenter(build_oracle(spacing=(1.0, 2.0, 1.5)), "cpu").segment(wide, probabilities=True, uncertainty=True)
    assert found.probabilities is not None
    assert found.uncertainty is not None
    assert found.probabilities.array[:, 0, 0, 0].tolist() == [1, 0, 0, 0, 0, 0]
    assert found.uncertainty.array[0, 0, 0, 0] == 0
    assert np.isfinite(found.probabilities.array).all()


def test_a_failure_leaves_no_map(tmp_path: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("medunet.inference.restoring.LabelPainter.finish", fail)
    with pytest.raises(MemoryError):
        Segmenter(build_model(1), "cpu").segment(scan, probabilities=tmp_path / "p.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_networks_of_different_plans_have_no_common_maps(scan: Volume) -> None:
    ensemble = join(build_model(0, PLAN), build_model(1, COARSE_PLAN))
    with pytest.raises(InputError, match="2 plans"):
        Segmenter(ensemble, "cpu", InferenceSettings()).segment(scan, probabilities=True)


@pytest.mark.parametrize("name", ["scan.nii.gz", "link.nii.gz"])
def test_a_map_never_replaces_the_scan(tmp_path: Path, scan: Volume, name: str) -> None:
    write_nifti_image(scan, tmp_path / "scan.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "scan.nii.gz")
    before = (tmp_path / "scan.nii.gz").read_bytes()
    segmenter = Segmenter(build_model(1), "cpu")
    for given in (tmp_path / "scan.nii.gz", [tmp_path / "scan.nii.gz"]):
        with pytest.raises(OutputError, match="is the input"):
            segmenter.segment(given, uncertainty=tmp_path / name)
    assert (tmp_path / "scan.nii.gz").read_bytes() == before


def test_names_of_maps_are_judged_before_anything_is_computed(
    tmp_path: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter(build_model(1), "cpu")
    monkeypatch.setattr(segmenter, "_predictor", None)
    with pytest.raises(OutputError, match="both"):
        segmenter.segment(scan, probabilities=tmp_path / "map.nii", uncertainty=tmp_path / "x" / ".." / "map.nii")
    with pytest.raises(OutputError, match="must end in"):
        segmenter.segment(scan, probabilities=tmp_path / "map.nrrd")
    assert list(tmp_path.iterdir()) == []
