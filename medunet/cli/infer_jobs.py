"""Which scans ``medunet infer`` segments, where everything goes, and what of it is there already."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medunet.cli.reading import list_inputs
from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.io import MaskFormat, SegKind


_HEAD_BYTES = 512  # of a page say what wrote it


@dataclass(frozen=True, kw_only=True)
class Job:
    """One scan and where its results go.

    Attributes:
        images: One file or folder, or one per channel.
        mask: The mask.
        manifest: What was done.
        preview: Picture; None draws none.
        probabilities: Map of the classes; None makes none.
        uncertainty: Map of the entropy; None makes none.
        mesh: Surfaces; None makes none.
        semantic: Label map without objects; None makes none.
    """

    images: tuple[Path, ...]
    mask: Path
    manifest: Path
    preview: Path | None = None
    probabilities: Path | None = None
    uncertainty: Path | None = None
    mesh: Path | None = None
    semantic: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the command line asks for beside the mask.

    Attributes:
        report: The page about all scans; None writes none.
    """

    mask_format: str | None
    split: bool
    seg_kind: SegKind
    reference: str | None
    untrusted: bool
    overwrite: bool
    preview: Path | None = None
    report: Path | None = None
    mesh: Path | None = None
    probabilities: bool = False
    uncertainty: bool = False
    semantic: bool = False


def list_jobs(scans: list[Path], output: Path, wishes: Wishes, *, num_channels: int) -> list[Job]:
    """What is to be done, known before anything heavy is loaded.

    Args:
        scans: As given: files, folders of files, DICOM folders.
        output: File or folder.
        wishes: Formats and what comes beside the masks.
        num_channels: Of the task.

    Raises:
        InputError: If scans and output do not fit together.
    """
    from medunet.io import is_dicom_folder
    from medunet.io.formats import DICOM_SUFFIXES, IMAGE_SUFFIXES, has_suffix

    is_file = has_suffix(output, (*IMAGE_SUFFIXES, *DICOM_SUFFIXES))
    is_one = len(scans) == 1 and (not scans[0].is_dir() or is_dicom_folder(scans[0]))
    if is_one and scans[0].is_dir() and not is_file:
        msg = (
            f"The folder {scans[0]} is read as one DICOM scan, so the output is a file, such as {output / 'mask.nii.gz'}. For "
            "several scans, name the folder of each."
        )
        raise InputError(msg)
    if is_one:
        _choose_format(output, wishes.mask_format)  # refuses a name that is none of a mask
        return [_build_job((scans[0],), output, wishes)]
    are_channels = len(scans) == num_channels and all(not scan.is_dir() or is_dicom_folder(scan) for scan in scans)
    if is_file and are_channels:
        return [_build_job(_order_channels(scans), output, wishes)]
    if is_file:
        channels = f", or {num_channels} files, one per channel, for one scan" if num_channels > 1 else ""
        msg = f"{len(scans)} scans need an output folder{channels}; {output} names a file."
        raise InputError(msg)
    return _list_folder_jobs(_expand(scans), output, wishes, num_channels)


def _list_folder_jobs(paths: list[Path], output: Path, wishes: Wishes, num_channels: int) -> list[Job]:
    from medunet.io import get_mask_suffix, parse_mask_format, strip_suffix

    for option, path, example in (("--mesh", wishes.mesh, "meshes/"), ("--preview", wishes.preview, "pictures/")):
        if path is not None and path.suffix.lower() in (".stl", ".vtp", ".png"):
            msg = f"{option} {path} names a file, and there are several scans; name a folder, such as {example}."
            raise InputError(msg)
    suffix = None if wishes.mask_format is None else get_mask_suffix(parse_mask_format(wishes.mask_format))
    groups: dict[str, list[Path]] = {}
    for path in paths:
        name = path.resolve().name if path.is_dir() else strip_suffix(path.name)  # "." is a name of a folder too
        case_id = re.sub(r"_\d{4}$", "", name) if num_channels > 1 else name
        groups.setdefault(case_id, []).append(path)
    for case_id, images in groups.items():
        if len(images) not in (1, num_channels):
            msg = (
                f"{len(images)} files would become the mask '{case_id}' ({', '.join(map(str, images[:3]))}); expected "
                f"{num_channels} per scan. Rename them, or run them one by one."
            )
            raise InputError(msg)
        names = sorted(strip_suffix(path.name) for path in images)
        if len(names) > 1 and names != [f"{case_id}_{channel:04d}" for channel in range(len(names))]:
            msg = (
                f"The channels of one scan are {', '.join(names)}; expected the numbers {case_id}_0000 to "
                f"{len(images) - 1:04d}. Add what is missing, rename them, or run them one by one."
            )
            raise InputError(msg)
    return [
        _build_folder_job(_order_channels(images), output, case_id, suffix or _choose_suffix(images[0]), wishes)
        for case_id, images in groups.items()
    ]


