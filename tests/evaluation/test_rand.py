"""Rand scores against numbers worked out by hand, and against scikit-image's adapted Rand error."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error

from medunet.errors import GeometryError
from medunet.evaluation import compute_rand_scores, find_segments, score_partition, thin_borders

FOUR_CELLS = np.array([[1, 1, 0, 2, 2], [1, 1, 0, 2, 2], [0, 0, 0, 0, 0], [3, 3, 0, 4, 4], [3, 3, 0, 4, 4]])


def test_the_same_partition_scores_one_whatever_its_numbers() -> None:
    scores = compute_rand_scores(FOUR_CELLS, np.array([0, 7, 3, 9, 5])[FOUR_CELLS])
    assert scores is not None
    assert (scores.f_score, scores.split, scores.merge) == (1.0, 1.0, 1.0)


def test_two_of_four_cells_merged() -> None:
    """Counts of 4: sum p² = 4 * 16, sum t² = 4 * 16, sum s² = 64 + 2 * 16; F = 64 / (48 + 32)."""
    merged = np.where(FOUR_CELLS == 2, 1, FOUR_CELLS)
    scores = compute_rand_scores(FOUR_CELLS, merged)
    assert scores is not None
    assert (scores.split, scores.merge) == (1.0, 64 / 96)
    assert scores.f_score == pytest.approx(64 / 80)


def test_a_cell_cut_in_two_and_one_missed() -> None:
    """Segments 1 and 5 of two pixels each for cell 1, and 0 for cell 4: sum p² = 4 + 4 + 3 * 16 = 56, sum t² = 64."""
    cut = FOUR_CELLS.copy()
    cut[0, :2] = 5
    cut[cut == 4] = 0
    scores = compute_rand_scores(FOUR_CELLS, cut)
    assert scores is not None
    assert (scores.split, scores.merge) == (56 / 64, 1.0)


def test_pixels_outside_the_cells_of_the_reference_do_not_count() -> None:
    other = FOUR_CELLS.copy()
    other[FOUR_CELLS == 0] = 1
    scores = compute_rand_scores(FOUR_CELLS, other)
    assert scores is not None
    assert scores.f_score == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_the_f_score_is_one_less_the_adapted_rand_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, prediction = rng.integers(0, 6, (2, 170, 230))
    scores = compute_rand_scores(reference, prediction)
    assert scores is not None
    error, precision, recall = adapted_rand_error(reference, prediction, ignore_labels=(0,))
    # scikit-image counts pairs of different pixels only; with a thousand pixels per pair of segments that is 0.1 %.
    assert scores.f_score == pytest.approx(1 - error, rel=2e-3)
    assert scores.merge == pytest.approx(recall, rel=2e-3)
    assert scores.split == pytest.approx(precision, rel=2e-3)


def test_thick_membranes_neither_win_nor_lose() -> None:
    cells = np.ones((20, 41), bool)
    cells[:, 20] = False
    thick = cells.copy()
    thick[:, 16:25] = False
    scores = score_partition(cells, thick)
    assert scores is not None
    assert scores.f_score == 1.0
    assert thin_borders(find_segments(thick))[:, 19].tolist() == [1] * 20


def test_a_membrane_with_a_hole_merges() -> None:
    cells = np.ones((20, 41), bool)
    cells[:, 20] = False
    leaky = cells.copy()
    leaky[9, 20] = True
    scores = score_partition(cells, leaky)
    assert scores is not None
    assert (scores.split, scores.merge) == (1.0, 0.5)


def test_cells_that_touch_at_a_corner_are_two() -> None:
    assert find_segments(np.eye(3)).max() == 3


def test_without_a_cell_there_is_nothing_to_score() -> None:
    assert score_partition(np.zeros((4, 5)), np.ones((4, 5))) is None
    nothing_found = score_partition(FOUR_CELLS > 0, np.zeros((5, 5)))
    assert nothing_found is not None
    assert (nothing_found.split, nothing_found.merge) == (1.0, 0.25)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"shape \(4, 5\)"):
        score_partition(np.zeros((4, 5)), np.zeros((5, 4)))
