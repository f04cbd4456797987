"""What the two sides of a case can be: other axes, other grids, DICOM SEG and RTSTRUCT, names instead of values."""

import numpy as np
import pytest
from tiny_dicom import write_rtstruct, write_series

from medunet.errors import GeometryError, InputError
from medunet.evaluation import evaluate, write_nnunet_summary
from medunet.evaluation.regrid import join_frames, put_mask_on_grid, resample_labels
from medunet.io import from_masks, read_scan, write_nifti_labels, write_structures
from medunet.tasks import Task
from medunet.volume import Volume, is_same_grid, to_orientation

TASK = Task(
    name="two-organs", title="", modality="CT", channels=("ct",), labels={"liver": [4], "spleen": [2]},
    intensity="zscore", synonyms={"liver": "Leber"},
)  # fmt: skip


def make_labels(shape=(12, 14, 10), spacing=(1.0, 1.5, 2.0), box=((2, 8), (3, 10), (2, 7)), origin=(5.0, -3.0, 7.0)):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    array = np.zeros((1, *shape), np.uint8)
    array[(0, *(slice(*edge) for edge in box))] = 3
    return Volume(array, affine)


# ---- other axes, other grids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["LPS", "SAR", "PIL"])
def test_a_mask_along_other_axes_is_turned(tmp_path, orientation):
    reference = make_labels()
    write_nifti_labels(reference, tmp_path / "reference.nii.gz")
    write_nifti_labels(to_orientation(reference, orientation), tmp_path / "mask.nii.gz")
    (score,) = evaluate(tmp_path / "mask.nii.gz", tmp_path / "reference.nii.gz").scores
    assert (score.dice, score.hd_mm) == (1.0, 0.0)


def test_another_grid_is_refused_with_both_shown_and_resampled_on_request(tmp_path):
    reference = make_labels()
    finer = make_labels((24, 28, 20), (0.5, 0.75, 1.0), ((4, 16), (6, 20), (4, 14)), (4.75, -3.375, 6.5))
    write_nifti_labels(reference, tmp_path / "reference.nii.gz")
    write_nifti_labels(finer, tmp_path / "mask.nii.gz")
    with pytest.raises(GeometryError, match=r"12x14x10.*24x28x20.*--resample"):
        evaluate(tmp_path / "mask.nii.gz", tmp_path / "reference.nii.gz")
    (score,) = evaluate(tmp_path / "mask.nii.gz", tmp_path / "reference.nii.gz", resample=True).scores
    assert score.dice == 1.0


def test_resampling_keeps_a_box_in_its_place_on_an_oblique_grid():
    mask = make_labels(box=((3, 9), (4, 10), (3, 7)))
    angle = 0.3
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    grid = Volume(np.zeros((1, 50, 50, 40), np.uint8), turn @ np.diag([0.6, 0.6, 0.6, 1]))
    grid.affine[:3, 3] = [0, -10, 4]
    found = resample_labels(mask, grid, case_id="p1")
    assert set(np.unique(found.array)) == {0, 3}
    assert found.array.astype(bool).sum() * 0.6**3 == pytest.approx(
        (mask.array > 0).sum() * 3.0, rel=0.06
    )  # linear shares round the corners
    centres = [
        (volume.affine @ [*np.argwhere(volume.array[0]).mean(axis=0), 1])[:3] for volume in (mask, found)
    ]  # fmt: skip
    assert centres[1] == pytest.approx(centres[0], abs=0.1)


def test_outside_of_the_masks_own_view_is_background():
    mask = Volume(np.ones((1, 4, 4, 4), np.uint8), np.eye(4))
    grid = Volume(np.zeros((1, 12, 4, 4), np.uint8), np.eye(4))
    found = resample_labels(mask, grid, case_id="p1")
    assert found.array[0, :, 0, 0].tolist() == [1] * 4 + [0] * 8
    finer = Volume(np.zeros((1, 30, 1, 1), np.uint8), np.diag([0.2, 1, 1, 1]))
    assert resample_labels(mask, finer, case_id="p1").array.sum() == 18  # 0 to 3.4 mm: the voxel's edge is at 3.5
    away = np.eye(4)
    away[0, 3] = 100
    with pytest.raises(GeometryError, match="do not overlap"):
        resample_labels(mask, Volume(grid.array, away), case_id="p1")


