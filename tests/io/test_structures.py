"""`StructureSet`: what may be in one, and masks that go into layers and come out as they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medunet.errors import LabelError
from medunet.io.structures import Code, Structure, StructureSet, from_label_map, from_masks
from medunet.palette import get_color
from medunet.volume import Volume

SHAPE = (4, 3, 5)
AFFINE = np.array([[0.0, -1.2, 0.1, 5.0], [0.7, 0.0, 0.0, -3.0], [0.0, 0.2, 3.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
GRID = Volume(np.zeros((1, *SHAPE), dtype=np.uint8), AFFINE)
LIVER = Code(value="10200004", meaning="Liver")


def make_layers(num_layers: int = 1) -> Volume:
    return Volume(np.zeros((num_layers, *SHAPE), dtype=np.uint8), AFFINE)


# ---- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        (Structure(name="b", values=()), r"'b' has layer 0 and values \[\]"),
        (Structure(name="b", values=(1, 0)), r"values \[1, 0\]; expected .*positive"),
        (Structure(name="b", values=(1,), layer=2), "layer 2 .*expected a layer below 2"),
        (Structure(name="b", values=(1,), layer=-1), "layer -1 .*expected a layer below 2"),
        (Structure(name="a", values=(1,)), "two structures named 'a'"),
    ],
)
def test_a_set_that_means_nothing_is_refused(structure: Structure, words: str) -> None:
    first = Structure(name="a", values=(1,))
    assert StructureSet(layers=make_layers(2), structures=(first,)).structures == (first,)
    with pytest.raises(LabelError, match=words):
        StructureSet(layers=make_layers(2), structures=(first, structure))


def test_several_layers_are_no_label_map() -> None:
    structures = tuple(Structure(name=f"s{n}", values=(1,), layer=n % 2) for n in range(8))
    with pytest.raises(LabelError, match=r"2 layers.*--split") as caught:
        StructureSet(layers=make_layers(2), structures=structures).to_label_map()
    assert "'s5'" in str(caught.value)
    assert "'s6'" not in str(caught.value)  # a list of a hundred names helps nobody


def test_a_code_is_a_code() -> None:
    assert Code(value="1", meaning="x").scheme == "SCT"
    with pytest.raises(ValidationError):
        Code(value="1", meaning="x", colour="red")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        LIVER.value = "2"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Structure(name="a", values=(1,)).name = "b"  # type: ignore[misc]


# ---- label maps --------------------------------------------------------------------------------------------------------


def test_regions_of_a_label_map_share_voxels() -> None:
    labels = np.zeros((1, *SHAPE), dtype=np.int16)
    labels[0, 0], labels[0, 1], labels[0, 2, 1, 3], labels[0, 3] = 1, 2, 3, 500
    found = from_label_map(
        Volume(labels, AFFINE), {"whole": (1, 2, 3), "core": [2, 3], "tip": iter((3,)), "rest": (7,)}
    )
    counts = {part.name: int(found.get_mask(part).sum()) for part in found.structures}
    assert counts == {"whole": 31, "core": 16, "tip": 1, "rest": 0}
    assert found.to_label_map() is found.layers
    np.testing.assert_array_equal(found.layers.array, labels)


def test_colours_and_codes_are_those_given_or_of_the_palette() -> None:
    names = [f"s{n}" for n in range(12)]
    found = from_label_map(
        GRID, {name: (n + 1,) for n, name in enumerate(names)}, codes={"s3": LIVER}, colors={"s1": (1, 2, 3)}
    )
    assert found.structures[1].color == (1, 2, 3)
    assert found.structures[0].color == get_color(0)
    assert found.structures[11].color == get_color(11)
    assert [part.name for part in found.structures if part.code is not None] == ["s3"]


# ---- masks -------------------------------------------------------------------------------------------------------------


@st.composite
def draw_masks(draw: Callable[..., Any]) -> list[np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    densities = draw(st.lists(st.sampled_from([0.0, 0.02, 0.3, 1.0]), max_size=6))
    return [rng.random(SHAPE) < density for density in densities]


@settings(max_examples=60, deadline=None)
@given(masks=draw_masks())
def test_masks_come_out_as_they_went_in(masks: list[np.ndarray]) -> None:
    found = from_masks(((f"m{n}", mask) for n, mask in enumerate(masks)), GRID)
    assert [part.name for part in found.structures] == [f"m{n}" for n in range(len(masks))]
    assert [part.values for part in found.structures] == [(n + 1,) for n in range(len(masks))]
    for part, mask in zip(found.structures, masks, strict=True):
        np.testing.assert_array_equal(found.get_mask(part), mask)
    np.testing.assert_array_equal(found.layers.affine, AFFINE)
    depth = int(np.sum(masks, axis=0).max()) if masks else 0
    assert found.layers.num_channels >= max(depth, 1)
    assert (found.layers.num_channels == 1) == (depth <= 1)


def test_touching_masks_share_a_layer_and_overlapping_ones_do_not() -> None:
    left, right, both, none = (np.zeros(SHAPE, dtype=bool) for _ in range(4))
    left[:2], right[2:], both[1:3] = True, True, True
    found = from_masks([("left", left), ("both", both), ("none", none), ("right", right)], GRID)
    assert {part.name: part.layer for part in found.structures} == {"left": 0, "both": 1, "none": 0, "right": 0}
    np.testing.assert_array_equal(found.layers.array[0], left + 4 * right)


@pytest.mark.parametrize(("num_masks", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_layers_are_wide_enough_for_every_structure(num_masks: int, dtype: Any) -> None:
    grid = Volume(np.zeros((1, num_masks, 1, 1), dtype=np.uint8), AFFINE)
    masks = ((f"m{n}", (np.arange(num_masks) == n).reshape(num_masks, 1, 1)) for n in range(num_masks))
    found = from_masks(masks, grid)
    assert found.layers.array.dtype == dtype
    assert found.layers.array.ravel().tolist() == list(range(1, num_masks + 1))


def test_no_masks_are_an_empty_layer() -> None:
    found = from_masks([], GRID)
    assert found.structures == ()
    assert not found.to_label_map().array.any()
    assert found.layers.spatial_shape == SHAPE
