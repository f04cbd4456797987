"""The windowed field equals the paper's where the window covers the image, and does what a CRF is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medunet.postprocessing import DenseCrf
from medunet.postprocessing.dense_crf import refine_logits, refine_probabilities
from medunet.volume import Spacing

SPACING = (0.7, 1.2, 3.0)
WIDE = 1000.0


def compute_by_force(
    probabilities: Tensor, image: Tensor, spacing: Spacing, crf: DenseCrf, window: float = WIDE
) -> Tensor:
    """The same from matrices over all pairs of voxels, straight from the formulas."""
    shape = probabilities.shape
    axes = [torch.arange(n, dtype=torch.float64) * mm for n, mm in zip(shape[1:], spacing, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(3, -1).T
    differences = places[:, None] - places[None]
    squares = differences.square().sum(-1)
    is_pair = (differences.abs() <= window + 1e-6).all(-1) & ~torch.eye(len(places), dtype=torch.bool)
    if crf.intensity_sd is None:
        scaled = image / (0.25 * image.std(dim=(1, 2, 3), correction=0, keepdim=True))
    else:
        scaled = image / crf.intensity_sd
    values = scaled.reshape(len(image), -1).T
    looks = (values[:, None] - values[None]).square().sum(-1)
    kernels = [
        (crf.appearance, torch.exp(-squares / (2 * crf.appearance_mm**2) - looks / 2)),
        (crf.smoothness, torch.exp(-squares / (2 * crf.smoothness_mm**2))),
    ]
    unary = torch.log(probabilities.reshape(shape[0], -1))
    field = unary.exp()
    for _ in range(crf.iterations):
        energy = unary.clone()
        for weight, raw in kernels:
            kernel = raw * is_pair
            root = kernel.sum(1).sqrt()
            kernel = kernel / (root[:, None] * root[None])
            for label in range(shape[0]):
                for other in range(shape[0]):
                    if other != label:
                        energy[label] -= weight * (kernel @ field[other])
        # Up to what is the same for all labels, agreeing neighbours add what disagreeing ones take.
        field = torch.softmax(energy, 0)
    return field.reshape(shape)


def draw(shape: tuple[int, int, int], num_classes: int, num_channels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_classes, *shape, generator=generator, dtype=torch.float64)
    image = 40 * torch.randn(num_channels, *shape, generator=generator, dtype=torch.float64)
    return torch.softmax(logits, 0), image


@pytest.mark.parametrize("shape", [(4, 3, 3), (6, 5, 1), (1, 4, 3)])
@pytest.mark.parametrize(("num_classes", "num_channels"), [(2, 1), (4, 3)])
@pytest.mark.parametrize("sd", [None, 30.0])
def test_a_window_over_the_image_is_the_dense_field(
    shape: tuple[int, int, int], num_classes: int, num_channels: int, sd: float | None
) -> None:
    probabilities, image = draw(shape, num_classes, num_channels)
    crf = DenseCrf(window_mm=WIDE, appearance=3.0, smoothness=1.5, smoothness_mm=2.0, intensity_sd=sd)
    expected = compute_by_force(probabilities, image, SPACING, crf)
    found = refine_probabilities(probabilities, image, SPACING, crf)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)
    single = refine_probabilities(probabilities.float(), image.float(), SPACING, crf)
    torch.testing.assert_close(single.double(), expected, atol=1e-5, rtol=0)
    assert (found - probabilities).abs().max() > 0.1  # the test has something to see


def test_a_window_ends_where_it_says() -> None:
    probabilities, image = draw((6, 5, 4), 3, 2)
    crf = DenseCrf(window_mm=2.4)
    expected = compute_by_force(probabilities, image, SPACING, crf, window=2.4)
    torch.testing.assert_close(refine_probabilities(probabilities, image, SPACING, crf), expected, atol=1e-8, rtol=0)
    assert not torch.allclose(compute_by_force(probabilities, image, SPACING, crf), expected, atol=1e-4)


def test_logits_and_probabilities_are_one_and_sum_to_one() -> None:
    probabilities, image = draw((6, 5, 4), 3, 1)
    found = refine_logits(torch.log(probabilities) + 5.0, image, SPACING, DenseCrf())
    torch.testing.assert_close(found, refine_probabilities(probabilities, image, SPACING, DenseCrf()))
    torch.testing.assert_close(found.sum(0), torch.ones(6, 5, 4, dtype=torch.float64))


def test_without_weights_nothing_changes() -> None:
    probabilities, image = draw((6, 5, 4), 3, 1)
    crf = DenseCrf(appearance=0, smoothness=0)
    found = refine_probabilities(probabilities, image, SPACING, crf)
    torch.testing.assert_close(found, probabilities.clamp(1e-3) / probabilities.clamp(1e-3).sum(0))


def test_a_uniform_field_stays_uniform() -> None:
    image = draw((6, 5, 4), 3, 1)[1]
    found = refine_probabilities(torch.full((4, 6, 5, 4), 0.25, dtype=torch.float64), image, SPACING, DenseCrf())
    torch.testing.assert_close(found, torch.full_like(found, 0.25))


@pytest.mark.parametrize("shape", [(24, 20, 1), (16, 14, 8)])
def test_the_border_goes_where_the_image_says(shape: tuple[int, int, int]) -> None:
    truth = torch.zeros(shape)
    truth[6:12, 5:12] = 1
    image = (100 * truth + 5 * torch.randn(shape, generator=torch.Generator().manual_seed(1)))[None]
    shifted = torch.roll(truth, 1, 0)
    foreground = 0.2 + 0.5 * shifted
    found = refine_probabilities(
        torch.stack([1 - foreground, foreground]), image, (1.0, 1.0, 1.0), DenseCrf(appearance=5.0)
    )
    wrong_before = ((foreground > 0.5) != truth.bool()).sum()
    assert wrong_before > 0
    assert (found.argmax(0) != truth).sum() == 0
    blind = refine_probabilities(
        torch.stack([1 - foreground, foreground]), torch.zeros_like(image), (1.0, 1.0, 1.0), DenseCrf()
    )
    assert (blind.argmax(0) != truth).sum() >= wrong_before / 2  # without an image it cannot know


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"appearance_mm": 0}, "crf: appearance_mm is 0; expected a number above 0"),
        ({"intensity_sd": -1.0}, "intensity_sd is -1.0"),
        ({"smoothness": -1}, "smoothness is -1"),
        ({"iterations": 2.5}, "iterations is 2.5; expected a whole number"),
        ({"window_mm": float("nan")}, "window_mm is nan"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseCrf(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    probabilities, image = draw((6, 5, 4), 3, 1)
    with pytest.raises(ValueError, match=r"got \(3, 6, 5, 4\) and \(1, 6, 5, 3\)"):
        refine_probabilities(probabilities, image[..., :3], SPACING, DenseCrf())
    with pytest.raises(ValueError, match="two or more classes"):
        refine_probabilities(probabilities[:1], image, SPACING, DenseCrf())


def test_one_voxel_has_no_neighbours() -> None:
    probabilities = torch.tensor([0.3, 0.7]).reshape(2, 1, 1, 1)
    found = refine_probabilities(probabilities, torch.ones(1, 1, 1, 1), SPACING, DenseCrf())
    assert np.allclose(found, probabilities)
