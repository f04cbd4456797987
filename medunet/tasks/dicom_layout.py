"""Cases from DICOM folders: one subfolder per case, which holds an image series and a SEG or RTSTRUCT object.

Only the headers of the files are looked at; which series belongs to the object, the object itself says.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from medunet.errors import DatasetError
from medunet.io import is_dicom_file
from medunet.io.dicom.content import LabelObject, find_objects
from medunet.tasks.case import Case

_NUM_PROBED = 20
"""Files per folder that are probed before it counts as no DICOM folder: licences and tables come before the slices."""


def is_dicom_dataset(folder: Path) -> bool:
    """Whether one of the subfolders holds DICOM files, by the first bytes of a few files in each."""
    return any(is_dicom_file(path) for case in list_case_folders(folder) for path in _probe(case))


def list_case_folders(folder: Path) -> list[Path]:
    """The subfolders, sorted by name; hidden ones are left out.

    Raises:
        DatasetError: If the folder cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        msg = f"{folder} cannot be listed: {error.strerror}. Check its permissions."
        raise DatasetError(msg) from error


def list_dicom_cases(folder: Path) -> list[Case]:
    """One case per subfolder; its name is the id. Cases with the same PatientID are a group, named after its first case.

    Where all cases have the same PatientID, it is one that took the place of the real ones, and says nothing.

    Raises:
        DatasetError: If a subfolder holds no SEG or RTSTRUCT object, or several.
        VolumeError: If a DICOM file is damaged.
    """
    labels = {case_folder: _find_labels(case_folder) for case_folder in list_case_folders(folder)}
    patients = Counter(found.patient for found in labels.values())
    first_of: dict[str, str] = {}
    cases = []
    for case_folder, found in labels.items():
        first = first_of.setdefault(found.patient, case_folder.name)
        is_shared = found.patient != "" and 1 < patients[found.patient] < len(labels)
        cases.append(
            Case(
                case_id=case_folder.name,
                images=(case_folder,),
                labels=found.path,
                series=found.series,
                group=first if is_shared else None,
            )
        )
    return cases


def _find_labels(folder: Path) -> LabelObject:
    objects = find_objects(folder)
    if len(objects) != 1:
        listed = ", ".join(f"{label.path.relative_to(folder)} ({label.kind})" for label in objects[:5])
        what = f"{len(objects)} label objects: {listed}{', ...' if len(objects) > 5 else ''}" if objects else "none"
        msg = (
            f"The case folder {folder} must hold exactly one DICOM SEG or RTSTRUCT object beside its images; found "
            f"{what}. Add it, move the others away, or list the cases in a CSV file."
        )
        raise DatasetError(msg)
    return objects[0]


def _probe(folder: Path) -> Iterator[Path]:
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in sorted(names))
    return itertools.islice((path for path in files if not path.name.startswith(".")), _NUM_PROBED)
