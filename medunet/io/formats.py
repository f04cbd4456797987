"""Which format a path has: by the end of its name, and for DICOM, whose files need no such end, by its content."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from medunet.errors import OutputError, VolumeError
from medunet.io.nifti_file import NIFTI_SUFFIXES

NRRD_SUFFIXES = (".seg.nrrd", ".nrrd", ".nhdr")
METAIMAGE_SUFFIXES = (".mha", ".mhd")
PLANAR_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *METAIMAGE_SUFFIXES)
IMAGE_SUFFIXES = (*VOLUME_SUFFIXES, *PLANAR_SUFFIXES)
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")


def has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether the name ends in one of the suffixes, in upper or lower case."""
    return path.name.lower().endswith(suffixes)


def is_picture_file(path: Path) -> bool:
    """Whether the name is that of a PNG, TIFF or JPEG file, which know nothing of the world."""
    return has_suffix(path, PLANAR_SUFFIXES)


def strip_suffix(name: str) -> str:
    """The name without the ending of its format.

    Example:
        >>> strip_suffix("p012.nii.gz"), strip_suffix("p012.seg.nrrd"), strip_suffix("p0.12")
        ('p012', 'p012', 'p0.12')
    """
    for suffix in (*IMAGE_SUFFIXES, *DICOM_SUFFIXES, ".zip"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def is_dicom_file(path: Path) -> bool:
    """Whether the content of a regular file is DICOM, whatever its name."""
    from medunet.io.dicom.header import looks_like_dicom

    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return looks_like_dicom(stream.read(4096))
    except OSError:
        return False  # the reader that opens it next says why


def is_dicom_label_object(path: Path) -> bool:
    """Whether a file is a DICOM SEG or RTSTRUCT, or a folder holds nothing but one of these."""
    from medunet.io.dicom.content import LABEL_CLASSES
    from medunet.io.dicom.files import DicomFile
    from medunet.io.dicom.header import read_instance

    if path.is_dir():
        files = list(itertools.islice((file for file in path.rglob("*") if is_dicom_file(file)), 2))
        return len(files) == 1 and is_dicom_label_object(files[0])
    if not is_dicom_file(path):
        return False
    instance = read_instance(DicomFile(path))
    return instance is not None and instance.sop_class in LABEL_CLASSES


def is_dicom_source(path: Path) -> bool:
    """Whether a path is to be read as DICOM: a folder, a zip, or a file by its name or content."""
    from medunet.io.dicom.files import is_zip

    if path.is_dir():
        return True
    if has_suffix(path, IMAGE_SUFFIXES) or not path.is_file():
        return False
    return has_suffix(path, DICOM_SUFFIXES) or is_zip(path) or is_dicom_file(path)


def is_dicom_folder(path: Path) -> bool:
    """Whether a folder holds DICOM files and no volume files: one scan, not many. Pictures may lie beside slices."""
    if not path.is_dir() or any(has_suffix(file, VOLUME_SUFFIXES) for file in list_volumes(path)):
        return False
    return any(is_dicom_file(file) for file in path.rglob("*") if not file.name.startswith("."))


def check_not_beside_slices(output: Path, sources: Iterable[Path]) -> None:
    """Refuse a volume in the folder of a DICOM scan: from then on, that would be a folder of volumes (`is_dicom_folder`).

    Args:
        output: What will be written; masks as DICOM objects and pictures may lie there.
        sources: Files and folders that are read.

    Raises:
        OutputError: If the output would lie directly in one of the folders.
    """
    if not has_suffix(output, VOLUME_SUFFIXES):
        return
    place = output.absolute().parent.resolve()
    for source in sources:
        if source.is_dir() and source.resolve() == place:
            msg = (
                f"The output {output} would lie among the slices of {source}, which would then no longer be read as a scan. "
                "Choose another folder, or one within it."
            )
            raise OutputError(msg)


def list_volumes(folder: Path) -> list[Path]:
    """The volume files of a folder, sorted by name.

    Hidden files and the voxel half of .hdr/.img pairs are left out; pictures count where nothing else is there,
    for pictures of results lie beside masks.

    Raises:
        VolumeError: If the folder cannot be listed.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        msg = f"{folder} cannot be listed: {error.strerror}; expected a folder of volumes. Check the path."
        raise VolumeError(msg) from error
    volumes = [path for path in paths if has_suffix(path, VOLUME_SUFFIXES) and path.suffix.lower() != ".img"]
    return volumes or [path for path in paths if has_suffix(path, PLANAR_SUFFIXES)]
