"""Folders of masks: pairing, one bad case among good ones, the table on disk."""

import csv

import nibabel as nib
import numpy as np
import pytest

import medunet.evaluation
from medunet.errors import GeometryError, InputError, LabelError
from medunet.evaluation import LabelScore, build_evaluation, evaluate, write_scores_csv
from medunet.evaluation.tables import describe_evaluation
from medunet.tasks import Task


def make_task(**options):
    labels = {"liver": [1], "spleen": [2]}
    return Task(
        name="two-organs", title="", modality="CT", channels=("ct",), labels=labels, intensity="zscore", **options
    )


def write_labels(path, values, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array(values, np.uint8).reshape(1, 1, -1)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Two cases: p1 is perfect, p2 finds half of the liver and misses the spleen."""
    for name, mask, reference in (("p1", [1, 2, 0], [1, 2, 0]), ("p2", [1, 0, 0], [1, 1, 2])):
        write_labels(tmp_path / "masks" / f"{name}.nii.gz", mask)
        write_labels(tmp_path / "labels" / f"{name}.nii.gz", reference)
    return tmp_path / "masks", tmp_path / "labels"


def test_two_files(folders):
    masks, labels = folders
    evaluation = evaluate(masks / "p2.nii.gz", labels / "p2.nii.gz", task=make_task())
    assert [(s.case_id, s.label, s.dice) for s in evaluation.scores] == [
        ("p2", "liver", pytest.approx(2 / 3)),
        ("p2", "spleen", 0.0),
    ]


def test_two_folders(folders):
    evaluation = evaluate(*folders, task=make_task())
    assert [summary.mean for summary in evaluation.summaries] == [pytest.approx(5 / 6), pytest.approx(1 / 2)]
    assert evaluation.mean_dice == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert evaluation.mean_dice_per_case() == {"p1": 1.0, "p2": pytest.approx(1 / 3)}
    assert (evaluation.failures, evaluation.unmatched) == ([], [])


def test_paths_may_be_strings(folders):
    assert evaluate(str(folders[0]), str(folders[1])).mean_dice is not None


def test_without_a_task_the_labels_come_from_all_references(folders):
    masks, labels = folders
    write_labels(labels / "p1.nii.gz", [1, 1, 0])
    write_labels(masks / "p1.nii.gz", [1, 2, 0])  # the spleen is invented here, known only from p2
    evaluation = evaluate(masks, labels)
    assert [summary.label for summary in evaluation.summaries] == ["label 1", "label 2"]
    assert [s.status for s in evaluation.scores if s.label == "label 2"] == ["invented", "missed"]


def test_without_a_task_a_value_that_no_reference_has_is_refused(folders):
    write_labels(folders[0] / "p1.nii.gz", [1, 9, 0])
    (failure,) = evaluate(*folders).failures
    assert failure.case_id == "p1"
    assert "holds 9, which no label has" in failure.reason


def test_ignore_value_of_the_task(folders):
    write_labels(folders[1] / "p2.nii.gz", [1, 255, 255])
    evaluation = evaluate(*folders, task=make_task(ignore=255))
    assert evaluation.mean_dice_per_case() == {"p1": 1.0, "p2": 1.0}


def test_name_of_the_nnunet_image_is_accepted_for_a_mask(folders):
    masks, labels = folders
    (masks / "p1.nii.gz").rename(masks / "p1_0000.nii.gz")
    assert set(evaluate(masks, labels).mean_dice_per_case()) == {"p1", "p2"}


def test_compressed_and_plain_files_are_paired(folders):
    masks, labels = folders
    (masks / "p1.nii.gz").unlink()
    write_labels(masks / "p1.nii", [1, 2, 0])
    assert set(evaluate(masks, labels).mean_dice_per_case()) == {"p1", "p2"}


def test_files_without_a_partner_are_listed(folders):
    masks, labels = folders
    write_labels(masks / "extra.nii.gz", [1])
    write_labels(labels / "lonely.nii.gz", [1])
    evaluation = evaluate(masks, labels)
    assert evaluation.unmatched == [
        "mask extra.nii.gz has no reference",
        "reference lonely.nii.gz has no mask",
    ]
    assert len(evaluation.mean_dice_per_case()) == 2


def test_two_masks_of_one_case_are_not_chosen_between(folders):
    write_labels(folders[0] / "p1.nii", [1, 2, 0])
    evaluation = evaluate(*folders)
    assert [failure.case_id for failure in evaluation.failures] == ["p1"]
    assert "several files" in evaluation.failures[0].reason
    assert set(evaluation.mean_dice_per_case()) == {"p2"}


def test_no_match_at_all_shows_names_of_both(tmp_path):
    write_labels(tmp_path / "masks" / "a.nii.gz", [1])
    write_labels(tmp_path / "labels" / "b.nii.gz", [1])
    with pytest.raises(InputError, match=r"a\.nii\.gz.*b\.nii\.gz"):
        evaluate(tmp_path / "masks", tmp_path / "labels")


def test_empty_folder(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no volumes there"):
        evaluate(tmp_path / "empty", folders[1])


def test_missing_path(folders):
    with pytest.raises(InputError, match="nowhere does not exist"):
        evaluate(folders[0] / "nowhere", folders[1])


def test_file_against_folder(folders):
    with pytest.raises(InputError, match="two files or two folders"):
        evaluate(folders[0] / "p1.nii.gz", folders[1])


def test_bad_cases_do_not_stop_the_others(folders):
    masks, labels = folders
    for name in ("cut", "shifted", "unknown"):
        write_labels(labels / f"{name}.nii.gz", [1, 2, 0])
    (masks / "cut.nii.gz").write_bytes((masks / "p1.nii.gz").read_bytes()[:40])
    write_labels(masks / "shifted.nii.gz", [1, 2, 0], np.diag([1, 1, 4, 1]))
    write_labels(masks / "unknown.nii.gz", [1, 2, 3])
    evaluation = evaluate(masks, labels, task=make_task())
    assert set(evaluation.mean_dice_per_case()) == {"p1", "p2"}
    reasons = {failure.case_id: failure.reason for failure in evaluation.failures}
    assert list(reasons) == ["cut", "shifted", "unknown"]
    assert "cut.nii.gz" in reasons["cut"]
    assert "different grids" in reasons["shifted"]
    assert "holds 3" in reasons["unknown"]


def test_all_cases_bad(folders):
    for path in folders[0].iterdir():
        path.write_bytes(b"<html>")
    evaluation = evaluate(*folders, task=make_task())
    assert (len(evaluation.failures), evaluation.scores, evaluation.mean_dice) == (2, [], None)


@pytest.mark.parametrize(
    ("values", "affine", "error"), [([1, 2, 0], np.diag([1, 1, 4, 1]), GeometryError), ([1, 2, 3], None, LabelError)]
)
def test_two_files_raise_what_is_wrong(folders, values, affine, error):
    masks, labels = folders
    write_labels(masks / "p1.nii.gz", values, affine)
    with pytest.raises(error):
        evaluate(masks / "p1.nii.gz", labels / "p1.nii.gz", task=make_task())


def make_score(case_id, dice, status="ok", label="organ"):
    return LabelScore(
        case_id=case_id, label=label, dice=dice, status=status, reference_ml=1 / 3, prediction_ml=2, tp=1, fp=2, fn=3
    )


def test_csv_rows(tmp_path):
    path = tmp_path / "new" / "scores.csv"
    write_scores_csv(build_evaluation([make_score("p1", 2 / 3), make_score("p2", None, "both-empty")]), path)
    header, first, second = path.read_text().splitlines()
    assert header.startswith("case,label,dice,status,reference_ml,prediction_ml,tp,fp,fn,tn,iou,")
    assert first.rstrip(",") == "p1,organ,0.666667,ok,0.333333,2,1,2,3"  # what was not measured is empty
    assert second.rstrip(",") == "p2,organ,,both-empty,0.333333,2,1,2,3"
    assert first.count(",") == header.count(",")


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx"])
def test_names_are_never_formulas(tmp_path, name):
    path = tmp_path / "scores.csv"
    write_scores_csv(build_evaluation([make_score(name, 1.0, label=name)]), path)
    with path.open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["case"], row["label"]) == (f"'{name}", f"'{name}")


def test_names_with_commas_and_quotes_come_back(tmp_path):
    write_scores_csv(build_evaluation([make_score('a,"b"', 1.0)]), tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["case"] == 'a,"b"'


def test_mean_of_labels_leaves_undefined_ones_out():
    scores = [make_score("p1", 0.5, label="a"), make_score("p1", None, "both-empty", label="b")]
    assert build_evaluation(scores).mean_dice == 0.5


def test_mean_is_over_labels_not_over_rows():
    scores = [make_score("p1", 1.0, label="a"), make_score("p2", 1.0, label="a"), make_score("p1", 0.0, label="b")]
    assert build_evaluation(scores).mean_dice == 0.5


def test_case_without_any_structure_has_no_mean():
    evaluation = build_evaluation([make_score("p1", None, "both-empty"), make_score("p2", 0.5)])
    assert evaluation.mean_dice_per_case() == {"p1": None, "p2": 0.5}
    assert evaluation.num_scored_cases == describe_evaluation(evaluation)["num_cases"] == 1


def test_public_names():
    assert len(set(medunet.evaluation.__all__)) == len(medunet.evaluation.__all__)
    assert all(hasattr(medunet.evaluation, name) for name in medunet.evaluation.__all__)
