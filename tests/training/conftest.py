"""A dataset so small that a training takes a second, and the calls that train on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medunet.io import write_nifti_image, write_nifti_labels
from medunet.planning import Effort
from medunet.preprocessing import StoredCase
from medunet.tasks import Task, load_task
from medunet.training import TrainingResult
from medunet.volume import Volume

TASK = """
name: tiny-mr
title: Two blobs
modality: MR
channels: [t1]
labels: {left: 1, right: 3}
ignore: 9
laterality: [[left, right]]
intensity: zscore
budget: 4it
"""
SHAPE = (20, 24, 16)


def write_tiny_dataset(folder: Path, *, num_cases: int = 5) -> None:
    """A bright blob on either side of noise; the left one is brighter."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    for number in range(num_cases):
        rng = np.random.default_rng(number)
        image = rng.normal(100, 10, SHAPE)
        labels = np.zeros(SHAPE, np.uint8)
        for value, i, brightness in ((1, 5, 120), (3, 14, 70)):
            inside = np.linalg.norm(grid - (i, 12 + rng.integers(-3, 4), 8), axis=-1) < 4
            image[inside] += brightness
            labels[inside] = value
        write_nifti_image(Volume(image.astype(np.float32)[None], affine), folder / "images" / f"case_{number}.nii.gz")
        write_nifti_labels(Volume(labels[None], affine), folder / "labels" / f"case_{number}.nii.gz")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_dataset(folder / "data")
    (folder / "task.yaml").write_text(TASK)
    return folder


@pytest.fixture
def tiny_task(tiny_data: Path) -> Task:
    return load_task(tiny_data / "task.yaml")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs go; small networks, because nobody waits for them to be good."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("MEDUNET_HOME", str(folder))
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=2 * 16**3, features=4))
    return folder


@pytest.fixture
def train_tiny(tiny_data: Path, runs: Path) -> Callable[..., TrainingResult]:
    """`medunet.training.train` on the tiny dataset, deterministic, on the CPU."""

    def call(output: Path | None = None, **options: Any) -> TrainingResult:
        from medunet.training import train

        task = options.pop("task", tiny_data / "task.yaml")
        data = options.pop("data", tiny_data / "data")
        given = {"budget": "4it", "deterministic": True, "device": "cpu", "output": output}
        return train(task, data, **(given | options))

    return call


@pytest.fixture
def make_case() -> Callable[..., StoredCase]:
    """A preprocessed case in memory whose intensities count its voxels."""

    def make(
        case_id: str = "a",
        shape: tuple[int, int, int] = (11, 13, 17),
        *,
        foreground: dict[int, list[tuple[int, int, int]]] | None = None,
        fill: float = -7.0,
    ) -> StoredCase:
        labels = torch.zeros(shape, dtype=torch.uint8)
        for code, voxels in (foreground or {}).items():
            for voxel in voxels:
                labels[voxel] = code
        image = torch.arange(labels.numel(), dtype=torch.float32).reshape(1, *shape)
        return StoredCase(
            case_id=case_id,
            path=Path("nowhere"),
            shape=shape,
            fill=torch.tensor([fill]),
            foreground={code: torch.tensor(voxels, dtype=torch.int16) for code, voxels in (foreground or {}).items()},
            image=image,
            labels=labels,
        )

    return make
