"""What the MR artifacts do to pictures whose outcome is known; that they are TorchIO's stands in test_peers.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medunet.augmentation.changes import Anisotropy, Ghosting, Motion
from medunet.augmentation.mr_artifacts import (
    _move,
    apply_anisotropy,
    apply_bias_field,
    apply_ghosting,
    apply_motion,
    compute_motion_matrix,
)

STILL = (0.0, 0.0, 0.0)


def make_ball(shape: Any, radius: float) -> torch.Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"), -1)
    return torch.sigmoid(2 * (radius - grid.norm(dim=-1)))[None].float()


def build_motion(axis: int, times: Any, degrees: Any, translation_mm: Any, spacing: Any = (1.0, 1.0, 1.0)) -> Motion:
    return Motion(axis=axis, times=times, degrees=degrees, translation_mm=translation_mm, spacing=spacing)


# ---- bias field --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "power"),
    [(0, (0, 0, 0)), (1, (0, 0, 1)), (3, (0, 0, 3)), (4, (0, 1, 0)), (9, (0, 3, 0)), (10, (1, 0, 0)), (19, (3, 0, 0))],
)
def test_each_coefficient_has_its_monomial(position: int, power: tuple[int, int, int]) -> None:
    """With coordinates from -1 to 1 between the outermost voxels, on signal that starts at zero."""
    shape = (5, 7, 9)
    patch = torch.ones((2, *shape))
    patch[:, 2, 3, 4] = 0.0  # the darkest voxel, where there is no signal
    coefficients = tuple(0.3 if n == position else 0.0 for n in range(20))
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    expected = np.exp(0.3 * x ** power[0] * y ** power[1] * z ** power[2])
    expected[2, 3, 4] = 0.0
    assert np.allclose(apply_bias_field(patch, coefficients), expected, atol=1e-6)


def test_the_field_does_not_depend_on_where_zero_is() -> None:
    patch = torch.rand((1, 6, 6, 6), generator=torch.Generator().manual_seed(0))
    coefficients = tuple(np.linspace(-0.3, 0.3, 20).tolist())
    assert torch.allclose(
        apply_bias_field(patch - 5, coefficients), apply_bias_field(patch, coefficients) - 5, atol=1e-5
    )


# ---- ghosting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ghosts_repeat_along_their_axis(axis: int) -> None:
    """A line in a field of 40 voxels, with every fourth plane of k-space dimmed: four copies, 10 voxels apart."""
    patch = torch.zeros(1, 40, 40, 40)
    patch.narrow(1 + axis, 5, 1).fill_(1.0)
    ghosted = apply_ghosting(patch, Ghosting(axis=axis, num_ghosts=4, intensity=0.4))
    profile = ghosted[0].movedim(axis, 0)[:, 7, 9]
    assert torch.allclose(ghosted[0].movedim(axis, 0), profile[:, None, None].expand(40, 40, 40), atol=1e-6)
    # A comb of every fourth frequency is a comb of every tenth voxel; the centre's plane, 20 = 5 x 4, is given back.
    expected = torch.full((40,), 0.4 / 40)
    expected[5] += 1.0
    expected[[5, 15, 25, 35]] -= 0.4 / 4
    assert torch.allclose(profile, expected, atol=1e-6)


def test_ghosts_keep_the_mean() -> None:
    patch = torch.randn((2, 9, 10, 11), generator=torch.Generator().manual_seed(1)) + 3
    for axis in range(3):
        ghosted = apply_ghosting(patch, Ghosting(axis=axis, num_ghosts=3, intensity=1.0))
        assert torch.allclose(ghosted.mean(1 + axis), patch.mean(1 + axis), atol=1e-5)
        assert (ghosted - patch).abs().max() > 0.3
    assert torch.allclose(apply_ghosting(patch, Ghosting(axis=1, num_ghosts=3, intensity=0.0)), patch, atol=1e-5)


# ---- motion ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_without_moving_nothing_changes(axis: int) -> None:
    patch = torch.randn((2, 9, 10, 11), generator=torch.Generator().manual_seed(1))
    motion = build_motion(axis, (0.3, 0.7), (STILL, STILL), (STILL, STILL), (0.7, 1.2, 3.0))
    assert torch.allclose(apply_motion(patch, motion), patch, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("times", [(0.2, 0.8), (0.6, 0.9), (0.1, 0.3)])
def test_the_patient_rests_at_the_centre_of_k_space(axis: int, times: tuple[float, float]) -> None:
    """Slow frequencies are those of the patch at rest; what was moved is found in the fast ones only."""
    patch = make_ball((24, 20, 22), 6.0)
    moved = apply_motion(
        patch, build_motion(axis, times, ((20.0, 5.0, 9.0), STILL), ((3.0, 2.0, 4.0), (0.0, -4.0, 1.0)))
    )
    assert (moved - patch).abs().max() > 0.02
    spectra = [torch.fft.fftshift(torch.fft.fftn(one[0])) for one in (patch, moved)]
    length = patch.shape[1 + axis]
    difference = (spectra[1] - spectra[0]).abs().amax([other for other in range(3) if other != axis])
    reference = spectra[0].abs().max()
    assert difference[length // 2] < 1e-4 * reference
    assert difference.max() > 1e-3 * reference


def test_k_space_is_filled_in_order() -> None:
    patch = torch.zeros(1, 16, 16, 16)
    patch[:, 6:10, 6:10, 6:10] = 1.0
    shift = (2.0, 0.0, 0.0)
    spectrum = torch.fft.fft(apply_motion(patch, build_motion(2, (0.45, 0.6), (STILL, STILL), (shift, shift))), dim=3)
    at_rest = torch.fft.fft(patch, dim=3)
    moved = torch.fft.fft(patch.roll(-2, 1), dim=3)  # the sampling grid moves by +2 mm
    # Of 16 planes, 7 and 8 are at rest: frequencies -1 and 0. Of -1 and 1 a real picture keeps the mean.
    assert torch.allclose(spectrum[..., 0], at_rest[..., 0], atol=1e-4)
    assert torch.allclose(spectrum[..., 1], (at_rest[..., 1] + moved[..., 1]) / 2, atol=1e-4)
    assert torch.allclose(spectrum[..., 2:15], moved[..., 2:15], atol=1e-4)
    assert (at_rest - moved)[..., 2:15].abs().max() > 0.5


def test_what_comes_from_outside_is_dark() -> None:
    patch = torch.full((1, 8, 8, 8), 5.0)
    patch[0, 0, 0, 0] = -1.0
    far = build_motion(0, (0.3, 0.7), (STILL, STILL), ((3.0, 0.0, 0.0), (0.0, 0.0, -100.0)), (1.5, 1.0, 1.0))
    shifted = _move(patch, far, 0)
    assert (shifted[0, :6] == 5.0).all()
    assert (shifted[0, 6:] == -1.0).all()
    assert (_move(patch, far, 1) == -1.0).all()


@pytest.mark.parametrize("degrees", [(10.0, 0.0, 0.0), (0.0, -20.0, 0.0), (3.0, 5.0, 7.0)])
def test_turns_are_turns(degrees: tuple[float, float, float]) -> None:
    matrix = compute_motion_matrix(degrees)
    assert np.allclose(matrix @ matrix.T, np.eye(3))
    assert np.linalg.det(matrix) == pytest.approx(1)
    angle = np.degrees(np.arccos((np.trace(matrix) - 1) / 2))
    if sum(d != 0 for d in degrees) == 1:
        assert angle == pytest.approx(abs(sum(degrees)))


# ---- anisotropy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_are_interpolated(axis: int) -> None:
    """Nine voxels by three: slices at 1, 4 and 7, and straight lines between them."""
    values = torch.tensor([9.0, 0.0, 9, 9, 6.0, 9, 9, 3.0, 9])
    shape = [1, 1, 1]
    shape[axis] = 9
    patch = values.reshape(1, *shape).expand(1, *[size if size == 9 else 4 for size in shape])
    thick = apply_anisotropy(patch, Anisotropy(axis=axis, factor=3.0))
    assert thick.shape == patch.shape
    assert thick[0].movedim(axis, 0)[:, 1, 1].tolist() == pytest.approx([0, 0, 2, 4, 6, 5, 4, 3, 3])


def test_fractions_of_a_slice() -> None:
    ramp = torch.arange(16.0).reshape(1, 16, 1, 1)
    thick = apply_anisotropy(ramp, Anisotropy(axis=0, factor=2.5)).flatten()
    assert (thick - ramp.flatten())[2:-2].abs().max() <= 0.5 + 1e-5  # the nearest slice is half a voxel off at most
    assert (thick.diff() >= 0).all()


def test_more_thickness_than_voxels_leaves_one_slice() -> None:
    patch = torch.arange(3.0).reshape(1, 3, 1, 1)
    assert apply_anisotropy(patch, Anisotropy(axis=0, factor=4.0)).flatten().tolist() == [1, 1, 1]
    assert apply_anisotropy(patch[:, 1:2], Anisotropy(axis=0, factor=4.0)).flatten().tolist() == [1]
