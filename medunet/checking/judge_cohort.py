"""What shows only when cases are compared: the same image twice, grids, intensities and volumes of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medunet.checking.condense import list_ids
from medunet.checking.report import CaseFacts, Finding, Severity
from medunet.tasks import Task

MIN_CASES = 5
"""Fewer have no usual value."""
MAX_SPACING_RATIO = 2.0
WRONG_UNIT_RATIO = 5.0
MAX_EXTENT_RATIO = 3.0
MAX_VOLUME_RATIO = 4.0
MAX_HU_DEVIATION = 400.0
MAX_SCALE_RATIO = 20.0
_MAX_DEVIATIONS = 4.0  # of the logarithm of a volume, in units of the robust standard deviation
_MIN_SHARED_VOXELS = 100  # two label maps of fewer voxels can be equal by chance
_AXES = ("left-right", "posterior-anterior", "inferior-superior")

Folds = Sequence[tuple[frozenset[str], frozenset[str]]]
"""Case ids that train and that validate, per fold."""


def judge_duplicates(
    cases: Sequence[CaseFacts], folds: Folds, patients: Mapping[str, str | None] | None = None
) -> list[Finding]:
    """Equal images under two ids, and equal label maps of different images.

    Args:
        cases: Measured.
        folds: That training would use.
        patients: Case id -> patient, where the dataset says it: one label map for two images of a patient is sound.
    """
    findings = []
    for group in _group(cases, _key_image):
        ids = [facts.case_id for facts in group]
        labels = _compare_labels(group)
        leak = (
            " In some fold one trains and another validates, which flatters the score."
            if _is_divided(ids, folds)
            else ""
        )
        text = f"The images of {list_ids(ids)} are the same, voxel by voxel{labels}; expected each once.{leak}"
        findings.append(_warn(ids, f"{text} Remove all but one."))
    for group in _group(cases, _key_labels):
        ids = [facts.case_id for facts in group]
        is_one_patient = len({(patients or {}).get(case_id) or f"case {case_id}" for case_id in ids}) == 1
        if len({_key_image(facts) for facts in group}) > 1 and not is_one_patient:
            text = (
                f"The label maps of {list_ids(ids)} are the same, voxel by voxel, though the images differ; expected each to "
                "have its own. Find out to which image they belong."
            )
            findings.append(_warn(ids, text))
    return findings


def _compare_labels(group: Sequence[CaseFacts]) -> str:
    if not all(facts.is_usable for facts in group):
        return ""
    return ", and so are the labels" if len({facts.labels_sha256 for facts in group}) == 1 else ", the labels are not"


def judge_outliers(cases: Sequence[CaseFacts], task: Task) -> list[Finding]:
    """Voxel sizes, extents and label volumes far from what the dataset has."""
    findings = _judge_grids(cases)
    judge_scale = _judge_hu if task.modality == "CT" else _judge_mr_scale
    for index in range(len(task.channels)):
        findings += judge_scale(cases, index, task)
    for label in task.labels:
        findings += _judge_volumes([facts for facts in cases if label in facts.labels], label)
    return findings


def _judge_grids(cases: Sequence[CaseFacts]) -> list[Finding]:
    grids = {facts.case_id: facts.grid for facts in cases if facts.grid is not None}
    if len(grids) < MIN_CASES:
        return []
    spacing = np.median([grid.ras_spacing for grid in grids.values()], axis=0).tolist()
    extent = np.median([grid.ras_extent_mm for grid in grids.values()], axis=0).tolist()
    findings = []
    for case_id, grid in grids.items():
        axis, ratio = _find_farthest(grid.ras_spacing, spacing)
        if ratio > MAX_SPACING_RATIO:
            is_wrong = ratio > WRONG_UNIT_RATIO
            severity: Severity = "warning" if is_wrong else "note"
            remedy = "Is the unit right?" if is_wrong else "Fine if the scanner did so; it is resampled."
            text = (
                f"Voxels are {grid.ras_spacing[axis]:.4g} mm along {_AXES[axis]}; expected about {spacing[axis]:.4g} mm, "
                f"the median of the dataset. {remedy}"
            )
            findings.append(Finding(case_id=case_id, severity=severity, topic="outlier", text=text))
        axis, ratio = _find_farthest(grid.ras_extent_mm, extent)
        if ratio > MAX_EXTENT_RATIO:
            text = (
                f"The image has {grid.ras_shape[axis]} voxels, {grid.ras_extent_mm[axis]:.4g} mm, along {_AXES[axis]}; "
                f"expected about {extent[axis]:.4g} mm, the median of the dataset. Is it cropped, or another part of the "
                "body?"
            )
            findings.append(Finding(case_id=case_id, severity="note", topic="outlier", text=text))
    return findings


def _find_farthest(values: Sequence[float], usual: Sequence[float]) -> tuple[int, float]:
    """The axis that differs most, and by which factor, up or down."""
    ratios = [_compute_ratio(value, mm) for value, mm in zip(values, usual, strict=True)]
    axis = int(np.argmax(ratios))
    return axis, ratios[axis]


def _compute_ratio(value: float, usual: float) -> float:
    """By which factor two positive numbers differ, at least 1."""
    return max(value / usual, usual / value)


def _list_medians(cases: Sequence[CaseFacts], index: int) -> dict[str, float]:
    return {
        facts.case_id: median
        for facts in cases
        if facts.is_usable and (median := facts.channels[index].labelled_median) is not None
    }


def _judge_hu(cases: Sequence[CaseFacts], index: int, task: Task) -> list[Finding]:
    """The labels of a task are the same tissue in every case; contrast medium adds some 200 HU."""
    medians = _list_medians(cases, index)
    if len(medians) < MIN_CASES:
        return []
    usual = float(np.median(list(medians.values())))
    return [
        Finding(
            case_id=case_id,
            severity="warning",
            topic="outlier",
            text=f"In '{task.channels[index]}', the labelled voxels have a median of {median:.4g} HU; expected about {usual:.4g} HU, as in "
            "the rest of the dataset. Was it shifted, or do the labels lie elsewhere?",
        )
        for case_id, median in medians.items()
        if abs(median - usual) > MAX_HU_DEVIATION
    ]


def _judge_mr_scale(cases: Sequence[CaseFacts], index: int, task: Task) -> list[Finding]:
    """The scale of MR is arbitrary, which is harmless where every image is brought to its own mean and deviation."""
    medians = {case_id: median for case_id, median in _list_medians(cases, index).items() if median > 0}
    if len(medians) < MIN_CASES:
        return []
    usual = float(np.median(list(medians.values())))
    far = [case_id for case_id, median in medians.items() if _compute_ratio(median, usual) > MAX_SCALE_RATIO]
    if not far:
        return []
    is_harmless = task.intensity == "zscore"
    severity: Severity = "note" if is_harmless else "warning"
    remedy = (
        "Fine with intensity: zscore, which brings every image to its own scale; were they made alike?"
        if is_harmless
        else "Use intensity: zscore, or bring the images to one scale."
    )
    text = (
        f"In '{task.channels[index]}', the labelled voxels of {len(far)} of {len(medians)} cases ({list_ids(far)}) have a "
        f"median more than {MAX_SCALE_RATIO:g} times off the usual {_say(usual)} (from {_say(min(medians.values()))} to "
        f"{_say(max(medians.values()))}); expected one scale. {remedy}"
    )
    return [Finding(case_ids=tuple(far), severity=severity, topic="outlier", text=text)]


def _say(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"


def _judge_volumes(cases: Sequence[CaseFacts], label: str) -> list[Finding]:
    """Far from the median by a factor, and for this label unusual too: volumes of lesions vary by a thousand."""
    if len(cases) < MIN_CASES:
        return []
    logs = np.log([facts.labels[label].volume_ml for facts in cases])
    median = float(np.median(logs))
    deviation = 1.4826 * float(np.median(np.abs(logs - median)))
    findings = []
    for facts, log in zip(cases, logs.tolist(), strict=True):
        if abs(log - median) > max(math.log(MAX_VOLUME_RATIO), _MAX_DEVIATIONS * deviation):
            text = (
                f"'{label}' has {math.exp(log):.3g} ml; expected about {math.exp(median):.3g} ml, the median of the "
                "dataset. Look at the contour."
            )
            findings.append(Finding(case_id=facts.case_id, severity="note", topic="outlier", label=label, text=text))
    return findings


def _group(cases: Sequence[CaseFacts], key: Callable[[CaseFacts], object]) -> list[list[CaseFacts]]:
    """Cases of equal key, where there are several; a key of None is like no other."""
    groups: dict[object, list[CaseFacts]] = {}
    for facts in cases:
        if (value := key(facts)) is not None:
            groups.setdefault(value, []).append(facts)
    return [group for group in groups.values() if len(group) > 1]


def _key_image(facts: CaseFacts) -> tuple[str, ...] | None:
    # All constant images are equal; that they are constant is a finding of its own.
    is_image = any(channel.minimum < channel.maximum for channel in facts.channels)
    return tuple(channel.sha256 for channel in facts.channels) if is_image else None


def _key_labels(facts: CaseFacts) -> str | None:
    num_voxels = sum(label.num_voxels for label in facts.labels.values())
    return facts.labels_sha256 if num_voxels >= _MIN_SHARED_VOXELS else None


def _is_divided(ids: Sequence[str], folds: Folds) -> bool:
    return any(not training.isdisjoint(ids) and not validation.isdisjoint(ids) for training, validation in folds)


def _warn(ids: Sequence[str], text: str) -> Finding:
    return Finding(case_ids=tuple(ids), severity="warning", topic="duplicate", text=text)
