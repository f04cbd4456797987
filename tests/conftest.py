"""A model whose network is an oracle, so that every voxel of a mask is known, and the scans that fit it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medunet.errors import MedunetError
from medunet.io import write_nifti_image
from medunet.models import Model, TrainingRecord, write_description, write_results, write_weights
from medunet.planning import NetworkPlan, Normalization, Plan
from medunet.tasks import Task, list_class_values
from medunet.volume import Volume


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
            num_scales=1,
        ),
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


@pytest.fixture
def build_oracle() -> Callable[..., Model]:
    """A model in memory: nearest intensity for plain labels, thresholds for regions."""

    def build(
        task: Task = ORACLE_TASK,
        *,
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        patch_size: tuple[int, int, int] = (12, 16, 8),
        is_synthetic: bool = False,
        network: nn.Module | None = None,
    ) -> Model:
        return Model(
            folder=Path("oracle"),
            task=task,
            plan=build_plan_for(task, spacing, patch_size),
            training=build_record(is_synthetic=is_synthetic),
            metrics={},
            network=network or NearestIntensity(list(ORACLE_HU)),  # type: ignore[arg-type]
        )

    return build


@pytest.fixture
def write_model() -> Callable[..., Path]:
    """A model folder with the untrained network of its plan, or with given weights."""

    def write(
        folder: Path,
        task: Task = ORACLE_TASK,
        *,
        plan: Plan | None = None,
        weights: dict[str, Tensor] | None = None,
        is_synthetic: bool = False,
    ) -> Path:
        from medunet.networks import build_network

        plan = plan or build_plan_for(task, (1.0, 1.0, 1.0), (16, 16, 8))
        record = build_record(is_synthetic=is_synthetic)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            weights = weights or build_network(plan.network).state_dict()
        write_description(folder, task, plan)
        write_weights(folder, weights, record)
        write_results(folder, task, plan, record, {})
        return folder

    return write


@pytest.fixture
def oracle_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_model: Callable[..., Path]) -> Path:
    """The oracle as a model folder; reading it builds the oracle instead of a U-Net."""
    network = NearestIntensity(list(ORACLE_HU))
    monkeypatch.setattr("medunet.models.folder.build_network", lambda plan: NearestIntensity([0.0] * len(ORACLE_HU)))
    return write_model(tmp_path / "oracle-model", weights=network.state_dict())


@pytest.fixture
def make_densities(make_volume: Any) -> Callable[..., tuple[Volume, Volume]]:
    """A scan of random densities inside a block of air, and the mask that the oracle must find."""

    def make(
        shape: tuple[int, int, int] = (17, 22, 31),
        spacing: tuple[float, float, float] = (0.7, 1.2, 3.0),
        orientation: str = "LPI",
        *,
        task: Task = ORACLE_TASK,
        seed: int = 0,
    ) -> tuple[Volume, Volume]:
        grid = make_volume(shape=shape, spacing=spacing, orientation=orientation)
        classes = np.random.default_rng(seed).integers(0, len(ORACLE_HU), (1, *shape))
        classes[:, :2], classes[:, :, -3:] = 0, 0
        scan = grid.with_array(np.array(ORACLE_HU, dtype=np.float32)[classes])
        return scan, grid.with_array(np.array(list_class_values(task), dtype=np.uint8)[classes])

    return make


@pytest.fixture
def write_densities(make_densities: Any) -> Callable[..., Volume]:
    """Write the scan of `make_densities` to a file; gives back the mask that the oracle must find."""

    def write(path: Path, **options: Any) -> Volume:
        scan, mask = make_densities(**options)
        write_nifti_image(scan, path)
        return mask

    return write


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


@pytest.fixture
def medunet_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """The command line in this process, through its real entry point."""
    logger = logging.getLogger("medunet")
    before = list(logger.handlers), logger.level, logger.propagate

    def restore() -> None:
        logger.handlers[:], level, logger.propagate = before[0], before[1], before[2]
        logger.setLevel(level)

    def call(*arguments: object) -> Outcome:
        from medunet.cli import app

        monkeypatch.setattr("sys.argv", ["medunet", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            app.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except MedunetError:
            code = 1  # what Python itself exits with after the traceback that --debug asks for
        finally:
            restore()
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield call
    restore()


@pytest.fixture(autouse=True)
def _any_kernels() -> Iterator[None]:
    """Training switches a global of torch."""
    yield
    torch.use_deterministic_algorithms(False)
