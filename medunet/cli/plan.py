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
    FoldOption,
    FromOption,
    JsonFileOption,
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
from medunet.cli.terminal import print_json

if TYPE_CHECKING:
    from medunet.models import Model
    from medunet.planning import Fingerprint, Plan
    from medunet.tasks import Dataset, Task
    from medunet.training import Budget, TrainingSettings


def plan(
    data: DataOption,
    task: TaskOption,
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
    locate: LocateOption = "auto",
    source_model: FromOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
    json_file: JsonFileOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the JSON file.")] = False,
) -> None:
    """Show what a dataset looks like and how `medunet train` would train on it here, with the reason of every choice."""
    from medunet.cli.case_progress import CaseProgress
    from medunet.device import count_workers
    from medunet.io import check_output, write_json_atomic
    from medunet.models.folder import read_single_model
    from medunet.planning import compute_fingerprint
    from medunet.reporting.plan_page import format_fingerprint, format_plan
    from medunet.tasks import check_annotated, load_task, parse_mapping, read_dataset, read_splits
    from medunet.training import TrainingSettings
    from medunet.training.experiment import share_budget

    recipe = load_task(task)
    settings = TrainingSettings(
        task=task,
        budget=budget,
        fold=parse_fold(fold),  # type: ignore[arg-type]  # the settings check it
        splits=None if splits is None else str(splits),
        configuration=configuration,  # type: ignore[arg-type]
        neighbour_slices=neighbour_slices,
        preset=preset,  # type: ignore[arg-type]
        memory_gb=memory_gb,
        network=network,
        network_options=tuple(network_options or ()),
        locate=locate,  # type: ignore[arg-type]
        from_model=None if source_model is None else str(source_model),
        device=device,
        precision=precision,  # type: ignore[arg-type]
    )
    whole_budget = settings.resolve_budget(recipe)  # what contradicts it is said before the dataset is read
    dataset = read_dataset(data, mapping=parse_mapping(mapping or ()))
    check_annotated(dataset.cases, recipe)
    own_splits = None if splits is None else read_splits(splits, dataset)
    budget_of_each = share_budget(whole_budget, dataset, settings, own_splits)
    source = None if source_model is None else read_single_model(source_model)
    if json_file is not None:
        files = [path for case in dataset.cases for path in (*case.images, case.labels)]
        check_output(json_file, [data, Path(task), dataset.folder / "dataset.json", *files], overwrite=overwrite)
    with CaseProgress("reading", len(dataset.cases)) as progress:
        fingerprint = compute_fingerprint(dataset.cases, recipe, num_workers=count_workers(), on_case=progress.on_case)
    plans = _fit_plans(fingerprint, recipe, dataset, budget_of_each, settings, source)
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


def _fit_plans(
    fingerprint: Fingerprint,
    task: Task,
    dataset: Dataset,
    budget: Budget,
    settings: TrainingSettings,
    source: Model | None,
) -> list[Plan]:
    """One plan; two where a cascade or a small network that locates comes first. A time is measured here, for some seconds."""
    from medunet.device import choose_device, choose_precision
    from medunet.training.experiment import plan_trainings

    device = choose_device(settings.device)
    precision = choose_precision(device, settings.precision)
    plans = plan_trainings(fingerprint, task, dataset, budget, device, settings, precision, source=source)
    return [plan for plan in (plans.low, plans.locator, plans.main) if plan is not None]
