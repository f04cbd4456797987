"""A dataset: labelled cases on disk, in one of the layouts that people have."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from medunet.errors import DatasetError
from medunet.io import has_structure_names, list_volumes, strip_suffix
from medunet.tasks.case import Case
from medunet.tasks.csv_layout import list_csv_cases
from medunet.tasks.dicom_layout import is_dicom_dataset, list_dicom_cases
from medunet.tasks.json_file import read_json
from medunet.tasks.partial_labels import read_annotated

_LABEL_FOLDERS = ("labels", "masks", "label", "mask")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled cases, sorted by id.

    Attributes:
        name: For people.
        folder: Where it lies.
        layout: Which layout was recognised.
        cases: At least one.
        is_synthetic: Whether the images are phantoms.
        modality: Where ``dataset.json`` names it for its first channel, else None.
    """

    name: str
    folder: Path
    layout: str
    cases: tuple[Case, ...]
    is_synthetic: bool = False
    modality: str | None = None


def read_dataset(folder: str | Path, *, mapping: Mapping[str, str] | None = None) -> Dataset:
    """Recognise the layout of a folder and list its labelled cases; no volume is opened.

    Layouts: Medical Segmentation Decathlon (``dataset.json`` with a ``training`` list), nnU-Net raw (``dataset.json``
    with ``file_ending``, ``imagesTr/<case>_0000``), ``images/`` + ``labels/`` or ``masks/``, also in the singular, with
    equal file names (several channels as ``<case>_0000``, ``<case>_0001``; also ``imagesTr/`` + ``labelsTr/`` without a
    ``dataset.json``), DICOM (one subfolder per case, with one SEG or RTSTRUCT object), or a table ``.csv`` with the columns
    ``case``, ``image`` (``image2`` and so on), ``label`` and, if known, ``patient`` and ``annotated``. A folder may hold an
    ``annotated.json``, see `medunet.tasks.partial_labels`.

    Args:
        folder: The folder, or the table.
        mapping: Name of a structure in SEG and RTSTRUCT objects -> label of the task; every case carries it.

    Raises:
        DatasetError: If no layout fits, a listed file is missing or points outside the folder, there is no case, or there is
            a mapping and no case has named structures. The paths of a table may lead anywhere.
    """
    folder = Path(folder)
    if folder.suffix.lower() == ".csv":
        return _build_dataset(folder.parent, folder.stem, "CSV", list_csv_cases(folder), mapping)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        msg = f"The dataset folder {folder} {what}; expected a folder with images and labels, or a .csv table."
        raise DatasetError(msg)
    description = _read_description(folder)
    if isinstance(description.get("training"), list):
        layout, cases = "Medical Segmentation Decathlon", _list_msd_cases(folder, description)
    elif pair := _find_pair(folder):
        layout = "nnU-Net raw" if "file_ending" in description else f"{pair[0].name}/ + {pair[1].name}/"
        cases = _pair_files(*pair)
    elif is_dicom_dataset(folder):
        layout, cases = "DICOM", list_dicom_cases(folder)
    else:
        raise _build_unknown_layout_error(folder)
    name = str(description.get("name", folder.resolve().name))
    dataset = _build_dataset(folder, name, layout, read_annotated(folder, cases), mapping)
    return replace(
        dataset, is_synthetic=bool(description.get("synthetic", False)), modality=_read_modality(description)
    )


def _build_dataset(
    folder: Path, name: str, layout: str, cases: list[Case], mapping: Mapping[str, str] | None
) -> Dataset:
    if not cases:
        msg = f"The dataset {folder} ({layout}) holds no labelled case; expected images with labels."
        raise DatasetError(msg)
    if mapping and not any(has_structure_names(case.labels) for case in cases):
        msg = (
            f"The labels of the dataset {folder} are values without names, so there is nothing to --map; expected structures "
            "with names in at least one case. Leave --map out."
        )
        raise DatasetError(msg)
    cases = [replace(case, mapping=dict(mapping or {})) for case in sorted(cases, key=lambda case: case.case_id)]
    return Dataset(name=name, folder=folder, layout=layout, cases=tuple(cases))


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not path.is_file():
        return {}
    description = read_json(path, "the description of a dataset")
    if not isinstance(description, dict):
        msg = f"{path} holds a {type(description).__name__}; expected an object with 'training' or 'file_ending'."
        raise DatasetError(msg)
    return description


def _read_modality(description: dict[str, Any]) -> str | None:
    """The Decathlon names modalities (``"CT"``, ``"MRI"``, ``"T2"``, ``"FLAIR"``); only what is certain is taken."""
    channels = description.get("modality", description.get("channel_names"))
    first = str(next(iter(channels.values()), "")).upper() if isinstance(channels, dict) else ""
    return {"CT": "CT", "MR": "MR", "MRI": "MR", "PHOTO": "photo", "MICROSCOPY": "microscopy"}.get(first)


