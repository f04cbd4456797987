"""When the network is compiled (`torch.compile`), and what happens when that fails.

Compiling costs about a minute once and needs a C++ compiler; it then saves a fifth of every step on the CPU, most of it in
the backward pass. Measured with patches of 40x56x40, batch 2, 16 features, bfloat16; see ``benchmarks/``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from medunet.errors import InputError
from medunet.training.budget import Budget

logger = logging.getLogger(__name__)

Compilation = Literal["auto", "on", "off"]
Forward = Callable[[Tensor], list[Tensor]]

COMPILE_SECONDS = 60.0
MAX_COMPILE_SHARE = 0.1
"""Of a budget in time; below it the minute is earned back at least twice, as a step becomes a fifth cheaper."""
MIN_COMPILE_ITERATIONS = 2000
SMALL_BATCH_VOXELS = 2**20
"""Up to here a GPU computes a layer faster than the CPU can ask for the next one: CUDA graphs ask once for all."""
_NUM_GRAPH_CALLS = 3  # CUDA graphs: one call to warm up, one to record, one to replay


def should_compile(choice: Compilation, budget: Budget, device: torch.device) -> bool:
    """Whether to compile: as asked, or by what the budget earns.

    Compiled training on the CPU gives the same weights each time, so that it does not matter here whether training has to
    be deterministic.

    Raises:
        InputError: If it was asked for and there is no compiler.
    """
    if choice == "off" or device.type not in ("cpu", "cuda"):
        return False
    compiler = find_compiler(device)
    if choice == "on":
        if compiler is None:
            msg = "--compile on needs a C++ compiler (g++ or clang++, or CXX in the environment); install one, or use --compile off."
            raise InputError(msg)
        return True
    is_long = (
        budget.iterations > MIN_COMPILE_ITERATIONS
        if budget.iterations is not None
        else MAX_COMPILE_SHARE * (budget.seconds or 0) >= COMPILE_SECONDS
    )
    return is_long and compiler is not None


def find_compiler(device: torch.device) -> str | None:
    """The C++ compiler that torch would call; None without one, or without Triton for a GPU."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return None
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name)) is not None), None)


def try_compile(compute: Forward, try_out: Callable[[Forward], None], *, has_graphs: bool) -> Forward:
    """Compile a function, or leave it as it is where that fails.

    Compilation is lazy, so that the function is tried here: an error in the middle of the training would come too late. If
    it fails compiled and works plain, the compiler is at fault: that is said once. If it fails both ways, the error is the
    network's own.

    Args:
        compute: Patches -> logits of every scale.
        try_out: Calls a function as training will, forward and backward.
        has_graphs: Whether a GPU is to replay CUDA graphs.

    Returns:
        The compiled function, or ``compute`` itself.
    """
    try:
        compiled: Forward = torch.compile(compute, dynamic=False, mode="reduce-overhead" if has_graphs else None)
        for _ in range(_NUM_GRAPH_CALLS if has_graphs else 1):
            try_out(compiled)
    except Exception as error:
        try_out(compute)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        logger.warning("The network cannot be compiled here and runs uncompiled, which is slower: %s", reason[:200])
        return compute
    return compiled
