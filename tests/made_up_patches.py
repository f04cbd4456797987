"""Logits and codes of made-up patches, and the two kinds of tasks that losses must serve."""

from __future__ import annotations

import torch
from torch import Tensor

from medunet.tasks import Task, compute_membership

_BASE = {"name": "x", "title": "x", "modality": "CT", "channels": ["ct"], "intensity": "none"}
CLASSES = Task.model_validate(_BASE | {"labels": {"a": 1, "b": 2}})  # codes 0 to 2, three outputs
REGIONS = Task.model_validate(_BASE | {"labels": {"whole": [1, 2, 3], "core": [2, 3], "seed": 3}})  # codes 0 to 3
TASKS = {"classes": CLASSES, "regions": REGIONS}


def build_task(*labels: str) -> Task:
    """Classes with the values 1, 2 and so on."""
    return Task.model_validate(_BASE | {"labels": {label: value for value, label in enumerate(labels, start=1)}})


def make_codes(task: Task, *, shape: tuple[int, ...] = (2, 4, 5, 6), seed: int = 0) -> Tensor:
    """Random codes ``(B, I, J, K)`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, compute_membership(task).shape[1], shape, generator=generator).to(torch.uint8)


def make_blocks(task: Task, *, size: int, side: int = 16) -> Tensor:
    """Codes in cubes of one code each, ``(1, size, size, size)``: few objects, as in a label map."""
    num_blocks = size // side
    blocks = make_codes(task, shape=(1, num_blocks, num_blocks, num_blocks))
    for axis in (1, 2, 3):
        blocks = blocks.repeat_interleave(side, axis)
    return blocks


def make_logits(task: Task, codes: Tensor, certainty: float) -> Tensor:
    """Logits ``(B, outputs, I, J, K)`` that are right everywhere, by so much."""
    membership = torch.from_numpy(compute_membership(task))
    return (2 * membership[:, codes.long()].movedim(0, 1) - 1) * certainty


def make_noise(task: Task, codes: Tensor, *, seed: int = 1) -> Tensor:
    """Logits that have nothing to do with the codes, a leaf that asks for gradients."""
    shape = (codes.shape[0], task.num_outputs, *codes.shape[1:])
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def make_waves(task: Task, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Logits and codes that any program can make again without a random generator."""
    size = torch.Size((shape[0], task.num_outputs, *shape[1:]))
    steps = torch.arange(size.numel(), dtype=torch.float64)
    logits = (3 * torch.sin(steps * steps * 0.37)).float().reshape(size).requires_grad_()
    places = torch.arange(torch.Size(shape).numel())
    num_codes = compute_membership(task).shape[1]
    return logits, ((places * places * 7 + places // 5) % 11 % num_codes).to(torch.uint8).reshape(shape)
