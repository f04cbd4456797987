"""Layouts are recognised; what is missing, double or outside is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_datasets import describe, touch, write_image, write_labels

from medunet.errors import DatasetError
from medunet.tasks import Case, load_task, read_case, read_dataset

# ---- layouts ---------------------------------------------------------------------------------------------------------


def test_decathlon(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "imagesTr/b.nii.gz",
        "imagesTr/a.nii.gz",
        "labelsTr/b.nii.gz",
        "labelsTr/a.nii.gz",
        "imagesTs/c.nii.gz",
    )
    training = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "ba"]
    describe(tmp_path, {"name": "Spleen", "training": training, "test": ["./imagesTs/c.nii.gz"]})
    dataset = read_dataset(tmp_path)
    assert (dataset.name, dataset.layout) == ("Spleen", "Medical Segmentation Decathlon")
    assert dataset.cases == (
        Case(case_id="a", images=(tmp_path / "imagesTr/a.nii.gz",), labels=tmp_path / "labelsTr/a.nii.gz"),
        Case(case_id="b", images=(tmp_path / "imagesTr/b.nii.gz",), labels=tmp_path / "labelsTr/b.nii.gz"),
    )
    assert not dataset.is_synthetic


def test_decathlon_with_a_file_per_channel(tmp_path: Path) -> None:
    touch(tmp_path, "t2/a.nii.gz", "adc/a.nii.gz", "labels/a.nii.gz")
    describe(tmp_path, {"training": [{"image": ["t2/a.nii.gz", "adc/a.nii.gz"], "label": "labels/a.nii.gz"}]})
    assert read_dataset(tmp_path).cases[0].images == (tmp_path / "t2/a.nii.gz", tmp_path / "adc/a.nii.gz")


def test_nnunet_1_lists_cases_and_stores_channels(tmp_path: Path) -> None:
    """Its ``dataset.json`` names files without the numbers of the channels that their names really end in."""
    touch(tmp_path, *(f"imagesTr/{case}_{n:04d}.nii.gz" for case in ("la_003", "la_0004") for n in (1, 0)))
    touch(tmp_path, "labelsTr/la_003.nii.gz", "labelsTr/la_0004.nii.gz", "imagesTr/la_003_0003.nii.gz")
    training = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in ("la_003", "la_0004")]
    describe(tmp_path, {"modality": {"0": "MRI", "1": "MRI"}, "training": training})
    images = {case.case_id: [path.name for path in case.images] for case in read_dataset(tmp_path).cases}
    assert images == {
        "la_0004": ["la_0004_0000.nii.gz", "la_0004_0001.nii.gz"],
        "la_003": ["la_003_0000.nii.gz", "la_003_0001.nii.gz"],
    }


def test_nnunet_raw(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/la_003_0001.nii.gz", "imagesTr/la_003_0000.nii.gz", "labelsTr/la_003.nii.gz")
    describe(tmp_path, {"file_ending": ".nii.gz", "numTraining": 1, "labels": {"background": 0, "a": 1}})
    dataset = read_dataset(tmp_path)
    assert (dataset.layout, dataset.name) == ("nnU-Net raw", tmp_path.name)
    (case,) = dataset.cases
    assert case.case_id == "la_003"
    assert [path.name for path in case.images] == ["la_003_0000.nii.gz", "la_003_0001.nii.gz"]


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
@pytest.mark.parametrize(
    ("image_names", "label_name", "case_id"),
    [
        (["p1.nii.gz"], "p1.nii.gz", "p1"),
        (["p1.nii"], "p1.nii.gz", "p1"),
        (["case_0001.nii.gz"], "case_0001.nii.gz", "case_0001"),  # four digits that number no channel
        (["case_0001_0000.nii.gz"], "case_0001.nii.gz", "case_0001"),
        (["p1_0000.nii.gz", "p1_0001.nii.gz", "p1_0002.nii.gz"], "p1.nii.gz", "p1"),
    ],
)
def test_two_folders(
    tmp_path: Path, images: str, labels: str, image_names: list[str], label_name: str, case_id: str
) -> None:
    touch(tmp_path / images, *image_names, "._p1.nii.gz", "notes.txt")
    touch(tmp_path / labels, label_name, ".DS_Store")
    (case,) = read_dataset(tmp_path).cases
    assert case.case_id == case_id
    assert [path.name for path in case.images] == image_names
    assert case.labels.name == label_name


def test_synthetic_data_say_so(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    describe(tmp_path, {"synthetic": True})
    assert read_dataset(tmp_path).is_synthetic


# ---- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret.nii.gz", "imagesTr/../../secret.nii.gz", "/etc/passwd", "imagesTr/.."])
@pytest.mark.parametrize("key", ["image", "label"])
def test_a_path_outside_the_folder_is_refused(tmp_path: Path, name: Any, key: str) -> None:
    touch(tmp_path, "secret.nii.gz", "data/imagesTr/a.nii.gz")
    entry = {"image": "imagesTr/a.nii.gz", "label": "imagesTr/a.nii.gz"} | {key: [name] if key == "image" else name}
    describe(tmp_path / "data", {"training": [entry]})
    with pytest.raises(DatasetError, match="points outside its folder"):
        read_dataset(tmp_path / "data")


@pytest.mark.parametrize("name", [7, None, [], ["a", 7], {"a": 1}])
@pytest.mark.parametrize("key", ["image", "label"])
def test_an_entry_that_is_no_path(tmp_path: Path, name: Any, key: str) -> None:
    touch(tmp_path, "a.nii.gz", "a")
    describe(tmp_path, {"training": [{"image": "a.nii.gz", "label": "a.nii.gz"} | {key: name}]})
    with pytest.raises(DatasetError, match=r"in a training case; expected the path of a file\.$"):
        read_dataset(tmp_path)


def test_a_listed_file_that_is_missing(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.nii.gz")
    describe(tmp_path, {"training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]})
    with pytest.raises(DatasetError, match=r"lists labelsTr/a\.nii\.gz, which is missing in"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("entry", ["imagesTr/a.nii.gz", {"image": "a"}, 3])
def test_an_entry_without_image_and_label(tmp_path: Path, entry: Any) -> None:
    describe(tmp_path, {"training": [entry]})
    with pytest.raises(DatasetError, match="expected 'image' and 'label'"):
        read_dataset(tmp_path)


def test_a_case_listed_twice(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.nii.gz", "y/a.nii.gz")
    describe(tmp_path, {"training": [{"image": f"{k}/a.nii.gz", "label": f"{k}/a.nii.gz"} for k in "xy"]})
    with pytest.raises(DatasetError, match="lists the case 'a' twice"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            ["a.nii.gz", "b.nii.gz"],
            ["a.nii.gz"],
            r"1 case\(s\) in .* are incomplete: 'b' has an image but no label map",
        ),
        (["a.nii.gz"], ["a.nii.gz", "b.nii.gz", "c.nii.gz"], r"2 case\(s\) .* 'b' has a label map but no image"),
        ([], ["b.nii.gz"], "'b' has a label map but no image"),
        (["a.nii.gz"], [], "'a' has an image but no label map"),
        (
            ["a_0001.nii.gz"],
            ["a.nii.gz"],
            "Case 'a' .* has the images a_0001.nii.gz; expected one file a, or one per channel",
        ),
        (
            ["a_0000.nii.gz", "a_0002.nii.gz"],
            ["a.nii.gz"],
            "has the images a_0000.nii.gz, a_0002.nii.gz; .* without a gap",
        ),
        (["a.nii", "a.nii.gz"], ["a.nii.gz"], "has the images a.nii, a.nii.gz; expected one file a"),
        (["a_0000.nii", "a_0000.nii.gz"], ["a.nii.gz"], "has the images a_0000.nii, a_0000.nii.gz"),
        (["a.nii.gz", "a_0000.nii.gz"], ["a.nii.gz"], "has the images a.nii.gz, a_0000.nii.gz"),
        (["a.nii.gz"], ["a.nii", "a.nii.gz"], "two label maps of one case: a.nii and a.nii.gz"),
    ],
)
def test_incomplete_and_double_cases(tmp_path: Path, images: Any, labels: Any, message: str) -> None:
    for folder, names in (("images", images), ("labels", labels)):
        (tmp_path / folder).mkdir()
        touch(tmp_path / folder, *names)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


def test_folders_without_volumes(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.txt", "labels/a.txt")
    with pytest.raises(DatasetError, match=r"\(images/ \+ labels/\) holds no labelled case; expected images"):
        read_dataset(tmp_path)


def test_an_empty_training_list(tmp_path: Path) -> None:
    describe(tmp_path, {"training": []})
    with pytest.raises(DatasetError, match="holds no labelled case"):
        read_dataset(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"it holds nothing\); expected dataset.json with a training list"):
        read_dataset(tmp_path)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "readme.txt")
    with pytest.raises(DatasetError, match=r"it holds images, readme.txt"):
        read_dataset(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "file")
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="is a file"):
        read_dataset(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is no readable JSON"), (b"\xff\xfe", "is no readable JSON"), (b"[]", "holds a list; expected an object")],
)
def test_a_damaged_description(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


# ---- reading -----------------------------------------------------------------------------------------------------------


def test_listed_files_are_read_in_the_order_of_channels(tmp_path: Path) -> None:
    for channel in (1, 0):
        write_image(tmp_path / f"imagesTr/p_{channel:04d}.nii.gz", value=10.0 + channel)
    write_labels(tmp_path / "labelsTr/p.nii.gz")
    image, labels = read_case(read_dataset(tmp_path).cases[0], load_task("prostate-mr"))
    assert image.array[:, 0, 0, 0].tolist() == [10.0, 11.0]
    assert labels.array.reshape(-1)[:3].tolist() == [1, 2, 0]


def test_a_mapping_of_names_where_no_label_has_one(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.nii.gz")
    write_labels(tmp_path / "labels" / "a.nii.gz")
    assert len(read_dataset(tmp_path).cases) == 1
    with pytest.raises(DatasetError, match=r"values without names, so there is nothing to --map.*Leave --map out"):
        read_dataset(tmp_path, mapping={"CTV": "prostate"})
