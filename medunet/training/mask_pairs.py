"""Reference and prediction of a case on the disk: small, so that masks of many cases can be looked at several times."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from medunet.errors import VolumeError
from medunet.io import describe_write_error
from medunet.postprocessing import AgreementCounts
from medunet.preprocessing.prepare import shorten_case_id
from medunet.volume import Volume, check_same_grid

_AGREEMENT: TypeAdapter[AgreementCounts | None] = TypeAdapter(AgreementCounts | None)


@dataclass(frozen=True, kw_only=True)
class MaskPair:
    """Two label maps ``(1, I, J, K)`` on one grid.

    Attributes:
        case_id: The case.
        reference: What people drew.
        prediction: What the network made, before any post-processing.
        agreement: How far the members that made it agree; None where there was one.
    """

    case_id: str
    reference: Volume
    prediction: Volume
    agreement: AgreementCounts | None = None


def get_mirrored_folder(folder: Path) -> Path:
    """Where masks of all mirrored passes lie beside those that the usual passes made, for some of the cases."""
    return folder / "mirrored"


def write_mask_pair(folder: Path, pair: MaskPair) -> None:
    """Write ``<case>.npz`` into a folder, compressed: a few per cent of the voxels, because masks are mostly background.

    Raises:
        GeometryError: If the two lie on different grids.
        OutputError: If the file cannot be written.
    """
    name = f"case '{pair.case_id}'"
    check_same_grid(pair.reference, pair.prediction, f"The reference of {name}", "its prediction")
    path = _get_path(folder, pair.case_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            reference=pair.reference.array,
            prediction=pair.prediction.array,
            affine=pair.reference.affine,
            agreement=np.array(_AGREEMENT.dump_json(pair.agreement).decode()),
        )
    except OSError as error:
        path.unlink(missing_ok=True)
        raise describe_write_error(path, error) from error


def has_mask_pair(folder: Path, case_id: str) -> bool:
    """Whether a folder holds the masks of a case."""
    return _get_path(folder, case_id).is_file()


def read_mask_pair(folder: Path, case_id: str) -> MaskPair:
    """Read what `write_mask_pair` wrote.

    Raises:
        VolumeError: If the file is missing or damaged.
    """
    path = _get_path(folder, case_id)
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # numpy refuses pickled objects by default
            affine = arrays["affine"]
            reference, prediction = Volume(arrays["reference"], affine), Volume(arrays["prediction"], affine)
            agreement = _AGREEMENT.validate_json(str(arrays["agreement"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        msg = f"{path} holds no pair of masks ({type(error).__name__}); validate the model again."
        raise VolumeError(msg) from error
    return MaskPair(case_id=case_id, reference=reference, prediction=prediction, agreement=agreement)


def _get_path(folder: Path, case_id: str) -> Path:
    if shorten_case_id(case_id) == case_id:
        return folder / f"{case_id}.npz"
    key = hashlib.sha256(os.fsencode(case_id)).hexdigest()[:16]
    return folder / f"{shorten_case_id(case_id)}-{key}.npz"
