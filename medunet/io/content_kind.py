"""What a file that is no NIfTI file seems to be, said without quoting it: its first bytes may name a patient."""

from __future__ import annotations

_STARTS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "compressed twice by gzip"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-zip archive"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"%PDF", "a PDF document"),
    (b"NRRD", "an NRRD file"),
    (b"ObjectType", "a MetaImage file"),
    (b"NDims", "a MetaImage file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"CDF", "a netCDF or MINC file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"/annex/objects", "a git-annex pointer, not the file itself"),
    (b"\x00\x05\x16\x07", "a note of macOS about a file (its name starts with ._), not the file itself"),
    (b"\x02\x00\x00\x00UL", "a DICOM file without preamble"),
    (b"\x08\x00\x05\x00CS", "a DICOM file without preamble"),
    (b"\x08\x00\x08\x00CS", "a DICOM file without preamble"),
    (b"Rar!", "a RAR archive"),
)


def describe_content(head: bytes) -> str:
    """The kind of file that starts with ``head``; 132 bytes or more tell DICOM apart, 262 tar.

    Example:
        >>> describe_content(b"<!DOCTYPE html><html><body>404"), describe_content(b"")
        ('an HTML page', 'empty')
    """
    if not head:
        return "empty"
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if not any(head):
        return "nothing but zero bytes at its start"
    return _describe_text(head)


def _describe_text(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if text.startswith(b"<?xml"):
        return "an XML document"
    is_text = all(byte >= 32 or byte in b"\t\n\r\f" for byte in head) and 0x7F not in head
    return "a text file" if is_text else "of an unknown binary kind"
