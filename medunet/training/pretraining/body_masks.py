"""Scans become cases: what stands in for labels is where the patient is.

Planning, preprocessing and the drawing of patches ask for labels: for the intensities of a scan's content, and for places
that patches shall show. Of scans without labels the body is what answers, found by a threshold (`compute_body_mask`).

```text
state/body/<hash of the case id>.nii.gz    one mask per scan, 1 in the body
```
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medunet.errors import DatasetError, InputError
from medunet.io import write_nifti_labels
from medunet.planning import compute_body_mask
from medunet.tasks import Case, Dataset, ImageSet, ScanFolder, Task, check_channels, read_case_scan
from medunet.volume import Volume

logger = logging.getLogger(__name__)

BODY_FOLDER = "body"
BODY = "body"


def build_pretraining_task(base: Task | None, modality: str | None = None) -> Task:
    """A task whose only label is the body.

    Args:
        base: Recipe whose channels, modality and intensity rule are taken.
        modality: ``"CT"`` or ``"MR"`` where there is no recipe: one channel, CT by percentiles of the body, MR by mean and deviation.

    Example:
        >>> build_pretraining_task(None, "CT").channels, build_pretraining_task(None, "MR").intensity
        (('ct',), 'zscore')
    """
    channels: tuple[str, ...]
    if base is None:
        assert modality is not None
        name, channels = modality.lower(), (modality.lower(),)
        intensity, window = ("ct-percentile" if modality == "CT" else "zscore"), None
        budget = Task.model_fields["budget"].default
    else:
        name, channels, modality = base.name, base.channels, base.modality
        intensity, window, budget = base.intensity, base.window_hu, base.budget
    return Task.model_validate(
        {
            "name": f"pretraining-{name}",
            "title": f"Pretraining for {base.title}" if base is not None else f"Pretraining on {modality}",
            "modality": modality,
            "channels": channels,
            "labels": {BODY: 1},
            "intensity": intensity,
            "window_hu": window,
            "budget": budget,
        }
    )


def prepare_body_masks(
    scans: ScanFolder,
    task: Task,
    folder: Path,
    *,
    num_workers: int,
    on_scan: Callable[[str], None] | None = None,
) -> tuple[Dataset, tuple[str, ...]]:
    """Find the body in every scan, once; masks that are there already are kept.

    Args:
        scans: To learn from.
        task: From `build_pretraining_task`.
        folder: Gets the masks.
        num_workers: Threads; each needs memory for one scan.
        on_scan: Called with the id of every finished scan.

    Returns:
        The scans as cases, and the ids of those that cannot be read or show nothing, each with a warning.

    Raises:
        DatasetError: If none can be used.
        OutputError: If a mask cannot be written.
    """

    def prepare(scan: ImageSet) -> Case | str:
        case = Case(
            case_id=scan.case_id,
            images=scan.images,
            labels=folder / f"{hashlib.sha256(scan.case_id.encode()).hexdigest()[:16]}.nii.gz",
            series=scan.series,
            group=scan.group,
        )
        try:
            if not case.labels.is_file():
                _write_mask(case, task)
        except InputError as error:
            return f"{scan.case_id}: {error}"
        finally:
            if on_scan:
                on_scan(scan.case_id)
        return case

    with ThreadPoolExecutor(num_workers) as pool:
        prepared = list(pool.map(prepare, scans.scans))
    cases = tuple(case for case in prepared if isinstance(case, Case))
    faults = [fault for fault in prepared if isinstance(fault, str)]
    for fault in faults:
        logger.warning("Left out: %s", fault)
    if not cases:
        msg = f"None of the {len(faults)} scans in {scans.folder} can be used; the first: {faults[0]}"
        raise DatasetError(msg)
    dataset = Dataset(
        name=scans.name, folder=scans.folder, layout=scans.layout, cases=cases, is_synthetic=scans.is_synthetic
    )
    known = {case.case_id for case in cases}
    return dataset, tuple(scan.case_id for scan in scans.scans if scan.case_id not in known)


def _write_mask(case: Case, task: Task) -> None:
    image = read_case_scan(case, task).volume
    check_channels(image, task, f"scan '{case.case_id}'")
    body = compute_body_mask(image.array, task.modality)
    if not body.any():
        msg = f"Scan '{case.case_id}' shows nothing but air or zeros; expected a patient. Leave it out."
        raise InputError(msg)
    write_nifti_labels(Volume(body[None].astype(np.uint8), image.affine), case.labels)
