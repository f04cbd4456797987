"""nnU-Net's own planners, fed with a medunet fingerprint; needs the package nnunetv2."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medunet.planning import Fingerprint, Preset
from medunet.tasks import Case, Task

PLANNERS: dict[Preset, str] = {
    "default": "ExperimentPlanner",
    "M": "nnUNetPlannerResEncM",
    "L": "nnUNetPlannerResEncL",
    "XL": "nnUNetPlannerResEncXL",
}


def plan_with_nnunet(
    fingerprint: Fingerprint, task: Task, preset: Preset, memory_gb: float | None, folder: Path
) -> dict[str, Any]:
    """Plans of all configurations, axes in nnU-Net's order; ``transpose_forward`` tells which axes of a file they are."""
    write_nnunet_dataset(fingerprint, task, folder)
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

    base: Any = getattr(residual_encoder_unet_planners, PLANNERS[preset], ExperimentPlanner)

    class Planner(base):  # type: ignore[misc]
        def determine_reader_writer(self) -> type:
            return str  # only its name goes into the plans, and there are no images to look at

        def save_plans(self, plans: Any) -> None:
            pass

    memory = {} if memory_gb is None else {"gpu_memory_target_in_gb": memory_gb}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints every plan
        plans: dict[str, Any] = Planner("Dataset001_x", **memory).plan_experiment()
    return plans


def measure_with_nnunet(cases: Sequence[Case], num_samples: int) -> dict[str, Any]:
    """nnU-Net's fingerprint of cases of one channel, axes in the order of SimpleITK, without its pool of processes."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    measured = [
        DatasetFingerprintExtractor.analyze_case([str(case.images[0])], str(case.labels), SimpleITKIO, num_samples)
        for case in cases
    ]
    foreground = np.concatenate([intensities[0] for _, _, intensities, _, _ in measured])
    low, median, high = np.percentile(foreground, [0.5, 50, 99.5])
    return {
        "shapes": [shape for shape, _, _, _, _ in measured],
        "spacings": [spacing for _, spacing, _, _, _ in measured],
        "nonzero_share": float(np.median([share for _, _, _, _, share in measured])),
        "mean": foreground.mean(),
        "median": median,
        "std": foreground.std(),
        "percentile_00_5": low,
        "percentile_99_5": high,
    }


def write_nnunet_dataset(fingerprint: Fingerprint, task: Task, folder: Path) -> None:
    """What the planner reads: dataset.json and the fingerprint, axes in the order of SimpleITK (K, J, I)."""
    names = ["background", *task.labels] + (["ignore"] if task.ignore is not None else [])
    description = {
        "channel_names": {str(n): "CT" if task.modality == "CT" else name for n, name in enumerate(task.channels)},
        "labels": {name: value for value, name in enumerate(names)},
        "numTraining": fingerprint.num_cases,
        "file_ending": ".nii.gz",
        "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
    }
    measured = {
        "spacings": [spacing[::-1] for spacing in fingerprint.spacings],
        "shapes_after_crop": [shape[::-1] for shape in fingerprint.shapes],
        "median_relative_size_after_cropping": fingerprint.nonzero_share,
        "foreground_intensity_properties_per_channel": {},
    }
    for place, name, content in (
        ("raw", "dataset.json", description),
        ("preprocessed", "dataset_fingerprint.json", measured),
    ):
        path = folder / place / "Dataset001_x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def to_ras_order(values: Any, plans: dict[str, Any]) -> tuple[Any, ...]:
    """Numbers per axis of nnU-Net's order as numbers of R, A and S; 1 across slices."""
    in_file = [1, 1, 1]
    axes = plans["transpose_forward"][-len(values) :]
    for axis, value in zip(axes, values, strict=True):
        in_file[axis] = np.asarray(value).item()
    return tuple(in_file[::-1])
