from __future__ import annotations

import cc3d
import numpy as np
import pytest

from medunet.phantoms import make_phantom_case


@pytest.mark.parametrize("seed", range(3))
def test_nuclei_are_numbered_and_most_of_them_touch(seed: int) -> None:
    case = make_phantom_case("nuclei-2d", seed)
    numbers = case.labels.array[0]
    count = int(numbers.max())
    assert 15 <= count <= 34
    assert np.unique(numbers).tolist() == list(range(count + 1))
    assert cc3d.connected_components(numbers > 0, connectivity=6).max() < 0.7 * count
    assert case.image.array.shape == case.labels.array.shape == (1, 128, 128, 1)
    inside, outside = (np.median(case.image.array[0][where]) for where in (numbers > 0, numbers == 0))
    assert inside > 1.5 * outside


def test_the_same_seed_gives_the_same_picture() -> None:
    first, again, other = (make_phantom_case("nuclei-2d", seed) for seed in (5, 5, 6))
    assert np.array_equal(first.image.array, again.image.array)
    assert np.array_equal(first.labels.array, again.labels.array)
    assert not np.array_equal(first.labels.array, other.labels.array)
