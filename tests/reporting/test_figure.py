"""Pictures: contours lie on the organ, sides are told apart, the file is a PNG."""

import subprocess
import sys
from itertools import permutations, product

import matplotlib.image
import numpy as np
import pytest
import tifffile

from medunet.errors import GeometryError
from medunet.io import read_volume
from medunet.reporting import draw_overlay
from medunet.reporting.figure import build_overlay, choose_scale_mm

LABELS = {"liver": [3], "spleen": [5]}
ORIENTATIONS = ["".join(axes) for order in permutations(["RL", "AP", "SI"]) for axes in product(*order)]


def make_scene(make_volume, orientation="LPI"):
    """A scan, and a block of 8 x 10 x 18 mm with its centre 6 mm to the left, front and top of the scan's middle."""
    image = make_volume((40, 44, 36), (1.0, 1.0, 1.0), orientation)
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in image.spatial_shape], indexing="ij"), axis=-1)
    world = indices @ image.affine[:3, :3].T + image.affine[:3, 3]
    offset = world - world.reshape(-1, 3).mean(axis=0) - (-6, 6, 6)
    block = (np.abs(offset) < (4, 5, 9)).all(axis=-1)
    return image, image.with_array(np.where(block, 3, 0)[None].astype(np.uint8))


def find_contours(figure, panel):
    """``(x, y)`` in mm of every contour of a panel."""
    return [collection.get_paths()[0].vertices for collection in figure.axes[panel].collections]


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "LPS", "ASL", "PIR", "SRA"])
def test_contour_lies_on_the_organ(make_volume, orientation):
    image, reference = make_scene(make_volume, orientation)
    figure = build_overlay(image, None, reference, LABELS)
    for panel, size in enumerate([(8, 10), (8, 18), (10, 18)]):
        (contour,) = find_contours(figure, panel)
        np.testing.assert_allclose(np.ptp(contour, axis=0), size, atol=1e-6)
    extents = [panel.images[0].get_extent() for panel in figure.axes[:3]]
    centres = [
        (find_contours(figure, panel)[0].min(0) + find_contours(figure, panel)[0].max(0)) / 2 for panel in (0, 1, 2)
    ]
    middles = [(extent[1] / 2, extent[2] / 2) for extent in extents]
    # Patient's left is on the right of the picture, front is on top or on the left, top is on top.
    np.testing.assert_allclose(np.subtract(centres, middles), [(6, -6), (6, -6), (-6, -6)], atol=1e-6)


def test_pixels_of_the_png_have_the_colour_of_the_label(make_volume, tmp_path):
    image, reference = make_scene(make_volume)
    dark = image.with_array(np.full_like(image.array, -1000))
    draw_overlay(dark, None, reference, LABELS, tmp_path / "new" / "figure.png")
    pixels = matplotlib.image.imread(tmp_path / "new" / "figure.png")[..., :3]
    is_orange = (np.abs(pixels - (0.902, 0.624, 0.0)) < 0.05).all(axis=-1)
    height, width = is_orange.shape
    panel = int(width * 4.2 / 15.52)
    axial = is_orange[:, 20:panel]
    assert axial.any()
    columns, rows = np.flatnonzero(axial.any(axis=0)), np.flatnonzero(axial.any(axis=1))
    assert columns.mean() + 20 > panel / 2  # the block is on the patient's left
    assert rows.mean() < height / 2  # and in front


def test_bright_spot_at_the_patients_left_is_on_the_right(make_volume, tmp_path):
    for orientation in ("RAS", "LPI", "PSL"):
        image, block = make_scene(make_volume, orientation)
        spot = image.with_array(np.where(block.array > 0, 1000.0, -1000.0).astype(np.float32))
        draw_overlay(spot, None, None, {}, tmp_path / "figure.png")
        pixels = matplotlib.image.imread(tmp_path / "figure.png")[..., :3].min(axis=-1)
        panel = pixels[80:-120, 60 : int(0.26 * pixels.shape[1])] > 0.95  # the axial one without its letters
        columns = np.flatnonzero(panel.sum(axis=0) > 20)
        assert columns.mean() > panel.shape[1] / 2


def test_prediction_and_reference_look_different(make_volume):
    image, reference = make_scene(make_volume)
    prediction = reference.with_array(np.roll(reference.array, 2, axis=1))
    panel = build_overlay(image, prediction, reference, LABELS).axes[0]
    broad, thin = panel.collections
    assert broad.get_linewidth()[0] > 2 * thin.get_linewidth()[0]
    assert (broad.get_alpha(), thin.get_alpha()) == (0.6, None)


