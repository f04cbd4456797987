"""The model card: what a model is, what it learnt from, how good it was, and what it is not for."""

from __future__ import annotations

from typing import Any

from medunet.models.postprocessing import Postprocessing
from medunet.planning import Plan
from medunet.tasks import Task

SYNTHETIC_WARNING = "This model was trained on synthetic phantoms; it is not for clinical use."


def build_card(
    task: Task,
    plan: Plan,
    training: dict[str, Any],
    metrics: dict[str, Any],
    postprocessing: Postprocessing | None = None,
) -> str:
    """The card as Markdown."""
    synthetic = f"\n> **{SYNTHETIC_WARNING}**\n" if training["is_synthetic"] else ""
    features = f"{plan.network.features[0]} to {max(plan.network.features)} channels"
    network = f"{plan.network.spatial_dims}D U-Net, {len(plan.network.features)} stages of {features}"
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
| Output | {", ".join(f"{name} ({'+'.join(map(str, values))})" for name, values in task.labels.items())} |
| Learnt from | {training["dataset"]}: {len(training["training_cases"])} cases, {_describe_fold(training, metrics)} |
| Network | {network} |
| Voxels | {_format(plan.spacing)} mm, patches of {_format(plan.patch_size)} |
| Training | {loop} |
| Post-processing | {(postprocessing or Postprocessing()).describe()} |
| Written by | medunet {training["medunet_version"]}, {training["created"]} |

## Validation
{_format_metrics(metrics)}

## Why it is built this way
{chr(10).join(f"- **{name}**: {reason}" for name, reason in plan.reasons.items())}

## Limits
It has seen only images like those it learnt from: the same modality, field of view and region. It is a research tool,
not a medical device; a person must check every mask that matters.
"""


def _describe_fold(training: dict[str, Any], metrics: dict[str, Any]) -> str:
    if folds := metrics.get("folds"):
        return f"{len(folds)} networks, each of which has not seen one fold"
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


def _format_dice(dice: float | None) -> str:
    return "not defined" if dice is None else f"{dice:.3f}"


def _format(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
