"""Converted networks, kept beside the weights so that they are converted once.

One file per conversion, ``backends/openvino-float32-64x96x80.safetensors``: the parts of the converted network as bytes, the
key that says what they were made from, and a checksum over all. A file whose key is another (other weights, another release
of a package) or whose checksum is wrong is made again and never used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

import medunet
from medunet.errors import ModelError, OutputError
from medunet.io import write_bytes_atomic
from medunet.models.folder import compute_weights_sha256, read_checked_tensors
from medunet.models.names import BACKENDS

logger = logging.getLogger(__name__)

FOLDER = BACKENDS
"""Within a model folder."""
_VERSION = 1
_KEY = "key"


@dataclass(frozen=True, kw_only=True)
class ConversionKey:
    """What a converted network was made from.

    Attributes:
        backend: That runs it.
        numbers: ``"float32"`` or ``"int8"``: what the weights are kept in. The precision of the arithmetic is chosen when it
            is loaded, so that both share a file.
        patch_shape: ``(C, *patch_size)`` that it takes; any number of them at once.
        num_networks: Whose logits it averages.
        network: Shape of the network, as in the plan.
        weights_sha256: Of the weights.
        versions: Of medunet and the packages that converted it.
    """

    backend: str
    numbers: str
    patch_shape: tuple[int, ...]
    num_networks: int
    network: Mapping[str, Any]
    weights_sha256: str
    versions: Mapping[str, str]

    @property
    def file_name(self) -> str:
        """Equal for conversions of which one takes the place of the other."""
        size = "x".join(map(str, self.patch_shape[1:]))
        several = f"-{self.num_networks}-networks" if self.num_networks > 1 else ""
        return f"{self.backend}-{self.numbers}-{size}{several}.safetensors"

    def to_bytes(self) -> bytes:
        """The same bytes for equal keys."""
        return json.dumps({"version": _VERSION, **vars(self)}, sort_keys=True, default=str).encode()


def hash_network(network: nn.Module) -> str:
    """SHA-256 of all weights and buffers, wherever they are."""
    return compute_weights_sha256({name: tensor.detach().cpu() for name, tensor in network.state_dict().items()})


def get_version() -> str:
    """Of medunet, which belongs into every key."""
    return medunet.__version__


def keep_conversion(
    folder: Path | None, key: ConversionKey, convert: Callable[[], Mapping[str, bytes]]
) -> tuple[Mapping[str, bytes], str]:
    """A converted network from its file, or made and kept.

    Args:
        folder: Of the files; None keeps nothing.
        key: What it is made from.
        convert: Makes its parts.

    Returns:
        The parts, and how they came to be, in a few words: ``"converted before"``, ``"converted now"`` or
        ``"converted in memory"``.
    """
    path = None if folder is None else folder / key.file_name
    if path is not None and (kept := read_conversion(path, key)) is not None:
        return kept, "converted before"
    parts = convert()
    if path is None:
        return parts, "converted in memory"
    try:
        write_conversion(path, key, parts)
    except OutputError as error:
        logger.info("The converted network is not kept, and will be converted again next time: %s", error)
        return parts, "converted in memory"
    return parts, "converted now"


def read_conversion(path: Path, key: ConversionKey) -> Mapping[str, bytes] | None:
    """The parts of a kept conversion; None where there is none of this key, or it is damaged."""
    if not path.is_file():
        return None
    try:
        parts = _read_parts(path)
    except (ModelError, ValueError, TypeError) as error:
        logger.info("%s is damaged and is made again: %s", path, error)
        return None
    if parts.pop(_KEY, None) != key.to_bytes():
        logger.debug("%s was made from something else and is made again", path)
        return None
    return parts


def explain_no_conversion(path: Path, key: ConversionKey) -> str:
    """Why `read_conversion` gives None, in a few words: for conversions that cannot be made again without data."""
    if not path.is_file():
        return f"{path.name} is not there"
    try:
        found = json.loads(_read_parts(path)[_KEY])
        weights, versions = found["weights_sha256"], dict(found["versions"])
    except (ModelError, ValueError, TypeError, KeyError):
        return f"{path.name} is damaged"
    if weights != key.weights_sha256:
        return f"{path.name} was made from other weights"
    for package, installed in key.versions.items():
        if versions.get(package) != installed:
            return f"{path.name} was made by {package} {versions.get(package)}, and {installed} is installed"
    return f"{path.name} was made for another network"


def write_conversion(path: Path, key: ConversionKey, parts: Mapping[str, bytes]) -> None:
    """Write the parts of a conversion, whole or not at all.

    Raises:
        OutputError: If they cannot be written.
    """
    tensors = {name: _to_tensor(content) for name, content in {_KEY: key.to_bytes(), **parts}.items()}
    write_bytes_atomic(path, save(tensors, metadata={"sha256": compute_weights_sha256(tensors)}))


def _read_parts(path: Path) -> dict[str, bytes]:
    return {name: _to_bytes(tensor) for name, tensor in read_checked_tensors(path).items()}


def _to_tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def _to_bytes(tensor: Tensor) -> bytes:
    if tensor.dtype != torch.uint8:
        msg = f"a part has the type {tensor.dtype}"
        raise ValueError(msg)
    return tensor.numpy().tobytes()
