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
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medunet.errors import LabelError, MedunetError, OutputError, VolumeError
from medunet.io.affine import check_affine
from medunet.io.atomic import write_bytes_atomic
from medunet.io.content_kind import describe_content
from medunet.io.planar_png import encode_png, read_png
from medunet.io.planar_tiff import encode_tiff, read_tiff
from medunet.io.regular_file import check_regular_file
from medunet.io.stored_voxels import build_volume
from medunet.io.voxels import to_label_array
from medunet.volume import Affine, Array, Spacing, Volume

logger = logging.getLogger(__name__)

_PNG_SUFFIXES, _TIFF_SUFFIXES = (".png",), (".tif", ".tiff")
_PNG_START, _TIFF_STARTS = b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


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
            voxels, spacing = read_png(path)
        elif head.startswith(_TIFF_STARTS):
            voxels, spacing = read_tiff(path)
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
    encode = encode_png if suffix in _PNG_SUFFIXES else encode_tiff
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


def _to_pages(label_map: Volume, path: Path) -> Array:
    """``(K, J, I)`` uint8 or uint16."""
    labels = to_label_array(label_map)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest > 65535:
        msg = f"Cannot write {path}: the labels go from {lowest} to {highest}; expected 0 to 65535. Renumber them."
        raise LabelError(msg)
    return np.ascontiguousarray(labels.astype(np.uint8 if highest < 256 else np.uint16).transpose(2, 1, 0))
