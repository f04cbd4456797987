"""JPEG: photographs, decoded by Pillow; never masks, whose values it changes.

Flipped bits stay unseen, for the format has no checksum.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from medunet.io.claims import check_claim, check_memory
from medunet.io.picture import CM_MM, INCH_MM, LARGE_BYTES, refuse, to_spacing
from medunet.volume import Array, Spacing

_ORIENTATION = 0x0112  # of Exif; 1 is upright


def read_jpeg(path: Path) -> tuple[Array, Spacing]:
    """``(C, I, J, 1)`` uint8, one channel or three, and the spacing."""
    from PIL import Image

    with Image.open(path, formats=("JPEG",)) as image:
        refuse(path, _find_jpeg_problem(image.mode, int(image.getexif().get(_ORIENTATION, 1))))
        num_samples = len(image.getbands())
        num_bytes = math.prod(image.size) * num_samples
        if num_bytes > LARGE_BYTES:
            check_claim(path, num_bytes, what=f"{image.width}x{image.height} pixels", is_compressed=True)
        check_memory(path, 3 * num_bytes)
        x, y = image.info.get("jfif_density", (0, 0))
        unit_mm = {1: INCH_MM, 2: CM_MM}.get(image.info.get("jfif_unit", 0))
        pixels = np.asarray(image)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return pixels.transpose(2, 1, 0)[..., None], to_spacing(path, x, y, unit_mm) or (1.0, 1.0, 1.0)


def _find_jpeg_problem(mode: str, orientation: int) -> str:
    if mode not in ("L", "RGB"):
        return f"has the colours {mode}"
    # A mask may have been drawn on the picture as it is stored, or as it is shown: nobody can tell.
    return "" if orientation == 1 else f"is to be shown turned or mirrored (its Exif orientation is {orientation})"
