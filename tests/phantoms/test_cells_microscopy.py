"""The phantoms of pictures: the same cells in grey and in colour, whose truth is where no membrane is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medunet.evaluation import find_segments
from medunet.phantoms import PHANTOMS, make_phantom_case, write_phantom_dataset
from medunet.tasks import load_task, read_case, read_dataset


@pytest.mark.parametrize("name", ["cells-microscopy", "stained-cells"])
def test_a_seed_gives_the_same_bytes_and_another_seed_others(name: str) -> None:
    one, again, other = (make_phantom_case(name, seed) for seed in (3, 3, 4))
    assert one.image.array.tobytes() == again.image.array.tobytes()
    assert one.image.array.tobytes() != other.image.array.tobytes()
    assert one.image.num_channels == len(PHANTOMS[name].channels)
    assert one.image.array.dtype == np.uint8


def test_grey_and_stained_show_the_same_cells() -> None:
    grey, stained = make_phantom_case("cells-microscopy", 5), make_phantom_case("stained-cells", 5)
    assert np.array_equal(grey.labels.array, stained.labels.array)


@pytest.mark.parametrize("seed", range(4))
def test_membranes_are_thin_dark_and_part_the_cells(seed: int) -> None:
    case = make_phantom_case("cells-microscopy", seed)
    cells, image = case.labels.array[0, ..., 0] == 255, case.image.array[0, ..., 0].astype(float)
    assert set(np.unique(case.labels.array)) == {0, 255}
    assert 0.6 < cells.mean() < 0.9
    assert image[~cells].mean() < image[cells].mean() - 40
    sizes = np.bincount(find_segments(cells).reshape(-1))[1:]
    assert (sizes > 50).sum() > 25  # many cells, not one that runs through all
    assert sizes.max() < 0.1 * cells.size
    dark = image < image[~cells].mean()
    assert (dark & cells).sum() > 100  # organelles: a threshold does not do


def test_stained_membranes_are_blue_and_cells_are_pink() -> None:
    case = make_phantom_case("stained-cells", 2)
    cells = case.labels.array[0, ..., 0] == 255
    red, green, blue = (channel[..., 0].astype(float) for channel in case.image.array)
    assert red[cells].mean() > blue[cells].mean() > green[cells].mean()
    assert blue[~cells].mean() > max(red[~cells].mean(), green[~cells].mean())


@pytest.mark.parametrize("task", ["em-membranes", "stained-cells"])
def test_the_dataset_is_pictures_that_the_task_reads(tmp_path: Path, task: str) -> None:
    recipe = load_task(task)
    assert recipe.phantom is not None
    write_phantom_dataset(recipe.phantom, tmp_path, num_cases=2, num_workers=1)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".png", ".json"}
    assert json.loads((tmp_path / "dataset.json").read_text())["tensorImageSize"] == "2D"
    dataset = read_dataset(tmp_path)
    assert dataset.is_synthetic
    image, labels = read_case(dataset.cases[1], recipe)
    case = make_phantom_case(recipe.phantom, 1)
    assert np.array_equal(image.array, case.image.array)
    assert np.array_equal(labels.array, case.labels.array)
