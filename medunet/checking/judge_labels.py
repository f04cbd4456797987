"""What is odd about the labels of a dataset: absent ones, swapped sides, islands, organs that the image cuts off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medunet.checking.condense import condense, list_ids
from medunet.checking.report import CaseFacts, Finding, LabelFacts, Severity
from medunet.planning.body import BODY_MARGIN_MM, BODY_THRESHOLD_HU
from medunet.tasks import Task, is_picture

_NEARLY_ALL, _MANY_CASES = 0.8, 10
_DIRECTIONS = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "I": "lower", "S": "upper"}


def judge_labels(cases: Sequence[CaseFacts], task: Task) -> list[Finding]:
    """Findings about the labels of the cases that can be read."""
    cases = [facts for facts in cases if facts.is_usable]
    findings = _judge_empty(cases)
    for pair in task.laterality:
        findings += _judge_sides(cases, pair)
    for label in task.labels:
        holding = {facts.case_id: facts.labels[label] for facts in cases if label in facts.labels}
        findings += _judge_absence(cases, holding, label)
        findings += _judge_cropped(holding, label)
        if not is_picture(task.modality):  # a picture shows many of a thing, and cuts through some of them
            if not task.has_instances:  # of many objects small ones are no slips of the pen
                findings += _judge_islands(holding, label)
            findings += _judge_borders(holding, label)
    return findings


def _judge_empty(cases: Sequence[CaseFacts]) -> list[Finding]:
    advice = "All of the image would be learnt as background: leave the case out unless that is true."
    text = f"The label map is empty; expected a voxel of some label. {advice}"
    texts = {facts.case_id: text for facts in cases if not facts.labels}
    return condense(texts, len(cases), text, severity="warning", topic="labels")


def _judge_absence(cases: Sequence[CaseFacts], holding: Mapping[str, LabelFacts], label: str) -> list[Finding]:
    cases = [facts for facts in cases if facts.was_looked_for(label)]
    # That a label map is empty is said of the case, not of each label.
    absent = [facts.case_id for facts in cases if facts.labels and label not in facts.labels]
    if not cases or (holding and not absent):
        return []
    if not holding:
        text = (
            f"No case holds '{label}'; expected it in some. It cannot be learnt: check the label values of the task, or "
            "remove the label."
        )
        return [Finding(severity="warning", topic="labels", label=label, text=text)]
    is_exception = len(cases) >= _MANY_CASES and len(holding) >= _NEARLY_ALL * len(cases)
    text = (
        f"'{label}' is absent in {len(absent)} of {len(cases)} cases ({list_ids(absent)}); there it is learnt as "
        "background. Fine where the patient has none or the image ends before it; where nobody drew it, say so in the "
        "dataset, complete the contours, or leave the cases out."
    )
    severity: Severity = "warning" if is_exception else "note"
    return [Finding(case_ids=tuple(absent), severity=severity, topic="labels", label=label, text=text)]


def _judge_sides(cases: Sequence[CaseFacts], pair: tuple[str, str]) -> list[Finding]:
    """Of a pair, the left label must lie to the patient's left: at the smaller x in RAS+."""
    left, right = pair
    offsets_mm = {
        facts.case_id: facts.labels[left].centroid_mm[0] - facts.labels[right].centroid_mm[0]
        for facts in cases
        if left in facts.labels and right in facts.labels
    }
    swapped = {case_id: mm for case_id, mm in offsets_mm.items() if mm > 0}
    if len(swapped) == len(offsets_mm) > 1:
        text = (
            f"'{left}' lies to the patient's right of '{right}' in all {len(swapped)} cases; expected it on the left. "
            "Either their values in the task are swapped, or every file is mirrored."
        )
        return [Finding(severity="warning", topic="laterality", label=left, text=text)]
    return [
        Finding(
            case_id=case_id,
            severity="warning",
            topic="laterality",
            label=left,
            text=f"'{left}' lies {mm:.0f} mm to the patient's right of '{right}'; expected it on the left. Swap the two "
            "labels, or correct the orientation of the files.",
        )
        for case_id, mm in swapped.items()
    ]


def _judge_cropped(holding: Mapping[str, LabelFacts], label: str) -> list[Finding]:
    advice = (
        f"expected it in the body, which is what is above {BODY_THRESHOLD_HU:g} HU in CT and not 0 in MR. It is cropped away "
        "and not learnt: look at contour and intensities."
    )
    texts = {
        case_id: f"{facts.cropped_voxels / facts.num_voxels:.0%} of '{label}' lies more than {BODY_MARGIN_MM:g} mm outside "
        f"the body's box; {advice}"
        for case_id, facts in holding.items()
        if facts.cropped_voxels
    }
    summary = f"a part of '{label}' lies more than {BODY_MARGIN_MM:g} mm outside the body's box; {advice}"
    return condense(texts, len(holding), summary, severity="warning", topic="labels", label=label)


def _judge_islands(holding: Mapping[str, LabelFacts], label: str) -> list[Finding]:
    texts = {}
    for case_id, facts in holding.items():
        if facts.num_islands:
            ml = facts.volume_ml * facts.island_voxels / facts.num_voxels
            texts[case_id] = (
                f"'{label}' has {_count(facts.num_islands, 'island')} of {_count(facts.island_voxels, 'voxel')} "
                f"({ml:.2g} ml) beside a part of {facts.largest_part_voxels:,} voxels; expected one part. Remove what "
                "is a slip of the pen."
            )
    summary = f"'{label}' has islands of a few voxels beside its large part; expected one part. Remove what are slips of the pen."
    return condense(texts, len(holding), summary, severity="note", topic="islands", label=label)


def _judge_borders(holding: Mapping[str, LabelFacts], label: str) -> list[Finding]:
    texts = {
        case_id: f"'{label}' touches the {_list_sides(facts.borders)} border of the image; expected all of it inside. Its "
        "volume is that of the part that was scanned."
        for case_id, facts in holding.items()
        if facts.borders
    }
    sides = [side for side in _DIRECTIONS if any(side in facts.borders for facts in holding.values())]
    summary = (
        f"'{label}' touches the {_list_sides(sides)} border of the image; expected all of it inside. Its volume is that of "
        "the part that was scanned."
    )
    return condense(texts, len(holding), summary, severity="note", topic="border", label=label)


def _list_sides(sides: Sequence[str]) -> str:
    return ", ".join(_DIRECTIONS[side] for side in sides)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
