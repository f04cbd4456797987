"""Folds are nnU-Net's, or those of a file; no case and no patient trains and validates at once."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from medunet.errors import DatasetError
from medunet.tasks import Case, Dataset, count_folds, read_splits, split_fold


def build_dataset(num_cases: int, patients: dict[int, str] | None = None) -> Dataset:
    cases = tuple(
        Case(case_id=f"{n:03d}", images=(Path("i"),), labels=Path("l"), group=(patients or {}).get(n))
        for n in range(num_cases)
    )
    return Dataset(name="x", folder=Path("x"), layout="x", cases=cases)


def to_indices(cases: tuple[Case, ...]) -> list[int]:
    return [int(case.case_id) for case in cases]


# KFold(5, shuffle=True, random_state=12345) as scikit-learn documents it: RandomState.shuffle of the indices, then folds
# in that order, the first n % 5 of them one larger. The shuffles were worked out with a Mersenne Twister written by
# hand: [0, 7, 3, 9, 6, 4, 1, 8, 5, 2] for ten cases, [0, 9, 7, 3, 6, 10, 8, 12, 11, 4, 1, 5, 2] for thirteen.
GOLDEN_FOLDS = {
    10: [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]],
    13: [[0, 7, 9], [3, 6, 10], [8, 11, 12], [1, 4], [2, 5]],
}


@pytest.mark.parametrize("num_cases", GOLDEN_FOLDS)
def test_folds_are_those_of_scikit_learn(num_cases: int) -> None:
    dataset = build_dataset(num_cases)
    assert [to_indices(split_fold(dataset, fold)[1]) for fold in range(5)] == GOLDEN_FOLDS[num_cases]


@pytest.mark.parametrize("num_cases", [2, 3, 4, 5, 6, 11, 41])
def test_every_case_validates_exactly_once(num_cases: int) -> None:
    dataset = build_dataset(num_cases)
    assert count_folds(dataset) == min(5, num_cases)
    splits = [split_fold(dataset, fold) for fold in range(count_folds(dataset))]
    assert sorted(index for _, validation in splits for index in to_indices(validation)) == list(range(num_cases))
    for training, validation in splits:
        assert sorted(to_indices(training) + to_indices(validation)) == list(range(num_cases))
        assert to_indices(training) == sorted(to_indices(training))
    sizes = [len(validation) for _, validation in splits]
    assert max(sizes) - min(sizes) <= 1
    if num_cases < 5:
        assert set(sizes) == {1}


def test_all_cases_train_without_a_fold() -> None:
    dataset = build_dataset(3)
    assert split_fold(dataset, None) == (dataset.cases, ())
    assert split_fold(build_dataset(1), None)[1] == ()


def test_one_case_has_no_folds() -> None:
    with pytest.raises(DatasetError, match="holds one case, which cannot be split; train on it with --fold all"):
        count_folds(build_dataset(1))


@pytest.mark.parametrize(
    ("num_cases", "fold", "message"),
    [
        (10, 5, "There is no fold 5; 10 cases give the folds 0 to 4"),
        (10, -1, "There is no fold -1"),
        (3, 3, "3 cases give the folds 0 to 2"),
        (1, 0, "holds one case, which cannot be split; train on it with --fold all"),
    ],
)
def test_a_fold_that_does_not_exist(num_cases: int, fold: int, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        split_fold(build_dataset(num_cases), fold)


# ---- folds of one's own ----------------------------------------------------------------------------------------------


def write_json(folder: Path, content: Any) -> Path:
    path = folder / "splits_final.json"
    path.write_text(json.dumps(content))
    return path


def write_csv(folder: Path, *rows: str) -> Path:
    path = folder / "folds.csv"
    path.write_text("\n".join(rows))
    return path


def to_names(*numbers: int) -> list[str]:
    return [f"{number:03d}" for number in numbers]


def test_the_file_of_nnunet(tmp_path: Path) -> None:
    dataset = build_dataset(4)
    first = {"train": to_names(3, 0, 1), "val": to_names(2)}
    second = {"train": to_names(2, 1), "val": to_names(3, 0)}
    splits = read_splits(write_json(tmp_path, [first, second]), dataset)
    assert splits == tuple((frozenset(fold["train"]), frozenset(fold["val"])) for fold in (first, second))
    assert count_folds(dataset, splits) == 2
    training, validation = split_fold(dataset, 1, splits)
    assert (to_indices(training), to_indices(validation)) == ([1, 2], [0, 3])  # in the order of the dataset
    assert split_fold(dataset, None, splits) == (dataset.cases, ())
    with pytest.raises(DatasetError, match="There is no fold 2; the splits have the folds 0 to 1"):
        split_fold(dataset, 2, splits)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_of_folds(tmp_path: Path, delimiter: str) -> None:
    rows = [("Case", "fold"), ("002", "1"), ("000", "0"), ("001", "2"), ("003", "1")]
    dataset = build_dataset(4)
    splits = read_splits(write_csv(tmp_path, *(delimiter.join(row) for row in rows)), dataset)
    assert [to_indices(split_fold(dataset, fold, splits)[1]) for fold in range(3)] == [[0], [2, 3], [1]]
    assert [to_indices(split_fold(dataset, fold, splits)[0]) for fold in range(3)] == [[1, 2, 3], [0, 1], [0, 2, 3]]


def test_the_rule_written_to_a_file_gives_the_same_folds(tmp_path: Path) -> None:
    dataset = build_dataset(7)
    rule = [split_fold(dataset, fold) for fold in range(5)]
    content = [{"train": to_names(*to_indices(train)), "val": to_names(*to_indices(val))} for train, val in rule]
    splits = read_splits(write_json(tmp_path, content), dataset)
    assert [split_fold(dataset, fold, splits) for fold in range(5)] == rule


def test_a_single_case_per_side_is_enough_with_a_file(tmp_path: Path) -> None:
    dataset = build_dataset(2, patients={0: "x", 1: "y"})
    splits = read_splits(write_json(tmp_path, [{"train": ["000"], "val": ["001"]}]), dataset)
    assert count_folds(dataset, splits) == 1


def test_cases_in_neither_list_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = build_dataset(4)
    full = {"train": to_names(0, 1, 2), "val": to_names(3)}
    with caplog.at_level(logging.WARNING):
        splits = read_splits(write_json(tmp_path, [full, {"train": to_names(2), "val": to_names(0)}]), dataset)
    (record,) = caplog.records
    assert "fold 1: the case(s) 001, 003 neither train nor validate" in record.getMessage()
    assert [to_indices(part) for part in split_fold(dataset, 1, splits)] == [[2], [0]]


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        ([0, 1], [], r"fold 0: the list 'val' is empty; expected a case. .* use --fold all"),
        ([], [0], "fold 0: the list 'train' is empty"),
        ([0, 9], [1], "the list 'train' has '009', which is no case of the dataset; did you mean '00"),
        ([0, 1], [1, 2], r"fold 0: the case\(s\) 001 would train and validate"),
        ([0, 1, 0], [2], r"the list 'train' has the case\(s\) 000 twice"),
        ([0, 3], [1, 2], r"fold 0: the case\(s\) 002, 003 are of one patient, but would train and validate"),
    ],
)
def test_a_fold_that_would_mislead_is_refused(tmp_path: Path, training: Any, validation: Any, message: str) -> None:
    dataset = build_dataset(4, patients={2: "Doe^John", 3: "Doe^John"})
    content = [{"train": to_names(*training), "val": to_names(*validation)}]
    with pytest.raises(DatasetError, match=message) as caught:
        read_splits(write_json(tmp_path, content), dataset)
    assert "Doe" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_case_without_a_near_one(tmp_path: Path) -> None:
    content = [{"train": ["hippocampus_1"], "val": ["001"]}]
    with pytest.raises(DatasetError, match=r"'hippocampus_1', which is no case .*; its 4 case ids are such as '000'"):
        read_splits(write_json(tmp_path, content), build_dataset(4))


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        ["000"],
        [{"train": ["000"]}],
        [{"train": "000", "val": ["001"]}],
        [{"train": [0], "val": ["001"]}],
        [{"train": ["000"], "val": ["001"], "test": ["002"]}],
        3,
    ],
)
def test_json_of_another_form(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DatasetError, match=r'has another form; expected \[\{"train": \[case ids\], "val"'):
        read_splits(write_json(tmp_path, content), build_dataset(3))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("case,folds", "000,0"), "has the columns case, folds; expected case, fold"),
        (("case,fold,fold", "000,0,1"), "has the columns case, fold, fold"),
        (("case,fold", "000"), r"has 1 cells in row 2; expected 2 \(case, fold\)"),
        (("case,fold", "000,0", "001,-1"), "has the fold '-1' in row 3; expected a number from 0 on"),
        (("case,fold", "000,0", "001,"), "has the fold '' in row 3"),
        (("case,fold", "000,0", "000,1"), "lists the case '000' twice, again in row 3"),
        (("case,fold", "000,0", "001,2"), "has the folds 0, 2; expected two or more, numbered from 0 on without a gap"),
        (("case,fold", "000,1", "001,2"), "has the folds 1, 2; expected"),
        (("case,fold", "000,0", "001,0"), "has the folds 0; expected two or more"),
        (("case,fold",), "has the folds none"),
        (("case,fold", "000,0", "0001,1"), "'0001', which is no case of the dataset; did you mean '001'"),
        (("case,fold", "000,0", "001,1", "002,0"), r"the case\(s\) 001, 002 are of one patient"),
    ],
)
def test_a_faulty_table_of_folds(tmp_path: Path, rows: tuple[str, ...], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_splits(write_csv(tmp_path, *rows), build_dataset(3, patients={1: "x", 2: "x"}))


def test_files_that_are_no_splits(tmp_path: Path) -> None:
    dataset = build_dataset(3)
    (tmp_path / "splits.json").write_bytes(b"\xff{")
    (tmp_path / "large.json").touch()
    os.truncate(tmp_path / "large.json", 2**40)
    os.mkfifo(tmp_path / "pipe.json")
    for name, message in (
        ("splits.json", "is no readable JSON"),
        ("large.json", "has 1099511627776 bytes; expected 67108864 at most"),
        ("pipe.json", "is no regular file; expected a file like nnU-Net's splits_final.json"),
        ("gone.json", "does not exist; expected a file like"),
        ("gone.csv", "does not exist; expected a CSV file with the columns case, fold"),
        ("splits.pkl", r"have the ending '\.pkl'; expected \.json"),
    ):
        with pytest.raises(DatasetError, match=message):
            read_splits(tmp_path / name, dataset)
