from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medunet.preprocessing import NeighbourSlices, crop_with_neighbours, fold_slices, name_slices


def make_image(*shape: int) -> torch.Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_channel_is_the_slice_that_its_name_says(axis: int) -> None:
    image = make_image(2, 4, 5, 6)
    neighbours = NeighbourSlices(axis=axis, number=1)
    length = image.shape[1 + axis]
    for index in range(length):
        box: Any = [slice(1, 3), slice(1, 4), slice(2, 5)]
        box[axis] = slice(index, index + 1)
        seen = crop_with_neighbours(image, tuple(box), neighbours)
        assert seen.shape[0] == 6
        for position, name in enumerate(name_slices(["a", "b"], 1)):
            channel, _, offset = name.partition(" ")
            box[axis] = slice(None)
            found = min(max(index + int(offset or 0), 0), length - 1)
            expected = image["ab".index(channel)][tuple(box)].select(axis, found).unsqueeze(axis)
            assert torch.equal(seen[position], expected), (index, name)


def test_beyond_the_ends_the_nearest_slice_is_repeated() -> None:
    image = make_image(1, 2, 2, 3)
    seen = crop_with_neighbours(image, (slice(0, 2), slice(0, 2), slice(0, 1)), NeighbourSlices(axis=2, number=2))
    assert [channel[0, 0, 0].item() for channel in seen] == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_folding_a_batch_is_folding_each(axis: int) -> None:
    shape = [2, 3, 4, 5, 6]
    shape[2 + axis] = 3
    batch = make_image(*shape)
    folded = fold_slices(batch, axis)
    assert folded.shape[1] == 9
    assert folded.shape[2 + axis] == 1
    assert all(torch.equal(one, fold_slices(patch, axis)) for one, patch in zip(folded, batch, strict=True))
    assert torch.equal(folded[:, 5], batch[:, 1].narrow(1 + axis, 2, 1))
