"""Small cases with one fault each, on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medunet.checking import DatasetReport, Finding, check_dataset
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.tasks import Case, Dataset, Task
from medunet.volume import Volume, to_orientation

SHAPE = (24, 22, 20)
SPACING = (2.0, 1.5, 3.0)
LEFT, RIGHT = 3, 7
CT_TASK = Task.model_validate(
    {
        "name": "glands-ct",
        "title": "Two glands",
        "modality": "CT",
        "channels": ["ct"],
        "labels": {"gland_left": LEFT, "gland_right": RIGHT},
        "laterality": [["gland_left", "gland_right"]],
        "intensity": "ct-window",
        "window_hu": [-160, 240],
    }
)
MR_TASK = CT_TASK.model_copy(update={"name": "glands-mr", "modality": "MR", "intensity": "zscore", "window_hu": None})


def make_ct(seed: int = 0, *, shape: Any = SHAPE) -> np.ndarray[Any, Any]:
    """Air around a block of soft tissue, RAS axes."""
    rng = np.random.default_rng(seed)
    image = rng.normal(-1000, 5, shape)
    image[2:-2, 2:-2, 1:-1] = rng.normal(40, 10, image[2:-2, 2:-2, 1:-1].shape)
    return image.astype(np.float32)


def make_labels(*, shape: Any = SHAPE) -> np.ndarray[Any, Any]:
    """Two blocks of 150 voxels; R grows with the first axis, so the left gland has the smaller index."""
    labels = np.zeros(shape, np.uint8)
    labels[4:9, 8:14, 8:13] = LEFT
    labels[-9:-4, 8:14, 8:13] = RIGHT
    return labels


@pytest.fixture
def write_case(tmp_path: Path) -> Callable[..., Case]:
    """Write one case; ``seed`` makes image and labels unlike the others, ``orientation`` stores the same world otherwise."""

    def write(
        case_id: str,
        image: Any = None,
        labels: Any = None,
        *,
        seed: int | None = None,
        spacing: Any = SPACING,
        orientation: str = "LPS",
        **fields: Any,
    ) -> Case:
        seed = sum(map(ord, case_id)) if seed is None else seed
        image = make_ct(seed) if image is None else image
        # Not the same labels in every case, which would be a finding.
        labels = np.roll(make_labels(shape=image.shape[-3:]), seed % 5, axis=1) if labels is None else labels
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = (-30.0, -12.0, 100.0)
        image_path, label_path = tmp_path / f"{case_id}.nii.gz", tmp_path / f"{case_id}-labels.nii.gz"
        channels = image if image.ndim == 4 else image[None]
        write_nifti_image(to_orientation(Volume(channels, affine), orientation), image_path)
        write_nifti_labels(to_orientation(Volume(labels[None], affine), orientation), label_path)
        return Case(case_id=case_id, images=(image_path,), labels=label_path, **fields)

    return write


@pytest.fixture
def examine(tmp_path: Path) -> Callable[..., DatasetReport]:
    """Check some cases."""

    def call(*cases: Case, task: Task = CT_TASK, modality: str | None = None, **options: Any) -> DatasetReport:
        dataset = Dataset(name="glands", folder=tmp_path, layout="tests", cases=cases, modality=modality)
        return check_dataset(dataset, task, **options)

    return call


@pytest.fixture
def list_texts() -> Callable[..., list[str]]:
    """``severity case: text`` of the findings of a topic."""

    def call(report: DatasetReport, *topics: str) -> list[str]:
        def name(finding: Finding) -> str:
            return finding.case_id or ",".join(finding.case_ids) or "dataset"

        return [f"{f.severity} {name(f)}: {f.text}" for f in report.findings if not topics or f.topic in topics]

    return call
