"""Reading one labelled case with every check that training relies on."""

from __future__ import annotations

import numpy as np

from medunet.errors import DatasetError, LabelError
from medunet.io import is_nifti, read_channels, read_label_map
from medunet.io.scan import ReadOptions, Scan
from medunet.tasks.case import Case
from medunet.tasks.dicom_layout import is_dicom_file
from medunet.tasks.structure_names import check_mapping, structures_to_labels
from medunet.tasks.task import Task
from medunet.volume import Volume, align_to_grid


def read_case(case: Case, task: Task) -> tuple[Volume, Volume]:
    """Image ``(C, I, J, K)`` and label map ``(1, I, J, K)`` on the same grid.

    Labels that lie on the grid of the image, but along other axes, are turned; nothing is interpolated. Structures of a
    DICOM SEG or RTSTRUCT object become labels by their names (`medunet.tasks.structures_to_labels`).

    Raises:
        VolumeError: If a file is missing, damaged or holds NaN.
        GeometryError: If image and label map lie on different grids.
        LabelError: If the label map holds values that the task does not know, or structures are unclear.
        DatasetError: If the number of channels is not the task's.
        TaskError: If the mapping of the dataset names labels that the task does not have.
    """
    check_mapping(case.mapping, task)
    scan = _read_image(case, task)
    check_channels(scan.volume, task, f"case '{case.case_id}'")
    if not is_nifti(case.labels) and is_dicom_file(case.labels):
        structures = read_structures(case.labels, scan)
        labels = structures_to_labels(structures, task, mapping=case.mapping, name=str(case.labels))
    else:
        labels = read_label_map(case.labels)
        check_label_values(labels, task, str(case.labels))
    return scan.volume, align_to_grid(labels, scan.volume, str(case.labels), str(case.images[0]))


def read_structures(path, scan):  # TEMPORARY
    import medunet.io

    return medunet.io.read_structures(path, scan)


def read_scan(path, options):  # TEMPORARY
    import medunet.io

    return medunet.io.read_scan(path, options)


def _read_image(case: Case, task: Task) -> Scan:
    if len(case.images) == 1 and not is_nifti(case.images[0]):
        return read_scan(case.images[0], ReadOptions(series=case.series or None, modality=task.modality))
    return Scan(volume=read_channels(list(case.images)), path=case.images[0])


def check_channels(image: Volume, task: Task, name: str) -> None:
    """Refuse an image with other channels than the task has.

    Raises:
        DatasetError: With both numbers.
    """
    if image.num_channels != len(task.channels):
        msg = (
            f"{name} has {image.num_channels} channel(s); task '{task.name}' expects {len(task.channels)} "
            f"({', '.join(task.channels)}). Give one file per channel, or choose another task."
        )
        raise DatasetError(msg)


def check_label_values(labels: Volume, task: Task, name: str) -> None:
    """Refuse values that are neither background, nor a label of the task, nor its ignore value.

    Raises:
        LabelError: With the unknown values and the known ones.
    """
    known = {0, *task.all_values} | (set() if task.ignore is None else {task.ignore})
    unknown = sorted(set(np.unique(labels.array).tolist()) - known)
    if unknown:
        shown = ", ".join(map(str, unknown[:6])) + (", ..." if len(unknown) > 6 else "")
        msg = (
            f"{name} holds the label value(s) {shown}, which task '{task.name}' does not know; expected "
            f"{', '.join(map(str, sorted(known)))}. Correct the file, or add the label to the task."
        )
        raise LabelError(msg)
