"""``medunet evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.evaluation import Evaluation
    from medunet.tasks import Task


def evaluate(
    masks: Annotated[Path, typer.Argument(help="Mask file or folder of masks.")],
    labels: Annotated[Path, typer.Argument(help="Reference file or folder, paired by file name.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="CSV with a row per case and label.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task that names the labels and regions.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Scans, for --pictures.")] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Folder for a picture of each case: scan, reference, mask.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the CSV and pictures.")] = False,
) -> None:
    """Score masks against references: Dice per label and case, mean with 95 % interval."""
    from medunet import evaluation
    from medunet.io import check_output
    from medunet.tasks import load_task

    recipe = None if task is None else load_task(task)
    if (images is None) != (pictures is None):
        msg = "--images and --pictures belong together; give both."
        raise InputError(msg)
    if output is not None:
        check_output(output, _list_files(masks) + _list_files(labels), overwrite=overwrite)
    result = evaluation.evaluate(masks, labels, task=recipe)
    if output is not None:
        evaluation.write_scores_csv(result, output)
    _print(result, output)
    if images is not None and pictures is not None:
        _draw_pictures(masks, labels, images, pictures, recipe, result, overwrite=overwrite)
    if result.failures:
        msg = f"{len(result.failures)} case(s) could not be scored; see above."
        raise InputError(msg)


def _list_files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def _print(result: Evaluation, output: Path | None) -> None:
    from rich.console import Console

    from medunet.reporting import build_dice_table

    console = Console()
    console.print(build_dice_table(result))
    for text in [*result.unmatched, *(f"{failure.case_id}: {failure.reason}" for failure in result.failures)]:
        console.print(f"warning: {text}", soft_wrap=True, markup=False, highlight=False)
    if output is not None:
        print(f"Scores: {output}")


def _draw_pictures(
    masks: Path, labels: Path, images: Path, pictures: Path, task: Task | None, result: Evaluation, *, overwrite: bool
) -> None:
    from medunet.io import check_output, list_volumes, read_label_map, read_volume, strip_suffix
    from medunet.reporting import draw_overlay

    def index(place: Path) -> dict[str, Path]:
        files = list_volumes(place) if place.is_dir() else [place]
        return {strip_suffix(path.name).removesuffix("_0000"): path for path in files}

    mask_files, label_files, image_files = index(masks), index(labels), index(images)
    if masks.is_file():  # a single pair need not share its name, nor a single scan
        mask_files = dict.fromkeys(label_files, masks)
        image_files = dict.fromkeys(label_files, images) if images.is_file() else image_files
    values = task.labels if task else {f"label {value}": (value,) for value in _list_values(result)}
    for case_id, dice in result.mean_dice_per_case().items():
        if case_id not in image_files:
            msg = f"There is no scan of case '{case_id}' in {images}; expected a file of that name."
            raise InputError(msg)
        path = pictures / f"{case_id}.png"
        check_output(path, overwrite=overwrite)
        draw_overlay(
            read_volume(image_files[case_id]),
            read_label_map(mask_files[case_id]),
            read_label_map(label_files[case_id]),
            values,
            path,
            title=case_id if dice is None else f"{case_id}, mean Dice {dice:.3f}",
            modality=task.modality if task else "MR",
        )
        print(f"Picture: {path}")


def _list_values(result: Evaluation) -> list[int]:
    """Without a task, labels are named after their values."""
    return [int(summary.label.removeprefix("label ")) for summary in result.summaries]
