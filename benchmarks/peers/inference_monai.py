"""Inference as bundles of MONAI's model zoo do it: transforms, ``SlidingWindowInferer``, ``Invertd``, ``SaveImaged``.

The network and its preprocessing are those of a medunet model folder; intensities are brought to the network's range before
anything is interpolated, as the other tools do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.data import decollate_batch, list_data_collate
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
    ScaleIntensityRanged,
    Spacingd,
)

from medunet.models import read_single_model
from peers.warm_inference import InferenceTool, StageClock, count_patches

_OVERLAP = 0.5


class _Monai:
    def __init__(self, model: Path, device: str) -> None:
        single = read_single_model(model)
        self.network = single.network.network.to(device)
        self.patch_size = single.plan.patch_size
        self.device = device
        self.about: dict[str, str] = {"precision": "16-mixed" if device.startswith("cuda") else "32-true"}
        self._count = count_patches(self.network)
        self._inferer = SlidingWindowInferer(self.patch_size, sw_batch_size=1, overlap=_OVERLAP, mode="gaussian")
        rule = single.plan.normalization[0]
        assert rule.lower is not None
        assert rule.upper is not None
        assert rule.mean is not None
        assert rule.std is not None
        self._read: Any = LoadImaged("image")
        self._prepare: Any = Compose(
            [
                EnsureChannelFirstd("image"),
                Orientationd("image", axcodes="RAS", labels=None),
                ScaleIntensityRanged(
                    "image",
                    a_min=rule.lower,
                    a_max=rule.upper,
                    b_min=(rule.lower - rule.mean) / rule.std,
                    b_max=(rule.upper - rule.mean) / rule.std,
                    clip=True,
                ),
                Spacingd("image", pixdim=single.plan.spacing, mode="bilinear"),
                EnsureTyped("image"),
            ]
        )
        self._restore: Any = Compose(
            [
                Invertd("pred", transform=self._prepare, orig_keys="image", nearest_interp=False, to_tensor=True),
                AsDiscreted("pred", argmax=True),
            ]
        )

    def segment(self, scan: Path, mask: Path) -> tuple[dict[str, float], int]:
        self._count()  # forget what was timed without a scan
        clock = StageClock()
        data = self._read({"image": scan})
        clock.stop("read")
        batch = list_data_collate([self._prepare(data)])
        del data
        clock.stop("prepare")
        is_cuda = self.device.startswith("cuda")
        with torch.inference_mode(), torch.autocast("cuda", dtype=torch.float16, enabled=is_cuda):
            batch["pred"] = self._inferer(batch["image"].to(self.device), self.network)
        clock.stop("network")
        (found,) = decollate_batch(batch)
        del batch
        found = self._restore(found)
        clock.stop("restore")
        save: Any = SaveImaged(
            "pred",
            output_dir=mask.parent,
            output_postfix="",
            output_dtype="uint8",
            output_name_formatter=lambda metadata, transform: {
                "subject": mask.name.removesuffix(".nii.gz"),
                "idx": None,
            },
            separate_folder=False,
            resample=False,
            print_log=False,
        )
        save(found)
        clock.stop("write")
        return clock.seconds, self._count()


def open_monai(model: Path, device: str) -> InferenceTool:
    """Load the network of a medunet model folder into MONAI's inferer."""
    return _Monai(model, device)
