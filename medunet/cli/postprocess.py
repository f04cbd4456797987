"""``medunet postprocess``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from medunet.cli.options import DeviceOption, JsonOption
from medunet.cli.reading import MaskFormatName, Reference, Series, VolumeIndex, build_options, list_inputs
from medunet.cli.terminal import print_json
from medunet.errors import InputError, MedunetError


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One mask, where it goes, and what belongs to it."""

    mask: Path
    output: Path
    images: tuple[Path, ...] = ()
    probabilities: Path | None = None


def postprocess(
    masks: Annotated[list[Path], typer.Argument(help="Mask files, or folders of them.", metavar="MASK")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for one mask; folder for several or for a folder.")
    ],
    step: Annotated[
        list[str] | None,
        typer.Option("--step", help="fill-holes, remove-small:ml=0.5, crf, ...; may be repeated. Default: the task's."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Label that the steps are for; may be repeated. Default: all.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task that names the labels of the mask.")] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="Scan for crf and slic, once per channel; a folder for a folder of masks."),
    ] = None,
    probabilities: Annotated[
        Path | None, typer.Option("--probabilities", help="Map of every class for crf and slic as the first step.")
    ] = None,
    device: DeviceOption = "auto",
    mask_format: MaskFormatName = None,
    reference: Reference = None,
    series: Series = None,
    volume_index: VolumeIndex = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Clean masks: keep the largest part, fill holes, smooth borders, follow the image."""
    from medunet.io import check_output, choose_mask_format, list_outputs, read_reference

    jobs = _list_jobs(masks, output, mask_format, image or [], probabilities)
    for job in jobs:
        for path in list_outputs(job.output, choose_mask_format(job.output, mask_format), [], split=False):
            inputs = list_inputs([one.mask for one in jobs], path, with_labels=True)
            inputs += [*job.images, *([job.probabilities] if job.probabilities else [])]
            check_output(path, inputs, overwrite=overwrite)
    options = build_options(series=series, volume_index=volume_index, allow_gaps=False, affine=None)
    scan = None if reference is None else read_reference(reference, options)

    from medunet.postprocessing import postprocess as run
    from medunet.postprocessing.run_steps import parse_any_step

    steps = None if step is None else [parse_any_step(text) for text in step]
    num_failed = 0
    results: list[dict[str, object]] = []
    for job in jobs:
        try:
            done = run(
                job.mask,
                steps,
                labels=label,
                task=task,
                image=list(job.images) or None,
                probabilities=job.probabilities,
                reference=scan,
                device=device,
                options=options,
            )
            job.output.parent.mkdir(parents=True, exist_ok=True)
            done.save(job.output, mask_format=mask_format, overwrite=overwrite)
        except MedunetError as error:
            if len(jobs) == 1:
                raise
            num_failed += 1
            results.append({"mask": job.mask, "output": None, "effects": [], "error": str(error)})
            if not as_json:
                print(f"{job.mask}: {error}")
            continue
        results.append({"mask": job.mask, "output": job.output, "effects": done.effects, "error": None})
        if not as_json:
            print(f"{job.mask} -> {job.output}")
            for effect in done.effects:
                print(f"  {effect.describe()}")
    if as_json:
        print_json(results)
    if num_failed:
        msg = f"{num_failed} of {len(jobs)} masks failed (see above)."
        raise InputError(msg)


def _list_jobs(
    masks: Sequence[Path], output: Path, mask_format: str | None, images: Sequence[Path], probabilities: Path | None
) -> list[_Job]:
    """What is to be done, known before anything is read."""
    from medunet.io import get_mask_suffix, list_volumes, parse_mask_format, strip_suffix
    from medunet.io.formats import DICOM_SUFFIXES, IMAGE_SUFFIXES, has_suffix

    is_file = has_suffix(output, (*IMAGE_SUFFIXES, *DICOM_SUFFIXES))
    for path in (*masks, *images, *([probabilities] if probabilities else [])):
        if not path.exists():
            msg = f"{path} does not exist. Check the path."
            raise InputError(msg)
    if len(masks) == 1 and not masks[0].is_dir() and is_file:
        return [_Job(mask=masks[0], output=output, images=tuple(images), probabilities=probabilities)]
    files = [file for mask in masks for file in (list_volumes(mask) if mask.is_dir() else [mask])]
    if not files:
        msg = f"The folder {masks[0]} holds no mask; expected files such as p012.nii.gz. Check the path."
        raise InputError(msg)
    if is_file:
        msg = f"{len(files)} masks need an output folder; {output} names a file."
        raise InputError(msg)
    suffix = None if mask_format is None else get_mask_suffix(parse_mask_format(mask_format))
    jobs = []
    for file in files:
        name = strip_suffix(file.name)
        jobs.append(
            _Job(
                mask=file,
                output=output / (file.name if suffix is None else f"{name}{suffix}"),
                images=tuple(_find_partner(folder, name, "--image") for folder in images),
                probabilities=None if probabilities is None else _find_partner(probabilities, name, "--probabilities"),
            )
        )
    names = [job.output for job in jobs]
    if twice := [path for path in names if names.count(path) > 1]:
        msg = f"Two masks would be written to {twice[0]}; give them different names, or run them one by one."
        raise InputError(msg)
    return jobs


def _find_partner(folder: Path, name: str, option: str) -> Path:
    """The file of the same case in a folder; the first channel may be called ``_0000``."""
    from medunet.io import list_volumes, strip_suffix

    if not folder.is_dir():
        msg = f"{option} {folder} is a file, and there are several masks; name a folder with a file for each."
        raise InputError(msg)
    found = [file for file in list_volumes(folder) if strip_suffix(file.name).removesuffix("_0000") == name]
    if len(found) != 1:
        msg = f"{option} {folder} holds {len(found)} files for the mask '{name}'; expected one of that name."
        raise InputError(msg)
    return found[0]
