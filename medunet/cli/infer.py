"""``medunet infer``."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.errors import InputError, MedunetError

if TYPE_CHECKING:
    from medunet.inference import Segmentation, Segmenter


def infer(
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="Scans: files or folders. For a task of N channels, N files make one scan.", metavar="SCAN..."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Mask file for one scan; folder for several or for a folder.")
    ],
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Model folder; default: the newest in $MEDUNET_HOME or ./runs."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    preview: Annotated[
        Path | None, typer.Option("--preview", help="PNG with the contours; a folder where the output is one.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace masks that exist.")] = False,
) -> None:
    """Segment scans; each mask lies exactly on its scan's grid."""
    from medunet.io import check_output
    from medunet.models import find_newest_model

    for scan in scans:
        if not scan.exists():
            msg = f"{scan} does not exist. Check the path."
            raise InputError(msg)
    is_folder = len(scans) == 1 and scans[0].is_dir()
    folder = model or find_newest_model()
    jobs = _list_jobs(scans, output, _read_num_channels(folder))
    for job in jobs:
        check_output(job.mask, [path for other in jobs for path in other.images], overwrite=overwrite)
        if preview is not None:
            check_output(_choose_preview(preview, job, jobs, is_folder=is_folder), scans, overwrite=overwrite)

    from medunet.inference import load

    segmenter = load(folder, device=device)
    print(f"Model: {folder} ({segmenter.task.name}) on {segmenter.device}")
    num_failed = 0
    for job in jobs:
        try:
            segmentation = _segment(segmenter, job, overwrite=overwrite)
            if preview is not None:
                _draw(segmentation, segmenter, job, _choose_preview(preview, job, jobs, is_folder=is_folder))
        except (MedunetError, OSError, MemoryError, RuntimeError) as error:  # torch's "out of memory" is the last
            if len(jobs) == 1:
                raise InputError(_describe_failure(error, job)) from error
            num_failed += 1
            print(f"error: {_describe_failure(error, job)}", file=sys.stderr)
    if num_failed:
        msg = f"{num_failed} of {len(jobs)} scans failed (see above); the masks of the others are in {output}."
        raise InputError(msg)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One scan and where its mask goes."""

    images: tuple[Path, ...]
    mask: Path


def _list_jobs(scans: list[Path], output: Path, num_channels: int) -> list[_Job]:
    """What is to be done, known before anything heavy is loaded."""
    from medunet.io import is_nifti

    is_file = is_nifti(output)
    if len(scans) == 1 and not scans[0].is_dir():
        if not is_file:
            msg = f"The output {output} is no mask file; expected a name ending in .nii.gz or .nii for one scan."
            raise InputError(msg)
        return [_Job(images=(scans[0],), mask=output)]
    if is_file and len(scans) == num_channels and not any(scan.is_dir() for scan in scans):
        return [_Job(images=tuple(scans), mask=output)]
    if is_file:
        channels = f", or {num_channels} files, one per channel, for one scan" if num_channels > 1 else ""
        msg = f"{len(scans)} scans need an output folder{channels}; {output} names a file."
        raise InputError(msg)
    return _list_folder_jobs(_expand(scans), output, num_channels)


def _list_folder_jobs(files: list[Path], output: Path, num_channels: int) -> list[_Job]:
    from medunet.io import strip_suffix

    groups: dict[str, list[Path]] = {}
    for path in files:
        name = strip_suffix(path.name)
        case_id = re.sub(r"_\d{4}$", "", name) if num_channels > 1 else name
        groups.setdefault(case_id, []).append(path)
    for case_id, paths in groups.items():
        if len(paths) not in (1, num_channels):
            msg = (
                f"{len(paths)} files would become the mask '{case_id}' ({', '.join(map(str, paths[:3]))}); expected "
                f"{num_channels} per scan. Rename them, or run them one by one."
            )
            raise InputError(msg)
    return [_Job(images=tuple(paths), mask=output / f"{case_id}.nii.gz") for case_id, paths in groups.items()]


def _expand(scans: list[Path]) -> list[Path]:
    from medunet.io import NIFTI_SUFFIXES, list_volumes

    files: list[Path] = []
    for scan in scans:
        found = list_volumes(scan) if scan.is_dir() else [scan]
        if not found:
            num_seen = len(list(scan.iterdir()))
            msg = f"The folder {scan} holds no volume ({num_seen} files seen); expected {', '.join(NIFTI_SUFFIXES)}."
            raise InputError(msg)
        files += found
    return files


def _read_num_channels(folder: Path) -> int:
    from medunet.models.names import TASK
    from medunet.tasks import load_task

    # An incomplete folder is reported when the model is loaded.
    return len(load_task(folder / TASK).channels) if (folder / TASK).is_file() else 1


def _segment(segmenter: Segmenter, job: _Job, *, overwrite: bool) -> Segmentation:
    segmentation = segmenter.segment(list(job.images))
    segmentation.save(job.mask, overwrite=overwrite)
    seconds = sum(segmentation.timings.values())
    found = ", ".join(f"{name} {ml:.1f} ml" for name, ml in segmentation.volumes_ml.items() if ml > 0)
    print(f"{job.images[0].name} -> {job.mask}  {seconds:.1f} s  {found or 'no structure found'}")
    return segmentation


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


def _draw(segmentation: Segmentation, segmenter: Segmenter, job: _Job, path: Path) -> None:
    from medunet.io import read_channels
    from medunet.reporting import draw_overlay

    draw_overlay(
        read_channels(list(job.images)),
        segmentation.labels,
        None,
        segmentation.label_values,
        path,
        title=job.mask.name,
        modality=segmenter.task.modality,
    )
    print(f"Picture: {path}")
