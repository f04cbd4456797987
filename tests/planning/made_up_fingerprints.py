"""Fingerprints and tasks to plan for, without files."""

from __future__ import annotations

from typing import Any

import numpy as np

from medunet.planning import ChannelStatistics, Fingerprint
from medunet.tasks import Task

STATISTICS = ChannelStatistics(
    mean=50.0, median=48.0, std=20.0, minimum=-200.0, maximum=500.0, percentile_00_5=-30.0, percentile_99_5=120.0
)


def make_fingerprint(
    spacing: Any = (1.0, 1.0, 1.0),
    shape: Any = (36, 50, 35),
    num_cases: int = 200,
    *,
    body_shape: Any = None,
    nonzero_share: float = 1.0,
    label_volumes_ml: dict[str, float] | None = None,
    num_channels: int = 1,
) -> Fingerprint:
    """A dataset of equal cases, by default MSD's hippocampus; its smallest label is large unless told otherwise."""
    return Fingerprint(
        num_cases=num_cases,
        spacings=(tuple(map(float, spacing)),) * num_cases,
        shapes=(tuple(shape),) * num_cases,
        body_shapes=(tuple(body_shape or shape),) * num_cases,
        nonzero_share=nonzero_share,
        channels=(STATISTICS,) * num_channels,
        label_frequencies={"a": 1.0},
        label_volumes_ml=label_volumes_ml or {"a": 1e6},
    )


def make_varied_fingerprint(
    spacing: Any,
    shape: Any,
    num_cases: int,
    *,
    spread: Any = (0.1, 0.1, 0.1),
    nonzero_share: float = 1.0,
    num_channels: int = 1,
    seed: int = 0,
) -> Fingerprint:
    """A dataset whose cases differ: spacings and shapes vary by a log-normal factor, per axis as wide as ``spread``."""
    rng = np.random.default_rng(seed)
    factors = np.exp(rng.normal(size=(2, num_cases, 3)) * np.array(spread))
    spacings = np.round(np.array(spacing) * factors[0], 4)
    shapes = np.maximum(1, np.round(np.array(shape) * factors[1])).astype(int)
    equal = make_fingerprint(spacing, shape, num_cases, nonzero_share=nonzero_share, num_channels=num_channels)
    return equal.model_copy(
        update={
            "spacings": tuple(map(tuple, spacings.tolist())),
            "shapes": tuple(map(tuple, shapes.tolist())),
            "body_shapes": tuple(map(tuple, shapes.tolist())),
        }
    )


def make_task(**changes: Any) -> Task:
    """An MR task of two labels."""
    content = {"name": "x", "title": "x", "modality": "MR", "channels": ["t1"], "intensity": "zscore"}
    return Task.model_validate(content | {"labels": {"a": 1, "b": 2}} | changes)
