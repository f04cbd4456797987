"""A model as a MONAI bundle: a folder from which ``python -m monai.bundle run`` makes masks without medunet.

Its preprocessing says with MONAI's transforms what `medunet.preprocessing` does: axes, the body's box, intensities, voxel
size. Logits go back to the scan's grid linearly before the winner is taken; `Invertd` would move labels instead.
(https://docs.monai.io/en/stable/mb_specification.html)
"""

from __future__ import annotations

import importlib.metadata
import logging
from typing import Any

import medunet
from medunet.errors import ModelError
from medunet.inference.tiling import SIGMA_FRACTION, STEP_FRACTION
from medunet.models import AnyModel
from medunet.planning import Normalization, Plan
from medunet.planning.body import BODY_MARGIN_MM, BODY_THRESHOLD_HU
from medunet.tasks import Task, is_picture, list_class_values

logger = logging.getLogger(__name__)

MODEL = "models/model.ts"
"""The network within the bundle."""
_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def check_fits_bundle(model: AnyModel) -> None:
    """Refuse what the bundle's preprocessing cannot say, and warn about what it leaves out.

    Raises:
        ModelError: If the channels are normalised by different rules.
    """
    rules = {(rule.rule, rule.nonzero_only) for rule in model.plan.normalization}
    if len(rules) > 1:
        msg = (
            f"{model.folder} normalises its channels by different rules ({', '.join(sorted(rule for rule, _ in rules))}), "
            "which a MONAI bundle of medunet cannot say; export it as onnx, openvino or torchscript."
        )
        raise ModelError(msg)
    if not model.postprocessing.does_nothing:
        logger.warning(
            "The bundle leaves out the model's post-processing (%s); its masks may hold more parts than medunet's.",
            model.postprocessing.describe(),
        )


def build_bundle_files(model: AnyModel, description: dict[str, Any]) -> dict[str, dict[str, Any] | str]:
    """All files of a bundle but the network, by their paths within it; documents are still to be written as JSON.

    Args:
        model: That fits (`check_fits_bundle`).
        description: From `describe_model`; becomes part of the metadata.
    """
    return {
        "configs/metadata.json": _build_metadata(model, description),
        "configs/inference.json": _build_inference(model),
        "docs/README.md": _build_readme(model),
    }


def _build_inference(model: AnyModel) -> dict[str, Any]:
    plan, task = model.plan, model.task
    predict = "{**item, 'pred': @inferer(item['image'].unsqueeze(0).to(@device), @network)[0]}"
    return {
        "imports": ["$import math", "$from scipy.ndimage import binary_fill_holes"],
        "bundle_root": ".",
        "scan": "scan.nii.gz" if len(task.channels) == 1 else [f"{name}.nii.gz" for name in task.channels],
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network": {
            "_target_": "torch.jit.load",
            "f": f"$@bundle_root + '/{MODEL}'",
            "map_location": "@device",
        },
        "spacing": list(plan.spacing),
        **_build_nonzero_normalization(plan.normalization),
        **_build_resampling(),
        "preprocessing": {"_target_": "Compose", "transforms": _build_preprocessing(plan)},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(plan.patch_size),
            "sw_batch_size": 1,
            "overlap": 1 - STEP_FRACTION,
            "mode": "gaussian",
            "sigma_scale": SIGMA_FRACTION,
        },
        "postprocessing": {"_target_": "Compose", "transforms": _build_postprocessing(task)},
        "predict": f"$torch.no_grad()(lambda item: {predict})",
        "run": ["$@postprocessing(@predict(@preprocessing({'image': @scan})))"],
    }


