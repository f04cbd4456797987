"""Flags: what must be told, and what must not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medunet.models.quality import DiceCalibration
from medunet.postprocessing import (
    AgreementCounts,
    CaseFacts,
    Flag,
    QualityRanges,
    find_flags,
    judge_case,
    measure_case,
)
from medunet.postprocessing.quality import LabelFacts, build_quality_ranges
from medunet.tasks import Task, load_task, read_case, read_dataset
from medunet.volume import Volume

TASK = Task(
    name="pelvis-ct",
    title="Pelvis",
    modality="CT",
    channels=("ct",),
    labels={"bladder": (1,), "femur": (2,), "kidneys": (3, 4)},  # type: ignore[arg-type]
    intensity="ct-percentile",
)
MR = TASK.model_copy(update={"modality": "MR", "intensity": "zscore", "name": "pelvis-mr"})

BLADDER = LabelFacts(volume_ml=150.0, num_parts=1, position=(0.5, 0.6, 0.3), cut_sides=())
FEMUR = LabelFacts(volume_ml=90.0, num_parts=2, position=(0.5, 0.5, 0.1), cut_sides=("inferior",))
KIDNEYS = LabelFacts(volume_ml=300.0, num_parts=2, position=(0.5, 0.4, 0.8), cut_sides=())
USUAL = CaseFacts(
    spacing_mm=(0.9, 0.9, 3.0),
    field_of_view_mm=(450.0, 450.0, 300.0),
    intensities=((-450.0, 20.0, 700.0),),
    labels={"bladder": BLADDER, "femur": FEMUR, "kidneys": KIDNEYS},
)


def vary(facts: CaseFacts, generator: np.random.Generator) -> CaseFacts:
    """Another patient on another day."""

    def scale(values: Any, deviation: float) -> Any:
        return tuple((np.array(values) * np.exp(generator.normal(0, deviation, len(values)))).tolist())

    def shift(values: Any, deviation: float) -> Any:
        return tuple((np.array(values) + generator.normal(0, deviation, len(values))).tolist())

    return CaseFacts(
        spacing_mm=scale(facts.spacing_mm, 0.15),
        field_of_view_mm=scale(facts.field_of_view_mm, 0.2),
        intensities=(shift(facts.intensities[0], 30),),
        labels={
            name: None
            if label is None
            else dataclasses.replace(
                label,
                volume_ml=scale([label.volume_ml], 0.4)[0],
                position=shift(label.position, 0.04),
            )
            for name, label in facts.labels.items()
        },
    )


def build_ranges(num_cases: int, seed: int = 0, task: Task = TASK) -> QualityRanges:
    generator = np.random.default_rng(seed)
    ranges = build_quality_ranges([vary(USUAL, generator) for _ in range(num_cases)], task)
    assert ranges is not None
    return ranges


RANGES = build_ranges(20)


def change_label(name: str, **changes: Any) -> CaseFacts:
    label = USUAL.labels[name]
    assert label is not None
    return dataclasses.replace(USUAL, labels=USUAL.labels | {name: dataclasses.replace(label, **changes)})


def judge_one(facts: CaseFacts, task: Task = TASK, ranges: QualityRanges = RANGES) -> Flag:
    (flag,) = judge_case(facts, task, ranges)
    return flag


# ---- what must not be told -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_cases", [5, 10, 20, 60])
def test_of_usual_scans_about_one_in_twenty_is_flagged(num_cases: int) -> None:
    generator = np.random.default_rng(100 + num_cases)
    flagged = []
    for seed in range(25):
        ranges = build_ranges(num_cases, seed)
        flagged += [bool(judge_case(vary(USUAL, generator), TASK, ranges)) for _ in range(8)]
    assert np.mean(flagged) <= (0.15 if num_cases == 5 else 0.09)


def test_with_ranges_not_widened_every_third_scan_would_be_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.postprocessing.tolerance._MAX_HALF_WIDTH", 0.0)
    generator = np.random.default_rng(1)
    ranges = build_ranges(5)
    assert np.mean([bool(judge_case(vary(USUAL, generator), TASK, ranges)) for _ in range(50)]) > 0.3


def test_without_ranges_or_of_four_cases_nothing_is_told() -> None:
    strange = dataclasses.replace(
        change_label("bladder", volume_ml=9000.0, num_parts=40, cut_sides=("left",)), spacing_mm=(9.0, 9.0, 9.0)
    )
    assert judge_case(strange, TASK, RANGES)
    assert judge_case(strange, TASK, build_ranges(4)) == ()
    assert judge_case(dataclasses.replace(USUAL, labels={"bladder": None}), TASK, build_ranges(4)) == ()
    image = Volume(np.ones((1, 5, 6, 7), np.float32), np.eye(4))
    assert find_flags(image, image.with_array(np.zeros((1, 5, 6, 7), np.uint8)), TASK, None) == ()


def test_where_all_cases_were_the_same_a_little_is_allowed() -> None:
    ranges = build_quality_ranges([USUAL] * 12, TASK)
    assert ranges is not None
    near = dataclasses.replace(
        change_label("kidneys", volume_ml=360.0, position=(0.46, 0.44, 0.8)),
        spacing_mm=(1.0, 1.0, 2.5),
        field_of_view_mm=(500.0, 400.0, 330.0),
        intensities=((-430.0, 60.0, 750.0),),
    )
    assert judge_case(near, TASK, ranges) == ()
    assert judge_one(dataclasses.replace(USUAL, spacing_mm=(0.9, 0.9, 5.0)), ranges=ranges).code == "spacing"


# ---- what must be told ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "code", "quantity"),
    [
        (dataclasses.replace(USUAL, spacing_mm=(0.9, 0.9, 10.0)), "spacing", "spacing along superior"),
        (dataclasses.replace(USUAL, spacing_mm=(3.0, 9.0, 3.0)), "spacing", "spacing along anterior"),
        (
            dataclasses.replace(USUAL, field_of_view_mm=(450, 450, 1900)),
            "field-of-view",
            "field of view along superior",
        ),
        (dataclasses.replace(USUAL, field_of_view_mm=(450, 450, 30)), "field-of-view", "field of view along superior"),
        # Stored without its offset: 1024 HU too dense.
        (dataclasses.replace(USUAL, intensities=((574, 1044, 1724),)), "intensity", "99.5th percentile of channel ct"),
        (change_label("bladder", volume_ml=5.0), "volume", "volume"),
        (change_label("bladder", volume_ml=3000.0), "volume", "volume"),
        (change_label("bladder", num_parts=2), "num-parts", "parts"),
        (change_label("kidneys", num_parts=1), "num-parts", "parts"),
        (change_label("bladder", position=(0.5, 0.6, 0.9)), "position", "position along superior"),
        (change_label("bladder", cut_sides=("superior",)), "cut", "volume"),
    ],
)
def test_what_was_never_seen_is_told(changed: CaseFacts, code: str, quantity: str) -> None:
    flag = judge_one(changed)
    assert (flag.code, flag.quantity) == (code, quantity)
    assert flag.message.endswith(".")
    assert flag.label is None or flag.label in flag.message


def test_the_usual_case_has_no_flag() -> None:
    assert judge_case(USUAL, TASK, RANGES) == ()


def test_numbers_and_words_of_a_flag() -> None:
    flag = judge_one(change_label("bladder", volume_ml=3000.0))
    seen = RANGES.labels["bladder"].volume_ml
    assert seen is not None
    assert flag.expected == (seen.minimum, seen.maximum)
    assert flag.tolerated is not None
    assert flag.tolerated[0] < seen.minimum < seen.maximum < flag.tolerated[1] < flag.found  # type: ignore[operator]
    assert (flag.label, flag.unit, flag.found) == ("bladder", "ml", 3000.0)
    assert (
        flag.message
        == f"The volume of bladder is 3000 ml; in training it was {seen.minimum:.3g} to {seen.maximum:.3g} ml."
    )
    parts = judge_one(change_label("bladder", num_parts=2))
    assert parts.message == "The number of parts of bladder is 2; in training it was 1."


def test_flags_are_json() -> None:
    changed = dataclasses.replace(USUAL, spacing_mm=(9.0, 9.0, 9.0), labels=USUAL.labels | {"bladder": None})
    flags = judge_case(changed, TASK, RANGES)
    assert [flag.code for flag in flags] == ["spacing", "missing"]
    read = json.loads(json.dumps([dataclasses.asdict(flag) for flag in flags], allow_nan=False))
    assert read[0]["expected"] == list(flags[0].expected or ())
    assert read[1]["label"] == "bladder"


def test_a_structure_that_all_cases_hold_is_missed() -> None:
    flag = judge_one(dataclasses.replace(USUAL, labels=USUAL.labels | {"bladder": None}))
    assert (flag.code, flag.label, flag.found) == ("missing", "bladder", 0.0)
    assert flag.message == "Nothing was found of bladder, which all 20 training cases hold."


def test_a_structure_that_some_cases_lack_may_be_absent() -> None:
    absent = dataclasses.replace(USUAL, labels=USUAL.labels | {"bladder": None})
    ranges = build_quality_ranges([*[USUAL] * 19, absent], TASK)
    assert ranges is not None
    assert judge_case(absent, TASK, ranges) == ()


def test_a_structure_that_training_had_cut_may_be_cut() -> None:
    assert USUAL.labels["femur"] == FEMUR  # cut in every training case, and in this one
    assert judge_case(USUAL, TASK, RANGES) == ()
    flag = judge_one(change_label("bladder", cut_sides=("superior",), volume_ml=1.0))
    # What is left of it has another volume, which follows from the cut.
    assert (flag.code, flag.found) == ("cut", None)
    assert flag.message == (
        "bladder touches the superior border of the scan, as in none of the 20 training cases; part of it may lie outside, "
        "so its volume is not known."
    )


@pytest.mark.parametrize(("num_cut", "is_flagged"), [(0, True), (1, True), (2, False), (20, False)])
def test_every_tenth_cut_case_makes_it_usual(num_cut: int, is_flagged: bool) -> None:
    cut = change_label("bladder", cut_sides=("superior",))
    ranges = build_quality_ranges([*[cut] * num_cut, *[USUAL] * (20 - num_cut)], TASK)
    assert ranges is not None
    assert [flag.code for flag in judge_case(cut, TASK, ranges)] == (["cut"] if is_flagged else [])


def test_positions_along_an_unusual_field_of_view_are_not_told_again() -> None:
    high = change_label("bladder", position=(0.5, 0.6, 0.9))
    assert judge_one(dataclasses.replace(high, field_of_view_mm=(450, 450, 1900))).code == "field-of-view"
    flags = judge_case(dataclasses.replace(high, field_of_view_mm=(1900, 450, 300)), TASK, RANGES)
    assert [flag.code for flag in flags] == ["field-of-view", "position"]


def test_labels_that_were_never_found_in_training_are_not_judged() -> None:
    ranges = build_quality_ranges([dataclasses.replace(USUAL, labels=USUAL.labels | {"bladder": None})] * 8, TASK)
    assert ranges is not None
    assert judge_case(USUAL, TASK, ranges) == ()


# ---- intensities ---------------------------------------------------------------------------------------------------------


def test_the_gain_of_an_mr_scanner_is_not_told_but_another_contrast_is() -> None:
    ranges = build_ranges(20, task=MR)
    louder = dataclasses.replace(USUAL, intensities=((-4500.0, 200.0, 7000.0),))
    assert judge_case(louder, MR, ranges) == ()
    assert judge_one(louder).code == "intensity"  # in CT, HU are HU
    flag = judge_one(dataclasses.replace(USUAL, intensities=((-450.0, 690.0, 700.0),)), MR, ranges)
    assert (flag.code, flag.quantity, flag.unit) == ("intensity", "relative median of channel ct", "")


@pytest.mark.parametrize("task", [TASK, MR], ids=["CT", "MR"])
def test_a_channel_of_one_intensity_is_told_always(task: Task) -> None:
    empty = dataclasses.replace(USUAL, intensities=((7.0, 7.0, 7.0),))
    flag = judge_one(empty, task, build_ranges(4, task=task))
    assert flag.message == "All of channel ct has one intensity, 7: nothing can be seen in it."


# ---- files of version 1 --------------------------------------------------------------------------------------------------


def test_ranges_of_version_1_are_read_and_held_against() -> None:
    content = json.loads(RANGES.model_dump_json())
    content["version"] = 1
    for channel in content["channels"].values():
        del channel["relative_median"]
    for label in content["labels"].values():
        del label["dice_calibration"]
    old = QualityRanges.model_validate(content)
    assert judge_case(USUAL, TASK, old) == ()
    assert judge_case(USUAL, MR, old) == ()
    assert judge_one(change_label("bladder", volume_ml=3000.0), ranges=old).code == "volume"
    # It counted specks as parts, so fewer parts are no wonder, but more are.
    assert judge_case(change_label("kidneys", num_parts=1), TASK, old) == ()
    assert judge_one(change_label("kidneys", num_parts=3), ranges=old).code == "num-parts"


# ---- predicted Dice ------------------------------------------------------------------------------------------------------

CALIBRATION = DiceCalibration(
    members="4 flips",
    num_cases=30,
    intercept=2.2,
    slope=1.0,
    mean_agreement=3.0,
    highest_agreement=4.5,
    sum_squares=10.0,
    half_width=0.5,
    level=0.9,
    poor_dice=0.7,
)


def judge_agreement(agreement: float, *, members: str = "4 flips", facts: CaseFacts = USUAL) -> tuple[Flag, ...]:
    labels = RANGES.labels | {"bladder": RANGES.labels["bladder"].model_copy(update={"dice_calibration": CALIBRATION})}
    counts = AgreementCounts(
        members=members,
        common={"bladder": (round(1000 * agreement),), "femur": (1,)},
        total={"bladder": (2000,), "femur": (2000,)},
    )
    return judge_case(facts, TASK, RANGES.model_copy(update={"labels": labels}), agreement=counts)


def test_members_that_disagree_are_told() -> None:
    assert judge_agreement(0.95) == ()
    (flag,) = judge_agreement(0.6)
    assert (flag.code, flag.label, flag.expected) == ("predicted-dice", "bladder", (0.7, 1.0))
    assert flag.found == pytest.approx(0.4, abs=0.1)
    assert flag.message.startswith(f"The predicted Dice of bladder is {flag.found:.2f} (0.")
    assert flag.message.endswith("; in validation, less than 0.70 was poor.")


def test_other_members_and_absent_structures_have_no_predicted_dice() -> None:
    assert judge_agreement(0.6, members="5 folds") == ()
    flags = judge_agreement(0.6, facts=dataclasses.replace(USUAL, labels=USUAL.labels | {"bladder": None}))
    assert [flag.code for flag in flags] == ["missing"]


# ---- from voxels ---------------------------------------------------------------------------------------------------------


def build_case(seed: int, *, shift: int = 0, value: float = 40.0) -> tuple[Volume, Volume]:
    generator = np.random.default_rng(seed)
    image = np.full((1, 24, 20, 16), -1000, np.float32)
    image[0, 2:22, 2:18, :] = value + generator.normal(0, 10, (20, 16, 16))
    labels = np.zeros((1, 24, 20, 16), np.uint8)
    size = 4 + seed % 2
    labels[0, 6 : 6 + size, 5:10, 5 + shift : 9 + shift] = 1
    labels[0, 14:17, 8:12, 0:6] = 2  # cut always
    labels[0, 8 : 8 + size, 12:15, 11:13] = 3
    labels[0, 15 : 15 + size, 12:15, 11:13] = 4
    return Volume(image, np.diag([2.0, 2.0, 5.0, 1.0])), Volume(labels, np.diag([2.0, 2.0, 5.0, 1.0]))


def test_flags_of_a_scan_and_its_mask() -> None:
    ranges = build_quality_ranges([measure_case(*build_case(seed), TASK) for seed in range(8)], TASK)
    assert ranges is not None
    image, labels = build_case(9)
    assert find_flags(image, labels, TASK, ranges) == ()
    wrong = labels.array.copy()
    wrong[wrong == 4] = 0  # one kidney is gone
    codes = [(flag.code, flag.label) for flag in find_flags(image, labels.with_array(wrong), TASK, ranges)]
    assert codes == [("volume", "kidneys"), ("num-parts", "kidneys"), ("position", "kidneys")]
    codes = [(flag.code, flag.label) for flag in find_flags(*build_case(9, shift=7, value=1064.0), TASK, ranges)]
    assert codes == [("intensity", None), ("cut", "bladder"), ("position", "bladder")]


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["hippocampus-mr", "headneck-ct"])
def test_real_references_are_flagged_rarely_and_broken_ones_mostly(real_data: Path, name: str) -> None:
    task = load_task(name)
    facts = [measure_case(*read_case(case, task), task) for case in read_dataset(real_data / name).cases[:40]]
    ranges = build_quality_ranges(facts[:20], task)
    assert ranges is not None
    flagged = [bool(judge_case(of_case, task, ranges)) for of_case in facts[20:]]
    assert np.mean(flagged) <= 0.15
    first = next(iter(task.labels))
    broken = []
    for of_case in facts[20:]:
        label = of_case.labels[first]
        assert label is not None
        leftover = dataclasses.replace(label, volume_ml=label.volume_ml / 20)
        broken.append(judge_case(dataclasses.replace(of_case, labels=of_case.labels | {first: leftover}), task, ranges))
    assert np.mean([any(flag.label == first for flag in flags) for flags in broken]) >= 0.9
