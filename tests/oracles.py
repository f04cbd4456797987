"""Networks whose answer is known at every voxel, the task and plan that go with them, and what a command left behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medunet.models import TrainingRecord
from medunet.planning import NetworkPlan, Normalization, OptimizerPlan, Plan
from medunet.tasks import Task


class NearestIntensity(nn.Module):
    """Class ``n`` wins where the intensity is closest to ``centres[n]``; seen through any tile the answer is the same."""

    def __init__(self, centres: list[float]) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.tensor(centres))

    def forward(self, patches: Tensor) -> Tensor:
        return -((patches[:, :1] - self.centres.reshape(1, -1, 1, 1, 1)) ** 2)


class AboveThresholds(nn.Module):
    """Region ``n`` is where the intensity exceeds ``thresholds[n]``."""

    def __init__(self, thresholds: list[float]) -> None:
        super().__init__()
        self.thresholds = nn.Parameter(torch.tensor(thresholds))

    def forward(self, patches: Tensor) -> Tensor:
        return patches[:, :1] - self.thresholds.reshape(1, -1, 1, 1, 1)


ORACLE_TASK = Task(
    name="oracle-ct",
    title="Densities",
    modality="CT",
    channels=("ct",),
    labels={"fat": (1,), "muscle": (2,), "gland": (3,), "marrow": (4,), "bone": (7,)},  # type: ignore[arg-type]
    intensity="none",
)
ORACLE_HU = (-1000.0, -100.0, 0.0, 100.0, 300.0, 900.0)
"""Intensity of air and of the five labels."""


def build_plan_for(task: Task, spacing: tuple[float, float, float], patch_size: tuple[int, int, int]) -> Plan:
    """A plan with a small network that suits the patch."""
    return Plan(
        task=task.name,
        modality=task.modality,
        configuration="3d",
        spacing=spacing,
        median_shape=patch_size,
        patch_size=patch_size,
        batch_size=4,
        normalization=tuple(Normalization(rule="none") for _ in task.channels),
        network=NetworkPlan(
            spatial_dims=3,
            in_channels=len(task.channels),
            out_channels=task.num_outputs,
            features=(4, 8),
            strides=((1, 1, 1), (2, 2, 2)),
            kernels=((3, 3, 3), (3, 3, 3)),
            encoder_blocks=(2, 2),
            decoder_convolutions=(2,),
            num_scales=1,
        ),
        optimizer=OptimizerPlan(name="adamw", learning_rate=3e-3, weight_decay=1e-2, schedule="cosine"),
        reasons={"spacing": "a test"},
    )


def build_record(*, is_synthetic: bool = False) -> TrainingRecord:
    return TrainingRecord(
        medunet_version="0.1.0",
        created="2026-01-02T03:04:05+00:00",
        dataset="tests",
        is_synthetic=is_synthetic,
        training_cases=("a", "b"),
        validation_cases=("c",),
        case_list_sha256="0" * 64,
        fold=0,
        budget="4it",
        num_iterations=4,
        seconds=1.5,
        seed=0,
        is_deterministic=True,
        device="cpu",
        precision="32-true",
        settings={},
        versions={},
    )


class Outcome:
    """What a command left behind."""

    def __init__(self, exit_code: int, out: str, err: str) -> None:
        self.exit_code, self.out, self.err = exit_code, out, err

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that report an error."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]

    def check_refused(self, *words: str) -> None:
        """Exit code 2 and one line on stderr that holds all the words."""
        assert self.exit_code == 2, (self.exit_code, self.out, self.err)
        assert len(self.errors) == 1, self.err
        assert "Traceback" not in self.err + self.out
        for word in words:
            assert word in self.errors[0], self.errors[0]
