"""Writing and reading `.nii.gz`: medunet beside nibabel and SimpleITK, time, size and memory.

```sh
python benchmarks/bench_gzip.py               # 512x512x300: a mask of 25 labels, and a CT
python benchmarks/bench_gzip.py --slices 30   # a quick look
python benchmarks/bench_gzip.py --levels      # the levels of ISA-L and of zlib on one core, on the same bytes
```

Each program runs in a process of its own, in turns, with the settings that its users get: nibabel packs at level 1, SimpleITK at
the level of its library. The time is from voxels in memory to the file renamed or closed, or from the file's name to voxels in
memory, without starting Python and importing. Memory is the peak of the process less what it had before. medunet compares the
checksum of the stream and looks for NaN; nibabel does neither.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from isal import isal_zlib

NUM_LABELS = 25
_MEASURE = """
import json, re, sys, time
from pathlib import Path
import numpy as np

def read_peak_kib():
    # Of this program alone: getrusage counts what the parent held before it started this one.
    return int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

folder, kind, file = sys.argv[1:]
{imports}
voxels = np.load(f"{{folder}}/{{kind}}.npy") if {writes} else None
{prepare}
before = read_peak_kib()
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
peak = read_peak_kib()
total = 0 if {writes} else int(voxels[::16, ::16].astype(np.int64).sum())
print(json.dumps({{"seconds": seconds, "mib": (peak - before) / 1024, "sum": total}}))
"""
_WRITERS = {
    "medunet": (
        "from medunet.io import write_nifti_image, write_nifti_labels; from medunet.volume import Volume",
        "volume, write = Volume(voxels[None], np.eye(4)), write_nifti_labels if kind == 'mask' else write_nifti_image",
        "write(volume, Path(file))",
    ),
    "nibabel": ("import nibabel as nib", "", "nib.save(nib.Nifti1Image(voxels, np.eye(4)), file)"),
    "SimpleITK": (
        "import SimpleITK as sitk",
        "",
        "sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(voxels.T)), file, True)",
    ),
}
_READERS = {
    "medunet": (
        "import nibabel, psutil; from medunet.io import read_volume",
        "",
        "voxels = read_volume(Path(file)).array[0]",
    ),
    "nibabel": ("import nibabel as nib", "", "voxels = np.asanyarray(nib.load(file).dataobj)"),
    "SimpleITK": (
        "import SimpleITK as sitk",
        "",
        "image = sitk.ReadImage(file); voxels = sitk.GetArrayViewFromImage(image).T",
    ),
}


def main() -> None:
    """Make a mask and a CT, write and read them in turns, print seconds, sizes, memory and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", action="store_true")
    arguments = parser.parse_args()
    mask = make_mask((512, 512, arguments.slices))
    volumes = {"mask": mask, "CT": make_ct(mask)}
    if arguments.levels:
        compare_levels(volumes)
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind, voxels in volumes.items():
            np.save(f"{folder}/{kind}.npy", voxels)
        num_mib = {kind: voxels.nbytes / 2**20 for kind, voxels in volumes.items()}
        del volumes, mask
        for kind in num_mib:
            size = f"512x512x{arguments.slices}, {num_mib[kind]:.0f} MiB"
            print(f"{kind}, {size}, {arguments.rounds} rounds, medians")
            compare(folder, kind, arguments.rounds, num_mib[kind])


def make_mask(shape: tuple[int, int, int]) -> np.ndarray:
    """Ellipsoids with wavy walls, ``shape`` uint8."""
    rng = np.random.default_rng(0)
    mask = np.zeros(shape, np.uint8)
    for label in range(1, NUM_LABELS + 1):
        radii = rng.uniform(0.05, 0.16, 3) * shape
        centre = rng.uniform(0.2, 0.8, 3) * shape
        box = tuple(
            slice(max(0, int(c - 1.3 * r)), min(n, int(c + 1.3 * r) + 1))
            for c, r, n in zip(centre, radii, shape, strict=True)
        )
        i, j, k = np.ogrid[box]
        scaled = [(index - c) / r for index, c, r in zip((i, j, k), centre, radii, strict=True)]
        waves = 0.15 * np.sin(5 * scaled[0] + label) * np.sin(6 * scaled[1]) * np.cos(4 * scaled[2])
        mask[box][scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2 + waves < 1] = label
    return mask


