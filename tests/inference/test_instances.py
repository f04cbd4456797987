"""`Segmenter` with a task of instances: objects one by one, in memory, in files and on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_objects import TISSUE, build_task, draw_pile, draw_row
from oracles import NearestIntensity, Outcome

from medunet.evaluation import compute_instance_overlaps, evaluate, score_instances
from medunet.inference import Segmentation, Segmenter
from medunet.io import read_label_map, read_structures, write_nifti_image, write_nifti_labels
from medunet.models import InstanceRules, Model, ObjectRule
from medunet.models.names import INSTANCES
from medunet.palette import get_color
from medunet.tasks import Task, build_target_map, encode_labels, read_dataset
from medunet.volume import Volume

TASK = build_task()
Build = Callable[..., Model]


def take_picture(objects: Volume, task: Task) -> Volume:
    """Intensities that tell bodies and borders apart, for `NearestIntensity`."""
    codes = encode_labels(build_target_map(objects, task), task)
    return codes.with_array(10 * codes.array.astype(np.float32))


def load(build_oracle: Build, task: Task = TASK, rules: InstanceRules | None = None) -> Segmenter:
    network = NearestIntensity([10.0 * code for code in range(task.num_outputs)])
    model = build_oracle(task, network=network, patch_size=(16, 16, 8))
    return Segmenter(replace(model, instances=rules or InstanceRules()), "cpu")


def check_same_objects(expected: Volume, found: Volume) -> None:
    score = score_instances(compute_instance_overlaps(expected.array[0], found.array[0]), 0.8)
    assert (score.tp, score.fp, score.fn) == (int(expected.array.max()), 0, 0)


def test_objects_lie_on_the_grid_of_the_scan(build_oracle: Build) -> None:
    expected = draw_pile()  # coarser than the network's grid of 1 mm
    picture = take_picture(expected, TASK)
    fine = Volume(np.repeat(picture.array, 4, axis=3), picture.affine @ np.diag([1, 1, 0.25, 1]))
    found = load(build_oracle).segment(fine)
    assert found.objects is not None
    assert found.mask.spatial_shape == fine.spatial_shape
    assert np.array_equal(found.mask.affine, fine.affine)
    check_same_objects(Volume(np.repeat(expected.array, 4, axis=3), fine.affine), found.mask)
    assert found.label_values == {"nucleus": (1,)}
    assert np.array_equal(found.labels.array == 1, found.mask.array > 0)
    assert sum(one.volume_mm3 for one in found.objects.facts) == pytest.approx(
        1000 * found.volumes["nucleus"].visible_ml
    )
    assert "objects" in found.timings


def test_the_rules_of_the_model_count(build_oracle: Build) -> None:
    picture = take_picture(draw_row(), TASK)
    rules = InstanceRules(labels={"nucleus": ObjectRule(min_volume_mm3=10_000)})
    assert load(build_oracle, rules=rules).segment(picture).objects.facts == ()  # type: ignore[union-attr]


def test_probabilities_may_be_asked_for_too(build_oracle: Build) -> None:
    found = load(build_oracle).segment(take_picture(draw_row(), TASK), probabilities=True)
    assert found.probabilities is not None
    assert found.probabilities.num_channels == 3
    assert found.objects is not None
    assert len(found.objects.facts) == 5


def test_without_common_probabilities_the_label_map_decides(
    build_oracle: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = load(build_oracle)
    monkeypatch.setattr("medunet.inference.segmenter.Segmenter._needs_probabilities", False)
    check_same_objects(draw_row(), segmenter.segment(take_picture(draw_row(), TASK)).mask)


def segment_tissue(build_oracle: Build) -> tuple[Volume, Segmentation]:
    task = build_task(TISSUE)
    row = draw_row(3).array.astype(np.uint16)
    expected = Volume(np.where(row > 0, row + 2000, 3000), np.eye(4))
    return expected, load(build_oracle, task).segment(take_picture(expected, task))


def test_panoptic_output_holds_labels_and_objects(build_oracle: Build) -> None:
    expected, found = segment_tissue(build_oracle)
    check_same_objects(Volume(expected.array % 1000, np.eye(4)), Volume(found.mask.array % 1000, np.eye(4)))
    assert np.array_equal(found.labels.array == 3, expected.array == 3000)
    assert np.array_equal(found.mask.array // 1000, expected.array // 1000)
    names = [structure.name for structure in found.object_structures.structures]
    assert names == ["stroma", "nucleus 1", "nucleus 2", "nucleus 3"]


def test_files_hold_a_value_per_object(build_oracle: Build, tmp_path: Path) -> None:
    expected, found = segment_tissue(build_oracle)
    found.save(tmp_path / "a.nii.gz")
    assert np.array_equal(read_label_map(tmp_path / "a.nii.gz").array, found.mask.array)
    named = {one.name: one.values for one in read_structures(tmp_path / "a.nii.gz").structures}
    assert named == {"nucleus": (2001, 2002, 2003), "stroma": (3000,)}
    found.save_semantic(tmp_path / "b.nii.gz")
    assert np.array_equal(read_label_map(tmp_path / "b.nii.gz").array, expected.array // 1000)
    found.save(tmp_path / "c.seg.nrrd")
    assert len(read_structures(tmp_path / "c.seg.nrrd").structures) == 4
    found.save(tmp_path / "d.nii.gz", split=True)
    assert int(read_label_map(tmp_path / "d_nucleus.nii.gz").array.sum()) == int((expected.array // 1000 == 2).sum())


def test_what_was_written_can_be_learnt_and_scored(build_oracle: Build, tmp_path: Path) -> None:
    expected, found = segment_tissue(build_oracle)
    for folder in ("images", "labels"):
        write_nifti_image(found.labels, tmp_path / "data" / folder / "a.nii.gz")
    found.save(tmp_path / "data" / "labels" / "a.nii.gz", overwrite=True)
    write_nifti_labels(expected, tmp_path / "reference" / "a.nii.gz")
    (case,) = read_dataset(tmp_path / "data").cases
    task = build_task(TISSUE)
    from medunet.tasks import read_case

    read_case(case, task)  # its label names do not stand in the way
    result = evaluate(tmp_path / "data" / "labels", tmp_path / "reference", task=task)
    quality = {one.label: (one.num_reference, one.panoptic_quality) for one in result.instances}
    assert quality["nucleus"][0] == 3
    assert quality["nucleus"][1] > 0.9  # type: ignore[operator]
    assert quality["stroma"] == (1, 1.0)
    assert quality["cell"] == (0, None)
    assert {one.label: one.dice for one in result.scores} == {"nucleus": 1.0, "stroma": 1.0, "cell": None}


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_model: Callable[..., Path]) -> Path:
    network = NearestIntensity([0.0, 10.0, 20.0])
    monkeypatch.setattr("medunet.models.folder.build_network", lambda plan: NearestIntensity([0.0] * 3))
    folder = write_model(tmp_path / "model", TASK, weights=network.state_dict())
    rules = InstanceRules(labels={"nucleus": ObjectRule(min_volume_mm3=20.0)}, num_cases=1)
    (folder / INSTANCES).write_text(rules.model_dump_json())
    return folder


def test_the_command_says_how_many(model_folder: Path, tmp_path: Path, medunet_command: Callable[..., Outcome]) -> None:
    write_nifti_image(take_picture(draw_row(), TASK), tmp_path / "a.nii.gz")
    write_nifti_labels(draw_row(), tmp_path / "reference.nii.gz")
    outcome = medunet_command(
        "infer",
        tmp_path / "a.nii.gz",
        "-o",
        tmp_path / "mask.nii.gz",
        "-m",
        model_folder,
        "--semantic",
        "--device",
        "cpu",
    )
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert "nucleus: 5 objects of " in outcome.out
    assert "mask_semantic.nii.gz" in outcome.out
    assert read_label_map(tmp_path / "mask.nii.gz").array.max() == 5
    assert read_label_map(tmp_path / "mask_semantic.nii.gz").array.max() == 1
    manifest = json.loads((tmp_path / "mask.nii.gz.manifest.json").read_text())
    assert manifest["objects"]["nucleus"]["count"] == 5
    recipe = tmp_path / "task.yaml"
    recipe.write_text(TASK.model_dump_json())
    outcome = medunet_command("evaluate", tmp_path / "mask.nii.gz", tmp_path / "reference.nii.gz", "--task", recipe)
    assert outcome.exit_code == 0
    assert "AP50" in outcome.out


def test_semantic_needs_instances(oracle_folder: Path, tmp_path: Path, medunet_command: Callable[..., Outcome]) -> None:
    write_nifti_image(draw_row(), tmp_path / "a.nii.gz")
    medunet_command(
        "infer", tmp_path / "a.nii.gz", "-o", tmp_path / "m.nii.gz", "-m", oracle_folder, "--semantic"
    ).check_refused("--semantic", "oracle-ct")


def test_a_mask_without_instances_is_its_labels(build_oracle: Build, make_densities: Any) -> None:
    scan, mask = make_densities(spacing=(1.0, 1.0, 1.0))
    found = Segmenter(build_oracle(), "cpu").segment(scan)
    assert found.objects is None
    assert np.array_equal(found.mask.array, mask.array)
    with pytest.raises(ValueError, match="has no instances"):
        _ = found.object_structures


def test_convert_keeps_every_object_and_names_its_label(
    tmp_path: Path, medunet_command: Callable[..., Outcome]
) -> None:
    row = draw_row(3)
    numbers = Volume(np.where(row.array > 0, row.array.astype(np.uint16) + 2000, 3000), row.affine)
    write_nifti_labels(numbers, tmp_path / "a.nii.gz")
    recipe = tmp_path / "task.yaml"
    recipe.write_text(build_task(TISSUE).model_dump_json())
    outcome = medunet_command("convert", tmp_path / "a.nii.gz", "-o", tmp_path / "b.nii.gz", "--task", recipe)
    assert outcome.exit_code == 0, outcome.err
    assert np.array_equal(read_label_map(tmp_path / "b.nii.gz").array, numbers.array)
    named = {one.name: one.values for one in read_structures(tmp_path / "b.nii.gz").structures}
    assert named == {"nucleus": (2001, 2002, 2003), "stroma": (3000,)}


def test_labels_keep_their_colour_where_another_has_no_object(
    build_oracle: Build, tmp_path: Path, medunet_command: Callable[..., Outcome]
) -> None:
    """Cells without nuclei: the third label of the task has the third colour, on either way to a file."""
    cells = draw_row(3)
    numbers = Volume(np.where(cells.array > 0, cells.array.astype(np.uint16) + 5000, 3000), cells.affine)
    task = build_task(TISSUE)
    load(build_oracle, task).segment(take_picture(numbers, task)).save(tmp_path / "found.nii.gz")
    (tmp_path / "task.yaml").write_text(task.model_dump_json())
    write_nifti_labels(numbers, tmp_path / "a.nii.gz")
    outcome = medunet_command(
        "convert", tmp_path / "a.nii.gz", "-o", tmp_path / "converted.nii.gz", "--task", tmp_path / "task.yaml"
    )
    assert outcome.exit_code == 0, outcome.err
    for name in ("found.nii.gz", "converted.nii.gz"):
        colors = {one.name: one.color for one in read_structures(tmp_path / name).structures}
        assert colors == {"stroma": get_color(1), "cell": get_color(2)}, name
