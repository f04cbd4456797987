"""Preprocessed cases are made once, found again, and made anew when anything that shapes them has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import build_plan_for

from medunet.errors import LabelError
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.planning import Normalization, Plan
from medunet.preprocessing import prepare_cases, preprocess_image
from medunet.preprocessing.prepare import compute_store_key
from medunet.tasks import Case, Task, read_case
from medunet.volume import Volume

SHAPE = (16, 18, 14)
CONTENT: dict[str, Any] = {
    "name": "x",
    "title": "x",
    "modality": "CT",
    "channels": ["ct"],
    "labels": {"a": 4, "b": 700},
    "ignore": 9,
    "intensity": "none",
}


@pytest.fixture
def task() -> Task:
    return Task.model_validate(CONTENT)


@pytest.fixture
def plan(task: Task) -> Plan:
    return build_plan_for(task, (1.0, 1.0, 1.5), (8, 8, 8))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Two blocks and an ignored corner, on an LPI grid."""
    image = np.random.default_rng(0).normal(0, 100, SHAPE).astype(np.float32)
    labels = np.zeros(SHAPE, np.int32)
    labels[2:6, 3:8, 4:9], labels[9:13, 3:8, 4:9], labels[:2, :2, :2] = 4, 700, 9
    affine = np.diag([-1.0, -1.0, -1.5, 1.0])
    paths = tmp_path / "i.nii.gz", tmp_path / "l.nii.gz"
    write_nifti_image(Volume(image[None], affine), paths[0])
    write_nifti_labels(Volume(labels[None], affine), paths[1])
    return Case(case_id="p1", images=(paths[0],), labels=paths[1])


def test_what_is_stored(case: Case, task: Task, plan: Plan, tmp_path: Path) -> None:
    (stored,) = prepare_cases([case], task, plan, tmp_path / "store")
    image = preprocess_image(read_case(case, task)[0], plan)
    whole = tuple(slice(0, size) for size in stored.shape)
    found, codes = stored.read_box(whole)  # type: ignore[arg-type]
    assert stored.shape == image.spatial_shape == SHAPE
    assert np.array_equal(found.numpy(), image.array)
    # The file runs from right to left, the network's grid from left to right.
    assert codes.dtype == torch.uint8
    assert torch.bincount(codes.flatten()).nonzero().flatten().tolist() == [0, 1, 2, 255]
    assert (codes[10:14, 10:15, 5:10] == 1).all()
    assert (codes[3:7, 10:15, 5:10] == 2).all()
    assert (codes == 1).sum() == (codes == 2).sum() == 100
    assert stored.fill.tolist() == [image.array.min()]


@pytest.mark.parametrize("memory_gib", [4.0, 0.0])
def test_foreground_positions_carry_their_code(
    case: Case, task: Task, plan: Plan, tmp_path: Path, memory_gib: float
) -> None:
    (stored,) = prepare_cases([case], task, plan, tmp_path / "store", memory_gib=memory_gib)
    _, codes = stored.read_box(tuple(slice(0, size) for size in stored.shape))  # type: ignore[arg-type]
    assert sorted(stored.foreground) == [1, 2]  # neither background nor ignored voxels
    for code, positions in stored.foreground.items():
        assert positions.shape == (100, 3)
        assert len({tuple(position) for position in positions.tolist()}) == 100
        i, j, k = positions.long().unbind(1)
        assert (codes[i, j, k] == code).all()


def test_many_positions_are_thinned(case: Case, task: Task, plan: Plan, tmp_path: Path) -> None:
    large = np.full((1, 20, 20, 20), 4, np.uint8)
    write_nifti_image(Volume(large.astype(np.float32), np.eye(4)), case.images[0])
    write_nifti_labels(Volume(large, np.eye(4)), case.labels)
    first, second = (prepare_cases([case], task, plan, tmp_path / name)[0] for name in "ab")
    assert first.foreground[1].shape == (5_000, 3)
    assert torch.equal(first.foreground[1], second.foreground[1])


