"""The network as a graph that other programs can run: TorchScript and ONNX.

Both come from following one call of the network. Its branches depend on shapes only (`EncoderDecoder` checks the size of
its input), so that what was followed is right for every batch of patches of the same size.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from medunet.errors import InputError

PATCHES, LOGITS = "patches", "logits"
"""Names of the input and the output in every converted network."""


def trace_network(network: nn.Module, patch: Tensor) -> Any:
    """The network as TorchScript, for any number of patches.

    Args:
        network: In evaluation mode, on the CPU.
        patch: One patch, ``(1, C, *patch_size)``; its values do not matter.
    """
    with _be_quiet(), torch.no_grad():
        return torch.jit.trace(network, patch, check_trace=False)  # type: ignore[no-untyped-call]


def convert_to_onnx(network: nn.Module, patch: Tensor) -> bytes:
    """The network as ONNX, weights included, for any number of patches.

    Args:
        network: In evaluation mode, on the CPU.
        patch: One patch, ``(1, C, *patch_size)``; its values do not matter.

    Raises:
        InputError: If the packages of ``medunet[onnx]`` are missing.
    """
    check_packages("ONNX", ("onnx", "onnxscript"), "onnx")
    # Two patches: from one, torch would conclude that the number is always one.
    batch = torch.cat([patch, patch])
    with _be_quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (batch,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[PATCHES],
            output_names=[LOGITS],
            verbose=False,
        )
    assert program is not None  # it is with dynamo=True
    content: bytes = program.model_proto.SerializeToString()
    return content


def check_packages(what: str, packages: tuple[str, ...], extra: str) -> None:
    """Refuse what needs a package that is not installed.

    Args:
        what: That needs them, for the message.
        packages: Names to import.
        extra: Of medunet, that brings them.

    Raises:
        InputError: With the package and how to install it.
    """
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        msg = f"{what} needs the package {missing[0]}, which is not installed: pip install 'medunet[{extra}]'."
        raise InputError(msg)


def is_installed(package: str) -> bool:
    """Whether a package can be found, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # something stands in for it
        return False


@contextlib.contextmanager
def _be_quiet() -> Iterator[None]:
    """torch warns about every comparison of sizes that it follows, and about its own parts that will change."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
