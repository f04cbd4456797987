"""Models with an oracle for a network, the scans that fit them, and the command line: what several rooms test with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import ORACLE_HU, ORACLE_TASK, NearestIntensity, Outcome, build_plan_for, build_record
from torch import Tensor, nn

from medunet.errors import MedunetError
from medunet.io import write_nifti_image
from medunet.models import Model, write_description, write_results, write_weights
from medunet.planning import Plan
from medunet.tasks import Task, list_class_values
from medunet.volume import Volume


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


@contextmanager
def keeping_logging() -> Iterator[None]:
    """Commands and benchmarks that run in this process decide what is logged; afterwards it is as it was."""
    logger = logging.getLogger("medunet")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def _logging_of_one_test_is_not_that_of_the_next() -> Iterator[None]:
    with keeping_logging():
        yield


@pytest.fixture
def medunet_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command line in this process, through its real entry point."""

    def call(*arguments: object) -> Outcome:
        from medunet.cli import app

        monkeypatch.setattr("sys.argv", ["medunet", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            with keeping_logging():
                app.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except MedunetError:
            code = 1  # what Python itself exits with after the traceback that --debug asks for
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(autouse=True)
def _torch_computes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not about backends is computed by PyTorch: converting a network takes longer than most tests."""
    if "backend" not in request.node.path.name and "backend" not in request.node.name:
        monkeypatch.setattr("medunet.inference.backends.build._choose", lambda device, precision: ("torch", ""))


@pytest.fixture(autouse=True)
def _any_kernels() -> Iterator[None]:
    """Training switches a global of torch."""
    yield
    torch.use_deterministic_algorithms(False)
