"""Convolutions in eight bits, for OpenVINO on the CPU (NNCF, https://github.com/openvinotoolkit/nncf).

Weights are rounded per channel, activations by the ranges that they had on calibration patches (post-training quantisation,
Nagel 2021, arXiv:2106.08295). Instance normalisation stays in floating point. It is faster, and the labels are other ones
here and there: compare the Dice of validation cases before it is used for anything.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medunet.errors import InputError
from medunet.inference.backends.build import build_example_patch, build_key
from medunet.inference.backends.combine import combine_networks
from medunet.inference.backends.convert import check_packages
from medunet.inference.backends.kept import write_conversion
from medunet.inference.backends.openvino_backend import (
    convert_to_openvino,
    import_openvino,
    read_openvino,
    serialize_openvino,
)
from medunet.inference.surroundings import find_plan_margins
from medunet.planning import Plan


def quantize_networks(networks: Sequence[nn.Module], plan: Plan, patches: Tensor, cache: Path) -> Path:
    """Convert networks to int8 and keep the result, from where ``build_backend(..., numbers="int8")`` takes it.

    Args:
        networks: As for `build_backend`.
        plan: Of all of them.
        patches: ``(N, C, *patch_size)`` of training cases, preprocessed; some tens that show every label do.
        cache: Folder for converted networks.

    Returns:
        The file.

    Raises:
        InputError: If OpenVINO or NNCF is not installed, or there is no patch.
        ValueError: If the networks have no padding.
        OutputError: If the file cannot be written.
    """
    check_packages("int8", ("openvino", "nncf"), "int8")
    if len(patches) == 0:
        msg = "int8 needs patches to calibrate on; there is none. Give some of training cases."
        raise InputError(msg)
    if find_plan_margins(plan) is not None:
        msg = "a network without padding sees more of a scan than patches of training show"
        raise ValueError(msg)
    network = combine_networks([each.to("cpu").eval() for each in networks])
    parts = quantize_openvino(convert_to_openvino(network, build_example_patch(plan)), patches)
    key = build_key("openvino", network, len(networks), plan, numbers="int8")
    write_conversion(cache / key.file_name, key, parts)
    return cache / key.file_name


def quantize_openvino(parts: Mapping[str, bytes], patches: Tensor) -> dict[str, bytes]:
    """A converted network with int8 convolutions.

    Args:
        parts: From `convert_to_openvino`.
        patches: ``(N, C, *patch_size)`` to calibrate on, at least one.
    """
    import_openvino()  # first: it keeps the report of its use from being sent
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = read_openvino(parts)
    model.reshape([1, *patches.shape[1:]])
    samples = [patch[None].to("cpu", torch.float32).numpy() for patch in patches]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # a progress bar
        warnings.simplefilter("ignore")
        quantized: Any = nncf.quantize(
            model,
            nncf.Dataset(samples),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.MIXED,  # leaky ReLUs: what is below zero differs from what is above
        )
    quantized.reshape([-1, *patches.shape[1:]])
    return serialize_openvino(quantized)
