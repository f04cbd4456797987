"""The model folder: everything inference needs, in files that explain themselves; no pickle anywhere.

```text
weights.safetensors   the network's weights, float32, with their SHA-256 in the file's metadata
plan.json             how a scan becomes patches (medunet.planning.Plan)
task.json             what is segmented (medunet.tasks.Task)
training.json         how it was trained: settings, versions, seed, cases, checksum
metrics.json          Dice on the validation cases, where there are any
postprocessing.json   what is done to a mask after the network; without it, nothing is
quality.json          what scans and masks looked like in training
card.md               all of that for people
```
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medunet.errors import ModelError
from medunet.io import write_bytes_atomic, write_json_atomic, write_text_atomic
from medunet.models.card import build_card
from medunet.models.names import CARD, METRICS, PLAN, POSTPROCESSING, QUALITY, TASK, TRAINING, WEIGHTS
from medunet.models.postprocessing import Postprocessing
from medunet.models.quality import QualityRanges
from medunet.networks import PatchNetwork, build_network
from medunet.planning import Plan
from medunet.tasks import Task, describe_first_fault, parse_task


class TrainingRecord(BaseModel):
    """How a model came to be.

    Attributes:
        medunet_version: That wrote it.
        created: ISO date and time, UTC.
        dataset: Name of the dataset.
        is_synthetic: Whether it learnt from phantoms.
        training_cases: Ids.
        validation_cases: Ids.
        case_list_sha256: Of the ids of both.
        fold: That validated; None when it trained on all.
        budget: As asked for.
        num_iterations: Done.
        seconds: Spent in the loop.
        seed: Of everything random.
        is_deterministic: Whether the same seed gives the same weights.
        device: That trained.
        precision: Of the network's arithmetic.
        settings: Everything else that was resolved.
        versions: Of the packages beneath.
        weights_sha256: Of the weights file; empty until weights are written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    medunet_version: str
    created: str
    dataset: str
    is_synthetic: bool
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    case_list_sha256: str
    fold: int | None
    budget: str
    num_iterations: int
    seconds: float
    seed: int
    is_deterministic: bool
    device: str
    precision: str
    settings: dict[str, Any]
    versions: dict[str, str]
    weights_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelRecords:
    """What a model folder says about its model: everything but the weights.

    Attributes:
        folder: Where it was read from.
        task: What it segments.
        plan: How.
        training: Where it comes from.
        metrics: What it scored in validation; empty when it was not validated.
        postprocessing: What is done to a mask after the network; nothing, where the folder does not say.
        quality: What scans and masks looked like in training; None where the folder does not say.
    """

    folder: Path
    task: Task
    plan: Plan
    training: TrainingRecord
    metrics: dict[str, Any]
    postprocessing: Postprocessing = field(default_factory=Postprocessing)
    quality: QualityRanges | None = None


@dataclass(frozen=True, kw_only=True)
class Model(ModelRecords):
    """A model in memory.

    Attributes:
        network: With its weights, on the CPU, in evaluation mode.
    """

    network: PatchNetwork


def write_description(folder: Path, task: Task, plan: Plan) -> None:
    """Write what is known before training: ``task.json`` and ``plan.json``.

    Raises:
        OutputError: If the folder cannot be written.
    """
    write_json_atomic(folder / TASK, task.model_dump(mode="json"))
    write_json_atomic(folder / PLAN, plan.model_dump(mode="json"))


def write_weights(folder: Path, weights: dict[str, Tensor], training: TrainingRecord) -> None:
    """Write the weights and how they came to be; each file appears whole or not at all.

    The weights carry their own checksum, so that at every moment, a kill between the two writes included, the folder
    holds weights that verify.

    Raises:
        OutputError: If the folder cannot be written; older files stay.
    """
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}
    sha256 = compute_weights_sha256(tensors)
    write_bytes_atomic(folder / WEIGHTS, save(tensors, metadata={"sha256": sha256}))
    training = training.model_copy(update={"weights_sha256": sha256})
    write_json_atomic(folder / TRAINING, training.model_dump(mode="json"))


