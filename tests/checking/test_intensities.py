"""Intensities that cannot be what the task says, and those that can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medunet.checking import DatasetReport
from medunet.tasks import Case

from .conftest import MR_TASK, make_ct

Examine = Callable[..., DatasetReport]
WriteCase = Callable[..., Case]
CT = make_ct(5)
FAR = np.arange(CT.shape[0])[:, None, None] > 4  # all but a small part of the image
MR = np.abs(np.random.default_rng(3).normal(300, 100, CT.shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("image", "start"),
    [
        pytest.param(CT, "", id="HU"),
        pytest.param(np.where(CT < -900, -2000, CT), "", id="HU with padding"),
        pytest.param(np.where(CT > 40, 1100, CT), "", id="HU with much dense bone"),
        pytest.param((CT + 1000) / 1100, "warning", id="in 0 to 1"),
        pytest.param((CT - CT.mean()) / CT.std(), "warning", id="z-scored"),
        pytest.param(np.clip((CT + 160) / 400 * 255, 0, 255).round(), "warning", id="8 bit"),
        pytest.param(CT + 1024, "warning", id="1024 added"),
        pytest.param(np.where(CT < -900, -2000, CT + 1024), "warning", id="1024 added, with padding"),
        pytest.param(np.clip(CT, 0, None) * 10, "warning", id="clipped at 0"),
        pytest.param(np.where(FAR, 0, CT + 1024), "warning", id="1024 added, small patient"),
        pytest.param(np.clip(CT, -200, None) * 2, "note", id="no air"),
        pytest.param(np.full_like(CT, 40), "warning", id="constant"),
    ],
)
def test_ct(examine: Examine, write_case: WriteCase, list_texts: Any, image: Any, start: str) -> None:
    texts = list_texts(examine(write_case("a", image.astype(np.float32)), write_case("b")), "intensity")
    assert [text.split(" a:")[0] for text in texts] == ([start] if start else [])


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ((CT + 1000) / 1100, "It was normalised"),
        (np.clip((CT + 160) / 400 * 255, 0, 255).round(), "a picture of 8 bits"),
        (CT + 1024, "subtract 1024"),
        (np.where(FAR, 0, CT + 1024), "subtract 1024"),
        (np.clip(CT, 0, None) * 10, "clipped or shifted"),
        (np.clip(CT, -200, None) * 2, "cropped inside the body"),
        (np.full_like(CT, 40), "has the value 40 in every voxel"),
    ],
)
def test_ct_is_told_what_to_do(
    examine: Examine, write_case: WriteCase, list_texts: Any, image: Any, words: str
) -> None:
    (text,) = list_texts(examine(write_case("a", image.astype(np.float32)), write_case("b")), "intensity")
    assert words in text


@pytest.mark.parametrize(
    ("image", "start", "words"),
    [
        pytest.param(MR, "", "", id="MR"),
        pytest.param(MR - 300, "note", "normalised", id="negative"),
        pytest.param(np.where(MR > 550, -3, MR), "", "", id="overshoot of interpolation"),
        pytest.param(CT, "warning", "looks like a CT in HU", id="CT"),
        pytest.param(np.zeros_like(MR), "warning", "in every voxel", id="constant"),
    ],
)
def test_mr(examine: Examine, write_case: WriteCase, list_texts: Any, image: Any, start: str, words: str) -> None:
    report = examine(write_case("a", image), write_case("b", MR), task=MR_TASK)
    texts = list_texts(report, "intensity")
    assert [text.split(" a:")[0] for text in texts] == ([start] if start else [])
    assert all(words in text for text in texts)


def test_numbers_of_a_channel_by_hand(examine: Examine, write_case: WriteCase) -> None:
    """Voxels -1000, ..., 9559 in order; the labels lie where the values are known."""
    image = np.arange(24 * 22 * 20, dtype=np.float32).reshape(24, 22, 20) - 1000
    labels = np.zeros(image.shape, np.uint8)
    labels[0, 0, :5] = 3  # -1000 to -996
    (channel,) = examine(write_case("a", image, labels), write_case("b")).cases[0].channels
    assert (channel.minimum, channel.maximum, channel.labelled_median) == (-1000, 9559, -998)
    assert channel.median == pytest.approx(-1000 + 10559 / 2)
    assert channel.percentile_00_5 == pytest.approx(-1000 + 0.005 * 10559)
    assert channel.percentile_99_5 == pytest.approx(-1000 + 0.995 * 10559)
    assert channel.share_negative == pytest.approx(1000 / 10560)
    assert channel.share_air == pytest.approx(301 / 10560)
    assert channel.share_offset_tissue == pytest.approx(401 / 9359)


def test_what_all_cases_share_is_said_once(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    cases = [write_case(name, make_ct(n) + 1024) for n, name in enumerate("abcd")]
    (text,) = list_texts(examine(*cases), "intensity")
    assert text.startswith("warning a,b,c,d: In 4 of 4 cases (a, b, c, d): The image has values from")


def test_the_channel_is_named_where_there_are_several(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    task = MR_TASK.model_copy(update={"channels": ("t1", "t2")})
    report = examine(write_case("a", np.stack([MR, MR - 400])), write_case("b", np.stack([MR + 1, MR * 2])), task=task)
    (text,) = list_texts(report, "intensity")
    assert text.startswith("note a: Channel 't2' has")
