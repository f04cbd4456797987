"""Every step does what its name says, in millimetres, and takes nothing that belongs to another label."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from medunet.models import LabelStep
from medunet.postprocessing import Postprocessing, StepEffect, apply_postprocessing, postprocess_labels
from medunet.postprocessing.balls import close_mask, dilate, erode, open_mask
from medunet.postprocessing.fill_holes import fill_holes, fill_holes_in_slices
from medunet.postprocessing.one_per_side import sort_sides
from medunet.postprocessing.remove_small import remove_small_parts
from medunet.postprocessing.smooth_border import smooth_border
from medunet.tasks import Task, load_task, parse_step
from medunet.volume import Array, Volume

SPACING = (0.7, 1.2, 3.0)
TASK = Task(
    name="organs-ct",
    title="Organs",
    modality="CT",
    channels=("ct",),
    labels={"liver": (3,), "kidney_left": (7,), "kidney_right": (8,), "spleen": (1, 300)},  # type: ignore[arg-type]
    laterality=(("kidney_left", "kidney_right"),),
    ignore=99,
    intensity="none",
)
REGIONS = load_task("brain-tumour-mr")  # whole {1, 2, 3} holds core {2, 3} holds enhancing {3}


def build_distances(shape: tuple[int, int, int], centre: tuple[float, float, float]) -> Array:
    """Millimetres from a centre, given in voxels."""
    axes = np.ogrid[tuple(slice(length) for length in shape)]
    squares = [((axis - place) * mm) ** 2 for axis, place, mm in zip(axes, centre, SPACING, strict=True)]
    distances: Array = np.sqrt(sum(squares))
    return distances


def build_blobs(seed: int, shape: tuple[int, int, int] = (17, 15, 9)) -> Array:
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), [2.0, 1.5, 0.8], mode="wrap")
    mask: Array = field > np.quantile(field, 0.6)
    return mask


def build(rows: Any, dtype: Any = np.uint16) -> Volume:
    """One slice of 1 x 1 x 2 mm, written as rows (I) of voxels along J."""
    return Volume(np.array(rows, dtype=dtype)[None, :, :, None], np.diag([1.0, 1.0, 2.0, 1.0]))


def run(rows: Any, *steps: tuple[str, Any], task: Task = TASK) -> list[list[int]]:
    postprocessing = Postprocessing(steps=tuple(LabelStep(label=label, step=step) for label, step in steps))
    found: list[list[int]] = apply_postprocessing(build(rows), task, postprocessing).array[0, :, :, 0].tolist()
    return found


# ---- balls ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mm", [0.5, 1.2, 2.1, 3.0, 4.0])
def test_a_point_dilates_to_a_ball_in_millimetres(mm: float) -> None:
    mask = np.zeros((15, 11, 5), bool)
    mask[7, 5, 2] = True
    assert np.array_equal(dilate(mask, SPACING, mm), build_distances(mask.shape, (7, 5, 2)) <= mm + 1e-6)


def test_erosion_and_dilation_are_those_of_scipy_with_that_ball() -> None:
    from scipy.ndimage import binary_dilation, binary_erosion

    ball = build_distances((7, 5, 3), (3, 2, 1)) <= 2.5
    mask = build_blobs(3)
    assert np.array_equal(dilate(mask, SPACING, 2.5), binary_dilation(mask, ball))
    assert np.array_equal(erode(mask, SPACING, 2.5), binary_erosion(mask, ball, border_value=1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mm", [0.7, 1.3, 3.1])
def test_opening_is_inside_closing_outside_and_both_once_and_for_all(seed: int, mm: float) -> None:
    mask = build_blobs(seed)
    opened, closed = open_mask(mask, SPACING, mm), close_mask(mask, SPACING, mm)
    assert not (opened & ~mask).any()
    assert not (mask & ~closed).any()
    assert np.array_equal(open_mask(opened, SPACING, mm), opened)
    assert np.array_equal(close_mask(closed, SPACING, mm), closed)
    assert opened.sum() < mask.sum() < closed.sum()


def test_a_ball_of_the_radius_survives_opening_and_a_smaller_one_does_not() -> None:
    ball = build_distances((25, 17, 9), (12, 8, 4)) <= 5.0
    assert np.array_equal(open_mask(ball, SPACING, 5.0), ball)
    assert open_mask(ball, SPACING, 6.0).sum() == 0


def test_opening_cuts_a_bridge_by_its_width_in_millimetres() -> None:
    mask = np.zeros((30, 9, 3), bool)
    mask[:10], mask[20:] = True, True
    mask[10:20, 4] = True  # a bridge of one voxel, 1.2 mm wide, through all slices
    assert not open_mask(mask, SPACING, 1.3)[12:18].any()
    assert np.array_equal(open_mask(mask, SPACING, 0.6), mask)


def test_nothing_is_eroded_from_beyond_the_volume() -> None:
    mask = np.ones((5, 6, 4), bool)
    assert np.array_equal(open_mask(mask, SPACING, 9.0), mask)
    mask[:2] = False
    assert np.array_equal(open_mask(mask, SPACING, 1.0), mask)


def test_closing_does_not_fill_the_gap_to_the_border() -> None:
    mask = np.zeros((9, 8, 4), bool)
    mask[2:7, 1:4], mask[2:7, 5:7] = True, True
    expected = mask.copy()
    expected[3:6, 4] = True  # between the two; at the ends of the gap balls reach one voxel in. The borders are as near
    assert np.array_equal(close_mask(mask, SPACING, 1.3), expected)


# ---- holes, parts, borders -------------------------------------------------------------------------------------------------


def test_a_hole_is_filled_with_exactly_its_volume() -> None:
    shell = build_distances((23, 15, 9), (11, 7, 4))
    mask = (shell <= 7.5) & (shell > 4.0)
    filled = fill_holes(mask)
    assert np.array_equal(filled, shell <= 7.5)
    assert filled.sum() - mask.sum() == (shell <= 4.0).sum() > 20
    mask[11:, 7, 4] = False  # a way out
    assert np.array_equal(fill_holes(mask), mask)
    assert fill_holes_in_slices(mask, 0).sum() > mask.sum()  # in most slices across I it is still closed


def test_corners_keep_a_hole_closed_and_faces_open_it() -> None:
    rows = [[0, 3, 0], [3, 0, 3], [0, 3, 0]]
    assert run(rows, ("liver", "fill-holes"))[1] == [3, 3, 3]
    assert run([[0, 3, 0], [3, 0, 3], [0, 0, 0]], ("liver", "fill-holes"))[1] == [3, 0, 3]


def test_the_plane_of_slices_is_the_patients() -> None:
    array = np.zeros((5, 5, 5), np.uint8)
    array[1, 1:4, 1:4] = 3
    array[1, 2, 2] = 0  # a ring across the first axis, open in 3D
    for affine, plane in ((np.diag([1.0, 1, 1, 1]), "sagittal"), (np.eye(4)[[2, 1, 0, 3]], "axial")):
        for wanted in ("sagittal", "coronal", "axial"):
            step = LabelStep(label="liver", step=f"fill-holes:plane={wanted}")
            found = apply_postprocessing(Volume(array[None], affine), TASK, Postprocessing(steps=(step,)))
            assert found.array[0, 1, 2, 2] == (3 if wanted == plane else 0)


def test_small_is_measured_in_millilitres() -> None:
    mask = np.zeros((9, 4, 3), bool)
    mask[:4, 0, 0], mask[6:, 2, 2] = True, True  # 4 voxels and 3 voxels of 2.52 mm³
    assert remove_small_parts(mask, SPACING, 4 * 2.52 / 1000).sum() == 4
    assert remove_small_parts(mask, SPACING, 3 * 2.52 / 1000).sum() == 7
    assert remove_small_parts(mask, SPACING, 0.0102).sum() == 0


def test_a_ball_shrinks_under_smoothing_by_its_curvature_and_a_plane_stays() -> None:
    distances = build_distances((61, 37, 17), (30, 18, 8))
    radius, sigma = 12.0, 2.0
    smoothed = smooth_border(distances <= radius, SPACING, sigma)
    found = (3 * smoothed.sum() * math.prod(SPACING) / (4 * math.pi)) ** (1 / 3)
    assert found == pytest.approx(radius - sigma**2 / radius, abs=0.1)
    half = np.zeros((9, 10, 11), bool)
    half[:, :4] = True
    assert np.array_equal(smooth_border(half, SPACING, sigma), half)


def test_smoothing_removes_a_spike_and_fills_a_dent() -> None:
    mask = np.zeros((30, 30, 1), bool)
    mask[:, :15] = True
    flat = mask.copy()
    mask[10, 15:17], mask[20, 13:15] = True, False
    assert np.array_equal(smooth_border(mask, SPACING, 2.0), flat)


# ---- sides -----------------------------------------------------------------------------------------------------------------


def test_mixed_up_voxels_get_the_name_of_their_side() -> None:
    # Along I, x grows to the patient's right: left organ first.
    rows = [[7, 7, 8, 7, 0, 0, 0, 7, 8, 8, 0, 8]]
    found = np.array(run(np.array(rows).T, ("kidney_left", "one-per-side")))[:, 0].tolist()
    assert found == [7, 7, 7, 7, 0, 0, 0, 8, 8, 8, 0, 0]


@pytest.mark.parametrize(
    ("row", "note"),
    [
        ([8, 8, 0, 0, 7, 7], "the left one lies right of the right one"),
        ([7, 7, 7, 8, 8, 8], "the two sides touch"),
        ([7, 7, 0, 7, 0, 0], "one of the two sides is empty"),
    ],
)
def test_what_cannot_be_sorted_stays_and_says_so(row: list[int], note: str) -> None:
    steps = (LabelStep(label="kidney_right", step="one-per-side"),)
    volume = build(np.array([row]).T)
    done = postprocess_labels(volume, TASK, Postprocessing(steps=steps))
    assert done.labels is volume
    assert done.notes == [f"kidney_right: one-per-side, skipped, because {note}"]


def test_sides_are_the_patients_whatever_the_axes(make_volume: Any) -> None:
    volume = make_volume(shape=(12, 5, 4), orientation="LPI")  # the first axis runs to the left
    right = np.zeros(volume.spatial_shape, bool)
    left = right.copy()
    right[1:4], left[8:11] = True, True
    left[2, 2, 2], right[2, 2, 2] = True, False
    sides = sort_sides(left, right, volume.affine)
    assert sides.problem == ""
    assert sides.right[2, 2, 2]
    assert (sides.left.sum(), sides.right.sum()) == (60, 60)


# ---- where labels meet -----------------------------------------------------------------------------------------------------


def test_nothing_is_taken_from_another_label_or_from_what_is_ignored() -> None:
    rows = [
        [3, 3, 3, 3, 3],
        [3, 0, 7, 99, 3],
        [3, 0, 0, 0, 3],
        [3, 3, 3, 3, 3],
    ]
    filled = run(rows, ("liver", "fill-holes"))
    assert filled == [[3] * 5, [3, 3, 7, 99, 3], [3] * 5, [3] * 5]
    assert run(rows, ("liver", "closing:mm=3")) == filled


def test_what_a_border_gives_up_goes_to_the_label_that_it_touches() -> None:
    rows = np.zeros((13, 13), int)
    rows[2:7, 2:11], rows[7:11, 2:11] = 3, 7
    rows[7:10, 6] = 3  # a spike of the liver in the kidney
    rows[1, 4] = 3  # and one in the background
    found = np.array(run(rows, ("liver", "opening:mm=1.5")))
    assert (found[7:10, 6] == 7).all()
    assert found[1, 4] == 0


def test_regions_stay_nested() -> None:
    whole, core, enhancing = [name for name, _ in REGIONS.compute_region_values()]
    rows = [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 2, 2, 2, 2, 2, 1],
        [1, 2, 1, 0, 3, 2, 1],
        [1, 2, 2, 2, 2, 2, 1],
        [1, 1, 1, 1, 1, 1, 1],
    ]
    core_filled = run(rows, (core, "fill-holes"), task=REGIONS)
    assert core_filled[2] == [1, 2, 2, 0, 3, 2, 1]  # of what is around it only; background is not
    assert run(rows, (whole, "fill-holes"), (core, "fill-holes"), task=REGIONS)[2] == [1, 2, 2, 2, 3, 2, 1]
    assert run(rows, (enhancing, "remove-small:ml=1"), task=REGIONS)[2] == [1, 2, 1, 0, 2, 2, 1]
    assert run([[1, 1, 0, 1, 2, 3]], (whole, "remove-small:ml=0.005"), task=REGIONS) == [[0, 0, 0, 1, 2, 3]]
    assert run([[1, 1, 0, 2, 3]], (whole, "remove-small:ml=1"), task=REGIONS) == [[0, 0, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "step", ["fill-holes", "closing:mm=2", "opening:mm=1", "smooth:mm=1.5", "remove-small:ml=0.02", "keep-largest"]
)
def test_other_labels_never_lose_a_voxel_and_boxes_change_nothing(make_volume: Any, seed: int, step: str) -> None:
    grid = make_volume(shape=(17, 15, 9))
    array = np.zeros(grid.spatial_shape, np.uint16)
    array[build_blobs(seed)], array[build_blobs(seed + 10)], array[build_blobs(seed + 20)] = 3, 7, 300
    array[0], array[:, -3:], array[3, 3, 3] = 0, 0, 99
    array[5:10, 5:10, 3:6] = 3
    array[7, 7, 4] = 0
    volume = grid.with_array(array[None].copy())
    found = apply_postprocessing(volume, TASK, Postprocessing(steps=(LabelStep(label="liver", step=step),))).array[0]
    others = (array != 3) & (array != 0)
    assert np.array_equal(found[others], array[others])
    assert np.array_equal(volume.array[0], array)
    assert not np.array_equal(found, array)
    # On a volume with far more room around, the same: the box of a label does not decide.
    wide = Volume(np.pad(volume.array, [(0, 0), (0, 0), (0, 20), (0, 0)]), volume.affine)
    again = apply_postprocessing(wide, TASK, Postprocessing(steps=(LabelStep(label="liver", step=step),))).array[0]
    assert np.array_equal(again[:, :15], found)


def test_an_empty_label_stays_empty_and_other_values_are_kept() -> None:
    rows = [[0, 7, 0, 300], [0, 7, 5, 1]]
    for step in ("keep-largest", "remove-small:ml=1", "fill-holes", "opening:mm=2", "closing:mm=2", "smooth:mm=2"):
        assert run(rows, ("liver", step)) == rows


def test_a_label_that_would_vanish_stays_where_borders_move_and_goes_where_parts_are_small() -> None:
    volume = build([[0, 3, 0], [0, 0, 0]])
    steps = [LabelStep(label="liver", step=step) for step in ("opening:mm=2", "smooth:mm=3", "remove-small:ml=1")]
    done = postprocess_labels(volume, TASK, Postprocessing(steps=tuple(steps)))
    assert done.notes == [
        "liver: opening:mm=2, skipped, because nothing would be left of the label",
        "liver: smooth:mm=3, skipped, because nothing would be left of the label",
        "liver: remove-small:ml=1, nothing is left of the label",
    ]
    assert not done.labels.array.any()
    assert done.effects[2] == StepEffect(step=steps[2], num_removed=1, note="nothing is left of the label")


def test_steps_are_taken_in_their_order() -> None:
    rows = [[3, 3, 3, 0, 0], [3, 0, 3, 0, 3], [3, 3, 3, 0, 0]]
    # Nine voxels of 2 mm³ with the hole, eight without.
    small = "remove-small:ml=0.018"
    assert run(rows, ("liver", "fill-holes"), ("liver", small)) == [[3, 3, 3, 0, 0]] * 3
    assert run(rows, ("liver", small), ("liver", "fill-holes")) == [[0] * 5] * 3


def test_pictures_are_two_dimensional() -> None:
    ring = [[0, 3, 3, 3], [0, 3, 0, 3], [0, 3, 3, 3], [0, 0, 0, 0]]
    assert run(ring, ("liver", "fill-holes"))[1] == [0, 3, 3, 3]
    assert run(ring, ("liver", "closing:mm=1"))[1] == [0, 3, 3, 3]
    assert run(ring, ("liver", "keep-largest")) == ring


def test_of_several_values_the_first_is_painted() -> None:
    assert run([[300, 300, 300], [300, 0, 1], [1, 1, 1]], ("spleen", "fill-holes"))[1] == [300, 1, 1]


def test_an_unknown_label_is_refused() -> None:
    with pytest.raises(ValueError, match=r"names 'lver'; the labels of task 'organs-ct' are \['liver'"):
        run([[3]], ("lver", "fill-holes"))
    with pytest.raises(ValueError, match="one-per-side of 'liver' needs the name of the other side"):
        run([[3]], ("liver", "one-per-side"))


def test_the_task_says_what_is_done_where_no_file_does() -> None:
    task = Task.model_validate(TASK.model_dump() | {"postprocessing": {"liver": ["fill-holes", "smooth:mm=1"]}})
    postprocessing = Postprocessing.of_task(task)
    assert [step.step for step in postprocessing.steps] == [parse_step("fill-holes"), parse_step("smooth:mm=1")]
    assert postprocessing.describe() == "liver: fill-holes; liver: smooth:mm=1"
    assert Postprocessing.model_validate_json(postprocessing.model_dump_json()) == postprocessing
    assert Postprocessing.model_validate({"version": 1, "keep_largest": ["liver"]}).steps == ()
