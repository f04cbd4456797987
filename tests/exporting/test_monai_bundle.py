"""A bundle makes, with MONAI alone, the mask that medunet makes."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import ORACLE_HU, ORACLE_TASK, AboveThresholds, NearestIntensity
from scipy.ndimage import gaussian_filter

from medunet.errors import ModelError
from medunet.exporting import export
from medunet.inference import Segmenter
from medunet.io import read_label_map, write_nifti_image
from medunet.models import Model, Postprocessing
from medunet.planning import Normalization
from medunet.tasks import Task
from medunet.volume import Volume

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's own, in MONAI's own program

SPACING = (1.0, 1.25, 2.0)
MIN_EQUAL = 0.999
"""Share of the voxels with the same label; the rest lies on borders, where tiles and borders of splines differ."""
REGIONS = Task(
    name="regions-ct",
    title="Regions",
    modality="CT",
    channels=("ct",),
    labels={"soft": (1, 2), "hard": (2,)},  # type: ignore[arg-type]
    intensity="none",
)


@pytest.fixture
def scan(make_volume: Any) -> Volume:
    """Smooth densities in air, on another grid than the network's."""
    volume = make_volume(shape=(33, 29, 18), spacing=(0.9, 1.2, 2.3), orientation="LPI")
    noise = gaussian_filter(np.random.default_rng(0).normal(size=volume.spatial_shape), 3)
    field = (400 + 700 * noise / np.abs(noise).max()).astype(np.float32)
    field[:4], field[:, :3], field[:, :, -2:] = -1000, -1000, -1000
    return volume.with_array(field[None])


def run_bundle(bundle: Path, scan: Path | list[Path], output: Path, *, name: str = "scan") -> Volume:
    """In this process: `python -m monai.bundle run` does no more with these arguments."""
    from monai.bundle import run

    run(
        config_file=str(bundle / "configs/inference.json"),
        bundle_root=str(bundle),
        scan=[str(path) for path in scan] if isinstance(scan, list) else str(scan),
        output_dir=str(output),
    )
    return read_label_map(output / f"{name}_seg.nii.gz")


def normalize_centres(rule: Normalization) -> list[float]:
    return [(min(max(hu, rule.lower), rule.upper) - rule.mean) / rule.std for hu in ORACLE_HU]  # type: ignore[type-var, operator]


WINDOW = Normalization(rule="ct-window", lower=-900.0, upper=800.0, mean=120.0, std=250.0)


@pytest.mark.parametrize(
    ("task", "network", "rule", "patch_size"),
    [
        (ORACLE_TASK, NearestIntensity(list(ORACLE_HU)), Normalization(rule="none"), (16, 12, 8)),
        (ORACLE_TASK, NearestIntensity(normalize_centres(WINDOW)), WINDOW, (16, 12, 8)),
        (ORACLE_TASK, NearestIntensity([-2.0, -1.2, -0.4, 0.2, 0.6, 1.4]), Normalization(rule="zscore"), (64, 12, 8)),
        (REGIONS, AboveThresholds([200.0, 600.0]), Normalization(rule="none"), (16, 12, 8)),
    ],
    ids=["none", "window", "zscore-small", "regions"],
)
def test_the_mask_is_that_of_medunet(
    build_oracle: Callable[..., Model],
    tmp_path: Path,
    scan: Volume,
    task: Task,
    network: Any,
    rule: Any,
    patch_size: Any,
) -> None:
    model = build_oracle(task, spacing=SPACING, patch_size=patch_size, network=network)
    model = replace(model, plan=model.plan.model_copy(update={"normalization": (rule,)}))
    write_nifti_image(scan, tmp_path / "scan.nii.gz")
    expected = Segmenter(model, "cpu").segment(tmp_path / "scan.nii.gz").labels
    export(model, "monai-bundle", tmp_path / "bundle")
    found = run_bundle(tmp_path / "bundle", tmp_path / "scan.nii.gz", tmp_path / "masks")
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    assert len(np.unique(expected.array)) >= 3
    assert np.array_equal(np.unique(found.array), np.unique(expected.array))
    assert (found.array == expected.array).mean() >= MIN_EQUAL


