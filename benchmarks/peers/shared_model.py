"""One network for all tools: a medunet model folder with made-up weights, and the same weights as a model of nnU-Net.

The weights are random, but inference must be timed on masks like those of trained networks too, because medunet's way back to
the scan's grid is quicker where labels are smooth. With ``smooth`` labels, one of the network's channels therefore carries the
blurred image from the first stage over the skip to the head, where every class is an interval of it; all other channels are
random, and computed as always. With ``speckled`` labels the head looks at random channels: the worst case.
"""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medunet import __version__
from medunet.models import TrainingRecord, write_description, write_weights
from medunet.networks import EncoderDecoder, build_network
from medunet.planning import ChannelStatistics, Fingerprint, MemoryTarget, Plan, build_plan
from medunet.tasks import Task
from medunet.volume import Shape3
from peers.plans import CONFIGURATION, change_plan

LabelKind = Literal["smooth", "speckled"]
FOREGROUND = ChannelStatistics(
    mean=40.0, median=50.0, std=150.0, minimum=-1000.0, maximum=1500.0, percentile_00_5=-500.0, percentile_99_5=600.0
)
"""HU; both tools clip to the percentiles, subtract the mean and divide by the deviation."""
_LEVEL = 3.0
"""Where the carried channel lies after each normalisation: so high that hardly anything is below 0, where it would be bent."""
_WIDTH = 1.5
"""Intervals of the classes lie within so many deviations of its mean."""


def build_shared_plan(
    num_classes: int,
    shape: Shape3,
    spacing_mm: float,
    *,
    features: int,
    patch_size: Shape3 | None = None,
    batch_size: int = 2,
) -> tuple[Plan, Task]:
    """nnU-Net's plan for many CTs of one shape, with a narrower network.

    Args:
        num_classes: Background included.
        shape: Of a scan, in voxels of the network.
        spacing_mm: Of the network, along all axes.
        features: Channels of the first stage.
        patch_size: None leaves it to the plan.
        batch_size: medunet predicts half as many patches at a time.
    """
    task = Task.model_validate(
        {
            "name": f"made-up-{num_classes}",
            "title": f"{num_classes - 1} intervals of intensity",
            "modality": "CT",
            "channels": ["ct"],
            "labels": {f"part_{value}": value for value in range(1, num_classes)},
            "intensity": "ct-percentile",
        }
    )
    num_cases = 200
    fingerprint = Fingerprint(
        num_cases=num_cases,
        spacings=((spacing_mm,) * 3,) * num_cases,
        shapes=(shape,) * num_cases,
        body_shapes=(shape,) * num_cases,
        nonzero_share=1.0,
        channels=(FOREGROUND,),
        label_frequencies=dict.fromkeys(task.labels, 1.0),
        label_volumes_ml=dict.fromkeys(task.labels, 100.0),
    )
    plan = build_plan(fingerprint, task, MemoryTarget())
    return change_plan(plan, patch_size=patch_size, batch_size=batch_size, features=features), task


def write_medunet_model(folder: Path, plan: Plan, task: Task, labels: LabelKind) -> EncoderDecoder:
    """Write a model folder whose weights are the same each time; gives the network."""
    torch.manual_seed(0)
    network = build_network(plan.network)
    if labels == "smooth":
        _carry_image_to_head(network.network)
    folder.mkdir(parents=True)
    write_description(folder, task, plan)
    training = TrainingRecord(
        medunet_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset="none",
        is_synthetic=False,
        training_cases=(),
        validation_cases=(),
        case_list_sha256="",
        fold=None,
        budget="0it",
        num_iterations=0,
        seconds=0.0,
        seed=0,
        is_deterministic=True,
        device="cpu",
        precision="32-true",
        settings={},
        versions={"torch": torch.__version__, "python": platform.python_version()},
    )
    write_weights(folder, network.state_dict(), training)
    return network.network.eval()


