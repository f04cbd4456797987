"""What PNG and TIFF share: the size of a pixel, and refusals."""

from __future__ import annotations

import logging
import math
import zlib
from pathlib import Path

from medunet.errors import VolumeError
from medunet.volume import Spacing

logger = logging.getLogger(__name__)

INCH_MM, CM_MM = 25.4, 10.0
LARGE_BYTES = 2**30
_PLACEHOLDER_DPI = (72.0, 96.0)
_CHUNK_BYTES = 2**22


def to_spacing(
    path: Path, x: float, y: float, unit_mm: float | None, slice_mm: float = 1.0, *, is_meant: bool = False
) -> Spacing | None:
    """Pixels per unit as mm per pixel; None where that says nothing. ``is_meant``: not written by a program alone."""
    if unit_mm is None and x == y:
        return None
    if unit_mm is None or not all(math.isfinite(number) and number > 0 for number in (x, y)):
        logger.warning("%s has a resolution of %g x %g without a meaning; 1 mm is assumed.", path, x, y)
        return None
    dpi = x * INCH_MM / unit_mm
    if not is_meant and x == y and any(abs(dpi - placeholder) < 0.02 for placeholder in _PLACEHOLDER_DPI):
        logger.warning("%s has %.0f dpi, as programs write that know no pixel size; 1 mm is assumed.", path, dpi)
        return None
    return unit_mm / x, unit_mm / y, slice_mm


def refuse(path: Path, problem: str) -> None:
    """Raise a `VolumeError` if there is a problem; an empty text is none."""
    if problem:
        msg = f"{path} {problem}; expected grey of 8 to 32 bits with 0 as black, or RGB of 8. Save it so."
        raise VolumeError(msg)


def count_inflated(packed: bytes, limit: int, path: Path) -> int:
    """How many bytes come out, counted to just beyond ``limit``; Pillow fills up with zeros when some are missing."""
    decompressor = zlib.decompressobj()
    done = 0
    while packed and not decompressor.eof and done <= limit:
        done += len(decompressor.decompress(packed, _CHUNK_BYTES))
        packed = decompressor.unconsumed_tail
    if not decompressor.eof and done <= limit:
        msg = f"{path} is cut short: its compressed data end too early. Copy it from its source again."
        raise VolumeError(msg)
    return done
