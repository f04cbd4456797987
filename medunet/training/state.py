"""What is saved to go on later: safetensors files with weights, optimiser and counters, each whole or not there at all.

Two are kept, so that damage to the newest costs the minutes between two saves, not the training:

```text
state/state.safetensors      the newest
state/previous.safetensors   the one before
```
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from medunet.errors import ModelError
from medunet.io.atomic import remove_partial_files, write_bytes_atomic
from medunet.models.folder import compute_weights_sha256
from medunet.models.names import PREVIOUS_FILE, STATE_FILE, STATE_FOLDER
from medunet.training.identity import RunIdentity, describe_difference

logger = logging.getLogger(__name__)

SAVE_SECONDS = 300.0
"""Between two saves, unless told otherwise."""
DAMAGED_FILE = "damaged.safetensors"


@dataclass
class TrainingState:
    """Everything that changes while training.

    Attributes:
        network: Weights.
        optimizer: With its moments (Muon, AdamW) or momentum (SGD).
        average: Running mean of the weights; None where none is kept.
        scaler: Of the loss in float16; None for other precisions.
        iteration: Finished optimiser steps.
        seconds: Spent in the loop, over all sessions.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None = None
    scaler: torch.amp.GradScaler | None = None
    iteration: int = 0
    seconds: float = 0.0


class _Counters(BaseModel):
    """What is written beside the tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iteration: int
    seconds: float
    identity: RunIdentity
    scaler: dict[str, int | float] | None = None


class _DamagedError(Exception):
    """A file is not what was written; the message says how that shows."""


def find_state(folder: Path) -> Path | None:
    """The state of a run folder that would be resumed from; None where there is none."""
    paths = (folder / STATE_FOLDER / name for name in (STATE_FILE, PREVIOUS_FILE))
    return next((path for path in paths if path.is_file()), None)


def has_state(folder: Path) -> bool:
    """Whether a run folder holds a state to resume from."""
    return find_state(folder) is not None


def save_state(folder: Path, state: TrainingState, identity: RunIdentity) -> None:
    """Write the state below a run folder; what was the newest becomes the previous one.

    A kill, a crash or a full disk at any moment leaves at least one whole state.

    Args:
        folder: The run folder.
        state: What to save.
        identity: Of the run; resuming another one from this state is refused.

    Raises:
        OutputError: If it cannot be written; the older states stay.
    """
    path, previous = folder / STATE_FOLDER / STATE_FILE, folder / STATE_FOLDER / PREVIOUS_FILE
    for file in (path, previous):
        remove_partial_files(file)
    tensors = dict(_collect_tensors(state))
    counters = _Counters(
        iteration=state.iteration,
        seconds=state.seconds,
        identity=identity,
        scaler=None if state.scaler is None else state.scaler.state_dict(),
    ).model_dump_json()
    content = save(tensors, metadata={"counters": counters, "sha256": _compute_sha256(tensors, counters)})
    write_bytes_atomic(path, content, keep_older_as=previous)


def load_state(folder: Path, state: TrainingState, identity: RunIdentity) -> None:
    """Fill a state from a run folder: from the newest file, or from the previous one when the newest is damaged.

    Raises:
        ModelError: If there is none, all are damaged, or they belong to a run with other cases, another plan or another
            task; the message says what differs. ``state`` is then as it was.
    """
    tensors, counters = _read_newest(folder)
    saved = counters.identity
    if difference := describe_difference(saved, identity):
        msg = (
            f"{folder} was trained with other cases, another plan, another task or other settings: {difference}. Restore "
            "what it was trained with, or start a new training with another --output."
        )
        raise ModelError(msg)
    if saved.medunet_version != identity.medunet_version:
        logger.warning(
            "%s was begun with medunet %s and goes on with %s; the result may differ from an unbroken run.",
            folder,
            saved.medunet_version,
            identity.medunet_version,
        )
    _fill(state, tensors, folder)
    if state.scaler is not None and counters.scaler is not None:
        state.scaler.load_state_dict(counters.scaler)
    state.iteration, state.seconds = counters.iteration, counters.seconds


def _read_newest(folder: Path) -> tuple[dict[str, Tensor], _Counters]:
    path, previous = folder / STATE_FOLDER / STATE_FILE, folder / STATE_FOLDER / PREVIOUS_FILE
    if not has_state(folder):
        msg = f"{folder} holds no saved state; start a new training without --resume."
        raise ModelError(msg)
    try:
        return _read(path)
    except FileNotFoundError:
        fault = f"{path} is missing"
    except _DamagedError as error:
        fault = f"{path} is damaged ({error})"
    try:
        tensors, counters = _read(previous)
    except (FileNotFoundError, _DamagedError) as error:
        msg = (
            f"{fault}, and there is no whole {PREVIOUS_FILE} beside it; it cannot be resumed. The weights in {folder} may "
            "still be whole."
        )
        raise ModelError(msg) from error
    logger.warning(
        "%s; going on from the previous state, iteration %d: what was learnt after it is lost.",
        fault,
        counters.iteration,
    )
    # Set aside, or the next save would keep the damaged file in place of the whole one.
    with contextlib.suppress(OSError):
        path.replace(path.with_name(DAMAGED_FILE))
    return tensors, counters


def _read(path: Path) -> tuple[dict[str, Tensor], _Counters]:
    """Tensors and counters of one file, verified."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        text = metadata["counters"]
        is_whole = _compute_sha256(tensors, text) == metadata["sha256"]
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, KeyError) as error:
        raise _DamagedError(str(error)[:100]) from error
    if not is_whole:
        msg = "its checksum differs"
        raise _DamagedError(msg)
    try:
        return tensors, _Counters.model_validate_json(text)
    except ValidationError as error:
        msg = f"{path} was written by another version of medunet; go on with that one, or start a new training."
        raise ModelError(msg) from error


