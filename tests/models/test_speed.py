"""What mirrored passes gain decides whether they are worth their time."""

from __future__ import annotations

import pytest

from medunet.models import MeasuredSpeed, SpeedRecord, combine_speed_records


def measure(dice: float, *, num_flips: int = 1, step: float = 0.5, seconds: float = 1.0) -> MeasuredSpeed:
    return MeasuredSpeed(step_fraction=step, num_flips=num_flips, dice=dice, seconds=seconds)


def build_record(balanced: float, best: float | None, *, num_cases: int = 4) -> SpeedRecord:
    flipped = None if best is None else measure(best, num_flips=2)
    return SpeedRecord.of(num_cases, measure(0.5, step=0.75), measure(balanced), flipped)


@pytest.mark.parametrize(
    ("balanced", "best", "uses_flips"),
    [(0.8, 0.8004, False), (0.8, 0.8006, True), (0.8, 0.7, False), (0.8, None, False)],
)
def test_mirrored_passes_are_used_where_they_gain(balanced: float, best: float | None, uses_flips: bool) -> None:
    assert build_record(balanced, best).uses_flips is uses_flips


def test_an_ensemble_expects_the_mean_of_its_members_over_cases() -> None:
    combined = combine_speed_records([build_record(0.8, 0.81, num_cases=1), build_record(0.9, 0.89, num_cases=3)])
    assert combined is not None
    assert combined.num_cases == 4
    assert combined.balanced.dice == pytest.approx(0.875)
    assert combined.best is not None
    assert combined.best.dice == pytest.approx(0.87)
    assert not combined.uses_flips


def test_nothing_is_expected_where_a_member_says_nothing() -> None:
    assert combine_speed_records([]) is None
    assert combine_speed_records([build_record(0.8, 0.81), None]) is None


def test_members_that_measured_other_things_are_not_averaged() -> None:
    other = SpeedRecord.of(4, measure(0.5, step=0.6), measure(0.8), None)
    assert combine_speed_records([build_record(0.8, None), other]) is None
    mixed = combine_speed_records([build_record(0.8, 0.81), build_record(0.8, None)])
    assert mixed is not None
    assert mixed.best is None


def test_what_is_printed_says_what_each_speed_costs_and_scores() -> None:
    fast, balanced = measure(0.81, step=0.75, seconds=1.0), measure(0.82, seconds=2.0)
    best = measure(0.83, num_flips=2, seconds=4.0)
    assert SpeedRecord.of(1, fast, balanced, None).describe() == (
        "fast Dice 0.8100 in 1.0 s, balanced Dice 0.8200 in 2.0 s (1 case)"
    )
    # Mirrored passes gain enough, so balanced makes them too.
    assert SpeedRecord.of(3, fast, balanced, best).describe() == (
        "fast Dice 0.8100 in 1.0 s, balanced Dice 0.8300 in 4.0 s, best Dice 0.8300 in 4.0 s (3 cases; mirrored passes are used "
        "unless asked for otherwise)"
    )
    assert SpeedRecord.of(3, fast, balanced, measure(0.8204, num_flips=2, seconds=4.0)).describe() == (
        "fast Dice 0.8100 in 1.0 s, balanced Dice 0.8200 in 2.0 s, best Dice 0.8204 in 4.0 s (3 cases; mirrored passes are not "
        "used unless asked for otherwise)"
    )


@pytest.mark.parametrize(("dice", "words"), [(0.819, "the box is used"), (0.81, "the box is not used")])
def test_what_is_printed_says_who_saw_the_whole_scan(dice: float, words: str) -> None:
    located = measure(dice, seconds=0.5)
    described = SpeedRecord.of(3, measure(0.8), measure(0.82), None, located).describe()
    assert f"located Dice {dice:.4f} in 0.5 s (3 cases; located: without mirrored passes, and only the box" in described
    assert f"all others looked at the whole scan; {words} unless asked for otherwise" in described