class SeesAround(torch.nn.Module):
    """The second channel at a voxel, beside its mean over the patch: what surrounds a small scan counts."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = torch.nn.Parameter(torch.tensor([-2.5, 0.0, 1.0]))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        seen = patches[:, 1:2] + 0.5 * patches[:, 1:2].mean((2, 3, 4), keepdim=True)
        return -((seen - self.centres.reshape(1, -1, 1, 1, 1)) ** 2)


@pytest.mark.parametrize("nonzero_only", [True, False])
def test_channels_of_mr_are_seen_as_medunet_sees_them(
    build_oracle: Callable[..., Model], tmp_path: Path, scan: Volume, nonzero_only: bool
) -> None:
    # In the second channel a part of the body is black, and all of it is darker than the first.
    task = ORACLE_TASK.model_copy(update={"modality": "MR", "channels": ("t1", "t2"), "labels": {"a": (1,), "b": (2,)}})
    image = np.where(scan.array > -1000, scan.array + 500, 0)[0]
    other = 0.1 * image[::-1, ::-1].copy()
    other[image == 0] = 0
    other[10:22, 8:18, :9] = 0
    for name, channel in (("t1", image), ("t2", other if nonzero_only else other - 500)):
        write_nifti_image(scan.with_array(channel[None].astype(np.float32)), tmp_path / f"{name}.nii.gz")
    scans = [tmp_path / "t1.nii.gz", tmp_path / "t2.nii.gz"]
    # The scan's own voxel size, which leaves nothing to interpolate; a patch that is larger than the scan.
    model = build_oracle(task, spacing=(0.9, 1.2, 2.3), patch_size=(40, 32, 24), network=SeesAround())
    rules = (Normalization(rule="zscore", nonzero_only=nonzero_only),) * 2
    model = replace(model, plan=model.plan.model_copy(update={"normalization": rules}))
    expected = Segmenter(model, "cpu").segment(scans).labels
    export(model, "monai-bundle", tmp_path / "bundle")
    found = run_bundle(tmp_path / "bundle", scans, tmp_path / "masks", name="t1")
    assert len(np.unique(expected.array)) >= 2
    assert (found.array == expected.array).mean() >= MIN_EQUAL


def test_the_bundle_says_what_it_is(build_oracle: Callable[..., Model], tmp_path: Path) -> None:
    export(build_oracle(is_synthetic=True), "monai-bundle", tmp_path / "bundle")
    files = sorted(path.relative_to(tmp_path / "bundle").as_posix() for path in (tmp_path / "bundle").rglob("*.*"))
    assert files == ["configs/inference.json", "configs/metadata.json", "docs/README.md", "models/model.ts"]
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    required = ("version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "description")
    assert all(metadata[name] for name in (*required, "authors", "copyright", "required_packages_version"))
    formats = metadata["network_data_format"]
    assert formats["inputs"]["image"]["channel_def"] == {"0": "ct"}
    assert formats["outputs"]["pred"]["channel_def"]["5"] == "bone"
    assert metadata["medunet"]["output"]["channels"][5] == {"label": "bone", "values": [7]}
    assert "synthetic images only" in (tmp_path / "bundle" / "docs" / "README.md").read_text()


def test_what_the_bundle_leaves_out_is_said(
    build_oracle: Callable[..., Model], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = replace(build_oracle(), postprocessing=Postprocessing(keep_largest=("bone",)))
    with caplog.at_level(logging.WARNING, "medunet"):
        export(model, "monai-bundle", tmp_path / "bundle")
    assert "leaves out the model's post-processing (largest part kept of bone)" in caplog.text


def test_channels_of_different_rules_are_refused(build_oracle: Callable[..., Model], tmp_path: Path) -> None:
    model = build_oracle()
    rules = (Normalization(rule="none"), Normalization(rule="zscore"))
    model = replace(model, plan=model.plan.model_copy(update={"normalization": rules}))
    with pytest.raises(ModelError, match=r"different rules \(none, zscore\)"):
        export(model, "monai-bundle", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_the_command_of_monai_runs_the_bundle(build_oracle: Callable[..., Model], tmp_path: Path, scan: Volume) -> None:
    if importlib.util.find_spec("fire") is None:
        pytest.skip("fire is not installed")
    model = build_oracle(spacing=SPACING, patch_size=(16, 12, 8))
    write_nifti_image(scan, tmp_path / "scan.nii.gz")
    export(model, "monai-bundle", tmp_path / "bundle")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    options = ["--bundle_root", ".", "--scan", str(tmp_path / "scan.nii.gz"), "--output_dir", str(tmp_path / "masks")]
    result = subprocess.run([*command, *options], cwd=tmp_path / "bundle", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    expected = Segmenter(model, "cpu").segment(tmp_path / "scan.nii.gz").labels
    found = read_label_map(tmp_path / "masks" / "scan_seg.nii.gz")
    assert (found.array == expected.array).mean() >= MIN_EQUAL
