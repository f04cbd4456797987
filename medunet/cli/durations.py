"""How long something took, for people."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Minutes and seconds, such as ``2:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
