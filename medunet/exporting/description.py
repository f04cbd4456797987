"""What a program must do around an exported network: preprocessing, tiles, and what the outputs mean, as JSON."""

from __future__ import annotations

from typing import Any

import medunet
from medunet.exporting.parity import Parity
from medunet.inference.backends.convert import LOGITS, PATCHES
from medunet.inference.tiling import SIGMA_FRACTION, STEP_FRACTION
from medunet.models import AnyModel
from medunet.planning import Plan
from medunet.planning.body import BODY_MARGIN_MM, BODY_THRESHOLD_HU
from medunet.preprocessing import name_slices
from medunet.tasks import Task, is_picture, list_class_values

VERSION = 1


def describe_model(model: AnyModel, export_format: str, parity: Parity) -> dict[str, Any]:
    """The content of the JSON beside an export.

    Args:
        model: That was exported.
        export_format: Into what.
        parity: How the result compares with the model.
    """
    plan, task = model.plan, model.task
    return {
        "version": VERSION,
        "format": export_format,
        "medunet_version": medunet.__version__,
        "task": task.name,
        "title": task.title,
        "modality": task.modality,
        "weights_sha256": model.training.weights_sha256,
        "is_synthetic": model.training.is_synthetic,
        "num_networks": len(model.members),
        "input": {
            "name": PATCHES,
            "shape": ["B", plan.network.in_channels, *plan.patch_size],
            "dtype": "float32",
            "channels": list(name_slices(task.channels, plan.num_neighbour_slices)),
        },
        "output": {
            "name": LOGITS,
            "shape": ["B", plan.network.out_channels, *plan.patch_size],
            "dtype": "float32",
            "activation": "sigmoid" if task.has_regions else "softmax",
            "channels": _list_outputs(task),
        },
        "preprocessing": _describe_preprocessing(plan),
        "sliding_window": {
            "patch_size": list(plan.patch_size),
            "step_fraction": STEP_FRACTION,
            "window": "gaussian",
            "sigma_fraction": SIGMA_FRACTION,
        },
        "postprocessing": model.postprocessing.describe(),
        "parity": parity.to_json(),
    }


def _list_outputs(task: Task) -> list[dict[str, Any]]:
    """One entry per channel of the logits: name, and the values of a label map that belong to it."""
    if task.has_regions:
        return [{"label": name, "values": list(values)} for name, values in task.labels.items()]
    names = ["background", *task.labels]
    return [{"label": name, "values": [value]} for name, value in zip(names, list_class_values(task), strict=True)]


def _describe_crop(plan: Plan) -> str:
    if is_picture(plan.modality):
        return "everything"
    return f"voxels above {BODY_THRESHOLD_HU:g} HU" if plan.modality == "CT" else "voxels that are not 0"


def _describe_preprocessing(plan: Plan) -> dict[str, Any]:
    """In the order in which it is done."""
    return {
        "orientation": plan.orientation,
        "crop": {
            "to": _describe_crop(plan),
            "margin_mm": BODY_MARGIN_MM,
        },
        "normalization": [rule.model_dump(mode="json") for rule in plan.normalization],
        "spacing": list(plan.spacing),
        "interpolation": "cubic B-spline; nearest along an axis more than 3 x as coarse as the finest",
    }