def _build_preprocessing(plan: Plan) -> list[Any]:
    is_body = f"x > {BODY_THRESHOLD_HU}" if plan.modality == "CT" else "x != 0"
    is_body = "x == x" if is_picture(plan.modality) else is_body  # everything
    margin = f"[math.ceil({BODY_MARGIN_MM} / mm) for mm in item['image'].pixdim.tolist()]"
    crop = f"monai.transforms.CropForeground(select_fn=lambda x: {is_body}, margin={margin}, allow_smaller=True)"
    pad = f"monai.transforms.SpatialPad({list(plan.patch_size)}, method='end', value=0.0)"
    return [
        {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": "NibabelReader",
            "ensure_channel_first": True,
            "image_only": True,
        },
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
        {"_target_": "CopyItemsd", "keys": "image", "names": "scan"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": plan.orientation, "labels": None},
        # An expression: the margin is in mm, and the transform wants voxels, which every scan has its own of.
        f"$lambda item: {{**item, 'image': {crop}(item['image'])}}",
        *_build_normalization(plan.normalization),
        "$lambda item: {**item, 'image': @resample(item['image'])}",
        f"$lambda item: {{**item, 'image': {_say_padded(plan, pad)}}}",
    ]


def _build_resampling() -> dict[str, Any]:
    """Cubic splines on the grid of `compute_target_grid`: nnU-Net's shape, centred; `Spacingd` would round and place otherwise."""
    shape = "[max(1, round(n * mm / new)) for n, mm, new in zip(image.shape[1:], image.pixdim.tolist(), @spacing)]"
    steps = "np.array(@spacing) / image.pixdim.numpy()"
    shift = "((np.array(image.shape[1:]) - 1) / 2 - (np.array(shape) - 1) / 2 * steps)[:, None]"
    # MONAI would take Python's @ for a reference.
    affine = f"np.matmul(image.affine.numpy(), np.vstack([np.hstack([np.diag(steps), {shift}]), [[0, 0, 0, 1]]]))"
    resample = "monai.transforms.SpatialResample(mode=3, padding_mode='nearest')"
    return {
        "resampled_shape": f"$lambda image: {shape}",
        "resampled_affine": f"$lambda image, shape, steps: {affine}",
        "resample": (
            f"$lambda image: {resample}(image, spatial_size=@resampled_shape(image), "
            f"dst_affine=torch.as_tensor(@resampled_affine(image, @resampled_shape(image), {steps})))"
        ),
    }


def _say_padded(plan: Plan, pad: str) -> str:
    """A scan that is smaller than a patch gets what `compute_fill` says around it: 0, or the lowest of each channel."""
    if plan.normalization[0].nonzero_only:
        return f"{pad}(item['image'])"
    lowest = "item['image'].as_tensor().amin((1, 2, 3), keepdim=True)"
    return f"{pad}(item['image'] - {lowest}) + {lowest}"


def _build_nonzero_normalization(rules: tuple[Normalization, ...]) -> dict[str, str]:
    """As `medunet.preprocessing` has it: what is nonzero in any channel, holes filled; MONAI would take each channel's own."""
    if not rules[0].nonzero_only:
        return {}
    values = "image.as_tensor()[:, inside]"
    mean = f"{values}.mean(1)[:, None, None, None]"
    std = f"{values}.std(1).clamp(min=1e-6)[:, None, None, None]"
    return {
        "find_inside": "$lambda image: torch.as_tensor(binary_fill_holes((image.as_tensor() != 0).any(0).numpy()))",
        "normalize": f"$lambda image, inside: (image - {mean}) / {std} * inside if inside.sum() > 1 else image * 0",
    }


def _build_normalization(rules: tuple[Normalization, ...]) -> list[Any]:
    if rules[0].rule == "none":
        return []
    if rules[0].nonzero_only:
        return [
            {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: @normalize(x, @find_inside(x))"},
        ]
    if rules[0].rule == "zscore":
        return [
            {
                "_target_": "NormalizeIntensityd",
                "keys": "image",
                "channel_wise": True,
            }
        ]
    lower, upper = (f"torch.tensor({[[[[getattr(r, edge)]]] for r in rules]})" for edge in ("lower", "upper"))
    return [
        {"_target_": "Lambdad", "keys": "image", "func": f"$lambda x: torch.clamp(x, {lower}, {upper})"},
        {
            "_target_": "NormalizeIntensityd",
            "keys": "image",
            "subtrahend": [rule.mean for rule in rules],
            "divisor": [rule.std for rule in rules],
            "channel_wise": True,
        },
    ]


def _build_postprocessing(task: Task) -> list[Any]:
    return [
        # Beyond what the network saw, zeros: a draw, which the background wins.
        {
            "_target_": "ResampleToMatchd",
            "keys": "pred",
            "key_dst": "scan",
            "mode": "bilinear",
            "padding_mode": "zeros",
        },
        *_build_labels(task),
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "$np.uint8" if max(task.all_values) <= 255 else "$np.int32",
            "resample": False,
            "separate_folder": False,
        },
    ]


def _build_labels(task: Task) -> list[Any]:
    """From logits to the values of a label map."""
    if not task.has_regions:
        values = list_class_values(task)
        return [
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {
                "_target_": "MapLabelValued",
                "keys": "pred",
                "orig_labels": list(range(len(values))),
                "target_labels": values,
            },
        ]
    names = list(task.labels)
    painted = "torch.zeros_like(x[:1])"
    for name, value in task.compute_region_values():
        channel = names.index(name)
        # A logit above 0 is a probability above one half.
        painted = f"torch.where(x[{channel}:{channel + 1}] > 0, {value}, {painted})"
    return [{"_target_": "Lambdad", "keys": "pred", "func": f"$lambda x: {painted}"}]


def _build_metadata(model: AnyModel, description: dict[str, Any]) -> dict[str, Any]:
    plan, task = model.plan, model.task
    outputs = {str(number): channel["label"] for number, channel in enumerate(description["output"]["channels"])}
    shape = list(plan.patch_size)
    return {
        "schema": _SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by medunet {medunet.__version__}"},
        "monai_version": importlib.metadata.version("monai"),
        "pytorch_version": importlib.metadata.version("torch").split("+")[0],
        "numpy_version": importlib.metadata.version("numpy"),
        "required_packages_version": {package: importlib.metadata.version(package) for package in ("nibabel", "scipy")},
        "name": task.name,
        "task": task.title,
        "description": f"Segmentation of {', '.join(task.labels)} in {task.modality}",
        "authors": "not stated",
        "copyright": "not stated",
        "intended_use": "Research. Look at every mask before anything depends on it.",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if task.modality == "CT" else "magnitude",
                    "modality": task.modality,
                    "num_channels": plan.network.in_channels,
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(number): name for number, name in enumerate(task.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": plan.network.out_channels,
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": outputs,
                }
            },
        },
        "medunet": description,
    }


def _build_readme(model: AnyModel) -> str:
    task = model.task
    several = len(task.channels) > 1
    scans = (
        "--scan '[" + ",".join(f'"{name}.nii.gz"' for name in task.channels) + "]'" if several else "--scan scan.nii.gz"
    )
    warning = (
        "\nIt learnt from synthetic images only: it is no model for patients.\n" if model.training.is_synthetic else ""
    )
    return f"""# {task.title}

Segments {", ".join(task.labels)} in {task.modality}. Exported by medunet {medunet.__version__}.
{warning}
```sh
pip install monai nibabel scipy fire
python -m monai.bundle run --config_file configs/inference.json --bundle_root . {scans} --output_dir eval
```

The mask appears as `eval/<scan>_seg.nii.gz` on the grid of the scan. `configs/metadata.json` says what the values mean, and
under `medunet` what surrounds the network.

What differs from medunet: tiles of the sliding window lie a little differently; slices that are thicker than three times the
finest voxel size are interpolated like the other axes; nothing is done to the mask afterwards.
"""
