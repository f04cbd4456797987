"""What differs between two runs, found where it was put."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_runs import PLAN, TASK, write_begun_run, write_scored_run
from safetensors.torch import save_file

from medunet.evaluation import bootstrap_interval
from medunet.evaluation.compare import ALL_LABELS, compute_signed_rank_p
from medunet.runs import RunDifference, compare_runs
from medunet.runs.documents import compare_documents, flatten_document, format_value

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A finished run with known decisions and scores."""

    def call(
        name: str,
        dices: dict[str, list[float]] | None = None,
        *,
        checksums: dict[str, str] | None = None,
        **options: Any,
    ) -> Path:
        folder = write_scored_run(tmp_path / name, dices, **options)
        if checksums is not None:
            (folder / "state").mkdir()
            counters = json.dumps({"identity": {"case_checksums": checksums}})
            save_file({"a": torch.zeros(1)}, folder / "state" / "state.safetensors", metadata={"counters": counters})
        return folder

    return call


def list_paths(rows: Any) -> list[tuple[str, Any, Any]]:
    return [(row.path, row.first, row.second) for row in rows]


def test_a_run_does_not_differ_from_itself(write: Write) -> None:
    found = compare_runs(write("a"), write("b"))
    assert (found.settings, found.plan, found.task, found.versions) == ((), (), (), ())
    assert found.cases is not None
    assert (found.cases.only_first, found.cases.only_second, found.cases.other_role) == ((), (), ())
    assert {row.paired.mean_difference for row in found.labels if row.paired} == {0.0}


def test_what_was_decided_differently(write: Write) -> None:
    plan = PLAN.model_copy(
        update={
            "patch_size": (16, 12, 8),
            "reasons": {},
            "network": PLAN.network.model_copy(update={"features": (4, 16)}),
        }
    )
    settings = {"loss": "dice-ce", "network": "auto"}
    first = write("a", settings=settings, seed=1, versions={"torch": "2.6"})
    second = write("b", settings=settings | {"loss": "tversky"}, seed=2, plan=plan, versions={"torch": "2.13"})
    found = compare_runs(first, second)
    assert list_paths(found.settings) == [("loss", "dice-ce", "tversky"), ("seed", 1, 2)]
    assert list_paths(found.plan) == [
        ("patch_size", [8, 12, 8], [16, 12, 8]),
        ("network.features", [4, 8], [4, 16]),
    ]
    assert list_paths(found.versions) == [("torch", "2.6", "2.13")]


def test_other_tasks(write: Write) -> None:
    other = TASK.model_copy(update={"labels": {"right": (3,), "left": (1,)}, "codes": {}, "title": "Two balls"})
    found = compare_runs(write("a"), write("b", task=other))
    assert list_paths(found.task) == [
        ("title", "Two blobs", "Two balls"),
        ("labels", ["left", "right"], ["right", "left"]),
    ]


def test_cases(write: Write) -> None:
    first = write(
        "a",
        training_cases=("a", "b", "c"),
        validation_cases=("d",),
        checksums={"a": "1", "b": "2", "d": "4", "gone": "5"},
    )
    second = write(
        "b", training_cases=("a", "b", "d"), validation_cases=("c", "e"), checksums={"a": "1", "b": "other", "d": "4"}
    )
    cases = compare_runs(first, second).cases
    assert cases is not None
    assert cases.num_shared == 4
    assert (cases.only_first, cases.only_second) == ((), ("e",))
    assert cases.other_role == ("c", "d")
    assert cases.other_content == ("b",)


def test_checksums_say_nothing_where_the_runs_preprocess_differently(write: Write) -> None:
    coarse = PLAN.model_copy(update={"spacing": (2.0, 2.0, 2.0)})
    first = write("a", checksums={"a": "1"})
    for other in (write("b", checksums={"a": "2"}, plan=coarse), write("c")):
        cases = compare_runs(first, other).cases
        assert cases is not None
        assert cases.other_content is None


def test_scores_are_paired_over_the_cases_that_both_validated(write: Write) -> None:
    before = {"left": [0.5, 0.6, 0.7, 0.8], "right": [0.9, 0.9, 0.9, 0.9]}
    after = {"left": [0.6, 0.8, 0.75], "right": [0.9, 0.8, 0.9]}
    found = compare_runs(write("a", before), write("b", after))
    rows = {row.label: row for row in found.labels}
    assert list(rows) == [ALL_LABELS, "left", "right"]
    left = rows["left"]
    assert (left.first_mean, left.first_cases) == (pytest.approx(0.65), 4)
    assert (left.second_mean, left.second_cases) == (pytest.approx(0.716666667), 3)
    pair = left.paired
    assert pair is not None
    differences = [0.6 - 0.5, 0.8 - 0.6, 0.75 - 0.7]
    assert (pair.num_cases, pair.mean_difference) == (3, pytest.approx(sum(differences) / 3))  # second less first
    assert (pair.interval_low, pair.interval_high) == pytest.approx(bootstrap_interval(differences))
    assert pair.p_value == compute_signed_rank_p(differences) == 0.25
    mean = rows[ALL_LABELS]
    assert (mean.first_mean, mean.second_mean) == (pytest.approx(0.775), pytest.approx((0.716666667 + 0.866666667) / 2))


def test_other_labels_and_other_cases_are_shown_without_a_pair(write: Write) -> None:
    first, second = write("a", {"left": [0.5]}), write("b", {"right": [0.7, 0.8]})
    rows = {row.label: row for row in compare_runs(first, second).labels}
    assert (rows["left"].first_mean, rows["left"].second_mean, rows["left"].paired) == (0.5, None, None)
    assert (rows["right"].first_mean, rows["right"].second_mean) == (None, pytest.approx(0.75))


def test_a_run_that_is_not_finished_is_compared_as_far_as_it_is_known(write: Write, tmp_path: Path) -> None:
    begun = write_begun_run(tmp_path / "begun")
    found: RunDifference = compare_runs(write("a", budget="1h"), begun)
    assert (found.second.state, found.cases) == ("interrupted", None)
    assert list_paths(found.settings) == [("budget", "1h", "2h"), ("fold", 0, 1)]
    assert all(row.second_mean is None and row.paired is None for row in found.labels)
    assert found.plan == ()


# ---- documents ---------------------------------------------------------------------------------------------------------


def test_documents_are_compared_by_path() -> None:
    first = {"a": 1, "list": [{"x": 1}, {"x": 2}], "gone": True, "silent": 1}
    second = {"a": 1, "list": [{"x": 1}, {"x": 3}], "new": [1, 2], "silent": 2}
    found = list(compare_documents(first, second, where="plan", silent=frozenset({"silent"})))
    assert list_paths(found) == [("plan.list.1.x", 2, 3), ("plan.gone", True, None), ("plan.new", None, [1, 2])]


def test_a_document_becomes_one_row_of_plain_values() -> None:
    document = {"n": 3, "on": True, "word": "x", "none": None, "deep": {"list": [{"a": 0.5}, {"a": [[1, 2], [3, 4]]}]}}
    assert flatten_document(document) == {
        "n": 3,
        "on": True,
        "word": "x",
        "none": "none",
        "deep.list.0.a": 0.5,
        "deep.list.1.a": "1x2 3x4",
    }
    assert format_value({"scheme": "SCT", "sizes": [1, 2]}) == "scheme SCT, sizes 1x2"
    assert format_value([]) == "none"
