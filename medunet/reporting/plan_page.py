"""A fingerprint and a plan as plain text: every choice with its reason, in lines that fit a terminal or a log."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np

from medunet.planning import Fingerprint, Normalization, Plan
from medunet.tasks import Task

_WIDTH = 100
_NAME_WIDTH = 16
_AXES = "R x A x S"


def format_fingerprint(fingerprint: Fingerprint, task: Task) -> str:
    """What the dataset looks like: voxel sizes, sizes, intensities of what is labelled, labels.

    Args:
        fingerprint: Of the cases.
        task: Names channels and labels.
    """
    rows = [
        ("voxel size", f"{_describe_range(fingerprint.spacings)} mm ({_AXES})"),
        ("image size", f"{_describe_range(fingerprint.shapes)} voxels, without empty borders"),
    ]
    for name, channel in zip(task.channels, fingerprint.channels, strict=True):
        text = (
            f"{_say(channel.mean)} ± {_say(channel.std)}; 0.5th to 99.5th percentile {_say(channel.percentile_00_5)} to "
            f"{_say(channel.percentile_99_5)}"
        )
        rows.append((f"labelled {name}", text))
    lines = [f"Dataset: {fingerprint.num_cases} case(s)", *_format_rows(rows), "", *_format_labels(fingerprint, task)]
    return "\n".join(lines)


def format_plan(plan: Plan) -> str:
    """What the network sees, what it is and how it learns, with the reason of each choice."""
    network = plan.network
    rows = [
        ("configuration", plan.configuration),
        ("spacing", f"{_join(plan.spacing)} mm ({_AXES})"),
        ("median_shape", f"{_join(plan.median_shape)} voxels at that spacing"),
        ("patch_size", f"{_join(plan.patch_size)} voxels"),
        ("batch_size", f"{plan.batch_size} patches"),
        ("normalization", _join_once(map(_describe_normalization, plan.normalization))),
        (
            "network",
            f"{network.architecture}, {network.spatial_dims}D, {network.in_channels} channel(s) in, "
            f"{network.out_channels} out" + "".join(f", {name} {value}" for name, value in network.options.items()),
        ),
        ("optimizer", _describe_optimizer(plan)),
        ("augmentation", plan.augmentation),
    ]
    known = {name for name, _ in rows}
    lines = [f"Plan for task {plan.task}"]
    # A reason without a row of its own is a row.
    for name, text in [*rows, *((name, "") for name in plan.reasons if name not in known)]:
        reason = plan.reasons.get(name, "")
        lines += _format_rows([(name.replace("_", " "), text or reason)])
        if text and reason:
            lines += _wrap(reason, first="  " + " " * _NAME_WIDTH + "why: ")
        if name == "network":
            lines += _format_stages(plan)
    return "\n".join(lines)


def _format_rows(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [line for name, text in rows for line in _wrap(text, first=f"  {name:<{_NAME_WIDTH - 1}} ")]


def _wrap(text: str, *, first: str) -> list[str]:
    rest = "  " + " " * _NAME_WIDTH
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False) or [first]


def _format_labels(fingerprint: Fingerprint, task: Task) -> list[str]:
    width = max(len("label"), *(len(label) for label in task.labels))
    lines = [f"  {'label':<{width}}  {'cases':>6}  median ml"]
    for label in task.labels:
        num_cases = round(fingerprint.label_frequencies.get(label, 0.0) * fingerprint.num_cases)
        ml = fingerprint.label_volumes_ml.get(label)
        lines.append(f"  {label:<{width}}  {num_cases:>6}  {'-' if ml is None else _say(ml):>9}")
    return lines


def _format_stages(plan: Plan) -> list[str]:
    """The network stage by stage, finest first; the decoder mirrors it."""
    indent = "  " + " " * _NAME_WIDTH
    lines = [f"{indent}{'stage':<6}{'channels':>9}{'stride':>10}{'kernel':>10}{'blocks':>8}"]
    network = plan.network
    stages = zip(network.features, network.strides, network.kernels, network.encoder_blocks, strict=True)
    for number, (features, stride, kernel, blocks) in enumerate(stages):
        lines.append(f"{indent}{number:<6}{features:>9}{_join(stride):>10}{_join(kernel):>10}{blocks:>8}")
    return lines


def _describe_range(values: Sequence[Sequence[float]]) -> str:
    """The median and, where there is more than one value, the extremes per axis."""
    array = np.array(values, dtype=np.float64)  # (cases, 3)
    low, high = array.min(axis=0).tolist(), array.max(axis=0).tolist()
    median = _join(np.median(array, axis=0).tolist())
    return median if low == high else f"median {median}, from {_join(low)} to {_join(high)}"


def _describe_normalization(rule: Normalization) -> str:
    if rule.lower is None or rule.upper is None or rule.mean is None or rule.std is None:
        return f"{rule.rule}, nonzero voxels only" if rule.nonzero_only else rule.rule
    return (
        f"{rule.rule}: clip to {_say(rule.lower)} to {_say(rule.upper)}, minus {_say(rule.mean)}, by {_say(rule.std)}"
    )


def _describe_optimizer(plan: Plan) -> str:
    optimizer = plan.optimizer
    momentum = f", momentum {optimizer.momentum:g}" if optimizer.momentum else ""
    averaging = f", running mean of the weights {optimizer.averaging:g}" if optimizer.averaging is not None else ""
    return (
        f"{optimizer.name}, learning rate {optimizer.learning_rate:g} ({optimizer.schedule}), weight decay "
        f"{optimizer.weight_decay:g}{momentum}{averaging}"
    )


def _join(values: Iterable[float]) -> str:
    return "x".join(f"{value:.4g}" for value in values)


def _join_once(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _say(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