def write_nnunet_model(folder: Path, plan: Plan, task: Task, ours: EncoderDecoder) -> nn.Module:
    """Write a folder that nnU-Net predicts from, with the weights of our network; gives its network.

    Its axes are those of the arrays that SimpleITK reads, ``(K, J, I)``.
    """
    plans = build_nnunet_plans(plan, task)
    theirs = build_nnunet_network(plans, task.num_outputs)
    give_weights(ours, theirs)
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0} | {name: values[0] for name, values in task.labels.items()},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    checkpoint = {
        "network_weights": theirs.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return theirs.eval()


def build_nnunet_plans(plan: Plan, task: Task) -> dict[str, Any]:
    """Content of nnU-Net's ``plans.json``: what its planner writes for a CT of equal voxel sizes, its own resampling included."""
    network = plan.network
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    statistics = FOREGROUND.model_dump()
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": plan.batch_size,
        "patch_size": list(plan.patch_size)[::-1],
        "median_image_size_in_voxels": list(plan.median_shape)[::-1],
        "spacing": list(plan.spacing)[::-1],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": len(network.features),
                "features_per_stage": list(network.features),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [list(kernel)[::-1] for kernel in network.kernels],
                "strides": [list(stride)[::-1] for stride in network.strides],
                "n_conv_per_stage": list(network.encoder_blocks),
                "n_conv_per_stage_decoder": list(network.decoder_convolutions),
                "conv_bias": False,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset001_MadeUp",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(plan.spacing)[::-1],
        "original_median_shape_after_transp": list(plan.median_shape)[::-1],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "mean": statistics["mean"],
                "median": statistics["median"],
                "std": statistics["std"],
                "min": statistics["minimum"],
                "max": statistics["maximum"],
                "percentile_00_5": statistics["percentile_00_5"],
                "percentile_99_5": statistics["percentile_99_5"],
            }
        },
    }


def build_nnunet_network(plans: dict[str, Any], num_classes: int) -> nn.Module:
    """The network that nnU-Net builds from its plans for prediction; imported only where nnunetv2 is."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    names = ("network_class_name", "arch_kwargs", "_kw_requires_import")
    network: nn.Module = get_network_from_plans(
        *(architecture[name] for name in names), 1, num_classes, deep_supervision=False
    )
    return network


def give_weights(ours: EncoderDecoder, theirs: Any) -> None:
    """Put our weights into nnU-Net's network, whose axes are ours reversed; it lists its decoder from the coarsest.

    nnU-Net has a head at every scale of the decoder; those that we lack are not used in prediction and stay as they are.
    """
    pairs: list[tuple[nn.Module, nn.Module]] = [(ours.encoder, theirs.encoder)]
    for modules, name in ((ours.decoder, "stages"), (ours.upsamplers, "transpconvs"), (ours.heads, "seg_layers")):
        pairs += list(zip(modules, reversed(getattr(theirs.decoder, name)), strict=False))
    with torch.no_grad():
        for source, target in pairs:
            for given, taken in zip(source.parameters(), target.parameters(), strict=True):
                taken.copy_(given.permute(0, 1, 4, 3, 2) if given.ndim == 5 else given)


def _carry_image_to_head(network: EncoderDecoder) -> None:
    """Channel 0 of the finest stage becomes the blurred image, and the classes intervals of it, as often as they can be."""
    width = network.heads[0].weight.shape[1]
    finest = [*_list_convolutions(network.encoder[0]), *_list_convolutions(network.decoder[0])]
    sources = [0] * len(finest)
    sources[len(_list_convolutions(network.encoder[0]))] = width  # behind what comes up from below lies the skip
    with torch.no_grad():
        for (convolution, norm), source in zip(finest, sources, strict=True):
            convolution.weight[0] = 0
            convolution.weight[0, source] = 1 / convolution.weight[0, source].numel()
            norm.weight[0], norm.bias[0] = 1, _LEVEL
        head = network.heads[0]
        head.weight.zero_()
        head.weight[:, 0, 0, 0, 0], head.bias[:] = _build_intervals(head.weight.shape[0])


def _list_convolutions(stage: nn.Module) -> list[tuple[Any, Any]]:
    layers = [layer for layer in stage.modules() if isinstance(layer, nn.Conv3d | nn.InstanceNorm3d)]
    return list(zip(layers[::2], layers[1::2], strict=True))


def _build_intervals(num_classes: int) -> tuple[Tensor, Tensor]:
    """Slopes and offsets of lines ``(classes,)`` of which each is the highest within its interval, in turn.

    Line c rises by c; it crosses the one before where the channel is at the c-th edge. A common line is taken off, so that no
    logit becomes so large that half precision rounds it.
    """
    edges = _LEVEL + torch.linspace(-_WIDTH, _WIDTH, num_classes + 1)[1:-1]
    slopes = torch.arange(num_classes) - (num_classes - 1) / 2
    offsets = -torch.cat([torch.zeros(1), edges.cumsum(0)])
    return slopes, offsets + _LEVEL * (num_classes - 1) / 2
