"""Fingerprints and tasks to plan for, without files."""

from __future__ import annotations

from typing import Any

from medunet.planning import ChannelStatistics, Fingerprint
from medunet.tasks import Task

STATISTICS = ChannelStatistics(mean=50.0, std=20.0, percentile_00_5=-30.0, percentile_99_5=120.0)


def make_fingerprint(
    spacing: Any = (1.0, 1.0, 1.0),
    shape: Any = (36, 50, 35),
    num_cases: int = 200,
    *,
    label_volumes_ml: dict[str, float] | None = None,
    num_channels: int = 1,
) -> Fingerprint:
    """A dataset of equal cases, by default MSD's hippocampus; its smallest label is large unless told otherwise."""
    return Fingerprint(
        num_cases=num_cases,
        spacings=(tuple(map(float, spacing)),) * num_cases,
        shapes=(tuple(shape),) * num_cases,
        channels=(STATISTICS,) * num_channels,
        label_frequencies={"a": 1.0},
        label_volumes_ml=label_volumes_ml or {"a": 1e6},
    )


def make_task(**changes: Any) -> Task:
    """An MR task of two labels."""
    content = {"name": "x", "title": "x", "modality": "MR", "channels": ["t1"], "intensity": "zscore"}
    return Task.model_validate(content | {"labels": {"a": 1, "b": 2}} | changes)
