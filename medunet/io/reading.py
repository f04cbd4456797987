"""Any path to a `Scan`, a `Volume`, a label map or a `StructureSet`."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from medunet.errors import GeometryError, InputError, LabelError, VolumeError
from medunet.io.formats import (
    IMAGE_SUFFIXES,
    METAIMAGE_SUFFIXES,
    NRRD_SUFFIXES,
    PLANAR_SUFFIXES,
    has_suffix,
    is_dicom_file,
    is_dicom_label_object,
    is_dicom_source,
)
from medunet.io.nifti_file import is_nifti
from medunet.io.nifti_labels import read_nifti_label_names, read_nifti_structures
from medunet.io.nifti_read import read_nifti
from medunet.io.regular_file import check_regular_file
from medunet.io.scan import ReadOptions, Scan
from medunet.io.structures import StructureSet, from_label_map
from medunet.io.voxels import to_label_map, to_working_dtype
from medunet.palette import get_label_colors
from medunet.volume import Volume, align_to_grid
from medunet.warned import collect_warnings, strip_folders

logger = logging.getLogger(__name__)

_MOST_VALUES = 1000  # atlases of the brain have some hundreds
PathOrPaths: TypeAlias = str | Path | Sequence[str | Path]


def read_scan(source: PathOrPaths, options: ReadOptions | None = None) -> Scan:
    """Read a scan with what is known about where it came from.

    Args:
        source: NIfTI, NRRD, MetaImage, PNG, TIFF, JPEG or DICOM file; a folder, zip or DICOMDIR of DICOM files; or a list of
            these, one per channel. A channel on another grid is resampled onto that of the first, with a warning.
        options: What to take where a source leaves it open.

    Raises:
        VolumeError: If a source is missing, of another kind, damaged, ambiguous, or without usable geometry or voxels.
        GeometryError: If a channel does not overlap with the first, or lies in another DICOM frame of reference.
    """
    options = options or ReadOptions()
    paths = [Path(source)] if isinstance(source, (str, Path)) else [Path(path) for path in source]
    if not paths:
        msg = "An empty list was given as scan; expected one path per channel."
        raise VolumeError(msg)
    with collect_warnings() as warned:
        scans = [_read_one(path, options) for path in paths]
        scan = scans[0] if len(scans) == 1 else _join_channels(scans)
    # DICOM's notes are logged behind the name of the file.
    more = strip_folders([text for text in warned if not text.endswith(scan.notes)], paths)
    return replace(scan, notes=(*scan.notes, *more)) if more else scan


def read_volume(source: PathOrPaths, options: ReadOptions | None = None, **choices: Any) -> Volume:
    """Read the voxels and geometry of a scan; see `read_scan`.

    Args:
        source: As `read_scan`.
        options: As `read_scan`.
        **choices: Fields of `ReadOptions`, such as ``series="t2"``, ``volume_index=0``, ``allow_gaps=True`` or
            ``affine="qform"``.

    Raises:
        VolumeError: As `read_scan`.
        InputError: If ``choices`` holds an unknown name.
    """
    return read_scan(source, merge_options(options, choices)).volume


def merge_options(options: ReadOptions | None, choices: dict[str, Any]) -> ReadOptions:
    """Options with some fields replaced.

    Raises:
        InputError: If a field is unknown.
    """
    unknown = sorted(set(choices) - set(ReadOptions.__dataclass_fields__))
    if unknown:
        msg = f"There is no option '{unknown[0]}' for reading; expected {', '.join(ReadOptions.__dataclass_fields__)}."
        raise InputError(msg)
    return replace(options or ReadOptions(), **choices)


def read_channels(paths: Sequence[str | Path], options: ReadOptions | None = None) -> Volume:
    """Read one file per channel, or one file with all channels, into one volume; see `read_scan`."""
    return read_scan(list(paths), options).volume


def read_reference(path: str | Path, options: ReadOptions | None = None) -> Scan:
    """The slices of a DICOM series without their voxels, for masks that were made from a copy of it.

    Raises:
        VolumeError: If the path holds no DICOM series, or it leaves open which.
    """
    from medunet.io.dicom.read import read_stack

    path = Path(path)
    if not path.is_dir():
        check_regular_file(path)
    stack = read_stack(path, options)
    return Scan(volume=stack.grid, path=path, notes=stack.notes, stack=stack)


def read_label_map(path: str | Path, options: ReadOptions | None = None) -> Volume:
    """Read a label map ``(1, I, J, K)``; float files that hold whole numbers are taken.

    Raises:
        VolumeError: As `read_scan`.
        LabelError: If it has several channels, or values that are no whole numbers from 0 to 2**24 - 1; for DICOM SEG
            also if its segments overlap.
    """
    path = Path(path)
    if is_dicom_file(path):
        return read_structures(path).to_label_map()
    if has_suffix(path, PLANAR_SUFFIXES):
        from medunet.io.planar import read_planar_labels

        return to_label_map(read_planar_labels(path, volume_index=options.volume_index if options else None), str(path))
    return to_label_map(read_volume(path, options), str(path))


def read_structures(path: str | Path, scan: Scan | None = None, options: ReadOptions | None = None) -> StructureSet:
    """Read named structures: DICOM SEG, RTSTRUCT, a ``.seg.nrrd``, or a label map with or without names.

    Args:
        path: The file.
        scan: The image that the structures were drawn on; its grid is that of the result. RTSTRUCT needs one from
            DICOM; without it the others keep their own grid.
        options: For label maps.

    Raises:
        VolumeError: If the file is damaged or of another kind, or an RTSTRUCT comes without its image.
        GeometryError: If the structures do not lie on the scan's grid.
        LabelError: If a label map holds no labels.
    """
    path, options = Path(path), options or ReadOptions()
    if not has_suffix(path, IMAGE_SUFFIXES) and is_dicom_source(path):
        structures = _read_dicom_structures(path, scan)
    else:
        structures = _read_named_labels(path, options) or _name_by_value(path, options)
    if scan is None or structures.layers is scan.volume:
        return structures
    layers = align_to_grid(structures.layers, scan.volume, str(path), str(scan.path or "the scan"))
    return StructureSet(layers=layers, structures=structures.structures)


def has_structure_names(path: Path) -> bool:
    """Whether a mask names its structures: DICOM SEG or RTSTRUCT, NRRD with segments, NIfTI with label names.

    Raises:
        VolumeError: If the file is missing or damaged, for what its header alone shows.
        LabelError: If the names are damaged.
    """
    if path.is_dir():
        return is_dicom_label_object(path)
    if is_nifti(path):
        return read_nifti_label_names(path) is not None
    if has_suffix(path, NRRD_SUFFIXES):
        from medunet.io.nrrd import read_nrrd_header

        return any(re.match(r"Segment\d+_", key) for key in read_nrrd_header(path).keys)
    return is_dicom_label_object(path)


# ---- one source ------------------------------------------------------------------------------------------------------


def _read_one(path: Path, options: ReadOptions) -> Scan:
    if is_dicom_source(path):
        from medunet.io.dicom.read import read_dicom

        return read_dicom(path, options)
    check_regular_file(path)
    if is_nifti(path):
        return Scan(volume=read_nifti(path, affine=options.affine, volume_index=options.volume_index), path=path)
    if has_suffix(path, NRRD_SUFFIXES):
        from medunet.io.nrrd_read import read_nrrd

        return Scan(volume=read_nrrd(path, volume_index=options.volume_index), path=path)
    if has_suffix(path, METAIMAGE_SUFFIXES):
        from medunet.io.metaimage import read_metaimage

        return Scan(volume=read_metaimage(path, volume_index=options.volume_index), path=path)
    if has_suffix(path, PLANAR_SUFFIXES):
        from medunet.io.planar import read_planar, without_pixel_size

        picture = read_planar(path, volume_index=options.volume_index)
        return Scan(volume=without_pixel_size(picture) if options.modality == "photo" else picture, path=path)
    suffixes = ", ".join(IMAGE_SUFFIXES)
    msg = f"{path} is no volume that medunet reads; expected DICOM, or a name ending in {suffixes}. Convert it first."
    raise VolumeError(msg)


def _join_channels(scans: list[Scan]) -> Scan:
    from medunet.io.regrid_channels import put_channel_on_grid

    first = scans[0]
    notes = [note for scan in scans for note in scan.notes]
    channels = [first.volume]
    for scan in scans[1:]:
        _check_same_frame_of_reference(first, scan)
        channels.append(put_channel_on_grid(scan.volume, first.volume, str(scan.path), str(first.path)))
    array = np.concatenate([volume.array for volume in channels])
    volume = first.volume.with_array(to_working_dtype(array))  # int32 beside float32 would become float64
    others = tuple(dict.fromkeys(path for scan in scans[1:] for path in scan.list_files()))
    return Scan(volume=volume, path=first.path, notes=tuple(notes), stack=first.stack, other_paths=others)


def _check_same_frame_of_reference(first: Scan, other: Scan) -> None:
    if first.stack is None or other.stack is None:
        return
    uid, other_uid = first.stack.frame_of_reference_uid, other.stack.frame_of_reference_uid
    if uid and other_uid and uid != other_uid:
        msg = (
            f"{first.path} and {other.path} lie in different DICOM frames of reference: their millimetres mean different "
            "places. Register one to the other first."
        )
        raise GeometryError(msg)


# ---- structures ------------------------------------------------------------------------------------------------------


def _read_dicom_structures(path: Path, scan: Scan | None) -> StructureSet:
    from medunet.io.dicom.content import LABEL_CLASSES, find_objects
    from medunet.io.dicom.files import DicomFile
    from medunet.io.dicom.header import read_instance
    from medunet.io.dicom.seg_read import read_seg

    if path.is_dir():
        found = find_objects(path)
        if len(found) != 1:
            names = ", ".join(str(label.path) for label in found[:4]) or "none"
            msg = (
                f"{path} holds {len(found)} SEG or RTSTRUCT objects ({names}); expected one. Give the path of the file."
            )
            raise VolumeError(msg)
        path = found[0].path
    instance = read_instance(DicomFile(path))
    kind = None if instance is None else LABEL_CLASSES.get(instance.sop_class)
    stack = None if scan is None else scan.stack
    if kind == "SEG":
        return read_seg(path, stack)
    if kind == "RTSTRUCT":
        from medunet.io.dicom.rtstruct_read import read_rtstruct

        if stack is None:
            msg = (
                f"{path} is an RTSTRUCT: contours without a grid; expected the DICOM series that it was drawn on. Make a "
                "mask of it with medunet convert, and name the folder of the series with --reference."
            )
            raise VolumeError(msg)
        return read_rtstruct(path, stack)
    msg = f"{path} is no DICOM SEG or RTSTRUCT object; expected one of these. Check the path."
    raise VolumeError(msg)


def _read_named_labels(path: Path, options: ReadOptions) -> StructureSet | None:
    check_regular_file(path)
    if is_nifti(path):
        return read_nifti_structures(path, affine=options.affine, volume_index=options.volume_index)
    if has_suffix(path, NRRD_SUFFIXES):
        from medunet.io.nrrd_read import read_nrrd_structures

        return read_nrrd_structures(path)
    return None


def _name_by_value(path: Path, options: ReadOptions) -> StructureSet:
    labels = read_label_map(path, options)
    values = [int(value) for value in np.unique(labels.array) if value]
    if len(values) > _MOST_VALUES:
        msg = f"{path} holds {len(values)} different values; expected a label map ({_MOST_VALUES} at most). Is it an image?"
        raise LabelError(msg)
    names = {f"label {value}": (value,) for value in values}
    return from_label_map(labels, names, colors=get_label_colors(names))