def _choose_suffix(image: Path) -> str:
    """Masks of pictures are pictures: a TIFF may hold several pages, a JPEG would change the mask."""
    from medunet.io import get_mask_suffix, is_picture_file

    if not is_picture_file(image):
        return get_mask_suffix("nifti")
    return image.suffix if image.suffix.lower() in (".tif", ".tiff") else ".png"


def _build_job(images: tuple[Path, ...], mask: Path, wishes: Wishes) -> Job:
    """Everything beside the mask."""
    from medunet.io import strip_suffix

    name = strip_suffix(mask.name)
    return Job(
        images=images,
        mask=mask,
        manifest=mask.with_name(f"{mask.name}.manifest.json"),
        preview=wishes.preview,
        probabilities=mask.with_name(f"{name}_probabilities.nii.gz") if wishes.probabilities else None,
        uncertainty=mask.with_name(f"{name}_uncertainty.nii.gz") if wishes.uncertainty else None,
        mesh=wishes.mesh,
        semantic=mask.with_name(f"{name}_semantic.nii.gz") if wishes.semantic else None,
    )


def _build_folder_job(images: tuple[Path, ...], output: Path, case_id: str, suffix: str, wishes: Wishes) -> Job:
    """Folders beside the masks, so that the folder of masks holds nothing but masks."""
    return Job(
        images=images,
        mask=output / f"{case_id}{suffix}",
        manifest=output / "manifests" / f"{case_id}{suffix}.json",
        preview=wishes.preview and wishes.preview / f"{case_id}.png",
        probabilities=output / "probabilities" / f"{case_id}.nii.gz" if wishes.probabilities else None,
        uncertainty=output / "uncertainty" / f"{case_id}.nii.gz" if wishes.uncertainty else None,
        mesh=wishes.mesh and wishes.mesh / f"{case_id}.vtp",
        semantic=output / "semantic" / f"{case_id}.nii.gz" if wishes.semantic else None,
    )


def _order_channels(images: list[Path]) -> tuple[Path, ...]:
    """The files of one scan, one per channel: by the numbers in their names, ``_0000`` first, else as they were given."""
    from medunet.io import strip_suffix

    names = {strip_suffix(path.name): path for path in images}
    stem = next(iter(names))[:-5]
    numbered = [f"{stem}_{channel:04d}" for channel in range(len(images))]
    return tuple(names[name] for name in numbered) if set(names) == set(numbered) else tuple(images)


def list_job_outputs(job: Job, names: Sequence[str], wishes: Wishes) -> list[Path]:
    """Every file that a job will write, but its manifest.

    Args:
        job: With its paths.
        names: Of the task's labels.
        wishes: Formats.

    Raises:
        InputError: If two of them would be the same file.
        OutputError: If a name has another ending than its format.
    """
    from medunet.io import list_mesh_outputs, list_outputs

    outputs = list_outputs(job.mask, _choose_format(job.mask, wishes.mask_format), list(names), split=wishes.split)
    outputs += [path for path in (job.preview, job.probabilities, job.uncertainty) if path is not None]
    if job.semantic is not None:
        outputs += list_outputs(job.semantic, "nifti", [], split=False)
    if job.mesh is not None:
        outputs += list_mesh_outputs(job.mesh, list(names))
    places = [path.resolve() for path in outputs]
    if twice := [path for path, place in zip(outputs, places, strict=True) if places.count(place) > 1]:
        what = "its preview" if job.preview in twice else "something else"
        msg = f"The mask and {what} would both be written to {twice[0]}; give them different names."
        raise InputError(msg)
    return outputs


