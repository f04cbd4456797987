"""Supervoxels follow the image, measure in millimetres, and make a mask agree within them."""

from __future__ import annotations

import numpy as np
import pytest

from medunet.postprocessing.supervoxels import (
    Supervoxels,
    average_in_supervoxels,
    compute_supervoxels,
    vote_in_supervoxels,
)

SPACING = (1.0, 1.5, 3.0)


def build_image(shape: tuple[int, int, int]) -> np.ndarray:
    image = np.random.default_rng(0).normal(0, 4, (1, *shape))
    image[0, shape[0] // 3 :, : shape[1] // 2] += 100
    return image


@pytest.mark.parametrize("shape", [(30, 24, 10), (40, 36, 1)])
def test_no_supervoxel_crosses_a_strong_border(shape: tuple[int, int, int]) -> None:
    image = build_image(shape)
    segments = compute_supervoxels(image, SPACING, Supervoxels(mm=5.0))
    truth = image[0] > 50
    mixed = [number for number in np.unique(segments) if 0.05 < truth[segments == number].mean() < 0.95]
    assert len(np.unique(segments)) > 10
    assert len(mixed) <= 0.05 * len(np.unique(segments))


def test_their_size_is_in_millimetres() -> None:
    image = np.random.default_rng(0).normal(0, 1, (1, 30, 24, 12))
    for mm in (4.5, 7.5):
        segments = compute_supervoxels(image, SPACING, Supervoxels(mm=mm, compactness=50.0))
        sizes = np.bincount(segments.ravel())
        edge = (np.median(sizes[sizes > 0]) * 4.5) ** (1 / 3)
        assert edge == pytest.approx(mm, rel=0.3)
        places = np.argwhere(segments == segments[15, 12, 6])
        lengths = (np.ptp(places, axis=0) + 1) * SPACING
        assert lengths.max() <= 2.6 * lengths.min()  # a cube in mm, not in voxels (which would be 1 : 3)


def test_the_vote_removes_noise_and_keeps_the_border() -> None:
    image = build_image((30, 24, 10))
    truth = (image[0] > 50).astype(np.uint8)
    noise = np.random.default_rng(1).random(truth.shape) < 0.15
    noisy = np.where(noise, 1 - truth, truth).astype(np.uint8)
    voted = vote_in_supervoxels(noisy, compute_supervoxels(image, SPACING, Supervoxels(mm=5.0)))
    assert (voted != truth).mean() < 0.1 * (noisy != truth).mean()
    assert voted.dtype == np.uint8


def test_means_are_those_of_each_supervoxel() -> None:
    segments = np.array([[[0, 0, 1, 1, 1]]])
    probabilities = np.array([[[[0.2, 0.4, 1.0, 0.7, 0.4]]], [[[0.8, 0.6, 0.0, 0.3, 0.6]]]])
    means = average_in_supervoxels(probabilities, segments)
    np.testing.assert_allclose(means[0, 0, 0], [0.3, 0.3, 0.7, 0.7, 0.7], rtol=1e-6)
    np.testing.assert_allclose(means.sum(axis=0), 1, rtol=1e-6)


def test_small_and_flat_images_are_one_piece_or_cubes() -> None:
    assert not compute_supervoxels(np.ones((1, 3, 3, 2)), SPACING, Supervoxels(mm=50.0)).any()
    assert not compute_supervoxels(np.ones((1, 1, 1, 9)), SPACING, Supervoxels()).any()
    flat = compute_supervoxels(np.ones((1, 20, 20, 10)), SPACING, Supervoxels(mm=6.0))
    assert len(np.unique(flat)) > 8


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="slic: mm is 0; expected a number above 0"):
        Supervoxels(mm=0)
