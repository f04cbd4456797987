"""What most cases share speaks of the task or of how the data were made: it is said once, not once per case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medunet.checking.report import Finding, Severity, Topic

COMMON_SHARE = 0.1
"""Above this share of the cases in question, and in more than `FEW_CASES`, a finding is said once."""
FEW_CASES = 3
_SHOWN_IDS = 6


def condense(
    texts: Mapping[str, str],
    num_cases: int,
    summary: str,
    *,
    severity: Severity,
    topic: Topic,
    label: str | None = None,
) -> list[Finding]:
    """A finding per case, or a single one for what is common.

    Args:
        texts: Case id -> what is said of it alone.
        num_cases: Cases of which it could be said.
        summary: What is said of all; the number of cases and their ids stand in front of it.
        severity: Of the findings.
        topic: Of the findings.
        label: Of the findings.
    """
    if len(texts) > max(FEW_CASES, COMMON_SHARE * num_cases):
        text = f"In {len(texts)} of {num_cases} cases ({list_ids(list(texts))}): {summary}"
        return [Finding(case_ids=tuple(texts), severity=severity, topic=topic, label=label, text=text)]
    return [
        Finding(case_id=case_id, severity=severity, topic=topic, label=label, text=text)
        for case_id, text in texts.items()
    ]


def list_ids(ids: Sequence[str]) -> str:
    """The first few ids, and how many more.

    Example:
        >>> list_ids(["a", "b"])
        'a, b'
    """
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(ids[:_SHOWN_IDS]) + more
