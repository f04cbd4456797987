"""``medunet infer``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import DeviceOption, JsonOption, check_page_name
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
    parse_seg_type,
)
from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.tasks import Task

FLAGGED = 3
"""Exit code of ``--strict``."""


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
    speed: Annotated[
        str, typer.Option("--speed", help="fast, balanced or best: steps between tiles, networks, mirrored passes.")
    ] = "balanced",
    flips: Annotated[
        str | None, typer.Option("--flips", help="Mirrored passes: none, auto (as measured in training) or all.")
    ] = None,
    step: Annotated[
        float | None, typer.Option("--step", help="Step between tiles as a share of the tile, above 0, at most 1.")
    ] = None,
    locate: Annotated[
        str, typer.Option("--locate", help="Look first for the box of the structures: never, auto or always.")
    ] = "auto",
    no_skip: Annotated[bool, typer.Option("--no-skip", help="Compute the air around the patient, too.")] = False,
    backend: Annotated[
        str, typer.Option("--backend", help="auto, torch, openvino or onnxruntime: what computes the networks.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="auto, bf16, fp16 or fp32: the networks' arithmetic.")
    ] = "auto",
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Tiles at once.")] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option("--memory-gb", help="Memory that a scan may take; less is computed at a time until it fits."),
    ] = None,
    postprocessing: Annotated[
        str, typer.Option("--postprocessing", help="model, or none: leave masks as the networks make them.")
    ] = "model",
    preview: Annotated[
        Path | None, typer.Option("--preview", help="PNG with the contours; a folder where the output is one.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Page about all scans: pictures, volumes, flags; flagged ones first."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probability of every class.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write the entropy of the probabilities, 0 to 1.")
    ] = False,
    semantic: Annotated[
        bool, typer.Option("--semantic", help="Of a task with instances: also write the labels without objects.")
    ] = False,
    mesh: Annotated[
        Path | None, typer.Option("--mesh", help="Surfaces as .stl or .vtp; a folder where the output is one.")
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
    continue_: Annotated[
        bool, typer.Option("--continue", help="Pass over scans that an earlier run has finished in the same way.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help=f"Exit with {FLAGGED} if a scan or mask is unlike training.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Segment scans; each mask lies exactly on its scan's grid."""
    from medunet.cli.infer_jobs import Wishes, list_jobs
    from medunet.models import find_newest_model

    check_page_name(report)
    wishes = Wishes(
        mask_format=mask_format,
        split=split,
        seg_kind=parse_seg_type(seg_type),
        reference=reference,
        untrusted=untrusted,
        overwrite=overwrite,
        preview=preview,
        report=report,
        mesh=mesh,
        probabilities=probabilities,
        uncertainty=uncertainty,
        semantic=semantic,
    )
    for scan in (*scans, *([Path(reference)] if reference else [])):
        if not os.path.lexists(scan):  # a link to nothing is a scan that cannot be read, like others
            msg = f"{scan} does not exist. Check the path."
            raise InputError(msg)
    folder = model or find_newest_model()
    task = _read_task(folder)
    if semantic and task is not None and not task.has_instances:
        msg = f"--semantic belongs to tasks with instances; the mask of task '{task.name}' holds its labels already."
        raise InputError(msg)
    jobs = list_jobs(scans, output, wishes, num_channels=len(task.channels) if task else 1)
    options = build_options(
        series=series,
        volume_index=volume_index,
        allow_gaps=allow_gaps,
        affine=affine,
        modality=task.modality if task else None,
    )

    from medunet.cli.infer_run import InferRun
    from medunet.inference.settings import InferenceSettings

    settings = InferenceSettings(
        speed=speed,  # type: ignore[arg-type]  # refused there
        flips=flips,  # type: ignore[arg-type]
        step_fraction=step,
        locate=locate,  # type: ignore[arg-type]
        skip_air=not no_skip,
        batch_size=batch_size,
        memory_gb=memory_gb,
        backend=backend,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        postprocessing=postprocessing,  # type: ignore[arg-type]
    )
    run = InferRun(
        jobs=jobs, wishes=wishes, options=options, settings=settings, folder=folder, is_quiet=as_json, device=device
    )
    outcome = run.process(list(task.semantic_labels) if task else [], continues=continue_)
    if as_json:
        run.print_json(outcome)
    if outcome.failures:
        for reason in outcome.failures.values():  # once more: what was said on the way may be far above
            print(f"failed: {reason}", file=sys.stderr)
        others = f"; the masks of the others are in {output}" if len(outcome.failures) < len(jobs) else ""
        msg = f"{len(outcome.failures)} of {len(jobs)} scans failed (listed above){others}."
        raise InputError(msg)
    if strict and outcome.num_flagged:
        raise typer.Exit(FLAGGED)


def _read_task(folder: Path) -> Task | None:
    from medunet.models.names import TASK
    from medunet.tasks import load_task

    # An incomplete folder is reported when the model is loaded.
    return load_task(folder / TASK) if (folder / TASK).is_file() else None
