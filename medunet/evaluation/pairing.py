"""Which mask belongs to which reference: by file name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medunet.errors import InputError
from medunet.io import is_dicom_label_object, list_volumes, strip_suffix
from medunet.io.dicom.content import find_objects

_CHANNEL_SUFFIX = "_0000"  # nnU-Net names the first channel of case p012 p012_0000.nii.gz


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """What belongs together.

    Attributes:
        pairs: Case -> mask, reference.
        failures: Case -> why it is unclear.
        unmatched: One phrase per file without a partner.
        unmatched_cases: The cases of these files.
    """

    pairs: Mapping[str, tuple[Path, Path]]
    failures: Mapping[str, str]
    unmatched: Sequence[str]
    unmatched_cases: Sequence[str] = ()


def pair_sources(masks: Path, labels: Path) -> Pairing:
    """Pair two files, or the files of two folders.

    Folders are paired by file name without the ending of its format; a mask may also carry the ending ``_0000`` of
    nnU-Net's images. A DICOM SEG or RTSTRUCT is a file, or a folder that holds nothing else; two of these need not have
    the same name.

    Raises:
        InputError: If a path is missing, one is a file and the other a folder, or no names match.
    """
    for path in (masks, labels):
        if not path.exists():
            msg = f"{path} does not exist; expected a volume or a folder of volumes. Check the path."
            raise InputError(msg)
    if not (masks.is_dir() and labels.is_dir()):
        for folder, file in ((masks, labels), (labels, masks)):
            if folder.is_dir() and not is_dicom_label_object(folder):
                msg = f"{folder} is a folder and {file} is a file; expected two files or two folders."
                raise InputError(msg)
        return Pairing(pairs={strip_suffix(labels.name): (masks, labels)}, failures={}, unmatched=[])
    pairing = _pair_by_name(list_sources(masks), list_sources(labels))
    if not pairing.pairs and not pairing.failures:
        if is_dicom_label_object(masks) and is_dicom_label_object(labels):
            return Pairing(pairs={labels.name: (masks, labels)}, failures={}, unmatched=[])
        raise InputError(_describe_no_match(masks, labels))
    return pairing


def list_sources(folder: Path) -> list[Path]:
    """Volumes of a folder, and DICOM SEG and RTSTRUCT objects; sorted by name.

    An object may lie in a folder of its own, and, where there are no volumes, in one with the slices that it was drawn on.
    """
    volumes = list_volumes(folder)
    others = [path for path in folder.iterdir() if not path.name.startswith(".") and path not in volumes]
    objects = [path for path in others if is_dicom_label_object(path)]
    if not volumes:
        objects += [path for path in others if path.is_dir() and path not in objects and len(find_objects(path)) == 1]
    return sorted([*volumes, *objects])


def find_case(name: str, cases: Iterable[str]) -> str:
    """The case that a file belongs to: its name, or its name without nnU-Net's channel suffix if only that is known."""
    shortened = name.removesuffix(_CHANNEL_SUFFIX)
    return shortened if name not in cases and shortened in cases else name


def _pair_by_name(masks: Sequence[Path], references: Sequence[Path]) -> Pairing:
    references_by_case = _group_by_case([(strip_suffix(path.name), path) for path in references])
    masks_by_case = _group_by_case([(find_case(strip_suffix(path.name), references_by_case), path) for path in masks])
    pairs: dict[str, tuple[Path, Path]] = {}
    failures: dict[str, str] = {}
    unmatched: list[str] = []
    unmatched_cases: list[str] = []
    for case_id in sorted(references_by_case | masks_by_case):
        of_case, to_compare = masks_by_case.get(case_id, []), references_by_case.get(case_id, [])
        if not (of_case and to_compare):
            unmatched_cases.append(case_id)
        if not to_compare:
            unmatched += [f"mask {path.name} has no reference" for path in of_case]
        elif not of_case:
            unmatched += [f"reference {path.name} has no mask" for path in to_compare]
        elif len(of_case) == len(to_compare) == 1:
            pairs[case_id] = of_case[0], to_compare[0]
        else:
            names = ", ".join(str(path) for path in [*of_case, *to_compare])
            failures[case_id] = f"several files belong to case '{case_id}' ({names}); keep one mask and one reference."
    return Pairing(pairs=pairs, failures=failures, unmatched=unmatched, unmatched_cases=unmatched_cases)


def _group_by_case(named: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for case_id, path in named:
        groups.setdefault(case_id, []).append(path)
    return groups


def _describe_no_match(masks: Path, labels: Path) -> str:
    return (
        f"No mask in {masks} ({_show_names(masks)}) has the name of a reference in {labels} ({_show_names(labels)}). "
        "Give mask and reference of a case the same file name."
    )


def _show_names(folder: Path) -> str:
    names = [path.name for path in list_sources(folder)]
    if not names:
        return "no volumes there"
    return ", ".join(names[:3]) + (f", ... {len(names)} in all" if len(names) > 3 else "")
