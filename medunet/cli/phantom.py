"""``medunet phantom``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medunet.cli.options import JsonOption
from medunet.cli.terminal import print_json
from medunet.errors import InputError


def phantom(
    task: Annotated[str, typer.Option("--task", "-t", help="Task whose phantoms are made.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the Decathlon dataset.")],
    num_cases: Annotated[int, typer.Option("--num-cases", "-n", help="Patients.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Other seeds give other patients.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make synthetic labelled volumes, or pictures, as a Medical Segmentation Decathlon folder."""
    from medunet.tasks import list_tasks, load_task

    recipe = load_task(task)
    if recipe.phantom is None:
        having = [name for name in list_tasks() if load_task(name).phantom is not None]
        msg = f"Task '{recipe.name}' has no phantoms; these have: {', '.join(having)}."
        raise InputError(msg)

    from medunet.phantoms import write_phantom_dataset

    write_phantom_dataset(recipe.phantom, output, num_cases=num_cases, seed=seed)
    if as_json:
        print_json({"folder": output, "phantom": recipe.phantom, "num_cases": num_cases, "seed": seed})
        return
    print(f"{num_cases} synthetic cases ({recipe.phantom}, seed {seed}): {output}")
