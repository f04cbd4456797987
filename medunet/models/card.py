"""The model card: what a model is, what it learnt from, how good it was, and what it is not for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from medunet.models.postprocessing import Postprocessing
from medunet.planning import Plan
from medunet.planning.architectures import describe_architecture
from medunet.tasks import Task

SYNTHETIC_WARNING = "This model was trained on synthetic phantoms; it is not for clinical use."


def build_card(
    task: Task,
    plan: Plan,
    training: dict[str, Any],
    metrics: dict[str, Any],
    postprocessing: Postprocessing | None = None,
    *,
    other_plans: Sequence[Plan] = (),
) -> str:
    """The card as Markdown.

    Args:
        task: What is segmented.
        plan: How.
        training: Content of ``training.json``.
        metrics: Content of ``metrics.json``.
        postprocessing: What is done to a mask after the network.
        other_plans: Of the members of an ensemble that have another plan.
    """
    synthetic = f"\n> **{SYNTHETIC_WARNING}**\n" if training["is_synthetic"] else ""
    plans = (plan, *other_plans)
    loop = (
        f"{training['num_iterations']} iterations in {training['seconds'] / 60:.1f} min on {training['device']} "
        f"({training['precision']}), seed {training['seed']}"
    )
    return f"""# {task.title}
{synthetic}
| | |
|---|---|
| Task | `{task.name}` |
| Input | {task.modality}: {", ".join(task.channels)} |
| Output | {", ".join(f"{name} ({'+'.join(map(str, values))})" for name, values in task.semantic_labels.items())}{_describe_things(task)} |
| Learnt from | {training["dataset"]}: {len(training["training_cases"])} cases, {_describe_fold(training, metrics)} |
| Network | {_join(map(_describe_network, plans))} |
| Voxels | {_join(f"{_format(one.spacing)} mm, patches of {_format(one.patch_size)}" for one in plans)} |
| Training | {loop} |
| Post-processing | {(postprocessing or Postprocessing.of_task(task)).describe()} |
| Written by | medunet {training["medunet_version"]}, {training["created"]} |

## Validation
{_format_metrics(metrics)}
{_format_candidates(metrics)}
## Why it is built this way
{chr(10).join(f"- **{name}**: {reason}" for name, reason in plan.reasons.items())}

## Limits
It has seen only images like those it learnt from: the same modality, field of view and region. It is a research tool,
not a medical device; a person must check every mask that matters.
"""


def _describe_things(task: Task) -> str:
    return f"; a value per object of {', '.join(task.things)}" if task.has_instances else ""


def _describe_network(plan: Plan) -> str:
    network = plan.network
    first_stage = ", after a 3d-low network" if plan.configuration == "cascade" else ""
    kind = f"{network.spatial_dims}D {describe_architecture(network.architecture)}"
    return (
        f"{kind}, {len(network.features)} stages of {network.features[0]} to "
        f"{max(network.features)} channels{first_stage}"
    )


def _describe_fold(training: dict[str, Any], metrics: dict[str, Any]) -> str:
    if folds := metrics.get("folds"):
        num_networks = metrics.get("num_networks", len(folds))
        return f"{num_networks} networks, each of which has not seen one fold"
    return "all cases" if training["fold"] is None else f"fold {training['fold']} kept for validation"


def _format_metrics(metrics: dict[str, Any]) -> str:
    if not metrics.get("labels"):
        return "Not validated: it was trained on all cases."
    rows = [
        f"| {name} | {_format_dice(row['mean'])} | {row['num_scored']} |" for name, row in metrics["labels"].items()
    ]
    failed = metrics.get("failed", [])
    return "\n".join(
        [
            f"Mean Dice {_format_dice(metrics['mean_dice'])} on {metrics['num_cases']} cases that it has not seen.",
            *([f"{len(failed)} more could not be scored; `metrics.json` says why."] if failed else []),
            "",
            "| Label | Dice | Cases |",
            "|---|---|---|",
            *rows,
        ]
    )


def _format_candidates(metrics: dict[str, Any]) -> str:
    """What else was compared in cross-validation, where a selection was made."""
    if not (candidates := metrics.get("candidates")):
        return ""
    rows = [
        f"| {'**' if one['is_chosen'] else ''}{one['name']}{'**' if one['is_chosen'] else ''} "
        f"| {_format_dice(one['mean_dice'])} | {one['num_cases']} | {one['num_networks']} |"
        for one in candidates
    ]
    return "\n".join(
        ["", "## Compared with", "| Candidate | Dice | Cases | Networks |", "|---|---|---|---|", *rows, ""]
    )


def _format_dice(dice: float | None) -> str:
    return "not defined" if dice is None else f"{dice:.3f}"


def _join(descriptions: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(descriptions))


def _format(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
