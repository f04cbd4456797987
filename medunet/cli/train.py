"""``medunet train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import (
    BudgetOption,
    ConfigurationOption,
    DeviceOption,
    FoldOption,
    FromOption,
    JsonOption,
    LocateOption,
    MapOption,
    MemoryOption,
    NeighbourSlicesOption,
    NetworkOption,
    NetworkSettingOption,
    PrecisionOption,
    PresetOption,
    SplitsOption,
    TaskOption,
    parse_fold,
)
from medunet.cli.terminal import build_console, print_json
from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.training import TrainingResult


def train(
    task: TaskOption,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Dataset folder; without it the task's synthetic phantoms are used."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run and model folder; default: a new one in ./runs.")
    ] = None,
    mapping: MapOption = None,
    budget: BudgetOption = None,
    fold: FoldOption = "0",
    splits: SplitsOption = None,
    configuration: ConfigurationOption = "auto",
    neighbour_slices: NeighbourSlicesOption = None,
    preset: PresetOption = "default",
    memory_gb: MemoryOption = None,
    network: NetworkOption = "auto",
    network_options: NetworkSettingOption = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            "--encoder",
            help="Safetensors file of torchvision's or timm's ResNet or VGG, for that network's encoder.",
        ),
    ] = None,
    inflation: Annotated[
        str,
        typer.Option("--inflation", help="Third axis of its kernels in a 3D network: centre or repeat."),
    ] = "centre",
    locate: LocateOption = "auto",
    loss: Annotated[
        str,
        typer.Option(
            "--loss",
            help="auto, dice-ce, ce, bce, dice, dice-bce, dice-focal, patch-dice-ce, patch-dice, tversky, "
            "generalized-dice, topk-ce, boundary-ce, boundary-bce or dice-boundary-ce.",
        ),
    ] = "auto",
    augmentation: Annotated[
        str,
        typer.Option(
            "--augmentation",
            help="fast (plain torch), torchio (MONAI and TorchIO), unet2015 (as in the paper) or none.",
        ),
    ] = "fast",
    source_model: FromOption = None,
    device: DeviceOption = "auto",
    devices: Annotated[
        int | None, typer.Option("--devices", help="Processes on this machine, one per GPU; default: 1.")
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", help="Machines; default: 1.")] = None,
    precision: PrecisionOption = "auto",
    compilation: Annotated[
        str, typer.Option("--compile", help="auto, on or off: whether torch compiles the network.")
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="Threads that draw patches; 0: none; default: as the machine has them."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of weights, patches and augmentation.")] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Same seed, same device: same weights. Needs a budget in it.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --output, or with the task's newest interrupted run.")
    ] = False,
    requeue: Annotated[
        bool, typer.Option("--requeue", help="Go on with --output where it holds a run, else start: for batch jobs.")
    ] = False,
    mlflow: Annotated[
        str | None,
        typer.Option("--mlflow", help="Also follow the training in MLflow: http://server:5000, or a folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network on labelled volumes, validate it, and leave a model folder."""
    if requeue and output is None:
        msg = "--requeue needs --output, so that the job finds its run again."
        raise InputError(msg)

    from medunet import training
    from medunet.cli.interruption import explaining_interruption
    from medunet.cli.progress import ConsoleObserver
    from medunet.training.place import is_first_process

    again = f"Go on with: medunet train --task {task} --resume" + (f" --output {output}" if output else "")
    with ConsoleObserver(stderr=as_json) as observer, explaining_interruption(observer, again):
        result = training.train(
            task,
            data,
            output=output,
            resume="auto" if requeue else resume,
            observer=observer,
            mapping=mapping or (),
            fold=parse_fold(fold),
            splits=splits,
            budget=budget,
            configuration=configuration,
            neighbour_slices=neighbour_slices,
            preset=preset,
            memory_gb=memory_gb,
            network=network,
            network_options=network_options or (),
            encoder=encoder,
            inflation=inflation,
            locate=locate,
            loss=loss,
            augmentation=augmentation,
            from_model=source_model,
            device=device,
            devices=devices,
            nodes=nodes,
            precision=precision,
            compile=compilation,
            workers=workers,
            seed=seed,
            deterministic=deterministic,
            mlflow=mlflow,
        )
    if is_first_process():  # of those that torchrun or SLURM started
        if as_json:
            print_json(_describe_result(result))
        else:
            _print_result(result)


def _describe_result(result: TrainingResult) -> dict[str, object]:
    from medunet.models import read_records
    from medunet.models.names import REPORT
    from medunet.training.report import MIDDLE_CASE

    records, evaluation = read_records(result.folder), result.evaluation
    report, picture = (result.folder / name for name in (REPORT, MIDDLE_CASE))
    return {
        "model": result.folder,
        "task": records.task.name,
        "num_iterations": result.num_iterations,
        "seconds": result.seconds,
        "num_cases": records.metrics["num_cases"],
        "mean_dice": records.metrics["mean_dice"],
        "interval_95": None if evaluation is None else evaluation.compute_interval(),
        "labels": records.metrics["labels"],
        "failed": records.metrics["failed"],
        "report": report if report.is_file() else None,
        "picture": picture if picture.is_file() else None,
    }


def _print_result(result: TrainingResult) -> None:
    from medunet.cli.durations import format_duration
    from medunet.models.names import REPORT
    from medunet.reporting import build_dice_table
    from medunet.training.report import MIDDLE_CASE

    print(f"Trained {result.num_iterations} iterations in {format_duration(result.seconds)} min.")
    if result.evaluation is not None:
        build_console().print(build_dice_table(result.evaluation))
    for name, path in (("Picture", result.folder / MIDDLE_CASE), ("Report", result.folder / REPORT)):
        if path.is_file():
            print(f"{name}: {path}")
    print(f"Model: {result.folder}")
    print(f"Use it: medunet infer scan.nii.gz -o mask.nii.gz --model {result.folder}")