def list_texts(axes):
    return [text.get_text() for text in axes.texts]


def test_legend_says_what_is_what(make_volume):
    image, reference = make_scene(make_volume)
    prediction = reference.with_array(np.where(reference.array == 3, 5, 0).astype(np.uint8))
    legend = build_overlay(image, prediction, reference, LABELS).axes[3]
    assert list_texts(legend) == ["reference", "prediction", "liver", "missed", "spleen", "invented"]


def test_letters_and_scale_bar(make_volume):
    image, reference = make_scene(make_volume)
    figure = build_overlay(image, None, reference, LABELS)
    assert [list_texts(panel) for panel in figure.axes[:3]] == [
        ["R", "L", "A", "P", "1 cm"],
        ["R", "L", "S", "I", "1 cm"],
        ["A", "P", "S", "I", "1 cm"],
    ]
    bar = figure.axes[0].lines[0].get_xdata()
    side_mm = np.diff(figure.axes[0].get_xlim())[0]
    assert (bar[1] - bar[0]) * side_mm == pytest.approx(10.0)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_letters_stand_on_the_side_of_a_marked_voxel(make_volume, orientation):
    """For every order of axes: a voxel far to the left, in front and on top lies near the letters L, A and S."""
    image = make_volume((14, 15, 16), (1.0, 1.5, 2.0), orientation)
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in image.spatial_shape], indexing="ij"), axis=-1)
    world = indices @ image.affine[:3, :3].T + image.affine[:3, 3]
    middle = world.reshape(-1, 3).mean(axis=0)
    corner = (np.sign(world - middle) == (-1, 1, 1)).all(axis=-1)  # left, anterior, superior: an eighth of the scan
    figure = build_overlay(image.with_array(np.where(corner, 200.0, -100.0)[None].astype(np.float32)), None, None, {})
    seen = set()
    for axes in figure.axes[:3]:
        pixels = np.asarray(axes.images[0].get_array())
        rows, columns = np.nonzero(pixels > 100)
        if not len(rows):  # this plane cuts the other half
            continue
        height, width = pixels.shape
        side = {"x": columns.mean() / width > 0.5, "y": rows.mean() / height < 0.5}  # right of the middle; above it
        for text in axes.texts[:4]:
            x, y = text.get_position()
            axis, is_there = ("y", (y > 0.5) == side["y"]) if x == 0.5 else ("x", (x > 0.5) == side["x"])
            assert is_there == (text.get_text() in "LAS"), (orientation, text.get_text(), axis)
            seen.add(text.get_text())
    assert len(seen) >= 4


def test_scale_bar_is_as_long_as_it_says_in_pixels(make_volume):
    for shape, spacing in [
        ((40, 44, 36), (1.0, 1.0, 1.0)),
        ((30, 40, 20), (0.3, 0.3, 0.5)),
        ((90, 60, 50), (4.0, 4.0, 5.0)),
    ]:
        figure = build_overlay(make_volume(shape, spacing), None, None, {})
        for axes in figure.axes[:3]:
            (text,) = [text.get_text() for text in axes.texts if text.get_text().endswith("m")]
            number, unit = text.split()
            (start, end), height = axes.lines[0].get_xdata(), axes.lines[0].get_ydata()[0]
            bar_pixels = np.ptp(axes.transAxes.transform([(start, height), (end, height)])[:, 0])
            pixels_per_mm = np.ptp(axes.transData.transform([(0.0, 0.0), (1.0, 0.0)])[:, 0])
            assert bar_pixels / pixels_per_mm == pytest.approx(float(number) * {"mm": 1, "cm": 10}[unit])


def test_without_a_scan_contours_lie_on_a_plain_ground(make_volume, tmp_path):
    _, reference = make_scene(make_volume)
    figure = build_overlay(None, None, reference, LABELS)
    assert np.ptp(np.asarray(figure.axes[0].images[0].get_array())) == 0
    assert len(find_contours(figure, 0)) == 1
    with pytest.raises(ValueError, match="neither a scan nor a label map"):
        draw_overlay(None, None, None, LABELS, tmp_path / "figure.png")


