"""A table of cases: what it says is taken, what it leaves open is refused with the row, no patient is divided."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_datasets import touch, write_image, write_labels
from tiny_dicom import write_case, write_series

from medunet.errors import DatasetError
from medunet.tasks import Case, Task, load_task, read_case, read_dataset, split_fold


def write_table(folder: Path, *rows: str, name: str = "cases.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(rows).encode(encoding))
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    touch(tmp_path, *(f"{kind}/{name}.nii.gz" for kind in ("i", "l") for name in "abcdef"))
    return tmp_path


# ---- what a table says -----------------------------------------------------------------------------------------------


def test_a_table(files: Path) -> None:
    path = write_table(files, "case,image,label", "two,i/b.nii.gz,l/b.nii.gz", "", "one,i/a.nii.gz,l/a.nii.gz", "")
    dataset = read_dataset(path)
    assert (dataset.layout, dataset.name, dataset.folder) == ("CSV", "cases", files)
    assert dataset.cases == (
        Case(case_id="one", images=(files / "i/a.nii.gz",), labels=files / "l/a.nii.gz"),
        Case(case_id="two", images=(files / "i/b.nii.gz",), labels=files / "l/b.nii.gz"),
    )


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (("case,image,label", "p,i/a.nii.gz,l/a.nii.gz"), {"encoding": "utf-8-sig"}),
        (("case;image;label", "p;i/a.nii.gz;l/a.nii.gz"), {}),
        (("case\timage\tlabel", "p\ti/a.nii.gz\tl/a.nii.gz"), {}),
        ((" Case , LABEL,Image ", " p , l/a.nii.gz , i/a.nii.gz "), {}),
        (('"case","image","label"', '"p","i/a.nii.gz","l/a.nii.gz"'), {}),
        (("case,image,label\r", "p,i/a.nii.gz,l/a.nii.gz\r", "\r"), {}),
        (("", ",,", "case,image,label", "p,i/a.nii.gz,l/a.nii.gz"), {}),
        (("case,image,label", "p,i/a.nii.gz,l/a.nii.gz"), {"name": "DATA.CSV"}),
    ],
)
def test_tables_as_spreadsheets_write_them(files: Path, rows: Any, options: Any) -> None:
    (case,) = read_dataset(write_table(files, *rows, **options)).cases
    assert case == Case(case_id="p", images=(files / "i/a.nii.gz",), labels=files / "l/a.nii.gz")


def test_a_comma_in_a_name(files: Path) -> None:
    touch(files, "i/a, b.nii.gz")
    (case,) = read_dataset(write_table(files, "case,image,label", 'p,"i/a, b.nii.gz",l/a.nii.gz')).cases
    assert case.images == (files / "i/a, b.nii.gz",)


def test_channels_have_the_order_of_their_numbers(tmp_path: Path) -> None:
    for index, name in enumerate(["t2", "adc"]):
        write_image(tmp_path / f"{name}.nii.gz", value=10.0 + index)
    write_labels(tmp_path / "l.nii.gz")
    path = write_table(tmp_path, "case,image2,label,image", "p,adc.nii.gz,l.nii.gz,t2.nii.gz")
    image, labels = read_case(read_dataset(path).cases[0], load_task("prostate-mr"))
    assert image.array[:, 0, 0, 0].tolist() == [10, 11]
    assert labels.array.reshape(-1)[:3].tolist() == [1, 2, 0]


def test_twelve_channels_are_not_ordered_like_words(files: Path) -> None:
    names = [f"{index}.nii.gz" for index in range(12)]
    touch(files, *names)
    columns = ["image", *(f"image{number}" for number in range(2, 13))]
    path = write_table(files, f"case,label,{','.join(columns)}", f"p,l/a.nii.gz,{','.join(names)}")
    assert [image.name for image in read_dataset(path).cases[0].images] == names


def test_paths_may_lead_anywhere(tmp_path: Path) -> None:
    """Unlike a dataset.json, which travels with its folder, a table is written by its user about files elsewhere."""
    touch(tmp_path, "scans/a.nii.gz", "masks/a.nii.gz")
    path = write_table(tmp_path / "tables", "case,image,label", f"p,../scans/a.nii.gz,{tmp_path}/masks/a.nii.gz")
    (case,) = read_dataset(path).cases
    assert case.images[0].samefile(tmp_path / "scans/a.nii.gz")
    assert case.labels == tmp_path / "masks/a.nii.gz"


def test_a_dicom_folder_with_its_contours(tmp_path: Path) -> None:
    write_case(tmp_path / "p1", {"Organ": ((1, 2), (1, 3), [1, 2])})
    write_series(tmp_path / "p1/another series", seed=1)
    path = write_table(tmp_path, "case,image,label", "p,p1,p1/rs.dcm")
    task = Task.model_validate(
        {"name": "x", "title": "x", "modality": "CT", "channels": ["ct"], "intensity": "none", "labels": {"organ": 3}}
    )
    image, labels = read_case(read_dataset(path).cases[0], task)  # the object says which of the two series is meant
    assert image.array.max() == 356
    assert np.argwhere(labels.array[0] == 3)[0].tolist() == [1, 1, 1]
    assert (labels.array == 3).sum() == 12


# ---- patients --------------------------------------------------------------------------------------------------------


def write_patients(folder: Path, patients: list[str]) -> Path:
    names = [f"c{number:02d}" for number in range(len(patients))]
    touch(folder, *(f"{name}.{kind}.nii" for name in names for kind in "il"))
    rows = [f"{name},{name}.i.nii,{name}.l.nii,{patient}" for name, patient in zip(names, patients, strict=True)]
    return write_table(folder, "case,image,label,patient", *rows)


def test_no_fold_divides_a_patient(tmp_path: Path) -> None:
    patients = ["7", "A", "A", "B", "7", "C", "007", "D", "E", "F", "E", "G", "E"]
    dataset = read_dataset(write_patients(tmp_path, patients))
    validated = []
    for fold in range(5):
        parts = split_fold(dataset, fold)
        training, validation = ({patients[int(case.case_id[1:])] for case in part} for part in parts)
        assert not training & validation
        assert training | validation == set(patients)
        validated += [case.case_id for case in parts[1]]
        assert all([case.case_id for case in part] == sorted(case.case_id for case in part) for part in parts)
    assert sorted(validated) == [case.case_id for case in dataset.cases]
    with pytest.raises(DatasetError, match="There is no fold 5; 9 patients give the folds 0 to 4"):
        split_fold(dataset, 5)


def test_folds_of_patients_follow_the_rule_for_cases(tmp_path: Path) -> None:
    # Ten patients, two scans each: KFold of scikit-learn over ten, see GOLDEN_FOLDS in test_folds.py.
    patients = [f"p{number // 2}" for number in range(20)]
    dataset = read_dataset(write_patients(tmp_path, patients))
    for fold, expected in enumerate([[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]):
        found = [int(case.case_id[1:]) for case in split_fold(dataset, fold)[1]]
        assert found == sorted(2 * patient + scan for patient in expected for scan in (0, 1))


def test_one_scan_per_patient_splits_like_cases(tmp_path: Path) -> None:
    with_patients = read_dataset(write_patients(tmp_path / "a", [f"x{n:02d}" for n in range(13)]))
    without = read_dataset(_drop_last_column(write_patients(tmp_path / "b", ["x"] * 13)))
    for fold in range(5):
        first, second = ([case.case_id for case in split_fold(d, fold)[1]] for d in (with_patients, without))
        assert first == second


def _drop_last_column(path: Path) -> Path:
    path.write_text("\n".join(line.rpartition(",")[0] for line in path.read_text().splitlines()))
    return path


def test_one_patient_cannot_be_split(tmp_path: Path) -> None:
    dataset = read_dataset(write_patients(tmp_path, ["x", "x", "x"]))
    with pytest.raises(DatasetError, match="holds one patient, which cannot be split; train on it with --fold all"):
        split_fold(dataset, 0)
    assert len(split_fold(dataset, None)[0]) == 3


def test_a_patient_is_shown_nowhere(tmp_path: Path) -> None:
    dataset = read_dataset(write_patients(tmp_path, ["Doe^John", "Roe^Jane"]))
    assert "Doe" not in repr(dataset)
    with pytest.raises(DatasetError) as caught:
        split_fold(dataset, 9)
    assert "Doe" not in str(caught.value)


def test_row_43_a_patient_is_not_quoted_from_a_faulty_row(files: Path) -> None:
    rows = ["case,image,label,patient", "a,i/a.nii.gz,l/a.nii.gz,Doe^John", "b,i/a.nii.gz,l/b.nii.gz,Doe^John"]
    with pytest.raises(DatasetError) as caught:
        read_dataset(write_table(files, *rows))
    assert "Doe" not in str(caught.value)


# ---- annotated -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        (
            "case,image,label,annotated",
            ["liver;aorta", "", " a ; left b "],
            [{"liver", "aorta"}, None, {"a", "left b"}],
        ),
        ("case;annotated;image;label", ['"liver;spleen"', "", "liver"], [{"liver", "spleen"}, None, {"liver"}]),
        ("case,image,label", None, [None, None, None]),
    ],
)
def test_annotated_labels(files: Path, header: str, cells: Any, expected: Any) -> None:
    delimiter = max(",;", key=header.count)
    rows = [
        {"case": name, "image": f"i/{name}.nii.gz", "label": f"l/{name}.nii.gz", "annotated": cells and cells[number]}
        for number, name in enumerate("abc")
    ]
    path = write_table(files, header, *(delimiter.join(row[key] for key in header.split(delimiter)) for row in rows))
    assert [case.annotated for case in read_dataset(path).cases] == expected


@pytest.mark.parametrize("cell", ["liver;", ";", "liver;;spleen", "liver;liver", "liver; liver"])
def test_annotated_labels_that_are_unclear(files: Path, cell: str) -> None:
    path = write_table(files, "case,image,label,annotated", f"p,i/a.nii.gz,l/a.nii.gz,{cell}")
    with pytest.raises(DatasetError, match=rf"the annotated labels '{cell}' in row 2; expected different names"):
        read_dataset(path)


# ---- refused ---------------------------------------------------------------------------------------------------------

HEADER = "case,image,label"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("case,image", "p,i/a.nii.gz"), "has no column 'label'; it has case, image. Expected case, image, label"),
        (("image,label", "i/a.nii.gz,l/a.nii.gz"), "has no column 'case'"),
        (("p,i/a.nii.gz,l/a.nii.gz",), "has no column 'case'; it has p, i/a"),
        (("case,image1,label", "p,i/a.nii.gz,l/a.nii.gz"), "has no column 'image'"),
        (("case,image,image3,label", "p,i/a.nii.gz,i/b.nii.gz,l/a.nii.gz"), "has no column 'image2'"),
        (("case,image,label,label", "p,i/a.nii.gz,l/a.nii.gz,l/a.nii.gz"), "has the column 'label' twice"),
        (("case,image,label,patent", "p,i/a.nii.gz,l/a.nii.gz,x"), "unknown column 'patent'; did you mean 'patient'"),
        (("case,image,label,", "p,i/a.nii.gz,l/a.nii.gz,x"), "unknown column ''"),
        ((HEADER,), "holds no labelled case"),
        ((HEADER, "p,i/a.nii.gz"), r"has 2 cells in row 2; expected 3 \(case, image, label\)"),
        ((HEADER, "p,i/a.nii.gz,l/a.nii.gz,x"), "has 4 cells in row 2; expected 3"),
        ((HEADER, "", "p,,l/a.nii.gz"), "has no image in row 3; expected every cell to be filled"),
        (("case,image,label,patient", "p,i/a.nii.gz,l/a.nii.gz,"), "has no patient in row 2"),
        ((HEADER, "p,i/a.nii.gz,l/a.nii.gz", "p,i/b.nii.gz,l/b.nii.gz"), "lists the case 'p' twice, again in row 3"),
        (
            (HEADER, "p,i/a.nii.gz,l/a.nii.gz", "q,i/a.nii.gz,l/b.nii.gz"),
            r"lists a\.nii\.gz of case 'p' again in row 3, for case 'q'; expected other files",
        ),
        ((HEADER, "p,i/a.nii.gz,l/a.nii.gz", "q,i/../i/a.nii.gz,l/b.nii.gz"), r"lists a\.nii\.gz of case 'p' again"),
        ((HEADER, "p,i/a.nii.gz,l/a.nii.gz", "q,i/b.nii.gz,l/a.nii.gz"), r"lists a\.nii\.gz of case 'p' again"),
        ((HEADER, "p,l/a.nii.gz,i/a.nii.gz", "q,i/b.nii.gz,l/a.nii.gz"), r"lists a\.nii\.gz of case 'p' again"),
        (
            ("case,image,image2,label", "p,i/a.nii.gz,i/gone.nii.gz,l/a.nii.gz"),
            r"lists 'i/gone\.nii\.gz' in row 2, which",
        ),
        ((HEADER, "p,i/a.nii.gz,l"), r"lists 'l' in row 2, which is a folder; expected a file \(paths are relative to"),
        ((HEADER, "p,i/a.nii.gz,~nobody/x.nii"), "lists '~nobody/x.nii' in row 2, which does not exist"),
        ((HEADER, f"p,i/{'x' * 5000},l/a.nii.gz"), "in row 2, which cannot be looked at: File name too long"),
        ((HEADER, f"p,{'x' * 200_000},l/a.nii.gz"), r"is no CSV \(field larger than field limit"),
    ],
)
def test_a_faulty_table_names_the_row(files: Path, rows: tuple[str, ...], message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read_dataset(write_table(files, *rows))
    assert "cases" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case_id", ["../p", "a/b", "/etc/passwd", "..", ".hidden", "a\\b", "p\x07", "x" * 151])
def test_row_40_case_ids_that_lead_elsewhere_are_refused(files: Path, case_id: str) -> None:
    with pytest.raises(DatasetError, match=r"names a case .* in row 2; expected a name without slashes"):
        read_dataset(write_table(files, HEADER, f"{case_id},i/a.nii.gz,l/a.nii.gz"))


def test_two_images_of_a_patient_may_share_a_label_map(files: Path) -> None:
    rows = ("t1,i/a.nii.gz,l/a.nii.gz,x", "t2,i/b.nii.gz,l/a.nii.gz,x")
    assert len(read_dataset(write_table(files, "case,image,label,patient", *rows)).cases) == 2
    rows = ("t1,i/a.nii.gz,l/a.nii.gz,x", "t2,i/b.nii.gz,l/a.nii.gz,y")
    with pytest.raises(DatasetError, match=r"lists a\.nii\.gz of case 't1' again in row 3, for case 't2'"):
        read_dataset(write_table(files, "case,image,label,patient", *rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected the columns case, image, label"),
        (b" \n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b",,\n,,\n", "has only empty cells; expected the columns case, image, label"),
        (b'"\n', "has only empty cells"),
        (b"case,image,label\n\0\0", "holds zero bytes"),
        (b"case,image,label\np,\xff,x", "is no UTF-8 text"),
        ("case,image,label\n".encode("utf-16"), "is no UTF-8 text"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "cases.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path / "cases.csv")


def test_a_table_too_large_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.touch()
    os.truncate(path, 2**40)  # takes no space on the disk
    with pytest.raises(DatasetError, match=r"has 1099511627776 bytes; expected 67108864 at most"):
        read_dataset(path)


def test_row_35_pipes_folders_and_links(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to("gone.csv")
    for name, message in (("pipe", "is no regular file"), ("folder", "is no regular file"), ("link", "does not exist")):
        with pytest.raises(DatasetError, match=rf"{name}\.csv {message}"):
            read_dataset(tmp_path / f"{name}.csv")


def test_a_pipe_in_a_row(files: Path) -> None:
    os.mkfifo(files / "pipe.nii")
    with pytest.raises(DatasetError, match=r"lists 'pipe\.nii' in row 2, which does not exist or is no regular file"):
        read_dataset(write_table(files, HEADER, "p,pipe.nii,l/a.nii.gz"))
