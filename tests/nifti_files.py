"""Small NIfTI files, good and bad, for the tests of readers and writers."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medunet.volume import Volume

CANARY = b"Canary^Patient"
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([0.7, -1.2, 3.0]), [-31.0, 12.5, 40.25]
)
RAMP = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def make_labels(affine: Any = OBLIQUE, shape: tuple[int, int, int] = (5, 6, 7), highest: int = 3) -> Volume:
    labels = np.random.default_rng(1).integers(0, highest, (1, *shape), endpoint=True)
    return Volume(labels.astype(np.int64), np.asarray(affine))


def read_raw_header(path: Path) -> Any:
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    size = 540 if 540 in (int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big")) else 348
    return (nib.Nifti2Header if size == 540 else nib.Nifti1Header)(content[:size], check=False)


def save(path: Path, array: Any, *, affine: Any = OBLIQUE, slope: float | None = None, **fields: Any) -> Path:
    """A file as nibabel writes it, then with header fields set to any value."""
    image = nib.Nifti1Image(np.asarray(array), affine)
    image.header.set_slope_inter(slope if slope is not None else 1, 0)
    content = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    header["scl_slope"], header["scl_inter"] = (1, 0) if slope is None else (slope, 0)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))
    return path


def build_scan(kind: str, folder: Path) -> Path:
    """A scan with odd but valid geometry fields, and a patient's name wherever the format has room for one."""
    version2, single = "nifti2" in kind, "pair" not in kind
    image_class = (
        (nib.Nifti2Image if version2 else nib.Nifti1Image)
        if single
        else (nib.Nifti2Pair if version2 else nib.Nifti1Pair)
    )
    header = image_class.header_class(endianness=">" if "big-endian" in kind else "<")
    array = np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16)
    image = image_class(array, OBLIQUE, header)
    image.set_sform(OBLIQUE, code=0 if "qform-only" in kind else 2)
    image.set_qform(OBLIQUE, code=0 if "sform-only" in kind else 3)
    image.header["pixdim"][4:] = 2.5
    image.header.set_xyzt_units("micron" if "micron" in kind else "mm", "sec")
    for field in ("descrip", "aux_file", "intent_name", *([] if version2 else ["db_name"])):
        image.header[field] = CANARY
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY * 40))
    path = folder / ("scan.nii.gz" if single else "scan.hdr")
    nib.save(image, path)
    return path


KINDS = [
    "nifti1", "nifti2", "nifti1 big-endian", "nifti2 big-endian", "nifti1 pair", "nifti2 pair", "nifti1 sform-only",
    "nifti1 qform-only", "nifti1 micron",
]  # fmt: skip