@pytest.mark.parametrize(("side_mm", "scale_mm"), [(44, 10), (40, 10), (39, 5), (330, 50), (800, 200), (3, 0.5)])
def test_scale_is_a_round_number(side_mm, scale_mm):
    assert choose_scale_mm(side_mm) == pytest.approx(scale_mm)


def test_voxels_keep_their_proportions(make_volume):
    image = make_volume((17, 22, 31), (0.7, 1.2, 3.0), "RAS")
    panels = build_overlay(image, None, None, {}).axes[:3]
    sizes = [(panel.images[0].get_extent()[1], panel.images[0].get_extent()[2]) for panel in panels]
    x, y, z = 17 * 0.7, 22 * 1.2, 31 * 3.0
    np.testing.assert_allclose(sizes, [(x, y), (x, z), (y, z)])
    for panel in panels:  # square axes in mm: one scale for all
        assert np.ptp(panel.get_xlim()) == pytest.approx(np.ptp(panel.get_ylim()))
        assert np.ptp(panel.get_xlim()) == pytest.approx(z)


def test_large_body_is_cropped_to_the_labels_with_context(make_volume):
    image = make_volume((200, 180, 60), (2.0, 2.0, 3.0), "LPS")
    array = np.zeros((1, 200, 180, 60), np.uint8)
    array[0, 150:160, 20:30, 30:35] = 3  # 20 x 20 x 15 mm
    figure = build_overlay(image, image.with_array(array), None, LABELS)
    for panel in figure.axes[:3]:
        low, high = sorted(panel.get_xlim())
        assert high - low == pytest.approx(20 + 2 * 15)
        (contour,) = [collection.get_paths()[0].vertices for collection in panel.collections]
        assert low < contour[:, 0].min() < contour[:, 0].max() < high


@pytest.mark.parametrize("orientation", ["RAS", "PIL"])
def test_organ_at_the_edge_has_a_closed_contour(make_volume, orientation):
    image = make_volume((20, 22, 24), (1.0, 1.0, 1.0), orientation)
    everything = image.with_array(np.full((1, 20, 22, 24), 3, np.uint8))
    for panel in range(3):
        (contour,) = find_contours(build_overlay(image, everything, None, LABELS), panel)
        np.testing.assert_allclose(contour[0], contour[-1])


def test_empty_label_maps(make_volume, tmp_path):
    image = make_volume()
    empty = image.with_array(np.zeros((1, *image.spatial_shape), np.uint8))
    draw_overlay(image, empty, empty, LABELS, tmp_path / "figure.png", title="nothing", modality="MR")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "no label in this scan" in list_texts(build_overlay(image, empty, empty, LABELS).axes[3])


def test_regions_overlap(make_volume):
    image, reference = make_scene(make_volume)
    figure = build_overlay(image, None, reference, {"core": [3], "whole": [3, 5]})
    assert len(find_contours(figure, 0)) == 2


