"""``medunet plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import (
    BudgetOption,
    ConfigurationOption,
    DataOption,
    DeviceOption,
    JsonFileOption,
    JsonOption,
    MapOption,
    MemoryOption,
    NeighbourSlicesOption,
    NetworkOption,
    NetworkSettingOption,
    PresetOption,
    TaskOption,
)
from medunet.cli.terminal import print_json

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
    as_json: JsonOption = False,
    json_file: JsonFileOption = None,
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
    if json_file is not None:
        files = [path for case in dataset.cases for path in (*case.images, case.labels)]
        check_output(json_file, [data, Path(task), dataset.folder / "dataset.json", *files], overwrite=overwrite)
    with CaseProgress("reading", len(dataset.cases)) as progress:
        fingerprint = compute_fingerprint(dataset.cases, recipe, num_workers=count_workers(), on_case=progress.on_case)
    plans = _fit_plans(fingerprint, recipe, settings)
    content = {
        "fingerprint": fingerprint.model_dump(mode="json"),
        "plans": {one.configuration: one.model_dump(mode="json") for one in plans},
    }
    if json_file is not None:
        write_json_atomic(json_file, content)
    if as_json:
        print_json(content)
        return
    print(format_fingerprint(fingerprint, recipe))
    for one in plans:
        print(f"\n{format_plan(one)}")
    print(f"\n{_describe_inference(fingerprint, plans[-1], settings)}")
    if json_file is not None:
        print(f"\nWritten: {json_file}")


def _describe_inference(fingerprint: Fingerprint, plan: Plan, settings: TrainingSettings) -> str:
    """What `medunet infer` will take here for a scan of the median size, with the usual speed and without mirrored passes."""
    import numpy as np

    from medunet.device import choose_device, choose_precision
    from medunet.inference.backends import is_installed
    from medunet.inference.memory_need import Work, estimate_memory
    from medunet.inference.predictor import get_largest_portions
    from medunet.inference.settings import InferenceSettings

    device = choose_device(settings.device)
    work = Work(
        plan=plan,
        backend="openvino" if device.type == "cpu" and is_installed("openvino") else "torch",
        precision=choose_precision(device),
        on_device=device.type != "cpu",
    )
    i, j, k = np.median(fingerprint.shapes, axis=0).round().astype(int).tolist()
    x, y, z = np.median(fingerprint.spacings, axis=0).tolist()
    portions = get_largest_portions(plan, InferenceSettings())
    need = estimate_memory((i, j, k), (x, y, z), work, portions, num_channels=len(plan.normalization))
    return f"Inference of a scan of {i}x{j}x{k} voxels takes about {need.describe()}"


def _fit_plans(fingerprint: Fingerprint, task: Task, settings: TrainingSettings) -> list[Plan]:
    """One plan; two where a cascade or a small network that locates comes first. A time is measured here, for some seconds."""
    from medunet.device import choose_device, choose_precision
    from medunet.training.fit_plan import fit_plans

    budget, device = settings.resolve_budget(task), choose_device(settings.device)
    precision = choose_precision(device, settings.precision)
    plans = fit_plans(fingerprint, task, budget, device, settings, precision)
    return [plan for plan in (plans.low, plans.locator, plans.main) if plan is not None]
