"""Preprocessed cases on disk: made once, found again while task, plan and files are unchanged.

One safetensors file per case (no pickle; any box of it can be read without reading the rest).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from medunet.io import has_structure_names, write_bytes_atomic
from medunet.planning import Plan
from medunet.preprocessing.pipeline import preprocess_image, preprocess_labels
from medunet.tasks import (
    IGNORE_CODE,
    Case,
    Task,
    encode_labels,
    list_case_files,
    read_case,
)
from medunet.volume import Array, Shape3

STORE_VERSION = 1
_FOREGROUND_PER_CODE = 5_000

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, kw_only=True)
class StoredCase:
    """A preprocessed case, on disk or in memory.

    Attributes:
        case_id: Of the case.
        path: The file.
        shape: ``(I, J, K)`` on the network's grid.
        fill: Value per channel for voxels outside the image, ``(C,)``.
        foreground: Code -> ``(N, 3)`` voxel positions, a random part of all.
        image: ``(C, I, J, K)`` float32 when kept in memory.
        labels: ``(I, J, K)`` uint8 codes when kept in memory.
    """

    case_id: str
    path: Path
    shape: Shape3
    fill: Tensor
    foreground: dict[int, Tensor]
    image: Tensor | None = None
    labels: Tensor | None = None

    def read_box(self, box: Box) -> tuple[Tensor, Tensor]:
        """Image ``(C, ...)`` and codes ``(...)`` of a box that lies within the case; nothing else is read."""
        if self.image is not None and self.labels is not None:
            return self.image[(slice(None), *box)], self.labels[box]
        with safe_open(self.path, framework="pt") as file:
            image: Tensor = file.get_slice("image")[(slice(None), *box)]
            labels: Tensor = file.get_slice("labels")[box]
        return image, labels


def prepare_cases(
    cases: Sequence[Case],
    task: Task,
    plan: Plan,
    folder: Path,
    *,
    num_workers: int = 2,
    memory_gib: float = 4.0,
    on_case: Callable[[str], None] | None = None,
) -> list[StoredCase]:
    """Preprocess the cases that are not in the store yet, and open all of them.

    Args:
        cases: What to prepare.
        task: Channels and labels.
        plan: Spacing and intensity rules.
        folder: The store; made when missing. Files of other plans in it are left alone.
        num_workers: Threads.
        memory_gib: Cases are kept in memory when all together need no more than this.
        on_case: Called with the id of every finished case.

    Raises:
        MedunetError: If a case cannot be read, or the store not be written.
    """

    def prepare(case: Case) -> Path:
        path = folder / f"{case.case_id}-{compute_store_key(case, task, plan)}.safetensors"
        if not path.is_file():
            write_bytes_atomic(path, _preprocess(case, task, plan))
        if on_case:
            on_case(case.case_id)
        return path

    with ThreadPoolExecutor(num_workers) as pool:
        paths = list(pool.map(prepare, cases))
    in_memory = sum(path.stat().st_size for path in paths) <= memory_gib * 2**30
    return [_open(case.case_id, path, in_memory=in_memory) for case, path in zip(cases, paths, strict=True)]


def compute_store_key(case: Case, task: Task, plan: Plan) -> str:
    """Changes whenever the preprocessed case would: its files, the rules applied to them, or this format."""
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in list_case_files(case)]
    # Structures become labels by their names; label maps are told by their values, and may be renamed.
    names = [list(task.labels), sorted(task.synonyms.items())] if has_structure_names(case.labels) else []
    rules = {
        "version": STORE_VERSION,
        "files": files,
        "series": case.series,
        "mapping": sorted(case.mapping.items()),
        "names": names,
        "labels": list(task.labels.values()),  # codes follow their order, and sort_keys would hide it
        "ignore": task.ignore,
        "modality": plan.modality,
        "spacing": plan.spacing,
        "orientation": plan.orientation,
        "normalization": [rule.model_dump() for rule in plan.normalization],
    }
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]


def _preprocess(case: Case, task: Task, plan: Plan) -> bytes:
    scan, label_map = read_case(case, task)
    image = preprocess_image(scan, plan)
    codes = preprocess_labels(encode_labels(label_map, task), image).array[0]
    tensors = {
        "image": torch.from_numpy(image.array),
        "labels": torch.from_numpy(np.ascontiguousarray(codes)),
        "fill": torch.from_numpy(image.array.reshape(image.num_channels, -1).min(axis=1)),
        **_index_foreground(codes, case.case_id),
    }
    content: bytes = save(tensors)
    return content


def _index_foreground(codes: Array, case_id: str) -> dict[str, Tensor]:
    """Voxel positions per code, at most a fixed number, the same ones each time."""
    rng = np.random.default_rng(list(case_id.encode()))
    index = {}
    for code in np.unique(codes).tolist():
        if code in (0, IGNORE_CODE):
            continue
        flat = np.flatnonzero(codes == code)
        if flat.size > _FOREGROUND_PER_CODE:
            flat = rng.choice(flat, _FOREGROUND_PER_CODE, replace=False)
        positions = np.stack(np.unravel_index(flat, codes.shape), axis=1).astype(np.int16)
        index[f"foreground_{code}"] = torch.from_numpy(positions)
    return index


def _open(case_id: str, path: Path, *, in_memory: bool) -> StoredCase:
    with safe_open(path, framework="pt") as file:
        kept: dict[str, Any] = {name: file.get_tensor(name) for name in ("image", "labels")} if in_memory else {}
        i, j, k = file.get_slice("labels").get_shape()
        return StoredCase(
            case_id=case_id,
            path=path,
            shape=(i, j, k),
            fill=file.get_tensor("fill"),
            foreground={
                int(name.removeprefix("foreground_")): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118  not a dict
                if name.startswith("foreground_")
            },
            **kept,
        )
