"""The model folder: everything inference needs, in files that explain themselves; no pickle anywhere.

```text
weights.safetensors   the network's weights, float32, with their SHA-256 in the file's metadata
ensemble.json         instead of weights: the model folders below that answer together (medunet.models.members)
low/                  of a cascade: the model whose labels its network sees beside the image
locate/               the model that finds the box in which the network has to look, where that saves much
plan.json             how a scan becomes patches (medunet.planning.Plan)
task.json             what is segmented (medunet.tasks.Task)
training.json         how it was trained: settings, versions, seed, cases, checksum
metrics.json          Dice on the validation cases, where there are any
postprocessing.json   what is done to a mask after the network; without it, what the task asks for
instances.json        how objects that touch are told apart, for tasks with instances
quality.json          what scans and masks looked like in training
speed.json            what more or less work per scan is worth
int8.json             what the network in eight bits costs and scores, where that was tried; it lies in backends/
pretraining.json      of a network that restores images: what it learnt from; it segments nothing
card.md               all of that for people
```
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medunet.errors import ModelError
from medunet.io import write_bytes_atomic, write_json_atomic, write_text_atomic
from medunet.models.card import build_card
from medunet.models.instances import InstanceRules
from medunet.models.members import check_lies_within, is_ensemble, list_members
from medunet.models.names import (
    CARD,
    INSTANCES,
    LOCATE,
    LOW,
    METRICS,
    PLAN,
    POSTPROCESSING,
    QUALITY,
    SPEED,
    TASK,
    TRAINING,
    WEIGHTS,
)
from medunet.models.postprocessing import Postprocessing
from medunet.models.pretraining import check_segments
from medunet.models.quality import QualityRanges
from medunet.models.records import ModelRecords, TrainingRecord, check_is_model, check_same_task, read_records
from medunet.models.speed import SpeedRecord
from medunet.networks import PatchNetwork, build_network
from medunet.planning import LOCATOR_LABEL, Plan
from medunet.tasks import Task

__all__ = [
    "AnyModel",
    "Ensemble",
    "Model",
    "ModelRecords",
    "TrainingRecord",
    "check_is_model",
    "combine_checksums",
    "compute_weights_sha256",
    "read_checked_tensors",
    "read_model",
    "read_records",
    "read_single_model",
    "write_description",
    "write_results",
    "write_weights",
]


@dataclass(frozen=True, kw_only=True)
class Model(ModelRecords):
    """One network in memory.

    Attributes:
        network: With its weights, on the CPU, in evaluation mode.
        low: Of a cascade, the model whose labels the network sees beside the image; None otherwise.
        locator: What finds the box in which the network has to look; None where there is none.
    """

    network: PatchNetwork
    low: AnyModel | None = None
    locator: Model | None = None

    @property
    def members(self) -> tuple[Model, ...]:
        """The model itself, so that one and several can be treated alike."""
        return (self,)


@dataclass(frozen=True, kw_only=True)
class Ensemble(ModelRecords):
    """Several networks in memory that answer together.

    Attributes:
        members: Models of the same task; their plans may differ, and their post-processing does not count.
    """

    members: tuple[Model, ...]


AnyModel: TypeAlias = Model | Ensemble


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


def combine_checksums(members: Iterable[TrainingRecord]) -> str:
    """SHA-256 that says which networks an ensemble is made of, and in which order."""
    return hashlib.sha256("".join(record.weights_sha256 for record in members).encode()).hexdigest()


def write_results(
    folder: Path,
    task: Task,
    plan: Plan,
    training: TrainingRecord,
    metrics: dict[str, Any],
    *,
    postprocessing: Postprocessing | None = None,
    instances: InstanceRules | None = None,
    quality: QualityRanges | None = None,
    speed: SpeedRecord | None = None,
    other_plans: Sequence[Plan] = (),
) -> None:
    """Write what is known after training: the card, ``metrics.json``, ``postprocessing.json``,
    ``instances.json``, ``quality.json`` and ``speed.json``.

    Args:
        folder: The model folder.
        task: For the card.
        plan: For the card.
        training: For the card.
        metrics: From validation.
        postprocessing: None writes no file, which means that nothing is done but what the task asks for.
        instances: None writes no file, as for every task without instances.
        quality: None writes no file.
        speed: None writes no file.
        other_plans: For the card: of the members of an ensemble that have another plan.

    Raises:
        OutputError: If the folder cannot be written.
    """
    if postprocessing is not None:  # first: once metrics.json is there, the folder counts as finished
        write_json_atomic(folder / POSTPROCESSING, postprocessing.model_dump(mode="json"))
    if instances is not None:
        write_json_atomic(folder / INSTANCES, instances.model_dump(mode="json"))
    if quality is not None:
        write_json_atomic(folder / QUALITY, quality.model_dump(mode="json"))
    if speed is not None:
        write_json_atomic(folder / SPEED, speed.model_dump(mode="json"))
    record = training.model_dump(mode="json")
    card = build_card(task, plan, record, metrics, postprocessing, other_plans=other_plans)
    write_text_atomic(folder / CARD, card)
    write_json_atomic(folder / METRICS, metrics)


def read_model(folder: str | Path) -> AnyModel:
    """Read and verify a model folder.

    Raises:
        ModelError: If it is no model folder, a file is missing or wrong, the weights are not the ones that were written
            (checksum) or do not fit the plan, the members of an ensemble do not belong together, or it was only
            pretrained and segments nothing.
    """
    records = read_records(folder)
    check_segments(records.folder)
    if not is_ensemble(records.folder):
        return _load(records)
    members = [_load(read_records(member)) for member in list_members(records.folder)]
    for member in members:
        check_same_task(records, member)
    if combine_checksums(member.training for member in members) != records.training.weights_sha256:
        msg = (
            f"The members of {records.folder} are not those that were put together: the checksum in {TRAINING} differs. "
            "Copy the model folder again."
        )
        raise ModelError(msg)
    return Ensemble(**_list_fields(records), members=tuple(members))


def read_single_model(folder: str | Path) -> Model:
    """`read_model` where only a single network will do, such as to go on training it; it may be pretrained only.

    Raises:
        ModelError: Also if it is an ensemble; names the folders of its networks.
    """
    folder = Path(folder)
    if is_ensemble(folder):
        names = [member.name for member in list_members(folder)]
        msg = f"{folder} is an ensemble of {', '.join(names)}; expected a single model. Name one of them, such as {folder / names[0]}."
        raise ModelError(msg)
    return _load(read_records(folder))


def _load(records: ModelRecords) -> Model:
    """The network of a folder that is no ensemble, and what a cascade needs before it."""
    network = _load_network(records.folder / WEIGHTS, records.plan)
    low = _read_low(records) if records.plan.configuration == "cascade" else None
    return Model(**_list_fields(records), network=network, low=low, locator=_read_locator(records))


def _read_locator(records: ModelRecords) -> Model | None:
    if not (records.folder / LOCATE / METRICS).is_file():  # a training that was stopped leaves half of one
        return None
    found, *members = _read_inner_records(records, LOCATE)
    wanted = (records.task.modality, records.task.channels, (LOCATOR_LABEL,))
    if members or (found.task.modality, found.task.channels, tuple(found.task.labels)) != wanted:
        msg = (
            f"{found.folder} does not locate what {records.folder} segments: several networks, or other modality, channels or "
            "labels. Copy the model folder again."
        )
        raise ModelError(msg)
    return Model(**_list_fields(found), network=_load_network(found.folder / WEIGHTS, found.plan))


def _read_low(records: ModelRecords) -> AnyModel:
    for part in _read_inner_records(records, LOW):  # before any is loaded: a cascade here could go on for ever
        check_same_task(records, part)
        if part.plan.configuration != "3d-low":
            msg = (
                f"{part.folder} has the configuration {part.plan.configuration}; the first stage of a cascade is 3d-low. "
                "Copy the model folder again."
            )
            raise ModelError(msg)
    return read_model(records.folder / LOW)


def _read_inner_records(records: ModelRecords, name: str) -> list[ModelRecords]:
    """What a model folder within another says, and what its members say where it is an ensemble."""
    folder = records.folder / name
    check_lies_within(folder, records.folder)
    members = list_members(folder) if is_ensemble(folder) else ()
    return [read_records(part) for part in (folder, *members)]


def _list_fields(records: ModelRecords) -> dict[str, Any]:
    return {field.name: getattr(records, field.name) for field in fields(ModelRecords)}


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
