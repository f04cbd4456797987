"""The doctor's errors are what training refuses, one faulty case does not stop the others, and nothing is made up."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medunet.checking import DatasetReport
from medunet.errors import MedunetError
from medunet.planning import compute_fingerprint
from medunet.tasks import Case, Dataset, load_task, read_dataset, split_fold

from .conftest import CT_TASK, LEFT, RIGHT, make_ct, make_labels

Examine = Callable[..., DatasetReport]
WriteCase = Callable[..., Case]


def keep(case: Case, image: Any, labels: Any) -> None:
    """A sound case stays as it is."""


def remove_image(case: Case, image: Any, labels: Any) -> None:
    case.images[0].unlink()


def truncate_labels(case: Case, image: Any, labels: Any) -> None:
    content = gzip.decompress(case.labels.read_bytes())
    case.labels.write_bytes(gzip.compress(content[: len(content) // 2]))


def swap_files(case: Case, image: Any, labels: Any) -> None:
    held = case.images[0].read_bytes()
    case.images[0].write_bytes(case.labels.read_bytes())
    case.labels.write_bytes(held)


def empty_image(case: Case, image: Any, labels: Any) -> None:
    case.images[0].write_bytes(b"")


FAULTS: dict[str, dict[str, Any]] = {
    "sound": {},
    "nan": {"image": np.where(make_ct(1) > 60, np.nan, make_ct(1))},
    "infinite": {"image": np.where(make_ct(1) > 60, np.inf, make_ct(1))},
    "unknown value": {"labels": np.where(make_labels() == LEFT, 5, make_labels())},
    "other grid": {"labels": make_labels()[1:]},
    "two channels": {"image": np.stack([make_ct(1), make_ct(2)])},
    "unknown label annotated": {"fields": {"annotated": frozenset({"liver"})}},
    "missing": {"after": remove_image},
    "truncated": {"after": truncate_labels},
    "swapped files": {"after": swap_files},
    "empty file": {"after": empty_image},
    "normalised": {"image": (make_ct(1) + 1000) / 1100},
    "constant": {"image": np.zeros_like(make_ct())},
    "empty labels": {"labels": np.zeros_like(make_labels())},
    "mirrored labels": {"labels": make_labels()[::-1].copy()},
}
TRAINABLE = {"sound", "normalised", "constant", "empty labels", "mirrored labels"}


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_are_what_training_refuses(examine: Examine, write_case: WriteCase, fault: str) -> None:
    options = dict(FAULTS[fault])
    after, fields = options.pop("after", keep), options.pop("fields", {})
    cases = [write_case("a"), write_case("b", **options, **fields), write_case("c")]
    after(cases[1], None, None)
    report = examine(*cases)
    assert report.has_errors == (fault not in TRAINABLE)
    assert {finding.case_id for finding in report.findings if finding.severity == "error"} <= {"b"}
    if fault != "unknown label annotated":  # which training checks before it reads
        assert is_refused(cases) == report.has_errors


def is_refused(cases: list[Case]) -> bool:
    try:
        compute_fingerprint(cases, CT_TASK)
    except MedunetError:
        return True
    return False


def test_a_dataset_without_any_label_is_refused_as_a_whole(examine: Examine, write_case: WriteCase) -> None:
    cases = [write_case(name, labels=np.zeros_like(make_labels())) for name in "abcd"]
    with pytest.raises(MedunetError) as refused:
        compute_fingerprint(cases, CT_TASK)
    report = examine(*cases)
    assert [finding.text for finding in report.findings if finding.severity == "error"] == [str(refused.value)]


def test_a_single_case_cannot_be_split(examine: Examine, write_case: WriteCase, tmp_path: Path) -> None:
    case = write_case("a")
    dataset = Dataset(name="glands", folder=tmp_path, layout="tests", cases=(case,))
    with pytest.raises(MedunetError) as refused:
        split_fold(dataset, 0)
    (error,) = [finding for finding in examine(case).findings if finding.severity == "error"]
    assert (error.topic, error.text) == ("folds", str(refused.value))


def test_one_faulty_case_does_not_stop_the_others(examine: Examine, write_case: WriteCase) -> None:
    cases = [write_case("a"), write_case("b"), write_case("c")]
    cases[1].images[0].write_bytes(b"no volume")
    seen: list[str] = []
    drawn: dict[str, tuple[str, float]] = {}
    report = examine(
        *cases,
        on_case=seen.append,
        on_volumes=lambda name, image, labels: drawn.setdefault(name, (image.orientation, float(labels.array.sum()))),
    )
    assert sorted(seen) == ["a", "b", "c"]
    assert drawn == dict.fromkeys("ac", ("RAS", 150.0 * (LEFT + RIGHT)))
    assert [facts.is_usable for facts in report.cases] == [True, False, True]
    assert report.cases[1].grid is None
    assert [len(facts.labels) for facts in report.cases] == [2, 0, 2]


def test_every_fault_of_a_case_is_named_at_once(examine: Examine, write_case: WriteCase) -> None:
    image = make_ct()
    image[0, 0, 0] = np.nan
    broken = write_case("b", image, np.where(make_labels() == LEFT, 5, make_labels()))
    report = examine(write_case("a"), broken)
    first, second = report.cases[1].refusals
    assert "NaN" in first
    assert "label value(s) 5" in second


@pytest.mark.parametrize("side", ["images", "labels"])
def test_where_image_and_labels_have_one_name_the_folder_tells_them_apart(
    examine: Examine, write_case: WriteCase, tmp_path: Path, side: str
) -> None:
    case = write_case("b")
    paths = {"images": tmp_path / "images" / "b.nii.gz", "labels": tmp_path / "labels" / "b.nii.gz"}
    for path, source in zip(paths.values(), (case.images[0], case.labels), strict=True):
        path.parent.mkdir(exist_ok=True)
        source.rename(path)
    paths[side].write_bytes(b"no volume")
    case = dataclasses.replace(case, images=(paths["images"],), labels=paths["labels"])
    (refusal,) = examine(write_case("a"), case).cases[1].refusals
    assert f"{side}/b.nii.gz" in refusal
    assert str(tmp_path) not in refusal


def test_a_refused_case_still_tells_its_grid(examine: Examine, write_case: WriteCase) -> None:
    report = examine(write_case("a"), write_case("b", labels=make_labels()[1:]))
    grid = report.cases[1].grid
    assert grid is not None
    assert grid.shape == (24, 22, 20)
    assert report.cases[1].channels[0].minimum < -1000


@pytest.mark.parametrize("num_workers", [1, 4])
def test_the_number_of_workers_changes_nothing(examine: Examine, write_case: WriteCase, num_workers: int) -> None:
    cases = [write_case(name) for name in "abcdef"]
    report = examine(*cases, num_workers=num_workers)
    assert report == examine(*cases, num_workers=2)
    assert [facts.case_id for facts in report.cases] == list("abcdef")


def test_what_readers_warn_of_is_a_finding_of_its_case(examine: Examine, write_case: WriteCase) -> None:
    cases = [write_case(name) for name in "abcd"]
    for case in cases[1:3]:
        content = gzip.decompress(case.images[0].read_bytes())
        case.images[0].write_bytes(gzip.compress(content + b"more"))
    found = [finding for finding in examine(*cases, num_workers=4).findings if finding.topic == "file"]
    assert [(finding.case_id, finding.severity) for finding in found] == [("b", "warning"), ("c", "warning")]
    assert all("bytes after its voxels" in finding.text for finding in found)


def test_a_dataset_of_another_modality(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    cases = [write_case("a"), write_case("b")]
    assert "its images are MR" in list_texts(examine(*cases, modality="MR"), "task")[0]
    assert list_texts(examine(*cases, modality="CT")) == []


def test_errors_come_first(examine: Examine, write_case: WriteCase) -> None:
    island = make_labels()
    island[0, 0, 5] = LEFT
    cases = [write_case("a", labels=island), write_case("b", labels=make_labels()[::-1].copy()), write_case("c")]
    cases[2].labels.unlink()
    report = examine(*cases)
    assert list(dict.fromkeys(finding.severity for finding in report.findings)) == ["error", "warning", "note"]
    assert [report.count("error"), report.count("warning"), report.count("note")] == [1, 1, 2]


def test_the_report_survives_json(examine: Examine, write_case: WriteCase) -> None:
    report = examine(write_case("a"), write_case("b", labels=make_labels()[1:]), write_case("c", annotated=None))
    assert DatasetReport.model_validate_json(report.model_dump_json()) == report


# ---- folds -----------------------------------------------------------------------------------------------------------


def test_own_splits_that_divide_a_patient(
    examine: Examine, write_case: WriteCase, tmp_path: Path, list_texts: Any
) -> None:
    cases = [write_case(name, group=group) for name, group in (("a", "1"), ("b", "1"), ("c", "2"), ("d", "3"))]
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": ["a", "c"], "val": ["b", "d"]}]))
    report = examine(*cases, splits=splits)
    assert report.has_errors
    (text,) = list_texts(report, "folds")
    assert "a, b are of one patient" in text
    splits.write_text(json.dumps([{"train": ["c", "d"], "val": ["a", "b"]}]))
    assert list_texts(examine(*cases, splits=splits)) == []
    assert list_texts(examine(*cases)) == []  # medunet's own folds keep patients together


def test_cases_that_no_fold_uses_are_a_note(
    examine: Examine, write_case: WriteCase, tmp_path: Path, list_texts: Any
) -> None:
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    (text,) = list_texts(examine(*map(write_case, "abc"), splits=splits), "folds")
    assert text.startswith("note")
    assert "case(s) c neither train nor validate" in text


# ---- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_datasets_can_be_trained(real_data: Path) -> None:
    from dataclasses import replace

    from medunet.checking import check_dataset

    dataset = read_dataset(real_data / "headneck-ct")
    some = replace(dataset, cases=dataset.cases[:4])
    report = check_dataset(some, load_task("headneck-ct"))
    assert not report.has_errors
    assert not [finding for finding in report.findings if finding.topic in ("laterality", "intensity", "duplicate")]
    assert all(set(facts.labels) == set(load_task("headneck-ct").labels) for facts in report.cases)


@pytest.mark.realdata
def test_real_ct_for_an_mr_task_is_seen(real_data: Path) -> None:
    from dataclasses import replace

    from medunet.checking import check_dataset

    dataset = read_dataset(real_data / "headneck-ct")
    some = replace(dataset, cases=dataset.cases[:2])
    task = load_task("headneck-ct").model_copy(update={"modality": "MR", "intensity": "zscore", "window_hu": None})
    texts = [finding.text for finding in check_dataset(some, task).findings if finding.topic == "intensity"]
    assert len(texts) == 2
    assert all("looks like a CT in HU" in text for text in texts)
