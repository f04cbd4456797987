"""A `StructureSet` or an image to any format: whole or not at all, and read back where another program must trust it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from medunet.errors import InputError, OutputError
from medunet.io.dicom.stack import DicomStack
from medunet.io.formats import DICOM_SUFFIXES, NRRD_SUFFIXES, has_suffix, strip_suffix
from medunet.io.label_names import name_sidecar, write_label_names
from medunet.io.nifti_file import is_nifti
from medunet.io.nifti_write import write_nifti_image, write_nifti_labels
from medunet.io.scan import ReadOptions, Scan
from medunet.io.structures import Algorithm, Structure, StructureSet
from medunet.volume import Volume, align_to_grid

MaskFormat = Literal["nifti", "nrrd", "dicom-seg", "rtstruct", "planar"]
MASK_FORMATS: tuple[MaskFormat, ...] = ("nifti", "nrrd", "dicom-seg", "rtstruct", "planar")
SegKind = Literal["binary", "labelmap"]
_SUFFIXES: dict[MaskFormat, tuple[str, ...]] = {
    "nifti": (".nii.gz", ".nii"),
    "nrrd": (".seg.nrrd", ".nrrd"),
    "dicom-seg": DICOM_SUFFIXES,
    "rtstruct": DICOM_SUFFIXES,
    "planar": (".tif", ".tiff", ".png"),
}
"""The endings under which masks are written, the usual one first."""
_IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd")


def choose_mask_format(path: Path, wanted: str | None = None) -> MaskFormat:
    """The format of an output: the one asked for, else what the name says.

    Raises:
        InputError: If there is no such format.
        OutputError: If the name says nothing, leaves it open (``.dcm``), or contradicts what was asked for.
    """
    if wanted is not None:
        parse_mask_format(wanted)
    found = [one for one in MASK_FORMATS if has_suffix(path, _SUFFIXES[one])]
    chosen = [one for one in found if wanted in (None, one)]
    if len(chosen) == 1:
        return chosen[0]
    if wanted is not None:
        usual = next(suffixes[0] for one, suffixes in _SUFFIXES.items() if one == wanted)
        msg = f"The output {path} does not fit the format {wanted}; expected a name ending in {usual}."
    elif found:
        msg = f"The output {path} may be a SEG or an RTSTRUCT; say which with --format dicom-seg or --format rtstruct."
    else:
        msg = (
            f"The output {path} is no mask file; expected a name ending in .nii.gz, .nii, .seg.nrrd, .dcm (with --format), "
            ".png or .tif."
        )
    raise OutputError(msg)


def parse_mask_format(name: str) -> MaskFormat:
    """The format of that name.

    Raises:
        InputError: If there is none.
    """
    for mask_format in MASK_FORMATS:
        if mask_format == name:
            return mask_format
    msg = f"There is no format '{name}' for masks; expected {', '.join(MASK_FORMATS)}."
    raise InputError(msg)


def get_mask_suffix(mask_format: MaskFormat) -> str:
    """The usual ending of a format, such as ``".nii.gz"``."""
    return _SUFFIXES[mask_format][0]


def list_outputs(path: Path, mask_format: MaskFormat, names: list[str], *, split: bool) -> list[Path]:
    """Every file that `write_structures` will write, so that none is replaced unasked."""
    masks = [name_split_file(path, name) for name in names] if split else [path]
    return masks + [name_sidecar(mask) for mask in masks] if mask_format == "nifti" else masks


def name_split_file(path: Path, name: str) -> Path:
    """``masks/p1.nii.gz`` and ``bladder`` -> ``masks/p1_bladder.nii.gz``; what file systems dislike becomes ``_``."""
    stem = strip_suffix(path.name)
    return path.with_name(f"{stem}_{to_file_name(name)}{path.name[len(stem) :]}")


def to_file_name(name: str) -> str:
    """The name of a structure as part of a file name."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "structure"


