"""From the file to the mask no volume has eight bytes per voxel: they would double the memory of a scan."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from oracles import ORACLE_HU, ORACLE_TASK, build_plan_for
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medunet.inference import InferenceSettings, Segmenter
from medunet.inference import predictor as predictor_module
from medunet.models import Model, Postprocessing
from medunet.planning import Normalization
from medunet.postprocessing import measure_case
from medunet.postprocessing.quality import build_quality_ranges

SHAPE = (40, 44, 48)
MOST = int(np.prod(SHAPE)) // 4
"""Values of a large array; positions along an axis and moments of a channel are smaller, and may be float64."""


class Watch(TorchDispatchMode):
    """Notes every large float64 tensor that torch makes, temporary ones too."""

    def __init__(self, found: set[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(made, Tensor) and made.dtype == torch.float64 and made.numel() >= MOST:
                self.found.add(f"torch: {func} of {tuple(made.shape)}")
        return out


@contextmanager
def watch_float64() -> Iterator[set[str]]:
    """What large float64 arrays any Python function of this thread holds when it ends, numpy's and nibabel's included."""
    found: set[str] = set()

    def look(frame: FrameType, event: str, argument: Any) -> None:
        if event == "return":
            for name, value in (*frame.f_locals.items(), ("what it returns", argument)):
                if isinstance(value, np.ndarray) and value.dtype == np.float64 and value.size >= MOST:
                    found.add(f"{frame.f_code.co_filename}: {name} in {frame.f_code.co_name}")

    before = sys.getprofile()
    with Watch(found):
        sys.setprofile(look)
        try:
            yield found
        finally:
            sys.setprofile(before)


def write_scan(path: Path, dtype: Any) -> None:
    values = np.array(ORACLE_HU)[np.random.default_rng(0).integers(0, len(ORACLE_HU), SHAPE)]
    values[:4] = -1000
    image = nib.Nifti1Image(values.astype(dtype), np.diag([1.0, 1.0, 1.0, 1.0]))
    if dtype is np.int16:
        image.header.set_slope_inter(0.5, 3.0)  # nibabel would scale in float64
    nib.save(image, path)


@pytest.mark.parametrize(
    ("dtype", "spacing", "rule", "maps"),
    [
        (np.int16, 1.0, Normalization(rule="none"), "none"),
        (np.int16, 1.3, Normalization(rule="ct-percentile", lower=-900.0, upper=900.0, mean=10.0, std=200.0), "files"),
        (np.float64, 1.3, Normalization(rule="zscore"), "memory"),
    ],
    ids=["int16", "int16, resampled", "float64, resampled"],
)
def test_no_volume_has_eight_bytes_per_voxel(
    build_oracle: Callable[..., Model],
    make_densities: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: Any,
    spacing: float,
    rule: Normalization,
    maps: str,
) -> None:
    prepare, prepared = predictor_module.preprocess_image, []

    def note(*arguments: Any, **options: Any) -> Any:
        prepared.append(prepare(*arguments, **options))
        return prepared[-1]

    monkeypatch.setattr(predictor_module, "preprocess_image", note)
    write_scan(tmp_path / "scan.nii.gz", dtype)
    plan = build_plan_for(ORACLE_TASK, (spacing,) * 3, (16, 16, 16)).model_copy(update={"normalization": (rule,)})
    facts = [measure_case(*make_densities(seed=seed), ORACLE_TASK) for seed in range(2)]
    model = dataclasses.replace(
        build_oracle(),
        plan=plan,
        postprocessing=Postprocessing(keep_largest=("bone",)),
        quality=build_quality_ranges(facts, ORACLE_TASK),
    )
    segmenter = Segmenter(model, "cpu", InferenceSettings(flips="all", precision="fp32"))
    wanted: dict[str, Any] = {
        "none": {},
        "memory": {"probabilities": True, "uncertainty": True},
        "files": {"probabilities": tmp_path / "p.nii.gz", "uncertainty": tmp_path / "u.nii.gz"},
    }[maps]
    with watch_float64() as found:
        segmentation = segmenter.segment(tmp_path / "scan.nii.gz", agreement=True, **wanted)
        segmentation.save(tmp_path / "mask.nii.gz")
    assert found == set()
    assert [volume.array.dtype for volume in prepared] == [np.float32]
    assert segmentation.labels.array.dtype == np.uint8
    assert nib.load(tmp_path / "mask.nii.gz").get_data_dtype() == np.uint8
    if maps == "memory":
        assert segmentation.probabilities is not None
        assert segmentation.uncertainty is not None
        assert {segmentation.probabilities.array.dtype, segmentation.uncertainty.array.dtype} == {np.dtype(np.float16)}


def test_a_volume_of_float64_would_be_seen() -> None:
    def convert(array: Any) -> int:
        copy = array.astype(np.float64)
        return int(copy.size)

    with watch_float64() as found:
        convert(np.zeros(SHAPE, np.float32))
        torch.zeros(SHAPE).double().float()
    assert len(found) == 2
    assert any("copy in convert" in one for one in found)
    assert any("torch: aten._to_copy" in one for one in found)
