"""One DICOM file: its attributes without pixel data, read with every doubt turned into an error that names the file.

pydicom stops in silence at the end of a file that was cut short, and its messages quote values, which may name a
patient. So the end is checked here, and no message of pydicom's is passed on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

from medunet.errors import VolumeError
from medunet.io.content_kind import describe_content
from medunet.io.dicom.files import DicomFile

PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # float, double float, integer
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_EXPLICIT = b"1.2.840.10008.1.2.1\0\0\0"  # as many bytes, so that no length field changes
_MAX_INFLATED_BYTES = 2**28
_UNDEFINED_LENGTH = 0xFFFFFFFF
_SHORTEST_ELEMENT = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class Instance:
    """The attributes of one file.

    Attributes:
        file: Where it lies.
        header: A pydicom ``Dataset`` without pixel data, with ``file_meta``.
        pixel_tag: Which pixel element the file has; 0 for none.
        pixel_offset: First byte of its value.
        pixel_length: Bytes of its value; -1 for encapsulated (compressed) data.
        available: Bytes from ``pixel_offset`` to the end of the file.
        is_whole: Whether a file without pixel data ends where its last attribute ends.
    """

    file: DicomFile
    header: Any
    pixel_tag: int = 0
    pixel_offset: int = 0
    pixel_length: int = 0
    available: int = 0
    is_whole: bool = True

    @property
    def transfer_syntax(self) -> str:
        """The UID of the encoding; that in which the attributes were found where the file does not say."""
        stated = str(self.header.file_meta.get("TransferSyntaxUID", ""))
        if stated:
            return stated
        is_implicit, is_little = self.header.original_encoding
        return "1.2.840.10008.1.2.2" if is_little is False else "1.2.840.10008.1.2" + ("" if is_implicit else ".1")

    @property
    def sop_class(self) -> str:
        """SOPClassUID, from the file's meta information where the attributes lack it."""
        return str(self.header.get("SOPClassUID", "") or self.header.file_meta.get("MediaStorageSOPClassUID", ""))


class quiet_pydicom:  # noqa: N801 - used like a function, as `contextlib.suppress` is
    """Context: keep pydicom's and highdicom's warnings and log lines back: they quote values, which may name a patient.

    Value checks are off as well: a decimal string of 17 characters is against the standard and perfectly readable.
    May be nested, at no cost: thousands of attributes are read within one.
    """

    _depth = 0
    _undo = contextlib.ExitStack()
    _lock = threading.Lock()  # cases are prepared in threads; the last to leave lifts the silence

    def __enter__(self) -> None:
        with quiet_pydicom._lock:
            if quiet_pydicom._depth == 0:
                self._silence()
            quiet_pydicom._depth += 1

    def __exit__(self, *_: object) -> None:
        with quiet_pydicom._lock:
            quiet_pydicom._depth -= 1
            if quiet_pydicom._depth == 0:
                quiet_pydicom._undo.close()

    @staticmethod
    def _silence() -> None:
        from pydicom import config

        logger = logging.getLogger("pydicom")
        undo = quiet_pydicom._undo
        undo.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL + 1)
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        undo.enter_context(config.disable_value_validation())


def read_instance(file: DicomFile) -> Instance | None:
    """The attributes of a file, or None where it is no DICOM file by its content.

    Raises:
        VolumeError: If it is a DICOM file that cannot be read to the start of its pixel data.
    """
    with file.open() as stream:
        head = stream.read(4096)
        if not looks_like_dicom(head):
            return None
        stream.seek(0)
        source = _inflate(stream, head, file) if is_deflated(head) else stream
        header = parse_header(source, file)
        return _locate_pixels(file, header, source)


def open_dataset(file: DicomFile) -> BinaryIO:
    """A stream in which `Instance.pixel_offset` holds; deflated files are inflated in memory."""
    stream = file.open()
    head = stream.read(4096)
    stream.seek(0)
    if not is_deflated(head):
        return stream
    with stream:
        return _inflate(stream, head, file)


