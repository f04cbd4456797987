"""What a header claims, held against the file and the machine, before any memory is taken."""

from __future__ import annotations

from pathlib import Path

from medunet.device import measure_free_memory
from medunet.errors import VolumeError

_DEFLATE_MAX_RATIO = 1032  # deflate cannot compress better (https://zlib.net/zlib_tech.html): a larger claim is a lie
_BOMB_RATIO, _BOMB_BYTES = 200, 2**30  # scans compress 2:1 to 10:1; what is small does no harm whatever its ratio


def check_claim(path: Path, num_bytes: int, *, what: str, is_compressed: bool) -> None:
    """Hold the bytes that a header promises against the size of the file.

    Args:
        path: The file that holds the voxels.
        num_bytes: How many bytes it must give, unpacked.
        what: The promise in words, such as ``"512x512x90 voxels"``.
        is_compressed: Whether the file is compressed by deflate (gzip, zlib).

    Raises:
        VolumeError: If the file cannot hold them, or only if it were packed so tightly that it looks like a trap.
    """
    size = path.stat().st_size
    if num_bytes > size * (_DEFLATE_MAX_RATIO if is_compressed else 1):
        msg = (
            f"{path} is cut short or damaged: its header promises {what} ({num_bytes} bytes), the file has {size} "
            "bytes. Copy it from its source again."
        )
        raise VolumeError(msg)
    if is_compressed and num_bytes > _BOMB_BYTES and num_bytes > size * _BOMB_RATIO:
        msg = (
            f"{path} has {size} bytes and promises {what} ({num_bytes / 2**30:.1f} GiB unpacked), "
            f"{num_bytes / size:.0f} times its size; expected {_BOMB_RATIO} times at most. If it is genuine, unpack it "
            "first (gunzip)."
        )
        raise VolumeError(msg)


def check_memory(path: Path, num_bytes: int, *, num_volumes: int = 1) -> None:
    """Refuse what needs more memory than is free.

    Args:
        path: The file, for messages.
        num_bytes: What reading it takes.
        num_volumes: How many volumes that is; of several, one may do.

    Raises:
        VolumeError: With both numbers and the remedy.
    """
    free = measure_free_memory()
    if num_bytes > free:
        remedy = "Crop it" if num_volumes == 1 else f"Read one of its {num_volumes} volumes with --volume-index"
        msg = (
            f"{path} needs {num_bytes / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free. {remedy}, or use a "
            "machine with more memory."
        )
        raise VolumeError(msg)
