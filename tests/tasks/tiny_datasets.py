"""Tiny volumes and the files around them, to build datasets in the layouts that people have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from medunet.io import write_nifti_image, write_nifti_labels
from medunet.volume import Volume

SHAPE = (5, 6, 7)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def write_image(path: Path, *, value: float = 1.0, num_channels: int = 1, shape: Any = SHAPE) -> Path:
    """Write a float image, several channels as a fourth axis."""
    write_nifti_image(Volume(np.full((num_channels, *shape), value, np.float32), AFFINE), path)
    return path


def write_labels(path: Path, values: tuple[int, ...] = (1, 2), *, shape: Any = SHAPE, affine: Any = AFFINE) -> Path:
    """Write a label map whose first voxels hold the values, one each."""
    labels = np.zeros((1, *shape), np.int32)
    labels.reshape(-1)[: len(values)] = values
    write_nifti_labels(Volume(labels, affine), path)
    return path


def touch(folder: Path, *names: str) -> None:
    """Files by name, empty: listing a dataset opens no volume."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def describe(folder: Path, content: Any) -> None:
    """Write a ``dataset.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
