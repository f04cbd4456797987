"""What a message adds where a name is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: str, known: Iterable[str]) -> str:
    """``"did you mean 'channels'?"`` or the list of what is known; ends like a sentence."""
    known = list(known)
    nearest = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"did you mean '{nearest[0]}'?" if nearest else f"known are {', '.join(known)}."
