"""Rows and columns that a compressed stream says of itself, held against those of its DICOM header.

Decoders compare only the number of pixels: a stream of 40x36 under a header of 36x40 would be read, and every row of it
would begin at the wrong place.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from medunet.errors import VolumeError
from medunet.io.dicom.header import Instance, get_numbers

_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {
    0xC4,
    0xC8,
    0xCC,
}  # start of frame: JPEG (ISO 10918), JPEG-LS (ISO 14495)
_BARE_MARKERS = {0x01, *range(0xD0, 0xD9)}  # without a length


def check_stream_sizes(instance: Instance, indices: list[int], stream: BinaryIO) -> None:
    """Refuse a file whose compressed frames have other sizes than its header says.

    Args:
        instance: The file.
        indices: Frames to look at.
        stream: The opened file; left where it was.

    Raises:
        VolumeError: With both sizes.
    """
    from pydicom.encaps import get_frame

    rows = int(get_numbers(instance.header, "Rows", 1, instance.file)[0])
    columns = int(get_numbers(instance.header, "Columns", 1, instance.file)[0])
    start = stream.tell()
    for index in indices:
        stream.seek(instance.pixel_offset)
        num_frames = int(instance.header.get("NumberOfFrames") or 1)
        size = read_stream_size(get_frame(stream, index, number_of_frames=num_frames))
        if size is not None and size != (rows, columns):
            msg = (
                f"{instance.file} says {rows} rows and {columns} columns, its compressed pixels have {size[0]} and "
                f"{size[1]}; expected the same. Export it again."
            )
            raise VolumeError(msg)
    stream.seek(start)


def read_stream_size(content: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG, JPEG-LS or JPEG 2000 stream; None for any other."""
    if content[:4] == b"\xff\x4f\xff\x51" and len(content) >= 24:  # JPEG 2000: SIZ follows the start
        width, height, left, top = struct.unpack(">4I", content[8:24])
        return height - top, width - left
    if content[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 9 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack(">HH", content[position + 5 : position + 9])
            return height, width
        if marker == 0xFF:  # fill
            position += 1
            continue
        length = 0 if marker in _BARE_MARKERS else struct.unpack(">H", content[position + 2 : position + 4])[0]
        position += 2 + length
    return None
