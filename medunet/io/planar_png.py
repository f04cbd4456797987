"""PNG: checked, decoded by Pillow, and encoded (https://www.w3.org/TR/png-3/)."""

from __future__ import annotations

import io
import logging
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medunet.errors import VolumeError
from medunet.io.claims import check_claim, check_memory
from medunet.io.picture import INCH_MM, count_inflated, refuse, to_spacing
from medunet.volume import Array, Spacing

logger = logging.getLogger(__name__)

_PNG_START = b"\x89PNG\r\n\x1a\n"
_CHUNK_BYTES = 2**22


def read_png(path: Path, *, takes_palette: bool = False) -> tuple[Array, Spacing]:
    """``(C, I, J, 1)`` and the spacing.

    Args:
        path: Where the file is.
        takes_palette: Whether the numbers of a palette are what is wanted, as in a mask, whatever their colours.
    """
    from PIL import Image

    chunks = list(_walk_png_chunks(path))
    kinds = [kind for kind, _ in chunks]
    if kinds[:1] != [b"IHDR"] or kinds[-1:] != [b"IEND"]:
        msg = f"{path} is cut short: expected PNG data from IHDR to IEND. Copy it from its source again."
        raise VolumeError(msg)
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    if not (takes_palette and _is_plain_palette(kinds, depth, colour)):
        refuse(path, _find_png_problem(kinds, depth, colour))
    num_bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    num_bytes = _count_png_bytes(width, height, num_bits, is_interlaced=interlace == 1)
    check_claim(path, num_bytes, what=f"{width}x{height} pixels", is_compressed=True)
    check_memory(path, 3 * num_bytes)
    packed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    num_found = count_inflated(packed, num_bytes, path)
    if num_found != num_bytes:
        msg = f"{path} promises {num_bytes} bytes of pixels in its header and has {num_found}. Copy it again."
        raise VolumeError(msg)
    with Image.open(path, formats=("PNG",)) as image:
        pixels = np.asarray(image)  # (J, I) or (J, I, C)
    if pixels.dtype == np.int32:  # what Pillow made of 16 bits before version 11
        pixels = pixels.astype(np.uint16)
    if colour in (4, 6):
        pixels = _drop_opaque_alpha(pixels, path)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return pixels.transpose(2, 1, 0)[..., None], _read_png_spacing(chunks, path)


def _walk_png_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of every chunk up to IEND, each with the right checksum."""
    with path.open("rb") as file:
        file.seek(len(_PNG_START))
        kind = b""
        while kind != b"IEND" and (start := file.read(8)):
            length, kind = struct.unpack(">I4s", start)
            content, checksum = file.read(length), file.read(4)
            if len(checksum) != 4 or zlib.crc32(kind + content) != int.from_bytes(checksum, "big"):
                msg = f"{path} is cut short or fails its checksum. Copy it from its source again."
                raise VolumeError(msg)
            yield kind, content


def _is_plain_palette(kinds: list[bytes], depth: int, colour: int) -> bool:
    return colour == 3 and depth in (1, 2, 4, 8) and b"acTL" not in kinds


def _find_png_problem(kinds: list[bytes], depth: int, colour: int) -> str:
    if colour == 3:
        return "has a palette, so its numbers are places in a list of colours"
    if colour not in (0, 2, 4, 6) or depth not in (1, 8, 16) or (colour != 0 and depth != 8):
        return f"has {depth} bits per sample and the colour type {colour}"
    if b"tRNS" in kinds:
        return "makes one of its values transparent"
    return "is animated" if b"acTL" in kinds else ""


def _count_png_bytes(width: int, height: int, num_bits: int, *, is_interlaced: bool) -> int:
    """Unpacked bytes: per row one for its filter, and whole bytes of pixels; interlaced in seven passes."""
    passes = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]
    total = 0
    for x, step_x, y, step_y in passes if is_interlaced else [(0, 1, 0, 1)]:
        columns, rows = math.ceil((width - x) / step_x), math.ceil((height - y) / step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + math.ceil(columns * num_bits / 8))
    return total


def _drop_opaque_alpha(pixels: Array, path: Path) -> Array:
    refuse(path, "has transparent pixels" if (pixels[..., -1] != 255).any() else "")
    logger.warning("%s has an alpha channel that is opaque everywhere; it is left out.", path)
    return pixels[..., :-1]


def _read_png_spacing(chunks: list[tuple[bytes, bytes]], path: Path) -> Spacing:
    content = next((content for kind, content in chunks if kind == b"pHYs"), None)
    if content is None:
        return 1.0, 1.0, 1.0
    x, y, unit = struct.unpack(">IIB", content)
    return to_spacing(path, x, y, 1000.0 if unit == 1 else None) or (1.0, 1.0, 1.0)


def encode_png(pages: Array, spacing: Spacing) -> bytes:
    """One page ``(1, J, I)`` uint8 or uint16, with the spacing in whole pixels per metre."""
    from PIL import Image

    buffer = io.BytesIO()
    has_spacing = spacing[:2] != (1.0, 1.0)  # as read where the picture did not say
    dpi = {"dpi": (INCH_MM / spacing[0], INCH_MM / spacing[1])} if has_spacing else {}
    Image.fromarray(pages[0]).save(buffer, format="PNG", **dpi)
    return buffer.getvalue()
