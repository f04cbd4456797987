from __future__ import annotations

import numpy as np
import pytest

from medunet.phantoms import PHANTOMS, PhantomCase, make_phantom_case
from medunet.phantoms.deformation import sample_field
from medunet.phantoms.grid import Grid
from medunet.phantoms.male_pelvis_ct import (
    Acquisition,
    compute_points,
    render_pelvis,
    sample_acquisition,
)
from medunet.phantoms.pelvis_anatomy import sample_anatomy

LABELS = PHANTOMS["male-pelvis-ct"].labels
PLAUSIBLE_ML = {
    "prostate": (20, 60),
    "bladder": (60, 350),
    "rectum": (40, 120),
    "seminal_vesicles": (6, 16.5),
    "femoral_head_left": (45, 80),
    "femoral_head_right": (45, 80),
}


def compute_centers(case: PhantomCase) -> dict[str, np.ndarray]:
    """World centre of each label, mm."""
    centers = {}
    for name, value in LABELS.items():
        index = np.argwhere(case.labels.array[0] == value).mean(axis=0)
        centers[name] = (case.labels.affine @ [*index, 1.0])[:3]
    return centers


def make_acquisition(grid: Grid, **changes: float) -> Acquisition:
    settings = {"noise_hu": 12.0, "peak_per_mm": 0.18, "blur_mm": 0.7, "slice_overlap": 0.1, "table_y": -400.0}
    return Acquisition(grid=grid, **(settings | changes))


def test_same_seed_same_bytes(pelvis_cases):
    again = make_phantom_case("male-pelvis-ct", 4)
    assert again.image.array.tobytes() == pelvis_cases[4].image.array.tobytes()
    assert again.labels.array.tobytes() == pelvis_cases[4].labels.array.tobytes()
    assert (again.image.affine == pelvis_cases[4].image.affine).all()


def test_seeds_differ_in_anatomy_and_grid(pelvis_cases):
    volumes = {
        seed: (case.labels.array == 2).sum() * case.labels.voxel_volume_mm3 for seed, case in pelvis_cases.items()
    }
    assert len(set(volumes.values())) == len(volumes)
    assert len({case.image.spacing for case in pelvis_cases.values()}) == len(pelvis_cases)


def test_types_and_grid_are_those_of_a_ct(pelvis_cases):
    for case in pelvis_cases.values():
        assert (case.image.array.dtype, case.labels.array.dtype) == (np.int16, np.uint8)
        assert case.image.shape == case.labels.shape
        assert (case.image.affine == case.labels.affine).all()
        assert case.image.orientation in ("LPS", "RAS")


@pytest.mark.parametrize("name", LABELS)
def test_every_organ_has_a_plausible_volume(pelvis_cases, name):
    low, high = PLAUSIBLE_ML[name]
    for case in pelvis_cases.values():
        volume_ml = (case.labels.array == LABELS[name]).sum() * case.labels.voxel_volume_mm3 / 1000
        assert low < volume_ml < high, case.case_id


def test_mean_hu_of_organs(pelvis_cases):
    ranges = {"prostate": (15, 55), "bladder": (-2, 25), "seminal_vesicles": (-15, 40), "femoral_head_left": (250, 550)}
    for seed in (4, 7, 10):
        case = pelvis_cases[seed]
        for name, (low, high) in ranges.items():
            assert low < case.image.array[case.labels.array == LABELS[name]].mean() < high, (seed, name)


def test_organs_lie_as_in_a_man_in_either_orientation(pelvis_cases):
    assert {case.image.orientation for case in pelvis_cases.values()} == {"LPS", "RAS"}
    for case in pelvis_cases.values():
        centers = compute_centers(case)
        right, left = centers["femoral_head_right"], centers["femoral_head_left"]
        assert 150 < right[0] - left[0] < 205  # RAS+: the left is the smaller x
        assert centers["bladder"][2] > centers["seminal_vesicles"][2] > centers["prostate"][2]
        assert centers["rectum"][1] < centers["seminal_vesicles"][1] < centers["bladder"][1]
        assert left[0] < centers["prostate"][0] < right[0]


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAI", "RPS"])
def test_left_stays_left_however_the_array_runs(orientation):
    anatomy = sample_anatomy(np.random.default_rng(5))
    grid = Grid.around(anatomy.pose.position, shape=(58, 22, 16), spacing=(4.5, 4.5, 5.0), orientation=orientation)
    _, labels = render_pelvis(anatomy, make_acquisition(grid))
    assert labels.orientation == orientation
    middle = {
        name: (labels.affine @ [*np.argwhere(labels.array[0] == LABELS[name]).mean(axis=0), 1.0])[0]
        for name in ("femoral_head_left", "femoral_head_right")
    }
    assert middle["femoral_head_left"] < anatomy.pose.position[0] - 60
    assert middle["femoral_head_right"] > anatomy.pose.position[0] + 60


def test_femoral_heads_and_prostate_are_fully_inside_the_field_of_view(pelvis_cases):
    for case in pelvis_cases.values():
        inside = np.isin(case.labels.array[0], [LABELS[name] for name in LABELS if name != "rectum"])
        for axis in range(3):
            edges = np.take(inside, [0, -1], axis=axis)
            assert not edges.any(), (case.case_id, axis)


def test_femoral_heads_are_balls_of_46_to_53_mm(pelvis_cases):
    for case in pelvis_cases.values():
        for name in ("femoral_head_left", "femoral_head_right"):
            volume_mm3 = (case.labels.array == LABELS[name]).sum() * case.labels.voxel_volume_mm3
            assert 44 < (6 * volume_mm3 / np.pi) ** (1 / 3) < 54


