"""Masks are scored as a user gets them, post-processing is taken only where it helps, and a bad case costs only itself."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import ORACLE_HU, ORACLE_TASK, NearestIntensity, build_plan_for

from medunet.errors import OutputError, VolumeError
from medunet.evaluation import LabelScore, build_evaluation, score_case
from medunet.inference import load
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.models import Postprocessing, write_description, write_results, write_weights
from medunet.models.folder import TrainingRecord
from medunet.postprocessing import AgreementCounts, fit_dice_calibration
from medunet.preprocessing import StoredCase
from medunet.tasks import Case, Task
from medunet.training.candidates import Candidate
from medunet.training.mask_pairs import MaskPair, get_mirrored_folder, read_mask_pair, write_mask_pair
from medunet.training.progress import Observer
from medunet.training.selected_model import _summarize_candidate, _summarize_fold
from medunet.training.validation import (
    NetworkSegmenter,
    Validation,
    compute_stored_dice,
    fit_calibrations,
    predict_masks,
    score_masks,
    summarize_validation,
    validate_cases,
)
from medunet.volume import Array, Volume

SHAPE = (12, 14, 10)
SPACING = (1.0, 2.0, 3.0)
PLAN = build_plan_for(ORACLE_TASK, SPACING, (8, 8, 8))
NETWORK = NearestIntensity(list(ORACLE_HU))
SEGMENTER = NetworkSegmenter(
    network=NETWORK, task=ORACLE_TASK, plan=PLAN, device=torch.device("cpu"), precision="32-true"
)
VALUES = (0, 1, 2, 3, 4, 7)
LABELS = tuple(ORACLE_TASK.labels)  # fat 1, muscle 2, gland 3, marrow 4, bone 7
BOX = (slice(2, 6), slice(2, 6), slice(2, 6))  # 64 voxels
ISLAND = (slice(8, 10), slice(9, 11), slice(2, 4))  # 8 voxels, far away
OTHER = (slice(8, 10), slice(2, 6), slice(6, 8))  # 16 voxels


def build_mask(*boxes: tuple[int, tuple[slice, slice, slice]]) -> Array:
    mask = np.zeros(SHAPE, np.uint8)
    for value, box in boxes:
        mask[box] = value
    return mask


def write_case(folder: Path, case_id: str, reference: Array, prediction: Array, **options: Any) -> Case:
    """A case in which the oracle finds exactly ``prediction``."""
    affine = np.diag([*SPACING, 1.0])
    densities = np.array(ORACLE_HU, np.float32)[np.searchsorted(VALUES, prediction)]
    densities[0], densities[-1] = ORACLE_HU[0], ORACLE_HU[0]
    write_nifti_image(Volume(densities[None], affine), folder / f"{case_id}_image.nii.gz")
    write_nifti_labels(Volume(reference[None], affine), folder / f"{case_id}_labels.nii.gz")
    return Case(
        case_id=case_id,
        images=(folder / f"{case_id}_image.nii.gz",),
        labels=folder / f"{case_id}_labels.nii.gz",
        **options,
    )


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Bone with an invented island twice; muscle that really has two parts."""
    truth = build_mask((7, BOX), (2, OTHER), (2, ISLAND))
    bone = build_mask((7, BOX))
    return [
        write_case(tmp_path, "p1", bone, build_mask((7, BOX), (7, ISLAND))),
        write_case(tmp_path, "p2", bone, build_mask((7, BOX), (7, OTHER))),
        write_case(tmp_path, "p3", truth, truth),
    ]


def validate(cases: list[Case], **options: Any) -> Validation:
    return validate_cases(SEGMENTER, cases, Observer(), **options)


def get_dice(scores: Any, case_id: str, label: str) -> float | None:
    (score,) = [score for score in scores if (score.case_id, score.label) == (case_id, label)]
    dice: float | None = score.dice
    return dice


