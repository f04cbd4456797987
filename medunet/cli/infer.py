"""``medunet infer``."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import DeviceOption
from medunet.cli.reading import (
    AffineChoice,
    AllowGaps,
    MaskFormatName,
    Reference,
    SegType,
    Series,
    Split,
    Untrusted,
    VolumeIndex,
    build_options,
    list_inputs,
    parse_seg_type,
    print_remarks,
)
from medunet.errors import InputError, MedunetError

if TYPE_CHECKING:
    from medunet.inference import Segmentation, Segmenter
    from medunet.io import MaskFormat, ReadOptions, Scan, SegKind
    from medunet.tasks import Task


def infer(
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="Scans: files, folders of files, or DICOM folders. For a task of N channels, N files make one scan.",
            metavar="SCAN",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Mask file for one scan; folder for several or for a folder.")
    ],
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Model folder; default: the newest in $MEDUNET_HOME or ./runs."),
    ] = None,
    device: DeviceOption = "auto",
    preview: Annotated[
        Path | None, typer.Option("--preview", help="PNG with the contours; a folder where the output is one.")
    ] = None,
    mask_format: MaskFormatName = None,
    split: Split = False,
    seg_type: SegType = "binary",
    reference: Reference = None,
    series: Series = None,
    volume_index: VolumeIndex = None,
    allow_gaps: AllowGaps = False,
    affine: AffineChoice = None,
    untrusted: Untrusted = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace masks that exist.")] = False,
) -> None:
    """Segment scans; each mask lies exactly on its scan's grid."""
    from medunet.models import find_newest_model

    seg_kind = parse_seg_type(seg_type)

    for scan in (*scans, *([Path(reference)] if reference else [])):
        if not scan.exists():
            msg = f"{scan} does not exist. Check the path."
            raise InputError(msg)
    folder = model or find_newest_model()
    task = _read_task(folder)
    jobs = _list_jobs(scans, output, mask_format, num_channels=len(task.channels) if task else 1)
    is_folder = not (len(jobs) == 1 and jobs[0].mask == output)
    choices = _Choices(
        mask_format=mask_format,
        split=split,
        seg_kind=seg_kind,
        reference=reference,
        untrusted=untrusted,
        overwrite=overwrite,
    )
    options = build_options(
        series=series,
        volume_index=volume_index,
        allow_gaps=allow_gaps,
        affine=affine,
        modality=task.modality if task else None,
    )
    pictures = [None if preview is None else _choose_preview(preview, job, jobs, is_folder=is_folder) for job in jobs]
    _check_outputs(jobs, pictures, list(task.labels) if task else [], choices)

    from medunet.inference import load

    segmenter = load(folder, device=device)
    print(f"Model: {folder} ({segmenter.task.name}) on {segmenter.device}")
    num_failed = 0
    for job, picture in zip(jobs, pictures, strict=True):
        try:
            image, segmentation = _segment(segmenter, job, options, choices)
            if picture is not None:
                _draw(image, segmentation, segmenter, job, picture)
        except (MedunetError, OSError, MemoryError, RuntimeError) as error:  # torch's "out of memory" is the last
            if len(jobs) == 1:
                raise InputError(_describe_failure(error, job)) from error
            num_failed += 1
            print(f"error: {_describe_failure(error, job)}", file=sys.stderr)
    if num_failed:
        others = f"; the masks of the others are in {output}" if num_failed < len(jobs) else ""
        msg = f"{num_failed} of {len(jobs)} scans failed (see above){others}."
        raise InputError(msg)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One scan and where its mask goes."""

    images: tuple[Path, ...]
    mask: Path


@dataclass(frozen=True, kw_only=True)
class _Choices:
    """How scans are read and masks are written."""

    mask_format: str | None
    split: bool
    seg_kind: SegKind
    reference: str | None
    untrusted: bool
    overwrite: bool


def _choose_format(path: Path, mask_format: str | None) -> MaskFormat:
    from medunet.io import choose_mask_format

    return choose_mask_format(path, mask_format)


def _list_jobs(scans: list[Path], output: Path, mask_format: str | None, *, num_channels: int) -> list[_Job]:
    """What is to be done, known before anything heavy is loaded."""
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
        _choose_format(output, mask_format)  # refuses a name that is none of a mask
        return [_Job(images=(scans[0],), mask=output)]
    are_channels = len(scans) == num_channels and all(not scan.is_dir() or is_dicom_folder(scan) for scan in scans)
    if is_file and are_channels:
        return [_Job(images=_order_channels(scans), mask=output)]
    if is_file:
        channels = f", or {num_channels} files, one per channel, for one scan" if num_channels > 1 else ""
        msg = f"{len(scans)} scans need an output folder{channels}; {output} names a file."
        raise InputError(msg)
    return _list_folder_jobs(_expand(scans), output, mask_format, num_channels)


def _list_folder_jobs(paths: list[Path], output: Path, mask_format: str | None, num_channels: int) -> list[_Job]:
    from medunet.io import get_mask_suffix, parse_mask_format, strip_suffix

    suffix = get_mask_suffix(parse_mask_format(mask_format or "nifti"))
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
        _Job(images=_order_channels(images), mask=output / f"{case_id}{suffix}") for case_id, images in groups.items()
    ]


def _order_channels(images: list[Path]) -> tuple[Path, ...]:
    """The files of one scan, one per channel: by the numbers in their names, ``_0000`` first, else as they were given."""
    from medunet.io import strip_suffix

    names = {strip_suffix(path.name): path for path in images}
    stem = next(iter(names))[:-5]
    numbered = [f"{stem}_{channel:04d}" for channel in range(len(images))]
    return tuple(names[name] for name in numbered) if set(names) == set(numbered) else tuple(images)


def _check_outputs(jobs: list[_Job], pictures: list[Path | None], names: list[str], choices: _Choices) -> None:
    """Refuse what would be lost or could not be written before anything is segmented."""
    from medunet.io import check_output, list_outputs

    sources = [path for job in jobs for path in job.images]
    sources += [Path(choices.reference)] if choices.reference else []
    for job, picture in zip(jobs, pictures, strict=True):
        chosen = _choose_format(job.mask, choices.mask_format)
        _check_reference(chosen, choices.reference, job)
        outputs = list_outputs(job.mask, chosen, names, split=choices.split)
        if picture in outputs:
            msg = f"The mask and its preview would both be written to {picture}; give them different names."
            raise InputError(msg)
        for path in outputs if picture is None else [*outputs, picture]:
            check_output(path, list_inputs(sources, path), overwrite=choices.overwrite)


def _check_reference(chosen: MaskFormat, reference: str | None, job: _Job) -> None:
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


def _read_task(folder: Path) -> Task | None:
    from medunet.models.names import TASK
    from medunet.tasks import load_task

    # An incomplete folder is reported when the model is loaded.
    return load_task(folder / TASK) if (folder / TASK).is_file() else None


def _segment(segmenter: Segmenter, job: _Job, options: ReadOptions, choices: _Choices) -> tuple[Scan, Segmentation]:
    from medunet.io import read_scan, read_scan_apart, strip_suffix

    scan = (read_scan_apart if choices.untrusted else read_scan)(list(job.images), options)
    print_remarks(scan)
    segmentation = segmenter.segment(scan, options=options)
    segmentation.save(
        job.mask,
        mask_format=choices.mask_format,
        reference=choices.reference,
        split=choices.split,
        seg_kind=choices.seg_kind,
        overwrite=choices.overwrite,
    )
    seconds = sum(segmentation.timings.values())
    found = ", ".join(f"{name} {ml:.1f} ml" for name, ml in segmentation.volumes_ml.items() if ml > 0)
    where = job.mask.with_name(f"{strip_suffix(job.mask.name)}_<label>") if choices.split else job.mask
    print(f"{job.images[0].name} -> {where}  {seconds:.1f} s  {found or 'no structure found'}")
    return scan, segmentation


def _describe_failure(error: Exception, job: _Job) -> str:
    """One line that names the scan, whatever went wrong with it."""
    text = " ".join(str(error).split("\n"))
    if isinstance(error, MedunetError):
        return text
    return f"{job.images[0]} could not be segmented: {type(error).__name__}{f' ({text[:200]})' if text else ''}."


def _choose_preview(preview: Path, job: _Job, jobs: list[_Job], *, is_folder: bool) -> Path:
    from medunet.io import strip_suffix

    if len(jobs) == 1 and not is_folder:
        return preview
    return preview / f"{strip_suffix(job.mask.name)}.png"


def _draw(scan: Scan, segmentation: Segmentation, segmenter: Segmenter, job: _Job, path: Path) -> None:
    from medunet.reporting import draw_overlay

    draw_overlay(
        scan.volume,
        segmentation.labels,
        None,
        segmentation.label_values,
        path,
        title=job.mask.name,
        modality=segmenter.task.modality,
    )
    print(f"Picture: {path}")
