"""`medunet.postprocess` on masks from files and memory, with and without a task, an image, probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import medunet
from medunet.errors import GeometryError, InputError, LabelError, OutputError
from medunet.io import from_label_map, read_label_map, read_structures, write_nifti_image, write_structures
from medunet.tasks import FillHoles, Task, load_task
from medunet.volume import Volume

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
INSIDE = (0, slice(4, 12), slice(4, 12), slice(2, 6))
TASK = Task(
    name="organs-ct",
    title="Organs",
    modality="CT",
    channels=("ct",),
    labels={"liver": (3,), "spleen": (7,)},  # type: ignore[arg-type]
    ignore=9,
    intensity="none",
    postprocessing={"liver": ("fill-holes",)},  # type: ignore[dict-item]
)


def build_mask(dtype: Any = np.uint8) -> Volume:
    array = np.zeros((1, 18, 16, 8), dtype)
    array[INSIDE] = 3
    array[0, 7, 7, 4], array[0, 15, 1, 1], array[0, 16, 14, 6] = 0, 3, 9
    return Volume(array, AFFINE)


def build_image(shift: int = 0) -> Volume:
    image = np.random.default_rng(0).normal(0, 3, (1, 18, 16, 8)).astype(np.float32)
    image[0, 4 + shift : 12 + shift, 4:12, 2:6] += 100
    return Volume(image, AFFINE)


def build_probabilities() -> Volume:
    liver = np.full((18, 16, 8), 0.3)
    liver[5:13, 4:12, 2:6] = 0.6  # one voxel too far along I
    return Volume(np.stack([0.97 - liver, liver, np.full(liver.shape, 0.03)]), AFFINE)


def test_steps_are_for_all_labels_or_for_those_named() -> None:
    mask = build_mask()
    mask.array[0, 0, :3, :3] = 7
    mask.array[0, 0, 1, 1] = 0
    found = medunet.postprocess(mask, ["fill-holes", "remove-small:ml=0.004"])
    assert [effect.num_added for effect in found.effects if hasattr(effect, "num_added")] == [1, 0, 0, 0, 0, 0]
    assert [e.num_removed for e in found.effects[3:]] == [1, 0, 1]  # type: ignore[union-attr]
    assert found.labels.array[0, 15, 1, 1] == 0
    one = medunet.postprocess(mask, ["keep-largest"], labels=["label 3"])
    assert [effect.describe() for effect in one.effects] == ["label 3: keep-largest, 1 voxels removed, 0 added"]
    per_label = medunet.postprocess(mask, {"label 3": [FillHoles()]})
    assert (per_label.labels.array != mask.array).sum() == 1
    assert mask.array[0, 7, 7, 4] == 0


def test_the_task_names_labels_and_steps() -> None:
    found = medunet.postprocess(build_mask(), task=TASK)
    assert [effect.describe() for effect in found.effects] == ["liver: fill-holes, 0 voxels removed, 1 added"]
    assert [structure.name for structure in found.structures.structures] == ["liver", "spleen"]
    assert found.labels.array[0, 16, 14, 6] == 9
    with pytest.raises(InputError, match="There is nothing to do; name steps"):
        medunet.postprocess(build_mask())


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.seg.nrrd", "mask.tif"])
def test_files_keep_their_names_grid_and_format(tmp_path: Path, name: str) -> None:
    mask = build_mask()
    structures = from_label_map(mask, {"liver": (3,), "other": (9,)})
    if name.endswith("tif"):
        structures = from_label_map(Volume(mask.array, np.diag([-1.0, -1.0, 2.0, 1.0])), {"liver": (3,)})
    write_structures(structures, tmp_path / name)
    found = medunet.postprocess(tmp_path / name, ["fill-holes", "keep-largest"])
    found.save(tmp_path / f"out-{name}")
    written = read_structures(tmp_path / f"out-{name}")
    expected = read_structures(tmp_path / name)
    assert [s.name for s in written.structures] == [s.name for s in expected.structures]
    np.testing.assert_allclose(written.layers.affine, expected.layers.affine, atol=1e-6)
    counts = [int(written.get_mask(structure).sum()) for structure in written.structures]
    assert counts == [8 * 8 * 4, 1]
    with pytest.raises(OutputError, match="exists already"):
        found.save(tmp_path / f"out-{name}")


def test_the_crf_moves_the_border_to_where_the_image_has_it() -> None:
    mask = build_mask()
    mask.array[0, 12, 4:12, 2:6] = 3  # a plane too many
    found = medunet.postprocess(mask, ["crf:appearance=5", "fill-holes"], image=build_image(), device="cpu")
    expected = np.zeros_like(mask.array)
    expected[INSIDE] = 3
    # Without a task the lone voxels are labels like others, which the dark image around them pulls away.
    assert np.array_equal(found.labels.array, expected)


def test_probabilities_are_used_by_the_first_step_and_what_is_ignored_stays() -> None:
    mask = Volume(np.zeros((1, 18, 16, 8), np.uint8), AFFINE)
    mask.array[0, 5:13, 4:12, 2:6] = 3
    mask.array[0, 5, 5, 5] = 9
    options: dict[str, Any] = {"task": TASK, "probabilities": build_probabilities(), "device": "cpu"}
    found = medunet.postprocess(mask, ["crf:appearance=5"], image=build_image(), **options).labels.array
    expected = np.zeros_like(found)
    expected[INSIDE] = 3
    expected[0, 5, 5, 5] = 9
    assert np.array_equal(found, expected)
    slic = medunet.postprocess(mask, ["slic:mm=4"], image=build_image(shift=1), **options).labels.array
    assert (slic == mask.array).mean() > 0.99
    with pytest.raises(InputError, match="as the first step only"):
        medunet.postprocess(mask, ["fill-holes", "crf"], image=build_image(), **options)
    clean = build_mask()
    clean.array[clean.array == 9] = 0
    with pytest.raises(InputError, match="have 3 channels; expected 2: background, label 3"):
        medunet.postprocess(clean, ["crf"], image=build_image(), probabilities=build_probabilities())
    wrong = Volume(build_probabilities().array * 2, AFFINE)
    with pytest.raises(InputError, match="add up to 2 to 2; expected 1"):
        medunet.postprocess(mask, ["crf"], task=TASK, image=build_image(), probabilities=wrong)


def test_an_image_along_other_axes_is_turned_and_another_grid_is_refused() -> None:
    mask, image = build_mask(), build_image()
    turned = Volume(image.array[:, ::-1], AFFINE @ np.array([[-1, 0, 0, 17], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    steps = ["slic:mm=4"]
    expected = medunet.postprocess(mask, steps, image=image).labels.array
    assert np.array_equal(medunet.postprocess(mask, steps, image=turned).labels.array, expected)
    with pytest.raises(GeometryError, match="The image and the mask lie on different grids"):
        medunet.postprocess(mask, steps, image=Volume(image.array[:, 1:], AFFINE))
    with pytest.raises(InputError, match="slic looks at the image"):
        medunet.postprocess(mask, steps)


def test_an_empty_mask_stays_empty() -> None:
    empty = Volume(np.zeros((1, 6, 5, 4), np.uint8), AFFINE)
    image = Volume(np.ones((1, 6, 5, 4), np.float32), AFFINE)
    assert medunet.postprocess(empty, ["crf", "slic", "fill-holes"], task=TASK, image=image).labels is not None
    assert not medunet.postprocess(empty, ["crf", "fill-holes"], task=TASK, image=image).labels.array.any()
    assert not medunet.postprocess(empty, ["fill-holes"]).labels.array.any()


def test_regions_need_their_task_and_no_image(tmp_path: Path) -> None:
    task = load_task("brain-tumour-mr")
    array = np.zeros((1, 9, 9, 9), np.uint8)
    array[0, 2:7, 2:7, 2:7], array[0, 3:6, 3:6, 3:6], array[0, 4, 4, 4] = 1, 2, 1
    mask = Volume(array, AFFINE)
    core = list(task.labels)[1]
    found = medunet.postprocess(mask, {core: ["fill-holes"]}, task=task)
    assert found.labels.array[0, 4, 4, 4] == 2
    named = from_label_map(mask, task.labels)
    with pytest.raises(LabelError, match="lie within each other; name the task"):
        medunet.postprocess(named, ["fill-holes"])
    with pytest.raises(InputError, match="Regions lie within each other"):
        medunet.postprocess(mask, ["slic"], task=task, image=mask)


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        (["smoth:mm=1"], {}, r"there is no step 'smoth'; did you mean 'smooth'\?$"),
        (["slic:mn=1"], {}, "slic has no option 'mn'; did you mean 'mm'"),
        (["crf:window_mm=-1"], {}, r"crf: window_mm is -1; expected a number above 0\.$"),
        (["fill-holes"], {"labels": ["lable 3"]}, "no label 'lable 3'; did you mean 'label 3'"),
        (["one-per-side"], {}, "one-per-side needs a task with pairs"),
    ],
)
def test_what_is_wrong_is_said(steps: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        medunet.postprocess(build_mask(), steps, **options)


def test_values_of_another_task_are_refused(tmp_path: Path) -> None:
    mask = Volume(np.full((1, 3, 3, 3), 5, np.uint8), AFFINE)
    with pytest.raises(LabelError, match="5"):
        medunet.postprocess(mask, task=TASK)
    write_nifti_image(build_image(), tmp_path / "scan.nii.gz")
    with pytest.raises(LabelError):
        read_label_map(tmp_path / "scan.nii.gz")
    with pytest.raises(LabelError):
        medunet.postprocess(tmp_path / "scan.nii.gz", ["fill-holes"])
