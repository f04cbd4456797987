"""Labels of the first stage of a cascade: where they lie in a patch, what is done to them, and what the network sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny_training import build_tiny_plan, build_tiny_task
from torch import Tensor

from medunet.augmentation import AugmentationPolicy, SpatialChange, apply_intensity, build_policy, sample_change
from medunet.planning import Plan
from medunet.preprocessing import StoredCase
from medunet.preprocessing.case_file import DamagedCaseError, open_case_file
from medunet.preprocessing.store import serialize_previous_labels
from medunet.tasks import Task, load_task
from medunet.training import sampling
from medunet.training.engine import Engine
from medunet.training.patches import read_patch, read_previous_patch
from medunet.training.previous_labels import (
    Operator,
    PreviousChange,
    Removal,
    Reshaping,
    apply_previous_change,
    build_channel_table,
    sample_previous_change,
    to_channels,
)
from medunet.training.sampling import PatchSampler
from medunet.training.validation import compute_stored_dice

CPU = torch.device("cpu")
SPACING = (0.8, 1.0, 2.1)
ALWAYS = AugmentationPolicy(
    rotation_probability=1, scaling_probability=1, elastic_probability=1, mirror_probability=1, mirror_axes=(0,)
)
OPERATORS: dict[str, Callable[..., Any]] = {
    "dilation": ndimage.binary_dilation,
    # Beyond the patch a label goes on, as in nnU-Net.
    "erosion": lambda mask, ball: ndimage.binary_erosion(mask, ball, border_value=1),
    "opening": lambda mask, ball: ndimage.binary_dilation(ndimage.binary_erosion(mask, ball, border_value=1), ball),
    "closing": lambda mask, ball: ndimage.binary_erosion(ndimage.binary_dilation(mask, ball), ball, border_value=1),
}


def make_codes(shape: tuple[int, int, int] = (26, 31, 22), *, num_codes: int = 4, seed: int = 0) -> Tensor:
    """Blobs that touch one another and the border."""
    noise = np.random.default_rng(seed).normal(size=(num_codes, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 2.5, 2.5, 2.5))
    return torch.from_numpy(smooth.argmax(0).astype(np.uint8))


def make_ball(radius: int) -> Any:
    squares = (np.indices((2 * radius + 1,) * 3) - radius) ** 2
    return squares.sum(0) <= radius**2


def reshape_one_hot(codes: Tensor, reshapings: Sequence[Reshaping]) -> Tensor:
    """nnU-Net's way, on one map per label: what a label gains is taken from the others."""
    maps = {code: (codes == code).numpy() for code in range(1, int(codes.max()) + 1)}
    for reshaping in reshapings:
        before = maps[reshaping.code]
        after = OPERATORS[reshaping.operator](before, make_ball(reshaping.radius))
        for code in maps:
            maps[code] = after if code == reshaping.code else maps[code] & ~(after & ~before)
    return sum((torch.from_numpy(mask).to(torch.uint8) * code for code, mask in maps.items()), torch.zeros_like(codes))


def add_previous(case: StoredCase, previous: Tensor, folder: Path) -> StoredCase:
    path = folder / f"{case.case_id}.safetensors"
    path.write_bytes(serialize_previous_labels(previous.numpy()))
    return case.add_previous(open_case_file(path))


@pytest.fixture
def labelled(make_case: Callable[..., StoredCase], tmp_path: Path) -> StoredCase:
    """A case whose previous labels are its own: whatever becomes of a patch, both must stay the same."""
    codes = make_codes(num_codes=3)
    case = make_case(shape=tuple(codes.shape), foreground={1: [(5, 6, 7)], 2: [(20, 6, 7)]})
    return add_previous(dataclasses.replace(case, labels=codes), codes, tmp_path)


# ---- what is done to them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", list(OPERATORS))
@pytest.mark.parametrize("radius", [1, 3, 8])
def test_labels_are_reshaped_with_balls(operator: Operator, radius: int) -> None:
    codes = make_codes()
    reshapings = (Reshaping(code=2, operator=operator, radius=radius),)
    found = apply_previous_change(codes, PreviousChange(reshapings=reshapings))
    assert torch.equal(found, reshape_one_hot(codes, reshapings))
    assert not torch.equal(found, codes)


