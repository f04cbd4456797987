"""Cases that several tests look at, made once."""

from __future__ import annotations

import pytest

from medunet.phantoms import PhantomCase, make_phantom_case

PELVIS_SEEDS = (4, 7, 10, 19)  # both orientations, small grids; 19 has a metal hip on the right


@pytest.fixture(scope="session")
def pelvis_cases() -> dict[int, PhantomCase]:
    return {seed: make_phantom_case("male-pelvis-ct", seed) for seed in PELVIS_SEEDS}


@pytest.fixture(scope="session")
def hippocampus_cases() -> dict[int, PhantomCase]:
    return {seed: make_phantom_case("hippocampus-mr", seed) for seed in range(12)}
