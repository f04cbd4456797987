"""``medunet plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.planning import Configuration, Fingerprint, MemoryTarget, Plan
    from medunet.tasks import Task

_CONFIGURATIONS = ("auto", "2d", "3d", "3d-low", "cascade")
_PRESETS = ("default", "M", "L", "XL")


def plan(
    data: Annotated[Path, typer.Option("--data", "-d", help="Dataset folder or CSV table.")],
    task: Annotated[str, typer.Option("--task", "-t", help="Built-in task (see `medunet tasks`) or a YAML file.")],
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help='Name in SEG or RTSTRUCT labels for a label: "CTV_p=prostate". May be repeated.'),
    ] = None,
    configuration: Annotated[
        str, typer.Option("--configuration", "-c", help="3d, 2d, 3d-low, cascade, or auto: by rule.")
    ] = "auto",
    budget: Annotated[
        str | None,
        typer.Option("--budget", "-b", help="10min, 2h, 5000it, full; default: the task's. Steps are timed here."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="Instead of a budget: nnU-Net's recipe, default, M, L or XL."),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option("--memory-gb", help="Instead of a budget: GPU memory to fill; chooses M, L or XL."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, ...: that a budget is for.")] = "auto",
    json_file: Annotated[
        str | None, typer.Option("--json", help="File for fingerprint and plan; - prints them instead of the page.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the JSON file.")] = False,
) -> None:
    """Show what a dataset looks like and how a network would be trained on it, with the reason of every choice."""
    _check_choice("--configuration", configuration, _CONFIGURATIONS)
    target = _choose_target(preset, memory_gb, budget)

    from medunet.cli.case_progress import CaseProgress, count_workers
    from medunet.io import check_output, write_json_atomic
    from medunet.planning import compute_fingerprint
    from medunet.reporting.plan_page import format_fingerprint, format_plan
    from medunet.tasks import load_task, parse_mapping, read_dataset

    recipe = load_task(task)
    dataset = read_dataset(data, mapping=parse_mapping(mapping or ()))
    json_path = None if json_file in (None, "-") else Path(str(json_file))
    if json_path is not None:
        files = [path for case in dataset.cases for path in (*case.images, case.labels)]
        check_output(json_path, [data, dataset.folder / "dataset.json", *files], overwrite=overwrite)
    with CaseProgress("reading", len(dataset.cases)) as progress:
        fingerprint = compute_fingerprint(dataset.cases, recipe, num_workers=count_workers(), on_case=progress.on_case)
    if target is not None:
        plans = _build_plans(fingerprint, recipe, target, configuration)
    else:
        plans = _fit_plans(fingerprint, recipe, budget or recipe.budget, device, configuration)
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


def _choose_target(preset: str | None, memory_gb: float | None, budget: str | None) -> MemoryTarget | None:
    """nnU-Net's recipe where memory is named; None where a budget decides."""
    if preset is None and memory_gb is None:
        return None
    if budget is not None:
        msg = "--budget is what training may cost in time, --preset and --memory-gb in memory; give one kind."
        raise InputError(msg)

    from medunet.planning import MemoryTarget, choose_memory_target

    if preset is None:
        return None if memory_gb is None else choose_memory_target(memory_gb)
    _check_choice("--preset", preset, _PRESETS)
    return MemoryTarget(preset=preset, memory_gb=memory_gb)  # type: ignore[arg-type]  # checked above


def _build_plans(fingerprint: Fingerprint, task: Task, target: MemoryTarget, wanted: str) -> list[Plan]:
    from medunet.planning import build_plan, choose_configuration

    reason = ""
    if wanted == "auto":
        wanted, reason = choose_configuration(fingerprint, task, target)
    return [_add_reason(build_plan(fingerprint, task, target, one), reason) for one in _list_stages(wanted)]


def _fit_plans(fingerprint: Fingerprint, task: Task, budget_text: str, device_name: str, wanted: str) -> list[Plan]:
    """What ``medunet train`` would plan here; the network is timed for some seconds."""
    from medunet.device import choose_device
    from medunet.planning import CPU_EFFORT, GPU_EFFORT, MemoryTarget, choose_configuration
    from medunet.training.budget import parse_budget
    from medunet.training.fit_plan import fit_plan

    budget, device = parse_budget(budget_text), choose_device(device_name)
    reason = ""
    if wanted == "auto":
        effort = CPU_EFFORT if device.type == "cpu" else GPU_EFFORT
        wanted, reason = choose_configuration(fingerprint, task, MemoryTarget() if budget.is_full else effort)
    return [_add_reason(fit_plan(fingerprint, task, budget, device, one), reason) for one in _list_stages(wanted)]


def _list_stages(configuration: str) -> list[Configuration]:
    """A cascade is two networks."""
    return ["3d-low", "cascade"] if configuration == "cascade" else [configuration]  # type: ignore[list-item]


def _add_reason(plan: Plan, reason: str) -> Plan:
    return plan.model_copy(update={"reasons": plan.reasons | {"configuration": reason}}) if reason else plan


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        from medunet.tasks import suggest

        msg = f"{option} is '{value}'; {suggest(value, known)}"
        raise InputError(msg)
