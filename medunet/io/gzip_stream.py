"""Gzip streams by ISA-L, which packs several times as fast as zlib (`benchmarks/bench_gzip.py --levels`), on several threads.

One gzip member in blocks that each end at a byte, as pigz makes it (https://zlib.net/pigz/): every reader of gzip takes it,
also those that stop after the first member. The size of a block is fixed, so the bytes do not depend on the threads. They
carry no time.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from isal import igzip, igzip_threaded, isal_zlib

from medunet.device import count_cores

_ISAL_ERROR = cast(type[Exception], isal_zlib.error)
GZIP_ERRORS: tuple[type[Exception], ...] = (EOFError, zlib.error, _ISAL_ERROR, gzip.BadGzipFile)
"""What reading a damaged stream raises: ``EOFError`` where it ends too early."""

_LEVEL = 2  # of 0 to 3; 3 is several times slower and packs masks worse
_BLOCK_BYTES = 2**20
_MOST_THREADS = 8  # the blocks of more threads wait for the disk


def open_gzip_reader(file: BinaryIO) -> BinaryIO:
    """The unpacked bytes; reading to the end compares checksum and length, and goes on with further members.

    Returns:
        A `gzip.GzipFile`; it does not close ``file``.
    """
    return cast(BinaryIO, igzip.IGzipFile(fileobj=file, mode="rb"))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def open_gzip_writer(file: BinaryIO, *, num_threads: int | None = None) -> Iterator[BinaryIO]:
    """Pack into an open file.

    Args:
        file: Open for writing, where the stream begins; stays open.
        num_threads: That pack; None takes one per core, at most 8.

    Raises:
        OSError: What writing ``file`` raises, at the next write or at the end.
    """
    threads = num_threads or min(_MOST_THREADS, count_cores())
    stream = igzip_threaded.open(file, "wb", _LEVEL, threads=threads, block_size=_BLOCK_BYTES)  # type: ignore[no-untyped-call]
    with stream:
        yield cast(BinaryIO, stream)
