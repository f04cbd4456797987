"""``medunet train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.errors import InputError, TrainingError

if TYPE_CHECKING:
    from medunet.training import TrainingResult


def train(
    task: Annotated[str, typer.Option("--task", "-t", help="Built-in task (see `medunet tasks`) or a YAML file.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Dataset folder; without it the task's synthetic phantoms are used."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run and model folder; default: a new one in ./runs.")
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help='Name in SEG or RTSTRUCT labels for a label: "CTV_p=prostate". May be repeated.'),
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", "-b", help="10min, 2h, 5000it; default: the task's.")
    ] = None,
    fold: Annotated[str, typer.Option("--fold", help="Fold kept for validation, 0 to 4, or all.")] = "0",
    configuration: Annotated[str, typer.Option("--configuration", "-c", help="3d or 2d.")] = "3d",
    augmentation: Annotated[
        str, typer.Option("--augmentation", help="fast (plain torch), torchio (MONAI and TorchIO) or none.")
    ] = "fast",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of weights, patches and augmentation.")] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Same seed, same device: same weights. Needs a budget in it.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --output, or with the task's newest interrupted run.")
    ] = False,
) -> None:
    """Train a network on labelled volumes, validate it, and leave a model folder."""
    chosen_fold = _parse_fold(fold)
    _check_choice("--configuration", configuration, ("3d", "2d"))
    _check_choice("--augmentation", augmentation, ("fast", "torchio", "none"))

    from medunet import training
    from medunet.cli.progress import ConsoleObserver

    with ConsoleObserver() as observer:
        try:
            result = training.train(
                task,
                data,
                mapping=mapping or (),
                output=output,
                fold=chosen_fold,
                budget=budget,
                configuration=configuration,  # type: ignore[arg-type]  # checked above
                augmentation=augmentation,  # type: ignore[arg-type]
                device=device,
                seed=seed,
                deterministic=deterministic,
                resume=resume,
                observer=observer,
            )
        except KeyboardInterrupt as interrupt:
            msg = f"Interrupted. {observer.describe_where()} Go on with: medunet train --task {task} --resume" + (
                f" --output {output}" if output else ""
            )
            raise TrainingError(msg) from interrupt
    _print_result(result, device)


def _print_result(result: TrainingResult, device: str) -> None:
    from rich.console import Console

    from medunet.cli.progress import format_duration
    from medunet.reporting import build_dice_table

    console = Console()
    console.print(f"Trained {result.num_iterations} iterations in {format_duration(result.seconds)} min.")
    if result.evaluation is not None:
        console.print(build_dice_table(result.evaluation))
        console.print(f"Picture: {_draw_middle_case(result, device)}", soft_wrap=True)
    console.print(f"Model: {result.folder}", soft_wrap=True)
    console.print(f"Use it: medunet infer scan.nii.gz -o mask.nii.gz --model {result.folder}", soft_wrap=True)


def _draw_middle_case(result: TrainingResult, device: str) -> Path:
    """The validation case of median Dice, with both contours, so that the first picture is neither luck nor accident."""
    from medunet.inference import load
    from medunet.reporting import draw_overlay
    from medunet.tasks import read_case

    assert result.evaluation is not None  # the caller asked
    dices = {name: dice for name, dice in result.evaluation.mean_dice_per_case().items() if dice is not None}
    ranked = sorted(dices, key=lambda name: dices[name]) or [case.case_id for case in result.validation_cases]
    chosen = ranked[len(ranked) // 2]
    case = next(case for case in result.validation_cases if case.case_id == chosen)
    segmenter = load(result.folder, device=device)
    image, labels = read_case(case, segmenter.task)
    path = result.folder / "validation.png"
    draw_overlay(
        image,
        segmenter.segment(image).labels,
        labels,
        segmenter.task.labels,
        path,
        title=f"{chosen}, mean Dice {dices[chosen]:.3f}" if chosen in dices else chosen,
        modality=segmenter.task.modality,
    )
    return path


def _parse_fold(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        msg = f"--fold is '{text}'; expected a number from 0 to 4, or all."
        raise InputError(msg)
    return int(text)


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        from medunet.tasks import suggest

        msg = f"{option} is '{value}'; {suggest(value, known)}"
        raise InputError(msg)
