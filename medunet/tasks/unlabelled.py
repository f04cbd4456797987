"""Scans without labels, or whose labels are left alone: the same folders as datasets, and folders of nothing but scans."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from medunet.errors import DatasetError
from medunet.io import is_dicom_folder, list_volumes, strip_suffix
from medunet.io.dicom.content import find_objects
from medunet.tasks.dataset import read_dataset
from medunet.tasks.dicom_layout import is_dicom_dataset, list_case_folders
from medunet.tasks.json_file import read_json

_IMAGE_FOLDERS = ("imagesTr", "images")


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """One image set; what a `medunet.tasks.Case` is without its labels.

    Attributes:
        case_id: The same as in a dataset of the same files, so that folds are the same too.
        images: One file per channel, or a single file that holds all channels, or a DICOM folder.
        series: SeriesInstanceUID of the image in a DICOM folder; empty where nothing says it.
        group: Patient, where a table names it; None is a patient of its own.
    """

    case_id: str
    images: tuple[Path, ...]
    series: str = ""
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScanFolder:
    """Image sets, sorted by id.

    Attributes:
        name: For people.
        folder: Where they lie.
        layout: Which layout was recognised.
        scans: At least one.
        is_synthetic: Whether ``dataset.json`` says that the images are phantoms.
    """

    name: str
    folder: Path
    layout: str
    scans: tuple[ImageSet, ...]
    is_synthetic: bool = False


def list_scans(folder: str | Path) -> ScanFolder:
    """Recognise the layout of a folder and list its scans; no volume is opened, and no label is read.

    Layouts: ``imagesTr/`` or ``images/`` (of a dataset, labelled or not), volume files in the folder itself, one DICOM folder
    per scan or a single one, or a table ``.csv`` as for `medunet.tasks.read_dataset`. Files of which all end in ``_0000``,
    ``_0001`` and so on are the channels of what stands before.

    Raises:
        DatasetError: If there is no scan.
    """
    folder = Path(folder)
    if folder.suffix.lower() == ".csv":
        return _list_table(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        msg = f"The folder {folder} {what}; expected a folder of scans, or a .csv table."
        raise DatasetError(msg)
    images = next((folder / name for name in _IMAGE_FOLDERS if (folder / name).is_dir()), folder)
    if is_dicom_folder(images) and any(path.is_file() for path in images.iterdir() if not path.name.startswith(".")):
        layout, scans = "one DICOM folder", [ImageSet(case_id=images.resolve().name, images=(images,))]
    elif volumes := list_volumes(images):
        layout = "scans" if images == folder else f"{images.name}/"
        scans = _group_channels(volumes)
    elif is_dicom_dataset(images):
        layout = "DICOM"
        scans = [
            ImageSet(case_id=path.name, images=(path,), series=_find_labelled_series(path))
            for path in list_case_folders(images)
        ]
    else:
        content = ", ".join(sorted(path.name for path in images.iterdir())[:5]) or "nothing"
        msg = f"{images} holds no scan ({content}); expected volumes, DICOM folders, or imagesTr/ or images/ with them."
        raise DatasetError(msg)
    description = _read_description(folder)
    return ScanFolder(
        name=str(description.get("name", folder.resolve().name)),
        folder=folder,
        layout=layout,
        scans=tuple(sorted(scans, key=lambda scan: scan.case_id)),
        is_synthetic=bool(description.get("synthetic", False)),
    )


def _list_table(path: Path) -> ScanFolder:
    dataset = read_dataset(path)
    scans = tuple(
        ImageSet(case_id=case.case_id, images=case.images, series=case.series, group=case.group)
        for case in dataset.cases
    )
    return ScanFolder(name=dataset.name, folder=dataset.folder, layout=dataset.layout, scans=scans)


def _find_labelled_series(folder: Path) -> str:
    """Of several series in a case's folder, the one that its SEG or RTSTRUCT was drawn on; empty where nothing says it."""
    objects = find_objects(folder)
    return objects[0].series if len(objects) == 1 else ""


def _group_channels(volumes: list[Path]) -> list[ImageSet]:
    names = {path: strip_suffix(path.name) for path in volumes}
    are_channels = all(re.search(r"_\d{4}$", name) for name in names.values())
    groups: dict[str, list[Path]] = {}
    for path, name in names.items():
        groups.setdefault(name[:-5] if are_channels else name, []).append(path)
    for case_id, paths in groups.items():
        expected = [f"{case_id}_{channel:04d}" for channel in range(len(paths))] if are_channels else [case_id]
        if [names[path] for path in paths] != expected:
            shown = ", ".join(path.name for path in paths)
            msg = (
                f"The scan '{case_id}' in {paths[0].parent} has the files {shown}; expected one file per channel, numbered "
                "from _0000 on without a gap."
            )
            raise DatasetError(msg)
    return [ImageSet(case_id=case_id, images=tuple(paths)) for case_id, paths in groups.items()]


def _read_description(folder: Path) -> dict[str, object]:
    path = folder / "dataset.json"
    content = read_json(path, "the description of a dataset") if path.is_file() else {}
    return content if isinstance(content, dict) else {}
