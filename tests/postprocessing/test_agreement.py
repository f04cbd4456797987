"""Agreement of members, counted tile by tile."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from medunet.postprocessing import AgreementCounter, AgreementCounts, compute_agreement, decide, join_agreement
from medunet.tasks import Task

ORGANS = Task(
    name="organs-ct",
    title="Organs",
    modality="CT",
    channels=("ct",),
    labels={"liver": (1,), "spleen": (5,), "kidney": (2,)},  # type: ignore[arg-type]
    intensity="none",
)
TUMOUR = Task(
    name="tumour-mr",
    title="Tumour",
    modality="MR",
    channels=("t1",),
    labels={"whole": (1, 2), "core": (2,)},
    intensity="zscore",
)


def test_two_members_by_hand() -> None:
    counter = AgreementCounter(ORGANS, "2 flips", 2)
    mean = torch.tensor([[[1, 1, 1, 2, 0, 0]]], dtype=torch.uint8)
    members = torch.tensor([[[[1, 1, 1, 2, 0, 0]]], [[[1, 1, 0, 0, 1, 0]]]], dtype=torch.uint8)
    counter.add(members, mean)
    counts = counter.read()
    assert counts.members == "2 flips"
    assert counts.common == {"liver": (3, 2), "spleen": (1, 0), "kidney": (0, 0)}
    assert counts.total == {"liver": (6, 6), "spleen": (2, 1), "kidney": (0, 0)}
    assert compute_agreement(counts) == {
        "liver": pytest.approx((1 + 2 / 3) / 2),
        "spleen": pytest.approx(0.5),  # one member found none of it
        "kidney": None,
    }


def test_regions_may_overlap() -> None:
    counter = AgreementCounter(TUMOUR, "2 folds", 2)
    logits = torch.tensor(
        [[[1.0, 1, 1, -1], [-1, 1, -1, -1]], [[1, 1, -1, -1], [-1, 1, 1, -1]]]
    )  # (members, regions, x)
    logits = logits[:, None, :, None, None]  # one tile: (members, B, regions, I, J, K)
    mean = decide(logits.mean(0), has_regions=True)
    counter.add(torch.stack([decide(of_member, has_regions=True) for of_member in logits]), mean)
    counts = counter.read()
    # The mean of the logits of the third voxel is 0 in both regions: outside.
    assert counts.common == {"whole": (2, 2), "core": (1, 1)}
    assert counts.total == {"whole": (5, 4), "core": (2, 3)}


@pytest.mark.parametrize("task", [ORGANS, TUMOUR], ids=lambda task: task.name)
def test_tile_by_tile_is_the_same_as_all_at_once(task: Task) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((4, 3, task.num_outputs, 5, 6, 7), generator=generator)  # (members, B, outputs, I, J, K)
    members = torch.stack([decide(of_member, has_regions=task.has_regions) for of_member in logits])
    mean = decide(logits.mean(0), has_regions=task.has_regions)
    at_once, in_turn = (AgreementCounter(task, "4 folds", 4) for _ in range(2))
    at_once.add(members, mean)
    for tile in range(3):
        in_turn.add(members[:, tile : tile + 1], mean[tile : tile + 1])
    assert in_turn.read() == at_once.read()
    # And as numpy counts it.
    for place, name in enumerate(task.labels):
        inside = members[:, :, place].numpy() if task.has_regions else members.numpy() == place + 1
        of_mean = mean[:, place].numpy() if task.has_regions else mean.numpy() == place + 1
        assert at_once.read().common[name] == tuple(int((one & of_mean).sum()) for one in inside)
        assert at_once.read().total[name] == tuple(int(one.sum() + of_mean.sum()) for one in inside)


def test_the_same_members_agree_wholly_and_others_less_the_more_they_differ() -> None:
    generator = np.random.default_rng(0)
    mean = torch.from_numpy(generator.integers(0, 4, (20, 20, 20)).astype(np.uint8))
    values = []
    for share in (0.0, 0.1, 0.4):
        noise = torch.from_numpy(generator.random((3, 20, 20, 20)) < share)
        members = torch.where(noise, torch.zeros_like(mean), mean)
        counter = AgreementCounter(ORGANS, "3 flips", 3)
        counter.add(members, mean)
        values.append(compute_agreement(counter.read())["liver"])
    assert values[0] == 1
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]


def test_no_tile_means_no_agreement() -> None:
    assert set(compute_agreement(AgreementCounter(ORGANS, "2 flips", 2).read()).values()) == {None}


def test_networks_are_joined_each_with_its_own_mean() -> None:
    one = AgreementCounts(members="2 flips", common={"liver": (3, 4)}, total={"liver": (8, 8)})
    other = AgreementCounts(members="2 flips", common={"liver": (4, 4)}, total={"liver": (8, 8)})
    joined = join_agreement([one, other])
    assert joined.members == "2 flips"
    assert compute_agreement(joined) == {"liver": pytest.approx((0.75 + 1 + 1 + 1) / 4)}
    with pytest.raises(ValueError, match="expected the same for all"):
        join_agreement([one, dataclasses.replace(other, members="4 flips")])
    with pytest.raises(ValueError, match="expected the same for all"):
        join_agreement([])


def test_counts_are_plain_data() -> None:
    counts = AgreementCounts(members="2 flips", common={"liver": (3, 4)}, total={"liver": (8, 8)})
    assert json.loads(json.dumps(dataclasses.asdict(counts)))["common"] == {"liver": [3, 4]}
