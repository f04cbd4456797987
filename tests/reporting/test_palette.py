"""Colours that stay with their label, in pictures and in files."""

import colorsys
from pathlib import Path

import numpy as np
import pytest
from synthetic_series import build_series

from medunet.io import (
    MaskFormat,
    Scan,
    from_label_map,
    read_reference,
    read_structures,
    write_nifti_labels,
    write_structures,
)
from medunet.palette import get_color
from medunet.reporting import get_colour, get_label_colours
from medunet.reporting.palette import to_hex
from medunet.reporting.view import build_view
from medunet.tasks import list_tasks, load_task
from medunet.volume import Volume

FILES: dict[MaskFormat, str] = {"nifti": "m.nii.gz", "nrrd": "m.seg.nrrd", "dicom-seg": "s.dcm", "rtstruct": "r.dcm"}


def test_first_colours_are_okabe_and_ito():
    assert get_colour(0) == pytest.approx((230 / 255, 159 / 255, 0), abs=1e-3)
    assert get_colour(6) == pytest.approx((0, 114 / 255, 178 / 255), abs=1e-3)


def test_colour_depends_on_the_place_alone():
    assert get_label_colours(["liver", "spleen"]) == {"liver": get_colour(0), "spleen": get_colour(1)}


def test_values_without_names_have_one_colour_in_every_file_and_picture(tmp_path: Path) -> None:
    """5 is the second value of one file and the only one of the other."""
    for name, values in (("one.nii.gz", [0, 2, 5]), ("other.nii.gz", [0, 0, 5])):
        mask = Volume(np.array(values, np.uint8).reshape(1, 1, 1, 3), np.eye(4))
        write_nifti_labels(mask, tmp_path / name)
        colors = {part.name: part.color for part in read_structures(tmp_path / name).structures}
        assert colors["label 5"] == get_color(4)
        assert get_label_colours(colors)["label 5"] == get_colour(4)
        view = build_view(mask, mask)
        assert dict(zip(view.labels, view.colours, strict=True))["value 5"] == to_hex(get_colour(4))
        named = build_view(mask, mask, labels={"liver": [2]})
        assert named.colours == (to_hex(get_colour(0)), to_hex(get_colour(1)))  # behind those with names


def test_many_labels_have_colours_of_their_own():
    colours = [get_colour(index) for index in range(1000)]
    assert len(set(colours)) == 1000
    assert all(0 <= part <= 1 for colour in colours for part in colour)


def test_every_colour_shows_on_black():
    assert all(colorsys.rgb_to_hls(*get_colour(index))[1] > 0.15 for index in range(150))


def test_negative_index_is_refused():
    with pytest.raises(ValueError, match="counts from 0"):
        get_colour(-1)


# ---- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return read_reference(build_series().write(tmp_path_factory.mktemp("series")))


@pytest.mark.parametrize("mask_format", FILES)
def test_files_have_the_colours_of_pictures(scan: Scan, mask_format: MaskFormat, tmp_path: Path):
    """Of every built-in task; DICOM SEG stores CIELab in whole numbers, which are not those of RGB."""
    for name in list_tasks():
        task = load_task(name)
        labels = np.zeros(scan.volume.shape, dtype=np.uint8)
        for place, value in enumerate(task.all_values):
            labels[0, place % 6 : place % 6 + 2, place // 6 : place // 6 + 2, 1:3] = value
        structures = from_label_map(scan.volume.with_array(labels), task.labels, codes=task.codes)
        path = tmp_path / name / FILES[mask_format]
        path.parent.mkdir()
        write_structures(structures, path, mask_format=mask_format, scan=scan)
        found = {part.name: part.color for part in read_structures(path, scan).structures}
        assert found.keys() == task.labels.keys()
        for label, colour in get_label_colours(task.labels).items():
            shown = tuple(int(to_hex(colour)[start : start + 2], 16) for start in (1, 3, 5))
            assert found[label] == pytest.approx(shown, abs=1 if mask_format == "dicom-seg" else 0), (name, label)
