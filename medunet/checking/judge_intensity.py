"""Whether intensities can be what the task says they are: HU in CT, arbitrary but untouched values in MR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from medunet.checking.condense import condense
from medunet.checking.report import CaseFacts, ChannelFacts, Finding, Severity
from medunet.tasks import Task, is_picture

MIN_HU_RANGE = 100.0
"""Air and tissue are 1000 HU apart, fat and muscle 150: a CT with less between its extremes was rescaled."""
_BYTE_MAX = 255.0
_NO_AIR_HU = -500.0
_MIN_OFFSET_SHARE = 0.5  # of voxels from 850 to 1250 among those above 200
_MAX_OFFSET_AIR_SHARE = 0.001
_MR_AIR_HU = -900.0
_MIN_MR_AIR_SHARE = 0.05
_MAX_MR_NEGATIVE_SHARE = 0.01  # interpolation overshoots a little


class _Oddity(NamedTuple):
    kind: str
    severity: Severity
    text: str


def judge_intensities(cases: Sequence[CaseFacts], task: Task) -> list[Finding]:
    """What is odd about each channel; at most one finding per case and channel, the one that explains most."""
    findings = []
    for index, name in enumerate(task.channels):
        channels = {facts.case_id: facts.channels[index] for facts in cases if index < len(facts.channels)}
        where = f"Channel '{name}'" if len(task.channels) > 1 else "The image"
        findings += _judge_channel(channels, task, where)
    return findings + [finding for facts in cases for finding in _judge_twin_channels(facts, task.channels)]


def _judge_channel(channels: dict[str, ChannelFacts], task: Task, where: str) -> list[Finding]:
    judge = _judge_picture if is_picture(task.modality) else _judge_ct if task.modality == "CT" else _judge_mr
    by_kind: dict[tuple[str, Severity], dict[str, str]] = {}
    for case_id, channel in channels.items():
        if oddity := _judge_constant(channel) or judge(channel):
            by_kind.setdefault((oddity.kind, oddity.severity), {})[case_id] = f"{where} {oddity.text}"
    return [
        finding
        for (_, severity), texts in by_kind.items()
        for finding in condense(
            texts,
            len(channels),
            f"{next(iter(texts.values()))} (The numbers are those of the first.)",
            severity=severity,
            topic="intensity",
        )
    ]


def _judge_constant(channel: ChannelFacts) -> _Oddity | None:
    if channel.minimum < channel.maximum:
        return None
    text = f"has the value {channel.minimum:g} in every voxel; expected an image. Export it again."
    return _Oddity("constant", "warning", text)


def _judge_ct(channel: ChannelFacts) -> _Oddity | None:
    low, high = channel.minimum, channel.maximum
    found = f"has values from {low:.4g} to {high:.4g}"
    if high - low < MIN_HU_RANGE:
        text = f"{found}; expected HU, about -1000 to 1000 and more. It was normalised: export it again in HU."
        return _Oddity("normalised", "warning", text)
    if low >= 0 and high <= _BYTE_MAX:
        text = f"{found}; expected HU. It looks like a picture of 8 bits: export the series itself."
        return _Oddity("picture", "warning", text)
    if channel.share_offset_tissue >= _MIN_OFFSET_SHARE and channel.share_air <= _MAX_OFFSET_AIR_SHARE:
        text = (
            f"{found}, {channel.share_offset_tissue:.0%} of those above 200 lie between 850 and 1250 and none near -1000; "
            "expected soft tissue near 0 and air near -1000 HU. If the rescale intercept was lost, subtract 1024."
        )
        return _Oddity("offset", "warning", text)
    if low >= 0:
        text = f"{found}; expected HU, in which air and fat are below 0. It was clipped or shifted: export it again."
        return _Oddity("positive", "warning", text)
    if low > _NO_AIR_HU:
        text = f"{found}; expected some air near -1000 HU. Fine if it was cropped inside the body; else it was clipped."
        return _Oddity("no air", "note", text)
    return None


def _judge_mr(channel: ChannelFacts) -> _Oddity | None:
    found = f"has values from {channel.minimum:.4g} to {channel.maximum:.4g}"
    if channel.minimum <= _MR_AIR_HU and channel.share_air >= _MIN_MR_AIR_SHARE:
        text = (
            f"{found}, {channel.share_air:.0%} of its voxels near -1000, which looks like a CT in HU; expected MR. Is it the "
            "right image and task?"
        )
        return _Oddity("hu", "warning", text)
    if channel.share_negative > _MAX_MR_NEGATIVE_SHARE:
        text = (
            f"{found}, {channel.share_negative:.0%} of its voxels below 0; expected values from 0 on. Was it normalised "
            "before? Scans to be segmented later must be treated alike, and air that is not 0 is not cropped away."
        )
        return _Oddity("negative", "note", text)
    return None


def _judge_picture(channel: ChannelFacts) -> _Oddity | None:
    """Cameras agree on no unit, so any values will do; what shows nothing was found before."""
    return None


def _judge_twin_channels(facts: CaseFacts, names: Sequence[str]) -> list[Finding]:
    first: dict[str, str] = {}
    findings = []
    for name, channel in zip(names, facts.channels, strict=False):  # a case with other channels is refused
        twin = first.setdefault(channel.sha256, name)
        if twin != name and channel.minimum < channel.maximum:
            text = f"Channels '{twin}' and '{name}' hold the same voxels; expected different images. Correct the files."
            findings.append(Finding(case_id=facts.case_id, severity="warning", topic="duplicate", text=text))
    return findings
