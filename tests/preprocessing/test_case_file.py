"""Any box of a file is what was written, and a file that was cut off or changed says so."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from medunet.preprocessing.blocks import BLOCK, read_box_from_blocks, to_blocks, whole_box
from medunet.preprocessing.case_file import DamagedCaseError, open_case_file, serialize_case
from medunet.volume import Array

SHAPE = (37, 16, 50)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[slice, slice, slice]:
    starts = [draw(st.integers(0, length - 1)) for length in SHAPE]
    i, j, k = (slice(a, draw(st.integers(a + 1, n))) for a, n in zip(starts, SHAPE, strict=True))
    return i, j, k


def make_tensors() -> tuple[Array, dict[str, Array]]:
    voxels = np.random.default_rng(0).integers(-30_000, 30_000, (2, *SHAPE)).astype(np.int16)
    return voxels, {"image": to_blocks(voxels), "fill": np.array([-1.5, 2.5], np.float32)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.safetensors").write_bytes(serialize_case(make_tensors()[1], SHAPE))
    return tmp_path / "a.safetensors"


VOXELS, TENSORS = make_tensors()


@settings(deadline=None)
@given(boxes())
def test_a_box_of_blocks_is_the_box(box: Any) -> None:
    blocks = TENSORS["image"]
    flat = blocks.reshape(-1, *blocks.shape[3:])
    num_read = 0

    def read(runs: Any) -> None:
        nonlocal num_read
        for start, out in runs:
            count = out.size // flat[0].size
            out[:] = flat[start : start + count].reshape(out.shape)
            num_read += count

    found = read_box_from_blocks(read, blocks.shape, blocks.dtype, box)
    assert np.array_equal(found, VOXELS[(slice(None), *box)])
    touched = [(edge.stop - 1) // BLOCK - edge.start // BLOCK + 1 for edge in box]
    assert num_read == np.prod(touched)  # no block more


@pytest.mark.parametrize("box", [whole_box(SHAPE), (slice(3, 30), slice(5, 6), slice(40, 50)), (slice(36, 37),) * 3])
def test_a_box_of_a_file_is_the_box(path: Path, box: Any) -> None:
    box = tuple(slice(edge.start % n, min(edge.stop, n)) for edge, n in zip(box, SHAPE, strict=True))
    box = tuple(edge if edge.stop > edge.start else slice(0, 1) for edge in box)
    assert np.array_equal(open_case_file(path).read_box("image", box), VOXELS[(slice(None), *box)])


def test_the_file_is_a_plain_safetensors_file(path: Path) -> None:
    found = load_file(path)
    assert sorted(found) == ["fill", "image"]
    assert np.array_equal(found["image"], TENSORS["image"])
    file = open_case_file(path)
    assert file.shape == SHAPE
    assert file.read_tensor("fill").tolist() == [-1.5, 2.5]
    file.verify()


@pytest.mark.parametrize("num_bytes", [0, 5, 100, 30_000, -1])
def test_a_file_that_was_cut_off_is_noticed_without_reading_it(path: Path, num_bytes: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:num_bytes])
    with pytest.raises(DamagedCaseError, match=r"a\.safetensors (is not a preprocessed case|has \d+ bytes; expected)"):
        open_case_file(path)


@pytest.mark.parametrize("content", [b"\xff" * 50, b"\x02" + b"\0" * 7 + b"{}", b"\x02" + b"\0" * 7 + b"[]"])
def test_another_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DamagedCaseError, match="is not a preprocessed case"):
        open_case_file(path)


@pytest.mark.parametrize("place", [0.2, 0.6, 0.99])
def test_a_flipped_bit_is_found(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header + int(place * (len(content) - header))] ^= 1
    path.write_bytes(content)
    file = open_case_file(path)
    with pytest.raises(DamagedCaseError, match="SHA-256 differs"):
        file.verify()


def test_a_file_cut_off_while_in_use_is_named(path: Path) -> None:
    file = open_case_file(path)
    file.read_tensor("fill")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DamagedCaseError, match=r"a\.safetensors ends early"):
        file.read_tensor("image")


def test_the_checksum_tells_shapes_apart() -> None:
    voxels = np.zeros((1, 16, 16, 32), np.int16)
    first = serialize_case({"image": voxels}, (16, 16, 32))
    second = serialize_case({"image": voxels}, (16, 32, 16))
    third = serialize_case({"image": voxels.reshape(1, 16, 32, 16)}, (16, 16, 32))
    checksums = {content[8:400].split(b'"checksum":"')[1][:64] for content in (first, second, third)}
    assert len(checksums) == 3


def test_more_cases_than_files_may_be_open(tmp_path: Path) -> None:
    content = serialize_case(TENSORS, SHAPE)
    paths = [tmp_path / f"{n}.safetensors" for n in range(140)]
    for path in paths:
        path.write_bytes(content)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_open + 80, hard))
    try:
        files = [open_case_file(path) for path in paths]
        for _ in range(2):
            assert all(file.read_tensor("fill")[0] == -1.5 for file in files)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