def compute_weights_sha256(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 bytes in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def write_results(
    folder: Path,
    task: Task,
    plan: Plan,
    training: TrainingRecord,
    metrics: dict[str, Any],
    *,
    postprocessing: Postprocessing | None = None,
    quality: QualityRanges | None = None,
) -> None:
    """Write what is known after training: the card, ``metrics.json``, ``postprocessing.json`` and ``quality.json``.

    Args:
        folder: The model folder.
        task: For the card.
        plan: For the card.
        training: For the card.
        metrics: From validation.
        postprocessing: None writes no file, which means that masks stay as the network makes them.
        quality: None writes no file.

    Raises:
        OutputError: If the folder cannot be written.
    """
    if postprocessing is not None:  # first: once metrics.json is there, the folder counts as finished
        write_json_atomic(folder / POSTPROCESSING, postprocessing.model_dump(mode="json"))
    if quality is not None:
        write_json_atomic(folder / QUALITY, quality.model_dump(mode="json"))
    write_text_atomic(folder / CARD, build_card(task, plan, training.model_dump(mode="json"), metrics, postprocessing))
    write_json_atomic(folder / METRICS, metrics)


def read_model(folder: str | Path) -> Model:
    """Read and verify a model folder.

    Raises:
        ModelError: If it is no model folder, a file is missing or wrong, or the weights are not the ones that were
            written (checksum) or do not fit the plan.
    """
    records = read_records(folder)
    network = _load_network(records.folder / WEIGHTS, records.plan)
    return Model(**{field.name: getattr(records, field.name) for field in fields(records)}, network=network)


def read_records(folder: str | Path) -> ModelRecords:
    """Read a model folder without its weights.

    Raises:
        ModelError: If it is no model folder, or a file is missing or wrong.
    """
    folder = Path(folder)
    check_is_model(folder)
    task = parse_task(_read_json(folder / TASK), str(folder / TASK))
    plan = _validate(Plan, folder / PLAN)
    _check_fits(task, plan, folder)
    training = _validate(TrainingRecord, folder / TRAINING)
    metrics = _read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
    postprocessing = Postprocessing()
    if (folder / POSTPROCESSING).is_file():
        postprocessing = _validate(Postprocessing, folder / POSTPROCESSING)
        _check_names_labels(postprocessing, task, folder)
    return ModelRecords(
        folder=folder,
        task=task,
        plan=plan,
        training=training,
        metrics=metrics,
        postprocessing=postprocessing,
        quality=_validate(QualityRanges, folder / QUALITY) if (folder / QUALITY).is_file() else None,
    )


def _check_fits(task: Task, plan: Plan, folder: Path) -> None:
    wanted = (len(task.channels), task.num_outputs)
    found = (plan.network.in_channels, plan.network.out_channels)
    if wanted != found:
        msg = (
            f"{folder / TASK} and {PLAN} do not fit: the channels and labels of the task need {wanted[0]} inputs and "
            f"{wanted[1]} outputs, the network has {found[0]} and {found[1]}. Are the files of one model?"
        )
        raise ModelError(msg)


def _check_names_labels(postprocessing: Postprocessing, task: Task, folder: Path) -> None:
    if unknown := [name for name in postprocessing.keep_largest if name not in task.labels]:
        msg = (
            f"{folder / POSTPROCESSING} names the label '{unknown[0]}'; {TASK} has {', '.join(task.labels)}. Are the "
            "files of one model?"
        )
        raise ModelError(msg)


def check_is_model(folder: Path) -> None:
    """Refuse what is no model folder.

    Raises:
        ModelError: With what is missing.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        msg = f"The model folder {folder} {what}; expected a folder that `medunet train` made."
        raise ModelError(msg)
    missing = [name for name in (TASK, PLAN, TRAINING, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        msg = (
            f"{folder} is no complete model: {', '.join(missing)} missing; expected a folder that `medunet train` made."
        )
        raise ModelError(msg)


def _load_network(path: Path, plan: Plan) -> PatchNetwork:
    weights = read_checked_tensors(path)
    network = build_network(plan.network)
    expected = network.state_dict()
    wrong = sorted(set(expected) ^ set(weights)) or [
        name for name, tensor in expected.items() if tensor.shape != weights[name].shape
    ]
    if wrong:
        msg = f"{path} does not fit plan.json: {len(wrong)} tensors differ, the first is '{wrong[0]}'. Are the files of one model?"
        raise ModelError(msg)
    network.load_state_dict(weights)
    return network.eval()


def read_checked_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a file that `write_weights` wrote.

    Raises:
        ModelError: If it is no safetensors file, or its content is not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            expected = (file.metadata() or {}).get("sha256", "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        msg = f"{path} is no whole safetensors file ({str(error)[:100]}); copy the model folder again. Pickle is never loaded."
        raise ModelError(msg) from error
    found = compute_weights_sha256(tensors)
    if found != expected:
        msg = (
            f"The checksum of {path} differs: {found[:12]} in the file, {expected[:12] or 'none'} when it was written. "
            "It is damaged; copy the model folder again."
        )
        raise ModelError(msg)
    return tensors


def _validate(kind: type[Any], path: Path) -> Any:
    try:
        return kind.model_validate(_read_json(path))
    except ValidationError as error:
        msg = f"{path}: {describe_first_fault(error)}. Was it written by another version of medunet?"
        raise ModelError(msg) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} is no readable JSON ({str(error).splitlines()[0]}). Copy the model folder again."
        raise ModelError(msg) from error
