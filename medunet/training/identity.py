"""What a training is made of: resuming with anything else would go on with another experiment, so it is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from medunet.runs.documents import compare_documents, format_value

_SHOWN = 3
"""Cases that a message names; the others are counted."""
_SILENT_PLAN = frozenset({"version", "reasons"})
_SILENT_TASK = frozenset({"labels", "title", "codes", "synonyms", "postprocessing", "phantom", "budget"})
"""What a task says to people, and what has done its work once the cases are preprocessed; labels are told one by one."""


class RunIdentity(BaseModel):
    """Everything that decides which weights a training arrives at.

    Task and plan are kept as plain documents, so that a state that was written by another version can still be compared.

    Attributes:
        medunet_version: That began the training; for information, no reason to refuse.
        case_checksums: Case id -> SHA-256 of its preprocessed voxels and labels, and of which labels it annotates.
        training_cases: Ids in the order in which they are drawn from.
        validation_cases: Ids.
        plan: `medunet.planning.Plan`, or its JSON document.
        task: `medunet.tasks.Task`, or its JSON document.
        loss: Name of the loss.
        seed: Of everything random.
        augmentation: Name of the augmentation.
        world_size: Processes that learn together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    medunet_version: str
    case_checksums: dict[str, str]
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    plan: dict[str, Any]
    task: dict[str, Any]
    loss: str
    seed: int
    augmentation: str
    world_size: int = 1

    @field_validator("plan", "task", mode="before")
    @classmethod
    def _to_document(cls, value: Any) -> Any:
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def describe_difference(saved: RunIdentity, now: RunIdentity) -> str:
    """What differs, in plain words and one line; empty where training may go on.

    Example:
        >>> saved = RunIdentity(
        ...     medunet_version="0.1.0",
        ...     case_checksums={"a": "1f", "b": "2e"},
        ...     training_cases=("a", "b"),
        ...     validation_cases=(),
        ...     plan={"patch_size": [40, 56, 40]},
        ...     task={"labels": {"anterior": [1]}},
        ...     loss="dice-ce",
        ...     seed=0,
        ...     augmentation="fast",
        ... )
        >>> now = saved.model_copy(update={"case_checksums": {"a": "1f", "b": "3d"}, "plan": {"patch_size": [32, 48, 32]}})
        >>> describe_difference(saved, now)
        'case b has other voxels or labels; plan.patch_size 40x56x40 -> 32x48x32'
    """
    return "; ".join(
        [
            *_compare_cases(saved, now),
            *_compare_labels(saved.task.get("labels", {}), now.task.get("labels", {})),
            *_compare_documents(saved.task, now.task, "task", _SILENT_TASK),
            *_compare_documents(saved.plan, now.plan, "plan", _SILENT_PLAN),
            *_compare_values(saved, now),
        ]
    )


def describe_other_cases(
    saved: tuple[Collection[str], Collection[str]], now: tuple[Collection[str], Collection[str]]
) -> str:
    """How ids of training and validation cases differ, in plain words and one line; empty where they are the same.

    Example:
        >>> describe_other_cases((("a", "b"), ("c",)), (("a", "c"), ("b", "d")))
        '1 case more: d; 1 case moved from training to validation: b; 1 case moved from validation to training: c'
    """
    return "; ".join(_compare_case_ids(saved, now))


def _compare_case_ids(
    saved: tuple[Collection[str], Collection[str]], now: tuple[Collection[str], Collection[str]]
) -> Iterator[str]:
    before, after = {*saved[0], *saved[1]}, {*now[0], *now[1]}
    if gone := before - after:
        yield f"{_count_cases(gone)} fewer: {_name(gone)}"
    if new := after - before:
        yield f"{_count_cases(new)} more: {_name(new)}"
    for source, target, where in (
        (saved[0], now[1], "from training to validation"),
        (saved[1], now[0], "from validation to training"),
    ):
        if moved := set(source) & set(target):
            yield f"{_count_cases(moved)} moved {where}: {_name(moved)}"


def _compare_cases(saved: RunIdentity, now: RunIdentity) -> Iterator[str]:
    yield from _compare_case_ids(
        (saved.training_cases, saved.validation_cases), (now.training_cases, now.validation_cases)
    )
    if saved.training_cases != now.training_cases and set(saved.training_cases) == set(now.training_cases):
        yield "the training cases are in another order"
    changed = {
        case_id
        for case_id in saved.case_checksums.keys() & now.case_checksums.keys()
        if saved.case_checksums[case_id] != now.case_checksums[case_id]
    }
    if changed:
        yield f"{'case' if len(changed) == 1 else 'cases'} {_name(changed)} {_have(changed)} other voxels or labels"


def _compare_labels(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in saved:
        if name not in now:
            yield f"label '{name}' is gone"
        elif list(saved[name]) != list(now[name]):
            yield f"label '{name}' had value {format_value(saved[name], ' and ')}, has {format_value(now[name], ' and ')}"
    yield from (f"label '{name}' is new" for name in now if name not in saved)
    if saved.keys() == now.keys() and list(saved) != list(now):
        yield "the labels are in another order"


def _compare_documents(
    saved: Mapping[str, Any], now: Mapping[str, Any], where: str, silent: frozenset[str]
) -> Iterator[str]:
    for one in compare_documents(saved, now, where=where, silent=silent):
        yield f"{one.path} {format_value(one.first)} -> {format_value(one.second)}"


def _compare_values(saved: RunIdentity, now: RunIdentity) -> Iterator[str]:
    for name in ("loss", "seed", "augmentation"):
        if (before := getattr(saved, name)) != (after := getattr(now, name)):
            yield f"{name} {before} -> {after}"
    if saved.world_size != now.world_size:
        yield f"processes that learn together {saved.world_size} -> {now.world_size}"


def _count_cases(ids: set[str]) -> str:
    return "1 case" if len(ids) == 1 else f"{len(ids)} cases"


def _have(ids: set[str]) -> str:
    return "has" if len(ids) == 1 else "have"


def _name(ids: Iterable[str]) -> str:
    ordered = sorted(ids)
    shown = ", ".join(ordered[:_SHOWN])
    return shown if len(ordered) <= _SHOWN else f"{shown} and {len(ordered) - _SHOWN} others"
