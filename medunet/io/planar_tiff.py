"""TIFF: pages, stacks of ImageJ, spacing; checked, decoded by Pillow, encoded by hand.

The format: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf.
"""

from __future__ import annotations

import json
import logging
import math
import struct
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from medunet.errors import VolumeError
from medunet.io.claims import check_claim, check_memory
from medunet.io.picture import CM_MM, INCH_MM, LARGE_BYTES, refuse, to_spacing
from medunet.io.stored_voxels import MM_PER_UNIT
from medunet.volume import Array, Spacing

logger = logging.getLogger(__name__)

# TIFF tags
_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _DESCRIPTION = 254, 258, 259, 262, 266, 270
_ORIENTATION, _NUM_SAMPLES, _X_RESOLUTION, _Y_RESOLUTION, _UNIT, _FORMAT = 274, 277, 282, 283, 296, 339
_ROWS_PER_STRIP, _PLANES, _TILE_SIZE = 278, 284, (322, 323)
_STRIPS, _TILES = (273, 279), (324, 325)  # offsets and byte counts
_SINGLE = (
    256, 257, _SUBFILE, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _ORIENTATION, _NUM_SAMPLES, _ROWS_PER_STRIP, _PLANES,
    *_TILE_SIZE,
)  # fmt: skip
_LISTS = (_BITS, _FORMAT, *_STRIPS, *_TILES)
_STRUCTURE = {*_SINGLE, *_LISTS} - {_SUBFILE}
_WHOLE_TYPES = (3, 4, 16)  # of 16, 32 and 64 bits
_RAW, _LZW, _PACKBITS, _DEFLATE = 1, 5, 32773, (8, 32946)
_DTYPES = {  # by bits and sample format
    (1, 1): "u1", (8, 1): "u1", (8, 2): "i1", (16, 1): "u2", (16, 2): "i2", (32, 1): "u4", (32, 2): "i4", (32, 3): "f4",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What the description of a TIFF file says about its pages.

    Attributes:
        counts: Time points, slices and channels; pages run through the last first.
        unit_mm: Unit of the resolution and of ``step``; None where the description names none.
        step: Distance of slices; None where it is not said.
    """

    counts: tuple[int, int, int]
    unit_mm: float | None = None
    step: float | None = None


def read_tiff(path: Path) -> tuple[Array, Spacing]:
    """``(C, I, J, K)`` and the spacing."""
    from PIL import Image

    with Image.open(path, formats=("TIFF",)) as image:
        num_pages = image.n_frames  # type: ignore[attr-defined]
        image.seek(0)
        tags = image.tag_v2  # type: ignore[attr-defined]
        dtype, num_samples = _check_page(tags, path)
        structure = _STRUCTURE & set(tags)
        shape = (num_pages, image.height, image.width, num_samples)
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes > LARGE_BYTES:  # less does no harm, and LZW packs zeros tighter than the rule for deflate
            check_claim(path, num_bytes, what=f"{'x'.join(map(str, shape))} samples", is_compressed=True)
        check_memory(path, 2 * num_bytes)
        layout = _read_layout(str(tags.get(_DESCRIPTION, "")), shape, path)
        spacing = _read_tiff_spacing(tags, layout, path)
        pages = np.empty(shape, dtype)
        for number in range(num_pages):
            image.seek(number)
            tags = image.tag_v2  # type: ignore[attr-defined]
            # Pillow leaves out a tag that it cannot read, over which libtiff stumbles: all pages have the same tags.
            is_like_first = (image.height, image.width) == shape[1:3] and _STRUCTURE & set(tags) == structure
            if not is_like_first or _check_page(tags, path) != (dtype, num_samples):
                msg = f"{path} has pages of different size or type; expected slices of one stack. Split it first."
                raise VolumeError(msg)
            _check_directory(image, path)
            # Pillow gives int8 and uint32 as uint8 and int32: the cast only names the same bits rightly.
            pages[number] = np.asarray(image).reshape(shape[1:]).astype(dtype, copy=False)
    num_times, num_slices, num_channels = layout.counts
    pages = pages.reshape(num_times, num_slices, num_channels, *shape[1:])  # (T, K, C, J, I, S)
    return pages.transpose(0, 2, 5, 4, 3, 1).reshape(-1, shape[2], shape[1], num_slices), spacing


def _check_page(tags: Any, path: Path) -> tuple[np.dtype[Any], int]:
    """The type and the number of the samples of a pixel, where they mean what they say."""
    num_samples = int(tags.get(_NUM_SAMPLES, 1))
    bits, formats = (set(np.atleast_1d(tags.get(tag, 1)).tolist()) for tag in (_BITS, _FORMAT))
    code = _DTYPES.get((min(bits), min(formats)), "") if len(bits) == len(formats) == 1 else ""
    refuse(path, _find_tiff_problem(tags, num_samples, code))
    return np.dtype(code), num_samples


def _find_tiff_problem(tags: Any, num_samples: int, code: str) -> str:
    photometric, compression = tags.get(_PHOTOMETRIC), tags.get(_COMPRESSION, _RAW)
    if photometric == 0:
        return "stores 0 as white"
    if (photometric, num_samples) not in ((1, 1), (2, 3)):
        return f"has {num_samples} sample(s) per pixel in the photometric kind {photometric}"
    if not code or (num_samples == 3 and code != "u1"):
        return f"has samples of {tags.get(_BITS, 1)} bits in the format {tags.get(_FORMAT, 1)}"
    if compression not in (_RAW, _LZW, _PACKBITS, *_DEFLATE):
        return f"is compressed by the method {compression}, not by LZW, deflate or PackBits"
    if any(tags.get(tag, 1) != 1 for tag in (_FILL_ORDER, _ORIENTATION, _PLANES)):
        return "is stored turned, with its bits reversed, or in planes of one colour"
    return "has pages that are previews or masks of others" if int(tags.get(_SUBFILE, 0)) & 5 else ""


def _check_directory(image: Any, path: Path) -> None:
    """Refuse directories that libtiff cannot use: Pillow would give zeros or the page before (13.0, tried)."""
    tags = image.tag_v2
    width, height = image.width, image.height
    is_tiled = _TILES[0] in tags
    offsets, counts = (np.atleast_1d(tags.get(tag, ())).tolist() for tag in (_TILES if is_tiled else _STRIPS))
    singles = [tag for tag in _SINGLE if tag in tags]
    is_usable = (
        all(tag in tags for tag in (_BITS, _COMPRESSION))
        and all(isinstance(tags[tag], int) for tag in singles)
        and all(tags.tagtype[tag] in _WHOLE_TYPES for tag in (*singles, *_LISTS) if tag in tags)
    )
    if is_usable and is_tiled:
        num_parts = math.ceil(width / tags[_TILE_SIZE[0]]) * math.ceil(height / tags[_TILE_SIZE[1]])
    elif is_usable:
        num_parts = math.ceil(height / min(tags.get(_ROWS_PER_STRIP, height), height))
    if not is_usable or len(offsets) != num_parts or len(counts) != num_parts:
        msg = f"{path} is damaged: a page has no usable list of where its pixels lie. Copy it from its source again."
        raise VolumeError(msg)
    size = path.stat().st_size
    if any(offset + count > size for offset, count in zip(offsets, counts, strict=True)):
        msg = f"{path} is cut short: a page ends beyond its {size} bytes. Copy it from its source again."
        raise VolumeError(msg)
    num_bytes = height * math.ceil(width * tags.get(_NUM_SAMPLES, 1) * np.atleast_1d(tags[_BITS])[0] / 8)
    if tags[_COMPRESSION] == _RAW and not is_tiled and sum(counts) != num_bytes:
        msg = f"{path} promises {num_bytes} bytes in a page and has {sum(counts)}. Copy it from its source again."
        raise VolumeError(msg)


def _read_layout(description: str, shape: tuple[int, ...], path: Path) -> _Layout:
    """From the description of ImageJ or of tifffile; ``shape`` is pages, rows, columns and samples."""
    layout = _Layout(counts=(1, shape[0], 1))
    problem = "OME-XML" if "<OME" in description else ""
    if description.startswith("ImageJ="):
        layout = _parse_imagej(description, shape[0])
        problem = "" if math.prod(layout.counts) == shape[0] else "a number of images that it does not have"
        if not problem and sum(n > 1 for n in (layout.counts[0], layout.counts[2], shape[3])) > 1:
            problem = "time points, channels or colours at once"
    elif description.startswith('{"shape"'):
        axes = [int(size) for size in json.loads(description)["shape"]]
        page_axes = axes[: -2 - (shape[3] > 1)]
        if math.prod(axes) != math.prod(shape) or sum(size > 1 for size in page_axes) > 1:
            problem = f"the shape {axes}"
    if problem:
        msg = f"{path} describes its {shape[0]} page(s) by {problem}; expected one stack of slices. Save it again so."
        raise VolumeError(msg)
    return layout


def _parse_imagej(description: str, num_pages: int) -> _Layout:
    """https://imagej.net/ij/developer/source/ij/io/FileSaver.java.html; frames are time points."""
    fields = dict(line.split("=", 1) for line in description.splitlines() if "=" in line)
    axes = ("frames", "slices", "channels")
    frames, slices, channels = (int(fields.get(axis, "1")) for axis in axes)
    if not any(axis in fields for axis in axes):
        slices = int(fields.get("images", "1"))
    unit = fields.get("unit", "").strip().lower().replace("\\u00b5", "µ")
    return _Layout(
        counts=(frames, slices, channels),
        unit_mm=MM_PER_UNIT.get(unit) if unit else None,
        step=float(fields.get("spacing", "1")),
    )


def _read_tiff_spacing(tags: Any, layout: _Layout, path: Path) -> Spacing:
    x, y = (float(tags.get(tag, 0)) for tag in (_X_RESOLUTION, _Y_RESOLUTION))
    unit_mm = layout.unit_mm or {2: INCH_MM, 3: CM_MM}.get(int(tags.get(_UNIT, 2)))
    if x == y == 0 and layout.unit_mm is None:
        return 1.0, 1.0, 1.0
    slice_mm = layout.step * unit_mm if layout.step and unit_mm else 1.0
    spacing = to_spacing(path, x, y, unit_mm, slice_mm, is_meant=layout.unit_mm is not None)
    if spacing and layout.step is None and layout.counts[1] > 1:
        logger.warning("%s does not say the distance of its slices; 1 mm is assumed.", path)
    return spacing or (1.0, 1.0, 1.0)


def encode_tiff(pages: Array, spacing: Spacing) -> bytes:
    """Deflated, with the spacing in centimetres for ImageJ and for readers that know only the tags.

    By hand, because libtiff, under Pillow, rounds the resolution to float32::

        header | description | x and y resolution | page 0: strip, directory | page 1: strip, directory | ...
    """
    num_pages, height, width = pages.shape
    description = f"ImageJ=1.54\nimages={num_pages}\nslices={num_pages}\nunit=cm\nspacing={spacing[2] / CM_MM!r}\n\0"
    content = bytearray(b"II*\0\0\0\0\0" + description.encode())
    content += bytes(len(content) % 2)
    content += b"".join(_encode_ratio(CM_MM / spacing[axis]) for axis in (0, 1))
    resolution, link = len(content) - 16, 4
    for page in pages:
        strip = zlib.compress(page.astype(page.dtype.newbyteorder("<")).tobytes(), 6)
        entries = {
            256: width, 257: height, _BITS: 8 * page.itemsize, _COMPRESSION: _DEFLATE[0], _PHOTOMETRIC: 1,
            _DESCRIPTION: 8, _STRIPS[0]: len(content), _NUM_SAMPLES: 1, _ROWS_PER_STRIP: height, _STRIPS[1]: len(strip),
            _X_RESOLUTION: resolution, _Y_RESOLUTION: resolution + 8, _UNIT: 3, _FORMAT: 1,
        }  # fmt: skip
        content += strip + bytes(len(strip) % 2)
        content[link : link + 4] = struct.pack("<I", len(content))
        kinds = {_DESCRIPTION: (2, len(description)), _X_RESOLUTION: (5, 1), _Y_RESOLUTION: (5, 1)}  # else 4: whole
        content += struct.pack("<H", len(entries))
        content += b"".join(struct.pack("<HHII", tag, *kinds.get(tag, (4, 1)), value) for tag, value in entries.items())
        link = len(content)
        content += bytes(4)  # where the next directory lies
    return bytes(content)


def _encode_ratio(number: float) -> bytes:
    """The nearest ratio of two 32-bit numbers."""
    largest = 2**32 - 1
    ratio = Fraction(number).limit_denominator(largest if number < 1 else int(largest / number))
    return struct.pack("<II", ratio.numerator, ratio.denominator)
