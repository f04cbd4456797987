"""The options that every command which reads scans shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.io import ReadOptions, Scan, SegKind

Series = Annotated[
    str | None, typer.Option("--series", help="DICOM series to take: UID, number or part of its description.")
]
VolumeIndex = Annotated[
    int | None, typer.Option("--volume-index", min=0, help="Which volume of a 4D file or DICOM series, from 0.")
]
AllowGaps = Annotated[bool, typer.Option("--allow-gaps", help="Resample DICOM slices at uneven distances.")]
AffineChoice = Annotated[
    str | None, typer.Option("--affine", help="sform or qform, where a NIfTI header has both and they differ.")
]
Reference = Annotated[
    str | None, typer.Option("--reference", help="DICOM series that DICOM SEG or RTSTRUCT refers to.")
]
MaskFormatName = Annotated[
    str | None, typer.Option("--format", help="nifti, nrrd, dicom-seg, rtstruct, planar; default: by the name.")
]
Split = Annotated[bool, typer.Option("--split", help="One file per label: mask_<label>.nii.gz.")]
Untrusted = Annotated[
    bool, typer.Option("--untrusted", help="Read scans in a process of its own, with limits on memory and time.")
]
SegType = Annotated[str, typer.Option("--seg-type", help="How a DICOM SEG stores voxels: binary or labelmap.")]


def build_options(
    *,
    series: str | None,
    volume_index: int | None,
    allow_gaps: bool,
    affine: str | None,
    modality: str | None = None,
) -> ReadOptions:
    """`ReadOptions` from what the command line holds.

    Raises:
        InputError: If ``affine`` is neither sform nor qform.
    """
    from medunet.io import ReadOptions

    if affine not in (None, "sform", "qform"):
        msg = f"There is no --affine {affine}; expected sform or qform."
        raise InputError(msg)
    form = "sform" if affine == "sform" else "qform" if affine == "qform" else None
    return ReadOptions(
        affine=form,  # type: ignore[arg-type]
        volume_index=volume_index,
        series=series,
        allow_gaps=allow_gaps,
        modality=modality,
    )


def list_inputs(sources: Sequence[Path], output: Path, *, with_labels: bool = False) -> list[Path]:
    """Files that an output must not replace, whatever ``--overwrite`` says.

    Args:
        sources: Files and DICOM folders that are read. Of a folder, every image counts.
        output: What is to be written; a mask beside the slices that it was made from may be made again.
        with_labels: Whether the SEG and RTSTRUCT objects of a folder count too.
    """
    from medunet.io import is_dicom_file, is_dicom_label_object

    files = [source for source in sources if source.is_file()]
    is_inside = any(source.is_dir() and output.resolve().is_relative_to(source.resolve()) for source in sources)
    if is_inside and is_dicom_file(output) and (with_labels or not is_dicom_label_object(output)):
        files.append(output)
    return files


def print_remarks(scan: Scan) -> None:
    """Say what lay beside the DICOM slices and was left out."""
    for remark in scan.stack.remarks if scan.stack is not None else ():
        print(f"{scan.path}: {remark}")


def parse_seg_type(seg_type: str) -> SegKind:
    """One of the two kinds of SEG.

    Raises:
        InputError: If it is neither.
    """
    if seg_type == "binary":
        return "binary"
    if seg_type == "labelmap":
        return "labelmap"
    msg = f"There is no --seg-type {seg_type}; expected binary or labelmap."
    raise InputError(msg)
