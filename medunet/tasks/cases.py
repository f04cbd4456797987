"""Reading one labelled case with every check that training relies on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medunet.errors import DatasetError, LabelError
from medunet.io import (
    ReadOptions,
    Scan,
    has_structure_names,
    is_dicom_file,
    is_dicom_source,
    is_picture_file,
    list_parts,
    put_on_picture,
    read_label_map,
    read_scan,
    read_structures,
)
from medunet.io.dicom.content import find_objects
from medunet.io.label_names import name_sidecar
from medunet.tasks.case import Case
from medunet.tasks.instances import build_target_map, check_object_values
from medunet.tasks.partial_labels import check_annotated, check_annotated_values
from medunet.tasks.structure_names import check_mapping, structures_to_labels
from medunet.tasks.task import Task
from medunet.volume import Volume, align_to_grid


def read_case(case: Case, task: Task) -> tuple[Volume, Volume]:
    """Image ``(C, I, J, K)`` and label map ``(1, I, J, K)`` on the same grid.

    Labels that lie on the grid of the image, but along other axes, are turned; nothing is interpolated. The mask of a
    picture lies on it pixel by pixel. Named structures
    (DICOM SEG, RTSTRUCT, ``.seg.nrrd``) become labels by their names, see `medunet.tasks.structures_to_labels`; other
    label files hold the values of the task. Of a task with instances the labels are what the network learns: the body and
    the border of every object (`build_target_map`).

    Raises:
        VolumeError: If a file is missing, damaged or holds NaN.
        GeometryError: If image and label map lie on different grids.
        LabelError: If the label map holds values that the task does not know, or its structures are unclear.
        DatasetError: If the number of channels is not the task's, or a task with instances gets cases that are searched for
            some labels only.
        TaskError: If the mapping of the dataset names labels that the task does not have.
    """
    if task.has_instances:
        image, objects = read_objects(case, task)
        return image, build_target_map(objects, task)
    check_mapping(case.mapping, task)
    check_annotated([case], task)
    scan = read_case_scan(case, task)
    check_channels(scan.volume, task, f"case '{case.case_id}'")
    if has_structure_names(case.labels):
        structures = read_structures(case.labels, scan)
        labels = structures_to_labels(structures, task, mapping=case.mapping, name=str(case.labels))
    else:
        put = put_on_picture if all(map(is_picture_file, (case.labels, case.images[0]))) else align_to_grid
        labels = put(read_label_map(case.labels), scan.volume, str(case.labels), str(case.images[0]))
        check_label_values(labels, task, str(case.labels))
    check_annotated_values(labels, case, task)
    return scan.volume, scan.volume.with_array(labels.array)  # the same grid, without the rounding of a second header


def read_objects(case: Case, task: Task) -> tuple[Volume, Volume]:
    """Image ``(C, I, J, K)`` and the objects ``(1, I, J, K)`` of a case of a task with instances, on the same grid.

    The objects keep the values of the label file: any whole numbers below 2**24.

    Raises:
        VolumeError: If a file is missing, damaged or holds NaN.
        GeometryError: If image and label map lie on different grids.
        LabelError: If the label map holds values of a label that the task does not know, or is a DICOM object.
        DatasetError: If the number of channels is not the task's, or the case is searched for some labels only.
    """
    if case.annotated is not None:
        msg = (
            f"case '{case.case_id}' is said to annotate some labels only; task '{task.name}' (output: {task.output}) needs all "
            "of them. Leave the case out."
        )
        raise DatasetError(msg)
    if is_dicom_file(case.labels) or case.labels.is_dir():
        msg = (
            f"{case.labels} is a DICOM object; task '{task.name}' (output: {task.output}) reads objects from label maps with a "
            "value per object. Convert it."
        )
        raise LabelError(msg)
    scan = read_case_scan(case, task)
    check_channels(scan.volume, task, f"case '{case.case_id}'")
    objects = align_to_grid(read_label_map(case.labels), scan.volume, str(case.labels), str(case.images[0]))
    check_object_values(objects, task, str(case.labels))
    return scan.volume, scan.volume.with_array(objects.array)


def read_case_scan(case: Case, task: Task) -> Scan:
    """The image of a case: of a DICOM folder the series that the labels were drawn on, where they say it.

    Raises:
        VolumeError: If a file is missing, damaged or holds NaN, or the folder leaves open which series is meant.
        GeometryError: If a channel does not overlap with the first.
        DatasetError: If the series is of another modality than the task.
    """
    series = case.series or _find_referenced_series(case)
    scan = read_scan(list(case.images), ReadOptions(series=series or None, modality=task.modality))
    found = "" if scan.stack is None else str(scan.stack.frames[0].header.get("Modality", ""))
    if found and found != task.modality:  # a series that is asked for is read whatever it is
        msg = (
            f"case '{case.case_id}': the labels {case.labels.name} were drawn on a series of modality {found}; task "
            f"'{task.name}' is for {task.modality}. Leave the case out, or choose another task."
        )
        raise DatasetError(msg)
    return scan


def _find_referenced_series(case: Case) -> str:
    """The series that a DICOM object names; empty where the image is no DICOM or nothing is said."""
    if len(case.images) > 1 or not is_dicom_source(case.images[0]) or not is_dicom_file(case.labels):
        return ""
    return next((label.series for label in find_objects(case.labels)), "")


def list_case_files(case: Case) -> list[Path]:
    """Every file that a case is read from, sorted: slices of a DICOM folder, voxels and label names in files of their own.

    Raises:
        VolumeError: If a detached header is damaged, or names a file that is not there.
    """
    paths = (*case.images, case.labels)
    inside = [file for path in paths for file in (list_parts(path) if path.is_file() else path.rglob("*"))]
    return sorted({file for file in (*inside, name_sidecar(case.labels)) if file.is_file()})


def check_channels(image: Volume, task: Task, name: str) -> None:
    """Refuse an image with other channels than the task has.

    Raises:
        DatasetError: With both numbers.
    """
    expected = len(task.channels)
    if image.num_channels == expected:
        return
    if expected == 1:
        found = f"{image.num_channels} volumes or channels"
        remedy = (
            f"Choose one with --volume-index 0 to {image.num_channels - 1} of medunet infer or convert, or choose another "
            "task."
        )
    else:
        found = f"{image.num_channels} channel(s)"
        remedy = "Give one file per channel, or choose another task."
    msg = f"{name} has {found}; task '{task.name}' expects {expected} ({', '.join(task.channels)}). {remedy}"
    raise DatasetError(msg)


def check_label_values(labels: Volume, task: Task, name: str) -> None:
    """Refuse values that are neither background, nor a label of the task, nor its ignore value.

    Raises:
        LabelError: With the unknown values and the known ones.
    """
    if task.has_instances:
        check_object_values(labels, task, name)
        return
    known = {0, *task.all_values} | (set() if task.ignore is None else {task.ignore})
    unknown = sorted(set(np.unique(labels.array).tolist()) - known)
    if unknown:
        shown = ", ".join(map(str, unknown[:6])) + (", ..." if len(unknown) > 6 else "")
        msg = (
            f"{name} holds the label value(s) {shown}, which task '{task.name}' does not know; expected "
            f"{', '.join(map(str, sorted(known)))}. Correct the file, or add the label to the task."
        )
        raise LabelError(msg)
