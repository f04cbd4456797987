"""Nuclei that touch, told apart: trained on one half of a picture and tested on the other, both ways, beside Otsu's threshold.

```sh
python benchmarks/bench_instances.py --data ../shared/data/nuclei              # StarDist's 2D example, the table of docs/instances.md
python benchmarks/bench_instances.py --data ../shared/data/nuclei --kind 3d    # its 3D example
```

The folder holds ``img2d.tif`` and ``mask2d.tif`` (``img3d.tif`` and ``mask3d.tif``), the examples of StarDist (BSD-3,
https://github.com/stardist/stardist). A picture is cut in the middle of its longest axis; objects on the cut are an object in
each half. The training half is cut into four cases, all of which train: thresholds are medunet's own, nothing is tuned on the
test half. The baseline is Otsu's threshold (https://doi.org/10.1109/TSMC.1979.4310076) on the test half, then connected
components; with ``smoothed`` after a Gaussian of 1 voxel and without components below half of the volume that 98 of 100
training objects exceed, which is what medunet removes too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu

import medunet
from medunet.evaluation import compute_average_precision, compute_instance_overlaps, score_instances
from medunet.io import read_label_map, read_volume, write_nifti_image, write_nifti_labels
from medunet.volume import Array, Volume

TASK = """
name: nuclei
title: Nuclei of StarDist's example
modality: MR
channels: [fluorescence]
labels: {nucleus: 1}
output: instances
intensity: zscore
"""
NUM_CASES = 4


def main() -> None:
    """Train on each half, test on the other, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the pictures and masks")
    parser.add_argument("--kind", choices=("2d", "3d"), default="2d")
    parser.add_argument("--budget", default="150s", help="training of each half, as for medunet train")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    image = read_volume(arguments.data / f"img{arguments.kind}.tif")
    objects = read_label_map(arguments.data / f"mask{arguments.kind}.tif")
    print(
        f"medunet {medunet.__version__}, {arguments.kind}, budget {arguments.budget}, seed {arguments.seed}, {torch.get_num_threads()} thread(s)"
    )
    print(f"{'trained on':12}{'method':26}{'objects':>8}{'found':>7}{'AP50':>8}{'AP':>8}{'PQ':>8}{'F1':>8}")
    rows: dict[str, list[float]] = {}
    for name, train, test in (("first half", 0, 1), ("second half", 1, 0)):
        with tempfile.TemporaryDirectory(prefix="medunet-nuclei-") as temporary:
            folder = Path(temporary)
            write_cases(cut(image, 2)[train], cut(objects, 2)[train], folder)
            seen, reference = cut(image, 2)[test], cut(objects, 2)[test].array[0]
            began = time.perf_counter()
            medunet.train(
                folder / "task.yaml", folder / "data", output=folder / "model", fold="all", budget=arguments.budget,
                seed=arguments.seed, device="cpu",
            )  # fmt: skip
            seconds = time.perf_counter() - began
            found = medunet.load(folder / "model", device="cpu").segment(seen)
            min_voxels = medunet.load(folder / "model", device="cpu").model.instances.get_rule("nucleus").min_volume_mm3
        for method, numbers in {
            f"medunet, {seconds:.0f} s": found.mask.array[0],
            "Otsu + components": threshold(seen.array[0]),
            "Otsu + comp., smoothed": threshold(seen.array[0], sigma=1.0, min_voxels=min_voxels),
        }.items():
            overlaps = compute_instance_overlaps(reference, numbers)
            score = score_instances(overlaps)
            mean = compute_average_precision(overlaps)
            assert score.average_precision is not None
            assert mean is not None
            rows.setdefault(method.split(",")[0] if method.startswith("medunet") else method, []).append(
                score.average_precision
            )
            print(
                f"{name:12}{method:26}{overlaps.num_reference:8}{overlaps.num_prediction:7}{score.average_precision:8.3f}"
                f"{mean:8.3f}{score.panoptic_quality:8.3f}{score.recognition_quality:8.3f}"
            )
    best = max(min_difference(rows["medunet"], other) for name, other in rows.items() if name != "medunet")
    for name, other in rows.items():
        if name != "medunet":
            print(
                f"AP50 above {name}: {', '.join(f'{own - its:+.3f}' for own, its in zip(rows['medunet'], other, strict=True))}"
            )
    del best


def min_difference(own: list[float], other: list[float]) -> float:
    """The smaller of the two gains."""
    return min(mine - its for mine, its in zip(own, other, strict=True))


def cut(volume: Volume, num_parts: int) -> list[Volume]:
    """Equal parts along the longest axis."""
    axis = int(np.argmax(volume.spatial_shape))
    parts = np.array_split(volume.array, num_parts, axis=axis + 1)
    return [Volume(np.ascontiguousarray(part), volume.affine) for part in parts]


def write_cases(image: Volume, objects: Volume, folder: Path) -> None:
    """The task and four cases, as NIfTI files."""
    (folder / "task.yaml").write_text(TASK)
    for kind in ("images", "labels"):
        (folder / "data" / kind).mkdir(parents=True)
    quarters = zip(cut(image, NUM_CASES), cut(objects, NUM_CASES), strict=True)
    for number, (picture, labels) in enumerate(quarters):
        write_nifti_image(picture, folder / "data" / "images" / f"case{number}.nii.gz")
        write_nifti_labels(labels, folder / "data" / "labels" / f"case{number}.nii.gz")


def threshold(image: Array, *, sigma: float = 0.0, min_voxels: float = 0.0) -> Array:
    """Otsu's threshold and connected components, by faces; small ones are removed."""
    smooth = ndimage.gaussian_filter(image.astype(np.float32), [sigma * (length > 1) for length in image.shape])
    parts, _ = ndimage.label(smooth > threshold_otsu(smooth))
    is_small = np.bincount(parts.ravel()) < min_voxels
    kept: Array = np.where(is_small[parts], 0, parts)
    return kept


if __name__ == "__main__":
    main()
