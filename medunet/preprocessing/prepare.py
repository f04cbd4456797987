"""Preprocessing a dataset: every case once, several at a time, found again while task, plan and files are unchanged.

One file per case, which appears whole or not at all: a preprocessing that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medunet.device import is_out_of_memory
from medunet.errors import DatasetError, InputError, VolumeError
from medunet.io import has_structure_names, write_bytes_atomic
from medunet.planning import Plan
from medunet.preprocessing.case_file import CaseFile, DamagedCaseError, open_case_file
from medunet.preprocessing.one_core import keeping_cores, use_one_core
from medunet.preprocessing.pipeline import compute_fill, preprocess_image, preprocess_labels
from medunet.preprocessing.store import StoredCase, open_stored_case, serialize_stored_case
from medunet.tasks import Case, Task, encode_labels, list_case_files, read_case

logger = logging.getLogger(__name__)

STORE_VERSION = 5
"""Raised whenever the same files and rules give another content."""

_MAX_ID_BYTES = 150


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

    Files that were cut off or changed are made anew, with a warning. Of a case on disk, only a few kilobytes are in memory.

    Args:
        cases: What to prepare.
        task: Channels and labels.
        plan: Spacing and intensity rules.
        folder: The store; made when missing. Files of other plans in it are left alone.
        num_workers: Threads; each needs memory for one case.
        memory_gib: Cases are kept in memory when all together need no more than this.
        on_case: Called with the id of every finished case.

    Raises:
        InputError: If a case cannot be read, after all others are done; where several cannot, a `DatasetError` with
            the first fault.
        OutputError: If the store cannot be written.
    """

    def prepare(case: Case) -> CaseFile | InputError:
        try:
            file = _find_or_make(case, task, plan, folder)
        except InputError as error:
            return error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            msg = (
                f"case '{case.case_id}': out of memory while it was preprocessed, {num_workers} cases at a time. Make "
                "more memory available, or let fewer workers do it."
            )
            return DatasetError(msg)
        if on_case:
            on_case(case.case_id)
        return file

    def load(case: Case, file: CaseFile) -> StoredCase:
        return _load(case, file, task, plan, folder, in_memory=in_memory)

    with keeping_cores():
        pool = ThreadPoolExecutor(num_workers, "medunet-preprocessing", initializer=use_one_core)
        try:
            files = _check_faults(list(pool.map(prepare, cases)))
            in_memory = sum(file.path.stat().st_size for file in files) <= memory_gib * 2**30
            return list(pool.map(load, cases, files))
        finally:  # after a full disk or Ctrl-C the cases that wait need not be tried
            pool.shutdown(cancel_futures=True)


def compute_store_key(case: Case, task: Task, plan: Plan) -> str:
    """Changes whenever the preprocessed case would: its files, the rules applied to them, or this format."""
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in list_case_files(case)]
    # Structures become labels by their names; label maps are told by their values, and may be renamed.
    names = [list(task.labels), sorted(task.synonyms.items())] if has_structure_names(case.labels) else []
    rules = {
        "version": STORE_VERSION,
        "case": case.case_id,  # of which the file's name may show the beginning only
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
    if task.has_instances:
        rules["objects"] = [task.things, task.label_divisor, task.border_mm]
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]


def name_case_file(case_id: str, key: str) -> str:
    """The name of a case's file; of a very long id, its beginning: file systems allow 255 bytes."""
    return f"{shorten_case_id(case_id)}-{key}.safetensors"


def shorten_case_id(case_id: str) -> str:
    """The beginning of a very long id, for the name of a file that has more behind it."""
    return os.fsencode(case_id)[:_MAX_ID_BYTES].decode("utf-8", "ignore")


def list_annotated(case: Case, task: Task) -> tuple[bool, ...] | None:
    """Per output of the network, whether the case was searched for it; None where it was for all.

    Example:
        >>> from medunet.tasks import load_task
        >>> case = Case(case_id="a", images=(), labels=Path("a.nii.gz"), annotated=frozenset({"anterior"}))
        >>> list_annotated(case, load_task("hippocampus-mr"))  # background, anterior, posterior
        (True, True, False)
    """
    if case.annotated is None or case.annotated >= task.labels.keys():
        return None
    labels = [name in case.annotated for name in task.labels]
    return tuple(labels if task.has_regions else [True, *labels])


def _find_or_make(case: Case, task: Task, plan: Plan, folder: Path) -> CaseFile:
    path = folder / name_case_file(case.case_id, compute_store_key(case, task, plan))
    try:
        return open_case_file(path)
    except FileNotFoundError:
        pass
    except DamagedCaseError as error:
        logger.warning("%s The case is preprocessed again.", error)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}. Correct its permissions or disk, or remove it."
        raise VolumeError(msg) from error
    return _make(case, task, plan, path)


def _make(case: Case, task: Task, plan: Plan, path: Path) -> CaseFile:
    scan, label_map = read_case(case, task)
    image = preprocess_image(scan, plan)
    codes = preprocess_labels(encode_labels(label_map, task), image).array[0]
    fill = compute_fill(image.array, plan)
    content = serialize_stored_case(image.array, np.ascontiguousarray(codes), fill, case.case_id, affine=image.affine)
    write_bytes_atomic(path, content)
    return open_case_file(path)


def _load(case: Case, file: CaseFile, task: Task, plan: Plan, folder: Path, *, in_memory: bool) -> StoredCase:
    annotated = list_annotated(case, task)
    try:
        return open_stored_case(file, case.case_id, annotated, in_memory=in_memory)
    except DamagedCaseError as error:
        logger.warning("%s The case is preprocessed again.", error)
        made = _make(case, task, plan, folder / file.path.name)
        return open_stored_case(made, case.case_id, annotated, in_memory=in_memory)


def _check_faults(prepared: Sequence[CaseFile | InputError]) -> list[CaseFile]:
    faults = [fault for fault in prepared if isinstance(fault, InputError)]
    if len(faults) == 1:
        raise faults[0]
    if faults:
        msg = f"{len(faults)} of {len(prepared)} cases cannot be preprocessed; the first: {faults[0]}"
        raise DatasetError(msg)
    return [file for file in prepared if not isinstance(file, InputError)]
