"""Cases that no scanner made: noise with blobs in it, of any size; no case of a patient is needed to time a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from medunet.io import write_nifti_image, write_nifti_labels
from medunet.planning import ChannelStatistics, Fingerprint
from medunet.preprocessing import StoredCase
from medunet.preprocessing.case_file import open_case_file
from medunet.preprocessing.store import open_stored_case, serialize_stored_case
from medunet.tasks import Task
from medunet.volume import Array, Shape3, Volume

MADE_UP_TASK = Task.model_validate(
    {
        "name": "made-up",
        "title": "Blobs in noise",
        "modality": "MR",
        "channels": ["t1"],
        "labels": {"large": 1, "small": 2},
        "intensity": "zscore",
    }
)
_BLOB_VOXELS = 16


@dataclass(frozen=True, kw_only=True)
class MadeUpCase:
    """Image ``(1, I, J, K)`` float32 of about mean 0 and deviation 1, and codes ``(I, J, K)`` uint8."""

    image: Array
    codes: Array


def make_cases(num_cases: int, shape: Shape3) -> list[MadeUpCase]:
    """The same cases each time; about a fifth of their voxels are foreground."""
    return [_make_case(seed, shape) for seed in range(num_cases)]


def make_fingerprint(shape: Shape3, *, num_cases: int) -> Fingerprint:
    """Of many cases of one shape, to plan for."""
    unit = ChannelStatistics(
        mean=0.0, median=0.0, std=1.0, minimum=-4.0, maximum=4.0, percentile_00_5=-2.5, percentile_99_5=2.5
    )
    return Fingerprint(
        num_cases=num_cases,
        spacings=((1.0, 1.0, 1.0),) * num_cases,
        shapes=(shape,) * num_cases,
        body_shapes=(shape,) * num_cases,
        nonzero_share=1.0,
        channels=(unit,),
        label_frequencies=dict.fromkeys(MADE_UP_TASK.labels, 1.0),
        label_volumes_ml=dict.fromkeys(MADE_UP_TASK.labels, 1000.0),
    )


def store_cases(cases: list[MadeUpCase], folder: Path) -> list[StoredCase]:
    """Cases in memory, as medunet's preprocessing stores them."""
    return [_store(case, folder / f"case_{number}.case") for number, case in enumerate(cases)]


def write_dataset(cases: list[MadeUpCase], folder: Path) -> None:
    """A dataset of images/ and labels/ as NIfTI, at 1 mm."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number, case in enumerate(cases):
        name = f"case_{number}.nii.gz"
        write_nifti_image(Volume(1000 + 200 * case.image, np.eye(4)), folder / "images" / name)
        write_nifti_labels(Volume(case.codes[None], np.eye(4)), folder / "labels" / name)


def _make_case(seed: int, shape: Shape3) -> MadeUpCase:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((1, 1, *(2 + size // _BLOB_VOXELS for size in shape)), generator=generator)
    blobs = interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]
    large, small = np.quantile(blobs.numpy(), (0.8, 0.97)).tolist()
    codes = (blobs > large).to(torch.uint8) + (blobs > small).to(torch.uint8)
    image = 0.8 * blobs / blobs.std() + 0.6 * torch.randn(shape, generator=generator)
    return MadeUpCase(image=image[None].numpy(), codes=codes.numpy())


def _store(case: MadeUpCase, path: Path) -> StoredCase:
    fill = case.image.min(axis=(1, 2, 3))
    path.write_bytes(serialize_stored_case(case.image, case.codes, fill, path.stem))
    return open_stored_case(open_case_file(path), path.stem, None, in_memory=True)
