"""Label files with a value per object: what a task says of them, and the classes that are learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import pytest
from made_up_objects import NUCLEI, TISSUE, build_task, draw_pile, draw_row

from medunet.errors import DatasetError, LabelError, TaskError
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.io.planar import write_planar_labels
from medunet.tasks import (
    Case,
    Task,
    build_target_map,
    check_object_values,
    compute_mirrored_outputs,
    compute_semantic_map,
    encode_labels,
    list_object_values,
    parse_task,
    read_case,
    read_objects,
)
from medunet.volume import Volume


def to_volume(*values: int, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    return Volume(np.array(values, np.int32).reshape(1, 1, -1, 1), np.diag([*spacing, 1.0]))


def read_values(volume: Volume) -> list[int]:
    return volume.array.ravel().tolist()  # type: ignore[no-any-return]


# ---- the recipe --------------------------------------------------------------------------------------------------------


def test_every_label_of_objects_gets_a_border() -> None:
    task = build_task()
    assert task.labels == {"nucleus": (1,), "nucleus border": (2,)}
    assert task.semantic_labels == {"nucleus": (1,)}
    assert (task.things, task.num_outputs, task.has_instances) == (("nucleus",), 3, True)
    task = build_task(TISSUE)
    assert task.labels == {
        "nucleus": (2,),
        "stroma": (3,),
        "cell": (5,),
        "nucleus border": (6,),
        "cell border": (7,),
    }
    assert list(task.semantic_labels) == ["nucleus", "stroma", "cell"]


@pytest.mark.parametrize("content", [NUCLEI, TISSUE])
def test_reading_what_was_written_adds_no_second_border(content: dict[str, Any]) -> None:
    task = build_task(content)
    assert Task.model_validate_json(task.model_dump_json()) == task
    assert parse_task(task.model_dump(mode="json"), "task.json") == task


def test_a_task_without_instances_has_no_border() -> None:
    task = build_task(output="labels")
    assert (task.labels, task.borders, task.semantic_labels) == ({"nucleus": (1,)}, {}, {"nucleus": (1,)})


def test_borders_have_sides_as_their_objects_have() -> None:
    task = build_task(labels={"left": 1, "right": 2}, laterality=[["left", "right"]], label_divisor=100)
    assert task.laterality == (("left", "right"), ("left border", "right border"))
    assert compute_mirrored_outputs(task) == (0, 2, 1, 4, 3)
    assert Task.model_validate_json(task.model_dump_json()) == task


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (NUCLEI, {"output": "instance"}, "output: Input should be 'labels', 'instances' or 'panoptic'"),
        (NUCLEI, {"output": "labels", "label_divisor": 10}, "label_divisor belongs to output: instances"),
        (NUCLEI, {"output": "labels", "things": ["nucleus"]}, "things belongs to output: instances"),
        (NUCLEI, {"output": "labels", "border_mm": 1.0}, "border_mm belongs to output: instances"),
        (NUCLEI, {"labels": {"a": 1, "b": 2}}, "label_divisor: there are 2 labels"),
        (NUCLEI, {"label_divisor": 1}, "label_divisor: 1 leaves no numbers"),
        (NUCLEI, {"postprocessing": {"nucleus": "keep-largest"}}, "postprocessing: 'nucleus' is a label of objects"),
        (NUCLEI, {"border_mm": 0.0}, "border_mm: 0.0 is no thickness"),
        (NUCLEI, {"border_mm": float("nan")}, "border_mm: nan is no thickness"),
        (NUCLEI, {"labels": {"a": [1, 2]}}, "needs labels with one value each"),
        (NUCLEI, {"labels": {"a": 0}}, "expected distinct positive integers"),
        (TISSUE, {"things": ["nuclei"]}, "things: 'nuclei' is not among the labels; did you mean 'nucleus'"),
        (TISSUE, {"things": []}, "things: no label is named"),
        (TISSUE, {"things": "nucleus"}, "things: Input should be a valid tuple"),
        (TISSUE, {"output": "instances"}, "say output: panoptic if some are not"),
        (NUCLEI, {"labels": {f"l{n}": n for n in range(1, 200)}, "label_divisor": 10}, "there are 398; at most 254"),
    ],
)
def test_a_fault_is_named(content: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        parse_task(content | changes, "recipe.yaml")


# ---- the classes that are learnt ---------------------------------------------------------------------------------------


def test_the_border_lies_within_each_object() -> None:
    objects = to_volume(0, 7, 7, 7, 7, 7, 9, 9, 9, 9, 9, 0)
    assert read_values(build_target_map(objects, build_task(border_mm=1.0))) == [0, 2, 1, 1, 1, 2, 2, 1, 1, 1, 2, 0]
    assert read_values(build_target_map(objects, build_task())) == [0, 2, 2, 1, 2, 2, 2, 2, 1, 2, 2, 0]  # two voxels


def test_the_border_is_measured_in_mm_but_what_touches_is_never_one_body() -> None:
    objects = to_volume(0, 0, 4, 4, 4, 3, 3, 3, spacing=(1.0, 5.0, 1.0))
    assert read_values(build_target_map(objects, build_task())) == [0, 0, 1, 1, 2, 2, 1, 1]
    assert read_values(build_target_map(objects, build_task(border_mm=5.0))) == [0, 0, 2, 1, 2, 2, 1, 1]


def test_the_border_of_the_picture_is_no_border_of_objects() -> None:
    assert read_values(build_target_map(to_volume(3, 3, 3, 3, 0), build_task(border_mm=1.0))) == [1, 1, 1, 2, 0]


def test_an_object_that_would_be_nothing_but_border_keeps_its_inside() -> None:
    assert read_values(build_target_map(to_volume(0, 5, 5, 5, 0, 6, 0), build_task())) == [0, 2, 1, 2, 0, 1, 0]


@pytest.mark.parametrize("draw", [draw_row, draw_pile])
def test_bodies_of_objects_that_touch_are_apart(draw: Any) -> None:
    objects = draw()
    is_object = objects.array[0] > 0
    assert cc3d.connected_components(is_object, connectivity=6).max() == 1
    targets = build_target_map(objects, build_task())
    assert np.array_equal(targets.array[0] > 0, is_object)
    bodies = cc3d.connected_components(targets.array[0] == 1, connectivity=6)
    assert bodies.max() == objects.array.max()
    pairs = {(a, b) for a, b in zip(bodies.ravel().tolist(), objects.array.ravel().tolist(), strict=True) if a}
    assert len(pairs) == objects.array.max()  # each lies in one object


def test_more_objects_than_two_bytes_hold() -> None:
    numbers = np.arange(300 * 300, dtype=np.uint32).reshape(1, 300, 300, 1)
    task = build_task()
    targets = build_target_map(Volume(numbers, np.eye(4)), task)
    assert targets.array.dtype == np.uint8
    assert (targets.array.ravel()[1:] == 1).all()  # each is one voxel, its own inside
    assert np.array_equal(encode_labels(targets, task).array, targets.array)


def test_labels_that_are_no_objects_stay() -> None:
    task = build_task(TISSUE, border_mm=1.0, ignore=255)
    objects = to_volume(0, 3000, 3000, 2001, 2001, 2001, 5001, 5001, 5001, 3000, 255, 255)
    assert read_values(compute_semantic_map(objects, task)) == [0, 3, 3, 2, 2, 2, 5, 5, 5, 3, 255, 255]
    assert read_values(build_target_map(objects, task)) == [0, 3, 3, 6, 2, 6, 7, 5, 7, 3, 255, 255]


def test_values_of_no_label_are_refused() -> None:
    check_object_values(to_volume(0, 2001, 3000, 5999), build_task(TISSUE), "x")
    with pytest.raises(LabelError, match=r"x holds the value 4001, which is of label 4 .*has 2, 3, 5"):
        check_object_values(to_volume(0, 2001, 4001), build_task(TISSUE), "x")
    with pytest.raises(LabelError, match="the value 7, which is of label 0"):
        check_object_values(to_volume(0, 7), build_task(TISSUE), "x")


# ---- files -------------------------------------------------------------------------------------------------------------


def write_case(folder: Path, objects: Volume, ending: str) -> Case:
    image = objects.with_array((objects.array > 0).astype(np.float32))
    write_nifti_image(image, folder / "image.nii.gz")
    labels = folder / f"labels{ending}"
    if ending == ".tif":
        flipped = Volume(objects.array, np.diag([-1.0, -1.0, 1.0, 1.0]))
        write_planar_labels(flipped, labels)
        write_nifti_image(flipped.with_array(image.array), folder / "image.nii.gz")
    else:
        write_nifti_labels(objects, labels)
    return Case(case_id="a", images=(folder / "image.nii.gz",), labels=labels)


@pytest.mark.parametrize("ending", [".nii.gz", ".tif"])
def test_cases_are_read_with_as_many_objects_as_files_hold(tmp_path: Path, ending: str) -> None:
    objects = Volume(np.arange(256 * 256, dtype=np.uint16).reshape(1, 256, 256, 1), np.eye(4))
    case = write_case(tmp_path, objects, ending)
    image, found = read_objects(case, build_task())
    assert np.array_equal(found.array, objects.array)
    assert int(found.array.max()) == 65535
    assert np.array_equal(found.affine, image.affine)
    _, targets = read_case(case, build_task())
    assert np.unique(targets.array).tolist() == [0, 1]


def test_what_cannot_say_which_object_is_which_is_refused(tmp_path: Path) -> None:
    case = write_case(tmp_path, draw_row(), ".nii.gz")
    with pytest.raises(DatasetError, match="is said to annotate some labels only"):
        read_case(
            Case(case_id="a", images=case.images, labels=case.labels, annotated=frozenset({"nucleus"})), build_task()
        )
    with pytest.raises(LabelError, match="holds the value 1, which is of label 0"):
        read_case(case, build_task(TISSUE))


def test_the_values_of_every_label_can_be_listed() -> None:
    objects = to_volume(0, 3000, 2001, 2007, 5001, 255)
    task = build_task(TISSUE, ignore=255)
    assert list_object_values(objects, task) == {"nucleus": (2001, 2007), "stroma": (3000,), "cell": (5001,)}
    assert list_object_values(to_volume(0, 9, 4, 9), build_task()) == {"nucleus": (4, 9)}
    assert list_object_values(to_volume(0, 0), build_task()) == {}
