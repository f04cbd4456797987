"""The largest part stays, the rest goes where it belongs, and a mask without islands is not touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medunet.postprocessing import Postprocessing, apply_postprocessing
from medunet.postprocessing.parts import find_box, find_parts
from medunet.tasks import Task, load_task
from medunet.volume import Array, Volume

TASK = Task(
    name="organs-ct",
    title="Organs",
    modality="CT",
    channels=("ct",),
    labels={"liver": (3,), "kidneys": (7, 300), "spleen": (1,)},  # type: ignore[arg-type]
    intensity="none",
)
REGIONS = load_task("brain-tumour-mr")  # whole {1, 2, 3} holds core {2, 3} holds enhancing {3}
CUBE = np.ones((3, 3, 3))


def build(rows: list[list[int]], dtype: Any = np.uint8) -> Volume:
    """One slice, written as rows."""
    return Volume(np.array(rows, dtype=dtype)[None, :, :, None], np.diag([0.5, 2.0, 5.0, 1.0]))


def apply(rows: list[list[int]], postprocessing: Postprocessing, task: Task = TASK, dtype: Any = np.uint16) -> Any:
    return apply_postprocessing(build(rows, dtype), task, postprocessing).array[0, :, :, 0].tolist()


def keep_largest_by_scipy(array: Array, values: tuple[int, ...]) -> Array:
    parts, num_parts = ndimage.label(np.isin(array, values), structure=CUBE)
    sizes = np.bincount(parts.ravel(), minlength=num_parts + 1)
    is_small = sizes < sizes[1:].max(initial=0)
    is_small[0] = False
    return np.where(is_small[parts], 0, array)


# ---- plain labels ------------------------------------------------------------------------------------------------------


def test_only_the_named_label_loses_its_islands() -> None:
    rows = [
        [3, 3, 0, 3, 0, 1],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 3],
    ]
    assert apply(rows, Postprocessing(keep_largest=("liver",))) == [
        [3, 3, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
    ]


def test_all_labels_as_one_keep_what_hangs_together() -> None:
    rows = [[3, 3, 1, 0, 7, 7], [0, 0, 0, 0, 7, 0]]
    # Liver and spleen touch, so together they are as large as the kidney, and of several largest all stay.
    assert apply(rows, Postprocessing(keep_largest_foreground=True)) == rows
    rows[1][4] = 0
    assert apply(rows, Postprocessing(keep_largest_foreground=True)) == [[3, 3, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


def test_the_foreground_comes_before_the_labels() -> None:
    # The larger part of the liver is not in the largest part of the foreground.
    rows = [[3, 1, 1, 1, 0, 3, 3]]
    both = Postprocessing(keep_largest_foreground=True, keep_largest=("liver",))
    assert apply(rows, both) == [[3, 1, 1, 1, 0, 0, 0]]
    assert apply(rows, Postprocessing(keep_largest=("liver",))) == [[0, 1, 1, 1, 0, 3, 3]]


def test_several_values_of_a_label_are_one_structure() -> None:
    assert apply([[7, 300, 0, 7]], Postprocessing(keep_largest=("kidneys",))) == [[7, 300, 0, 0]]


def test_corners_touch() -> None:
    rows = [[3, 0, 0], [0, 3, 0], [0, 0, 0], [3, 0, 0]]
    assert apply(rows, Postprocessing(keep_largest=("liver",)))[:2] == rows[:2]
    assert apply(rows, Postprocessing(keep_largest=("liver",)))[3] == [0, 0, 0]


def test_voxels_are_counted_not_millimetres() -> None:
    # Along J a voxel is four times as long as along I; still three voxels beat two.
    rows = [[3, 0, 3, 3], [3, 0, 0, 0], [3, 0, 0, 0]]
    assert apply(rows, Postprocessing(keep_largest=("liver",)))[0] == [3, 0, 0, 0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("names", [("liver",), ("spleen", "liver", "kidneys")])
def test_it_is_what_scipy_finds_label_by_label(make_volume: Any, seed: int, names: tuple[str, ...]) -> None:
    grid = make_volume()
    rng = np.random.default_rng(seed)
    array = rng.choice([0, 1, 3, 7, 300], p=[0.8, 0.05, 0.05, 0.05, 0.05], size=(1, *grid.spatial_shape))
    label_map = grid.with_array(array.astype(np.int32))
    expected = array[0]
    for name in names:
        expected = keep_largest_by_scipy(expected, TASK.labels[name])
    found = apply_postprocessing(label_map, TASK, Postprocessing(keep_largest=names))
    assert np.array_equal(found.array[0], expected)
    assert not np.array_equal(expected, array[0])
    assert found.array.dtype == np.int32
    assert np.array_equal(found.affine, grid.affine)
    assert np.array_equal(label_map.array, array)  # the given mask is left alone


ALL = Postprocessing(keep_largest_foreground=True, keep_largest=("liver", "kidneys", "spleen"))


@pytest.mark.parametrize(
    ("rows", "postprocessing"),
    [
        ([[0, 0, 0]], ALL),
        ([[0, 3, 0]], ALL),
        ([[3, 3, 0, 3]], Postprocessing()),
        ([[3, 3, 0, 3]], Postprocessing(keep_largest=("spleen",))),
        ([[3, 3, 1, 0]], ALL),
    ],
    ids=["empty", "one voxel", "nothing to do", "absent label", "one part each"],
)
def test_where_nothing_is_removed_the_mask_itself_comes_back(
    rows: list[list[int]], postprocessing: Postprocessing
) -> None:
    label_map = build(rows)
    assert apply_postprocessing(label_map, TASK, postprocessing) is label_map


def test_twice_is_once(make_volume: Any) -> None:
    grid = make_volume()
    array = np.random.default_rng(5).choice([0, 1, 3, 7], p=[0.85, 0.05, 0.05, 0.05], size=(1, *grid.spatial_shape))
    each = Postprocessing(keep_largest=tuple(TASK.labels))
    once = apply_postprocessing(grid.with_array(array.astype(np.uint8)), TASK, each)
    assert apply_postprocessing(once, TASK, each) is once


def test_a_label_of_another_task_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"names 'lver'; the labels of task 'organs-ct' are \['liver', 'kidneys', 'spleen'\]"
    ):
        apply([[3, 0, 3]], Postprocessing(keep_largest=("lver",)))


# ---- regions -----------------------------------------------------------------------------------------------------------

NAMES = [name for name, _ in REGIONS.compute_region_values()]


def test_what_leaves_an_inner_region_becomes_what_is_around_it() -> None:
    whole, core, enhancing = NAMES
    rows = [[1, 2, 2, 1, 2, 1, 3, 1]]
    # nnU-Net would leave holes in the tumour.
    assert apply(rows, Postprocessing(keep_largest=(core,)), REGIONS) == [[1, 2, 2, 1, 1, 1, 1, 1]]
    assert apply([[1, 3, 2, 3, 3, 1]], Postprocessing(keep_largest=(enhancing,)), REGIONS) == [[1, 2, 2, 3, 3, 1]]
    assert apply([[1, 2, 0, 2, 3, 1]], Postprocessing(keep_largest=(whole,)), REGIONS) == [[0, 0, 0, 2, 3, 1]]


def test_an_outer_region_takes_the_inner_ones_with_it() -> None:
    whole, _, enhancing = NAMES
    rows = [[3, 3, 3, 0, 1, 1, 3, 1]]
    # The largest enhancing part is no part of the largest tumour.
    assert apply(rows, Postprocessing(keep_largest=(whole, enhancing)), REGIONS) == [[0, 0, 0, 0, 1, 1, 3, 1]]
    assert apply(rows, Postprocessing(keep_largest=(enhancing,)), REGIONS) == [[3, 3, 3, 0, 1, 1, 2, 1]]


# ---- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 1, 9), (1, 1, 1), (5, 6, 7)])
def test_parts_are_those_of_scipy(shape: tuple[int, int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.3
    mask.flat[0] = True
    parts, sizes = find_parts(mask.astype(np.uint8))
    expected, num_parts = ndimage.label(mask, structure=CUBE)
    assert len(sizes) == num_parts + 1
    assert sizes.sum() == mask.size
    pairs = set(zip(parts.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len({part for part, _ in pairs}) == len({part for _, part in pairs})
    assert np.array_equal(sizes, np.bincount(parts.ravel(), minlength=num_parts + 1))


def test_nothing_lies_in_an_empty_box() -> None:
    assert find_box(np.zeros((3, 4, 5), bool)) == (slice(0, 0), slice(0, 0), slice(0, 0))
