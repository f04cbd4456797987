"""Distances between surfaces: by hand, by force, beside MONAI and DeepMind's surface-distance."""

import math
import warnings

import numpy as np
import pytest
from real_pairs import PAIRS, read_pair
from scipy.spatial.distance import cdist

from medunet.errors import GeometryError
from medunet.evaluation import surface
from medunet.evaluation.surface import (
    compute_assd_mm,
    compute_hausdorff_mm,
    compute_nsd,
    compute_rmsd_mm,
    compute_surface_distances,
)

SPACING = (0.7, 1.2, 3.0)
KINDS = ["elements", "voxels"]


def make_blobs(seed, shape=(21, 18, 13), noise=0.25):
    """Two masks of one blob with ragged borders, which hold many patterns of cubes."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid))
    return tuple(radius + noise * rng.normal(size=shape) < size for size in (0.6, 0.65))


def read_all(distances, tolerance_mm=1.1):
    return [
        compute_hausdorff_mm(distances),
        compute_hausdorff_mm(distances, 95),
        compute_assd_mm(distances),
        compute_nsd(distances, tolerance_mm),
    ]


# ---- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_voxels_are_as_far_apart_as_their_spacing(kind, axis):
    reference, prediction = np.zeros((2, 5, 6, 7), dtype=bool)
    reference[1, 1, 1] = True
    prediction[tuple(np.eye(3, dtype=int)[axis] * 2 + 1)] = True  # two voxels further
    distances = compute_surface_distances(reference, prediction, SPACING, kind=kind)
    mm = SPACING[axis]
    if kind == "voxels":  # one boundary voxel each
        assert read_all(distances, 2 * mm) == pytest.approx([2 * mm, 2 * mm, 2 * mm, 1.0])
        assert compute_nsd(distances, 2 * mm - 0.01) == 0
        return
    # Eight corners with equal areas each: four lie one voxel from the other's near corners, four two voxels.
    assert read_all(distances, mm) == pytest.approx([2 * mm, 2 * mm, 1.5 * mm, 0.5])
    assert compute_rmsd_mm(distances) == pytest.approx(mm * math.sqrt((1 + 4) / 2))


def test_two_neighbours_share_a_face():
    reference, prediction = np.zeros((2, 4, 4, 4), dtype=bool)
    reference[1, 1, 1] = prediction[1, 1, 2] = True
    distances = compute_surface_distances(reference, prediction, (1, 1, 2))
    assert distances.from_reference_mm.tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    area = math.sqrt((1 * 2 / 8) ** 2 * 2 + (1 / 8) ** 2)  # of a corner, stretched
    assert distances.reference_sizes == pytest.approx([area] * 8)
    assert compute_hausdorff_mm(distances, 50) == 0
    assert compute_hausdorff_mm(distances, 51) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_walls_two_voxels_apart(kind):
    reference, prediction = np.zeros((2, 6, 5, 9), dtype=bool)
    reference[:, :, 2], prediction[:, :, 4] = True, True
    assert compute_hausdorff_mm(compute_surface_distances(reference, prediction, SPACING, kind=kind)) == 6.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_0_mm_from_itself(kind):
    mask, _ = make_blobs(0)
    distances = compute_surface_distances(mask, mask, SPACING, kind=kind)
    assert read_all(distances, 0.0) == [0, 0, 0, 1]
    assert compute_rmsd_mm(distances) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_sides_can_be_exchanged(kind):
    reference, prediction = make_blobs(1)
    there = compute_surface_distances(reference, prediction, SPACING, kind=kind)
    back = compute_surface_distances(prediction, reference, SPACING, kind=kind)
    assert read_all(there) == pytest.approx(read_all(back))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_measured_where_a_side_is_empty(kind):
    mask, _ = make_blobs(0)
    empty = np.zeros_like(mask)
    for sides in ((mask, empty), (empty, mask), (empty, empty)):
        assert compute_surface_distances(*sides, SPACING, kind=kind) is None


def test_other_shapes_are_refused():
    with pytest.raises(GeometryError, match="expected the same"):
        compute_surface_distances(np.ones((2, 2, 2), bool), np.ones((2, 2, 3), bool), SPACING)


def test_a_tolerance_that_is_the_distance_but_for_rounding_counts():
    volume, moved = np.zeros((2, 4, 8, 3), dtype=bool)
    volume[1, 0, 1] = moved[1, 3, 1] = True
    distances = compute_surface_distances(volume, moved, (1.0, 0.1, 1.0), kind="voxels")
    assert distances.from_reference_mm[0] > 0.3  # 3 * 0.1 in binary
    assert compute_nsd(distances, 0.3) == 1


# ---- by force --------------------------------------------------------------------------------------------------------


def measure_by_force(reference, prediction, spacing):
    """Distances between all boundary voxels, found voxel by voxel."""
    places = []
    for mask in (reference, prediction):
        padded = np.pad(mask, 1)
        found = []
        for voxel in np.argwhere(mask):
            i, j, k = voxel + 1
            faces = [(i - 1, j, k), (i + 1, j, k), (i, j - 1, k), (i, j + 1, k), (i, j, k - 1), (i, j, k + 1)]
            if not all(padded[face] for face in faces):
                found.append(voxel * spacing)
        places.append(np.array(found))
    table = cdist(*places)
    return np.sort(table.min(axis=1)), np.sort(table.min(axis=0))


@pytest.mark.parametrize("seed", range(4))
def test_boundary_voxels_by_force(seed):
    reference, prediction = make_blobs(seed, shape=(9, 12, 7))
    distances = compute_surface_distances(reference, prediction, SPACING, kind="voxels")
    expected = measure_by_force(reference, prediction, np.array(SPACING))
    assert distances.from_reference_mm == pytest.approx(expected[0])
    assert distances.from_prediction_mm == pytest.approx(expected[1])


@pytest.mark.parametrize("weights", [(0, 0), (0, 10**9), (10**9, 0)])
def test_tree_and_transform_measure_the_same(monkeypatch, weights):
    """The tree alone; the tree, and a transform for far pieces; the transform alone."""
    monkeypatch.setattr(surface, "_VOXELS_PER_PIECE", weights[0])
    monkeypatch.setattr(surface, "_VOXELS_PER_FAR_PIECE", weights[1])
    reference, prediction = np.zeros((2, 40, 30, 12), dtype=bool)
    reference[:4, :5, :3], prediction[30:37, 2:28, 4:11] = True, True
    distances = compute_surface_distances(reference, prediction, SPACING, kind="voxels")
    expected = measure_by_force(reference, prediction, np.array(SPACING))
    assert distances.from_reference_mm == pytest.approx(expected[0], rel=1e-6)
    assert distances.from_prediction_mm == pytest.approx(expected[1], rel=1e-6)


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_measured_in_its_plane(kind, axis):
    """Without this, both sides of the one slice would be surface, and everything would be near."""
    reference, prediction = (np.expand_dims(mask, axis) for mask in np.zeros((2, 9, 11), dtype=bool))
    reference.reshape(9, 11)[2:7, 2:9] = True
    prediction.reshape(9, 11)[2:7, 2:6] = True
    spacing = [0.5, 2.0]
    spacing.insert(axis, 9.0)
    distances = compute_surface_distances(reference, prediction, tuple(spacing), kind=kind)
    assert compute_hausdorff_mm(distances) == pytest.approx(3 * 2.0)


def test_the_contour_of_a_rectangle():
    picture = np.zeros((1, 12, 12), dtype=bool)
    picture[0, 3:7, 2:9] = True
    distances = compute_surface_distances(picture, picture, (1.0, 0.5, 2.0))
    corner = math.hypot(0.5, 2.0) / 2
    assert distances.reference_sizes.sum() == pytest.approx(2 * 3 * 0.5 + 2 * 6 * 2.0 + 4 * corner)


def test_a_volume_whose_structure_lies_in_one_slice_is_no_picture():
    reference, prediction = np.zeros((2, 5, 9, 11), dtype=bool)
    reference[2, 2:7, 2:9], prediction[2, 2:7, 2:6] = True, True
    distances = compute_surface_distances(reference, prediction, SPACING, kind="voxels")
    assert len(distances.from_reference_mm) == 5 * 7  # every voxel has an empty slice beside it


# ---- beside others ---------------------------------------------------------------------------------------------------


def monai_numbers(reference, prediction, spacing, tolerance_mm):
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    sides = [torch.from_numpy(side)[None, None] for side in (prediction, reference)]
    common = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of MONAI's own calls
        return [
            float(compute_hausdorff_distance(*sides, **common)),
            float(compute_hausdorff_distance(*sides, percentile=95, **common)),
            float(compute_average_surface_distance(*sides, symmetric=True, **common)),
            float(compute_surface_dice(*sides, class_thresholds=[tolerance_mm], **common)),
        ]


def deepmind_numbers(reference, prediction, spacing, tolerance_mm):
    peer = pytest.importorskip("surface_distance")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of SciPy's names
        found = peer.compute_surface_distances(reference, prediction, spacing)
        areas = [found[f"surfel_areas_{side}"].sum() for side in ("gt", "pred")]
        return [
            peer.compute_robust_hausdorff(found, 100),
            peer.compute_robust_hausdorff(found, 95),
            np.average(peer.compute_average_surface_distance(found), weights=areas),
            peer.compute_surface_dice_at_tolerance(found, tolerance_mm),
        ]


@pytest.mark.parametrize("seed", range(6))
def test_boundary_voxels_are_those_of_monai(seed):
    sides = make_blobs(seed)
    ours = read_all(compute_surface_distances(*sides, SPACING, kind="voxels"))
    assert ours == pytest.approx(monai_numbers(*sides, SPACING, 1.1), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.02, 0.25, 2.0])
def test_elements_are_those_of_surface_distance(seed, noise):
    sides = make_blobs(seed, noise=noise)
    ours = read_all(compute_surface_distances(*sides, SPACING))
    assert ours == pytest.approx(deepmind_numbers(*sides, SPACING, 1.1), abs=1e-3)


def test_elements_at_the_border_of_the_image_are_those_of_surface_distance():
    sides = np.random.default_rng(0).random((2, 8, 9, 5)) < 0.6
    ours = read_all(compute_surface_distances(*sides, SPACING))
    assert ours == pytest.approx(deepmind_numbers(*sides, SPACING, 1.1), abs=1e-3)


def test_a_contour_is_that_of_surface_distance():
    sides = [mask[8] for mask in make_blobs(3)]
    ours = read_all(compute_surface_distances(*(side[None] for side in sides), SPACING))
    assert ours == pytest.approx(deepmind_numbers(*sides, SPACING[1:], 1.1), abs=1e-3)


@pytest.mark.realdata
@pytest.mark.parametrize("pair", PAIRS)
def test_real_masks_beside_both(real_data, pair):
    reference, prediction = read_pair(real_data, pair)
    sides = [side.array[0] != 0 for side in (reference, prediction)]
    box = surface.find_union_box(*sides)
    sides = [np.ascontiguousarray(side[box]) for side in sides]
    spacing = reference.spacing
    voxels = read_all(compute_surface_distances(*sides, spacing, kind="voxels"), 2.1)
    elements = read_all(compute_surface_distances(*sides, spacing), 2.1)
    assert voxels == pytest.approx(monai_numbers(*sides, spacing, 2.1), rel=1e-6, abs=1e-6)
    assert elements == pytest.approx(deepmind_numbers(*sides, spacing, 2.1), abs=1e-3)
