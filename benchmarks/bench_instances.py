"""Nuclei that touch, told apart: trained on one half of a picture and tested on the other, both ways, beside classical ways.

```sh
python benchmarks/bench_instances.py --data ../shared/data/nuclei              # StarDist's 2D example, docs/instances.md
python benchmarks/bench_instances.py --data ../shared/data/nuclei --kind 3d    # its 3D example
```

The folder holds ``img2d.tif`` and ``mask2d.tif`` (``img3d.tif`` and ``mask3d.tif``), the examples of StarDist (BSD-3,
https://github.com/stardist/stardist). A picture is cut in the middle of its longest axis; a nucleus on the cut is one in each
half. The task is medunet's ``nuclei-2d``, in 3D the same under another name. The training half is one case, and all of it trains:
nothing is tuned, the thresholds are medunet's first ones.

Beside it stands Otsu's threshold (https://doi.org/10.1109/TSMC.1979.4310076) on the test half, then connected components by faces
or the watershed of ``medunet baseline otsu --split-objects``, which divides objects whose centres are farther apart than the
radius of the median nucleus of the training half (as a disc or ball of its size). "Smoothed" is after a Gaussian of 1 voxel, and
without what is smaller than the least volume that medunet learnt from the training half.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

import medunet
from medunet.baselines import segment_otsu
from medunet.evaluation import compute_average_precision, compute_instance_overlaps, score_instances
from medunet.io import read_label_map, read_volume, write_nifti_image, write_nifti_labels
from medunet.models import read_records
from medunet.tasks import load_task
from medunet.volume import Array, Volume


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
        reference, seen = objects[test].array[0], image[test]
        radius_mm = measure_radius_mm(objects[train])
        scores = [
            print_row(name, method, reference, numbers)
            for method, numbers in (
                ("medunet", found),
                ("Otsu + components", threshold(seen)),
                ("Otsu + comp., smoothed", threshold(seen, sigma=1.0, min_voxels=min_volume)),
                ("Otsu + watershed", threshold(seen, split_mm=radius_mm)),
                ("Otsu + watersh., smoothed", threshold(seen, sigma=1.0, min_voxels=min_volume, split_mm=radius_mm)),
            )
        ]
        gains = ", ".join(f"{scores[0] - score:+.3f}" for score in scores[1:])
        print(f"{name:13}AP50 {gains}; {story}", flush=True)


def segment(image: Volume, objects: Volume, unseen: Volume, budget: str, seed: int) -> tuple[Array, float, str]:
    """Learn from one half.

    Returns:
        The nuclei of the other, the least volume of a nucleus, and how the training went.
    """
    with tempfile.TemporaryDirectory(prefix="medunet-nuclei-") as temporary:
        folder = Path(temporary)
        task = load_task("nuclei-2d")
        if min(image.spatial_shape) > 1:
            task = task.model_copy(
                update={"name": "nuclei-3d", "title": "Nuclei in fluorescence stacks", "phantom": None}
            )
        (folder / "task.yaml").write_text(task.model_dump_json())  # JSON is YAML
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


def measure_radius_mm(objects: Volume) -> float:
    """Of a disc as large as the median object of a picture, or of such a ball."""
    sizes = np.unique(objects.array[objects.array > 0], return_counts=True)[1]
    if min(objects.spatial_shape) == 1:
        pixel_mm2 = math.prod(mm for mm, n in zip(objects.spacing, objects.spatial_shape, strict=True) if n > 1)
        return math.sqrt(float(np.median(sizes)) * pixel_mm2 / math.pi)
    return (float(np.median(sizes)) * objects.voxel_volume_mm3 * 3 / (4 * math.pi)) ** (1 / 3)


def threshold(image: Volume, *, sigma: float = 0.0, min_voxels: float = 0.0, split_mm: float | None = None) -> Array:
    """Otsu's threshold, then connected components by faces, or with ``split_mm`` a watershed; small parts are removed."""
    axes = [sigma * (length > 1) for length in image.spatial_shape]
    smooth = image.with_array(ndimage.gaussian_filter(image.array.astype(np.float32), [0.0, *axes]))
    found = segment_otsu(smooth, split_mm=split_mm).array[0]
    parts = ndimage.label(found)[0] if split_mm is None else found
    is_small = np.bincount(parts.ravel()) < min_voxels
    kept: Array = np.where(is_small[parts], 0, parts)
    return kept


if __name__ == "__main__":
    main()
