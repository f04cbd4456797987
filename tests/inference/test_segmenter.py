"""Any kind of scan in, the same mask out; nothing that a user has is overwritten."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from oracles import ORACLE_TASK

from medunet.errors import DatasetError, InputError, ModelError, OutputError, VolumeError
from medunet.inference import InferenceSettings, ScanFailure, Segmentation, Segmenter, load
from medunet.io import read_label_map, read_volume, write_nifti_image
from medunet.models import SYNTHETIC_WARNING, LabelStep, Model, Postprocessing
from medunet.models.quality import DiceCalibration
from medunet.postprocessing import compute_agreement, measure_case
from medunet.postprocessing.quality import build_quality_ranges
from medunet.tasks import Task
from medunet.volume import Volume

SPACING = (0.75, 1.25, 3.0)  # exact in float32, so that file and memory agree to the last bit


@pytest.fixture
def segmenter(build_oracle: Callable[..., Model]) -> Segmenter:
    return Segmenter(build_oracle(spacing=SPACING), "cpu")


@pytest.fixture
def scan_path(tmp_path: Path, make_densities: Any) -> Path:
    scan, _ = make_densities(spacing=SPACING)
    path = tmp_path / "scan.nii.gz"
    write_nifti_image(scan, path)
    return path


# ---- in and out --------------------------------------------------------------------------------------------------------


def test_every_kind_of_scan_gives_the_same_voxels(segmenter: Segmenter, scan_path: Path, make_densities: Any) -> None:
    scan, expected = make_densities(spacing=SPACING)
    kinds: list[Any] = [
        scan_path,
        str(scan_path),
        [scan_path],
        nib.load(scan_path),
        sitk.ReadImage(str(scan_path)),
        (scan.array[0], scan.affine),
        (scan.array, scan.affine),
        scan,
    ]
    for kind in kinds:
        labels = segmenter.segment(kind).labels
        assert np.array_equal(labels.array, expected.array), type(kind)
        np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-5)


def test_the_mask_comes_back_as_the_kind_of_object_that_the_scan_was(segmenter: Segmenter, make_densities: Any) -> None:
    scan, expected = make_densities(spacing=SPACING)
    as_nibabel = nib.Nifti1Image(scan.array[0], scan.affine)
    mask = segmenter.segment(as_nibabel).to_like(as_nibabel)
    assert isinstance(mask, nib.Nifti1Image)
    assert np.array_equal(np.asarray(mask.dataobj), expected.array[0])
    assert np.array_equal(mask.affine, scan.affine)

    as_pair = (scan.array[0], scan.affine)
    array, affine = segmenter.segment(as_pair).to_like(as_pair)
    assert np.array_equal(array, expected.array[0])
    assert np.array_equal(affine, scan.affine)
    assert isinstance(segmenter.segment(scan).to_like(scan), Volume)


def test_a_simpleitk_mask_lies_on_the_simpleitk_scan(segmenter: Segmenter, scan_path: Path) -> None:
    scan = sitk.ReadImage(str(scan_path))
    mask = segmenter.segment(scan).to_like(scan)
    assert mask.GetSize() == scan.GetSize()
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, name)(), getattr(scan, name)(), atol=1e-5)
    # Where the world says bone, the mask says bone.
    point = scan.TransformIndexToPhysicalPoint((7, 5, 9))
    values = dict(zip((-1000, -100, 0, 100, 300, 900), (0, 1, 2, 3, 4, 7), strict=True))
    assert mask[mask.TransformPhysicalPointToIndex(point)] == values[round(scan[7, 5, 9])]


def test_many_scans_come_one_by_one(segmenter: Segmenter, make_densities: Any, tmp_path: Path) -> None:
    scan, expected = make_densities(spacing=SPACING)
    masks = segmenter.segment_many([scan, tmp_path / "missing.nii.gz"])
    assert np.array_equal(next(masks).labels.array, expected.array)
    with pytest.raises(VolumeError, match=r"missing\.nii\.gz"):
        next(masks)


def test_an_unreadable_scan_costs_only_itself_on_request(
    segmenter: Segmenter, make_densities: Any, tmp_path: Path
) -> None:
    scan, expected = make_densities(spacing=SPACING)
    first, failure, last = segmenter.segment_many([scan, tmp_path / "missing.nii.gz", scan], keeps_going=True)
    assert isinstance(failure, ScanFailure)
    assert failure.scan == tmp_path / "missing.nii.gz"
    assert isinstance(failure.error, VolumeError)
    for segmentation in (first, last):
        assert isinstance(segmentation, Segmentation)
        assert np.array_equal(segmentation.labels.array, expected.array)


def test_several_threads_may_ask_at_once(segmenter: Segmenter, make_densities: Any) -> None:
    pairs = [make_densities(spacing=SPACING, seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda pair: segmenter.segment(pair[0]).labels.array, pairs))
    for labels, (_, expected) in zip(found, pairs, strict=True):
        assert np.array_equal(labels, expected.array)


def test_stages_are_timed_and_tiles_counted(segmenter: Segmenter, make_densities: Any) -> None:
    calls: list[tuple[int, int]] = []
    result = segmenter.segment(make_densities()[0], on_tiles=lambda done, total: calls.append((done, total)))
    assert list(result.timings) == ["read", "prepare", "network", "restore", "postprocess", "flags"]
    assert all(seconds >= 0 for seconds in result.timings.values())
    assert calls
    assert calls[-1][0] == calls[-1][1]
    assert result.device == "cpu"


def test_the_mask_is_what_the_models_postprocessing_leaves(
    build_oracle: Callable[..., Model], make_volume: Any
) -> None:
    # Bone in two parts, of which the smaller one goes; muscle in two parts, which stays.
    grid = make_volume(shape=(12, 14, 10), spacing=SPACING, orientation="RAS")
    expected = np.zeros((1, 12, 14, 10), np.uint8)
    expected[:, 2:6, 2:6, 2:6] = 7
    expected[:, 8:10, 2:6, 6:8] = 2
    expected[:, 3, 12, 3] = 2
    found = expected.copy()
    found[:, 9, 10:12, 3] = 7
    scan = grid.with_array(np.array((-1000, 0, -100, 0, 0, 0, 0, 900), np.float32)[found])
    scan.array[found == 2] = 0
    model = build_oracle(spacing=SPACING)
    assert np.array_equal(Segmenter(model, "cpu").segment(scan).labels.array, found)
    kept = dataclasses.replace(model, postprocessing=Postprocessing(keep_largest=("bone",)))
    segmentation = Segmenter(kept, "cpu").segment(scan)
    assert np.array_equal(segmentation.labels.array, expected)
    assert segmentation.volumes_ml["bone"] == pytest.approx(64 * np.prod(SPACING) / 1000)


def test_steps_are_taken_and_what_they_skip_is_said(
    build_oracle: Callable[..., Model], make_volume: Any, caplog: pytest.LogCaptureFixture
) -> None:
    grid = make_volume(shape=(12, 14, 10), spacing=SPACING, orientation="RAS")
    expected = np.zeros((1, 12, 14, 10), np.uint8)
    expected[:, 2:7, 2:7, 2:7] = 7
    found = expected.copy()
    found[:, 4, 4, 4] = 0
    scan = grid.with_array(np.array((-1000, 0, -100, 0, 0, 0, 0, 900), np.float32)[found])
    steps = (LabelStep(label="bone", step="opening:mm=50"), LabelStep(label="bone", step="fill-holes"))
    model = dataclasses.replace(build_oracle(spacing=SPACING), postprocessing=Postprocessing(steps=steps))
    assert np.array_equal(Segmenter(model, "cpu").segment(scan).labels.array, expected)
    assert "bone: opening:mm=50, skipped, because nothing would be left of the label" in caplog.text
    untouched = Segmenter(model, "cpu", InferenceSettings(postprocessing="none")).segment(scan)
    assert np.array_equal(untouched.labels.array, found)
    with pytest.raises(InputError, match="The postprocessing is 'modl'; expected model, none"):
        InferenceSettings(postprocessing="modl")  # type: ignore[arg-type]


def test_what_is_unlike_training_is_flagged(build_oracle: Callable[..., Model], make_densities: Any) -> None:
    facts = [measure_case(*make_densities(seed=seed), ORACLE_TASK) for seed in range(8)]
    ranges = build_quality_ranges(facts, ORACLE_TASK)
    segmenter = Segmenter(dataclasses.replace(build_oracle(), quality=ranges), "cpu")
    usual, _ = make_densities(seed=99)
    coarse, _ = make_densities(seed=99, spacing=(2.8, 4.8, 12.0))
    assert "spacing" not in {flag.code for flag in segmenter.segment(usual).flags}
    (flag,) = [flag for flag in segmenter.segment(coarse).flags if flag.code == "spacing"]
    assert "in training" in flag.message
    assert Segmenter(build_oracle(), "cpu").segment(coarse).flags == ()  # a model that does not say what it has seen


def test_members_that_agree_are_counted(build_oracle: Callable[..., Model], make_densities: Any) -> None:
    scan, mask = make_densities(spacing=SPACING)
    alone = Segmenter(build_oracle(spacing=SPACING), "cpu").segment(scan)
    assert alone.agreement is None
    segmenter = Segmenter(build_oracle(spacing=SPACING), "cpu", InferenceSettings(flips="all"))
    assert segmenter.segment(scan).agreement is None  # nobody learnt what it says, and nobody asked
    mirrored = segmenter.segment(scan, agreement=True)
    assert mirrored.agreement is not None
    assert mirrored.agreement.members == "2 flips"
    # The oracle looks at single voxels, so it sees the same in a mirror.
    assert set(compute_agreement(mirrored.agreement).values()) == {1.0}
    assert np.array_equal(mirrored.labels.array, mask.array)


@pytest.mark.parametrize(
    ("members", "options", "is_counted"),
    [
        ("2 flips", {}, True),
        ("8 flips", {}, False),
        ("2 flips", {"speed": "fast"}, False),  # larger steps: other masks, and passes that agree less
        ("2 flips", {"step_fraction": 0.3}, False),
        ("2 flips", {"speed": "fast", "step_fraction": 0.5}, True),
    ],
)
def test_agreement_is_counted_where_it_predicts_the_dice(
    build_oracle: Callable[..., Model], make_densities: Any, members: str, options: Any, is_counted: bool
) -> None:
    facts = [measure_case(*make_densities(seed=seed), ORACLE_TASK) for seed in range(2)]
    ranges = build_quality_ranges(facts, ORACLE_TASK)
    calibration = DiceCalibration(
        members=members, num_cases=9, intercept=2.0, slope=1.0, mean_agreement=2.0, highest_agreement=5.0, sum_squares=4.0,
        half_width=0.5, level=0.9, poor_dice=0.5,
    )  # fmt: skip
    labels = {name: row.model_copy(update={"dice_calibration": calibration}) for name, row in ranges.labels.items()}
    model = dataclasses.replace(build_oracle(), quality=ranges.model_copy(update={"labels": labels}))
    segmenter = Segmenter(model, "cpu", InferenceSettings(flips="all", **options))
    scan = make_densities()[0]
    assert (segmenter.segment(scan).agreement is not None) is is_counted
    # Who counts anyway is told whose agreement it is.
    counts = segmenter.segment(scan, agreement=True).agreement
    assert counts is not None
    assert (counts.members == members) is is_counted


def test_no_channel_is_replaced_by_the_mask(
    build_oracle: Callable[..., Model], make_densities: Any, tmp_path: Path
) -> None:
    task = Task.model_validate(ORACLE_TASK.model_dump() | {"channels": ("first", "second")})
    scan, _ = make_densities(spacing=SPACING)
    paths = [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"]
    for path in paths:
        write_nifti_image(scan, path)
    before = paths[1].read_bytes()
    segmentation = Segmenter(build_oracle(task, spacing=SPACING), "cpu").segment(paths)
    (tmp_path / "link.nii.gz").symlink_to(paths[1])
    for output in (*paths, tmp_path / "link.nii.gz"):
        with pytest.raises(OutputError, match="is the input"):
            segmentation.save(output, overwrite=True)
    assert paths[1].read_bytes() == before


def test_the_bare_network_is_at_hand(build_oracle: Callable[..., Model]) -> None:
    model = build_oracle()
    assert Segmenter(model, "cpu").network is model.network


def test_the_same_scan_gives_the_same_mask_twice(segmenter: Segmenter, make_densities: Any) -> None:
    scan, _ = make_densities()
    assert np.array_equal(segmenter.segment(scan).labels.array, segmenter.segment(scan).labels.array)


def test_one_file_per_channel(build_oracle: Callable[..., Model], make_densities: Any, tmp_path: Path) -> None:
    task = Task.model_validate(ORACLE_TASK.model_dump() | {"channels": ("first", "second")})
    segmenter = Segmenter(build_oracle(task, spacing=SPACING), "cpu")
    scan, expected = make_densities(spacing=SPACING)
    other = scan.with_array(np.zeros_like(scan.array))
    paths = [tmp_path / "scan_0000.nii.gz", tmp_path / "scan_0001.nii.gz"]
    for volume, path in zip((scan, other), paths, strict=True):
        write_nifti_image(volume, path)
    # The second channel is soft tissue everywhere, so nothing is outside the body; the oracle looks at the first.
    assert np.array_equal(segmenter.segment(paths).labels.array, expected.array)


def test_a_wrong_number_of_channels_is_refused(segmenter: Segmenter, make_volume: Any) -> None:
    with pytest.raises(DatasetError, match=r"2 volumes or channels.*expects 1 \(ct\)"):
        segmenter.segment(make_volume(num_channels=2))


@pytest.mark.parametrize(("scan", "message"), [([], "empty list"), (3, "Cannot take a int"), (None, "NoneType")])
def test_what_is_no_scan_is_refused(segmenter: Segmenter, scan: Any, message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        segmenter.segment(scan)


def test_nan_in_memory_is_refused(segmenter: Segmenter) -> None:
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3] = np.nan
    with pytest.raises(VolumeError, match="1 NaN"):
        segmenter.segment((array, np.eye(4)))


def test_an_absent_device_is_refused(build_oracle: Callable[..., Model]) -> None:
    with pytest.raises(InputError, match="not here"):
        Segmenter(build_oracle(), "cuda:97")
    with pytest.raises(InputError, match="no device 'gpu'"):
        Segmenter(build_oracle(), "gpu")


# ---- the result --------------------------------------------------------------------------------------------------------


def test_volumes_are_counted_in_millilitres() -> None:
    array = np.zeros((1, 10, 10, 10), np.uint8)
    array[0, 1, 1, 1:6], array[0, 2, 1, 1:4] = 1, 2
    labels = Volume(array, np.diag([2.0, 5.0, 10.0, 1.0]))  # 0.1 ml a voxel
    ml = Segmentation(labels=labels, label_values={"whole": (1, 2), "core": (2,), "absent": (3,)}).volumes_ml
    assert ml == pytest.approx({"whole": 0.8, "core": 0.3, "absent": 0.0})


def test_the_volume_of_a_structure_that_the_scan_cuts_is_not_known() -> None:
    array = np.zeros((1, 10, 10, 10), np.uint8)
    array[0, 0, 1, 1:6], array[0, 5, 5, 5] = 1, 2
    labels = Volume(array, np.diag([2.0, 5.0, 10.0, 1.0]))
    segmentation = Segmentation(labels=labels, label_values={"cut": (1,), "whole": (2,)})
    assert segmentation.volumes_ml == {"cut": None, "whole": pytest.approx(0.1)}
    assert segmentation.volumes["cut"].visible_ml == pytest.approx(0.5)
    assert "left border" in str(segmentation.volumes["cut"].reason)


def test_a_saved_mask_reads_back(segmenter: Segmenter, scan_path: Path, tmp_path: Path, make_densities: Any) -> None:
    segmentation = segmenter.segment(scan_path)
    path = segmentation.save(tmp_path / "new folder" / "mask.nii.gz")
    _, expected = make_densities(spacing=SPACING)
    assert np.array_equal(read_label_map(path).array, expected.array)
    assert np.array_equal(read_label_map(path).affine, read_volume(scan_path).affine)


def test_the_scans_geometry_is_kept_bit_for_bit(segmenter: Segmenter, tmp_path: Path, make_densities: Any) -> None:
    # A scanner's header: sform and qform differ in the last digits and have codes of their own.
    scan, _ = make_densities(spacing=SPACING)
    image = nib.Nifti1Image(scan.array[0], scan.affine)
    image.header.set_sform(scan.affine, code=4)
    image.header.set_qform(scan.affine, code=1)
    image.header["qoffset_x"] += np.float32(1e-4)
    image.header["descrip"] = b"DOE^JANE"
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "scan.nii.gz")
    segmenter.segment(tmp_path / "scan.nii.gz").save(tmp_path / "mask.nii.gz")
    before, after = (nib.load(tmp_path / name).header for name in ("scan.nii.gz", "mask.nii.gz"))
    for field in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
                  "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"):  # fmt: skip
        assert before[field].tobytes() == after[field].tobytes(), field
    assert before["pixdim"][:4].tobytes() == after["pixdim"][:4].tobytes()
    assert b"DOE" not in after["descrip"].tobytes()
    assert after["descrip"].tobytes().startswith(b"medunet 0.1.0 oracle-ct")


def test_the_scan_is_never_overwritten(segmenter: Segmenter, scan_path: Path) -> None:
    before = scan_path.read_bytes()
    segmentation = segmenter.segment(scan_path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is the input"):
            segmentation.save(scan_path, overwrite=overwrite)
    assert scan_path.read_bytes() == before


def test_an_existing_mask_is_replaced_only_on_request(segmenter: Segmenter, scan_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(b"precious")
    segmentation = segmenter.segment(scan_path)
    with pytest.raises(OutputError, match="exists already"):
        segmentation.save(path)
    assert path.read_bytes() == b"precious"
    segmentation.save(path, overwrite=True)
    assert read_label_map(path).spatial_shape == (17, 22, 31)


# ---- loading -----------------------------------------------------------------------------------------------------------


def test_a_model_of_phantoms_warns_once_per_load(
    write_model: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, make_densities: Any
) -> None:
    folder = write_model(tmp_path / "model", is_synthetic=True)
    with caplog.at_level(logging.WARNING, logger="medunet"):
        segmenter = load(folder, device="cpu")
        segmenter.segment(make_densities(shape=(9, 8, 7))[0])
        segmenter.segment(make_densities(shape=(9, 8, 7))[0])
        assert [record.message for record in caplog.records] == [SYNTHETIC_WARNING]
        load(folder, device="cpu")
    assert [record.message for record in caplog.records] == [SYNTHETIC_WARNING] * 2


def test_what_is_said_before_the_network_is_kept_with_the_mask(
    build_oracle: Callable[..., Model], make_densities: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, _ = make_densities(shape=(9, 8, 7))
    assert Segmenter(build_oracle(), "cpu").segment(scan).warnings == ()
    segmenter = Segmenter(build_oracle(is_synthetic=True), "cpu")
    monkeypatch.setattr("medunet.inference.predictor.measure_room", lambda device: 10**6)
    synthetic, memory = segmenter.segment(scan).warnings
    assert synthetic == SYNTHETIC_WARNING
    assert "0.00 GB are free; it is tried in the smallest portions" in memory
    monkeypatch.undo()
    assert segmenter.segment(scan).warnings == (SYNTHETIC_WARNING,)


def test_a_model_of_patients_does_not_warn(
    write_model: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(write_model(tmp_path / "model"), device="cpu")
    assert not caplog.records


def test_the_newest_model_is_loaded_when_none_is_named(
    write_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="no model"):
        load(device="cpu")
    write_model(tmp_path / "model")
    assert load(device="cpu").model.folder == tmp_path / "model"
    assert load(device="cpu").task == ORACLE_TASK


# ---- real scans --------------------------------------------------------------------------------------------------------


@pytest.fixture
def untrained(write_model: Callable[..., Path], tmp_path: Path) -> Segmenter:
    from oracles import build_plan_for

    plan = build_plan_for(ORACLE_TASK, (4.0, 4.0, 4.0), (64, 64, 64))
    return load(write_model(tmp_path / "model", plan=plan), device="cpu")


def check_same_grid_as_file(segmenter: Segmenter, path: Path, tmp_path: Path) -> None:
    mask = nib.load(segmenter.segment(path).save(tmp_path / "mask.nii.gz", overwrite=True))
    scan = nib.load(path)
    assert mask.shape == scan.shape
    assert np.array_equal(mask.affine, scan.affine)
    found = set(np.unique(np.asarray(mask.dataobj)).tolist())
    assert found <= {0, 1, 2, 3, 4, 7}
    assert len(found) > 1  # an untrained network says something


@pytest.mark.realdata
def test_a_real_ct(untrained: Segmenter, real_data: Path, tmp_path: Path) -> None:
    check_same_grid_as_file(untrained, real_data / "torso-ct" / "example_ct.nii.gz", tmp_path)


_FEW = ("RAS", "LPS", "PIR", "SAL", "ASL", "IRP")


@pytest.mark.realdata
@pytest.mark.parametrize("name", _FEW)
def test_a_head_in_some_orientations(untrained: Segmenter, real_data: Path, tmp_path: Path, name: str) -> None:
    check_same_grid_as_file(untrained, real_data / "nifti" / "48-orientations" / f"{name}.nii.gz", tmp_path)


@pytest.mark.slow
@pytest.mark.realdata
def test_a_head_in_all_orientations(untrained: Segmenter, real_data: Path, tmp_path: Path) -> None:
    paths = sorted((real_data / "nifti" / "48-orientations").glob("*.nii.gz"))
    assert len(paths) == 48
    for path in paths:
        check_same_grid_as_file(untrained, path, tmp_path)


def test_a_slice_of_the_scanned_folder_is_never_replaced(segmenter: Segmenter, tmp_path: Path) -> None:
    from synthetic_series import build_series

    folder = build_series().write(tmp_path / "in")
    segmentation = segmenter.segment(folder)
    target = sorted(folder.iterdir())[0]
    content = target.read_bytes()
    with pytest.raises(OutputError, match="is the input"):
        segmentation.save(target, mask_format="dicom-seg", overwrite=True)
    assert target.read_bytes() == content