def test_a_small_label_is_reshaped_as_in_the_whole_patch() -> None:
    """Only the box around a label is computed; nothing may show that."""
    codes = torch.zeros((40, 38, 36), dtype=torch.uint8)
    codes[10:30, 10:28, 14:18], codes[18:22, 17:21, 20:24], codes[32:36, 17:21, 14:18] = 1, 1, 2
    for operator in OPERATORS:
        reshapings = (Reshaping(code=1, operator=operator, radius=3),)  # type: ignore[arg-type]
        found = apply_previous_change(codes, PreviousChange(reshapings=reshapings))
        assert torch.equal(found, reshape_one_hot(codes, reshapings)), operator


def test_reshaping_goes_in_order() -> None:
    codes = make_codes()
    forwards = (
        Reshaping(code=3, operator="dilation", radius=4),
        Reshaping(code=1, operator="closing", radius=2),
        Reshaping(code=2, operator="dilation", radius=3),
    )
    found = apply_previous_change(codes, PreviousChange(reshapings=forwards))
    assert torch.equal(found, reshape_one_hot(codes, forwards))
    assert not torch.equal(found, apply_previous_change(codes, PreviousChange(reshapings=forwards[::-1])))


def test_what_is_not_in_the_patch_is_not_changed() -> None:
    codes = make_codes(num_codes=3)
    before = codes.clone()
    change = PreviousChange(
        reshapings=(Reshaping(code=7, operator="dilation", radius=3),), removals=(Removal(code=7, which=0.5),)
    )
    assert torch.equal(apply_previous_change(codes, change), before)
    apply_previous_change(codes, PreviousChange(reshapings=(Reshaping(code=1, operator="erosion", radius=3),)))
    assert torch.equal(codes, before)  # the case's own voxels may lie there


def test_one_small_part_is_lost() -> None:
    codes = torch.zeros((20, 20, 20), dtype=torch.uint8)
    codes[:, :, :4] = 1  # a fifth of the patch: no slip
    parts = [(slice(2, 5),) * 2, (slice(8, 12),) * 2, (slice(15, 17),) * 2]
    for i, j in parts:
        codes[i, j, 10:13] = 1
    codes[2:5, 15:18, 10:13] = 2
    for number, (i, j) in enumerate(parts):
        change = PreviousChange(removals=(Removal(code=1, which=(number + 0.5) / len(parts)),))
        expected = codes.clone()
        expected[i, j, 10:13] = 0
        assert torch.equal(apply_previous_change(codes, change), expected)


def test_draws_are_as_rare_as_stated() -> None:
    drawn = [sample_previous_change(np.random.default_rng(seed), 6) for seed in range(3000)]
    reshapings = [reshaping for change in drawn for reshaping in change.reshapings]
    removals = [removal for change in drawn for removal in change.removals]
    num_reshaped, num_removed = sum(bool(c.reshapings) for c in drawn), sum(bool(c.removals) for c in drawn)
    no_label = 0.5**5  # a patch of five labels of which none is drawn
    assert num_reshaped / 3000 == pytest.approx(0.4 * (1 - no_label), abs=0.03)
    assert num_removed / 3000 == pytest.approx(0.2 * (1 - no_label), abs=0.03)
    assert len(reshapings) / (3000 * 5) == pytest.approx(0.4 * 0.5, abs=0.015)
    assert len(removals) / (3000 * 5) == pytest.approx(0.2 * 0.5, abs=0.015)
    assert {reshaping.radius for reshaping in reshapings} == set(range(1, 9))
    assert {reshaping.operator for reshaping in reshapings} == set(OPERATORS)
    assert {reshaping.code for reshaping in reshapings} == {removal.code for removal in removals} == set(range(1, 6))
    assert len({tuple(r.code for r in c.reshapings) for c in drawn if len(c.reshapings) == 2}) > 10  # any order


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_as_many_numbers_are_drawn_whatever_happens(monkeypatch: pytest.MonkeyPatch, probability: float) -> None:
    """What is drawn afterwards must not depend on it."""

    def draw_next() -> float:
        rng = np.random.default_rng(3)
        sample_previous_change(rng, 5)
        return float(rng.random())

    usual = draw_next()
    for name in ("OPERATOR_PROBABILITY", "REMOVAL_PROBABILITY", "LABEL_PROBABILITY"):
        monkeypatch.setattr(f"medunet.training.previous_labels.{name}", probability)
    change = sample_previous_change(np.random.default_rng(3), 5)
    assert len(change.reshapings) == len(change.removals) == 4 * probability
    assert draw_next() == usual


