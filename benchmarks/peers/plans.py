"""medunet's plans made smaller, and told to nnU-Net, so that both train the same network on the same patches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from medunet.planning import Plan
from medunet.planning.stages import choose_features
from medunet.volume import Shape3

CONFIGURATION = "3d_fullres"


def change_plan(
    plan: Plan, *, patch_size: Shape3 | None = None, batch_size: int | None = None, features: int | None = None
) -> Plan:
    """The same plan with another patch, batch or width; strides and kernels stay.

    Raises:
        ValueError: If the network cannot halve the patch as often as it wants to.
    """
    if patch_size is not None:
        divisors = np.prod(plan.network.strides, axis=0)
        if any(size % divisor for size, divisor in zip(patch_size, divisors, strict=True)):
            msg = f"the patch {patch_size} is not divided by {tuple(divisors.tolist())}, as the network's strides need"
            raise ValueError(msg)
    changes: dict[str, Any] = {"patch_size": patch_size, "batch_size": batch_size}
    if features is not None:
        network = plan.network
        widths = choose_features(len(network.strides), network.spatial_dims, base=features)
        changes["network"] = network.model_copy(update={"features": widths})
    return plan.model_copy(update={name: value for name, value in changes.items() if value is not None})


def to_nnunet_order(values: Sequence[Any], transpose_forward: Sequence[int]) -> list[Any]:
    """Values along R, A, S in the order of nnU-Net's axes, for files whose axes run along R, A, S up to signs.

    nnU-Net reads files as SimpleITK does, ``(K, J, I)``, and then puts the coarsest axis first.

    Example:
        >>> to_nnunet_order(("r", "a", "s"), (0, 1, 2)), to_nnunet_order(("r", "a", "s"), (2, 0, 1))
        (['s', 'a', 'r'], ['r', 's', 'a'])
    """
    in_file = list(values)[::-1]
    return [in_file[axis] for axis in transpose_forward]


def take_over_plan(plans: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """nnU-Net's plans with patch, batch and network of a medunet plan; resampling and normalisation stay nnU-Net's.

    Args:
        plans: From nnU-Net's planner.
        plan: A plain 3D U-Net.
    """
    assert plan.configuration == "3d"
    assert plan.network.architecture == "unet"

    def reorder(values: Sequence[Any]) -> list[Any]:
        return to_nnunet_order(values, plans["transpose_forward"])

    changed = copy.deepcopy(plans)
    configuration = changed["configurations"][CONFIGURATION]
    configuration["patch_size"] = reorder(plan.patch_size)
    configuration["batch_size"] = plan.batch_size
    network = plan.network
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": len(network.features),
        "features_per_stage": list(network.features),
        "strides": [reorder(stride) for stride in network.strides],
        "kernel_sizes": [reorder(kernel) for kernel in network.kernels],
        "n_conv_per_stage": list(network.encoder_blocks),
        "n_conv_per_stage_decoder": list(network.decoder_convolutions),
    }
    return changed
