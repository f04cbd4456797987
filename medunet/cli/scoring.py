"""The options of commands that score masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.evaluation import Evaluation, MetricSettings
    from medunet.tasks import Task

LabelTask = Annotated[str | None, typer.Option("--task", "-t", help="Task that names the labels and regions.")]
LabelMap = Annotated[
    list[str] | None,
    typer.Option("--map", help='With --task: a name in a SEG or RTSTRUCT for a label: "CTV_p=prostate".'),
]
Tolerance = Annotated[
    list[str] | None,
    typer.Option("--tolerance", help='Of the NSD in mm: 2, or per label: "spleen=1.5"; may be repeated.'),
]
Surface = Annotated[
    str, typer.Option("--surface", help="elements (areas, as DeepMind's surface-distance) or voxels (as MONAI).")
]
Beta = Annotated[float, typer.Option("--beta", help="Of F-beta: how much recall counts.")]
Resample = Annotated[bool, typer.Option("--resample", help="Interpolate masks that lie on another grid.")]


def build_settings(
    tolerances: Sequence[str] | None, surface: str, task: Task | None, *, beta: float = 2.0
) -> MetricSettings:
    """`MetricSettings` from what the command line holds.

    A tolerance for all labels replaces those of the task, one for a label that of this label.

    Raises:
        InputError: If a tolerance is no number from 0 on or names an unknown label, or a kind of surface is unknown.
    """
    from medunet.evaluation import MetricSettings
    from medunet.evaluation.catalogue import DEFAULT_TOLERANCE_MM

    given = _parse_tolerances(tolerances or ())
    _check_labels(given, task)
    of_label = ({} if task is None or "" in given else dict(task.tolerances_mm)) | given
    if surface not in ("elements", "voxels"):
        msg = f"There is no --surface {surface}; expected elements or voxels."
        raise InputError(msg)
    kind = "elements" if surface == "elements" else "voxels"
    tolerance_mm = of_label.pop("", DEFAULT_TOLERANCE_MM)
    try:
        return MetricSettings(
            tolerance_mm=tolerance_mm,
            tolerances_mm=of_label,
            surface=kind,  # type: ignore[arg-type]
            beta=beta,
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def check_names(mapping: Mapping[str, str], settings: MetricSettings, evaluations: Iterable[Evaluation]) -> None:
    """Refuse a --map or --tolerance that concerned nothing: which names there are is known when all files are read.

    Call it when results are written and shown: they are right all the same, and may have taken hours. Nothing is said while
    a case could not be scored, since it may hold the name.

    Raises:
        InputError: With the names that there are.
    """
    from medunet.tasks.task import fold_name

    found = list(evaluations)
    if any(evaluation.failures for evaluation in found):
        return
    names = sorted({name for evaluation in found for name in evaluation.structure_names})
    known = {fold_name(name) for name in names}
    if unknown := [name for name in mapping if fold_name(name) not in known]:
        listed = f"they list {_list(names)}" if names else "their labels are values without names"
        msg = f"--map names '{unknown[0]}', which no mask and no reference has: {listed}. Correct the name, or leave it out."
        raise InputError(msg)
    labels = list(dict.fromkeys(score.label for evaluation in found for score in evaluation.scores))
    if labels and (unknown := [label for label in settings.tolerances_mm if label not in labels]):
        msg = f"--tolerance names the label '{unknown[0]}', which no reference has; expected one of {_list(labels)}."
        raise InputError(msg)


def _list(names: Sequence[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")


def list_files(path: Path) -> list[Path]:
    """Files that an output must not replace."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _check_labels(given: Mapping[str, float], task: Task | None) -> None:
    unknown = [label for label in given if label and task is not None and label not in task.labels]
    if unknown and task is not None:
        msg = f"--tolerance names the label '{unknown[0]}'; expected one of {', '.join(task.labels)}."
        raise InputError(msg)


def _parse_tolerances(entries: Sequence[str]) -> dict[str, float]:
    """Label -> mm; the empty label stands for all."""
    found: dict[str, float] = {}
    for entry in entries:
        label, _, number = entry.rpartition("=")
        try:
            found[label.strip()] = float(number)
        except ValueError:
            msg = f"--tolerance is '{entry}'; expected millimetres, such as 2 or \"spleen=1.5\"."
            raise InputError(msg) from None
    return found
