"""``medunet quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medunet.cli.options import DataOption, JsonOption, MapOption
from medunet.cli.terminal import print_json


def quantize(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    data: DataOption,
    mapping: MapOption = None,
    patches: Annotated[int, typer.Option("--patches", help="Of training cases, to take ranges of numbers from.")] = 32,
    as_json: JsonOption = False,
) -> None:
    """Make a network in eight bits for `medunet infer --speed fast` on the CPU, and keep it where it is worth it."""
    from medunet import training
    from medunet.cli.progress import ConsoleObserver
    from medunet.errors import InputError

    if patches < 1:
        msg = f"--patches is {patches}; expected 1 or more."
        raise InputError(msg)
    with ConsoleObserver(stderr=as_json) as observer:
        done = training.quantize(model, data, mapping=mapping or (), num_patches=patches, observer=observer)
    if as_json:
        print_json({"model": model, "message": done.message, "int8": done.record})
    else:
        print(done.message)
