"""Where DICOM data lie: a file, a folder of files, a zip of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DicomFile:
    """A file on disk, or a member of a zip archive.

    Attributes:
        path: The file or the archive.
        member: Name inside the archive.
    """

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}!{self.member}"
