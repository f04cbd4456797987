"""A case that training would stumble over is refused before, with the file and both sides of the contradiction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_datasets import write_image, write_labels

from medunet.errors import DatasetError, GeometryError, LabelError, TaskError, VolumeError
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.tasks import Case, Task, load_task, read_case
from medunet.volume import Volume, to_orientation

Write = Callable[..., Path]
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def build_task(**changes: Any) -> Task:
    content = {"name": "x-mr", "title": "x", "modality": "MR", "channels": ["t1"], "intensity": "zscore"}
    return Task.model_validate(content | {"labels": {"a": 1, "b": [2, 5]}} | changes)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    image = write_image(tmp_path / "i.nii.gz")
    return Case(case_id="p012", images=(image,), labels=write_labels(tmp_path / "l.nii.gz", (1, 2, 5)))


def test_a_good_case(case: Case) -> None:
    image, labels = read_case(case, build_task())
    assert image.spacing == labels.spacing == (1.0, 1.5, 2.0)
    assert np.unique(labels.array).tolist() == [0, 1, 2, 5]


def test_channels_in_one_file(tmp_path: Path, case: Case) -> None:
    both = Case(case_id="p", images=(write_image(tmp_path / "4d.nii.gz", num_channels=2),), labels=case.labels)
    assert read_case(both, build_task(channels=["t1", "t2"]))[0].num_channels == 2


def test_an_unknown_value_is_named(tmp_path: Path, case: Case) -> None:
    write_labels(case.labels, (1, 2, 3, 700))
    with pytest.raises(
        LabelError, match=r"l\.nii\.gz holds the label value\(s\) 3, 700, which task 'x-mr' .* 0, 1, 2, 5\."
    ):
        read_case(case, build_task())


def test_many_unknown_values_are_cut_short(case: Case) -> None:
    write_labels(case.labels, tuple(range(10, 20)))
    with pytest.raises(LabelError, match=r"10, 11, 12, 13, 14, 15, \.\.\., which"):
        read_case(case, build_task())


def test_the_ignored_value_is_known_only_where_the_task_has_one(case: Case) -> None:
    write_labels(case.labels, (1, 9))
    assert 9 in read_case(case, build_task(ignore=9))[1].array
    with pytest.raises(LabelError, match=r"label value\(s\) 9"):
        read_case(case, build_task())


@pytest.mark.parametrize("value", [1.5, -1.0])
def test_values_that_are_no_labels(case: Case, value: float) -> None:
    write_image(case.labels, value=value)
    with pytest.raises(LabelError, match=r"l\.nii\.gz holds labels"):
        read_case(case, build_task())


def test_too_few_channels(case: Case) -> None:
    with pytest.raises(DatasetError, match=r"case 'p012' has 1 channel\(s\); task 'x-mr' expects 2 \(t1, t2\)"):
        read_case(case, build_task(channels=["t1", "t2"]))


def test_four_dimensions_where_three_are_expected(case: Case) -> None:
    write_image(case.images[0], num_channels=3)
    with pytest.raises(DatasetError, match=r"case 'p012' has 3 volumes or channels; task 'x-mr' expects 1"):
        read_case(case, build_task())


def test_another_shape(case: Case) -> None:
    write_labels(case.labels, shape=(5, 6, 8))
    with pytest.raises(
        GeometryError, match=r"l\.nii\.gz and .*i\.nii\.gz lie on different grids: shape 5x6x8.*shape 5x6x7"
    ):
        read_case(case, build_task())


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        (3, (0.5, 0, 0), r"up to 0\.50 mm apart.*origin \(0\.50, 0\.00, 0\.00\).*origin \(0\.00"),
        (2, (0, 0, 0.5), r"spacing 1x1\.5x2\.5 mm.*spacing 1x1\.5x2 mm"),
        # A flip without the shift of the origin that belongs to it: another place, not another order of the axes.
        (0, (-2, 0, 0), r"l\.nii\.gz \(axes turned to RAS\) and .* up to 4\.00 mm apart"),
    ],
)
def test_another_affine(case: Case, column: int, change: Any, message: str) -> None:
    affine = AFFINE.copy()
    affine[:3, column] += change
    write_labels(case.labels, affine=affine)
    with pytest.raises(GeometryError, match=message):
        read_case(case, build_task())


def test_labels_along_other_axes_are_turned(case: Case) -> None:
    labels = np.zeros((1, 5, 6, 7), np.uint8)
    labels[0, 1, 4, 2], labels[0, 4, 0, 0] = 1, 5
    turned = to_orientation(Volume(labels, AFFINE), "SLP")
    write_nifti_labels(turned, case.labels)
    image, read = read_case(case, build_task())
    np.testing.assert_array_equal(read.array, labels)
    np.testing.assert_array_equal(read.affine, image.affine)


def test_labels_lie_on_the_very_grid_of_the_image(case: Case) -> None:
    """A second header rounds otherwise; preprocessing must not pick another slice because of it."""
    affine = AFFINE.copy()
    affine[:3, 3] += 2e-3
    write_labels(case.labels, affine=affine)
    image, labels = read_case(case, build_task())
    assert labels.affine.tolist() == image.affine.tolist()


def test_channels_on_two_grids(tmp_path: Path, case: Case, caplog: pytest.LogCaptureFixture) -> None:
    other = write_image(tmp_path / "t2.nii.gz", value=7.0, shape=(5, 6, 8))
    both = Case(case_id="p", images=(case.images[0], other), labels=case.labels)
    image, _ = read_case(both, build_task(channels=["t1", "t2"]))
    assert image.spatial_shape == (5, 6, 7)
    assert (image.array[1] == 7).all()
    assert "t2.nii.gz is resampled to the grid of" in caplog.text


def test_a_mapping_is_checked_even_where_labels_have_values(case: Case) -> None:
    from dataclasses import replace

    with pytest.raises(TaskError, match="'CTV=b2' names a label that task 'x-mr' does not have"):
        read_case(replace(case, mapping={"CTV": "b2"}), build_task())


@pytest.mark.parametrize("which", ["image", "labels"])
def test_a_file_that_vanished(case: Case, which: str) -> None:
    gone = case.images[0] if which == "image" else case.labels
    gone.unlink()
    with pytest.raises(VolumeError, match=gone.name):
        read_case(case, build_task())


def test_names_in_a_label_map_count_before_its_values(tmp_path: Path, make_volume: Any) -> None:
    """A mask of another task has other values for the same structures."""
    from medunet.io import from_label_map, write_structures

    image = make_volume()
    labels = np.zeros(image.shape, np.uint8)
    labels[0, 3:6, 4:9, 5:11], labels[0, 8:12, 4:9, 5:11] = 1, 2
    write_nifti_image(image, tmp_path / "image.nii.gz")
    found = from_label_map(image.with_array(labels), {"rectum": (1,), "prostate": (2,)})
    write_structures(found, tmp_path / "mask.nii.gz")
    task = load_task("prostate-ct")
    case = Case(case_id="p1", images=(tmp_path / "image.nii.gz",), labels=tmp_path / "mask.nii.gz")
    _, read = read_case(case, task)
    np.testing.assert_array_equal(read.array == task.labels["rectum"][0], labels == 1)
    np.testing.assert_array_equal(read.array == task.labels["prostate"][0], labels == 2)


def test_a_label_map_with_more_than_its_case_annotates(case: Case) -> None:
    read_case(replace(case, annotated=frozenset({"a", "b"})), build_task())
    with pytest.raises(LabelError, match="holds b, but case 'p012' is said to annotate only a"):
        read_case(replace(case, annotated=frozenset({"a"})), build_task())
    with pytest.raises(DatasetError, match="case 'p012' is said to annotate 'c', which is no label of task"):
        read_case(replace(case, annotated=frozenset({"c"})), build_task())
