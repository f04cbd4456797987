"""Which labels were looked for in a case: read, checked against the task and against the label map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_datasets import describe, touch

from medunet.errors import DatasetError, LabelError
from medunet.tasks import Case, Task, check_annotated, check_annotated_values, read_dataset
from medunet.volume import Volume

BASE = {"name": "x", "title": "x", "modality": "CT", "channels": ["ct"], "intensity": "none"}
ORGANS = Task.model_validate(BASE | {"labels": {"liver": 4, "spleen": [2, 3], "kidney": 7}, "ignore": 9})
REGIONS = Task.model_validate(BASE | {"labels": {"whole": [1, 2, 3], "core": [2, 3], "seed": 3}})


def build_case(*annotated: str) -> Case:
    return Case(case_id="p1", images=(Path("i.nii"),), labels=Path("l.nii"), annotated=frozenset(annotated) or None)


def build_labels(*values: int) -> Volume:
    return Volume(np.array(values, np.int32).reshape(1, -1, 1, 1), np.eye(4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(tmp_path, *(f"{kind}/{name}.nii" for kind in ("images", "labels") for name in ("p1", "p2", "p3")))
    return tmp_path


# ---- the file --------------------------------------------------------------------------------------------------------


def write(folder: Path, content: Any) -> Path:
    (folder / "annotated.json").write_text(json.dumps(content))
    return folder


def test_a_folder_says_what_its_cases_annotate(folder: Path) -> None:
    assert [case.annotated for case in read_dataset(folder).cases] == [None, None, None]
    cases = read_dataset(write(folder, {"p3": ["liver"], "p1": ["spleen", "liver"]})).cases
    assert [case.annotated for case in cases] == [{"liver", "spleen"}, None, {"liver"}]


def test_the_decathlon_layout_has_it_too(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "b.nii")
    describe(tmp_path, {"training": [{"image": "a.nii", "label": "b.nii"}]})
    (case,) = read_dataset(write(tmp_path, {"b": ["liver"]})).cases
    assert case.annotated == {"liver"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"p4": ["liver"]}, "the dataset holds no case 'p4'; did you mean 'p"),
        ({"liver": ["p1"]}, "holds no case 'liver'; its 3 case ids are such as 'p1'"),
        (["liver"], r'holds a list; expected \{"case id": \["label", ...\], ...\}'),
        ({"p1": "liver"}, "gives case 'p1' the labels liver; expected a list of different names"),
        ({"p1": []}, r"the labels \[\]; expected a list .* Leave the case out of the file if all labels are annotated"),
        ({"p1": [1]}, r"the labels \[1\]; expected a list"),
        ({"p1": [""]}, r"the labels \[''\]; expected"),
        ({"p1": ["liver", "liver"]}, r"the labels \['liver', 'liver'\]; expected a list of different names"),
        ({"p1": {"liver": True}}, "expected a list of different names"),
    ],
)
def test_a_faulty_file(folder: Path, content: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read_dataset(write(folder, content))
    assert "annotated.json" in str(caught.value)


def test_a_file_that_is_no_json(folder: Path) -> None:
    (folder / "annotated.json").write_text("{")
    with pytest.raises(DatasetError, match=r"annotated\.json is no readable JSON"):
        read_dataset(folder)
    (folder / "annotated.json").unlink()
    (folder / "annotated.json").mkdir()
    with pytest.raises(DatasetError, match=r"annotated\.json is no regular file; expected a file \{\"case id\""):
        read_dataset(folder)


# ---- the task --------------------------------------------------------------------------------------------------------


def test_labels_of_the_task_are_accepted() -> None:
    check_annotated([build_case(), build_case("liver", "kidney")], ORGANS)


def test_a_label_that_the_task_does_not_have() -> None:
    with pytest.raises(
        DatasetError,
        match=r"case 'p1' is said to annotate 'livr', which is no label of task 'x'; did you mean 'liver'\?",
    ):
        check_annotated([build_case(), build_case("spleen", "livr")], ORGANS)


# ---- the label map ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotated", "task", "values"),
    [
        ([], ORGANS, [0, 2, 3, 4, 7, 9]),
        (["spleen"], ORGANS, [0, 2, 3, 9]),  # the value to ignore is always allowed
        (["spleen", "kidney"], ORGANS, [0]),
        (["whole"], REGIONS, [0, 1, 2, 3]),  # values of the core lie within the whole
        (["core"], REGIONS, [0, 2, 3]),
    ],
)
def test_label_maps_that_agree(annotated: list[str], task: Task, values: list[int]) -> None:
    check_annotated_values(build_labels(*values), build_case(*annotated), task)


@pytest.mark.parametrize(
    ("annotated", "task", "values", "message"),
    [
        (["spleen"], ORGANS, [0, 2, 4], r"l\.nii holds liver, but case 'p1' is said to annotate only spleen\."),
        (["kidney"], ORGANS, [3, 4], "holds liver, spleen, but case 'p1' is said to annotate only kidney"),
        (["core"], REGIONS, [1, 2], "holds whole, but case 'p1' is said to annotate only core"),
    ],
)
def test_a_label_map_that_holds_more(annotated: list[str], task: Task, values: list[int], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        check_annotated_values(build_labels(*values), build_case(*annotated), task)
