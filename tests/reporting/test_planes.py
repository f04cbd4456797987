"""Left is left: for every order of axes, the letters say where the voxels of the picture lie in the patient."""

from itertools import permutations, product

import numpy as np
import pytest

from medunet.reporting.planes import PLANES, cut_plane, measure_areas, to_ras_array

ORIENTATIONS = ["".join(axes) for order in permutations(["RL", "AP", "SI"]) for axes in product(*order)]
WORLD_AXIS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def with_world_coordinate(volume, world_axis):
    """A volume whose every voxel holds where it lies, in mm."""
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in volume.spatial_shape], indexing="ij"), axis=-1)
    world = indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return volume.with_array(world[None, ..., world_axis])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_letters_are_true(make_volume, orientation, plane):
    volume = make_volume(orientation=orientation)

    def get_coordinate(letter, pick_edge):
        world_axis, sign = WORLD_AXIS[letter]
        cut = cut_plane(to_ras_array(with_world_coordinate(volume, world_axis)), plane, 3)
        return sign * pick_edge(cut).mean()  # larger: farther in the direction of the letter

    for here, there, near, far in (
        (plane.left, plane.right, lambda cut: cut[:, 0], lambda cut: cut[:, -1]),
        (plane.top, plane.bottom, lambda cut: cut[0], lambda cut: cut[-1]),
    ):
        assert get_coordinate(here, near) > get_coordinate(here, far)
        assert get_coordinate(there, far) > get_coordinate(there, near)


def test_convention():
    edges = {plane.name: plane.left + plane.right + plane.top + plane.bottom for plane in PLANES}
    assert edges == {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}


@pytest.mark.parametrize(("axis", "letter", "side"), [(2, "S", "below"), (1, "A", "behind"), (0, "R", "the left")])
def test_slices_count_from_the_side_that_the_note_names(make_volume, axis, letter, side):
    (plane,) = [plane for plane in PLANES if plane.axis == axis]
    array = to_ras_array(with_world_coordinate(make_volume(), WORLD_AXIS[letter][0]))
    assert cut_plane(array, plane, 0).max() < cut_plane(array, plane, array.shape[axis] - 1).min()
    assert plane.first_side == side


def make_label_map():
    """Label 1 in slices 2..6, largest in 3; label 2 in slices 5..9, label 7 never."""
    label_map = np.zeros((10, 8, 9), np.uint8)
    label_map[2:7, 1:3, 1:3] = 1
    label_map[3, 1:4, 1:4] = 1
    label_map[5:10, 5:7, 5:8] = 2
    return label_map


def test_areas_are_counts_per_slice():
    label_map = make_label_map()
    areas = measure_areas(label_map, {"b": [2], "a": [1], "both": [1, 2], "none": [7]}, label_map.shape)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        expected = [np.isin(label_map, values).sum(axis=others) for values in ([2], [1], [1, 2], [7])]
        np.testing.assert_array_equal(areas.areas[axis], np.array(expected).T)


def test_slice_shows_both_labels():
    label_map = make_label_map()
    assert measure_areas(label_map, {"a": [1], "b": [2]}, label_map.shape).choose_slice(0) in (5, 6)


def test_slice_shows_the_largest_cross_section_of_one_label():
    label_map = make_label_map()
    assert measure_areas(label_map, {"a": [1]}, label_map.shape).choose_slice(0) == 3


def test_sides_add_up():
    label_map = make_label_map()
    labels = {"a": [1], "b": [2]}
    total = measure_areas(label_map, labels, label_map.shape) + measure_areas(None, labels, label_map.shape)
    assert total.find_range(0) == (2, 9)


@pytest.mark.parametrize("labels", [{}, {"none": [7]}])
def test_without_labels_the_middle(labels):
    areas = measure_areas(make_label_map(), labels, (10, 8, 9))
    assert not areas.has_any()
    assert [areas.choose_slice(axis) for axis in range(3)] == [5, 4, 4]
    assert [areas.find_range(axis) for axis in range(3)] == [(0, 9), (0, 7), (0, 8)]


def test_foreign_and_negative_values_are_not_counted():
    label_map = np.array([[[-5, 3, 900, 1]]], np.int32)
    assert measure_areas(label_map, {"a": [1]}, (1, 1, 4)).areas[2].tolist() == [[0], [0], [0], [1]]