def write_structures(
    structures: StructureSet,
    path: Path,
    *,
    mask_format: MaskFormat | None = None,
    scan: Scan | None = None,
    options: ReadOptions | None = None,
    split: bool = False,
    seg_kind: SegKind = "binary",
    algorithm: Algorithm | None = None,
    description: str = "",
) -> list[Path]:
    """Write named structures.

    Args:
        structures: What to write.
        path: Where to.
        mask_format: None takes what the name says.
        scan: The image that the structures belong to. Its NIfTI header lends its geometry bit for bit; DICOM objects
            need its slices.
        options: How ``scan`` was read.
        split: Whether every structure gets a file of its own, ``mask_<name>.nii.gz``, with the value 1.
        seg_kind: How a DICOM SEG stores its voxels.
        algorithm: What made the masks, for DICOM objects; None for masks of unknown origin.
        description: For ``descrip`` of NIfTI and SeriesDescription of DICOM.

    Returns:
        The files written.

    Raises:
        OutputError: If a file cannot be written, the name does not fit the format, or what was written reads back as
            something else.
        InputError: If a DICOM object is asked for without a DICOM series.
        LabelError: If structures overlap and the format cannot show that.
        GeometryError: If the structures do not lie on the grid of ``scan``.
    """
    mask_format = choose_mask_format(path, mask_format)
    algorithm = algorithm or Algorithm(is_automatic=False)
    write = _choose_writer(mask_format, scan, options, seg_kind, algorithm, description)
    if not split:
        write(structures, path)
        return list_outputs(path, mask_format, [], split=False)
    names = [structure.name for structure in structures.structures]
    targets = [name_split_file(path, name) for name in names]
    if len(set(targets)) < len(targets):
        msg = f"Two structures of {path} would be written to the same file; rename one."
        raise OutputError(msg)
    for structure, target in zip(structures.structures, targets, strict=True):
        write(_take_one(structures, structure), target)
    return list_outputs(path, mask_format, names, split=True)


def check_image_name(path: Path) -> None:
    """Refuse a name under which `write_image` writes nothing.

    Raises:
        OutputError: With the endings that there are.
    """
    if not has_suffix(path, _IMAGE_SUFFIXES):
        msg = f"Cannot write {path}: expected a name for an image ending in {', '.join(_IMAGE_SUFFIXES)}."
        raise OutputError(msg)


def write_image(volume: Volume, path: Path, *, description: str = "") -> None:
    """Write an image as NIfTI or NRRD, by the end of its name.

    Raises:
        OutputError: If the name has another ending, or the file cannot be written.
    """
    check_image_name(path)
    if has_suffix(path, NRRD_SUFFIXES):
        from medunet.io.nrrd_write import write_nrrd_image

        write_nrrd_image(volume, path)
        return
    write_nifti_image(volume, path, description=description)


# ---- one file --------------------------------------------------------------------------------------------------------

_Write = Callable[[StructureSet, Path], None]


def _choose_writer(
    mask_format: MaskFormat,
    scan: Scan | None,
    options: ReadOptions | None,
    seg_kind: SegKind,
    algorithm: Algorithm,
    description: str,
) -> _Write:
    if mask_format == "nifti":
        return lambda structures, path: _write_nifti(structures, path, scan, options, description)
    if mask_format == "nrrd":
        from medunet.io.nrrd_write import write_nrrd_labels

        return write_nrrd_labels
    if mask_format == "planar":
        from medunet.io.planar import write_planar_labels

        return lambda structures, path: write_planar_labels(structures.to_label_map(), path)
    stack = None if scan is None else scan.stack
    if stack is None:
        msg = (
            f"The format {mask_format} refers to DICOM slices, and the scan is no DICOM series; name the folder of the "
            "series with --reference."
        )
        raise InputError(msg)
    return lambda structures, path: _write_dicom(structures, path, stack, mask_format, seg_kind, algorithm, description)


def _write_nifti(
    structures: StructureSet, path: Path, scan: Scan | None, options: ReadOptions | None, description: str
) -> None:
    like = scan.path if scan is not None and scan.path is not None and is_nifti(scan.path) else None
    write_nifti_labels(
        structures.to_label_map(),
        path,
        like=like,
        affine=options.affine if options is not None else None,
        description=description,
        structures=structures,
    )
    write_label_names(structures, name_sidecar(path))


def _write_dicom(
    structures: StructureSet,
    path: Path,
    stack: DicomStack,
    mask_format: MaskFormat,
    seg_kind: SegKind,
    algorithm: Algorithm,
    description: str,
) -> None:
    grid = stack.grid
    # A mask that passed through another tool may run along other axes; the voxels stay where they are.
    series = f"the DICOM series of {stack.frames[0].file}"
    layers = align_to_grid(structures.layers, grid, f"The mask for {path}", series)
    aligned = StructureSet(layers=layers, structures=structures.structures)
    if mask_format == "dicom-seg":
        from medunet.io.dicom.seg_write import write_seg

        write_seg(
            aligned, path, stack, kind=seg_kind, algorithm_name=algorithm.name, algorithm_version=algorithm.version,
        is_automatic=algorithm.is_automatic,
            series_description=description or "Segmentation",
        )  # fmt: skip
        return
    from medunet.io.dicom.rtstruct_write import write_rtstruct

    write_rtstruct(
        aligned, path, stack, algorithm_name=algorithm.name, algorithm_version=algorithm.version,
        is_automatic=algorithm.is_automatic,
        series_description=description or "Segmentation",
    )  # fmt: skip


def _take_one(structures: StructureSet, structure: Structure) -> StructureSet:
    mask = structures.get_mask(structure).astype(np.uint8)
    return StructureSet(
        layers=Volume(mask[None], structures.layers.affine), structures=(replace(structure, values=(1,), layer=0),)
    )