def make_ct(mask: np.ndarray) -> np.ndarray:
    """An elliptic body with noise of 12 HU in air of -1000 HU, int16."""
    rng = np.random.default_rng(1)
    i, j = np.ogrid[: mask.shape[0], : mask.shape[1]]
    is_air = ((i - 256) / 200) ** 2 + ((j - 256) / 150) ** 2 > 1
    hounsfield = np.empty(mask.shape, np.int16)
    for k in range(mask.shape[2]):
        plane = 5 * mask[:, :, k].astype(np.float32) + 12 * rng.standard_normal(is_air.shape, np.float32)
        plane[is_air] = -1000
        hounsfield[:, :, k] = np.rint(plane)
    return hounsfield


def compare(folder: str, kind: str, num_rounds: int, num_mib: float) -> None:
    """Write with each program, then read medunet's file with each."""
    files = {name: f"{folder}/{kind}-{name}.nii.gz" for name in _WRITERS}
    written: dict[str, list[dict[str, float]]] = {name: [] for name in _WRITERS}
    read: dict[str, list[dict[str, float]]] = {name: [] for name in _READERS}
    for _ in range(num_rounds):
        for name, parts in _WRITERS.items():
            written[name].append(measure(parts, folder, kind, files[name], writes=True))
    for _ in range(num_rounds):
        for name, parts in _READERS.items():
            read[name].append(measure(parts, folder, kind, files["medunet"], writes=False))
    assert len({row["sum"] for rows in read.values() for row in rows}) == 1, "the readers disagree"
    for what, rows_of in (("write", written), ("read", read)):
        own = statistics.median(row["seconds"] for row in rows_of["medunet"])
        for name, rows in rows_of.items():
            seconds = statistics.median(row["seconds"] for row in rows)
            peak = statistics.median(row["mib"] for row in rows)
            size = f", {Path(files[name]).stat().st_size / 2**20:6.2f} MiB on disk" if what == "write" else ""
            print(
                f"  {what:5s} {name:10s} {seconds:6.2f} s, {num_mib / seconds:5.0f} MiB/s, {seconds / own:5.1f} x medunet, "
                f"peak {peak:4.0f} MiB{size}"
            )


def measure(parts: tuple[str, str, str], folder: str, kind: str, file: str, *, writes: bool) -> dict[str, float]:
    """One program once, in a process of its own."""
    imports, prepare, work = parts
    code = _MEASURE.format(imports=imports, prepare=prepare, work=work, writes=writes)
    done = subprocess.run([sys.executable, "-c", code, folder, kind, file], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare_levels(volumes: dict[str, np.ndarray]) -> None:
    """What each level packs and how fast, by the clock of the thread."""
    for kind, voxels in volumes.items():
        content = voxels.tobytes(order="F")
        print(f"{kind}, {len(content) / 2**20:.0f} MiB")
        packers = [("ISA-L", isal_zlib, level) for level in (0, 1, 2, 3)] + [("zlib", zlib, level) for level in (1, 4)]
        for name, module, level in packers:
            start = time.thread_time()
            packed = module.compress(content, level)  # type: ignore[attr-defined]
            middle = time.thread_time()
            assert module.decompress(packed) == content  # type: ignore[attr-defined]
            pack, unpack = middle - start, time.thread_time() - middle
            mib = len(content) / 2**20
            print(
                f"  {name:5s} level {level}: ratio {len(content) / len(packed):6.2f}, "
                f"packs {mib / pack:5.0f} MiB/s, unpacks {mib / unpack:5.0f} MiB/s"
            )


if __name__ == "__main__":
    main()