@pytest.mark.parametrize("box", [(slice(0, 16), slice(0, 18), slice(0, 14)), (slice(3, 9), slice(17, 18), slice(0, 5))])
def test_the_disk_gives_what_memory_gives(case: Case, task: Task, plan: Plan, tmp_path: Path, box: Any) -> None:
    (in_memory,) = prepare_cases([case], task, plan, tmp_path / "store")
    (on_disk,) = prepare_cases([case], task, plan, tmp_path / "store", memory_gib=0)
    assert in_memory.image is not None
    assert on_disk.image is on_disk.labels is None
    for mine, other in zip(in_memory.read_box(box), on_disk.read_box(box), strict=True):
        assert mine.shape[-3:] == tuple(edge.stop - edge.start for edge in box)
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)


def test_a_case_is_made_once(case: Case, task: Task, plan: Plan, tmp_path: Path) -> None:
    seen: list[str] = []
    (first,) = prepare_cases([case], task, plan, tmp_path / "store", on_case=seen.append)
    os.utime(first.path, ns=(1, 1))  # a new file would not keep this time
    (second,) = prepare_cases([case], task, plan, tmp_path / "store", on_case=seen.append)
    assert second.path == first.path
    assert first.path.stat().st_mtime_ns == 1
    assert seen == ["p1", "p1"]
    assert [path.name for path in (tmp_path / "store").iterdir()] == [first.path.name]


def _with_normalization(plan: Plan) -> Plan:
    rule = Normalization(rule="ct-window", lower=-1, upper=1, mean=0, std=1)
    return plan.model_copy(update={"normalization": (rule,)})


@pytest.mark.parametrize(
    "change",
    [
        lambda task, plan: (task, plan.model_copy(update={"spacing": (1.0, 1.0, 1.6)})),
        lambda task, plan: (task, _with_normalization(plan)),
        lambda task, plan: (task, plan.model_copy(update={"modality": "MR"})),
        lambda task, plan: (Task.model_validate(CONTENT | {"ignore": 700, "labels": {"a": 4, "b": 9}}), plan),
        lambda task, plan: (Task.model_validate(CONTENT | {"labels": {"b": 700, "a": 4}}), plan),
    ],
    ids=["spacing", "normalization", "modality", "ignore", "order of labels"],
)
def test_other_rules_make_it_anew(case: Case, task: Task, plan: Plan, tmp_path: Path, change: Any) -> None:
    (before,) = prepare_cases([case], task, plan, tmp_path / "store")
    new_task, new_plan = change(task, plan)
    (after,) = prepare_cases([case], new_task, new_plan, tmp_path / "store")
    assert after.path != before.path
    assert before.path.is_file()


def test_what_does_not_shape_it_does_not_matter(case: Case, task: Task, plan: Plan) -> None:
    other = plan.model_copy(update={"batch_size": 9, "patch_size": (4, 4, 4), "reasons": {"spacing": "another"}})
    titled = task.model_copy(update={"title": "another"})
    assert compute_store_key(case, titled, other) == compute_store_key(case, task, plan)


@pytest.mark.parametrize("which", ["image", "labels"])
def test_another_file_makes_it_anew(case: Case, task: Task, plan: Plan, which: str) -> None:
    before = compute_store_key(case, task, plan)
    path = case.images[0] if which == "image" else case.labels
    os.utime(path, ns=(5, 5))
    assert compute_store_key(case, task, plan) != before


def test_an_edited_case_is_read_again(case: Case, task: Task, plan: Plan, tmp_path: Path) -> None:
    prepare_cases([case], task, plan, tmp_path / "store")
    write_nifti_image(Volume(np.full((1, *SHAPE), 55, np.float32), np.diag([-1.0, -1.0, -1.5, 1.0])), case.images[0])
    (stored,) = prepare_cases([case], task, plan, tmp_path / "store")
    assert stored.fill.tolist() == [55.0]


def test_a_faulty_case_leaves_nothing_behind(case: Case, task: Task, plan: Plan, tmp_path: Path) -> None:
    write_nifti_labels(Volume(np.full((1, *SHAPE), 5, np.uint8), np.diag([-1.0, -1.0, -1.5, 1.0])), case.labels)
    with pytest.raises(LabelError, match="label value"):
        prepare_cases([case], task, plan, tmp_path / "store")
    assert not list(tmp_path.glob("store/*"))
