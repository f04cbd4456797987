"""Colours that stay with their label."""

import colorsys

import pytest

from medunet.reporting import get_colour, get_label_colours


def test_first_colours_are_okabe_and_ito():
    assert get_colour(0) == pytest.approx((230 / 255, 159 / 255, 0), abs=1e-3)
    assert get_colour(6) == pytest.approx((0, 114 / 255, 178 / 255), abs=1e-3)


def test_colour_depends_on_the_place_alone():
    assert get_label_colours(["liver", "spleen"]) == {"liver": get_colour(0), "spleen": get_colour(1)}


def test_many_labels_have_colours_of_their_own():
    colours = [get_colour(index) for index in range(150)]
    assert len(set(colours)) == 150
    assert all(0 <= part <= 1 for colour in colours for part in colour)


def test_every_colour_shows_on_black():
    assert all(colorsys.rgb_to_hls(*get_colour(index))[1] > 0.15 for index in range(150))


def test_negative_index_is_refused():
    with pytest.raises(ValueError, match="counts from 0"):
        get_colour(-1)
