"""A changed training is refused in words that say what changed."""

from __future__ import annotations

from typing import Any

import pytest

from medunet.planning.plan import NetworkPlan, Normalization, OptimizerPlan, Plan
from medunet.tasks import FillHoles, Task
from medunet.training.identity import RunIdentity, describe_difference

TASK = Task(
    name="tiny-ct",
    title="Tiny",
    modality="CT",
    channels=("ct",),
    labels={"anterior": (1,), "posterior": (2, 4)},
    intensity="ct-percentile",
)
PLAN = Plan(
    task="tiny-ct",
    modality="CT",
    configuration="3d",
    spacing=(1.0, 1.0, 2.5),
    median_shape=(50, 60, 40),
    patch_size=(40, 56, 40),
    batch_size=2,
    normalization=(Normalization(rule="ct-percentile", lower=-100, upper=200, mean=30, std=40),),
    network=NetworkPlan(
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        features=(8, 16),
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 1), (3, 3, 3)),
        encoder_blocks=(2, 2),
        decoder_convolutions=(2,),
        num_scales=1,
    ),
    optimizer=OptimizerPlan(name="adamw", learning_rate=3e-3, weight_decay=1e-2, schedule="cosine"),
    reasons={"spacing": "median"},
)


def build(**changes: Any) -> RunIdentity:
    ids = [f"case_{n}" for n in range(8)]
    content: dict[str, Any] = {
        "medunet_version": "0.1.0",
        "case_checksums": {name: f"{n}f" for n, name in enumerate(ids)},
        "training_cases": ids[:6],
        "validation_cases": ids[6:],
        "plan": PLAN,
        "task": TASK,
        "loss": "dice-ce",
        "seed": 0,
        "augmentation": "fast",
        "world_size": 1,
    }
    return RunIdentity(**(content | changes))


def change_plan(**changes: Any) -> Plan:
    return PLAN.model_copy(update=changes)


def change_task(**changes: Any) -> Task:
    return TASK.model_copy(update=changes)


SAVED = build()
IDS = list(SAVED.training_cases)
LEFT_RULE = PLAN.normalization[0]

DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"case_checksums": SAVED.case_checksums | {"case_4": "0"}}, "case case_4 has other voxels or labels"),
    (
        {"case_checksums": dict.fromkeys(SAVED.case_checksums, "0")},
        "cases case_0, case_1, case_2 and 5 others have other voxels or labels",
    ),
    ({"training_cases": IDS[:5]}, "1 case fewer: case_5"),
    ({"training_cases": [*IDS, "y", "x", "z"]}, "3 cases more: x, y, z"),
    (
        {"training_cases": IDS[:5], "validation_cases": ["case_5", "case_6", "case_7"]},
        "1 case moved from training to validation: case_5",
    ),
    (
        {"training_cases": [*IDS, "case_6", "case_7"], "validation_cases": []},
        "2 cases moved from validation to training: case_6, case_7",
    ),
    ({"training_cases": IDS[::-1]}, "the training cases are in another order"),
    ({"task": change_task(labels={"anterior": (2,), "posterior": (2, 4)})}, "label 'anterior' had value 1, has 2"),
    (
        {"task": change_task(labels={"anterior": (1,), "posterior": (2,)})},
        "label 'posterior' had value 2 and 4, has 2",
    ),
    (
        {"task": change_task(labels={"anterior": (1,), "middle": (3,)})},
        "label 'posterior' is gone; label 'middle' is new",
    ),
    (
        {"task": change_task(labels=dict(reversed(TASK.labels.items())))},
        "the labels are in another order",
    ),
    ({"task": change_task(ignore=9)}, "task.ignore none -> 9"),
    ({"task": change_task(channels=("ct", "pet"))}, "task.channels ct -> ct, pet"),
    ({"plan": change_plan(patch_size=(32, 48, 32))}, "plan.patch_size 40x56x40 -> 32x48x32"),
    ({"plan": change_plan(spacing=(1.0, 1.0, 3.0))}, "plan.spacing 1.0x1.0x2.5 -> 1.0x1.0x3.0"),
    (
        {"plan": change_plan(network=PLAN.network.model_copy(update={"kernels": ((3, 3, 3), (3, 3, 3))}))},
        "plan.network.kernels 3x3x1 3x3x3 -> 3x3x3 3x3x3",
    ),
    (
        {"plan": change_plan(normalization=(LEFT_RULE.model_copy(update={"lower": -90.0}),))},
        "plan.normalization.0.lower -100.0 -> -90.0",
    ),
    ({"plan": change_plan(normalization=(LEFT_RULE, LEFT_RULE))}, "plan.normalization "),
    ({"loss": "dice-focal"}, "loss dice-ce -> dice-focal"),
    ({"seed": 3}, "seed 0 -> 3"),
    ({"augmentation": "none"}, "augmentation fast -> none"),
    ({"world_size": 2}, "processes that learn together 1 -> 2"),
]


@pytest.mark.parametrize(("changes", "words"), DIFFERENCES, ids=[words for _, words in DIFFERENCES])
def test_every_change_is_named_and_nothing_else(changes: dict[str, Any], words: str) -> None:
    found = describe_difference(SAVED, build(**changes))
    assert found.startswith(words)
    if not words.endswith(" "):
        assert found == words


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"medunet_version": "9.9"},
        {"plan": change_plan(reasons={"spacing": "other words"})},
        {
            "task": change_task(
                title="Another title",
                budget="3h",
                synonyms={"anterior": ("front",)},
                postprocessing={"anterior": (FillHoles(),)},
            )
        },
        {"case_checksums": {"case_0": "0f"}},
    ],
    ids=["nothing", "version", "reasons", "words of the task", "fewer checksums"],
)
def test_what_changes_no_weight_is_no_difference(changes: dict[str, Any]) -> None:
    assert describe_difference(SAVED, build(**changes)) == ""


def test_several_changes_are_one_line() -> None:
    found = describe_difference(SAVED, build(seed=1, loss="tversky", training_cases=IDS[1:]))
    assert found == "1 case fewer: case_0; loss dice-ce -> tversky; seed 0 -> 1"
    assert "\n" not in found


def test_an_identity_survives_json() -> None:
    again = RunIdentity.model_validate_json(SAVED.model_dump_json())
    assert again == SAVED
    assert describe_difference(again, SAVED) == ""


def test_a_plan_of_another_version_can_still_be_compared() -> None:
    older = SAVED.plan | {"optimiser": "adamw"}
    del older["optimizer"]
    found = describe_difference(build(plan=older), SAVED)
    assert "plan.optimiser adamw -> none" in found
    assert "plan.optimizer none -> " in found


def test_a_state_from_before_tasks_named_steps_can_be_resumed() -> None:
    older = dict(SAVED.task)
    del older["postprocessing"]
    assert describe_difference(build(task=older), SAVED) == ""
