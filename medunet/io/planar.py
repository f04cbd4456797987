"""PNG pictures and TIFF stacks to `Volume`, and masks of them back to files.

Columns are I, rows J, pages K. Such a file knows no patient: I runs to the left, J to posterior and K to superior (what
ITK gives it), with the first pixel at 0. Spacing comes from the file where it names a unit, else it is 1 mm; 72 and 96
dpi are what programs write that know no pixel size, and count as none.

Pillow decodes. What it would do silently is refused before: 16-bit colours cut to 8 bits, 2- and 4-bit grey spread over
0 to 255, white-is-zero inverted in 8 but not in 16 bits, missing rows of a PNG filled with zeros, the page before given
again where libtiff cannot use a page's directory (13.0, each tried). Flipped bits in TIFF data that are not deflated have
no checksum and stay unseen. The formats: https://www.w3.org/TR/png-3/, https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from medunet.errors import LabelError, MedunetError, OutputError, VolumeError
from medunet.io.affine import check_affine
from medunet.io.atomic import write_bytes_atomic
from medunet.io.claims import check_claim, check_memory
from medunet.io.content_kind import describe_content
from medunet.io.nrrd import MM_PER_UNIT, build_volume
from medunet.io.regular_file import check_regular_file
from medunet.io.voxels import to_label_array
from medunet.volume import Affine, Array, Spacing, Volume

logger = logging.getLogger(__name__)

_PNG_SUFFIXES, _TIFF_SUFFIXES = (".png",), (".tif", ".tiff")
_PNG_START, _TIFF_STARTS = b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_INCH_MM, _CM_MM = 25.4, 10.0
_PLACEHOLDER_DPI = (72.0, 96.0)
_LARGE_BYTES = 2**30
_CHUNK_BYTES = 2**22

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


def read_planar(path: Path, *, volume_index: int | None = None) -> Volume:
    """Read a PNG or TIFF file; colours become channels, the pages of a TIFF file slices.

    Hyperstacks of ImageJ keep their order: either their channels or their time points become channels here.

    Args:
        path: Where the file is; its content, not its name, says which of both it is.
        volume_index: Which channel, from 0; None takes all.

    Returns:
        Volume ``(C, columns, rows, pages)`` with the type of the file; 1 bit becomes uint8.

    Raises:
        VolumeError: If the file is missing, is no PNG or TIFF, is damaged, or holds anything but grey of 1, 8, 16 or 32
            bits or RGB of 8: palettes, transparency, colours of 16 bits, white as zero.
    """
    check_regular_file(path)
    with _explain_failures(path):
        with path.open("rb") as file:
            head = file.read(512)
        if head.startswith(_PNG_START):
            voxels, spacing = _read_png(path)
        elif head.startswith(_TIFF_STARTS):
            voxels, spacing = _read_tiff(path)
        else:
            msg = f"{path} is no PNG or TIFF picture: it is {describe_content(head)}. Convert it or fetch it again."
            raise VolumeError(msg)
        return build_volume(voxels, check_affine(_build_affine(spacing), str(path)), str(path), volume_index)


def write_planar_labels(label_map: Volume, path: Path) -> None:
    """Write the mask of a picture as PNG or TIFF of 8 or 16 bits, whole or not at all.

    PNG counts whole pixels per metre, so its spacing is rounded; TIFF keeps it to 1e-9 of itself.

    Args:
        label_map: ``(1, I, J, K)`` integers on a grid as `read_planar` gives it.
        path: Where to; ends in ``.png`` (``K == 1`` only), ``.tif`` or ``.tiff``.

    Raises:
        OutputError: If the name has another ending, the grid lies anywhere else in the world or has too many slices,
            or the file cannot be written.
        LabelError: If there are several channels, or values outside 0 to 65535.
    """
    suffix, num_slices = path.suffix.lower(), label_map.spatial_shape[2]
    if suffix not in _PNG_SUFFIXES + _TIFF_SUFFIXES:
        msg = f"Cannot write {path}: the name must end in .png, .tif or .tiff. Nothing was changed."
        raise OutputError(msg)
    if suffix in _PNG_SUFFIXES and num_slices > 1:
        msg = f"Cannot write {path}: PNG holds 1 slice, the mask has {num_slices}. Choose a name that ends in .tif."
        raise OutputError(msg)
    if np.abs(label_map.affine - _build_affine(label_map.spacing)).max() > 1e-6 * min(label_map.spacing):
        msg = f"Cannot write {path}: pictures hold no orientation and position, but the mask has one. Write NIfTI."
        raise OutputError(msg)
    pages = _to_pages(label_map, path)
    encode = _encode_png if suffix in _PNG_SUFFIXES else _encode_tiff
    write_bytes_atomic(path, encode(pages, label_map.spacing))


def _build_affine(spacing: Spacing) -> Affine:
    return np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])


@contextlib.contextmanager
def _explain_failures(path: Path) -> Iterator[None]:
    """Turn whatever Pillow and libtiff say about a bad file into one line that names it."""
    from PIL import Image

    damaged = f"{path} is cut short, damaged, or of a kind that Pillow does not read. Save it again, or copy it again."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns about tags that it cannot read, and goes on
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # claims are checked here
            yield
    except MedunetError:
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        msg = f"{path} promises a page of more than {limit} million pixels; expected fewer. Crop it first."
        raise VolumeError(msg) from error
    except MemoryError as error:
        msg = f"{path} does not fit into memory. Crop it, or use a machine with more memory."
        raise VolumeError(msg) from error
    except OSError as error:
        is_of_disk = error.errno is not None  # Pillow's own have no number
        msg = f"{path} cannot be read: {error.strerror}. Check its permissions and the disk." if is_of_disk else damaged
        raise VolumeError(msg) from error
    except Exception as error:  # whatever a damaged structure makes of Pillow's parser
        raise VolumeError(damaged) from error


def _refuse(path: Path, problem: str) -> None:
    if problem:
        msg = f"{path} {problem}; expected grey of 8 to 32 bits with 0 as black, or RGB of 8. Save it so."
        raise VolumeError(msg)


# ---- PNG -------------------------------------------------------------------------------------------------------------


def _read_png(path: Path) -> tuple[Array, Spacing]:
    """``(C, I, J, 1)`` and the spacing."""
    from PIL import Image

    chunks = list(_walk_png_chunks(path))
    kinds = [kind for kind, _ in chunks]
    if kinds[:1] != [b"IHDR"] or kinds[-1:] != [b"IEND"]:
        msg = f"{path} is cut short: expected PNG data from IHDR to IEND. Copy it from its source again."
        raise VolumeError(msg)
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    _refuse(path, _find_png_problem(kinds, depth, colour))
    num_bits = depth * {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    num_bytes = _count_png_bytes(width, height, num_bits, is_interlaced=interlace == 1)
    check_claim(path, num_bytes, what=f"{width}x{height} pixels", is_compressed=True)
    check_memory(path, 3 * num_bytes)
    packed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    num_found = _count_inflated(packed, num_bytes, path)
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


def _count_inflated(packed: bytes, limit: int, path: Path) -> int:
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


def _drop_opaque_alpha(pixels: Array, path: Path) -> Array:
    _refuse(path, "has transparent pixels" if (pixels[..., -1] != 255).any() else "")
    logger.warning("%s has an alpha channel that is opaque everywhere; it is left out.", path)
    return pixels[..., :-1]


def _read_png_spacing(chunks: list[tuple[bytes, bytes]], path: Path) -> Spacing:
    content = next((content for kind, content in chunks if kind == b"pHYs"), None)
    if content is None:
        return 1.0, 1.0, 1.0
    x, y, unit = struct.unpack(">IIB", content)
    return _to_spacing(path, x, y, 1000.0 if unit == 1 else None) or (1.0, 1.0, 1.0)


# ---- what both share -------------------------------------------------------------------------------------------------


def _to_spacing(
    path: Path, x: float, y: float, unit_mm: float | None, slice_mm: float = 1.0, *, is_meant: bool = False
) -> Spacing | None:
    """Pixels per unit as mm per pixel; None where that says nothing. ``is_meant``: not written by a program alone."""
    if unit_mm is None and x == y:
        return None
    if unit_mm is None or not all(math.isfinite(number) and number > 0 for number in (x, y)):
        logger.warning("%s has a resolution of %g x %g without a meaning; 1 mm is assumed.", path, x, y)
        return None
    dpi = x * _INCH_MM / unit_mm
    if not is_meant and x == y and any(abs(dpi - placeholder) < 0.02 for placeholder in _PLACEHOLDER_DPI):
        logger.warning("%s has %.0f dpi, as programs write that know no pixel size; 1 mm is assumed.", path, dpi)
        return None
    return unit_mm / x, unit_mm / y, slice_mm


# ---- TIFF ------------------------------------------------------------------------------------------------------------


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


def _read_tiff(path: Path) -> tuple[Array, Spacing]:
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
        if num_bytes > _LARGE_BYTES:  # less does no harm, and LZW packs zeros tighter than the rule for deflate
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
    _refuse(path, _find_tiff_problem(tags, num_samples, code))
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
    unit_mm = layout.unit_mm or {2: _INCH_MM, 3: _CM_MM}.get(int(tags.get(_UNIT, 2)))
    if x == y == 0 and layout.unit_mm is None:
        return 1.0, 1.0, 1.0
    slice_mm = layout.step * unit_mm if layout.step and unit_mm else 1.0
    spacing = _to_spacing(path, x, y, unit_mm, slice_mm, is_meant=layout.unit_mm is not None)
    if spacing and layout.step is None and layout.counts[1] > 1:
        logger.warning("%s does not say the distance of its slices; 1 mm is assumed.", path)
    return spacing or (1.0, 1.0, 1.0)


# ---- writing ---------------------------------------------------------------------------------------------------------


def _to_pages(label_map: Volume, path: Path) -> Array:
    """``(K, J, I)`` uint8 or uint16."""
    labels = to_label_array(label_map)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest > 65535:
        msg = f"Cannot write {path}: the labels go from {lowest} to {highest}; expected 0 to 65535. Renumber them."
        raise LabelError(msg)
    return np.ascontiguousarray(labels.astype(np.uint8 if highest < 256 else np.uint16).transpose(2, 1, 0))


def _encode_png(pages: Array, spacing: Spacing) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    has_spacing = spacing[:2] != (1.0, 1.0)  # as read where the picture did not say
    dpi = {"dpi": (_INCH_MM / spacing[0], _INCH_MM / spacing[1])} if has_spacing else {}
    Image.fromarray(pages[0]).save(buffer, format="PNG", **dpi)
    return buffer.getvalue()


def _encode_tiff(pages: Array, spacing: Spacing) -> bytes:
    """Deflated, with the spacing in centimetres for ImageJ and for readers that know only the tags.

    By hand, because libtiff, under Pillow, rounds the resolution to float32::

        header | description | x and y resolution | page 0: strip, directory | page 1: strip, directory | ...
    """
    num_pages, height, width = pages.shape
    description = f"ImageJ=1.54\nimages={num_pages}\nslices={num_pages}\nunit=cm\nspacing={spacing[2] / _CM_MM!r}\n\0"
    content = bytearray(b"II*\0\0\0\0\0" + description.encode())
    content += bytes(len(content) % 2)
    content += b"".join(_encode_ratio(_CM_MM / spacing[axis]) for axis in (0, 1))
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
