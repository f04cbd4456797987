"""The policy as MONAI transforms: the patch comes out, labels are labels, the seed decides.

That the transforms do what the plain-torch path does stands in test_peers.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medunet.augmentation import AugmentationPolicy, build_policy
from medunet.augmentation.monai_policy import IMAGE, LABELS, build_monai_augmentation, compute_margin_size

NAMES = [
    "rotation",
    "scaling",
    "elastic",
    "noise",
    "blur",
    "brightness",
    "contrast",
    "low_resolution",
    "gamma",
    "inverted_gamma",
    "bias_field",
    "ghosting",
    "motion",
    "anisotropy",
]
INTENSITY = NAMES[3:]
PATCHES = [((16, 12, 20), (1.0, 1.2, 0.8)), ((12, 16, 8), (0.8, 0.8, 3.0)), ((16, 20, 1), (1.0, 1.0, 3.0))]


def only(*names: str, **ranges: Any) -> AugmentationPolicy:
    probabilities = {f"{name}_probability": float(name in names) for name in NAMES}
    return AugmentationPolicy(**({"channel_probability": 1.0} | probabilities | ranges))  # type: ignore[arg-type]


def make_data(patch_size: Any, spacing: Any, *, num_channels: int = 2) -> dict[str, Any]:
    size = compute_margin_size(patch_size)
    generator = torch.Generator().manual_seed(0)
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    codes = torch.tensor([0, 1, 4, 255], dtype=torch.uint8)[torch.randint(0, 4, (1, *size), generator=generator)]
    image = torch.randn((num_channels, *size), generator=generator)
    return {IMAGE: MetaTensor(image, affine=affine), LABELS: MetaTensor(codes, affine=affine)}


def apply(transform: Compose, data: dict[str, Any], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    transform.set_random_state(seed=seed)
    changed = transform(dict(data))
    return changed[IMAGE].as_tensor(), changed[LABELS].as_tensor()


@pytest.mark.parametrize(("patch_size", "spacing"), PATCHES)
@pytest.mark.parametrize("policy", [build_policy("MR"), only(*NAMES), only()], ids=["MR", "all", "none"])
def test_the_patch_comes_out(patch_size: Any, spacing: Any, policy: AugmentationPolicy) -> None:
    transform, data = build_monai_augmentation(policy, patch_size, spacing), make_data(patch_size, spacing)
    for seed in range(4):
        image, codes = apply(transform, data, seed)
        assert image.shape == (2, *patch_size)
        assert codes.shape == (1, *patch_size)
        assert image.dtype == torch.float32
        assert torch.isfinite(image).all()
        assert set(codes.unique().tolist()) <= {0, 1, 4, 255}


def test_nothing_is_the_centre() -> None:
    data = make_data((16, 12, 20), (1.0, 1.2, 0.8))
    image, codes = apply(build_monai_augmentation(only(), (16, 12, 20), (1.0, 1.2, 0.8)), data, 0)
    assert compute_margin_size((16, 12, 20)) == (20, 14, 24)
    centre = (slice(None), slice(2, 18), slice(1, 13), slice(2, 22))
    assert torch.equal(image, data[IMAGE].as_tensor()[centre])
    assert torch.equal(codes, data[LABELS].as_tensor()[centre])


@pytest.mark.parametrize("name", NAMES)
def test_every_change_of_the_policy_has_an_effect(name: str) -> None:
    patch_size, spacing = PATCHES[0]
    data = make_data(patch_size, spacing)
    still, still_codes = apply(build_monai_augmentation(only(), patch_size, spacing), data, 3)
    image, codes = apply(build_monai_augmentation(only(name), patch_size, spacing), data, 3)
    assert not torch.equal(image, still)
    assert torch.equal(codes, still_codes) == (name in INTENSITY)


@pytest.mark.parametrize("seed", [3, 4])
def test_the_seed_decides(seed: int) -> None:
    patch_size, spacing = PATCHES[0]
    data = make_data(patch_size, spacing)
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        results.append(apply(build_monai_augmentation(only(*NAMES), patch_size, spacing), data, seed))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(
        apply(build_monai_augmentation(only(*NAMES), patch_size, spacing), data, 9)[0], results[0][0]
    )


def test_the_global_generator_and_the_input_are_left_alone() -> None:
    patch_size, spacing = PATCHES[0]
    data, untouched = make_data(patch_size, spacing), make_data(patch_size, spacing)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    apply(build_monai_augmentation(only(*NAMES), patch_size, spacing), data, 3)
    assert torch.equal(torch.get_rng_state(), before)
    for key in (IMAGE, LABELS):
        assert torch.equal(data[key].as_tensor(), untouched[key].as_tensor())


def test_it_stands_in_a_pipeline() -> None:
    """Other entries pass through, and the patch keeps its place in the world."""
    patch_size, spacing = PATCHES[0]
    data = make_data(patch_size, spacing) | {"case_id": "p012"}
    data[IMAGE].meta["filename_or_obj"] = "somewhere"
    transform = Compose([build_monai_augmentation(only(*NAMES), patch_size, spacing)])
    transform.set_random_state(seed=1)
    changed = transform(data)
    assert changed["case_id"] == "p012"
    assert changed[IMAGE].meta["filename_or_obj"] == "somewhere"
    margin = [2.0 * 1.0, 1.0 * 1.2, 2.0 * 0.8]
    for key in (IMAGE, LABELS):
        assert changed[key].affine[:3, 3].tolist() == pytest.approx(margin)


def test_image_and_labels_move_alike() -> None:
    """A ball in the image, cut at one half, is the ball in the label map, but for the rounding of its border."""
    patch_size, spacing = PATCHES[0]
    data = make_data(patch_size, spacing, num_channels=1)
    size = data[IMAGE].shape[1:]
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in size], indexing="ij"), -1)
    ball = ((grid * torch.tensor(spacing)).norm(dim=-1) < 5.0)[None]
    data[IMAGE] = MetaTensor(ball.float(), affine=data[IMAGE].affine)
    data[LABELS] = MetaTensor(ball.to(torch.uint8) * 4, affine=data[LABELS].affine)
    still = apply(build_monai_augmentation(only(), patch_size, spacing), data, 0)[1] == 4
    for seed in range(3):
        policy = only("rotation", "scaling", "elastic", scaling=(0.7, 0.75))
        image, codes = apply(build_monai_augmentation(policy, patch_size, spacing), data, seed)
        by_image, by_label = image > 0.5, codes == 4
        assert 2 * (by_image & by_label).sum() / (by_image.sum() + by_label.sum()) > 0.93
        assert 0.3 < by_label.sum() / still.sum() < 0.9  # a zoom of 0.7 to 1


@pytest.mark.parametrize("name", ["contrast", "gamma", "inverted_gamma"])
def test_intensities_keep_their_mean(name: str) -> None:
    patch_size, spacing = PATCHES[0]
    data = make_data(patch_size, spacing, num_channels=1)
    still, _ = apply(build_monai_augmentation(only(), patch_size, spacing), data, 3)
    image, _ = apply(build_monai_augmentation(only(name), patch_size, spacing), data, 3)
    assert image.mean().item() == pytest.approx(still.mean().item(), abs=0.02)
    if name == "contrast":
        assert still.min() <= image.min()
        assert image.max() <= still.max()


@pytest.mark.parametrize("name", ["rotation", "scaling", "elastic", "blur", "low_resolution"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_turned_and_blurred_within_itself(name: str, axis: int) -> None:
    """A slice of ones stays ones inside, and the slice's stripes are not pressed together by a turn out of the plane."""
    patch_size = [24, 24, 24]
    patch_size[axis] = 1
    data = make_data(patch_size, (1.0, 1.0, 1.0), num_channels=1)
    data[IMAGE] = torch.ones_like(data[IMAGE])
    policy = only(name, scaling=(1.0, 1.0), rotation_degrees=0.0 if name == "scaling" else 30.0)
    transform = build_monai_augmentation(policy, tuple(patch_size), (1.0, 1.0, 1.0))  # type: ignore[arg-type]
    inner = tuple(slice(None) if size == 1 else slice(6, -6) for size in (2, *patch_size)[1:])
    for seed in range(3):
        image, _ = apply(transform, data, seed)
        assert torch.allclose(image[0][inner], torch.ones(()), atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_turns_without_losing_length(axis: int) -> None:
    """The distance from the centre, painted as intensity, is the same after any turn within the slice."""
    patch_size = [25, 25, 25]
    patch_size[axis] = 1
    data = make_data(patch_size, (1.0, 1.0, 1.0), num_channels=1)
    size = data[IMAGE].shape[1:]
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in size], indexing="ij"), -1)
    data[IMAGE] = MetaTensor(grid.norm(dim=-1)[None].float(), affine=data[IMAGE].affine)
    still, _ = apply(build_monai_augmentation(only(), tuple(patch_size), (1.0,) * 3), data, 0)  # type: ignore[arg-type]
    policy = only("rotation", scaling=(1.0, 1.0), rotation_degrees=45.0)
    transform = build_monai_augmentation(policy, tuple(patch_size), (1.0,) * 3)  # type: ignore[arg-type]
    inner = (slice(None), *[slice(None) if size == 1 else slice(4, -4) for size in patch_size])
    for seed in range(4):
        image, _ = apply(transform, data, seed)
        assert not torch.equal(image, still)
        assert (image - still)[inner].abs().max() < 0.6
