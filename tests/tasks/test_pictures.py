"""Tasks about pictures, and folders of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medunet.checking import check_dataset
from medunet.errors import DatasetError, GeometryError, LabelError, TaskError
from medunet.planning import (
    Effort,
    MemoryTarget,
    build_plan,
    choose_configuration,
    compute_crop_box,
    compute_fingerprint,
)
from medunet.tasks import Task, is_picture, parse_task, read_case, read_dataset
from medunet.volume import Volume, to_orientation


def build_task(**changes: Any) -> Task:
    content = {
        "name": "cells", "title": "Cells", "modality": "microscopy", "channels": ["grey"], "labels": {"cell": 255},
        "intensity": "zscore",
    }  # fmt: skip
    return parse_task(content | changes, "task")


def save(path: Path, pixels: Any, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **options)


def make_picture(rows: int, columns: int, seed: int = 0) -> tuple[Any, Any]:
    """Black but for a bright square, which is the label."""
    pixels, mask = np.zeros((rows, columns), np.uint8), np.zeros((rows, columns), np.uint8)
    pixels[5:15, 8:20] = 200 + seed
    mask[5:15, 8:20] = 255
    return pixels, mask


def write_folder(folder: Path, sizes: list[tuple[int, int]], *, images: str = "images", masks: str = "masks") -> None:
    for number, (rows, columns) in enumerate(sizes):
        pixels, mask = make_picture(rows, columns, number)
        save(folder / images / f"{number}.png", pixels)
        save(folder / masks / f"{number}.png", mask)


@pytest.mark.parametrize(("images", "masks"), [("images", "labels"), ("images", "masks"), ("image", "label")])
def test_folders_by_the_names_that_people_give_them(tmp_path: Path, images: str, masks: str) -> None:
    write_folder(tmp_path, [(30, 40), (50, 33)], images=images, masks=masks)
    dataset = read_dataset(tmp_path)
    assert [case.case_id for case in dataset.cases] == ["0", "1"]
    assert dataset.layout == f"{images}/ + {masks}/"
    image, labels = read_case(dataset.cases[1], build_task())
    assert image.spatial_shape == labels.spatial_shape == (33, 50, 1)
    assert labels.array[0, 8:20, 5:15, 0].min() == 255


def test_nothing_of_a_picture_is_cropped_away() -> None:
    image = np.zeros((1, 30, 40, 1), np.uint8)
    image[0, 3, 4] = 1
    assert compute_crop_box(image, "photo", (1.0, 1.0, 1.0)) == (slice(0, 30), slice(0, 40), slice(0, 1))
    assert compute_crop_box(image, "MR", (1.0, 1.0, 1.0)) != (slice(0, 30), slice(0, 40), slice(0, 1))
    assert is_picture("photo")
    assert not is_picture("CT")


@pytest.mark.parametrize(
    ("target", "batch"), [(Effort(voxels=2 * 32**3, features=16, batch_size=12), 12), (MemoryTarget(), None)]
)
def test_pictures_of_many_sizes_get_a_plan_of_slices(tmp_path: Path, target: Any, batch: int | None) -> None:
    write_folder(tmp_path, [(300, 400), (520, 330), (260, 310)])
    task = build_task()
    fingerprint = compute_fingerprint(read_dataset(tmp_path).cases, task)
    assert sorted(fingerprint.body_shapes) == [(310, 260, 1), (330, 520, 1), (400, 300, 1)]
    assert fingerprint.nonzero_share == 1.0
    assert choose_configuration(fingerprint, task, target)[0] == "2d"
    plan = build_plan(fingerprint, task, target, "2d")
    assert plan.patch_size[2] == 1
    assert max(plan.patch_size[:2]) <= 416
    assert plan.network.spatial_dims == 2
    assert batch is None or plan.batch_size == batch
    assert not plan.normalization[0].nonzero_only  # black is a colour


def test_a_picture_with_large_pixels_is_one_slice_still(tmp_path: Path) -> None:
    """12.7 dpi are 2 mm, twice the thickness that a page has by convention."""
    pixels, mask = make_picture(200, 240)
    for number in range(2):
        save(tmp_path / "images" / f"{number}.png", pixels + number, dpi=(12.7, 12.7))
        save(tmp_path / "masks" / f"{number}.png", mask)
    task = build_task()
    fingerprint = compute_fingerprint(read_dataset(tmp_path).cases, task)
    assert fingerprint.spacings[0] == pytest.approx((2, 2, 1), rel=1e-2)
    target = Effort(voxels=2 * 32**3, features=16, batch_size=12)
    assert choose_configuration(fingerprint, task, target)[0] == "2d"
    assert build_plan(fingerprint, task, target, "2d").patch_size[2] == 1


def test_an_image_of_4000_pixels_needs_no_larger_patch() -> None:
    from made_up_fingerprints import make_fingerprint

    fingerprint = make_fingerprint((1.0, 1.0, 1.0), (4000, 4000, 1), 20)
    task = build_task(channels=["grey"])
    task = task.model_copy(update={"labels": dict.fromkeys(fingerprint.label_volumes_ml, (1,))})
    plan = build_plan(fingerprint, task, MemoryTarget(), "2d")
    assert np.prod(plan.patch_size) <= 2048**2
    assert plan.median_shape == (4000, 4000, 1)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, [(30, 40)])
    save(tmp_path / "masks" / "0.png", make_picture(30, 41)[1])
    with pytest.raises(GeometryError, match=r"0\.png has 41x30 pixels and .*0\.png has 40x30 pixels"):
        read_case(read_dataset(tmp_path).cases[0], build_task())


def test_masks_of_255_need_a_task_that_says_so(tmp_path: Path) -> None:
    write_folder(tmp_path, [(30, 40)])
    case = read_dataset(tmp_path).cases[0]
    with pytest.raises(LabelError, match=r"holds the label value\(s\) 255"):
        read_case(case, build_task(labels={"cell": 1}))
    read_case(case, build_task(labels={"cell": [1, 255]}))


def test_colours_are_channels_of_one_file(tmp_path: Path) -> None:
    pixels, mask = make_picture(30, 40)
    save(tmp_path / "images" / "0.png", np.stack([pixels, pixels // 2, pixels // 4], axis=-1))
    save(tmp_path / "masks" / "0.png", mask)
    case = read_dataset(tmp_path).cases[0]
    image, _ = read_case(case, build_task(modality="photo", channels=["red", "green", "blue"]))
    assert [int(channel.max()) for channel in image.array] == [200, 100, 50]
    with pytest.raises(DatasetError, match=r"has 3 volumes or channels; task 'cells' expects 1"):
        read_case(case, build_task())


@pytest.mark.parametrize("intensity", ["ct-window", "ct-percentile"])
def test_rules_for_hu_are_refused_for_pictures(intensity: str) -> None:
    more = {"window_hu": [-100, 100]} if intensity == "ct-window" else {}
    with pytest.raises(TaskError, match=f"{intensity} is for HU"):
        build_task(intensity=intensity, **more)


def test_the_check_says_that_pixels_have_no_size_and_nothing_about_borders(tmp_path: Path) -> None:
    write_folder(tmp_path, [(30, 40), (35, 45)])
    mask = np.full((30, 40), 255, np.uint8)
    mask[10:12] = 0
    save(tmp_path / "masks" / "0.png", mask)
    report = check_dataset(read_dataset(tmp_path), build_task())
    (note,) = (finding for finding in report.findings if finding.topic == "task")
    assert note.severity == "note"
    assert "1 mm stands for 1 pixel, and 1 ml for 1000 pixels" in note.text
    assert not [finding for finding in report.findings if finding.topic in ("border", "islands", "intensity")]


def test_a_stack_of_pages_is_a_volume(tmp_path: Path) -> None:
    pages = [Image.fromarray(make_picture(30, 40, number)[0]) for number in range(5)]
    path = tmp_path / "images" / "a.tif"
    path.parent.mkdir()
    pages[0].save(path, save_all=True, append_images=pages[1:])
    masks = [Image.fromarray(make_picture(30, 40)[1]) for _ in range(5)]
    (tmp_path / "masks").mkdir()
    masks[0].save(tmp_path / "masks" / "a.tif", save_all=True, append_images=masks[1:])
    image, labels = read_case(read_dataset(tmp_path).cases[0], build_task())
    assert image.spatial_shape == labels.spatial_shape == (40, 30, 5)
    turned = to_orientation(Volume(image.array, image.affine))
    assert turned.spacing == (1.0, 1.0, 1.0)


@pytest.mark.realdata
def test_the_membranes_of_isbi_2012_are_a_dataset(real_data: Path) -> None:
    from medunet.tasks import load_task

    dataset = read_dataset(real_data / "em-membranes-2d")
    assert (dataset.layout, len(dataset.cases)) == ("image/ + label/", 30)
    image, labels = read_case(dataset.cases[0], load_task("em-membranes"))
    assert image.shape == labels.shape == (1, 512, 512, 1)
    assert np.unique(labels.array).tolist() == [0, 255]
    cells = labels.array > 0
    assert 0.7 < cells.mean() < 0.85
    assert image.array[cells].mean() > image.array[~cells].mean() + 20  # membranes are dark
