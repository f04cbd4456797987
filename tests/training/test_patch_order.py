"""Patients take turns, labels take turns, and nothing but the seed and the number decides."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.training.patch_order import PatchChoice, PatchOrder


def build_order(codes: Any, groups: Any = None, *, num_patches: int = 3, seed: int = 0) -> PatchOrder:
    return PatchOrder(codes, groups or [None] * len(codes), num_patches=num_patches, seed=seed)


def choose_all(order: PatchOrder, num_iterations: int, num_patches: int) -> list[PatchChoice]:
    return [order.choose(n, position) for n in range(num_iterations) for position in range(num_patches)]


@settings(deadline=None, max_examples=50)
@given(
    codes=st.lists(st.lists(st.integers(1, 5), max_size=3, unique=True), min_size=1, max_size=7),
    num_patches=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_plain_patches_take_every_case_once_per_epoch(codes: Any, num_patches: int, seed: int) -> None:
    order = build_order(codes, num_patches=num_patches, seed=seed)
    plain = [choice.case for choice in choose_all(order, 30, num_patches) if choice.code is None]
    size = len(codes)
    for start in range(0, len(plain) - size + 1, size):
        assert sorted(plain[start : start + size]) == list(range(size))


@settings(deadline=None, max_examples=50)
@given(
    codes=st.lists(st.lists(st.integers(1, 5), max_size=3, unique=True), min_size=1, max_size=7),
    num_patches=st.integers(1, 7),
)
def test_a_case_is_only_asked_for_labels_that_it_shows(codes: Any, num_patches: int) -> None:
    for choice in choose_all(build_order(codes, num_patches=num_patches), 20, num_patches):
        assert choice.code is None or choice.code in codes[choice.case]


@pytest.mark.parametrize(
    ("num_patches", "num_forced"), [(2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (9, 3), (12, 4)]
)
def test_a_third_of_every_iteration_is_centred_on_labels(num_patches: int, num_forced: int) -> None:
    """nnU-Net's numbers: n - round(2 n / 3), at least one."""
    order = build_order([[1]], num_patches=num_patches)
    for iteration in range(4):
        forced = [order.choose(iteration, position).code == 1 for position in range(num_patches)]
        assert sum(forced) == num_forced
        assert forced[-1]
        halves = sum(forced[: num_patches // 2]), sum(forced[-(num_patches // 2) :])
        assert abs(halves[0] - halves[1]) <= 1  # no process of two gets all of them


def test_of_single_patches_every_third_is_centred_on_a_label() -> None:
    order = build_order([[1]], num_patches=1)
    assert [order.choose(n, 0).code for n in range(7)] == [None, None, 1, None, None, 1, None]


def test_without_labels_nothing_is_forced() -> None:
    assert {choice.code for choice in choose_all(build_order([[], []]), 6, 3)} == {None}


def test_a_label_in_one_case_of_ten_comes_as_often_as_the_others() -> None:
    order = build_order([[1, 2, 7]] + [[1, 2]] * 9, num_patches=2)
    forced = [choice for choice in choose_all(order, 90, 2) if choice.code is not None]
    assert Counter(choice.code for choice in forced) == {1: 30, 2: 30, 7: 30}
    assert {choice.case for choice in forced if choice.code == 7} == {0}
    assert Counter(choice.case for choice in forced if choice.code == 1) == dict.fromkeys(range(10), 3)


def test_a_patient_with_many_scans_comes_no_more_often() -> None:
    groups = ["p", "p", "p", "p", None, "q"]
    order = build_order([[1]] * 6, groups, num_patches=2)
    plain = Counter(choice.case for choice in choose_all(order, 36, 2) if choice.code is None)
    forced = Counter(choice.case for choice in choose_all(order, 36, 2) if choice.code is not None)
    # 36 turns, three patients: 12 each, and the four scans of one share theirs.
    assert plain == forced == {0: 3, 1: 3, 2: 3, 3: 3, 4: 12, 5: 12}


def test_a_group_named_like_a_number_is_no_case() -> None:
    order = build_order([[], []], [1, None], num_patches=1)
    assert {order.choose(n, 0).case for n in range(2)} == {0, 1}


def test_the_order_changes_with_epoch_and_seed_only() -> None:
    codes = [[1, 2, 3]] * 8
    first = choose_all(build_order(codes, seed=3), 40, 3)
    assert choose_all(build_order(codes, seed=3), 40, 3) == first
    assert choose_all(build_order(codes, seed=4), 40, 3) != first
    plain = [choice.case for choice in first if choice.code is None]
    assert plain[:8] != plain[8:16]
