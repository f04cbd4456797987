"""Every wrong voxel is painted, in the colour of its kind, where it lies."""

import numpy as np
import pytest

from medunet.errors import GeometryError
from medunet.reporting.error_map import ERROR_KINDS, build_error_map, find_errors

LABELS = {"liver": [3], "spleen": [5]}
COLOURS = {kind.title: kind.colour for kind in ERROR_KINDS}


def make_sides(make_volume, orientation="LPI"):
    """A block of liver that the mask misses in part and another that it invents; 1 x 1 x 2 mm voxels."""
    image = make_volume((20, 22, 24), (1.0, 1.0, 2.0), orientation)
    reference = np.zeros(image.array.shape, np.uint8)
    prediction = reference.copy()
    reference[0, 4:10, 6:12, 8:14] = 3
    prediction[0, 6:10, 6:12, 8:14] = 3  # 72 voxels are missed
    prediction[0, 6:7, 6:12, 8:14] = 5  # 36 of another label
    prediction[0, 14:16, 6:12, 8:14] = 3  # 72 invented
    return image, image.with_array(prediction), image.with_array(reference)


def list_texts(axes):
    return [text.get_text() for text in axes.texts]


def test_kinds_of_errors_are_counted(make_volume):
    _, prediction, reference = make_sides(make_volume)
    errors = find_errors(reference.array[0], prediction.array[0], LABELS)
    assert np.bincount(errors.ravel()).tolist() == [20 * 22 * 24 - 72 - 72 - 36, 72, 72, 36]


def test_ignored_and_foreign_values_are_no_errors():
    reference, prediction = np.array([7, 3, 0, 9]), np.array([3, 7, 7, 5])
    # 7 is no label of the task: background; 9 is ignored.
    assert find_errors(reference, prediction, LABELS, ignore_value=9).tolist() == [2, 1, 0, 0]


def test_regions_that_overlap_are_judged_by_value():
    regions = {"whole": [1, 2], "core": [2]}
    assert find_errors(np.array([1, 2, 2, 0]), np.array([2, 2, 0, 1]), regions).tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR", "PIL"])
def test_painted_voxels_lie_where_the_error_is(make_volume, orientation):
    image, prediction, reference = make_sides(make_volume, orientation)
    figure = build_error_map(image, prediction, reference, LABELS, modality="MR")
    painted = [panel.images[1] for panel in figure.axes[:3]]
    seen = set()
    for axes, picture in zip(figure.axes[:3], painted, strict=True):
        assert picture.get_extent() == axes.images[0].get_extent()
        pixels = np.asarray(picture.get_array())
        for title, colour in COLOURS.items():
            if (np.abs(pixels[..., :3] - colour).max(axis=-1) < 1e-6)[pixels[..., 3] > 0].any():
                seen.add(title)
        assert (pixels[..., 3] > 0).any()
        assert pixels[0, 0, 3] == 0  # right voxels keep their grey
    assert seen == set(COLOURS)


def test_volumes_are_those_of_the_whole_scan(make_volume):
    image, prediction, reference = make_sides(make_volume)
    texts = list_texts(build_error_map(image, prediction, reference, LABELS, modality="MR").axes[3])
    amounts = dict(zip(texts[1:10:3], texts[2:10:3], strict=True))
    assert amounts == {"missed": "0.144 ml", "invented": "0.144 ml", "another label": "0.072 ml"}


def test_slices_show_the_error_and_not_the_largest_label(make_volume):
    image = make_volume((30, 30, 30), (1.0, 1.0, 1.0), "RAS")
    reference = np.zeros(image.array.shape, np.uint8)
    reference[0, 5:25, 5:25, 5:20] = 3
    prediction = reference.copy()
    prediction[0, 10:14, 10:14, 24] = 3
    figure = build_error_map(image, image.with_array(prediction), image.with_array(reference), LABELS)
    assert any(text.get_text() == "axial, slice 25 of 30 from below" for text in figure.texts)


def test_a_perfect_mask_has_no_painted_voxel(make_volume):
    image, _, reference = make_sides(make_volume)
    figure = build_error_map(image, reference, reference, LABELS, modality="MR")
    assert not any(np.asarray(panel.images[1].get_array())[..., 3].any() for panel in figure.axes[:3])


def test_without_a_scan_the_ground_is_plain(make_volume):
    _, prediction, reference = make_sides(make_volume)
    figure = build_error_map(None, prediction, reference, LABELS)
    grey = figure.axes[0].images[0]
    shade = grey.norm(np.asarray(grey.get_array()))
    assert np.ptp(shade) == 0
    assert 0.05 < float(shade.flat[0]) < 0.3  # neither the black around it nor a colour of a label


def test_other_grids_are_refused(make_volume):
    image, prediction, _ = make_sides(make_volume)
    other = make_volume((20, 22, 24), (1.0, 1.0, 3.0), dtype=np.uint8)
    with pytest.raises(GeometryError, match="different grids"):
        build_error_map(image, prediction, other, LABELS)


def test_colours_of_errors_can_be_told_apart_without_red_and_green():
    """Brightness alone tells them: CIE luminance differs by a tenth and more."""
    luminance = sorted(0.2126 * r**2.2 + 0.7152 * g**2.2 + 0.0722 * b**2.2 for r, g, b in COLOURS.values())
    assert min(np.diff(luminance)) > 0.1
