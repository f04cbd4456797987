"""Batch ``n`` is a function of the seed and ``n``; patches are where they should be, and mirrored ones are mirrored."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import build_plan_for

from medunet.augmentation import AugmentationPolicy, build_policy
from medunet.errors import TrainingError
from medunet.preprocessing import StoredCase, prepare_cases
from medunet.preprocessing.one_core import keeping_cores, use_one_core
from medunet.tasks import Task, read_dataset
from medunet.training.patches import crop_patch
from medunet.training.sampling import PatchSampler, _move_cases

ONE_MM = (1.0, 1.0, 1.0)
ONLY_MIRRORS = AugmentationPolicy(
    rotation_probability=0, scaling_probability=0, elastic_probability=0, mirror_probability=1, mirror_axes=(0,)
)
ALWAYS = AugmentationPolicy(rotation_probability=1, scaling_probability=1, elastic_probability=1)


def build_sampler(cases: list[StoredCase], task: Task, patch_size: Any = (6, 8, 4), **options: Any) -> PatchSampler:
    batch_size = options.pop("batch_size", 3)
    return PatchSampler(cases, task, patch_size, batch_size, ONE_MM, **({"seed": 0, "mode": "none"} | options))


def count_threads() -> int:
    return sum(thread.name == "medunet-patches" for thread in threading.enumerate())


# ---- a pure function ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["none", "fast", "torchio"])
def test_a_batch_depends_on_seed_and_number_alone(
    make_case: Callable[..., StoredCase], tiny_task: Task, mode: str
) -> None:
    cases = [make_case(name, foreground={1: [(5, 6, 7)]}) for name in "abc"]
    options: dict[str, Any] = {"mode": mode, "policy": ALWAYS}
    first, second = build_sampler(cases, tiny_task, **options), build_sampler(cases, tiny_task, **options)
    torch.manual_seed(123)
    later = [first.draw(n) for n in (0, 1, 2)][2]
    torch.rand(7)
    alone = second.draw(2)
    assert later.case_ids == alone.case_ids
    assert torch.equal(later.image, alone.image)
    assert torch.equal(later.codes, alone.codes)
    assert later.image.dtype == torch.float32
    assert later.codes.dtype == torch.uint8
    assert later.image.shape == (3, 1, 6, 8, 4)
    other = build_sampler(cases, tiny_task, **options, seed=1).draw(2)
    assert not torch.equal(later.image, other.image)
    assert not torch.equal(first.draw(3).image, later.image)


def test_iterate_gives_what_draw_gives(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    sampler = build_sampler([make_case(name) for name in "ab"], tiny_task, mode="fast")
    with closing(sampler.iterate(5)) as batches, keeping_cores():
        use_one_core()  # as the threads do: sums over several cores are rounded otherwise
        for number in range(5, 9):
            batch = next(batches)
            assert batch.iteration == number
            assert torch.equal(batch.image, sampler.draw(number).image)


def test_iterate_stops_its_thread(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    before = count_threads()
    batches = build_sampler([make_case()], tiny_task).iterate(0)
    next(batches)
    assert count_threads() == before + 1
    batches.close()
    assert count_threads() == before


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (OSError(5, "Input/output error"), r"case 'case_7' could not be made from nowhere: .*Input/output error"),
        (MemoryError(), "Out of memory while a training patch of case 'case_7' was made"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "Out of memory .* case 'case_7'"),
        (RuntimeError("something else"), "case 'case_7' could not be made from nowhere: something else"),
    ],
    ids=["disk", "numpy", "torch", "other"],
)
def test_a_fault_names_the_case_and_the_cause(
    make_case: Callable[..., StoredCase],
    tiny_task: Task,
    monkeypatch: pytest.MonkeyPatch,
    num_workers: int,
    fault: Exception,
    message: str,
) -> None:
    def fail(self: StoredCase, box: Any, device: Any = None) -> Any:
        raise fault

    monkeypatch.setattr(StoredCase, "read_box", fail)
    before = count_threads()
    batches = build_sampler([make_case("case_7")], tiny_task, num_workers=num_workers).iterate(0)
    with pytest.raises(TrainingError, match=message) as caught:
        next(batches)
    assert caught.value.__cause__ is fault
    assert count_threads() == before


def test_a_read_that_hangs_names_the_cases_and_the_file(
    make_case: Callable[..., StoredCase], tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    threading.Timer(1.0, released.set).start()
    monkeypatch.setattr(StoredCase, "read_box", lambda *_: released.wait(20))
    sampler = build_sampler([make_case("p1"), make_case("p2")], tiny_task, batch_size=2, timeout_seconds=0.1)
    with pytest.raises(TrainingError, match=r"batch 0 \(cases p[12], p[12]\) does not come, reading nowhere"):
        next(sampler.iterate(0))


@pytest.mark.parametrize("mode", ["none", "fast"])
def test_cases_on_disk_give_the_batches_of_cases_in_memory(
    tiny_data: Path, tiny_task: Task, tmp_path: Path, mode: str
) -> None:
    plan = build_plan_for(tiny_task, (1.1, 1.0, 1.4), (8, 8, 8))
    cases = read_dataset(tiny_data / "data").cases
    in_memory, on_disk = (
        build_sampler(
            prepare_cases(cases, tiny_task, plan, tmp_path, memory_gib=gib), tiny_task, mode=mode, policy=ALWAYS
        )
        for gib in (1.0, 0.0)
    )
    assert in_memory.cases[0].is_in_memory
    assert not on_disk.cases[0].is_in_memory
    for number in range(4):
        mine, other = in_memory.draw(number), on_disk.draw(number)
        assert mine.case_ids == other.case_ids
        assert torch.equal(mine.image, other.image)
        assert torch.equal(mine.codes, other.codes)
    assert any(in_memory.draw(number).codes.any() for number in range(4))


# ---- several processes, several patients, partial labels ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["none", "fast"])
def test_two_processes_draw_the_batch_of_one(make_case: Callable[..., StoredCase], tiny_task: Task, mode: str) -> None:
    cases = [make_case(name, foreground={1: [(5, 6, 7)]}) for name in "abcde"]
    whole = build_sampler(cases, tiny_task, mode=mode, policy=ALWAYS, batch_size=6)
    halves = [
        build_sampler(cases, tiny_task, mode=mode, policy=ALWAYS, batch_size=3, rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    for number in (0, 7):
        expected, parts = whole.draw(number), [half.draw(number) for half in halves]
        assert expected.case_ids == parts[0].case_ids + parts[1].case_ids
        assert expected.changes == parts[0].changes + parts[1].changes
        assert torch.equal(expected.image, torch.cat([part.image for part in parts]))
        assert torch.equal(expected.codes, torch.cat([part.codes for part in parts]))


def test_patients_take_turns_not_scans(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    cases = [make_case(name) for name in "abcd"]
    sampler = build_sampler(cases, tiny_task, batch_size=2, groups=["p", "p", "p", None])
    ids = [case_id for number in range(9) for case_id in sampler.draw(number).case_ids]
    assert {name: ids.count(name) for name in "abcd"} == {"a": 3, "b": 3, "c": 3, "d": 9}


def test_what_was_not_annotated_is_said_per_patch(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    full = make_case("full")
    half = dataclasses.replace(make_case("half"), annotated=(True, True, False))
    batch = build_sampler([full, half], tiny_task, batch_size=4).draw(0)
    assert batch.annotated is not None
    rows = dict(zip(batch.case_ids, batch.annotated.tolist(), strict=True))
    assert rows == {"full": [True, True, True], "half": [True, True, False]}
    assert build_sampler([full], tiny_task).draw(0).annotated is None


@pytest.mark.parametrize("has_regions", [False, True])
def test_what_was_annotated_changes_sides_with_the_patch(
    make_case: Callable[..., StoredCase], has_regions: bool
) -> None:
    """Of this patient only the left one was drawn: mirrored, it is a patient of whom only the right one was."""
    labels = {"all": [1, 2, 3], "left": [1], "right": [3]} if has_regions else {"left": 1, "other": 2, "right": 3}
    task = Task.model_validate(
        {
            "name": "x", "title": "x", "modality": "MR", "channels": ["t1"], "intensity": "zscore",
            "labels": labels, "laterality": [["left", "right"]],
        }
    )  # fmt: skip
    case = dataclasses.replace(
        make_case(shape=(6, 8, 4), foreground={1: [(0, 1, 2)]}),
        annotated=(False, True, False) if has_regions else (True, True, False, False),
    )
    mirrored = build_sampler([case], task, (6, 8, 4), mode="fast", policy=ONLY_MIRRORS).draw(0)
    right = [False, False, True] if has_regions else [True, False, False, True]
    assert mirrored.annotated is not None
    assert mirrored.annotated.tolist() == [right] * 3
    assert mirrored.codes.unique().tolist() == [0, 3]  # the code of the right one


def test_only_the_fast_way_leaves_intensities_to_the_device(
    make_case: Callable[..., StoredCase], tiny_task: Task
) -> None:
    cases = [make_case()]
    noisy = dataclasses.replace(ALWAYS, noise_probability=1.0)
    changes = build_sampler(cases, tiny_task, mode="fast", policy=noisy).draw(0).changes
    assert len({change.noise.seed for change in changes if change.noise}) == 3
    assert build_sampler(cases, tiny_task, mode="none", policy=noisy).draw(0).changes == ()
    assert build_sampler(cases, tiny_task, mode="torchio", policy=noisy).draw(0).changes == ()


def test_a_policy_is_that_of_the_modality_unless_given(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    assert build_sampler([make_case()], tiny_task).policy == build_policy("MR") != build_policy("CT")


# ---- which cases, which voxels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_an_epoch_covers_every_case_once(
    make_case: Callable[..., StoredCase], tiny_task: Task, batch_size: int
) -> None:
    cases = [make_case(name) for name in "abcdefg"]
    sampler = build_sampler(cases, tiny_task, batch_size=batch_size)
    ids = [case_id for number in range(21) for case_id in sampler.draw(number).case_ids]
    epochs = ["".join(ids[start : start + 7]) for start in range(0, 21 * batch_size, 7)]
    assert {"".join(sorted(epoch)) for epoch in epochs} == {"abcdefg"}
    assert len(set(epochs)) > 1


@pytest.mark.parametrize("batch_size", [2, 3, 6])
def test_patches_that_shall_show_a_label_do(
    make_case: Callable[..., StoredCase], tiny_task: Task, batch_size: int
) -> None:
    # One voxel of 80 000: chance alone would hardly ever meet it.
    case = make_case(shape=(40, 50, 40), foreground={1: [(20, 25, 20)]})
    sampler = build_sampler([case], tiny_task, (4, 4, 4), batch_size=batch_size)
    for number in range(8):
        holds = sampler.draw(number).codes.flatten(1).any(1)
        assert holds[2::3].all() if batch_size > 2 else holds[1]
        assert holds.sum() - max(1, batch_size // 3) <= 1


def test_every_label_gets_its_turn_however_rare(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    common = [(i, j, k) for i in range(20) for j in range(20) for k in range(5)]
    case = make_case(shape=(40, 40, 40), foreground={1: common, 2: [(35, 35, 35)]})
    sampler = build_sampler([case], tiny_task, (4, 4, 4), batch_size=2)
    rare = sum(bool((sampler.draw(number).codes[1] == 2).any()) for number in range(60))
    assert rare == 30


def test_a_forced_patch_is_centred_on_its_voxel_and_clamped(
    make_case: Callable[..., StoredCase], tiny_task: Task
) -> None:
    inner = make_case(shape=(20, 20, 20), foreground={1: [(10, 9, 8)]})
    codes = build_sampler([inner], tiny_task, (6, 8, 4), batch_size=2).draw(0).codes[1]
    assert torch.argwhere(codes == 1).tolist() == [[3, 4, 2]]
    corner = make_case(shape=(20, 20, 20), foreground={1: [(19, 0, 19)]})
    batch = build_sampler([corner], tiny_task, (6, 8, 4), batch_size=2).draw(0)
    assert torch.argwhere(batch.codes[1] == 1).tolist() == [[5, 0, 3]]
    assert (batch.image >= 0).all()  # nothing filled


def test_patches_lie_inside_and_reach_both_ends(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    case = make_case(shape=(7, 8, 5))
    sampler = build_sampler([case], tiny_task, (6, 8, 4), batch_size=2)
    assert case.image is not None
    corners = {sampler.draw(number).image[0, 0, 0, 0, 0].item() for number in range(40)}
    assert corners == {case.image[0, i, 0, k].item() for i in (0, 1) for k in (0, 1)}


def test_a_small_case_is_filled_around(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    case = make_case(shape=(3, 8, 9), foreground={1: [(1, 4, 4)]}, fill=-7.0)
    sampler = build_sampler([case], tiny_task, (6, 8, 4), batch_size=3)
    places = set()
    for number in range(12):
        batch = sampler.draw(number)
        is_filled = batch.image[:, 0] == -7
        assert (is_filled.flatten(1).sum(1) == 3 * 8 * 4).all()
        assert not batch.codes[is_filled].any()
        places.add(int(is_filled[0, :, 0, 0].int().argmin()))
    assert places == {0, 1, 2, 3}


@settings(max_examples=80, deadline=None)
@given(
    start=st.tuples(*[st.integers(-6, 6)] * 3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_a_crop_is_a_crop_of_the_padded_case(start: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    assume(all(first < n and first + m > 0 for first, m, n in zip(start, size, (5, 6, 7), strict=True)))
    image = torch.arange(1.0, 5 * 6 * 7 + 1).reshape(1, 5, 6, 7)
    labels = (image[0] % 5).to(torch.uint8)
    case = StoredCase(
        case_id="a", path=None, shape=(5, 6, 7), fill=torch.tensor([-7.0]), foreground={}, image=image, labels=labels  # type: ignore[arg-type]
    )  # fmt: skip
    big = torch.full((1, 45, 46, 47), -7.0)
    big[:, 20:25, 20:26, 20:27] = image
    big_codes = torch.zeros(45, 46, 47, dtype=torch.uint8)
    big_codes[20:25, 20:26, 20:27] = labels
    box = tuple(slice(20 + first, 20 + first + n) for first, n in zip(start, size, strict=True))
    crop, codes = crop_patch(case, start, size)
    assert torch.equal(crop, big[(slice(None), *box)])
    assert torch.equal(codes, big_codes[box])


# ---- where cases lie ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spare", "moves"), [(0, True), (-1, False)], ids=["just fits", "does not"])
def test_cases_move_to_the_gpu_up_to_a_quarter_of_its_free_memory(
    make_case: Callable[..., StoredCase], monkeypatch: pytest.MonkeyPatch, spare: int, moves: bool
) -> None:
    cases = [make_case(name) for name in "ab"]
    needed = sum(case.num_bytes for case in cases)
    assert needed == 2 * 11 * 13 * 17 * (4 + 1)  # float32 and uint8
    moved: list[str] = []

    def move(case: StoredCase, device: torch.device) -> StoredCase:
        moved.append(f"{case.case_id} to {device}")
        return dataclasses.replace(case, case_id=f"moved {case.case_id}")

    monkeypatch.setattr(StoredCase, "to", move)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (4 * needed + spare, 100 * needed))
    placed = _move_cases(cases, torch.device("cuda:1"))
    assert moved == (["a to cuda:1", "b to cuda:1"] if moves else [])
    assert [case.case_id for case in placed] == (["moved a", "moved b"] if moves else ["a", "b"])


def test_cases_stay_where_they_are_without_a_gpu_or_on_disk(
    make_case: Callable[..., StoredCase], tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        pytest.fail("nobody needs to ask")

    monkeypatch.setattr("torch.cuda.mem_get_info", refuse)
    monkeypatch.setattr(StoredCase, "to", refuse)
    cases = [make_case("a"), make_case("b")]
    assert build_sampler(cases, tiny_task, device=torch.device("cpu")).cases is cases
    on_disk = [cases[0], dataclasses.replace(cases[1], image=None, labels=None)]
    assert _move_cases(on_disk, torch.device("cuda")) is on_disk


# ---- augmentation ------------------------------------------------------------------------------------------------------


def test_a_mirrored_patch_swaps_places_and_sides(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    # 1 is the left blob's code, 2 the right one's, 255 is ignored: only the sides swap.
    case = make_case(shape=(6, 8, 4), foreground={1: [(0, 1, 2)], 2: [(4, 5, 1)], 255: [(1, 7, 3)]})
    plain = build_sampler([case], tiny_task, (6, 8, 4), mode="none").draw(0)
    mirrored = build_sampler([case], tiny_task, (6, 8, 4), mode="fast", policy=ONLY_MIRRORS).draw(0)
    assert torch.equal(mirrored.image, plain.image.flip(2))
    assert torch.argwhere(mirrored.codes[0] == 2).tolist() == [[5, 1, 2]]
    assert torch.argwhere(mirrored.codes[0] == 1).tolist() == [[1, 5, 1]]
    assert torch.argwhere(mirrored.codes[0] == 255).tolist() == [[4, 7, 3]]


def test_without_laterality_mirroring_keeps_codes(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    task = Task.model_validate(tiny_task.model_dump() | {"laterality": ()})
    case = make_case(shape=(6, 8, 4), foreground={1: [(0, 1, 2)], 2: [(4, 5, 1)]})
    codes = build_sampler([case], task, (6, 8, 4), mode="fast", policy=ONLY_MIRRORS).draw(0).codes[0]
    assert torch.argwhere(codes == 1).tolist() == [[5, 1, 2]]
    assert torch.argwhere(codes == 2).tolist() == [[1, 5, 1]]


def test_regions_swap_the_values_of_their_sides(make_case: Callable[..., StoredCase]) -> None:
    task = Task.model_validate(
        {
            "name": "x", "title": "x", "modality": "MR", "channels": ["t1"], "intensity": "zscore",
            "labels": {"left": [1, 5], "left_core": [5], "right": [2, 7], "right_core": [7]},
            "laterality": [["left", "right"], ["left_core", "right_core"]],
        }
    )  # fmt: skip
    # Codes count the values 1, 2, 5, 7 as 1, 2, 3, 4: 1 <-> 2 and 3 <-> 4.
    case = make_case(shape=(4, 4, 4), foreground={code: [(0, 0, code - 1)] for code in (1, 2, 3, 4)})
    codes = build_sampler([case], task, (4, 4, 4), mode="fast", policy=ONLY_MIRRORS).draw(0).codes[0]
    assert codes[3, 0].tolist() == [2, 1, 4, 3]


def test_a_sagittal_slice_has_no_sides_to_swap(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    # Flipping its one plane changes nothing, so the labels may not change either.
    case = make_case(shape=(1, 8, 8), foreground={1: [(0, 1, 2)], 2: [(0, 5, 1)]})
    batch = build_sampler([case], tiny_task, (1, 8, 8), mode="fast", policy=ONLY_MIRRORS).draw(0)
    assert case.image is not None
    assert case.labels is not None
    assert torch.equal(batch.image[0], case.image)
    assert torch.equal(batch.codes[0], case.labels)


@pytest.mark.parametrize("mode", ["fast", "torchio"])
def test_augmentation_invents_no_codes(make_case: Callable[..., StoredCase], tiny_task: Task, mode: str) -> None:
    blob = [(i, j, k) for i in range(3, 8) for j in range(4, 9) for k in range(5, 12)]
    case = make_case(foreground={1: blob, 255: [(0, 0, 0)]})
    sampler = build_sampler([case], tiny_task, mode=mode, policy=ALWAYS)
    for number in range(4):
        batch = sampler.draw(number)
        assert set(batch.codes.unique().tolist()) <= {0, 1, 2, 255}
        assert torch.isfinite(batch.image).all()
        assert batch.image.shape == (3, 1, 6, 8, 4)


def test_image_and_labels_move_together(make_case: Callable[..., StoredCase], tiny_task: Task) -> None:
    # The image is the label map, so after any change they still agree but for the blend at borders.
    blob = [(i, j, k) for i in range(5, 16) for j in range(5, 16) for k in range(5, 16)]
    case = make_case(shape=(22, 22, 22), foreground={1: blob}, fill=0.0)
    assert case.image is not None
    assert case.labels is not None
    case.image.copy_((case.labels > 0).float()[None])
    sampler = build_sampler([case], tiny_task, (16, 16, 16), mode="fast", policy=ALWAYS, batch_size=4)
    for number in range(3):
        batch = sampler.draw(number)
        agree = (batch.image[:, 0] > 0.5) == (batch.codes > 0)
        assert agree.float().mean() > 0.97
