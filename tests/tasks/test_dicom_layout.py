"""DICOM folders are cases: the series that the labels name, the labels by their names, every voxel in its place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_datasets import touch
from tiny_dicom import SHAPE, build_affine_lps, write_case, write_rtstruct, write_series

from medunet.errors import DatasetError, GeometryError, LabelError, MedunetError, TaskError, VolumeError
from medunet.io.structures import from_masks
from medunet.tasks import Case, Task, list_case_files, read_case, read_dataset, split_fold
from medunet.volume import Volume

BOXES: dict[str, Any] = {
    "BODY": ((0, 6), (0, 5), range(4)),
    "Prostate": ((1, 2), (1, 3), [1, 2]),
    "CTV_p": ((4, 6), (0, 1), [0]),
}


def build_task(**changes: Any) -> Task:
    content = {"name": "x-ct", "title": "x", "modality": "CT", "channels": ["ct"], "intensity": "none"}
    return Task.model_validate(content | {"labels": {"prostate": 5, "target": 7}} | changes)


def fill(box: Any) -> Any:
    mask = np.zeros(SHAPE, bool)
    (left, right), (top, bottom), slices = box
    mask[left : right + 1, top : bottom + 1, list(slices)] = True
    return mask


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    for case_id in ("p2", "p1"):
        write_case(tmp_path / "data" / case_id, BOXES, rtstruct="deep/nested/RS.1")
    touch(tmp_path / "data", "LICENSE", ".hidden/x")
    return tmp_path / "data"


def group(folder: Path, patients: str) -> list[str | None]:
    """Groups of the cases p0, p1, ..., whose objects carry these PatientIDs, ``-`` for none."""
    for number, patient in enumerate(patients):
        write_rtstruct(
            folder / f"p{number}" / "rs.dcm", BOXES, series_uid="1.2", frame_uid="1.3", patient=patient.strip("-")
        )
    return [case.group for case in read_dataset(folder).cases]


@pytest.mark.parametrize(
    ("patients", "expected"),
    [
        ("ABAC", ["p0", None, "p0", None]),
        ("ABCD", [None] * 4),
        ("AAA", [None] * 3),  # an ID that took the place of the real ones
        ("A--A", ["p0", None, None, "p0"]),
    ],
)
def test_cases_of_a_patient_are_a_group(tmp_path: Path, patients: str, expected: list[str | None]) -> None:
    """Named after a case: the number of a patient is kept nowhere."""
    assert group(tmp_path, patients) == expected


def test_no_fold_divides_a_patient(tmp_path: Path) -> None:
    group(tmp_path, "ABCDEFAB")
    dataset = read_dataset(tmp_path)
    for fold in range(5):
        training, validation = ({case.case_id for case in cases} for cases in split_fold(dataset, fold))
        for twins in ({"p0", "p6"}, {"p1", "p7"}):
            assert twins <= training or twins <= validation


# ---- recognised ------------------------------------------------------------------------------------------------------


def test_a_subfolder_is_a_case(dataset_folder: Path) -> None:
    dataset = read_dataset(dataset_folder, mapping={"CTV_p": "target"})
    assert (dataset.layout, dataset.name) == ("DICOM", "data")
    assert [case.case_id for case in dataset.cases] == ["p1", "p2"]
    case = dataset.cases[0]
    assert case.images == (dataset_folder / "p1",)
    assert case.labels == dataset_folder / "p1/deep/nested/RS.1"
    assert case.series
    assert case.mapping == {"CTV_p": "target"}
    assert [len(part) for part in split_fold(dataset, 0)] == [1, 1]


@pytest.mark.parametrize("num_others", [5, 40])
def test_slices_are_found_behind_other_files(tmp_path: Path, num_others: int) -> None:
    write_case(tmp_path / "p1", BOXES)
    touch(tmp_path / "p1", *(f"ct/A{number:02d}.txt" for number in range(num_others)))
    if num_others < 20:
        assert read_dataset(tmp_path).layout == "DICOM"
    else:  # documented: only the first files of a folder are probed
        (tmp_path / "p1/rs.dcm").rename(tmp_path / "p1/ct/ZZ")
        with pytest.raises(DatasetError, match="is no dataset that medunet knows"):
            read_dataset(tmp_path)


def test_folders_of_something_else_are_no_dicom(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.dcm", "b/readme.txt")
    os.mkfifo(tmp_path / "a/pipe")
    with pytest.raises(DatasetError, match=r"it holds a, b\); .*one DICOM folder per case, or a \.csv table"):
        read_dataset(tmp_path)


def test_images_and_labels_come_first(tmp_path: Path) -> None:
    write_case(tmp_path / "p1", BOXES)
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    assert read_dataset(tmp_path).layout == "images/ + labels/"


# ---- read ------------------------------------------------------------------------------------------------------------


def test_image_and_labels_lie_where_they_were_drawn(dataset_folder: Path) -> None:
    case = read_dataset(dataset_folder, mapping={"ctv p": "target"}).cases[0]
    image, labels = read_case(case, build_task())
    np.testing.assert_allclose(image.affine, np.diag([-1, -1, 1, 1]) @ build_affine_lps(), atol=1e-4)
    columns, rows, slices = np.indices(SHAPE)
    np.testing.assert_array_equal(image.array[0], 100 * slices + 10 * rows + columns)
    expected = np.where(fill(BOXES["Prostate"]), 5, np.where(fill(BOXES["CTV_p"]), 7, 0))
    np.testing.assert_array_equal(labels.array[0], expected)
    np.testing.assert_array_equal(labels.affine, image.affine)


def test_synonyms_of_the_task_need_no_mapping(dataset_folder: Path) -> None:
    labels = read_case(read_dataset(dataset_folder).cases[0], build_task(synonyms={"target": ["ctv.p"]}))[1]
    np.testing.assert_array_equal(labels.array[0] == 7, fill(BOXES["CTV_p"]))


def test_the_series_that_the_labels_name_is_read(dataset_folder: Path) -> None:
    write_series(dataset_folder / "p1/other phase", seed=3)
    case = read_dataset(dataset_folder).cases[0]
    image, labels = read_case(case, build_task())
    assert image.spatial_shape == SHAPE
    assert (labels.array == 5).sum() == fill(BOXES["Prostate"]).sum()
    with pytest.raises(VolumeError, match="holds 2 series"):
        read_case(
            Case(case_id="x", images=(dataset_folder / "p1/ct/..",), labels=write_map(dataset_folder)), build_task()
        )


def write_map(folder: Path, affine: Any = None, *, array: Any = None) -> Path:
    from medunet.io import write_nifti_labels

    affine = np.diag([-1, -1, 1, 1]) @ build_affine_lps() if affine is None else affine
    write_nifti_labels(
        Volume(np.zeros((1, *SHAPE), np.uint8) if array is None else array, affine), folder / "map.nii.gz"
    )
    return folder / "map.nii.gz"


def test_a_label_map_in_ras_beside_a_series_in_lps(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    lps = np.diag([-1, -1, 1, 1]) @ build_affine_lps()
    turned = lps @ np.array([[-1, 0, 0, 6], [0, -1, 0, 5], [0, 0, 1, 0], [0, 0, 0, 1]])
    labels = (5 * fill(BOXES["Prostate"])).astype(np.uint8)
    path = write_map(tmp_path, turned, array=labels[None, ::-1, ::-1])
    image, read = read_case(Case(case_id="p", images=(tmp_path / "ct",), labels=path), build_task())
    np.testing.assert_array_equal(read.array[0], labels)
    np.testing.assert_allclose(read.affine, image.affine, atol=1e-4)


def test_a_dicom_seg_is_read_by_its_names(tmp_path: Path) -> None:
    from medunet.io import read_scan, write_structures

    write_series(tmp_path / "p1/ct")
    scan = read_scan(tmp_path / "p1/ct")
    structures = from_masks([("Target", fill(BOXES["CTV_p"])), ("PROSTATE", fill(BOXES["Prostate"]))], scan.volume)
    write_structures(structures, tmp_path / "p1/seg.dcm", mask_format="dicom-seg", scan=scan)
    dataset = read_dataset(tmp_path)
    assert dataset.cases[0].labels == tmp_path / "p1/seg.dcm"
    labels = read_case(dataset.cases[0], build_task())[1].array[0]
    np.testing.assert_array_equal(labels, 5 * fill(BOXES["Prostate"]) + 7 * fill(BOXES["CTV_p"]))


def test_a_named_nrrd_is_read_by_its_names(tmp_path: Path) -> None:
    from medunet.io import read_scan, write_structures

    write_series(tmp_path / "ct")
    scan = read_scan(tmp_path / "ct")
    structures = from_masks([("Target", fill(BOXES["CTV_p"])), ("PROSTATE", fill(BOXES["Prostate"]))], scan.volume)
    write_structures(structures, tmp_path / "slicer.seg.nrrd")
    case = Case(case_id="p", images=(tmp_path / "ct",), labels=tmp_path / "slicer.seg.nrrd")
    # Slicer numbers segments 1, 2, 3: taken for the task's values they would be other organs, or none.
    labels = read_case(case, build_task(labels={"prostate": 1, "target": 2}))[1].array[0]
    np.testing.assert_array_equal(labels, 1 * fill(BOXES["Prostate"]) + 2 * fill(BOXES["CTV_p"]))


def test_the_files_of_a_case_are_its_slices_and_its_labels(dataset_folder: Path) -> None:
    case = read_dataset(dataset_folder).cases[0]
    names = [path.relative_to(dataset_folder / "p1").as_posix() for path in list_case_files(case)]
    assert names == ["ct/IM000", "ct/IM001", "ct/IM002", "ct/IM003", "deep/nested/RS.1"]
    single = Case(case_id="x", images=(dataset_folder / "LICENSE",), labels=case.labels)
    assert list_case_files(single) == [dataset_folder / "LICENSE", case.labels]


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_a_case_without_labels(dataset_folder: Path) -> None:
    write_series(dataset_folder / "p3/ct")
    with pytest.raises(
        DatasetError, match=r"case folder .*p3 must hold exactly one DICOM SEG or RTSTRUCT.*found none\."
    ):
        read_dataset(dataset_folder)


def test_a_case_with_two_objects(dataset_folder: Path) -> None:
    shutil.copy(dataset_folder / "p1/deep/nested/RS.1", dataset_folder / "p1/RS.2")
    with pytest.raises(
        DatasetError, match=r"p1 must hold exactly one .* 2 label objects: RS\.2 \(RTSTRUCT\), deep/nested/RS\.1 \(RT"
    ):
        read_dataset(dataset_folder)


def test_a_mapping_to_an_unknown_label(dataset_folder: Path) -> None:
    case = read_dataset(dataset_folder, mapping={"CTV_p": "targed"}).cases[0]
    with pytest.raises(TaskError, match=r"'CTV_p=targed' names a label .* did you mean 'target'"):
        read_case(case, build_task())


def test_labels_that_mean_nothing_name_the_file_and_the_way_out(dataset_folder: Path) -> None:
    case = read_dataset(dataset_folder).cases[0]
    with pytest.raises(LabelError, match=r'RS\.1 holds no label of task .* lists \'BODY\', .* --map "BODY=liver"'):
        read_case(case, build_task(labels={"liver": 1}))


def test_overlap_names_the_file(tmp_path: Path) -> None:
    write_case(tmp_path / "p1", {"prostate": ((1, 3), (1, 3), [1]), "target": ((2, 5), (2, 4), [1])})
    with pytest.raises(LabelError, match=r"rs\.dcm: 'prostate' \(prostate\) and 'target' \(target\) share 4 voxels"):
        read_case(read_dataset(tmp_path).cases[0], build_task())


def test_labels_of_another_modality(tmp_path: Path) -> None:
    write_case(tmp_path / "p1", BOXES, modality="MR")
    with pytest.raises(
        DatasetError, match=r"case 'p1': the labels rs\.dcm were drawn on a series of modality MR; task"
    ):
        read_case(read_dataset(tmp_path).cases[0], build_task())


def test_labels_of_another_frame_of_reference(tmp_path: Path) -> None:
    uid = write_series(tmp_path / "p1/ct")
    write_rtstruct(tmp_path / "p1/rs", BOXES, series_uid=uid, frame_uid="1.2.3.4.5")
    with pytest.raises(GeometryError, match="frame"):
        read_case(read_dataset(tmp_path).cases[0], build_task())


def test_row_1_slice_missing_from_a_case(dataset_folder: Path) -> None:
    (second,) = [path for path in (dataset_folder / "p1/ct").iterdir() if _get_number(path) == 2]
    second.unlink()
    with pytest.raises(VolumeError, match=r"gap of 6\.0+ mm"):
        read_case(read_dataset(dataset_folder).cases[0], build_task())


def _get_number(path: Path) -> int:
    import pydicom

    return int(pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber)


@pytest.mark.parametrize("name", ["ct/IM002", "deep/nested/RS.1"])
def test_row_18_truncated_file_in_a_case(dataset_folder: Path, name: str) -> None:
    path = dataset_folder / "p1" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MedunetError, match=Path(name).name):
        read_case(read_dataset(dataset_folder).cases[0], build_task())


def test_row_43_no_message_names_the_patient(dataset_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = read_dataset(dataset_folder).cases[0]
    read_case(case, build_task())
    texts = [caplog.text]
    for change in ({"labels": {"liver": 1}}, {"modality": "MR"}):
        with pytest.raises(MedunetError) as caught:
            read_case(case, build_task(**change))
        texts.append(str(caught.value))
    for secret in ("Doe", "John", "4711", "19500101"):
        assert secret not in "".join(texts)


# ---- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "modality"), [("CT", "CT"), ("MR_T1", "MR")])
def test_contours_of_a_real_case_give_the_published_mask(
    tmp_path: Path, real_data: Path, name: str, modality: str
) -> None:
    from medunet.io import read_label_map
    from medunet.volume import align_to_grid

    source = real_data / "dicom/sarcoma-ct-mr-pet-rtstruct"
    (tmp_path / name).symlink_to(source / name)
    dataset = read_dataset(tmp_path, mapping={f"gtv mass {name}": "tumour"})
    assert [case.case_id for case in dataset.cases] == [name]
    task = build_task(modality=modality, labels={"tumour": 1})
    image, labels = read_case(dataset.cases[0], task)
    reference = align_to_grid(read_label_map(source / f"nifti/{name}_mask.nii.gz"), image, "reference", "image")
    assert labels.array.sum() > 1000
    np.testing.assert_array_equal(labels.array, reference.array)