def test_the_same_grid_is_not_touched():
    mask = make_labels()
    assert put_mask_on_grid(mask, make_labels(), case_id="p1", resample=True) is mask


# ---- DICOM -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dicom(tmp_path):
    """A series; an RTSTRUCT of it; a SEG with a wrong voxel."""
    uid = write_series(tmp_path / "ct" / "p1")
    (tmp_path / "labels").mkdir()
    structures = {
        "Leber": ((1, 4), (1, 3), range(4)),
        "spleen": ((5, 6), (1, 2), [1, 2]),
        "BODY": ((0, 6), (0, 5), [0]),
    }
    write_rtstruct(
        tmp_path / "labels" / "p1.dcm", structures, series_uid=uid, like=tmp_path / "ct" / "p1" / "IM000", patient=""
    )
    return tmp_path


def write_seg(dicom, names=("LEBER", "Spleen"), slices=slice(None)):
    scan = read_scan(dicom / "ct" / "p1")
    liver, spleen = np.zeros((2, *scan.volume.spatial_shape), dtype=bool)
    k = scan.volume.spatial_shape[2]
    is_lps = scan.volume.affine[0, 0] < 0
    assert is_lps  # columns as in the file
    liver[1:5, 1:4, slices], spleen[5:7, 1:3, 1 : k - 1] = True, True
    liver[1, 1, 1] = False
    structures = from_masks([(names[0], liver), (names[1], spleen)], scan.volume)
    (dicom / "masks").mkdir(exist_ok=True)
    write_structures(structures, dicom / "masks" / "p1.dcm", mask_format="dicom-seg", scan=scan)
    return liver


def test_seg_against_rtstruct_by_the_names_of_a_task(dicom):
    write_seg(dicom)
    evaluation = evaluate(dicom / "masks", dicom / "labels", task=TASK, images=dicom / "ct")
    assert evaluation.failures == []
    liver, spleen = evaluation.scores
    assert (liver.label, liver.tp, liver.fp, liver.fn) == ("liver", 47, 0, 1)
    assert (spleen.label, spleen.dice) == ("spleen", 1.0)
    write_nnunet_summary(evaluation, dicom / "summary.json")


def test_seg_against_rtstruct_by_their_own_names(dicom, caplog):
    write_seg(dicom, names=("leber", "tumour"))
    evaluation = evaluate(dicom / "masks" / "p1.dcm", dicom / "labels" / "p1.dcm", images=dicom / "ct" / "p1")
    found = {score.label: score for score in evaluation.scores}
    assert list(found) == ["Leber", "spleen", "BODY"]
    assert found["Leber"].fn == 1
    assert (found["spleen"].status, found["BODY"].status) == ("missed", "missed")
    assert "'tumour' of the mask not in the reference" in caplog.text
    with pytest.raises(InputError, match="compared by name"):
        write_nnunet_summary(evaluation, dicom / "summary.json")


def test_an_rtstruct_needs_its_series(dicom):
    write_seg(dicom)
    with pytest.raises(InputError, match=r"contours without a grid.*--images"):
        evaluate(dicom / "masks" / "p1.dcm", dicom / "labels" / "p1.dcm", task=TASK)
    write_series(dicom / "others" / "p2")
    write_series(dicom / "others" / "p3")
    (failure,) = evaluate(dicom / "masks", dicom / "labels", task=TASK, images=dicom / "others").failures
    assert "holds no series that matches" in failure.reason


