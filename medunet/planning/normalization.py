"""How intensities are brought to the network's range (nnU-Net's rules, and the windows that a task may name)."""

from __future__ import annotations

from medunet.planning.fingerprint import Fingerprint
from medunet.planning.plan import Normalization
from medunet.tasks import Task

MASKED_BELOW = 0.75
"""Where less than this share of the median case is left after the crop to nonzero voxels, zeros are no tissue."""


def choose_normalization(fingerprint: Fingerprint, task: Task) -> tuple[tuple[Normalization, ...], str]:
    """One rule per channel, from the task's intensity rule."""
    if task.intensity == "none":
        return _repeat(Normalization(rule="none"), task), "the task asks for none"
    if task.intensity == "zscore":
        return _choose_zscore(fingerprint, task)
    if task.window_hu is not None:
        low, high = task.window_hu
        rule = Normalization(rule="ct-window", lower=low, upper=high, mean=(low + high) / 2, std=(high - low) / 2)
        return _repeat(rule, task), f"the task's window {low:g} to {high:g} HU becomes -1 to 1"
    rules = tuple(
        Normalization(
            rule="ct-percentile",
            lower=channel.percentile_00_5,
            upper=channel.percentile_99_5,
            mean=channel.mean,
            std=max(channel.std, 1e-6),
        )
        for channel in fingerprint.channels
    )
    return rules, "clipped to the 0.5th and 99.5th percentile of the foreground, then its mean and deviation"


def _choose_zscore(fingerprint: Fingerprint, task: Task) -> tuple[tuple[Normalization, ...], str]:
    is_masked = fingerprint.nonzero_share < MASKED_BELOW
    left = f"{fingerprint.nonzero_share:.0%} of the median case are left after the crop to nonzero voxels"
    reason = (
        f"mean and deviation of each image's nonzero voxels, zeros stay zero: only {left}"
        if is_masked
        else f"mean and deviation of each image: {left}"
    )
    return _repeat(Normalization(rule="zscore", nonzero_only=is_masked), task), reason


def _repeat(rule: Normalization, task: Task) -> tuple[Normalization, ...]:
    return tuple(rule for _ in task.channels)
