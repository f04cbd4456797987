"""Gzip streams are plain gzip: one member, no time, the same bytes on any number of threads."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import threading
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name that its manual uses

from medunet.errors import OutputError
from medunet.io import read_volume, write_nifti_image, write_nifti_labels
from medunet.io.gzip_stream import GZIP_ERRORS, open_gzip_reader, open_gzip_writer
from medunet.io.voxels import iterate_file_order
from medunet.volume import Volume

BLOCK = 2**20


def pack(content: bytes, num_threads: int | None = None, piece: int = 2**22) -> bytes:
    file = io.BytesIO()
    with open_gzip_writer(file, num_threads=num_threads) as stream:
        for start in range(0, len(content), piece):
            stream.write(content[start : start + piece])
    return file.getvalue()


def make_content(size: int) -> bytes:
    """Runs and noise, so that blocks differ."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 40, size // 50 + 1).astype(np.uint8).repeat(50).tobytes()[:size]


@pytest.mark.parametrize("size", [0, 1, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
def test_python_and_isal_unpack_what_is_packed(size: int) -> None:
    content = make_content(size)
    packed = pack(content)
    assert gzip.decompress(packed) == content
    assert open_gzip_reader(io.BytesIO(packed)).read() == content


def test_one_member_for_readers_that_stop_after_the_first() -> None:
    content = make_content(3 * BLOCK)
    inflater = zlib.decompressobj(31)
    assert inflater.decompress(pack(content)) == content
    assert inflater.eof
    assert inflater.unused_data == b""


def test_threads_do_not_change_a_byte_and_there_is_no_time() -> None:
    content = make_content(5 * BLOCK + 5)
    packed = pack(content, 1)
    assert pack(content, 2) == pack(content, 5) == packed
    assert packed[4:8] == bytes(4)


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    pack(make_content(3 * BLOCK), 3)
    with contextlib.suppress(KeyError), open_gzip_writer(io.BytesIO(), num_threads=3) as stream:
        stream.write(make_content(3 * BLOCK))
        raise KeyError
    assert threading.active_count() == before


def test_a_disk_that_gets_full_is_noticed() -> None:
    class FullDisk(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() + len(content) > 100_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(content)

    noise = np.random.default_rng(0).bytes(4 * BLOCK)
    with pytest.raises(OSError, match="No space left"), open_gzip_writer(FullDisk(), num_threads=2) as stream:
        stream.write(noise)


@pytest.mark.parametrize("position", [-1, -5, BLOCK // 4])
def test_a_flipped_bit_is_noticed(position: int) -> None:
    packed = bytearray(pack(np.random.default_rng(0).bytes(BLOCK)))
    packed[position] ^= 1
    with pytest.raises(GZIP_ERRORS):
        open_gzip_reader(io.BytesIO(bytes(packed))).read()


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_other_programs_read_a_packed_volume(tmp_path: Path, make_volume: Any, dtype: str) -> None:
    volume = make_volume(shape=(65, 130, 133), dtype=np.float32)
    volume = volume.with_array(volume.array.clip(0, 250).astype(dtype))
    write_nifti_image(volume, tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "image.nii.gz").dataobj), volume.array[0])
    array = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "image.nii.gz"))
    np.testing.assert_array_equal(array.T, volume.array[0])
    np.testing.assert_array_equal(read_volume(tmp_path / "image.nii.gz").array, volume.array)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["uint8", ">i2", "int64"])
def test_pieces_are_the_bytes_of_fortran_order(order: str, dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, (70, 3, 66)).astype(dtype, order=order)
    pieces = list(iterate_file_order(array, np.dtype("<i2")))
    assert b"".join(piece.tobytes() for piece in pieces) == array.astype("<i2").tobytes(order="F")
    assert len(pieces) == 3


def test_channels_first_stay_fastest() -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    pieces = b"".join(piece.tobytes() for piece in iterate_file_order(array, array.dtype))
    assert pieces == array.tobytes(order="F")


def test_writing_takes_the_memory_of_a_few_planes(tmp_path: Path) -> None:
    import tracemalloc

    labels = Volume(np.zeros((1, 128, 128, 640), np.uint8), np.eye(4))  # 10 MiB
    tracemalloc.start()
    write_nifti_labels(labels, tmp_path / "mask.nii")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * 2**20  # two pieces of 64 planes


def test_a_limit_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    import resource

    (tmp_path / "image.nii.gz").write_bytes(b"old")
    noise = Volume(np.random.default_rng(0).integers(0, 255, (1, 64, 64, 64)).astype(np.uint8), np.eye(4))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"image\.nii\.gz: the file is larger than the file system or the user's"):
            write_nifti_image(noise, tmp_path / "image.nii.gz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("image.nii.gz", b"old")]
