"""A DICOM series as `Scan`: find it, check it, read it."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medunet.errors import VolumeError
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.header import quiet_pydicom
from medunet.io.dicom.pixels import check_photometry, read_voxels
from medunet.io.dicom.series import find_stack
from medunet.io.dicom.stack import DicomStack
from medunet.io.scan import ReadOptions, Scan
from medunet.io.voxels import check_finite
from medunet.volume import Volume

logger = logging.getLogger(__name__)


def read_dicom(path: Path, options: ReadOptions | None = None, *, files: list[DicomFile] | None = None) -> Scan:
    """Read one volume from a folder (nested, mixed, without extensions), a zip, a DICOMDIR or a file.

    Notes on what was corrected or found odd are logged as warnings, what lay beside the slices as information; all are kept
    in the scan.

    Raises:
        VolumeError: If there is no series or more than one that fits, or its slices do not make one volume.
    """
    with quiet_pydicom():
        stack = find_stack(path, options or ReadOptions(), files=files)
        voxels, notes = read_voxels(stack)
    check_finite(voxels, str(path))
    for remark in stack.remarks:  # a folder of a study holds much that is no slice
        logger.info("%s: %s", path, remark)
    notes = [*stack.notes, *notes]
    for note in notes:
        logger.warning("%s: %s", path, note)
    return Scan(volume=Volume(voxels, stack.affine), path=path, notes=(*stack.remarks, *notes), stack=stack)


def read_stack(path: Path, options: ReadOptions | None = None) -> DicomStack:
    """The slices and the grid of a series without its voxels, as `read_dicom` finds them.

    Raises:
        VolumeError: As `read_dicom`.
    """
    with quiet_pydicom():
        stack = find_stack(path, options or ReadOptions())
        check_photometry(list(stack.frames))
    return stack


def read_datasets(datasets: Sequence[Any], options: ReadOptions | None = None) -> Scan:
    """Read one volume from pydicom datasets in memory, by the rules of `read_dicom`.

    Args:
        datasets: Slices in any order, with pixel data, or one multi-frame object.
        options: Which series, which volume, whether gaps are allowed.

    Raises:
        VolumeError: As `read_dicom`, or if a dataset cannot be encoded.
    """
    files = [_encode(dataset, index) for index, dataset in enumerate(datasets)]
    scan = read_dicom(Path("the pydicom datasets given"), options, files=files)
    return Scan(volume=scan.volume, path=None, notes=scan.notes, stack=scan.stack)


def _encode(dataset: Any, index: int) -> DicomFile:
    """A dataset as the bytes of a file: what is read twice must be read alike."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    name = Path(f"dataset {index}")
    copy = dataset.copy()
    try:
        with quiet_pydicom():
            copy.file_meta = FileMetaDataset(getattr(dataset, "file_meta", None) or {})
            if not copy.file_meta.get("TransferSyntaxUID"):
                copy.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            copy.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "")
            copy.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "")
            stream = io.BytesIO()
            copy.save_as(stream, enforce_file_format=False)
    except Exception as error:  # pydicom's texts quote values
        msg = f"{name} cannot be encoded as DICOM ({type(error).__name__}); expected a complete pydicom Dataset."
        raise VolumeError(msg) from None
    return DicomFile(name, content=stream.getvalue())
