"""``medunet evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import JsonFileOption, JsonOption, check_page_name
from medunet.cli.scoring import (
    Beta,
    LabelMap,
    LabelTask,
    Resample,
    Surface,
    Tolerance,
    build_settings,
    check_names,
    list_files,
)
from medunet.cli.terminal import build_console, print_json
from medunet.errors import InputError, MedunetError, OutputError

if TYPE_CHECKING:
    from medunet.evaluation import CaseFiles, Evaluation, MetricSettings
    from medunet.evaluation.case import Labels
    from medunet.evaluation.sides import SideOptions
    from medunet.tasks import Task


def evaluate(
    masks: Annotated[Path, typer.Argument(help="Mask file or folder of masks.")],
    labels: Annotated[Path, typer.Argument(help="Reference file or folder, paired by file name.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="CSV with a row per case and label.")] = None,
    task: LabelTask = None,
    mapping: LabelMap = None,
    tolerance: Tolerance = None,
    surface: Surface = "elements",
    beta: Beta = 2.0,
    resample: Resample = False,
    instances: Annotated[
        bool, typer.Option("--instances", help="Also match the connected parts of every label, for lesions.")
    ] = False,
    as_json: JsonOption = False,
    json_file: JsonFileOption = None,
    nnunet_summary: Annotated[
        Path | None, typer.Option("--nnunet-summary", help="File in the form of nnU-Net's summary.json.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Page with tables, box plots and pictures of cases, in one file.")
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Scans, for --html, --pictures and RTSTRUCT.")] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Folder for a picture of each case: scan, reference, mask.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files and pictures.")] = False,
) -> None:
    """Score masks against references: overlap, surfaces, volumes; per case and label, with 95 % intervals."""
    from medunet import evaluation
    from medunet.cli.case_progress import CaseProgress
    from medunet.evaluation.pairing import pair_sources
    from medunet.evaluation.sides import SideOptions
    from medunet.io import check_output, write_json_atomic
    from medunet.tasks import load_task, parse_mapping

    recipe = None if task is None else load_task(task)
    if pictures is not None and images is None:
        msg = "Pictures show the scans: --images and --pictures belong together; give both."
        raise InputError(msg)
    settings = build_settings(tolerance, surface, recipe, beta=beta)
    names_in_files = parse_mapping(mapping or ())
    check_page_name(html)
    outputs = [path for path in (output, json_file, nnunet_summary, html) if path is not None]
    if len({path.absolute() for path in outputs}) < len(outputs):
        msg = f"Several results would be written to {outputs[0]}; give them different names."
        raise OutputError(msg)
    cases = list(pair_sources(masks, labels).pairs)
    for path in outputs:
        check_output(path, list_files(masks) + list_files(labels), overwrite=overwrite)
    if images is not None and pictures is not None:
        _check_pictures(cases, images, pictures, overwrite=overwrite)
    with CaseProgress("scoring", len(cases)) as progress:
        result = evaluation.evaluate(
            masks,
            labels,
            task=recipe,
            settings=settings,
            mapping=names_in_files,
            images=images,
            resample=resample,
            instances=instances,
            on_case=progress.on_case,
        )
    if output is not None:
        evaluation.write_scores_csv(result, output)
    content = evaluation.describe_evaluation(result)
    if json_file is not None:
        write_json_atomic(json_file, content)
    if nnunet_summary is not None:
        evaluation.write_nnunet_summary(result, nnunet_summary)
    options = SideOptions(task=recipe, mapping=names_in_files, images=images, resample=resample)
    if html is not None:
        _write_page(html, result, options, settings, {"masks": masks.name, "references": labels.name})
    if as_json:
        print_json(content)
    else:
        _print(result, recipe, output, [path for path in outputs if path != output])
    undrawn: list[str] = []
    if images is not None and pictures is not None:
        drawn, undrawn = _draw_pictures(images, pictures, options, result)
        for path in drawn if not as_json else ():
            print(f"Picture: {path}")
    if result.failures:
        msg = f"{len(result.failures)} case(s) could not be scored: {_name_failures(result)}."
        raise InputError(msg)
    check_names(names_in_files, settings, [result])
    if undrawn:
        msg = f"{len(undrawn)} case(s) have no picture; the first: {undrawn[0]}"
        raise InputError(msg)


def _name_failures(result: Evaluation) -> str:
    names = [failure.case_id for failure in result.failures]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _print(result: Evaluation, task: Task | None, output: Path | None, others: list[Path]) -> None:
    from rich.text import Text

    from medunet.evaluation import give_advice
    from medunet.reporting import build_dice_table
    from medunet.reporting.score_table import build_instance_table, build_metric_table, say_agreement

    console = build_console()
    console.print(build_dice_table(result))
    if result.scores:
        console.print(build_metric_table(result))
    if text := say_agreement(result):
        console.print(Text(text), soft_wrap=True)
    if result.instances:
        console.print()
        has_objects = task is not None and task.has_instances
        console.print(build_instance_table(result, things="objects" if has_objects else "lesions"))
    for text in give_advice(result):
        console.print(Text(f"note: {text}"), soft_wrap=True)
    for text in [*result.unmatched, *(f"{failure.case_id}: {failure.reason}" for failure in result.failures)]:
        console.print(f"warning: {text}", soft_wrap=True, markup=False, highlight=False)
    if output is not None:
        print(f"Scores: {output}")
    for path in others:
        print(f"Written: {path}")


def _write_page(
    path: Path, result: Evaluation, options: SideOptions, settings: MetricSettings, sources: dict[str, str]
) -> None:
    from medunet.cli.case_progress import CaseProgress
    from medunet.reporting import write_evaluation_page
    from medunet.reporting.case_pictures import choose_cases

    if options.images is not None:
        sources["scans"] = options.images.name
    with CaseProgress("drawing", len(choose_cases(result.mean_dice_per_case()))) as progress:
        write_evaluation_page(
            result,
            path,
            task=options.task,
            images=options.images,
            options=options,
            settings=settings,
            sources=sources,
            on_case=progress.on_case,
        )


def _check_pictures(cases: Sequence[str], images: Path, pictures: Path, *, overwrite: bool) -> None:
    """Before anything is scored: whether every case has a scan, and no picture is in the way."""
    from medunet.evaluation.sides import find_scan_path
    from medunet.io import check_output

    if not images.exists():
        msg = f"{images} does not exist; expected a scan or a folder of scans. Check --images."
        raise InputError(msg)
    for case_id in cases:
        find_scan_path(images, case_id)
        check_output(pictures / f"{case_id}.png", overwrite=overwrite)


def _draw_pictures(
    images: Path, pictures: Path, options: SideOptions, result: Evaluation
) -> tuple[list[Path], list[str]]:
    """The pictures, and a phrase per case that has none."""
    from medunet.cli.case_progress import CaseProgress

    if result.label_values is None:
        msg = "Pictures show labels by value, but structures were compared by name; name the task with --task."
        raise InputError(msg)
    drawn: list[Path] = []
    undrawn: list[str] = []
    mean_dice = result.mean_dice_per_case()
    with CaseProgress("drawing", len(result.files)) as progress:
        for files in result.files:
            dice = mean_dice[files.case_id]
            title = files.case_id if dice is None else f"{files.case_id}, mean Dice {dice:.3f}"
            path = pictures / f"{files.case_id}.png"
            try:
                _draw_picture(files, path, images, result.label_values, options, title)
                drawn.append(path)
            except MedunetError as error:
                undrawn.append(f"{files.case_id}: {error}")
            progress.on_case(files.case_id)
    return drawn, undrawn


def _draw_picture(files: CaseFiles, path: Path, images: Path, labels: Labels, options: SideOptions, title: str) -> None:
    from medunet.evaluation.sides import NamedPair, read_sides
    from medunet.reporting import draw_overlay
    from medunet.reporting.case_pictures import read_scan_of_case
    from medunet.reporting.window import choose_modality, get_task_window

    sides = read_sides(files.case_id, files.mask, files.reference, options)
    if isinstance(sides, NamedPair):
        msg = "its structures were compared by name and have no values to draw; name the task with --task."
        raise InputError(msg)
    scan = read_scan_of_case(images, files.case_id, sides.reference)
    draw_overlay(
        scan,
        sides.prediction,
        sides.reference,
        labels,
        path,
        title=title,
        modality=choose_modality(scan.array[0], options.task),
        window=get_task_window(options.task),
    )
