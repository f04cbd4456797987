"""What shows only between cases: duplicates, and cases unlike the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medunet.checking import DatasetReport
from medunet.tasks import Case

from .conftest import LEFT, MR_TASK, make_ct, make_labels

Examine = Callable[..., DatasetReport]
WriteCase = Callable[..., Case]


def shift(labels: Any) -> Any:
    return np.roll(labels, 1, axis=1)


# ---- duplicates ------------------------------------------------------------------------------------------------------


def test_the_same_voxels_under_two_ids_whatever_type_and_axes(
    examine: Examine, write_case: WriteCase, list_texts: Any
) -> None:
    image = make_ct(1).round()
    cases = [
        write_case("a", image.astype(np.int16), make_labels(), orientation="LPS"),
        write_case("b", labels=shift(make_labels())),
        write_case("c", image, make_labels(), orientation="SAR"),
    ]
    (text,) = list_texts(examine(*cases), "duplicate")
    assert text.startswith("warning a,c: The images of a, c are the same, voxel by voxel, and so are the labels;")
    assert "In some fold one trains and another validates" in text


def test_duplicates_of_one_patient_stay_in_one_fold(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    cases = [
        write_case("a", labels=make_labels(), seed=1, group="1"),
        write_case("b", labels=shift(make_labels()), seed=1, group="1"),
        write_case("c", group="2"),
    ]
    (text,) = list_texts(examine(*cases), "duplicate")
    assert "the labels are not; expected each once. Remove" in text


def test_one_voxel_makes_an_image_of_its_own(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    other = make_ct(1)
    other[3, 3, 3] += 1
    report = examine(write_case("a", seed=1), write_case("b", other, labels=shift(make_labels())), write_case("c"))
    assert not [text for text in list_texts(report, "duplicate") if "images of a, b" in text]


@pytest.mark.parametrize(("groups", "num_findings"), [(("1", "1"), 0), (("1", "2"), 1), ((None, None), 1)])
def test_images_of_one_patient_may_share_a_label_map(
    examine: Examine, write_case: WriteCase, list_texts: Any, groups: tuple[str | None, ...], num_findings: int
) -> None:
    """As a table of cases may say; `medunet.tasks` takes it."""
    same = make_labels()
    cases = [write_case(name, labels=same, group=group) for name, group in zip("ab", groups, strict=True)]
    report = examine(*cases, write_case("c", labels=shift(same), group="3"))
    assert len(list_texts(report, "duplicate")) == num_findings


def test_the_same_labels_on_different_images(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    same = make_labels()
    cases = [write_case("a", labels=same), write_case("b", labels=same), write_case("c", labels=shift(same))]
    (text,) = list_texts(examine(*cases), "duplicate")
    assert text.startswith("warning a,b: The label maps of a, b are the same, voxel by voxel, though the images differ")


def test_constant_images_and_tiny_labels_are_alike_by_nature(
    examine: Examine, write_case: WriteCase, list_texts: Any
) -> None:
    tiny = np.zeros_like(make_labels())
    tiny[5:9, 5:9, 5:9] = LEFT  # 64 voxels
    empty_images = [write_case(name, np.zeros_like(make_ct()), tiny) for name in "ab"]
    assert list_texts(examine(*empty_images, write_case("c", labels=tiny)), "duplicate") == []


def test_the_same_file_for_two_channels(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    task = MR_TASK.model_copy(update={"channels": ("t1", "t2")})
    first, second = np.abs(make_ct(1)), np.abs(make_ct(2))
    cases = [write_case("a", np.stack([first, first])), write_case("b", np.stack([second, first + 1]))]
    (text,) = [text for text in list_texts(examine(*cases, task=task), "duplicate") if "hannels" in text]
    assert text.startswith("warning a: Channels 't1' and 't2' hold the same voxels")


# ---- outliers --------------------------------------------------------------------------------------------------------


def make_five(write_case: WriteCase, **odd: Any) -> list[Case]:
    """Four usual cases and one that is not."""
    return [*(write_case(name) for name in "abcd"), write_case("odd", **{"labels": shift(make_labels())} | odd)]


def test_usual_cases_are_no_outliers(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    assert list_texts(examine(*make_five(write_case))) == []


@pytest.mark.parametrize(
    ("spacing", "severity"),
    [((2.0, 1.5, 5.9), ""), ((2.0, 1.5, 6.2), "note"), ((2.0, 0.7, 3.0), "note"), ((20.0, 15.0, 30.0), "warning")],
)
def test_voxel_size(examine: Examine, write_case: WriteCase, list_texts: Any, spacing: Any, severity: str) -> None:
    texts = [t for t in list_texts(examine(*make_five(write_case, spacing=spacing)), "outlier") if "Voxels are" in t]
    assert [text.split(" odd:")[0] for text in texts] == ([severity] if severity else [])


def test_voxel_size_names_the_axis_of_the_body(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    cases = make_five(write_case, spacing=(2.0, 1.5, 9.0), orientation="SAR")
    texts = list_texts(examine(*cases), "outlier")
    assert "Voxels are 9 mm along inferior-superior; expected about 3 mm, the median of the dataset." in texts[0]


def test_extent(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    image = make_ct(9, shape=(24, 22, 80))
    labels = np.zeros(image.shape, np.uint8)
    labels[..., :20] = make_labels()
    (text,) = list_texts(examine(*make_five(write_case, image=image, labels=labels)), "outlier")
    assert text.startswith("note odd: The image has 80 voxels, 240 mm, along inferior-superior; expected about 60 mm")


def test_label_volume(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    small = shift(make_labels())
    small[4:9, :, 9:][small[4:9, :, 9:] == LEFT] = 0  # 30 of 150 voxels are left
    (text,) = list_texts(examine(*make_five(write_case, labels=small)), "outlier")
    assert text.startswith("note odd: 'gland_left' has 0.27 ml; expected about 1.35 ml, the median of the dataset.")


def test_volumes_that_vary_by_nature_have_no_outlier(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    cases = []
    for n, name in enumerate("abcdef"):
        labels = np.zeros_like(make_labels())
        labels[2 : 4 + 2 * n, 2 : 4 + 2 * n, 2 : 4 + 2 * n] = LEFT  # 8 to 1728 voxels
        cases.append(write_case(name, labels=labels))
    assert list_texts(examine(*cases), "outlier") == []


def test_a_shifted_ct_among_others(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    shifted = make_ct(8)
    shifted[shifted > -500] += 500
    (text,) = list_texts(examine(*make_five(write_case, image=shifted)), "outlier")
    assert text.startswith("warning odd: In 'ct', the labelled voxels have a median of 54")


@pytest.mark.parametrize(("intensity", "severity"), [("zscore", "note"), ("none", "warning")])
def test_mr_on_another_scale_matters_where_it_is_not_normalised(
    examine: Examine, write_case: WriteCase, list_texts: Any, intensity: str, severity: str
) -> None:
    rng = np.random.default_rng(0)
    cases = [
        write_case(
            name,
            rng.normal(100, 10, (24, 22, 20)).astype(np.float32) * (1000 if name == "e" else 1),
        )
        for name in "abcde"
    ]
    task = MR_TASK.model_copy(update={"intensity": intensity})
    (text,) = list_texts(examine(*cases, task=task), "outlier")
    assert text.startswith(f"{severity} e: In 'ct', the labelled voxels of 1 of 5")


def test_four_cases_have_no_usual_value(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    cases = make_five(write_case, spacing=(20.0, 15.0, 30.0))[1:]
    assert list_texts(examine(*cases), "outlier") == []
