"""``medunet tasks`` and ``medunet tasks show``."""

from __future__ import annotations

from typing import Annotated

import typer

from medunet.cli.options import JsonOption
from medunet.cli.terminal import build_console, print_json

app = typer.Typer(help="List the built-in tasks, or show one.", invoke_without_command=True)


@app.callback()
def list_all(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the built-in tasks."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from medunet.tasks import list_tasks, load_task

    if as_json:
        print_json([load_task(name).model_dump(mode="json") for name in list_tasks()])
        return
    table = Table()
    table.add_column("task", no_wrap=True)
    for name in ("what", "labels", "embedded data"):
        table.add_column(name)
    for task in map(load_task, list_tasks()):
        table.add_row(task.name, task.title, ", ".join(task.semantic_labels), task.phantom or "-")
    build_console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Built-in task or a YAML file.")], as_json: JsonOption = False
) -> None:
    """Print one task as YAML, ready to be copied and changed."""
    import yaml

    from medunet.tasks import load_task

    task = load_task(name)
    if as_json:
        print_json(task)
        return
    content = task.model_dump(mode="json", exclude_none=True)
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), end="")
