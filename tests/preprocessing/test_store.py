"""Preprocessed cases are made once, found again, and made anew when anything that shapes them has changed."""

from __future__ import annotations

import dataclasses
import os
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from oracles import build_plan_for

from medunet.errors import DatasetError, LabelError, OutputError
from medunet.io import from_label_map, read_label_map, write_nifti_image, write_nifti_labels
from medunet.io.label_names import write_label_names
from medunet.planning import Normalization, Plan
from medunet.preprocessing import StoredCase, prepare_cases, preprocess_image, whole_box
from medunet.preprocessing.case_file import _open
from medunet.preprocessing.prepare import compute_store_key, list_annotated
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
    assert np.abs(found.numpy() - image.array).max() <= 0.51 * np.ptp(image.array) / 65_000  # 16 bits
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
    with pytest.raises(KeyError):
        stored.foreground[255]
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


@pytest.mark.parametrize("header", ["x.mhd", "x.nhdr", "x.hdr"])
def test_voxels_beside_their_header_count_too(case: Case, task: Task, plan: Plan, tmp_path: Path, header: str) -> None:
    voxels = np.zeros(SHAPE, np.float32)
    if header == "x.hdr":
        nib.save(nib.Nifti1Pair(voxels, np.eye(4)), tmp_path / "x.img")  # type: ignore[no-untyped-call]
    else:
        sitk.WriteImage(sitk.GetImageFromArray(voxels), tmp_path / header)
    other = dataclasses.replace(case, images=(tmp_path / header,))
    before = compute_store_key(other, task, plan)
    os.utime(tmp_path / ("x.img" if header == "x.hdr" else "x.raw"), ns=(5, 5))
    assert compute_store_key(other, task, plan) != before


def test_label_names_beside_a_mask_count_too(case: Case, task: Task, plan: Plan) -> None:
    """``l.json`` says what the values of ``l.nii.gz`` mean."""
    before = compute_store_key(case, task, plan)
    sidecar = case.labels.with_name("l.json")
    write_label_names(from_label_map(read_label_map(case.labels), {"a": (4,)}), sidecar)
    named = compute_store_key(case, task, plan)
    write_label_names(from_label_map(read_label_map(case.labels), {"a": (4,), "b": (700,)}), sidecar)
    assert len({before, named, compute_store_key(case, task, plan)}) == 3


def test_very_long_ids_have_files_of_their_own(case: Case, task: Task, plan: Plan, tmp_path: Path) -> None:
    cases = [dataclasses.replace(case, case_id=letter * 240 + end) for letter in "xü" for end in "ab"]
    stored = prepare_cases(cases, task, plan, tmp_path / "store")
    assert [one.case_id for one in stored] == [one.case_id for one in cases]
    assert len({one.path for one in stored}) == 4


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


# ---- interruptions and damage -----------------------------------------------------------------------------------------


def make_cases(folder: Path, count: int) -> list[Case]:
    cases = []
    for number in range(count):
        rng = np.random.default_rng(number)
        paths = folder / f"i{number}.nii.gz", folder / f"l{number}.nii.gz"
        write_nifti_image(Volume(rng.normal(0, 100, (1, *SHAPE)).astype(np.float32), np.eye(4)), paths[0])
        write_nifti_labels(Volume(rng.choice([0, 4, 700], (1, *SHAPE)).astype(np.int32), np.eye(4)), paths[1])
        cases.append(Case(case_id=f"p{number}", images=(paths[0],), labels=paths[1]))
    return cases