def test_too_little_memory_for_two_tiles_is_met_once_in_all_cases(
    cases: list[Case], caplog: pytest.LogCaptureFixture
) -> None:
    failed: list[int] = []

    class OneAtOnce(NearestIntensity):
        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            if len(patches) > 1:
                failed.append(len(patches))
                raise MemoryError
            return super().forward(patches)

    validation = validate_cases(dataclasses.replace(SEGMENTER, network=OneAtOnce(list(ORACLE_HU))), cases, Observer())
    assert validation.mean_dice == 1.0
    assert failed == [2]
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("Memory does not suffice for 2 passes; 1 at a time.") == 1


# ---- what a user gets ----------------------------------------------------------------------------------------------------


def test_what_helps_is_taken_and_the_masks_are_scored_with_it(cases: list[Case]) -> None:
    validation = validate(cases)
    assert validation.postprocessing.keep_largest == ("bone",)
    assert not validation.postprocessing.keep_largest_foreground  # it would take the second part of the muscle
    assert validation.postprocessing.num_cases == 3
    assert get_dice(validation.raw.scores, "p1", "bone") == pytest.approx(2 * 64 / (64 + 72))
    assert get_dice(validation.raw.scores, "p2", "bone") == pytest.approx(2 * 64 / (64 + 80))
    assert [get_dice(validation.scores, name, "bone") for name in ("p1", "p2", "p3")] == [1.0, 1.0, 1.0]
    assert get_dice(validation.scores, "p3", "muscle") == 1.0
    assert validation.mean_dice == 1.0
    assert validation.raw.mean_dice == pytest.approx((1 + (128 / 136 + 128 / 144 + 1) / 3) / 2)
    assert validation.failures == []


def test_the_scores_are_those_of_the_masks_that_the_model_makes(
    cases: list[Case], oracle_model: Callable[..., Path]
) -> None:
    validation = validate(cases)
    segmenter = load(oracle_model(validation), device="cpu")
    for case in cases:
        segmentation = segmenter.segment(case.images[0])
        reference = read_pair_reference(case)
        found = score_case(reference, segmentation.labels, ORACLE_TASK.labels, case_id=case.case_id)
        assert found == [score for score in validation.scores if score.case_id == case.case_id]


@pytest.fixture
def oracle_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build_oracle: Any) -> Callable[..., Path]:
    """A model folder whose network is the oracle, with what validation found."""
    monkeypatch.setattr("medunet.models.folder.build_network", lambda plan: NearestIntensity([0.0] * len(ORACLE_HU)))

    def write(validation: Validation) -> Path:
        record: TrainingRecord = build_oracle().training
        folder = tmp_path / "model"
        write_description(folder, ORACLE_TASK, PLAN)
        write_weights(folder, NETWORK.state_dict(), record)
        metrics = summarize_validation(validation)
        write_results(folder, ORACLE_TASK, PLAN, record, metrics, postprocessing=validation.postprocessing)
        return folder

    return write


def read_pair_reference(case: Case) -> Volume:
    from medunet.tasks import read_case

    return read_case(case, ORACLE_TASK)[1]


def test_where_nothing_helps_nothing_is_taken(tmp_path: Path) -> None:
    truth = build_mask((2, OTHER), (2, ISLAND), (7, BOX))
    validation = validate([write_case(tmp_path, f"p{n}", truth, truth) for n in range(2)])
    assert validation.postprocessing.does_nothing
    assert len(validation.postprocessing.tried) == 1 + len(LABELS)
    assert validation.scores == validation.raw.scores


def test_holes_are_filled_where_that_helps_enough_cases(tmp_path: Path) -> None:
    affine = np.diag([*SPACING, 1.0])
    cases = []
    for number in range(5):
        prediction = build_mask((7, BOX))
        prediction[tuple(part.start + 1 for part in BOX)] = 0
        reference = build_mask((7, BOX))
        pair = MaskPair(
            case_id=f"p{number}", reference=Volume(reference[None], affine), prediction=Volume(prediction[None], affine)
        )
        write_mask_pair(tmp_path, pair)
        cases.append(Case(case_id=pair.case_id, images=(), labels=Path("none")))
    validation = score_masks(cases, ORACLE_TASK, tmp_path)
    assert validation.postprocessing.describe() == "bone: fill-holes"
    assert validation.mean_dice == 1.0
    assert validation.raw.mean_dice == pytest.approx(2 * 63 / 127)
    (used,) = [step for step in validation.postprocessing.tried if step.is_used]
    assert used.dice_without["bone"] == pytest.approx(2 * 63 / 127)
    assert used.dice_with == {"bone": 1.0}
    assert score_masks(cases[:4], ORACLE_TASK, tmp_path).postprocessing.does_nothing  # four may be luck


