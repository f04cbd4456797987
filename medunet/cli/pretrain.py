"""``medunet pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import BudgetOption, DeviceOption, JsonOption, MemoryOption
from medunet.cli.terminal import print_json
from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.training import PretrainingResult


def pretrain(
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Folder of scans; labels of a dataset are left alone. Or a CSV table.")
    ],
    task: Annotated[
        str | None,
        typer.Option(
            "--task", "-t", help="Task whose channels and intensity rule are taken: built-in, or a YAML file."
        ),
    ] = None,
    modality: Annotated[
        str | None, typer.Option("--modality", help="CT or MR, in place of a task: scans of one channel.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run and model folder; default: a new one in ./runs.")
    ] = None,
    budget: BudgetOption = None,
    fold: Annotated[
        str,
        typer.Option("--fold", help="Fold whose scans are kept apart, 0 to 4, as in train; all: none is."),
    ] = "0",
    configuration: Annotated[str, typer.Option("--configuration", "-c", help="auto, 3d or 2d.")] = "auto",
    hidden: Annotated[float, typer.Option("--hidden", help="Share of the blocks of a patch that are hidden.")] = 0.6,
    distance: Annotated[
        str, typer.Option("--distance", help="l1 or l2: absolute or squared differences are learnt from.")
    ] = "l1",
    memory_gb: MemoryOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, bf16, fp16 or fp32.")] = "auto",
    compilation: Annotated[
        str, typer.Option("--compile", help="auto, on or off: whether torch compiles the network.")
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="Threads that draw patches; 0: none; default: as the machine has them."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of weights, patches and what is hidden.")] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Same seed, same device: same weights. Needs a budget in it.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --output.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Learn from scans without labels, by restoring hidden parts of them; then train with `--from`."""
    if resume and output is None:
        msg = "--resume needs --output, the folder of the pretraining."
        raise InputError(msg)

    from medunet.cli.interruption import explaining_interruption
    from medunet.cli.progress import ConsoleObserver
    from medunet.training import pretrain as run

    again = "Go on with the same command with --resume and its folder as --output."
    with ConsoleObserver(stderr=as_json) as observer, explaining_interruption(observer, again):
        result = run(
            data,
            output=output,
            resume=resume,
            observer=observer,
            task=task,
            modality=modality,
            fold=int(fold) if fold.isdecimal() else fold,
            budget=budget,
            configuration=configuration,
            hidden_share=hidden,
            distance=distance,
            memory_gb=memory_gb,
            device=device,
            precision=precision,
            compile=compilation,
            workers=workers,
            seed=seed,
            deterministic=deterministic,
        )
    if as_json:
        print_json(
            {
                "model": result.folder,
                "num_iterations": result.num_iterations,
                "seconds": result.seconds,
                "pretraining": result.record,
            }
        )
    else:
        _print_result(result)


def _print_result(result: PretrainingResult) -> None:
    from medunet.cli.durations import format_duration
    from medunet.models.names import REPORT

    print(f"Pretrained {result.num_iterations} iterations in {format_duration(result.seconds)} min.")
    if (score := result.record.score) is not None:
        print(
            f"Hidden voxels of {score.num_scans} scans that were kept apart: mean absolute error {score.error:.3f}, "
            f"where the mean of what was shown has {score.error_of_mean:.3f}."
        )
    print(f"Report: {result.folder / REPORT}")
    print(f"Use it: medunet train --task TASK --data DATA --from {result.folder}")
