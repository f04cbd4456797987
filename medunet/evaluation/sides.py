"""Reading the two sides of a case: as two label maps of one grid, or structure by structure where only names agree."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medunet.errors import InputError, LabelError
from medunet.evaluation.pairing import find_case
from medunet.evaluation.regrid import join_frames, put_mask_on_grid
from medunet.io import (
    ReadOptions,
    Scan,
    StructureSet,
    has_structure_names,
    is_dicom_folder,
    is_dicom_label_object,
    is_picture_file,
    list_volumes,
    put_on_picture,
    read_label_map,
    read_scan,
    read_structures,
    strip_suffix,
)
from medunet.io.dicom.content import find_objects
from medunet.tasks import Task, structures_to_labels
from medunet.tasks.task import fold_name
from medunet.volume import Volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SideOptions:
    """How the sides of all cases are read.

    Attributes:
        task: Gives labels their values, and structures their labels by name.
        mapping: Name in a DICOM SEG, RTSTRUCT or ``.seg.nrrd`` -> label of the task.
        images: Scan, or folder of scans named after the cases: RTSTRUCT has no grid of its own.
        resample: Whether a mask on another grid is interpolated.
    """

    task: Task | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    images: Path | None = None
    resample: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelMapPair:
    """Two label maps ``(1, I, J, K)`` on one grid, whose values mean the same.

    Attributes:
        reference: To compare with.
        prediction: What is scored.
        structure_names: Of the structures that both files list, where they list any.
    """

    reference: Volume
    prediction: Volume
    structure_names: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False, kw_only=True)
class NamedPair:
    """Structures that are matched by name; they may overlap."""

    reference: StructureSet
    prediction: StructureSet
    case_id: str
    resample: bool

    def iterate_masks(self) -> Iterator[tuple[str, Volume, Volume]]:
        """Name, reference and prediction of each structure of the reference, as label maps of 0 and 1."""
        predicted = {fold_name(structure.name): structure for structure in self.prediction.structures}
        for structure in self.reference.structures:
            reference = _to_volume(self.reference, self.reference.get_mask(structure))
            counterpart = predicted.pop(fold_name(structure.name), None)
            if counterpart is None:
                yield structure.name, reference, reference.with_array(np.zeros_like(reference.array))
                continue
            mask = _to_volume(self.prediction, self.prediction.get_mask(counterpart))
            reference, mask = join_frames(reference, mask)
            mask = put_mask_on_grid(mask, reference, case_id=self.case_id, resample=self.resample)
            yield structure.name, reference, mask
        if predicted:
            names = ", ".join(f"'{structure.name}'" for structure in predicted.values())
            logger.warning("case '%s': %s of the mask not in the reference, so not scored", self.case_id, names)


def read_sides(case_id: str, mask: Path, reference: Path, options: SideOptions) -> LabelMapPair | NamedPair:
    """Read mask and reference of a case.

    With a task both become its label maps: DICOM SEG, RTSTRUCT and ``.seg.nrrd`` by the names of their structures, other
    files by value. Without one, DICOM objects are compared name by name, everything else by value.

    Raises:
        VolumeError: If a file is missing or damaged.
        GeometryError: If the grids differ and are not to be resampled.
        LabelError: If a side is no label map, or its structures are unclear.
        InputError: If a DICOM object stands beside a file without names and no task says what its values mean, or an
            RTSTRUCT comes without its scan.
    """
    paths = (reference, mask)
    if options.task is None and any(map(_goes_by_name, paths)):
        if all(_is_dicom(path) or has_structure_names(path) for path in paths):
            sides = [read_structures(path, _find_scan(path, case_id, options)) for path in paths]
            return NamedPair(reference=sides[0], prediction=sides[1], case_id=case_id, resample=options.resample)
        if any(map(_is_dicom, paths)):
            named, other = (mask, reference) if _is_dicom(mask) else (reference, mask)
            msg = (
                f"{named} names its structures and {other} holds only values; nothing says which is which. Name the task "
                "with --task."
            )
            raise InputError(msg)
    (expected, names), (found, other_names) = (_read_label_map(path, case_id, options) for path in paths)
    if any(map(_is_dicom, paths)):
        expected, found = join_frames(expected, found)
    if all(map(is_picture_file, paths)):
        found = put_on_picture(found, expected, str(mask), str(reference))
    found = put_mask_on_grid(found, expected, case_id=case_id, resample=options.resample)
    return LabelMapPair(reference=expected, prediction=found, structure_names=names | other_names)


def _read_label_map(path: Path, case_id: str, options: SideOptions) -> tuple[Volume, frozenset[str]]:
    """The label map, and the names of the structures that it was made from."""
    if options.task is None or not _goes_by_name(path):
        return read_label_map(path), frozenset()
    if options.task.has_instances:
        msg = (
            f"{path} holds structures by name; task '{options.task.name}' (output: {options.task.output}) compares label maps with "
            "a value per object. Convert it to NIfTI."
        )
        raise LabelError(msg)
    structures = read_structures(path, _find_scan(path, case_id, options))
    label_map = structures_to_labels(structures, options.task, mapping=options.mapping, name=str(path))
    return label_map, frozenset(structure.name for structure in structures.structures)


def _goes_by_name(path: Path) -> bool:
    """Values in these files are the file's own business; elsewhere they are the task's."""
    is_named_nrrd = path.name.lower().endswith(".seg.nrrd") and has_structure_names(path)
    return is_named_nrrd or _is_dicom(path)


def _is_dicom(path: Path) -> bool:
    """Whether a mask is a SEG or RTSTRUCT; a folder was found to hold one."""
    return path.is_dir() or is_dicom_label_object(path)


def _find_scan(path: Path, case_id: str, options: SideOptions) -> Scan | None:
    """The series that a DICOM object was drawn on, where scans are given."""
    if not _is_dicom(path):
        return None
    (drawn,) = find_objects(path)
    if options.images is None:
        if drawn.kind == "RTSTRUCT" and not is_dicom_label_object(path):  # its slices lie beside it
            return read_scan(path, ReadOptions(series=drawn.series or None))
        if drawn.kind == "RTSTRUCT":
            msg = (
                f"{path} is an RTSTRUCT: contours without a grid; expected the DICOM series that it was drawn on. Name "
                "its folder, or the folder of all of them, with --images."
            )
            raise InputError(msg)
        return None
    return read_scan(find_scan_path(options.images, case_id), ReadOptions(series=drawn.series or None))


def find_scan_path(images: Path, case_id: str) -> Path:
    """The scan of a case: ``images`` itself where it is one, else the file or folder in it that is named after the case.

    Raises:
        InputError: If there is none.
    """
    if images.is_file() or (is_dicom_folder(images) and not (images / case_id).is_dir()):
        return images
    entries = [*list_volumes(images), *(path for path in images.iterdir() if path.is_dir())]
    for path in sorted(entries):
        if find_case(strip_suffix(path.name), [case_id]) == case_id:
            return path
    msg = f"There is no scan of case '{case_id}' in {images}; expected a file or folder of that name."
    raise InputError(msg)


def _to_volume(structures: StructureSet, mask: np.ndarray) -> Volume:
    return structures.layers.with_array(mask[None].view(np.uint8))