# ---- where they lie ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("start", [(6, 9, 5), (-3, 25, 16)], ids=["inside", "across the border"])
@pytest.mark.parametrize("warps", [True, False])
def test_previous_labels_move_as_the_labels_do(labelled: StoredCase, seed: int, start: Any, warps: bool) -> None:
    size = (12, 11, 8)
    change = sample_change(ALWAYS, np.random.default_rng(seed), size, SPACING).spatial if warps else SpatialChange()
    _, codes = read_patch(labelled, start, change, size, SPACING, CPU)
    assert torch.equal(read_previous_patch(labelled, start, change, size, SPACING, CPU), codes)
    assert len(codes.unique()) == 3


@pytest.mark.parametrize("mode", ["none", "fast", "torchio"])
def test_a_batch_keeps_labels_and_previous_labels_together(
    labelled: StoredCase, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    """Cropped, turned, bent and mirrored, with left and right swapped."""
    monkeypatch.setattr(sampling, "sample_previous_change", lambda *_: PreviousChange())
    sampler = PatchSampler(
        [labelled], build_tiny_task(), (12, 11, 8), 3, SPACING, seed=0, mode=mode, policy=ALWAYS, num_workers=0
    )
    for number in range(3):
        batch = sampler.draw(number)
        assert batch.previous is not None
        assert batch.previous.dtype == torch.uint8
        assert torch.equal(batch.previous, batch.codes)
        assert len(batch.codes.unique()) == 3


def test_what_another_network_found_changes_nothing_else(labelled: StoredCase) -> None:
    alone = dataclasses.replace(labelled, previous=None)
    options: dict[str, Any] = {"seed": 0, "mode": "fast", "policy": ALWAYS, "num_workers": 0}
    samplers = [
        PatchSampler([case], build_tiny_task(), (12, 11, 8), 3, SPACING, **options) for case in (labelled, alone)
    ]
    differs = []
    for number in range(6):
        with_previous, without = (sampler.draw(number) for sampler in samplers)
        assert torch.equal(with_previous.image, without.image)
        assert torch.equal(with_previous.codes, without.codes)
        assert with_previous.changes == without.changes
        assert without.previous is None
        assert with_previous.previous is not None
        assert torch.equal(with_previous.previous, samplers[0].draw(number).previous)
        differs += [not torch.equal(a, b) for a, b in zip(with_previous.previous, with_previous.codes, strict=True)]
    assert 2 <= sum(differs) <= 14  # of 18 patches; about two in five are made worse


def test_without_augmentation_nothing_is_made_worse(labelled: StoredCase) -> None:
    sampler = PatchSampler([labelled], build_tiny_task(), (12, 11, 8), 4, SPACING, seed=0, mode="none", num_workers=0)
    for number in range(8):
        batch = sampler.draw(number)
        assert batch.previous is not None
        assert torch.equal(batch.previous, batch.codes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_the_same_patches(labelled: StoredCase) -> None:
    for number in range(20):
        batches = [
            PatchSampler(
                [labelled],
                build_tiny_task(),
                (12, 11, 8),
                2,
                SPACING,
                seed=0,
                mode="fast",
                num_workers=0,
                device=device,
            ).draw(number)
            for device in (CPU, torch.device("cuda", 0))
        ]
        previous = [batch.previous.cpu() for batch in batches if batch.previous is not None]
        assert len(previous) == 2
        assert (previous[0] != previous[1]).float().mean() < 0.01  # coordinates are rounded otherwise


# ---- how they are kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
def test_boxes_are_read_from_memory_and_disk(
    make_case: Callable[..., StoredCase], tmp_path: Path, in_memory: bool
) -> None:
    codes = make_codes((40, 35, 50))
    case = make_case(shape=(40, 35, 50))
    if not in_memory:
        case = dataclasses.replace(case, image=None, labels=None)
    with_previous = add_previous(case, codes, tmp_path)
    assert (with_previous.previous is not None) == in_memory
    assert with_previous.has_previous
    assert not case.has_previous
    box = (slice(3, 38), slice(30, 35), slice(15, 33))
    assert torch.equal(with_previous.read_previous_box(box), codes[box])


def test_they_count_in_the_checksum(make_case: Callable[..., StoredCase], tmp_path: Path) -> None:
    case = make_case(shape=(26, 31, 22))
    first, same, other = (
        add_previous(dataclasses.replace(case, case_id=name), make_codes(seed=seed), tmp_path).checksum
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == same
    assert len({case.checksum, first, other}) == 3
    assert first != add_previous(dataclasses.replace(case, checksum="ab"), make_codes(), tmp_path).checksum


def test_damage_is_noticed(make_case: Callable[..., StoredCase], tmp_path: Path) -> None:
    add_previous(make_case(shape=(26, 31, 22)), make_codes(), tmp_path)
    path = tmp_path / "a.safetensors"
    content = bytearray(path.read_bytes())
    content[-9000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedCaseError, match="SHA-256 differs"):
        make_case(shape=(26, 31, 22)).add_previous(open_case_file(path))


# ---- what the network sees ---------------------------------------------------------------------------------------------------


def test_channels_follow_the_order_of_the_task(tiny_task: Task) -> None:
    codes = torch.tensor([[[[0, 1, 2, 255]]]], dtype=torch.uint8)
    channels = to_channels(codes, build_channel_table(tiny_task))
    assert channels.shape == (1, 2, 1, 1, 4)
    assert channels.flatten(1).tolist() == [[0, 1, 0, 0, 0, 0, 1, 0]]  # left, then right


def test_regions_have_a_channel_each() -> None:
    task = load_task("brain-tumour-mr")
    codes = make_codes(num_codes=4)[None]
    channels = to_channels(codes, build_channel_table(task))
    for channel, values in zip(channels[0], task.labels.values(), strict=True):
        members = [task.all_values.index(value) + 1 for value in values]
        assert torch.equal(channel.bool(), torch.isin(codes[0], torch.tensor(members)))
    assert channels.dtype == torch.float32


def build_cascade_plan() -> Plan:
    plan = build_tiny_plan()
    network = plan.network.model_copy(update={"in_channels": 3})
    return plan.model_copy(update={"configuration": "cascade", "num_previous_labels": 2, "network": network})


def test_the_network_sees_changed_intensities_and_unchanged_labels(
    labelled: StoredCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, task = build_cascade_plan(), build_tiny_task()
    policy = dataclasses.replace(
        build_policy("MR"), noise_probability=1.0, brightness_probability=1.0, blur_probability=1.0
    )
    sampler = PatchSampler(
        [labelled], task, plan.patch_size, 2, SPACING, seed=0, mode="fast", policy=policy, num_workers=0
    )
    batch = sampler.draw(0)
    assert batch.previous is not None
    assert len(batch.changes) == 2
    engine = Engine(plan, task, device=CPU, precision="32-true")
    seen: list[Tensor] = []
    compute = engine._scales.compute
    monkeypatch.setattr(engine._scales, "compute", lambda patches: (seen.append(patches.clone()), compute(patches))[1])
    image, previous = batch.image.clone(), batch.previous.clone()
    engine.step(batch, 1e-3)
    (patches,) = seen
    assert torch.equal(patches[:, :1], apply_intensity(image, batch.changes))
    assert torch.equal(patches[:, 1], (previous == 1).float())
    assert torch.equal(patches[:, 2], (previous == 2).float())
    assert patches[:, 1:].sum() > 0


def test_the_quick_look_shows_them_to_the_network(labelled: StoredCase) -> None:
    class _Copy(torch.nn.Module):
        """Says what it is told, and background elsewhere."""

        def forward(self, patches: Tensor) -> Tensor:
            return torch.cat([torch.full_like(patches[:, :1], 0.5), patches[:, 1:]], dim=1)

    dice = compute_stored_dice(_Copy(), [labelled], build_tiny_task(), build_cascade_plan(), CPU, "32-true")
    assert dice == 1.0
