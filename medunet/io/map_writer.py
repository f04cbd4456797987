"""Maps on a scan's grid that arrive slab by slab: class probabilities, uncertainty. They wait on the disk, not in memory.

A map is one NIfTI file with the classes as fourth axis, so that none can be taken for another and one header stands for all;
NRRD is not written, because it has no slope. Probabilities take a byte, 0 to 255 with the slope 1/255: NIfTI has no float16,
and half a step, 0.002, is far below what probabilities of a network can be trusted to.

Until the end the slabs lie in a nameless file beside the output, the axis along which they come slowest. So a slab is written
in one run per class, and what an output plane needs is read in runs, whatever the axis:

```text
axis 0   scratch (C, I, K, J)      axis 1   (C, J, K, I)      axis 2   (C, K, J, I), the order of the file
```
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np

from medunet.io.atomic import describe_write_error, open_scratch
from medunet.io.nifti_affine import Form
from medunet.io.nifti_labels import wrap_comment
from medunet.io.nifti_write import NO_EXTENSION, build_nifti_header, check_nifti_name, write_nifti_pieces
from medunet.io.voxels import count_piece_planes, iterate_file_order
from medunet.volume import Array, Volume

StoredAs = Literal["uint8", "float32"]

_LARGEST_CODE = 255
_SLOPE = np.nextafter(
    np.float32(1 / _LARGEST_CODE), np.float32(0)
)  # the nearest float32 would make a certain class 1.00000006
_FILE_ORDERS = ((0, 2, 1), (1, 2, 0), (2, 1, 0))  # how (I, J, K) lies in the scratch file, per axis of the slabs
_PIECE_ORDERS = ((1, 2, 0), (1, 0, 2), (0, 1, 2))  # from there to (K, J, I)


class MapWriter:
    """One file of numbers from 0 to 1 that are known piece by piece; a context manager.

    The block's end writes the file, whole or not at all; an exception in the block leaves nothing behind. `put` may be
    called from several threads. On the disk, the slabs and the file together take room until the end; in memory, one
    channel of a slab and a few planes.

    Args:
        path: Where to; ends in ``.nii`` or ``.nii.gz``.
        grid: The scan's grid; its voxels are not looked at.
        num_channels: Classes. With one, the file has three axes.
        axis: Along which slabs follow each other: 0, 1 or 2.
        stored_as: ``"uint8"`` is 0 to 255 with the slope 1/255; ``"float32"`` keeps the numbers, whatever they are.
        box: The part of the grid that slabs cover; None is all of it.
        outside: The number of each channel outside ``box``; None is 0.
        names: Of the channels, in order, for a header extension; may be empty.
        like: The scan as NIfTI file, whose geometry fields are kept bit for bit (`write_nifti_labels`).
        affine: Which affine of ``like`` the scan was read by.
        description: Text for ``descrip``, at most 79 bytes.

    Raises:
        OutputError: If the name has another ending, or the disk is full or refuses.
        GeometryError: If ``grid`` is not that of ``like``.
        VolumeError: If the header of ``like`` cannot be used.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "probabilities.nii.gz"
        >>> with MapWriter(path, make_volume(shape=(5, 6, 7)), num_channels=2) as writer:
        ...     writer.put(np.full((2, 5, 6, 3), 0.2), slice(4, 7))
        ...     writer.put(np.full((2, 5, 6, 4), 0.8), slice(0, 4))
        >>> from medunet.io import read_volume
        >>> [f"{number:.1f}" for number in read_volume(path).array[1, 0, 0]]
        ['0.8', '0.8', '0.8', '0.8', '0.2', '0.2', '0.2']
    """

    def __init__(
        self,
        path: Path,
        grid: Volume,
        *,
        num_channels: int = 1,
        axis: int = 2,
        stored_as: StoredAs = "uint8",
        box: tuple[slice, slice, slice] | None = None,
        outside: Sequence[float] | None = None,
        names: Sequence[str] = (),
        like: Path | None = None,
        affine: Form | None = None,
        description: str = "",
    ) -> None:
        check_nifti_name(path)
        self._path, self._axis, self._num_channels = path, axis, num_channels
        self._description, self._dtype = description, np.dtype(stored_as)
        self._extension = wrap_comment(json.dumps({"medunet": {"channels": list(names)}})) if names else NO_EXTENSION
        self._shape = grid.spatial_shape
        self._box = _resolve_box(box, grid)
        self._box_shape = tuple(part.stop - part.start for part in self._box)
        self._outside = self._encode(np.array([0.0] * num_channels if outside is None else outside, np.float32))
        if self._outside.shape != (num_channels,) or len(names) not in (0, num_channels):
            msg = (
                f"There are {num_channels} channels; got {len(self._outside)} numbers for outside, {len(names)} names."
            )
            raise ValueError(msg)
        self._header = build_nifti_header(grid, num_channels, self._dtype, like=like, affine=affine)
        if stored_as == "uint8":
            self._header["scl_slope"], self._header["cal_max"] = _SLOPE, 1
        self._is_there = np.zeros(self._box_shape[axis], dtype=np.bool_)
        self._lock = threading.Lock()
        self._open_files = contextlib.ExitStack()
        self._scratch = self._open_files.enter_context(open_scratch(path))
        self._is_open = True

    def put(self, slab: Array, planes: slice) -> None:
        """Hand over some planes, in any order; what came before for the same planes is replaced.

        Args:
            slab: ``(C, I, J, K)`` of the box, but along ``axis`` only the planes that are handed over. Numbers from 0 to
                1 (others are clipped), or the codes 0 to 255 as uint8 if they are stored so.
            planes: Which these are, along ``axis``, counted from the start of the box.

        Raises:
            ValueError: If the shape does not fit, a number is NaN or infinite, or the writer is closed.
            OutputError: If the disk is full.
        """
        axis, num_planes = self._axis, self._box_shape[self._axis]
        start, stop, _ = planes.indices(num_planes)
        expected = (self._num_channels, *self._box_shape[:axis], stop - start, *self._box_shape[axis + 1 :])
        if not self._is_open or slab.shape != expected or start >= stop:
            state = "" if self._is_open else "; the writer is closed"
            msg = f"The planes {start} to {stop} of axis {axis} need an array of shape {expected}, got {slab.shape}{state}."
            raise ValueError(msg)
        try:
            for number, channel in enumerate(slab):
                codes = self._encode(channel).transpose(_FILE_ORDERS[axis][::-1])
                with self._lock:
                    self._seek(number, start)
                    for piece in iterate_file_order(codes, self._dtype):
                        self._scratch.write(piece.data)
                    self._scratch.flush()
        except OSError as error:
            raise describe_write_error(self._path, error) from error
        self._is_there[start:stop] = True

    def close(self) -> None:
        """Write the file; nothing is done where the writer is closed already.

        Raises:
            ValueError: If planes are missing; nothing is written then.
            OutputError: If the file cannot be written.
        """
        if not self._is_open:
            return
        try:
            if not self._is_there.all():
                first = int(np.argmin(self._is_there))
                msg = (
                    f"{self._path} was not written: {int((~self._is_there).sum())} of {self._is_there.size} planes "
                    f"along axis {self._axis} are missing, the first is {first}."
                )
                raise ValueError(msg)
            write_nifti_pieces(self._header, self._read_pieces(), self._path, self._description, self._extension)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Give up what was handed over; nothing is written."""
        self._is_open = False
        self._open_files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _encode(self, numbers: Array) -> Array:
        if numbers.dtype == self._dtype:
            codes = numbers
        elif self._dtype == np.float32:
            codes = numbers.astype(np.float32)
        else:
            scaled = np.clip(numbers, 0, 1, dtype=np.float32)
            scaled *= _LARGEST_CODE
            if not np.isfinite(scaled).all():
                msg = f"There are NaN among the numbers for {self._path}; expected 0 to 1."
                raise ValueError(msg)
            codes = np.rint(scaled, out=scaled).astype(np.uint8)
        if codes.dtype == np.float32 and not np.isfinite(codes).all():
            msg = f"There are NaN or infinite numbers for {self._path}; expected finite ones."
            raise ValueError(msg)
        return codes

    def _seek(self, channel: int, plane: int, *, skip: int = 0) -> None:
        """To a plane of the scratch file, and on by ``skip`` voxels."""
        num_planes = self._box_shape[self._axis]
        plane_size = int(np.prod(self._box_shape)) // num_planes
        self._scratch.seek(((channel * num_planes + plane) * plane_size + skip) * self._dtype.itemsize)

    def _read_pieces(self) -> Iterator[Array]:
        """The file's voxels in its order, ``(planes, J, I)`` at a time."""
        num_i, num_j, num_k = self._shape
        box_i, box_j, box_k = self._box
        step = count_piece_planes(num_i * num_j, self._dtype)
        for channel in range(self._num_channels):
            for start in range(0, num_k, step):
                stop = min(start + step, num_k)
                piece = np.full((stop - start, num_j, num_i), self._outside[channel], self._dtype)
                first, last = max(start, box_k.start), min(stop, box_k.stop)
                if first < last:
                    inside = self._read_box(channel, first - box_k.start, last - box_k.start)
                    piece[first - start : last - start, box_j, box_i] = inside
                yield piece

    def _read_box(self, channel: int, first: int, last: int) -> Array:
        """Planes ``first`` to ``last`` along K of the box, ``(planes, J, I)``."""
        axis = self._axis
        num_fastest = self._box_shape[_FILE_ORDERS[axis][2]]
        if axis == 2:
            runs = np.empty((last - first, self._box_shape[1], num_fastest), self._dtype)
            self._seek(channel, first)
            self._scratch.readinto(runs.reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
            return runs
        runs = np.empty((self._box_shape[axis], last - first, num_fastest), self._dtype)
        for plane, run in enumerate(runs):
            self._seek(channel, plane, skip=first * num_fastest)
            self._scratch.readinto(run.reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
        return runs.transpose(_PIECE_ORDERS[axis])


def _resolve_box(box: tuple[slice, slice, slice] | None, grid: Volume) -> tuple[slice, slice, slice]:
    parts = (slice(None),) * 3 if box is None else box
    ends = [part.indices(length) for part, length in zip(parts, grid.spatial_shape, strict=True)]
    if any(step != 1 or start >= stop for start, stop, step in ends):
        msg = f"The box {box} holds nothing of the grid {grid.spatial_shape}; expected three slices of step 1."
        raise ValueError(msg)
    i, j, k = (slice(start, stop) for start, stop, _ in ends)
    return i, j, k