def _compute_sha256(tensors: dict[str, Tensor], counters: str) -> str:
    return hashlib.sha256(f"{compute_weights_sha256(tensors)} {counters}".encode()).hexdigest()


def _collect_tensors(state: TrainingState) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a state on the CPU, each under a name of its own."""
    for name, tensor in state.network.state_dict().items():
        yield f"network.{name}", _to_cpu(tensor)
    if state.average is not None:
        for name, tensor in state.average.state_dict().items():
            yield f"average.{name}", _to_cpu(tensor)
    names = _list_parameter_names(state)
    for index, moments in state.optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            if value is not None:  # SGD without momentum
                yield f"optimizer.{names[index]}.{key}", _to_cpu(torch.as_tensor(value))


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _list_parameter_names(state: TrainingState) -> list[str]:
    """Names in the optimiser's own order, which is that of its parameter groups."""
    names = {id(parameter): name for name, parameter in state.network.named_parameters()}
    return [names[id(parameter)] for group in state.optimizer.param_groups for parameter in group["params"]]


def _fill(state: TrainingState, tensors: Mapping[str, Tensor], folder: Path) -> None:
    modules = {"network.": state.network} | ({} if state.average is None else {"average.": state.average})
    contents = {prefix: _select(tensors, prefix) for prefix in modules}
    for prefix, module in modules.items():
        expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
        if {name: tensor.shape for name, tensor in contents[prefix].items()} != expected:
            msg = (
                f"The state in {folder} does not fit the {prefix.rstrip('.')} of this version of medunet; go on with the "
                "version that wrote it, or start a new training."
            )
            raise ModelError(msg)
    for prefix, module in modules.items():
        module.load_state_dict(contents[prefix])
    content = state.optimizer.state_dict()
    content["state"] = {}
    for index, name in enumerate(_list_parameter_names(state)):
        if moments := _select(tensors, f"optimizer.{name}."):
            content["state"][index] = moments
    state.optimizer.load_state_dict(content)


def _select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