def test_grids_of_many_patients_stay_in_range():
    for seed in range(60):
        rng = np.random.default_rng([seed, 1])
        grid = sample_acquisition(rng, sample_anatomy(rng)).grid
        spacing = np.abs(np.diag(grid.affine)[:3])
        assert (spacing >= (0.85, 0.85, 2.0)).all()
        assert (spacing <= (1.4, 1.4, 3.0)).all()
        assert 150 <= spacing[2] * grid.spatial_shape[2] <= 215
        assert 240 <= grid.spatial_shape[0] <= 415


def test_about_one_patient_of_eight_has_a_metal_hip():
    sides = [sample_anatomy(np.random.default_rng([seed, 1])).bones.prosthesis_side for seed in range(150)]
    assert 8 <= np.count_nonzero(sides) <= 32
    assert {-1, 0, 1} == set(sides)


def test_metal_hip_keeps_the_label_of_the_head(pelvis_cases):
    case = pelvis_cases[19]
    head = case.image.array[case.labels.array == LABELS["femoral_head_right"]]
    assert np.median(head) > 2500
    assert np.median(case.image.array[case.labels.array == LABELS["femoral_head_left"]]) < 900


def test_truth_is_the_organ_with_the_largest_occupancy():
    """Counted on 3 x 3 x 3 points per voxel: the same anatomy on a finer grid."""
    anatomy = sample_anatomy(np.random.default_rng(3))
    x, y, z = anatomy.pose.position
    center, shape, spacing = (x, y, z - 5), np.array((60, 48, 24)), np.array((1.2, 1.2, 3.0))
    coarse = Grid.around(center, shape=tuple(shape.tolist()), spacing=tuple(spacing.tolist()), orientation="LPS")
    fine = Grid.around(
        center, shape=tuple((shape * 3).tolist()), spacing=tuple((spacing / 3).tolist()), orientation="LPS"
    )
    _, labels = render_pelvis(anatomy, make_acquisition(coarse))
    _, fine_labels = render_pelvis(anatomy, make_acquisition(fine))
    parts = fine_labels.array[0].reshape(shape[0], 3, shape[1], 3, shape[2], 3)
    counts = np.stack([(parts == value).sum(axis=(1, 3, 5)) for value in range(7)])
    reference, prediction = counts.argmax(axis=0), labels.array[0]
    is_clear = counts.max(axis=0) >= 16  # of 27; nearly even voxels may go either way
    assert set(np.unique(reference)) >= {0, 1, 2, 3, 4}
    assert (reference == prediction)[is_clear].mean() > 0.998
    for value in range(1, 5):
        volume, fine_volume = (prediction == value).sum() * 27, counts[value].sum()
        assert volume == pytest.approx(fine_volume, rel=0.02)


def test_borders_have_partial_volume():
    """Without blur and noise, the border of the bladder holds values between its two sides."""
    anatomy = sample_anatomy(np.random.default_rng(3))
    grid = Grid.around(anatomy.pose.position, shape=(40, 40, 10), spacing=(1.2, 1.2, 3.0), orientation="RAS")
    image, labels = render_pelvis(anatomy, make_acquisition(grid, noise_hu=0.0, blur_mm=1e-3, slice_overlap=0.0))
    top = np.abs(np.diff(image.array[0].astype(float), axis=2))
    assert (labels.array > 0).any()
    assert np.unique(image.array).size > 150
    assert np.percentile(top, 99) < 900


def test_noise_has_the_asked_strength_and_is_correlated():
    anatomy = sample_anatomy(np.random.default_rng(3))
    grid = Grid.around(anatomy.pose.position, shape=(96, 80, 12), spacing=(1.1, 1.1, 2.5), orientation="RAS")
    quiet, _ = render_pelvis(anatomy, make_acquisition(grid, noise_hu=0.0))
    noisy, _ = render_pelvis(anatomy, make_acquisition(grid, noise_hu=15.0))
    noise = (noisy.array[0].astype(float) - quiet.array[0])[20:-20, 20:-20]
    assert 11 < noise.std() < 17
    assert 0.15 < np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1] < 0.9
    assert 0.1 < np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1] < 0.6
    # No power at low frequencies: the mean of 8 x 8 pixels is far quieter than white noise would leave it (1/8).
    blocks = noise[:56, :40].reshape(7, 8, 5, 8, -1).mean(axis=(1, 3))
    assert blocks.std() < noise.std() / 8 * 1.3


def test_air_surrounds_the_body_and_a_table_lies_below(pelvis_cases):
    case = pelvis_cases[4]
    assert case.image.orientation == "RAS"
    air = case.image.array[0][:6, -6:]
    assert -1010 < air.mean() < -985
    inside_table = case.image.array[0][case.image.spatial_shape[0] // 2, 5:10]
    assert -950 < inside_table.mean() < -890


def test_a_field_is_a_function_of_the_place_not_of_the_grid():
    field = sample_field(np.random.default_rng(0), half_size=(20.0,) * 3, knot_spacing=(9.0,) * 3, amplitude=2.0)
    fine = np.arange(-15, 15, 0.5, dtype=np.float32)
    on_fine, on_coarse = field.evaluate(fine, fine, fine), field.evaluate(fine[::4], fine[::4], fine[::4])
    np.testing.assert_allclose(on_fine[::4, ::4, ::4], on_coarse, atol=1e-5)
    assert np.abs(np.diff(on_fine, axis=0)).max() < 1.0  # smooth


def test_the_deformation_does_not_fold():
    for seed in range(5):
        pose = sample_anatomy(np.random.default_rng(seed)).pose
        grid = Grid.around(pose.position, shape=(40, 30, 20), spacing=(9.0, 8.0, 8.0), orientation="RAS")
        points = compute_points(grid, pose)
        for axis, values in enumerate((points.x, points.y, points.z)):
            assert (np.diff(values, axis=axis) > 0).all()
