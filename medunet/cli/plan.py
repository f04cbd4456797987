"""``medunet plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import (
    BudgetOption,
    ConfigurationOption,
    DataOption,
    DeviceOption,
    MapOption,
    MemoryOption,
    NeighbourSlicesOption,
    NetworkOption,
    NetworkSettingOption,
    PresetOption,
    TaskOption,
)

if TYPE_CHECKING:
    from medunet.planning import Fingerprint, Plan
    from medunet.tasks import Task
    from medunet.training import TrainingSettings


def plan(
    data: DataOption,
    task: TaskOption,
    mapping: MapOption = None,
    budget: BudgetOption = None,
    configuration: ConfigurationOption = "auto",
    neighbour_slices: NeighbourSlicesOption = None,
    preset: PresetOption = "default",
    memory_gb: MemoryOption = None,
    network: NetworkOption = "auto",
    network_options: NetworkSettingOption = None,
    device: DeviceOption = "auto",
    json_file: Annotated[
        str | None, typer.Option("--json", help="File for fingerprint and plan; - prints them instead of the page.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the JSON file.")] = False,
) -> None:
    """Show what a dataset looks like and how `medunet train` would train on it here, with the reason of every choice."""
    from medunet.cli.case_progress import CaseProgress
    from medunet.device import count_workers
    from medunet.io import check_output, write_json_atomic
    from medunet.planning import compute_fingerprint
    from medunet.reporting.plan_page import format_fingerprint, format_plan
    from medunet.tasks import load_task, parse_mapping, read_dataset
    from medunet.training import TrainingSettings

    recipe = load_task(task)
    settings = TrainingSettings(
        task=task,
        budget=budget,
        configuration=configuration,  # type: ignore[arg-type]  # the settings check it
        neighbour_slices=neighbour_slices,
        preset=preset,  # type: ignore[arg-type]
        memory_gb=memory_gb,
        network=network,
        network_options=tuple(network_options or ()),
        device=device,
    )
    settings.resolve_budget(recipe)  # what contradicts it is said before the dataset is read
    dataset = read_dataset(data, mapping=parse_mapping(mapping or ()))
    json_path = None if json_file in (None, "-") else Path(str(json_file))
    if json_path is not None:
        files = [path for case in dataset.cases for path in (*case.images, case.labels)]
        check_output(json_path, [data, Path(task), dataset.folder / "dataset.json", *files], overwrite=overwrite)
    with CaseProgress("reading", len(dataset.cases)) as progress:
        fingerprint = compute_fingerprint(dataset.cases, recipe, num_workers=count_workers(), on_case=progress.on_case)
    plans = _fit_plans(fingerprint, recipe, settings)
    content = {
        "fingerprint": fingerprint.model_dump(mode="json"),
        "plans": {one.configuration: one.model_dump(mode="json") for one in plans},
    }
    if json_path is not None:
        write_json_atomic(json_path, content)
    if json_file == "-":
        print(json.dumps(content, indent=2, allow_nan=False))
        return
    print(format_fingerprint(fingerprint, recipe))
    for one in plans:
        print(f"\n{format_plan(one)}")
    if json_path is not None:
        print(f"\nWritten: {json_path}")


def _fit_plans(fingerprint: Fingerprint, task: Task, settings: TrainingSettings) -> list[Plan]:
    """One plan; two where a cascade or a small network that locates comes first. A time is measured here, for some seconds."""
    from medunet.device import choose_device, choose_precision
    from medunet.training.fit_plan import fit_plans

    budget, device = settings.resolve_budget(task), choose_device(settings.device)
    precision = choose_precision(device, settings.precision)
    plans = fit_plans(fingerprint, task, budget, device, settings, precision)
    return [plan for plan in (plans.low, plans.locator, plans.main) if plan is not None]