def check_outputs(job: Job, all_jobs: Sequence[Job], names: Sequence[str], wishes: Wishes, own: Sequence[Path]) -> None:
    """Refuse what would be lost or could not be written before anything is segmented.

    Args:
        job: To check.
        all_jobs: Whose scans must not be replaced.
        names: Of the task's labels.
        wishes: Formats, and whether files may be replaced.
        own: Absolute paths of files that an interrupted run has left, which may be replaced.

    Raises:
        InputError: If a DICOM object is asked for and there is no DICOM series.
        OutputError: If an output exists or cannot be written.
    """
    from medunet.io import check_not_beside_slices, check_output

    sources = [path for one in all_jobs for path in one.images]
    sources += [Path(wishes.reference)] if wishes.reference else []
    _check_reference(_choose_format(job.mask, wishes.mask_format), wishes.reference, job)
    for path in (*list_job_outputs(job, names, wishes), job.manifest):
        check_not_beside_slices(path, sources)
        check_output(
            path,
            list_inputs(sources, path),
            overwrite=wishes.overwrite or Path(os.path.normpath(path.absolute())) in own,
        )


def check_report(jobs: Sequence[Job], names: Sequence[str], wishes: Wishes, *, continues: bool = False) -> None:
    """Refuse a page that would replace a scan, another output, or another file without leave.

    Args:
        jobs: All scans.
        names: Of the task's labels.
        wishes: Where the page goes.
        continues: Whether an earlier run goes on, whose page is replaced: it will hold the same scans, and more.

    Raises:
        InputError: If it would be written to the place of another output.
        OutputError: If it exists or cannot be written.
    """
    from medunet.io import check_output

    if wishes.report is None:
        return
    place = wishes.report.resolve()
    for job in jobs:
        if place in [path.resolve() for path in (*list_job_outputs(job, names, wishes), job.manifest)]:
            msg = f"The report and the result of a scan would both be written to {wishes.report}; give them different names."
            raise InputError(msg)
    sources = [path for job in jobs for path in job.images]
    is_own = continues and _is_report(wishes.report)
    check_output(wishes.report, list_inputs(sources, wishes.report), overwrite=wishes.overwrite or is_own)


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b'<meta name="generator" content="medunet ' in file.read(_HEAD_BYTES)


def _check_reference(chosen: MaskFormat, reference: str | None, job: Job) -> None:
    """Refuse a DICOM object for a scan that is none before the scan is segmented."""
    from medunet.io import is_dicom_source

    if chosen in ("dicom-seg", "rtstruct") and reference is None and not is_dicom_source(job.images[0]):
        msg = (
            f"The format {chosen} refers to DICOM slices, and {job.images[0]} is no DICOM series; name the folder of the "
            "series with --reference."
        )
        raise InputError(msg)


def _expand(scans: list[Path]) -> list[Path]:
    from medunet.io import IMAGE_SUFFIXES, is_dicom_folder, list_volumes

    paths: list[Path] = []
    for scan in scans:
        found = [scan] if not scan.is_dir() or is_dicom_folder(scan) else list_volumes(scan)
        if not found:
            num_seen = len(list(scan.iterdir()))
            msg = (
                f"The folder {scan} holds no volume ({num_seen} files seen); expected DICOM slices or files ending in "
                f"{', '.join(IMAGE_SUFFIXES)}."
            )
            raise InputError(msg)
        paths += found
    return paths


def _choose_format(path: Path, mask_format: str | None) -> MaskFormat:
    from medunet.io import choose_mask_format

    return choose_mask_format(path, mask_format)
