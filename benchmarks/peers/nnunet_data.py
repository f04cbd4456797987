"""The same cases as nnU-Net wants them: its raw folder, its fingerprint, its plan and its preprocessed files.

Imported only where nnunetv2 is; call within `peers.environment.nnunet_environment`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

from medunet.io import write_nifti_labels
from medunet.planning import Plan
from medunet.tasks import Case, Task, encode_labels, read_case
from peers.environment import silence
from peers.made_up import MadeUpCase
from peers.plans import CONFIGURATION, take_over_plan

DATASET = "Dataset001_Benchmark"


@dataclass(frozen=True, kw_only=True)
class NnunetDataset:
    """Cases that nnU-Net can train on.

    Attributes:
        plans: Content of its ``nnUNetPlans.json``.
        description: Content of its ``dataset.json``.
    """

    plans: dict[str, Any]
    description: dict[str, Any]


def prepare_nnunet_dataset(
    training: Sequence[Case], validation: Sequence[Case], task: Task, *, plan: Plan | None = None
) -> NnunetDataset:
    """Write, measure, plan and preprocess a dataset by nnU-Net's own code.

    Args:
        training: Cases of fold 0; images are used where they are, labels are written anew with consecutive values.
        validation: Cases of fold 0.
        task: With plain labels: no regions, no ignored value.
        plan: Whose patch, batch and network nnU-Net shall take; None lets it plan by itself.

    Raises:
        ValueError: If the task has other labels.
    """
    if task.has_regions or task.ignore is not None:
        msg = f"task '{task.name}' has regions or an ignored value; the benchmarks take plain labels only"
        raise ValueError(msg)
    _write_raw([*training, *validation], task)
    _write_json(_place("preprocessed") / "splits_final.json", [{"train": _ids(training), "val": _ids(validation)}])
    num_processes = os.cpu_count() or 1
    with silence():
        extractor = DatasetFingerprintExtractor(DATASET, num_processes)
        extractor.show_progress_bar = False
        extractor.run(overwrite_existing=True)
        dataset = _make_plans(ExperimentPlanner(DATASET), plan)
        preprocessor = DefaultPreprocessor(verbose=False)
        preprocessor.show_progress_bar = False
        preprocessor.run(DATASET, CONFIGURATION, "nnUNetPlans", num_processes=num_processes)
    return dataset


def store_made_up_cases(cases: Sequence[MadeUpCase], task: Task, plan: Plan) -> NnunetDataset:
    """Cases without files, stored as nnU-Net's preprocessing stores them; all train, and validate."""
    names = [f"case_{number}" for number in range(len(cases))]
    files = {name: {"images": [f"{name}_0000.nii.gz"], "label": f"{name}.nii.gz"} for name in names}
    _write_json(_place("raw") / "dataset.json", _describe(task, files))
    _write_json(
        _place("preprocessed") / "dataset_fingerprint.json",
        {
            "spacings": [(1.0, 1.0, 1.0) for _ in cases],
            "shapes_after_crop": [case.codes.shape[::-1] for case in cases],
            "median_relative_size_after_cropping": 1.0,
            "foreground_intensity_properties_per_channel": {},
        },
    )
    _write_json(_place("preprocessed") / "splits_final.json", [{"train": names, "val": names}])
    with silence():
        dataset = _make_plans(_PlannerWithoutImages(DATASET), plan)
        configuration = dataset.plans["configurations"][CONFIGURATION]
        folder = _place("preprocessed") / configuration["data_identifier"]
        folder.mkdir(exist_ok=True)
        for name, case in zip(names, cases, strict=True):
            _store(case, str(folder / name), configuration["patch_size"])
    return dataset


class _PlannerWithoutImages(ExperimentPlanner):  # type: ignore[misc]
    def determine_reader_writer(self) -> type:
        return str  # only its name goes into the plans, and there are no images to look at


def _make_plans(planner: ExperimentPlanner, plan: Plan | None) -> NnunetDataset:
    plans = planner.plan_experiment()
    path = _place("preprocessed") / "nnUNetPlans.json"
    plans = json.loads(path.read_text())  # with plain numbers
    if plan is not None:
        plans = take_over_plan(plans, plan)
        _write_json(path, plans)
    description = json.loads((_place("preprocessed") / "dataset.json").read_text())
    return NnunetDataset(plans=plans, description=description)


def _write_raw(cases: Sequence[Case], task: Task) -> None:
    files = {}
    for case in cases:
        _, labels = read_case(case, task)
        path = _place("raw") / "labelsTr" / f"{case.case_id}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti_labels(encode_labels(labels, task), path, like=case.labels)
        files[case.case_id] = {"images": [str(image.resolve()) for image in case.images], "label": str(path.resolve())}
    _write_json(_place("raw") / "dataset.json", _describe(task, files))


def _describe(task: Task, files: dict[str, Any]) -> dict[str, Any]:
    """``dataset.json``: the labels have the codes that medunet gives them."""
    return {
        "channel_names": {str(n): "CT" if task.modality == "CT" else name for n, name in enumerate(task.channels)},
        "labels": {name: value for value, name in enumerate(["background", *task.labels])},
        "numTraining": len(files),
        "file_ending": ".nii.gz",
        "dataset": files,
    }


def _store(case: MadeUpCase, name: str, patch_size: Sequence[int]) -> None:
    """As `DefaultPreprocessor.run_case_save` does; nnU-Net's axes are those of the arrays, reversed."""
    image = np.ascontiguousarray(case.image.transpose(0, 3, 2, 1))
    codes = np.ascontiguousarray(case.codes.transpose(2, 1, 0)[None].astype(np.int16))
    labels = [int(code) for code in np.unique(codes) if code]
    properties = {"class_locations": DefaultPreprocessor._sample_foreground_locations(codes, labels)}
    layouts = [comp_blosc2_params(array.shape, tuple(patch_size), array.itemsize) for array in (image, codes)]
    (blocks, chunks), (blocks_codes, chunks_codes) = layouts
    nnUNetDatasetBlosc2.save_case(
        image, codes, properties, name, chunks=chunks, blocks=blocks, chunks_seg=chunks_codes, blocks_seg=blocks_codes
    )


def _place(kind: str) -> Path:
    return Path(os.environ[f"nnUNet_{kind}"]) / DATASET


def _ids(cases: Sequence[Case]) -> list[str]:
    return [case.case_id for case in cases]


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
