"""The grey values that are shown follow the modality, the task, and what is labelled."""

import numpy as np
import pytest

from medunet.reporting.figure import build_overlay
from medunet.reporting.window import BONE_WINDOW_HU, CT_WINDOW_HU, LUNG_WINDOW_HU, choose_window, get_task_window
from medunet.tasks import load_task

LABELS = {"structure": [1]}


def get_window(figure):
    return figure.axes[0].images[0].get_clim()


@pytest.mark.parametrize(
    ("tissue_hu", "window"), [(-780, LUNG_WINDOW_HU), (50, CT_WINDOW_HU), (-90, CT_WINDOW_HU), (700, BONE_WINDOW_HU)]
)
def test_ct_shows_the_tissue_that_is_labelled(make_volume, tissue_hu, window):
    image = make_volume()
    labels = np.zeros(image.array.shape, np.uint8)
    labels[0, 3:9, 4:9, 5:20] = 1
    scan = image.with_array(np.where(labels == 1, tissue_hu, 0).astype(np.float32))
    for sides in ((None, image.with_array(labels)), (image.with_array(labels), None)):
        assert get_window(build_overlay(scan, *sides, LABELS)) == window
    assert get_window(build_overlay(scan, None, None, LABELS)) == CT_WINDOW_HU


def test_mr_is_shown_from_percentile_to_percentile():
    image = np.arange(1001.0)
    assert choose_window(image, "MR") == (10.0, 990.0)
    assert choose_window(image, "MR", labelled=np.array([-900.0])) == (10.0, 990.0)


def test_the_window_of_a_task_counts_first(make_volume):
    task = load_task("headneck-ct")
    assert get_task_window(task) == (-200.0, 500.0)
    assert get_window(build_overlay(make_volume(), None, None, {}, window=get_task_window(task))) == (-200, 500)


@pytest.mark.parametrize("name", ["hippocampus-mr", "spleen-ct"])
def test_a_task_without_a_window_states_none(name):
    assert get_task_window(load_task(name)) is None
    assert get_task_window(None) is None
