"""Fixtures that the tests and the docstring examples share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from medunet.volume import Volume

# A busy machine is no fault of the code.
hypothesis.settings.register_profile("medunet", deadline=None)
hypothesis.settings.load_profile("medunet")


def make_volume(
    shape: tuple[int, int, int] = (17, 22, 31),
    spacing: tuple[float, float, float] = (0.7, 1.2, 3.0),
    orientation: str = "LPI",
    *,
    num_channels: int = 1,
    dtype: Any = np.float32,
    seed: int = 0,
) -> Volume:
    """A small anisotropic volume of odd sizes with random voxels: never a cube, never RAS by chance."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

    values = np.random.default_rng(seed).normal(100, 40, (num_channels, *shape)).astype(dtype)
    # An RAS grid first, then the change of axes, so that the affine is right by construction.
    to_ras = ornt_transform(axcodes2ornt(tuple(orientation)), axcodes2ornt(("R", "A", "S")))
    ras_shape = [0, 0, 0]
    ras_spacing = [0.0, 0.0, 0.0]
    for axis, (target, _) in enumerate(to_ras.astype(int)):
        ras_shape[target], ras_spacing[target] = shape[axis], spacing[axis]
    ras_affine = np.diag([*ras_spacing, 1.0])
    ras_affine[:3, 3] = (-31.0, 12.5, 40.25)
    return Volume(values, ras_affine @ np.linalg.inv(inv_ornt_aff(to_ras, shape)))


@pytest.fixture(autouse=True)
def _add_to_doctests(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["make_volume"] = make_volume
    doctest_namespace["np"] = np


@pytest.fixture(name="make_volume")
def make_volume_fixture() -> Any:
    """`make_volume` for tests."""
    return make_volume


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real volumes, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("MEDUNET_TEST_DATA", Path(__file__).parent.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real volumes in {folder} (set MEDUNET_TEST_DATA)")
    return folder