def looks_like_dicom(head: bytes) -> bool:
    """Whether the first bytes are those of a DICOM file, with or without preamble."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8:
        return False
    # Without preamble a file starts with group 0002 or 0008, in explicit or implicit VR.
    group, element = struct.unpack("<HH", head[:4])
    if group not in (0x0002, 0x0008) or element > 0x0102:
        is_big_endian = head[:2] == b"\0\x08" and head[2] <= 1
        return is_big_endian and head[4:6] in (b"UL", b"UI", b"CS", b"DA", b"SH")
    return head[4:6] in (b"UL", b"OB", b"UI", b"CS", b"DA", b"SH") or int.from_bytes(head[4:8], "little") <= 256


def is_deflated(head: bytes) -> bool:
    """Whether the meta information names the deflated transfer syntax."""
    return head[128:132] == b"DICM" and _DEFLATED in head[132:1200]


def _inflate(stream: BinaryIO, head: bytes, file: DicomFile) -> io.BytesIO:
    """The same file as if it had been written without deflation; bounded, for three megabytes can hold gigabytes."""
    start = 132 + 12 + int.from_bytes(head[140:144], "little")  # the first meta element gives the length of the rest
    stream.seek(start)
    try:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        body = inflater.decompress(stream.read(), _MAX_INFLATED_BYTES)
    except zlib.error as error:
        msg = f"{file} is damaged: its deflated data are garbled. Copy it from its source again."
        raise VolumeError(msg) from error
    if len(body) >= _MAX_INFLATED_BYTES:
        msg = f"{file} would inflate to over {_MAX_INFLATED_BYTES} bytes; expected less. Inflate it by hand if it is genuine."
        raise VolumeError(msg)
    if not inflater.eof:
        msg = f"{file} is cut short: its deflated data end too early. Copy it from its source again."
        raise VolumeError(msg)
    return io.BytesIO(head[:start].replace(_DEFLATED, _EXPLICIT) + body)


def parse_header(stream: BinaryIO, file: DicomFile) -> Any:
    """All attributes before the pixel data, as a pydicom ``Dataset``.

    Raises:
        VolumeError: If pydicom cannot parse them.
    """
    import pydicom

    try:
        with quiet_pydicom():
            header = pydicom.dcmread(stream, force=True, stop_before_pixels=True)
    except VolumeError:
        raise
    except MemoryError as error:
        msg = f"{file} claims an attribute that does not fit into memory; it is damaged or hostile."
        raise VolumeError(msg) from error
    except Exception as error:  # pydicom raises what its parser happens to meet: struct.error, KeyError, RecursionError
        msg = (
            f"{file} is a damaged DICOM file ({type(error).__name__} while parsing it). Copy it from its source again."
        )
        raise VolumeError(msg) from None
    return header


def _locate_pixels(file: DicomFile, header: Any, stream: BinaryIO) -> Instance:
    """Find the pixel element, at which pydicom stopped, without reading it."""
    start = stream.tell()
    stream.seek(0, io.SEEK_END)
    size = stream.tell()
    stream.seek(start)
    head = stream.read(12)
    is_little, is_implicit = header.original_encoding[1] is not False, bool(header.original_encoding[0])
    order = "<" if is_little else ">"
    if len(head) < 8:
        return Instance(file=file, header=header, is_whole=_is_whole(header, size))
    group, element = struct.unpack(f"{order}HH", head[:4])
    tag = group << 16 | element
    # Some writers state implicit and write explicit; pydicom reads that, and tells what was stated.
    is_implicit = is_implicit and head[4:6] not in (b"OB", b"OW", b"OF", b"OD", b"UN")
    if tag not in PIXEL_TAGS or (not is_implicit and len(head) < 12):
        return Instance(file=file, header=header, is_whole=_is_whole(header, size))
    offset = start + (8 if is_implicit else 12)
    length = struct.unpack(f"{order}I", head[4:8] if is_implicit else head[8:12])[0]
    return Instance(
        file=file,
        header=header,
        pixel_tag=tag,
        pixel_offset=offset,
        pixel_length=-1 if length == _UNDEFINED_LENGTH else length,
        available=size - offset,
    )


def _is_whole(header: Any, size: int) -> bool:
    """Whether the last attribute ends with the file; where pydicom stopped is the end of the file in any case."""
    if len(header) == 0 or has_cut_element(header):
        return False
    last = header.get_item(list(header.keys())[-1])
    # Of a sequence of undefined length the end is not known; cut short, pydicom would have dropped it.
    return not _is_measurable(last) or size - (last.value_tell + last.length) < _SHORTEST_ELEMENT


def has_cut_element(dataset: Any) -> bool:
    """Whether a value is shorter than its length says: pydicom ends in silence where a file was cut inside an element."""
    elements = [dataset.get_item(tag) for tag in dataset.keys()]  # noqa: SIM118 - iterating would decode the elements
    return any(_is_measurable(element) and len(element.value or b"") != element.length for element in elements)


def _is_measurable(element: Any) -> bool:
    return element is not None and element.is_raw and element.length != _UNDEFINED_LENGTH


# ---- attributes ------------------------------------------------------------------------------------------------------


def get_numbers(header: Any, keyword: str, count: int, file: DicomFile) -> list[float]:
    """A numeric attribute of ``count`` finite values.

    Raises:
        VolumeError: If it is missing, has another number of values, or holds text, NaN or infinity. The value is not
            quoted.
    """
    numbers = find_numbers(header, keyword, file)
    if numbers is None:
        msg = (
            f"{file} has no {keyword}; expected {_count(count)}. Without it the voxels cannot be placed or understood."
        )
        raise VolumeError(msg)
    if len(numbers) != count:
        msg = f"{file} has {len(numbers)} value(s) in {keyword}; expected {count}. Export the series again."
        raise VolumeError(msg)
    return numbers


def find_numbers(header: Any, keyword: str, file: DicomFile) -> list[float] | None:
    """A numeric attribute; None where it is missing or empty.

    Raises:
        VolumeError: If it holds text, NaN or infinity.
    """
    try:
        with quiet_pydicom():
            value = header.get(keyword)
            if value is None or value == "":
                return None
            is_list = hasattr(value, "__iter__") and not isinstance(value, (str, bytes))
            numbers = [float(number) for number in (value if is_list else [value])]
    except Exception:  # pydicom raises many kinds, whose texts quote the value: none is passed on
        msg = f"{file} holds something else than numbers in {keyword}. Export the series again."
        raise VolumeError(msg) from None
    if not numbers:
        return None
    if not all(math.isfinite(number) for number in numbers):
        msg = f"{file} holds NaN or infinity in {keyword}; expected finite numbers. Export the series again."
        raise VolumeError(msg)
    return numbers


def find_number(header: Any, keyword: str, file: DicomFile) -> float | None:
    """The first value of a numeric attribute; None where it is missing or empty."""
    numbers = find_numbers(header, keyword, file)
    return None if numbers is None else numbers[0]


def get_text(header: Any, keyword: str) -> str:
    """A text attribute; empty where it is missing or cannot be decoded."""
    with quiet_pydicom():
        try:
            value = header.get(keyword)
        except Exception:  # an undecodable description must not stop the reading of voxels
            return ""
    if value is None:
        return ""
    if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) and type(value).__name__ != "PersonName":
        return "\\".join(str(part) for part in value)
    return str(value)


def get_items(header: Any, keyword: str, file: DicomFile | None) -> Any:
    """The items of a sequence; an empty list where it is missing.

    Raises:
        VolumeError: If it is damaged: a sequence is parsed when it is first looked at.
    """
    with quiet_pydicom():
        try:
            return header.get(keyword) or []
        except Exception:  # the parser raises anything
            msg = f"{file or 'A DICOM file'} has a damaged {keyword}. Copy it from its source again."
            raise VolumeError(msg) from None


def to_line(text: str) -> str:
    """Text of a file, or its name, on one line, short, and without what a terminal would obey."""
    line = "".join(character if character.isprintable() else "?" for character in text)
    return line if len(line) <= 300 else f"{line[:297]}..."


def describe_file(file: DicomFile) -> str:
    """What a file seems to be that is no DICOM file."""
    with file.open() as stream:
        return describe_content(stream.read(512))


def _count(count: int) -> str:
    return "a number" if count == 1 else f"{count} numbers"
