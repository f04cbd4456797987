"""The recipes that come with medunet (``configs/*.yaml``) and where they lie."""

from __future__ import annotations

from pathlib import Path

from medunet.errors import TaskError
from medunet.tasks.suggestion import suggest
from medunet.tasks.task import Task, read_task_file


def list_tasks() -> list[str]:
    """Names of the built-in tasks, sorted."""
    return sorted(path.stem for path in _find_configs().glob("*.yaml"))


def load_task(name_or_path: str | Path) -> Task:
    """A built-in task by name, or any recipe by the path of its YAML file.

    Raises:
        TaskError: If there is no such task (the nearest name is suggested), or the recipe has a fault.

    Example:
        >>> load_task("hippocampus-mr").labels
        {'anterior': (1,), 'posterior': (2,)}
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml", ".json") or path.is_file():
        return read_task_file(path)
    built_in = _find_configs() / f"{name_or_path}.yaml"
    if str(name_or_path) not in list_tasks():
        msg = (
            f"There is no task '{name_or_path}'; {suggest(str(name_or_path), list_tasks())} "
            "`medunet tasks` lists them; the path of a YAML file is taken too."
        )
        raise TaskError(msg)
    return read_task_file(built_in)


def _find_configs() -> Path:
    """Inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
