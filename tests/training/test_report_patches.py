"""The report shows patches as the network saw them: the same voxels, the colours of their labels."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_training import build_tiny_cases, build_tiny_task

from medunet.errors import TrainingError
from medunet.reporting.patch_pictures import draw_patch
from medunet.tasks import load_task
from medunet.training import report
from medunet.training.report import NUM_PATCHES, _list_label_codes, draw_patches
from medunet.training.sampling import PatchSampler


def build_sampler(mode: Any = "fast") -> PatchSampler:
    return PatchSampler(build_tiny_cases(), build_tiny_task(), (16, 16, 8), 3, (1.0, 1.0, 1.5), seed=3, mode=mode)


@pytest.mark.parametrize("mode", ["fast", "none"])
def test_patches_are_those_of_the_last_iterations(monkeypatch: pytest.MonkeyPatch, mode: Any) -> None:
    seen: list[tuple[Any, Any]] = []

    def look(patch: Any, codes: Any, *rest: Any) -> bytes:
        seen.append((patch.copy(), codes.copy()))
        return b""

    monkeypatch.setattr(report, "draw_patch", look)
    pictures = draw_patches(build_sampler(mode), build_tiny_task(), 7)
    assert len(pictures) == NUM_PATCHES == 8
    batches = [build_sampler(mode).draw(iteration) for iteration in (7, 6, 5)]
    expected = np.concatenate([batch.codes.numpy() for batch in batches])
    np.testing.assert_array_equal([codes for _, codes in seen][:8], expected[:8])
    assert [picture.case_id for picture in pictures] == [name for batch in batches for name in batch.case_ids][:8]
    plain = np.concatenate([batch.image.numpy()[:, 0] for batch in batches])[:8]
    changed = np.abs(np.stack([patch for patch, _ in seen][:8]) - plain).max() > 1e-3
    assert changed == (mode == "fast")  # intensities are changed too


def test_a_patch_that_can_no_longer_be_made_costs_only_the_pictures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: PatchSampler, iteration: int) -> None:
        msg = "case p1 cannot be read"
        raise TrainingError(msg)

    monkeypatch.setattr(PatchSampler, "draw", fail)
    with caplog.at_level(logging.WARNING):
        assert draw_patches(build_sampler(), build_tiny_task(), 7) == []
    assert "case p1 cannot be read" in caplog.text


def test_codes_belong_to_labels_and_regions() -> None:
    assert _list_label_codes(build_tiny_task()) == {"left": [1], "right": [2]}
    tumour = load_task("brain-tumour-mr")
    assert list(_list_label_codes(tumour).values()) == [[1, 2, 3], [2, 3], [3]]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flat_patch_shows_its_plane(axis: int) -> None:
    shape = [12, 14, 16]
    shape[axis] = 1
    patch = np.zeros(shape, np.float32)
    codes = np.zeros(shape, np.uint8)
    middle = tuple(slice(4, 9) if size > 1 else slice(None) for size in shape)
    codes[middle] = 1
    picture = Image.open(io.BytesIO(draw_patch(patch, codes, {"a": [1]}, (1.0, 1.0, 2.0))))
    lengths = [size * mm for size, mm in zip(shape, (1, 1, 2), strict=True) if size > 1]
    assert picture.width / picture.height == pytest.approx(lengths[0] / lengths[1], rel=0.03)
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert ((pixels[..., 0] > 150) & (pixels[..., 2] < 100)).any()  # the orange outline