def read_all(cases: list[StoredCase]) -> list[Any]:
    return [tuple(part.tolist() for part in case.read_box(whole_box(case.shape))) for case in cases]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_an_interrupted_preprocessing_goes_on(
    task: Task, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    cases = make_cases(tmp_path, 5)
    read: list[str] = []

    def interrupt(case: Case, task: Task) -> Any:
        if case.case_id == "p3":
            raise KeyboardInterrupt
        read.append(case.case_id)
        return read_case(case, task)

    monkeypatch.setattr("medunet.preprocessing.prepare.read_case", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_cases(cases, task, plan, tmp_path / "store", num_workers=num_workers)
    done = set(read)
    assert done >= {"p0", "p1", "p2"} if num_workers == 1 else done
    read.clear()
    monkeypatch.setattr(
        "medunet.preprocessing.prepare.read_case", lambda case, task: read.append(case.case_id) or read_case(case, task)
    )
    resumed = prepare_cases(cases, task, plan, tmp_path / "store", num_workers=num_workers)
    assert set(read) == {case.case_id for case in cases} - done
    fresh = prepare_cases(cases, task, plan, tmp_path / "other", num_workers=1)
    assert [case.checksum for case in resumed] == [case.checksum for case in fresh]
    assert read_all(resumed) == read_all(fresh)


@pytest.mark.parametrize("memory_gib", [4.0, 0.0])
def test_a_file_that_was_cut_off_is_made_anew(
    case: Case, task: Task, plan: Plan, tmp_path: Path, caplog: pytest.LogCaptureFixture, memory_gib: float
) -> None:
    (before,) = prepare_cases([case], task, plan, tmp_path / "store")
    os.truncate(before.path, before.path.stat().st_size - 100)
    (after,) = prepare_cases([case], task, plan, tmp_path / "store", memory_gib=memory_gib)
    assert "expected" in caplog.text
    assert "The case is preprocessed again" in caplog.text
    assert after.checksum == before.checksum
    assert read_all([after]) == read_all([before])


def test_a_file_whose_content_changed_is_made_anew(
    case: Case, task: Task, plan: Plan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (before,) = prepare_cases([case], task, plan, tmp_path / "store")
    content = bytearray(before.path.read_bytes())
    content[-1000] ^= 4
    before.path.write_bytes(content)
    (after,) = prepare_cases([case], task, plan, tmp_path / "store")
    assert "SHA-256 differs" in caplog.text
    assert read_all([after]) == read_all([before])
    assert before.path.read_bytes() != content


def test_other_voxels_have_another_checksum(task: Task, plan: Plan, tmp_path: Path) -> None:
    first, second = prepare_cases(make_cases(tmp_path, 2), task, plan, tmp_path / "store")
    assert len(first.checksum) == 64
    assert first.checksum != second.checksum


def test_one_bad_case_does_not_keep_the_others_from_being_made(task: Task, plan: Plan, tmp_path: Path) -> None:
    cases = make_cases(tmp_path, 5)
    for bad in (cases[1], cases[3]):
        bad.images[0].write_bytes(b"no image")
    seen: list[str] = []
    with pytest.raises(DatasetError, match=r"2 of 5 cases cannot be preprocessed; the first: .*i1\.nii\.gz"):
        prepare_cases(cases, task, plan, tmp_path / "store", on_case=seen.append)
    assert sorted(seen) == ["p0", "p2", "p4"]
    assert len(list((tmp_path / "store").iterdir())) == 3


def test_a_full_disk_ends_it(task: Task, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Path] = []

    def fail(path: Path, content: bytes) -> None:
        tried.append(path)
        msg = f"Cannot write {path}: the disk is full"
        raise OutputError(msg)

    monkeypatch.setattr("medunet.preprocessing.prepare.write_bytes_atomic", fail)
    with pytest.raises(OutputError, match="the disk is full"):
        prepare_cases(make_cases(tmp_path, 8), task, plan, tmp_path / "store", num_workers=1)
    assert len(tried) < 8


def test_too_little_memory_is_said_with_the_case(
    case: Case, task: Task, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("medunet.preprocessing.prepare.preprocess_image", fail)
    with pytest.raises(DatasetError, match=r"case 'p1': out of memory while it was preprocessed, 3 cases at a time"):
        prepare_cases([case], task, plan, tmp_path / "store", num_workers=3)


# ---- what training asks for ----------------------------------------------------------------------------------------------


def test_cases_on_disk_hold_no_voxels(task: Task, plan: Plan, tmp_path: Path) -> None:
    cases = make_cases(tmp_path, 3)
    on_disk = prepare_cases(cases, task, plan, tmp_path / "store", memory_gib=0)
    in_memory = prepare_cases(cases, task, plan, tmp_path / "store")
    assert [case.num_bytes for case in on_disk] == [0, 0, 0]
    num_voxels = int(np.prod(on_disk[0].shape))
    assert [case.num_bytes for case in in_memory] == [3 * num_voxels] * 3  # int16 and uint8
    assert [case.is_in_memory for case in on_disk + in_memory] == [False] * 3 + [True] * 3


def test_memory_grows_by_kilobytes_per_case_on_disk_and_by_the_store_at_most_otherwise(
    task: Task, plan: Plan, tmp_path: Path
) -> None:
    cases, store = make_cases(tmp_path, 40), tmp_path / "store"
    sizes = [case.path.stat().st_size for case in prepare_cases(cases, task, plan, store)]
    held = {}
    for memory_gib in (0.0, 4.0):
        for num_cases in (8, 40):
            _open.cache_clear()
            tracemalloc.start()
            try:
                opened = prepare_cases(cases[:num_cases], task, plan, store, memory_gib=memory_gib)
                held[memory_gib, num_cases], _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert len(opened) == num_cases
    assert (held[0.0, 40] - held[0.0, 8]) / 32 < 8 * 1024
    assert 0.3 * sum(sizes[8:]) < held[4.0, 40] - held[4.0, 8] < sum(sizes[8:])


def test_a_case_in_memory_needs_its_file_no_more(task: Task, plan: Plan, tmp_path: Path) -> None:
    (stored,) = prepare_cases(make_cases(tmp_path, 1), task, plan, tmp_path / "store")
    before = read_all([stored])
    stored.path.unlink()
    assert read_all([stored.to(torch.device("cpu"))]) == before
    assert len(stored.foreground[1]) > 0


def test_a_file_that_is_gone_is_named(task: Task, plan: Plan, tmp_path: Path) -> None:
    (stored,) = prepare_cases(make_cases(tmp_path, 1), task, plan, tmp_path / "store", memory_gib=0)
    # The system may keep a file that is open: forget it first.
    _open.cache_clear()
    stored.path.unlink()
    with pytest.raises(FileNotFoundError, match="p0-"):
        stored.read_box(whole_box(stored.shape))


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [(None, None), ({"a", "b"}, None), ({"b"}, (True, False, True)), (set(), (True, False, False))],
)
def test_partial_labels_are_told_per_output(
    case: Case, task: Task, plan: Plan, tmp_path: Path, annotated: Any, expected: Any
) -> None:
    labels = np.zeros((1, *SHAPE), np.int32)  # a case holds no label that was not looked for
    for name, value in (("a", 4), ("b", 700)):
        if annotated is None or name in annotated:
            labels[0, value % 16] = value
    write_nifti_labels(Volume(labels, np.diag([-1.0, -1.0, -1.5, 1.0])), case.labels)
    partial = dataclasses.replace(case, annotated=None if annotated is None else frozenset(annotated))
    (stored,) = prepare_cases([partial], task, plan, tmp_path / "store")
    assert stored.annotated == expected
    assert compute_store_key(partial, task, plan) == compute_store_key(case, task, plan)  # no voxel changes


def test_regions_have_no_background_to_annotate(case: Case) -> None:
    regions = Task.model_validate(CONTENT | {"labels": {"whole": [4, 700], "core": [700]}})
    partial = dataclasses.replace(case, annotated=frozenset({"whole"}))
    assert list_annotated(partial, regions) == (True, False)


def test_torch_keeps_its_cores(case: Case, task: Task, plan: Plan, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        prepare_cases([case], task, plan, tmp_path / "store", num_workers=2)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