def test_a_region_is_scored_with_all_steps_together(tmp_path: Path) -> None:
    """Outer and inner region have islands of their own; scored is what both steps make of the mask."""
    task = Task(
        name="tumour-ct",
        title="Tumour",
        modality="CT",
        channels=("ct",),
        labels={"whole": (1, 2), "core": (2,)},  # type: ignore[arg-type]
        intensity="none",
    )
    inner = (slice(2, 4), slice(2, 4), slice(2, 4))
    reference = build_mask((1, BOX), (2, inner))
    prediction = build_mask((1, BOX), (2, inner), (1, ISLAND))
    prediction[5, 5, 5] = 2
    affine = np.diag([*SPACING, 1.0])
    pair = MaskPair(
        case_id="p1", reference=Volume(reference[None], affine), prediction=Volume(prediction[None], affine)
    )
    write_mask_pair(tmp_path, pair)
    validation = score_masks([Case(case_id="p1", images=(), labels=Path("none"))], task, tmp_path)
    # The foreground step removes the island of the whole; only the core is left to mend, and the tumour has no hole.
    assert validation.postprocessing.keep_largest_foreground
    assert validation.postprocessing.keep_largest == ("core",)
    assert [score.dice for score in validation.scores] == [1.0, 1.0]
    assert [score.dice for score in validation.raw.scores] == pytest.approx([128 / 136, 16 / 17])


def test_an_ignored_voxel_is_scored_nowhere(tmp_path: Path) -> None:
    task = Task.model_validate(ORACLE_TASK.model_dump() | {"ignore": 9})
    affine = np.diag([*SPACING, 1.0])
    reference = Volume(build_mask((7, BOX), (9, ISLAND))[None], affine)
    prediction = Volume(build_mask((7, BOX), (7, ISLAND))[None], affine)
    write_mask_pair(tmp_path, MaskPair(case_id="p1", reference=reference, prediction=prediction))
    validation = score_masks([Case(case_id="p1", images=(), labels=Path("none"))], task, tmp_path)
    assert get_dice(validation.raw.scores, "p1", "bone") == 1.0
    assert validation.postprocessing.does_nothing  # the island lies where nobody looked


def test_labels_that_a_case_was_not_searched_for_are_not_scored(tmp_path: Path) -> None:
    mask = build_mask((7, BOX), (2, OTHER))
    case = write_case(tmp_path, "p1", build_mask((7, BOX)), mask, annotated=frozenset({"bone", "fat"}))
    validation = validate([case])
    assert {score.label for score in validation.scores} == {"bone", "fat"}
    assert validation.mean_dice == 1.0


# ---- one bad case --------------------------------------------------------------------------------------------------------


def damage_image(case: Case) -> str:
    case.images[0].write_bytes(case.images[0].read_bytes()[:60])
    return case.images[0].name


def damage_labels(case: Case) -> str:
    write_nifti_labels(Volume(build_mask((5, BOX))[None], np.diag([*SPACING, 1.0])), case.labels)
    return "holds the label value"


def move_labels(case: Case) -> str:
    write_nifti_labels(Volume(build_mask((7, BOX))[None], np.diag([*SPACING[::-1], 1.0])), case.labels)
    return "different grids"


