"""How much is computed at a time: less from there on where memory does not suffice, and no more than that for the next scan."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace

from medunet.inference.boundary import BLOCK

logger = logging.getLogger(__name__)

SMALLEST_BLOCK = 2**20
"""Logits, 4 MiB: smaller blocks save nothing beside the planes themselves."""


@dataclass(frozen=True, kw_only=True)
class Portions:
    """How much is computed at a time; it changes no label.

    Attributes:
        batch_size: Tiles, mirrored ones among them, that go through a network at once.
        block_logits: Logits that are turned at a time where finished planes become labels.
    """

    batch_size: int
    block_logits: int = BLOCK


class Experience:
    """What memory was enough for, from scan to scan: what failed is not tried again, and is said once.

    It belongs to networks on a device, and may be used from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batch_size: int | None = None
        self._block_logits: int | None = None
        self._said: set[str] = set()

    def limit(self, portions: Portions) -> Portions:
        """As much of it as was enough before."""
        batch_size, block_logits = self._batch_size, self._block_logits
        return Portions(
            batch_size=portions.batch_size if batch_size is None else min(portions.batch_size, batch_size),
            block_logits=portions.block_logits if block_logits is None else min(portions.block_logits, block_logits),
        )

    def learn_batch_size(self, batch_size: int) -> None:
        """More tiles at once do not fit."""
        with self._lock:
            self._batch_size = batch_size if self._batch_size is None else min(batch_size, self._batch_size)

    def learn_block_logits(self, block_logits: int) -> None:
        """Larger blocks do not fit."""
        with self._lock:
            self._block_logits = block_logits if self._block_logits is None else min(block_logits, self._block_logits)

    def warn_once(self, message: str) -> None:
        """Say what nobody has to hear for every scan."""
        with self._lock:
            is_new = message not in self._said
            self._said.add(message)
        if is_new:
            logger.warning(message)


class AtOnce:
    """The portions of one scan, shared by all that compute it; they become smaller where memory does not suffice.

    Args:
        portions: To begin with.
        experience: Learns what did not fit; None where nobody asks later.

    Attributes:
        portions: As they are now.
    """

    def __init__(self, portions: Portions, experience: Experience | None = None) -> None:
        self.portions = portions
        self._experience = experience or Experience()

    @classmethod
    def of(cls, batch_size: int | AtOnce) -> AtOnce:
        """A number of tiles for one scan alone; what is shared stays as it is."""
        return AtOnce(Portions(batch_size=batch_size)) if isinstance(batch_size, int) else batch_size

    @property
    def batch_size(self) -> int:
        """Tiles."""
        return self.portions.batch_size

    @property
    def block_logits(self) -> int:
        """Logits."""
        return self.portions.block_logits

    def take_fewer(self, tried: int, *, what: str = "tiles") -> None:
        """At most half of what did not fit from here on.

        Call it outside the ``except`` clause: until that is left, the error's traceback holds what the failed pass had computed.

        Args:
            tried: More than 1.
            what: Was too much, for the warning.
        """
        fewer = min(self.batch_size, tried // 2)
        self._experience.warn_once(f"Memory does not suffice for {tried} {what}; {fewer} at a time.")
        self.portions = replace(self.portions, batch_size=fewer)
        self._experience.learn_batch_size(fewer)

    def take_smaller_blocks(self) -> bool:
        """A quarter of a block from here on; False, and nothing changes, where it is the smallest."""
        if self.block_logits <= SMALLEST_BLOCK:
            return False
        smaller = max(SMALLEST_BLOCK, self.block_logits // 4)
        self.portions = replace(self.portions, block_logits=smaller)
        self._experience.learn_block_logits(smaller)
        return True

    def warn_once(self, message: str) -> None:
        """See `Experience.warn_once`."""
        self._experience.warn_once(message)