def _list_msd_cases(folder: Path, description: dict[str, Any]) -> list[Case]:
    cases: dict[str, Case] = {}
    for entry in description["training"]:
        if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
            msg = f"{folder / 'dataset.json'} lists the training case {entry!r}; expected 'image' and 'label'."
            raise DatasetError(msg)
        label = _resolve_inside(folder, entry["label"])
        case_id = strip_suffix(label.name)
        if case_id in cases:
            msg = f"{folder / 'dataset.json'} lists the case '{case_id}' twice. Remove one."
            raise DatasetError(msg)
        cases[case_id] = Case(case_id=case_id, images=_resolve_images(folder, entry["image"]), labels=label)
    return list(cases.values())


def _resolve_images(folder: Path, listed: object) -> tuple[Path, ...]:
    """The channels of a training case; nnU-Net 1 lists ``case.nii.gz`` and stores ``case_0000.nii.gz`` and so on."""
    if isinstance(listed, list) and listed:
        return tuple(_resolve_inside(folder, image) for image in listed)
    return _find_numbered(folder, listed) or (_resolve_inside(folder, listed),)


def _find_numbered(folder: Path, listed: object) -> tuple[Path, ...]:
    """Files numbered as channels, in their order, where the listed file itself is not there."""
    if not isinstance(listed, str) or not _leads_inside(listed) or (folder / listed).is_file():
        return ()
    path = folder / listed
    stem = strip_suffix(path.name)
    suffix = path.name.removeprefix(stem)
    numbered = (path.with_name(f"{stem}_{channel:04d}{suffix}") for channel in itertools.count())
    return tuple(itertools.takewhile(Path.is_file, numbered))


def _resolve_inside(folder: Path, name: object) -> Path:
    """A listed file, which must lie within the folder and exist."""
    if not isinstance(name, str):
        msg = f"{folder / 'dataset.json'} lists {name!r} in a training case; expected the path of a file."
        raise DatasetError(msg)
    if not _leads_inside(name):
        msg = f"{folder / 'dataset.json'} points outside its folder: {name!r}. Only files below it are read."
        raise DatasetError(msg)
    path = folder / name
    if not path.is_file():
        msg = f"{folder / 'dataset.json'} lists {name}, which is missing in {folder}. Add the file or remove the line."
        raise DatasetError(msg)
    return path


def _leads_inside(name: str) -> bool:
    relative = PurePosixPath(name)
    return not relative.is_absolute() and ".." not in relative.parts


def _find_pair(folder: Path) -> tuple[Path, Path] | None:
    for images, labels in (("imagesTr", "labelsTr"), *itertools.product(("images", "image"), _LABEL_FOLDERS)):
        if (folder / images).is_dir() and (folder / labels).is_dir():
            return folder / images, folder / labels
    return None


def _build_unknown_layout_error(folder: Path) -> DatasetError:
    content = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    msg = (
        f"{folder} is no dataset that medunet knows (it holds {content}); expected dataset.json with a training list, "
        "an nnU-Net raw folder, the folders images/ and labels/ (or masks/), one DICOM folder per case, or a .csv table."
    )
    return DatasetError(msg)


def _pair_files(images: Path, labels: Path) -> list[Case]:
    """Images and label maps with the same name; ``_0000`` and so on number the channels."""
    by_name: dict[str, list[Path]] = {}
    label_files: dict[str, Path] = {}
    for path in list_volumes(labels):
        twin = label_files.setdefault(strip_suffix(path.name), path)
        if twin != path:
            msg = f"{labels} holds two label maps of one case: {twin.name} and {path.name}. Remove one."
            raise DatasetError(msg)
    for path in list_volumes(images):
        name = strip_suffix(path.name)
        stem = name if name in label_files else re.sub(r"_\d{4}$", "", name)
        by_name.setdefault(stem, []).append(path)
    alone = sorted(set(by_name) ^ set(label_files))
    if alone:
        has = "an image but no label map" if alone[0] in by_name else "a label map but no image"
        msg = f"{len(alone)} case(s) in {images.parent} are incomplete: '{alone[0]}' has {has}. Add or remove the file."
        raise DatasetError(msg)
    for name, paths in by_name.items():
        _check_channel_files(name, paths)
    return [Case(case_id=name, images=tuple(paths), labels=label_files[name]) for name, paths in by_name.items()]


def _check_channel_files(case_id: str, paths: list[Path]) -> None:
    """Refuse a case with two files of the same name, or without one of its channels."""
    names = [strip_suffix(path.name) for path in paths]
    numbered = [f"{case_id}_{channel:04d}" for channel in range(len(paths))]
    if names not in ([case_id], numbered):
        msg = (
            f"Case '{case_id}' in {paths[0].parent} has the images {', '.join(path.name for path in paths)}; expected "
            f"one file {case_id}, or one per channel: {case_id}_0000, {case_id}_0001 and so on without a gap."
        )
        raise DatasetError(msg)
