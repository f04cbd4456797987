"""Ways to keep preprocessed cases on disk: patches per second from a warm and a cold page cache, and bytes per case.

What medunet does (16-bit blocks, read) stands beside a plain array that is mapped (float32, int16), safetensors' own slices,
and blocks compressed with zlib. Each way reads the same boxes of a preprocessed phantom into memory as float32.

    python benchmarks/bench_store.py [--boxes 40]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from medunet.phantoms import make_phantom_case
from medunet.preprocessing import Box
from medunet.preprocessing.blocks import BLOCK
from medunet.preprocessing.case_file import open_case_file
from medunet.preprocessing.quantize import Quantization, choose_quantization
from medunet.preprocessing.store import open_stored_case, serialize_stored_case
from medunet.volume import Array, Shape3

PATCHES: dict[str, Shape3] = {"3D patch": (96, 96, 64), "axial slice": (160, 160, 1), "sagittal slice": (1, 160, 64)}
Read = Callable[[Box], Array]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=40, help="boxes of each shape")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        image = make_image()
        ways = write_ways(Path(folder), image)
        print(f"a case of {' x '.join(map(str, image.shape[1:]))} voxels, one thread; milliseconds per box, median")
        print(f"{'':28}{'MB':>8}" + "".join(f"{name:>26}" for name in PATCHES))
        print(f"{'':36}" + f"{'warm':>17}{'cold':>9}" * len(PATCHES))
        for name, (path, read) in ways.items():
            times = [measure(path, read, boxes) for boxes in draw_boxes(image, arguments.boxes)]
            columns = "".join(f"{warm:17.2f}{cold:9.2f}" for warm, cold in times)
            print(f"{name:28}{path.stat().st_size / 1e6:8.1f}{columns}")


def make_image() -> Array:
    """A pelvis in units of its deviation, ``(1, I, J, K)``."""
    scan = make_phantom_case("male-pelvis-ct", seed=0).image
    clipped = scan.array.astype(np.float32).clip(-200, 350)
    normalized: Array = (clipped - 75) / 275
    return normalized


def draw_boxes(image: Array, count: int) -> list[list[Box]]:
    """The same random boxes for every way, a list per shape of patch."""
    rng = np.random.default_rng(0)
    shapes = [tuple(map(min, patch, image.shape[1:])) for patch in PATCHES.values()]
    return [[draw_box(image, size, rng) for _ in range(count)] for size in shapes]


def draw_box(image: Array, size: tuple[int, ...], rng: np.random.Generator) -> Box:
    """A box of a size, anywhere."""
    starts = [int(rng.integers(length - n + 1)) for length, n in zip(image.shape[1:], size, strict=True)]
    i, j, k = (slice(start, start + n) for start, n in zip(starts, size, strict=True))
    return i, j, k


def measure(path: Path, read: Read, boxes: list[Box]) -> tuple[float, float]:
    """Milliseconds per box when the file is in the page cache, and when it is not."""
    cold, warm = [], []
    for box in boxes:
        drop_from_cache(path)
        cold.append(time_once(read, box))
    for box in boxes:
        warm.append(time_once(read, box))
    return statistics.median(warm), statistics.median(cold)


def time_once(read: Read, box: Box) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    voxels = read(box)
    assert voxels.dtype == np.float32
    return (time.perf_counter() - began) * 1000


def drop_from_cache(path: Path) -> None:
    """Let the system forget a file (Linux; elsewhere cold is warm)."""
    if not hasattr(os, "posix_fadvise"):
        return
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def write_ways(folder: Path, image: Array) -> dict[str, tuple[Path, Read]]:
    """Every way's file, and how a box is read from it."""
    quantization = choose_quantization(image)
    assert quantization is not None
    return {
        "medunet: int16 blocks+labels": write_blocks(folder / "blocks.safetensors", image),
        "int16 array, mapped": write_array(folder / "int16.raw", quantization.encode(image), quantization),
        "float32 array, mapped": write_array(folder / "float32.raw", image, None),
        "float32 safetensors slices": write_safetensors(folder / "slices.safetensors", image),
        "int16 blocks of 32, zlib": write_compressed(folder / "zlib.raw", quantization.encode(image), quantization),
    }


def write_blocks(path: Path, image: Array) -> tuple[Path, Read]:
    """As in the store."""
    fill = np.zeros(len(image), np.float32)
    path.write_bytes(
        serialize_stored_case(image, np.zeros(image.shape[1:], np.uint8), fill, "a")
    )  # labels: 1 byte more
    case = open_stored_case(open_case_file(path), "a", None, in_memory=False)

    def read(box: Box) -> Array:
        assert case.file is not None
        assert case.quantization is not None
        return case.quantization.decode(torch.from_numpy(case.file.read_box("image", box))).numpy()

    return path, read


def write_array(path: Path, array: Array, quantization: Quantization | None) -> tuple[Path, Read]:
    """One axis after the other, mapped anew for each box: a map that stays would keep its pages from being dropped."""
    path.write_bytes(array.tobytes())

    def read(box: Box) -> Array:
        mapped = np.memmap(path, array.dtype, "r", shape=array.shape)
        voxels = torch.from_numpy(np.array(mapped[(slice(None), *box)]))
        return (voxels if quantization is None else quantization.decode(voxels)).numpy()

    return path, read


def write_safetensors(path: Path, image: Array) -> tuple[Path, Read]:
    """Opened for each box, as the library is meant to be used."""
    save_file({"image": image}, path)

    def read(box: Box) -> Array:
        with safe_open(path, framework="np") as file:
            voxels: Array = np.ascontiguousarray(file.get_slice("image")[(slice(None), *box)])
            return voxels

    return path, read


def write_compressed(path: Path, stored: Array, quantization: Quantization) -> tuple[Path, Read]:
    """Blocks of 32 voxels a side, each compressed for itself."""
    side = 2 * BLOCK
    counts = [-(-n // side) for n in stored.shape[1:]]
    places: dict[tuple[int, ...], tuple[int, int]] = {}
    with path.open("wb") as file:
        for place in np.ndindex(*counts):
            block = np.zeros((side, side, side), stored.dtype)
            part = stored[(0, *(slice(n * side, (n + 1) * side) for n in place))]
            block[tuple(slice(0, n) for n in part.shape)] = part
            places[place] = file.tell(), file.write(zlib.compress(block.tobytes(), 1))
    handle = os.open(path, os.O_RDONLY)

    def read(box: Box) -> Array:
        first = [edge.start // side for edge in box]
        count = [-(-edge.stop // side) - a for edge, a in zip(box, first, strict=True)]
        whole = np.empty((1, *(n * side for n in count)), stored.dtype)
        for place in np.ndindex(*count):
            offset, size = places[tuple(np.add(first, place).tolist())]
            block = np.frombuffer(zlib.decompress(os.pread(handle, size, offset)), stored.dtype)
            whole[(0, *(slice(n * side, (n + 1) * side) for n in place))] = block.reshape(side, side, side)
        inner = tuple(slice(edge.start - a * side, edge.stop - a * side) for edge, a in zip(box, first, strict=True))
        return quantization.decode(torch.from_numpy(np.ascontiguousarray(whole[(slice(None), *inner)]))).numpy()

    return path, read


if __name__ == "__main__":
    main()