def test_many_labels_long_names_and_odd_characters(make_volume, tmp_path):
    image = make_volume((40, 41, 42), (1.0, 1.0, 1.0))
    labels = image.with_array((np.arange(40 * 41 * 42) % 41 // 2).reshape(1, 40, 41, 42).astype(np.int16))
    names = {f"_label_{value}_$x_1$_with_a_very_long_name_<b>": [value] for value in range(1, 40)}
    draw_overlay(image, labels, None, names, tmp_path / "figure.png", title="cost: 5 $ & 6 $")
    assert any("more labels" in text for text in list_texts(build_overlay(image, labels, None, names).axes[3]))


def test_bytes_of_a_file_name_that_are_no_letters_are_escaped(make_volume, tmp_path):
    title = "M\udcf6.nii.gz"  # how Python holds a name in Latin-1
    draw_overlay(make_volume(), None, None, {}, tmp_path / "figure.png", title=title)
    texts = [text.get_text() for text in build_overlay(make_volume(), None, None, {}, title=title).texts]
    assert r"M\udcf6.nii.gz" in texts


def test_first_of_several_channels_is_shown(make_volume):
    image = make_volume(num_channels=3)
    shown = build_overlay(image, None, None, {}).axes[0].images[0].get_array()
    alone = build_overlay(image.with_array(image.array[:1]), None, None, {}).axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, alone)


def test_window_by_modality(make_volume):
    image = make_volume()
    assert build_overlay(image, None, None, {}).axes[0].images[0].get_clim() == (-160, 240)
    window = build_overlay(image, None, None, {}, modality="MR").axes[0].images[0].get_clim()
    assert window == pytest.approx(np.percentile(image.array, (1, 99)))


@pytest.mark.parametrize("shape", [(1, 22, 31), (17, 22, 1), (1, 1, 1)])
def test_thin_and_constant_scans(make_volume, tmp_path, shape):
    image = make_volume(shape, dtype=np.int16)
    labels = image.with_array(np.full((1, *shape), 3, np.uint8))
    draw_overlay(
        image.with_array(np.zeros_like(image.array)), labels, labels, LABELS, tmp_path / "f.png", modality="MR"
    )


def test_other_grid_is_refused(make_volume, tmp_path):
    other = make_volume(spacing=(0.7, 1.2, 2.0), dtype=np.uint8)
    with pytest.raises(GeometryError, match="The prediction and the scan lie on different grids"):
        draw_overlay(make_volume(), other, None, LABELS, tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()


def test_importing_the_room_imports_neither_matplotlib_nor_torch():
    code = "import sys, medunet.reporting; print([n for n in ('matplotlib', 'torch', 'rich') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_pyplot_is_left_alone(make_volume):
    build_overlay(make_volume(), None, None, {})
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.realdata
def test_right_parotid_is_on_the_side_of_the_r(real_data):
    from medunet.io import read_label_map, read_volume

    image = read_volume(real_data / "headneck-ct" / "images" / "pt_2.nii.gz")
    reference = read_label_map(real_data / "headneck-ct" / "labels" / "pt_2.nii.gz")
    panel = build_overlay(image, None, reference, {"parotid_right": [3], "parotid_left": [4]}).axes[0]
    right, left = (collection.get_paths()[0].vertices[:, 0].mean() for collection in panel.collections)
    assert list_texts(panel)[:2] == ["R", "L"]
    assert right < left


def make_picture(tmp_path, pixel_mm=None):
    """Red above, blue below, a green spot at the upper right; its mask holds the spot."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:15, :, 0], pixels[15:, :, 2] = 200, 200
    pixels[4:9, 30:37] = (0, 255, 0)
    resolution = {} if pixel_mm is None else {"resolution": (25.4 / pixel_mm, 25.4 / pixel_mm), "resolutionunit": 2}
    tifffile.imwrite(tmp_path / "picture.tif", pixels, photometric="rgb", **resolution)
    picture = read_volume(tmp_path / "picture.tif")
    spot = (picture.array[1] == 255)[None].astype(np.uint8) * 3
    return pixels, picture, picture.with_array(spot)


def test_a_picture_is_one_panel_in_its_colours(tmp_path):
    pixels, picture, spot = make_picture(tmp_path)
    figure = build_overlay(picture, None, spot, LABELS, modality="microscopy")
    panel, _ = figure.axes
    np.testing.assert_allclose(panel.images[0].get_array(), pixels / 255, atol=1e-6)
    (contour,) = find_contours(figure, 0)
    np.testing.assert_allclose([contour.min(0), contour.max(0)], [(30, 4), (37, 9)], atol=1e-6)
    texts = [text.get_text() for text in panel.texts]
    assert texts == ["5 px"]  # and no letter: nobody lies there
    assert [text.get_text() for text in figure.texts] == ["40 x 30 pixels"]


def test_a_picture_of_known_size_has_a_bar_in_its_unit(tmp_path):
    _, picture, _ = make_picture(tmp_path, pixel_mm=0.002)
    figure = build_overlay(picture, None, None, {}, modality="microscopy")
    assert [text.get_text() for text in figure.axes[0].texts] == ["20 µm"]


def test_a_grey_picture_is_grey(tmp_path):
    _, picture, spot = make_picture(tmp_path)
    figure = build_overlay(picture.with_array(picture.array[:1]), None, spot, LABELS, modality="photo")
    assert figure.axes[0].images[0].get_array().ndim == 2


def test_a_single_slice_of_a_body_keeps_its_letters(make_volume):
    figure = build_overlay(make_volume((40, 44, 1), (1.0, 1.0, 5.0), "RAS"), None, None, {})
    panel, _ = figure.axes
    assert [text.get_text() for text in panel.texts] == ["R", "L", "A", "P", "1 cm"]
    assert [text.get_text() for text in figure.texts] == ["axial, slice 1 of 1 from below"]
