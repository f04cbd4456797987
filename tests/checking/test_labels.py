"""Labels: measures worked out by hand, sides, islands, borders, absence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medunet.checking import DatasetReport, LabelFacts
from medunet.tasks import Case

from .conftest import CT_TASK, LEFT, RIGHT, make_ct, make_labels

Examine = Callable[..., DatasetReport]
WriteCase = Callable[..., Case]
ORIENTATIONS = ["RAS", "LPS", "SAR", "PIL"]


def measure(examine: Examine, write_case: WriteCase, labels: Any, **options: Any) -> dict[str, LabelFacts]:
    return examine(write_case("a", labels=labels, **options), write_case("b")).cases[0].labels


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_measures_by_hand_whatever_the_axes_of_the_file(
    examine: Examine, write_case: WriteCase, orientation: str
) -> None:
    """A block of 5 x 6 x 5 voxels of 2 x 1.5 x 3 mm, its middle at the indices (6, 10.5, 10)."""
    facts = measure(examine, write_case, make_labels(), orientation=orientation)["gland_left"]
    assert facts.num_voxels == 150
    assert facts.volume_ml == pytest.approx(150 * 9 / 1000)
    assert facts.centroid_mm == pytest.approx((-30 + 6 * 2, -12 + 10.5 * 1.5, 100 + 10 * 3), abs=1e-3)
    assert (facts.num_parts, facts.largest_part_voxels, facts.num_islands, facts.borders) == (1, 150, 0, ())


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_grid_is_told_as_stored_and_along_the_body(examine: Examine, write_case: WriteCase, orientation: str) -> None:
    grid = examine(write_case("a", orientation=orientation), write_case("b")).cases[0].grid
    assert grid is not None
    assert grid.orientation == orientation
    assert grid.ras_shape == (24, 22, 20)
    assert grid.ras_spacing == pytest.approx((2.0, 1.5, 3.0))
    assert sorted(grid.spacing) == pytest.approx([1.5, 2.0, 3.0])
    assert grid.ras_extent_mm == pytest.approx((48.0, 33.0, 60.0))


def test_regions_are_measured_as_unions(examine: Examine, write_case: WriteCase) -> None:
    task = CT_TASK.model_copy(update={"labels": {"both": (LEFT, RIGHT), "right": (RIGHT,)}, "laterality": ()})
    facts = examine(write_case("a"), write_case("b"), task=task).cases[0].labels
    assert (facts["both"].num_voxels, facts["right"].num_voxels) == (300, 150)
    assert facts["both"].num_parts == 2
    assert facts["both"].centroid_mm[0] == pytest.approx(-30 + 11.5 * 2, abs=1e-3)


# ---- sides -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_swapped_sides_of_one_case(examine: Examine, write_case: WriteCase, list_texts: Any, orientation: str) -> None:
    """Centroids lie 11 voxels of 2 mm apart."""
    mirrored = make_labels()[::-1].copy()
    report = examine(write_case("a"), write_case("b", labels=mirrored, orientation=orientation), write_case("c"))
    (text,) = list_texts(report, "laterality")
    assert text.startswith("warning b: 'gland_left' lies 22 mm to the patient's right of 'gland_right'; expected it on")


def test_sides_that_all_cases_swap_speak_of_the_task(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    cases = [write_case(name, labels=make_labels()[::-1].copy()) for name in "abc"]
    (text,) = list_texts(examine(*cases), "laterality")
    assert text.startswith("warning dataset:")
    assert "in all 3 cases" in text


def test_one_side_alone_says_nothing(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    alone = np.where(make_labels()[::-1] == LEFT, LEFT, 0).astype(np.uint8)
    assert list_texts(examine(write_case("a", labels=alone), write_case("b")), "laterality") == []


# ---- islands and borders ---------------------------------------------------------------------------------------------


def add_island(num_voxels: int) -> Any:
    labels = make_labels()
    labels[11, 1 : 1 + num_voxels, 2] = LEFT
    return labels


@pytest.mark.parametrize(("num_voxels", "num_islands"), [(1, 1), (3, 1), (10, 1), (11, 0)])
def test_islands_are_parts_of_a_few_voxels(
    examine: Examine, write_case: WriteCase, list_texts: Any, num_voxels: int, num_islands: int
) -> None:
    report = examine(write_case("a", labels=add_island(num_voxels)), write_case("b"))
    facts = report.cases[0].labels["gland_left"]
    assert (facts.num_parts, facts.num_islands, facts.island_voxels) == (2, num_islands, num_islands * num_voxels)
    assert len(list_texts(report, "islands")) == num_islands


def test_an_island_is_told_with_count_and_volume(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    labels = add_island(3)
    labels[20, 20, 18] = LEFT
    (text,) = list_texts(examine(write_case("a", labels=labels), write_case("b")), "islands")
    assert text.startswith("note a: 'gland_left' has 2 islands of 4 voxels (0.036 ml) beside a part of 150 voxels;")


def test_voxels_that_touch_by_a_corner_are_one_part(examine: Examine, write_case: WriteCase) -> None:
    labels = make_labels()
    labels[9, 14, 13] = LEFT  # diagonal to the last voxel of the block
    assert measure(examine, write_case, labels)["gland_left"].num_parts == 1


@pytest.mark.parametrize("step", [(2, 0, 0), (0, 2, 0), (0, 0, 2), (2, 2, 0)])
def test_specks_in_a_thin_box_are_counted(examine: Examine, write_case: WriteCase, step: tuple[int, int, int]) -> None:
    labels = make_labels()
    labels[labels == LEFT] = 0
    for number in range(3):
        labels[tuple(5 + number * n for n in step)] = LEFT
    facts = measure(examine, write_case, labels)["gland_left"]
    assert (facts.num_voxels, facts.num_parts, facts.largest_part_voxels) == (3, 3, 1)


@pytest.mark.parametrize(("first", "share"), [(2, "100%"), (5, "25%"), (6, None)])
def test_a_label_outside_the_body_is_cropped_away(
    examine: Examine, write_case: WriteCase, list_texts: Any, first: int, share: str | None
) -> None:
    """The body begins at index 10 along R; 8 mm around it, 4 voxels, are kept."""
    image, labels = make_ct(1), make_labels()
    image[:10] = -1000
    labels[labels == LEFT] = 0
    labels[first : first + 4, 8, 8] = LEFT
    report = examine(write_case("a", image, labels), write_case("b"))
    assert report.cases[0].labels["gland_left"].cropped_voxels == {"100%": 4, "25%": 1, None: 0}[share]
    texts = [text for text in list_texts(report, "labels") if "outside the body" in text]
    assert [text.split(" lies")[0] for text in texts] == ([f"warning a: {share} of 'gland_left'"] if share else [])


def test_a_small_label_is_no_archipelago(examine: Examine, write_case: WriteCase) -> None:
    labels = np.where(make_labels() == RIGHT, RIGHT, 0).astype(np.uint8)
    labels[3, 3, 3] = labels[3, 9, 3] = LEFT
    facts = measure(examine, write_case, labels)["gland_left"]
    assert (facts.num_parts, facts.num_islands) == (2, 0)


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR"])
@pytest.mark.parametrize(
    ("voxel", "letter", "word"),
    [
        ((0, 10, 10), "L", "left"),
        ((-1, 10, 10), "R", "right"),
        ((10, 0, 10), "P", "posterior"),
        ((10, -1, 10), "A", "anterior"),
        ((10, 10, 0), "I", "lower"),
        ((10, 10, -1), "S", "upper"),
    ],
)
def test_borders_have_the_names_of_the_body(
    examine: Examine, write_case: WriteCase, list_texts: Any, voxel: Any, letter: str, word: str, orientation: str
) -> None:
    labels = make_labels()
    labels[labels == RIGHT] = 0
    labels[voxel] = RIGHT
    report = examine(write_case("a", labels=labels, orientation=orientation), write_case("b"))
    assert report.cases[0].labels["gland_right"].borders == (letter,)
    (text,) = list_texts(report, "border")
    assert f"'gland_right' touches the {word} border of the image" in text


def test_a_single_slice_has_no_border_across(examine: Examine, write_case: WriteCase) -> None:
    flat = np.zeros((24, 22, 1), np.uint8)
    flat[5:9, 5:9] = LEFT
    image = np.random.default_rng(0).normal(-200, 400, flat.shape).astype(np.float32)
    assert examine(write_case("a", image, flat), write_case("b")).cases[0].labels["gland_left"].borders == ()


# ---- absence ---------------------------------------------------------------------------------------------------------


def without(label: int) -> Any:
    return np.where(make_labels() == label, 0, make_labels()).astype(np.uint8)


def test_a_label_that_no_case_has(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    report = examine(*(write_case(name, labels=without(RIGHT)) for name in "abc"))
    (text,) = list_texts(report, "labels")
    assert text.startswith("warning dataset: No case holds 'gland_right'")
    assert not report.has_errors


@pytest.mark.parametrize(("num_cases", "severity"), [(4, "note"), (10, "warning")])
def test_a_label_that_few_cases_lack_is_probably_forgotten(
    examine: Examine, write_case: WriteCase, list_texts: Any, num_cases: int, severity: str
) -> None:
    names = "abcdefghij"[:num_cases]
    report = examine(write_case(names[0], labels=without(RIGHT)), *(write_case(name) for name in names[1:]))
    (text,) = list_texts(report, "labels")
    assert text.startswith(f"{severity} a: 'gland_right' is absent in 1 of {num_cases} cases (a);")


def test_a_label_that_was_not_looked_for_is_not_missed(
    examine: Examine, write_case: WriteCase, list_texts: Any
) -> None:
    partial = write_case("a", labels=without(RIGHT), annotated=frozenset({"gland_left"}))
    report = examine(partial, write_case("b"), write_case("c"))
    assert list_texts(report) == []
    assert report.cases[0].annotated == ("gland_left",)


def test_an_empty_label_map(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    report = examine(write_case("a", labels=np.zeros_like(make_labels())), write_case("b"), write_case("c"))
    (text,) = list_texts(report)
    assert text.startswith("warning a: The label map is empty")
    assert report.cases[0].labels == {}


def test_what_most_cases_share_is_said_once(examine: Examine, write_case: WriteCase, list_texts: Any) -> None:
    def check(num_affected: int) -> list[str]:
        names = "abcdefgh"
        cases = [write_case(name, labels=add_island(2) if n < num_affected else None) for n, name in enumerate(names)]
        return list_texts(examine(*cases), "islands")

    assert [text.split(":")[0] for text in check(3)] == ["note a", "note b", "note c"]
    (text,) = check(4)
    assert text.startswith("note a,b,c,d: In 4 of 8 cases (a, b, c, d): 'gland_left' has islands")
