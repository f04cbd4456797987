"""TorchIO through MONAI's door: labels stay labels, geometry and type stay, and the seed decides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medunet.augmentation.torchio_elastic import RandTorchIOElasticd

SHAPE = (20, 24, 16)
SPACING = (1.0, 0.8, 2.0)


def build(*, prob: float = 1.0, seed: int = 0, displacement_mm: float = 1.8) -> RandTorchIOElasticd:
    transform = RandTorchIOElasticd(
        ["image", "labels"],
        label_keys="labels",
        prob=prob,
        num_control_points=6,
        max_displacement_mm=(displacement_mm,) * 3,
    )
    transform.set_random_state(seed=seed)
    return transform


def make_data(image_dtype: Any = torch.float32, label_dtype: Any = torch.uint8) -> dict[str, Any]:
    """A ball as image and as label, and two more labels around it."""
    affine = torch.diag(torch.tensor([*SPACING, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-31.0, 12.5, 40.25])
    grid = torch.stack(torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij"), -1)
    distance_mm = ((grid - torch.tensor([10, 12, 8])) * torch.tensor(SPACING)).norm(dim=-1)
    labels = torch.zeros(SHAPE)
    labels[distance_mm < 9], labels[distance_mm < 6] = 255, 3
    image = torch.stack([(distance_mm < 6).float(), grid[..., 0].float()])
    meta = {"filename_or_obj": "somewhere"}
    return {
        "image": MetaTensor(image.to(image_dtype), affine=affine, meta=dict(meta)),
        "labels": MetaTensor(labels[None].to(label_dtype), affine=affine, meta=dict(meta)),
        "case_id": "p012",
    }


def test_labels_stay_in_their_set_and_move() -> None:
    data = make_data()
    changed = build()(data)
    assert set(changed["labels"].unique().tolist()) == {0, 3, 255}
    assert not torch.equal(changed["labels"].as_tensor(), data["labels"].as_tensor())
    assert changed["case_id"] == "p012"


@pytest.mark.parametrize("image_dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int16, torch.int64])
def test_affine_meta_and_dtype_are_kept(image_dtype: Any, label_dtype: Any) -> None:
    data = make_data(image_dtype, label_dtype)
    changed = build()(data)
    for key, dtype in (("image", image_dtype), ("labels", label_dtype)):
        assert isinstance(changed[key], MetaTensor)
        assert changed[key].dtype == dtype
        assert changed[key].shape == data[key].shape
        assert torch.equal(changed[key].affine, data[key].affine)
        assert changed[key].affine.dtype == torch.float64
        assert changed[key].meta["filename_or_obj"] == "somewhere"


def test_image_and_label_move_alike() -> None:
    """The ball in the image, cut at one half, is the ball in the label map, but for the rounding of its border."""
    changed = build()(make_data())
    by_image = changed["image"].as_tensor()[0] > 0.5
    by_label = changed["labels"].as_tensor()[0] == 3
    before = make_data()["labels"].as_tensor()[0] == 3

    def compute_dice(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(2 * (a & b).sum() / (a.sum() + b.sum()))

    assert compute_dice(by_image, by_label) > 0.95
    assert compute_dice(before, by_label) < compute_dice(by_image, by_label) - 0.03


def test_the_seed_decides() -> None:
    first, second, other = (build(seed=seed)(make_data()) for seed in (4, 4, 5))
    for key in ("image", "labels"):
        assert torch.equal(first[key].as_tensor(), second[key].as_tensor())
        assert not torch.equal(first[key].as_tensor(), other[key].as_tensor())


def test_compose_hands_the_seed_down() -> None:
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        compose = Compose([build(seed=global_seed)])
        compose.set_random_state(seed=9)
        results.append(compose(make_data())["image"].as_tensor())
    assert torch.equal(*results)


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_the_global_generator_is_left_alone(prob: float) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    build(prob=prob)(make_data())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_input_is_left_alone() -> None:
    data, untouched = make_data(), make_data()
    build()(data)
    for key in ("image", "labels"):
        assert torch.equal(data[key].as_tensor(), untouched[key].as_tensor())


def test_without_luck_nothing_happens() -> None:
    data = make_data()
    changed = build(prob=0.0)(data)
    assert changed["image"] is data["image"]
    applied = sum(build(prob=0.25, seed=seed)(data)["image"] is not data["image"] for seed in range(40))
    assert 3 <= applied <= 18


def test_millimetres_are_millimetres() -> None:
    """The ramp along the first axis counts voxels of 1 mm: inside, no value moves by more than the displacement."""
    data = make_data()
    moved = (build(displacement_mm=1.8)(data)["image"] - data["image"]).as_tensor()[1]
    inner = moved[3:-3, 4:-4, 2:-2]
    assert 0.3 < inner.abs().max() <= 1.8
