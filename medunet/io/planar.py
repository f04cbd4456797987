"""PNG and JPEG pictures and TIFF stacks to `Volume`, and masks of them back to files.

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
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medunet.errors import GeometryError, LabelError, MedunetError, OutputError, VolumeError
from medunet.io.affine import check_affine
from medunet.io.atomic import write_bytes_atomic
from medunet.io.content_kind import describe_content
from medunet.io.planar_jpeg import read_jpeg
from medunet.io.planar_png import encode_png, read_png
from medunet.io.planar_tiff import encode_tiff, read_tiff
from medunet.io.regular_file import check_regular_file
from medunet.io.stored_voxels import build_volume
from medunet.io.voxels import to_label_array
from medunet.volume import Affine, Array, Spacing, Volume

logger = logging.getLogger(__name__)

_PNG_SUFFIXES, _TIFF_SUFFIXES = (".png",), (".tif", ".tiff")
_PNG_START, _TIFF_STARTS = b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_START = b"\xff\xd8\xff"


def read_planar(path: Path, *, volume_index: int | None = None) -> Volume:
    """Read a PNG, JPEG or TIFF file; colours become channels, the pages of a TIFF file slices.

    Hyperstacks of ImageJ keep their order: either their channels or their time points become channels here.

    Args:
        path: Where the file is; its content, not its name, says which of them it is.
        volume_index: Which channel, from 0; None takes all.

    Returns:
        Volume ``(C, columns, rows, pages)`` with the type of the file; 1 bit becomes uint8.

    Raises:
        VolumeError: If the file is missing, is no PNG, JPEG or TIFF, is damaged, or holds anything but grey of 1, 8, 16 or
            32 bits or RGB of 8: palettes, transparency, colours of 16 bits, white as zero.
    """
    check_regular_file(path)
    with _explain_failures(path):
        head = _read_head(path)
        if head.startswith(_PNG_START):
            voxels, spacing = read_png(path)
        elif head.startswith(_TIFF_STARTS):
            voxels, spacing = read_tiff(path)
        elif head.startswith(_JPEG_START):
            voxels, spacing = read_jpeg(path)
        else:
            msg = (
                f"{path} is no PNG, JPEG or TIFF picture: it is {describe_content(head)}. Convert it or fetch it again."
            )
            raise VolumeError(msg)
        return build_volume(voxels, check_affine(_build_affine(spacing), str(path)), str(path), volume_index)


def read_planar_labels(path: Path, *, volume_index: int | None = None) -> Volume:
    """Read the mask of a picture; the numbers of a palette are its labels, whatever their colours.

    Args:
        path: As `read_planar`.
        volume_index: As `read_planar`.

    Returns:
        ``(1, columns, rows, pages)`` as `read_planar` gives it.

    Raises:
        VolumeError: As `read_planar`.
        LabelError: If it is a JPEG, which changes the values of pixels, or has colours instead of values.
    """
    check_regular_file(path)
    with _explain_failures(path):
        head = _read_head(path)
        if head.startswith(_JPEG_START):
            msg = (
                f"{path} is a JPEG, which changes the values along every border; expected a mask as PNG or TIFF. Export it "
                "again from where it was drawn."
            )
            raise LabelError(msg)
        if head.startswith(_PNG_START):
            voxels, spacing = read_png(path, takes_palette=True)
            affine = check_affine(_build_affine(spacing), str(path))
            labels = build_volume(voxels, affine, str(path), volume_index)
        else:
            labels = read_planar(path, volume_index=volume_index)
    if labels.num_channels > 1:
        msg = (
            f"{path} has {labels.num_channels} channels, so it shows labels by colours; expected a number per pixel: grey, or "
            "a PNG with a palette. Save it so, with the values of the task."
        )
        raise LabelError(msg)
    return labels


def write_picture(picture: Volume, path: Path) -> None:
    """Write a picture as PNG, whole or not at all; reading it gives it back.

    Args:
        picture: ``(C, I, J, 1)`` uint8 with one channel or R, G and B, on a grid as `read_planar` gives it with 1 mm pixels.
        path: Where to; ends in ``.png``.

    Raises:
        OutputError: If the name has another ending, or the file cannot be written.
    """
    from PIL import Image

    if path.suffix.lower() not in _PNG_SUFFIXES:
        msg = f"Cannot write {path}: the name must end in .png. Nothing was changed."
        raise OutputError(msg)
    assert picture.array.dtype == np.uint8  # only phantoms are written
    assert picture.num_channels in (1, 3)
    assert picture.spatial_shape[2] == 1
    pixels = np.ascontiguousarray(picture.array[..., 0].transpose(2, 1, 0))  # (J, I, C)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if picture.num_channels == 1 else pixels).save(file, format="PNG")
    write_bytes_atomic(path, file.getvalue())


def put_on_picture(labels: Volume, picture: Volume, name: str, picture_name: str) -> Volume:
    """Put the mask of a picture onto it pixel by pixel.

    Pictures do not know where they lie, and of two files of one picture often only one says how large a pixel is, so their
    grids are not compared.

    Args:
        labels: ``(1, I, J, K)``.
        picture: Whose grid it is.
        name: What messages call ``labels``.
        picture_name: What messages call ``picture``.

    Raises:
        GeometryError: If they have different numbers of pixels.
    """
    if labels.spatial_shape == picture.spatial_shape:
        return picture.with_array(labels.array)
    found, expected = (_describe_size(volume) for volume in (labels, picture))
    msg = (
        f"{name} has {found} and {picture_name} has {expected}; expected a mask of the same size. Export it again, or resize "
        "it without interpolation."
    )
    raise GeometryError(msg)


def without_pixel_size(picture: Volume) -> Volume:
    """1 mm per pixel, whatever the file says: the resolution of a photograph is that of a printer."""
    return Volume(picture.array, _build_affine((1.0, 1.0, 1.0)))


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


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _describe_size(volume: Volume) -> str:
    columns, rows, pages = volume.spatial_shape
    return f"{columns}x{rows} pixels" + (f" on {pages} pages" if pages > 1 else "")


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