@pytest.mark.parametrize("damage", [damage_image, damage_labels, move_labels])
def test_row_67_one_bad_case_does_not_stop_the_others(
    cases: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Case], str]
) -> None:
    expected = validate([cases[0], cases[2]])
    words = damage(cases[1])
    seen: list[tuple[str, int]] = []

    class Counter(Observer):
        def on_case(self, stage: str, case_id: str, num_done: int, num_cases: int) -> None:
            seen.append((case_id, num_done))

    with caplog.at_level(logging.WARNING):
        validation = validate_cases(SEGMENTER, cases, Counter())
    assert validation.scores == expected.scores
    (failure,) = validation.failures
    assert failure.case_id == "p2"
    assert words in failure.reason
    assert str(tmp_path) not in failure.reason  # it goes into the model folder, which travels
    (warning,) = [record.getMessage() for record in caplog.records if "could not be scored" in record.getMessage()]
    assert warning == f"Validation case 'p2' could not be scored: {failure.reason}"
    assert seen == [("p1", 1), ("p2", 2), ("p3", 3)]
    metrics = summarize_validation(validation)
    assert metrics["failed"] == [{"case_id": "p2", "reason": failure.reason}]
    assert metrics["num_cases"] == 2


@pytest.mark.parametrize(
    "error",
    [MemoryError("no"), torch.OutOfMemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_a_network_that_runs_out_of_memory_on_one_case_goes_on(
    cases: list[Case], tmp_path: Path, error: Exception
) -> None:
    def segment(image: Volume) -> tuple[Volume, None]:
        calls.append(image)
        if len(calls) == 2:
            raise error
        return Volume(np.zeros((1, *image.spatial_shape), np.uint8), image.affine), None

    calls: list[Volume] = []
    (failure,) = predict_masks(segment, cases, ORACLE_TASK, tmp_path / "masks", Observer())
    assert (failure.case_id, failure.reason) == ("p2", str(error))
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["p1.npz", "p3.npz"]


@pytest.mark.parametrize("error", [TypeError, RuntimeError])
def test_a_bug_is_no_bad_case(cases: list[Case], tmp_path: Path, error: type[Exception]) -> None:
    def segment(image: Volume) -> tuple[Volume, None]:
        raise error

    with pytest.raises(error):
        predict_masks(segment, cases, ORACLE_TASK, tmp_path / "masks", Observer())


def test_when_every_case_fails_there_are_no_scores(cases: list[Case]) -> None:
    for case in cases:
        damage_image(case)
    validation = validate(cases)
    assert (validation.scores, validation.mean_dice, len(validation.failures)) == ([], None, 3)
    assert validation.postprocessing.num_cases == 0
    json.dumps(summarize_validation(validation), allow_nan=False)


# ---- masks on the disk ---------------------------------------------------------------------------------------------------


def test_folds_share_a_folder_and_are_judged_together(cases: list[Case], tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    for of_fold in (cases[:2], cases[2:]):
        validate(of_fold, masks=masks)
    together = score_masks(cases, ORACLE_TASK, masks)
    expected = validate(cases)
    assert (together.scores, together.postprocessing) == (expected.scores, expected.postprocessing)
    assert read_mask_pair(masks, "p1").prediction.array[0][ISLAND].all()  # kept as the network made them


def test_folds_of_different_sizes_weigh_as_their_cases(tmp_path: Path) -> None:
    bone = build_mask((7, BOX))
    good = [write_case(tmp_path, f"g{n}", bone, bone) for n in range(3)]
    missed = write_case(tmp_path, "m", bone, build_mask((2, OTHER)))
    folds = [validate(of_fold, masks=tmp_path / "masks") for of_fold in (good, [missed])]
    together = score_masks([*good, missed], ORACLE_TASK, tmp_path / "masks")
    assert [fold.mean_dice for fold in folds] == [1.0, 0.0]
    (summary,) = [summary for summary in together.summaries if summary.label == "bone"]
    assert (summary.mean, summary.num_scored, summary.num_missed) == (0.75, 4, 1)


def test_a_case_that_failed_before_is_listed_once(cases: list[Case], tmp_path: Path) -> None:
    validate(cases, masks=tmp_path / "masks")
    (tmp_path / "masks" / "p2.npz").write_bytes(b"damaged")
    first = score_masks(cases, ORACLE_TASK, tmp_path / "masks")
    again = score_masks(cases, ORACLE_TASK, tmp_path / "masks", first.failures)
    assert [failure.case_id for failure in first.failures] == ["p2"]
    assert again == first


def test_one_case_is_in_memory_at_a_time(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = tmp_path / "masks"
    validate(cases, masks=masks)
    arrays: list[weakref.ref[Any]] = []
    most = 0

    def read(folder: Path, case_id: str) -> MaskPair:
        nonlocal most
        most = max(most, sum(array() is not None for array in arrays))
        pair = read_mask_pair(folder, case_id)
        arrays.append(weakref.ref(pair.prediction.array))
        return pair

    monkeypatch.setattr("medunet.training.validation.read_mask_pair", read)
    score_masks(cases, ORACLE_TASK, masks)
    assert len(arrays) > 2 * len(cases)
    assert most <= 1  # the one that the loop variable still holds


def test_row_59_a_full_disk_stops_with_a_clear_message(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medunet.training.mask_pairs.np.savez_compressed", fail)
    with pytest.raises(OutputError, match=r"p1\.npz: the disk is full"):
        validate(cases, masks=tmp_path / "masks")
    assert list((tmp_path / "masks").iterdir()) == []


def test_nothing_stays_where_nothing_was_asked_for(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    validate(cases)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_masks_of_very_long_ids_keep_apart(tmp_path: Path) -> None:
    """A file name may have 255 bytes, and a folder of DICOM slices, whose name is the id, as many."""
    ids = ["ä" * 120 + end for end in ("1", "2")]
    for number, case_id in enumerate(ids):
        labels = Volume(np.full((1, 2, 2, 2), number, np.uint8), np.eye(4))
        write_mask_pair(tmp_path, MaskPair(case_id=case_id, reference=labels, prediction=labels))
    assert [read_mask_pair(tmp_path, case_id).reference.array.max() for case_id in ids] == [0, 1]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"\x80\x04\x95 a pickle"])
def test_a_damaged_pair_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p1.npz").write_bytes(content)
    with pytest.raises(VolumeError, match=r"p1\.npz holds no pair of masks"):
        read_mask_pair(tmp_path, "p1")


# ---- what mirrored passes tell ------------------------------------------------------------------------------------------


def validate_mirrored(folder: Path, *, usual: bool = False, island: bool = False, num_mirrored: int = 12) -> Validation:
    """12 cases whose masks are right; of the bone, mirrored passes miss 2, 4, 6 ... voxels of 64, and agree accordingly."""
    scores = []
    for number in range(12):
        missed = build_mask((7, BOX))
        missed.reshape(-1)[np.flatnonzero(missed)[: 2 * (1 + number)]] = 0
        if island:
            missed[ISLAND] = 7
        reference, mask, mirrored = (Volume(of[None], np.eye(4)) for of in (build_mask((7, BOX)),) * 2 + (missed,))
        agreement = AgreementCounts(members="2 flips", common={"bone": (40 - number,)}, total={"bone": (80,)})
        pair = MaskPair(
            case_id=f"p{number}", reference=reference, prediction=mask, agreement=agreement if usual else None
        )
        write_mask_pair(folder, pair)
        if number < num_mirrored:
            kept = MaskPair(case_id=pair.case_id, reference=reference, prediction=mirrored, agreement=agreement)
            write_mask_pair(get_mirrored_folder(folder), kept)
        scores += score_case(reference, mask, {"bone": (7,)}, case_id=pair.case_id)
    evaluation = build_evaluation(scores)
    return Validation(
        scores=scores, summaries=evaluation.summaries, failures=[], unmatched=[], raw=evaluation,
        postprocessing=Postprocessing(keep_largest=("bone",)),
    )  # fmt: skip


@pytest.mark.parametrize("island", [False, True], ids=["as made", "with a part that post-processing takes"])
def test_where_mirrored_passes_are_not_made_the_dice_of_those_that_were_measured_is_learnt(
    tmp_path: Path, island: bool
) -> None:
    validation = validate_mirrored(tmp_path, island=island)
    agreements = [(40 - number) / 40 for number in range(12)]
    dices = [2 * (62 - 2 * number) / (126 - 2 * number) for number in range(12)]
    expected = fit_dice_calibration(agreements, dices, members="2 flips")
    assert expected is not None
    found = fit_calibrations(validation, ORACLE_TASK, tmp_path)  # of other labels nothing was scored
    assert found.keys() == {"bone"}
    assert found["bone"].model_dump() == pytest.approx(expected.model_dump())


def test_mirrored_passes_of_the_validation_itself_count_with_its_own_dice(tmp_path: Path) -> None:
    calibration = fit_calibrations(validate_mirrored(tmp_path, usual=True), ORACLE_TASK, tmp_path)["bone"]
    assert calibration.slope == pytest.approx(0, abs=1e-9)  # all masks are right, however far the passes agree
    assert calibration.intercept == pytest.approx(np.log(0.998 / 0.002))


def test_of_too_few_mirrored_cases_nothing_is_learnt(tmp_path: Path) -> None:
    assert fit_calibrations(validate_mirrored(tmp_path, num_mirrored=9), ORACLE_TASK, tmp_path) == {}


# ---- metrics.json --------------------------------------------------------------------------------------------------------


def test_the_metrics_tell_both_stories(cases: list[Case]) -> None:
    metrics = summarize_validation(validate(cases))
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["mean_dice"] == 1.0
    before = metrics["without_postprocessing"]
    assert before["labels"]["bone"]["mean"] == pytest.approx((128 / 136 + 128 / 144 + 1) / 3)
    assert before["labels"]["muscle"]["mean"] == 1.0
    assert len(before["cases"]) == len(metrics["cases"]) == 3 * len(LABELS)


def test_a_case_without_any_label_is_in_no_count() -> None:
    score = LabelScore(
        case_id="p1", label="bone", dice=0.5, status="ok", reference_ml=1.0, prediction_ml=1.0, tp=1, fp=1, fn=1
    )
    empty = dataclasses.replace(score, case_id="p2", dice=None, status="both-empty")
    evaluation = build_evaluation([score, empty])
    assert summarize_validation(evaluation)["num_cases"] == 1
    validation = Validation(
        scores=evaluation.scores,
        summaries=evaluation.summaries,
        failures=[],
        unmatched=[],
        raw=evaluation,
        postprocessing=Postprocessing(),
    )
    candidate = Candidate(runs=(), validation=validation)
    assert _summarize_candidate(candidate, is_chosen=True)["num_cases"] == 1
    cases = [Case(case_id=name, images=(), labels=Path()) for name in ("p1", "p2")]
    assert _summarize_fold(validation, cases) == {"num_cases": 1, "mean_dice": 0.5}
    assert _summarize_fold(validation, cases[1:]) == {"num_cases": 0, "mean_dice": None}


def test_without_validation_the_metrics_say_so() -> None:
    assert summarize_validation(None) == {"num_cases": 0, "mean_dice": None, "labels": {}, "cases": [], "failed": []}


# ---- the quick look ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        (None, (128 / 136 + 0.0) / 2),
        ((True, True, True, True, True, True), (128 / 136) / 2),
        ((True,) * 5 + (False,), 0.0),
    ],
)
def test_the_quick_look_means_over_labels_that_occur(annotated: tuple[bool, ...] | None, expected: float) -> None:
    truth, found = build_mask((7, BOX), (2, OTHER)), build_mask((7, BOX), (7, ISLAND))
    codes = np.searchsorted(VALUES, truth)
    case = StoredCase(
        case_id="p1",
        path=Path("nowhere"),
        shape=SHAPE,
        fill=torch.tensor([ORACLE_HU[0]]),
        foreground={},
        image=torch.from_numpy(np.array(ORACLE_HU, np.float32)[np.searchsorted(VALUES, found)][None]),
        labels=torch.from_numpy(codes.astype(np.uint8)),
    )
    case = dataclasses.replace(case, annotated=annotated)
    dice = compute_stored_dice(NETWORK, [case], ORACLE_TASK, PLAN, torch.device("cpu"), "32-true")
    assert dice == pytest.approx(expected)
    assert compute_stored_dice(NETWORK, [], ORACLE_TASK, PLAN, torch.device("cpu"), "32-true") is None
