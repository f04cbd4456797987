"""A plan, a task, a batch and cases so small that a step of training takes milliseconds; for tests of the loop's parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from medunet.planning import Plan
from medunet.planning.plan import NetworkPlan, Normalization, OptimizerPlan
from medunet.preprocessing import StoredCase
from medunet.tasks import Task
from medunet.training.identity import RunIdentity
from medunet.training.sampling import Batch

ADAMW = OptimizerPlan(name="adamw", learning_rate=3e-3, weight_decay=1e-2, schedule="cosine")
MUON = OptimizerPlan(
    name="muon", learning_rate=3e-3, weight_decay=1e-2, momentum=0.95, schedule="cosine", averaging=0.9
)
SGD = OptimizerPlan(name="sgd", learning_rate=1e-2, weight_decay=3e-5, momentum=0.99, schedule="poly", averaging=0.9)


def build_tiny_task() -> Task:
    return Task.model_validate(
        {
            "name": "tiny-mr",
            "title": "Two blobs",
            "modality": "MR",
            "channels": ["t1"],
            "labels": {"left": 1, "right": 3},
            "laterality": [["left", "right"]],
            "intensity": "zscore",
            "budget": "4it",
        }
    )


def build_tiny_plan(optimizer: OptimizerPlan = ADAMW, *, spatial_dims: Any = 3, batch_size: int = 2) -> Plan:
    depth = 8 if spatial_dims == 3 else 1
    kernel, stride = ((3, 3, 3), (2, 2, 2)) if spatial_dims == 3 else ((3, 3, 1), (2, 2, 1))
    return Plan(
        task="tiny-mr",
        modality="MR",
        configuration="3d" if spatial_dims == 3 else "2d",
        spacing=(1.0, 1.0, 1.5),
        median_shape=(20, 24, 16),
        patch_size=(16, 16, depth),
        batch_size=batch_size,
        normalization=(Normalization(rule="zscore"),),
        network=NetworkPlan(
            spatial_dims=spatial_dims,
            in_channels=1,
            out_channels=3,
            features=(4, 8, 8),
            strides=((1, 1, 1), stride, stride),
            kernels=(kernel,) * 3,
            encoder_blocks=(2, 2, 2),
            decoder_convolutions=(2, 2),
            num_scales=2,
        ),
        optimizer=optimizer,
        reasons={},
    )


def build_tiny_identity() -> RunIdentity:
    """The same for every training."""
    return RunIdentity(
        medunet_version="0",
        case_checksums={},
        training_cases=(),
        validation_cases=(),
        plan={},
        task={},
        loss="dice-ce",
        seed=0,
        augmentation="fast",
    )


def build_tiny_batch(plan: Plan, iteration: int = 0) -> Batch:
    """Two blobs in noise; another noise in each iteration."""
    generator = torch.Generator().manual_seed(iteration)
    shape = (plan.batch_size, *plan.patch_size)
    codes = torch.zeros(shape, dtype=torch.uint8)
    codes[:, 2:7, 3:9, :6], codes[:, 9:14, 3:9, :6] = 1, 2
    image = torch.randn(shape, generator=generator) * 0.3 + codes.float()
    ids = tuple(f"case_{number}" for number in range(plan.batch_size))
    return Batch(iteration=iteration, case_ids=ids, image=image.unsqueeze(1), codes=codes)


def build_tiny_cases(num_cases: int = 3, *, shape: tuple[int, int, int] = (20, 24, 16)) -> list[StoredCase]:
    """Preprocessed cases in memory: a blob on either side of noise."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    cases = []
    for number in range(num_cases):
        rng = np.random.default_rng(number)
        image = rng.normal(0, 0.3, shape).astype(np.float32)
        labels = np.zeros(shape, np.uint8)
        foreground = {}
        for code, i in ((1, 5), (2, 14)):
            inside = np.linalg.norm(grid - (i, 12 + rng.integers(-3, 4), 8), axis=-1) < 4
            image[inside] += 3 - code
            labels[inside] = code
            foreground[code] = torch.from_numpy(np.argwhere(inside).astype(np.int16))
        cases.append(
            StoredCase(
                case_id=f"case_{number}",
                path=Path("nowhere"),
                shape=shape,
                fill=torch.zeros(1),
                foreground=foreground,
                image=torch.from_numpy(image)[None],
                labels=torch.from_numpy(labels),
            )
        )
    return cases
