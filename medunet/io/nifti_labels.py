"""Label names in NIfTI masks: as a header extension, or as a JSON file beside the mask.

The extension is a comment (code 6 in https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h) with the text of
`medunet.io.label_names`; programs that do not know it skip it. Extensions of other programs are never parsed: they may
name a patient.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medunet.io.label_names import format_label_names, is_label_names, name_sidecar, parse_label_names, read_sidecar
from medunet.io.nifti_affine import Form
from medunet.io.nifti_file import explain_failures, get_pair_paths, is_pair, open_stream
from medunet.io.nifti_header import HEADER_BYTES, get_voxel_offset, parse_header
from medunet.io.nifti_read import read_nifti
from medunet.io.regular_file import check_regular_file
from medunet.io.structures import Structure, StructureSet
from medunet.io.voxels import to_label_map
from medunet.palette import get_color
from medunet.volume import Array

logger = logging.getLogger(__name__)

_COMMENT_CODE = 6
_LARGEST_EXTENSION_BYTES, _MOST_EXTENSIONS = 2**24, 1000  # far above what any program writes


def read_nifti_structures(
    path: Path, *, affine: Form | None = None, volume_index: int | None = None
) -> StructureSet | None:
    """Read a mask with the names of its labels.

    Args:
        path: As `read_nifti`.
        affine: As `read_nifti`.
        volume_index: As `read_nifti`.

    Returns:
        The label map as one layer, and its structures; values that bear no name become ``"label 4"``, with a warning.
        None where neither the file nor a JSON file beside it carries names.

    Raises:
        VolumeError: As `read_nifti`.
        LabelError: If the names are damaged, or the voxels are no labels.
    """
    structures = read_nifti_label_names(path)
    if structures is None:
        return None
    labels = to_label_map(read_nifti(path, affine=affine, volume_index=volume_index), str(path))
    unnamed = _list_unnamed(labels.array, structures)
    if unnamed:
        shown = ", ".join(map(str, unnamed[:6])) + (", ..." if len(unnamed) > 6 else "")
        logger.warning("%s holds the values %s without a name; they are called 'label <value>'.", path, shown)
    return StructureSet(layers=labels, structures=(*structures, *_name_by_value(unnamed, len(structures))))


def read_nifti_label_names(path: Path) -> tuple[Structure, ...] | None:
    """The names that a mask carries, from its header extension or else from the JSON file beside it; None without.

    Raises:
        VolumeError: As `read_nifti`, for what the header alone shows.
        LabelError: If the names are damaged.
    """
    header_path, _ = get_pair_paths(path)
    check_regular_file(header_path)
    with explain_failures(str(path)), open_stream(header_path) as stream:
        for code, content in _read_extensions(stream, header_path):
            text = content.rstrip(b"\0 ")
            if code == _COMMENT_CODE and is_label_names(text):
                return parse_label_names(text, str(path))
    return read_sidecar(name_sidecar(path))


def build_extension(structure_set: StructureSet) -> bytes:
    """What stands between header and voxels: the mark that an extension follows, and the extension.

    Raises:
        LabelError: If the structures lie in several layers.
    """
    return wrap_comment(format_label_names(structure_set))


def wrap_comment(text: str) -> bytes:
    """A text in ASCII as the only header extension, with the mark before it."""
    content = text.encode("ascii")
    size = -(-(8 + len(content)) // 16) * 16  # the standard asks for multiples of 16
    head = size.to_bytes(4, "little") + _COMMENT_CODE.to_bytes(4, "little")
    return bytes([1, 0, 0, 0]) + head + content.ljust(size - 8, b"\0")


def _read_extensions(stream: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Code and content of each extension."""
    header = parse_header(stream.read(HEADER_BYTES), str(path), is_pair=is_pair(path))
    position = int(header["sizeof_hdr"]) + 4
    end = _find_end(stream, header, path)
    stream.seek(position - 4)
    if stream.read(4)[:1] in (b"", b"\0"):
        return
    word = "little" if header.endianness == "<" else "big"
    for _ in range(_MOST_EXTENSIONS):
        if end - position < 16:
            return
        stream.seek(position)
        head = stream.read(8)
        size, code = (int.from_bytes(head[n : n + 4], word) for n in (0, 4))  # type: ignore[arg-type]
        if not 16 <= size <= min(end - position, _LARGEST_EXTENSION_BYTES):
            break
        yield code, stream.read(size - 8)
        position += size
    logger.warning("%s has damaged header extensions; label names in them, if any, are not read.", path)


def _find_end(stream: BinaryIO, header: Any, path: Path) -> int:
    """Where the extensions end: at the voxels, or with the header half of a pair."""
    if not is_pair(path):
        return get_voxel_offset(header, str(path))
    is_compressed = isinstance(stream, gzip.GzipFile)
    return stream.seek(_LARGEST_EXTENSION_BYTES) if is_compressed else path.stat().st_size  # gzip stops at its end


def _list_unnamed(labels: Array, structures: tuple[Structure, ...]) -> list[int]:
    is_present = np.zeros(int(labels.max()) + 1, dtype=np.bool_)
    for plane in labels[0]:  # plane by plane: the index would be eight times as large as the labels
        is_present[plane] = True
    named = {0, *(value for structure in structures for value in structure.values)}
    return [value for value in np.flatnonzero(is_present).tolist() if value not in named]


def _name_by_value(values: list[int], num_named: int) -> list[Structure]:
    return [
        Structure(name=f"label {value}", values=(value,), color=get_color(num_named + index))
        for index, value in enumerate(values)
    ]