def test_seg_against_values_needs_a_task(dicom):
    liver = write_seg(dicom)
    scan = read_scan(dicom / "ct" / "p1")
    write_nifti_labels(scan.volume.with_array(liver[None].astype(np.uint8) * 4), dicom / "reference.nii.gz")
    with pytest.raises(InputError, match="only values"):
        evaluate(dicom / "masks" / "p1.dcm", dicom / "reference.nii.gz")
    scores = evaluate(dicom / "masks" / "p1.dcm", dicom / "reference.nii.gz", task=TASK).scores
    assert [score.status for score in scores] == ["ok", "invented"]
    assert scores[0].dice == 1.0


def test_frames_that_a_seg_leaves_out_are_background():
    whole = make_labels()
    part = Volume(whole.array[:, :, :, 2:7].copy(), whole.affine.copy())
    part.affine[:3, 3] = (whole.affine @ [0, 0, 2, 1])[:3]
    for sides in ((whole, part), (part, whole)):
        reference, prediction = join_frames(*sides)
        assert is_same_grid(reference, prediction)
        assert np.array_equal(reference.array, prediction.array)
        assert reference.spatial_shape == whole.spatial_shape
    shifted = Volume(part.array, part.affine.copy())
    shifted.affine[2, 3] += 0.5
    assert join_frames(whole, shifted) == (whole, shifted)


def test_named_nrrd_by_the_names_of_a_task(tmp_path):
    """Values in a .seg.nrrd are the file's own."""
    grid = make_labels()
    liver = grid.array[0] > 0
    structures = from_masks([("other", ~liver), ("Leber", liver)], grid)
    write_structures(structures, tmp_path / "mask.seg.nrrd")
    write_nifti_labels(grid.with_array(liver[None].astype(np.uint8) * 4), tmp_path / "reference.nii.gz")
    scores = evaluate(tmp_path / "mask.seg.nrrd", tmp_path / "reference.nii.gz", task=TASK).scores
    assert (scores[0].dice, scores[1].status) == (1.0, "both-empty")


def test_a_folder_may_hold_one_object_of_another_name(dicom):
    write_seg(dicom)
    (dicom / "masks" / "p1.dcm").rename(dicom / "masks" / "2-31.dcm")
    scores = evaluate(dicom / "masks", dicom / "labels", task=TASK, images=dicom / "ct" / "p1").scores
    assert [(score.case_id, score.label) for score in scores] == [("labels", "liver"), ("labels", "spleen")]


def test_an_rtstruct_beside_its_slices_needs_no_images(dicom):
    """A dataset of DICOM folders, a patient each, is a folder of references as it is."""
    write_seg(dicom)
    patient = dicom / "patients" / "p1"
    (dicom / "ct" / "p1").rename(dicom / "ct" / "slices")
    (dicom / "ct").rename(dicom / "p1")
    (dicom / "patients").mkdir()
    (dicom / "p1").rename(patient)
    (dicom / "labels" / "p1.dcm").rename(patient / "rs.dcm")
    evaluation = evaluate(dicom / "masks", dicom / "patients", task=TASK)
    assert evaluation.failures == []
    assert [(score.case_id, score.label, score.fn) for score in evaluation.scores] == [
        ("p1", "liver", 1),
        ("p1", "spleen", 0),
    ]


@pytest.mark.realdata
@pytest.mark.parametrize("series", ["CT", "MR_T1", "PET"])
def test_an_rtstruct_beside_its_nifti(real_data, tmp_path, series):
    """The IBSI study holds each GTV as contours and as a mask: they agree."""
    study = real_data / "dicom" / "sarcoma-ct-mr-pet-rtstruct"
    task = Task(
        name="gtv", title="", modality="CT", channels=("ct",), labels={"gtv": [1]}, intensity="none",
        synonyms={"gtv": ("GTV_Mass", "GTV_Mass_CT", "GTV_Mass_MR_T1", "GTV_Mass_PET")},
    )  # fmt: skip
    (contours,) = (study / series / "mask").glob("*.dcm")
    reference = study / "nifti" / f"{series}_mask.nii.gz"
    (score,) = evaluate(contours, reference, task=task, images=study / series / "image").scores
    assert score.dice > 0.9999
    assert score.hd_mm == pytest.approx(0, abs=score.spacing_mm)
