"""Nuclei that touch, told apart: trained on one half of a picture and tested on the other, both ways, beside Otsu's threshold.

```sh
python benchmarks/bench_instances.py --data ../shared/data/nuclei              # StarDist's 2D example, docs/instances.md
python benchmarks/bench_instances.py --data ../shared/data/nuclei --kind 3d    # its 3D example
```

The folder holds ``img2d.tif`` and ``mask2d.tif`` (``img3d.tif`` and ``mask3d.tif``), the examples of StarDist (BSD-3,
https://github.com/stardist/stardist). A picture is cut in the middle of its longest axis; a nucleus on the cut is one in each
half. The training half is one case, and all of it trains: nothing is tuned, the thresholds are medunet's first ones. The
baseline is Otsu's threshold (https://doi.org/10.1109/TSMC.1979.4310076) on the test half, then connected components by faces;
"smoothed" after a Gaussian of 1 voxel, and without components below the least volume that medunet learnt from the training half.
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
from medunet.models import read_records
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


def main() -> None:
    """Train on each half, test on the other, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the pictures and masks")
    parser.add_argument("--kind", choices=("2d", "3d"), default="2d")
    parser.add_argument("--budget", default="150s", help="training of each half, as for medunet train")
    parser.add_argument(
        "--train-on", choices=("both", "first", "second"), default="both", help="halves, one after the other"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    image = cut(read_volume(arguments.data / f"img{arguments.kind}.tif"))
    objects = cut(read_label_map(arguments.data / f"mask{arguments.kind}.tif"))
    print(
        f"medunet {medunet.__version__}, {arguments.kind}, budget {arguments.budget} each, seed {arguments.seed}, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )
    print(f"{'trained on':13}{'method':26}{'nuclei':>7}{'found':>7}{'AP50':>8}{'AP':>8}{'PQ':>8}{'F1':>8}")
    for name, train, test in (("first half", 0, 1), ("second half", 1, 0)):
        if arguments.train_on not in ("both", name.split()[0]):
            continue
        found, min_volume, story = segment(image[train], objects[train], image[test], arguments.budget, arguments.seed)
        reference, seen = objects[test].array[0], image[test].array[0]
        scores = [
            print_row(name, method, reference, numbers)
            for method, numbers in (
                ("medunet", found),
                ("Otsu + components", threshold(seen)),
                ("Otsu + comp., smoothed", threshold(seen, sigma=1.0, min_voxels=min_volume)),
            )
        ]
        print(f"{name:13}AP50 {scores[0] - scores[1]:+.3f} and {scores[0] - scores[2]:+.3f}; {story}", flush=True)


def segment(image: Volume, objects: Volume, unseen: Volume, budget: str, seed: int) -> tuple[Array, float, str]:
    """Learn from one half.

    Returns:
        The nuclei of the other, the least volume of a nucleus, and how the training went.
    """
    with tempfile.TemporaryDirectory(prefix="medunet-nuclei-") as temporary:
        folder = Path(temporary)
        (folder / "task.yaml").write_text(TASK)
        write_nifti_image(image, folder / "data" / "images" / "half.nii.gz")
        write_nifti_labels(objects, folder / "data" / "labels" / "half.nii.gz")
        began = time.process_time()
        result = medunet.train(
            folder / "task.yaml",
            folder / "data",
            output=folder / "model",
            fold="all",
            budget=budget,
            seed=seed,
            device="cpu",
        )
        seconds = time.process_time() - began
        found = medunet.load(folder / "model", device="cpu").segment(unseen)
        records = read_records(folder / "model")
    story = f"{result.num_iterations} iterations in {result.seconds:.0f} s, {seconds:.0f} s of processor time with all around them"
    return found.mask.array[0], records.instances.get_rule("nucleus").min_volume_mm3 / unseen.voxel_volume_mm3, story


def print_row(name: str, method: str, reference: Array, numbers: Array) -> float:
    """A row of the table; gives back the AP at an IoU of 0.5."""
    overlaps = compute_instance_overlaps(reference, numbers)
    score, mean = score_instances(overlaps), compute_average_precision(overlaps)
    assert score.average_precision is not None  # there are nuclei
    print(
        f"{name:13}{method:26}{overlaps.num_reference:7}{overlaps.num_prediction:7}{score.average_precision:8.3f}"
        f"{mean:8.3f}{score.panoptic_quality:8.3f}{score.recognition_quality:8.3f}"
    )
    return score.average_precision


def cut(volume: Volume) -> list[Volume]:
    """Two halves along the longest axis."""
    axis = int(np.argmax(volume.spatial_shape))
    halves = np.array_split(volume.array, 2, axis=axis + 1)
    return [Volume(np.ascontiguousarray(half), volume.affine) for half in halves]


def threshold(image: Array, *, sigma: float = 0.0, min_voxels: float = 0.0) -> Array:
    """Otsu's threshold and connected components, by faces; small ones are removed."""
    smooth = ndimage.gaussian_filter(image.astype(np.float32), [sigma * (length > 1) for length in image.shape])
    parts, _ = ndimage.label(smooth > threshold_otsu(smooth))
    is_small = np.bincount(parts.ravel()) < min_voxels
    kept: Array = np.where(is_small[parts], 0, parts)
    return kept


if __name__ == "__main__":
    main()
