"""What is saved to go on later: one safetensors file with weights, optimiser and counters, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from medunet.errors import ModelError
from medunet.io import write_bytes_atomic
from medunet.models.folder import compute_weights_sha256

STATE_FOLDER = "state"
STATE_FILE = "state.safetensors"


@dataclass
class TrainingState:
    """Everything that changes while training.

    Attributes:
        network: Weights.
        optimizer: AdamW.
        iteration: Finished optimiser steps.
        seconds: Spent in the loop, over all sessions.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    iteration: int = 0
    seconds: float = 0.0


def has_state(folder: Path) -> bool:
    """Whether a run folder holds a state to resume from."""
    return (folder / STATE_FOLDER / STATE_FILE).is_file()


def save_state(folder: Path, state: TrainingState, fingerprint: str) -> None:
    """Write the state below a run folder.

    Args:
        folder: The run folder.
        state: What to save.
        fingerprint: Of cases, plan and task; resuming with another one is refused.

    Raises:
        OutputError: If it cannot be written; the older state stays.
    """
    tensors: dict[str, Tensor] = {
        f"network.{name}": tensor.contiguous() for name, tensor in state.network.state_dict().items()
    }
    names = [name for name, _ in state.network.named_parameters()]
    for index, moments in state.optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            tensors[f"optimizer.{names[index]}.{key}"] = torch.as_tensor(value).contiguous()
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    counters = json.dumps({"iteration": state.iteration, "seconds": state.seconds, "fingerprint": fingerprint})
    content = save(tensors, metadata={"counters": counters, "sha256": _compute_sha256(tensors, counters)})
    write_bytes_atomic(folder / STATE_FOLDER / STATE_FILE, content)


def load_state(folder: Path, state: TrainingState, fingerprint: str) -> None:
    """Fill a state from a run folder.

    Raises:
        ModelError: If there is none, it is damaged, or it belongs to other cases, another plan or another task.
    """
    path = folder / STATE_FOLDER / STATE_FILE
    if not path.is_file():
        msg = f"{folder} holds no saved state; start a new training without --resume."
        raise ModelError(msg)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        counters: dict[str, Any] = json.loads(metadata["counters"])
        is_whole = _compute_sha256(tensors, metadata["counters"]) == metadata["sha256"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        msg = f"{path} is damaged ({str(error)[:100]}); it cannot be resumed. The weights beside it may still be whole."
        raise ModelError(msg) from error
    if not is_whole:
        msg = (
            f"{path} is damaged (its checksum differs); it cannot be resumed. The weights beside it may still be whole."
        )
        raise ModelError(msg)
    if counters["fingerprint"] != fingerprint:
        msg = f"{folder} was trained on other cases, another plan or another task; resume with the same data, or start anew."
        raise ModelError(msg)
    state.network.load_state_dict(
        {name.removeprefix("network."): tensor for name, tensor in tensors.items() if name.startswith("network.")}
    )
    _load_optimizer(state, tensors)
    state.iteration, state.seconds = int(counters["iteration"]), float(counters["seconds"])


def _compute_sha256(tensors: dict[str, Tensor], counters: str) -> str:
    return hashlib.sha256(f"{compute_weights_sha256(tensors)} {counters}".encode()).hexdigest()


def _load_optimizer(state: TrainingState, tensors: dict[str, Tensor]) -> None:
    names = [name for name, _ in state.network.named_parameters()]
    content = state.optimizer.state_dict()
    content["state"] = {}
    for index, name in enumerate(names):
        prefix = f"optimizer.{name}."
        moments = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        if moments:
            content["state"][index] = moments
    state.optimizer.load_state_dict(content)
