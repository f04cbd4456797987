"""Many scans in one call: what is finished is passed over, what failed costs only itself, and a JSON file says what was done."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from html_pages import Page
from oracles import ORACLE_HU, ORACLE_TASK, NearestIntensity, Outcome, build_plan_for
from torch import Tensor

from medunet.cli import infer_run
from medunet.errors import InputError
from medunet.inference import load, plan_tiles
from medunet.inference.segmenter import Segmenter
from medunet.io import read_label_map, read_volume, write_nifti_image
from medunet.models import LabelStep, Postprocessing, write_results
from medunet.models.records import read_records
from medunet.planning import build_locator_task
from medunet.postprocessing import measure_case
from medunet.postprocessing.quality import build_quality_ranges
from medunet.tasks import Task
from medunet.volume import Volume

Command = Callable[..., Outcome]


@pytest.fixture
def infer(medunet_command: Command, oracle_folder: Path) -> Command:
    def call(*arguments: object) -> Outcome:
        return medunet_command("infer", *arguments, "--model", oracle_folder, "--device", "cpu")

    return call


@pytest.fixture
def scans(tmp_path: Path, write_densities: Any) -> Path:
    (tmp_path / "scans").mkdir()
    for seed, name in enumerate("abcdefghij"):
        write_densities(tmp_path / "scans" / f"{name}.nii.gz", spacing=(1.0, 1.0, 1.0), shape=(9, 10, 8), seed=seed)
    return tmp_path / "scans"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


# ---- manifests -------------------------------------------------------------------------------------------------------


def test_a_manifest_says_what_was_done(
    infer: Command, scans: Path, tmp_path: Path, oracle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1.99"))  # as if it had been loaded
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    outcome = infer(scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz", "--speed", "fast", "--step", 0.9)
    assert outcome.exit_code == 0, outcome.err
    manifest = read(tmp_path / "mask.nii.gz.manifest.json")
    assert manifest["status"] == "done"
    assert manifest["scan"] == ["a.nii.gz"]
    assert manifest["scan_bytes"] == [(scans / "a.nii.gz").stat().st_size]
    assert manifest["weights_sha256"] == read_records(oracle_folder).training.weights_sha256
    assert manifest["is_synthetic"] is False
    assert (manifest["settings"]["speed"], manifest["settings"]["step_fraction"]) == ("fast", 0.9)
    assert manifest["outputs"] == ["mask.nii.gz", "mask.json"]
    assert {"read", "prepare", "network", "restore", "write"} <= set(manifest["seconds"])
    assert manifest["peak_memory_mib"]["host"] > 50
    assert "PyTorch" in manifest["computed_by"]
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["versions"]["onnxruntime"] == "1.99"
    assert "openvino" not in manifest["versions"]
    mask = read_label_map(tmp_path / "mask.nii.gz")
    bone_ml = (mask.array == 7).sum() * mask.voxel_volume_mm3 / 1000
    assert manifest["volumes"]["bone"]["visible_ml"] == pytest.approx(bone_ml)
    assert manifest["volumes"]["bone"]["volume_ml"] is None  # the noise reaches the border
    assert "border" in manifest["volumes"]["bone"]["reason"]


def test_what_was_warned_of_is_in_the_manifest_and_on_the_page(
    infer: Command, tmp_path: Path, oracle_folder: Path, write_densities: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the reader, by a step that was skipped, and by a writer; the next scan has warnings of its own."""
    (tmp_path / "Doe").mkdir()
    for seed, name in enumerate("ab"):
        write_densities(tmp_path / "Doe" / f"{name}.nii", spacing=(1.0, 1.0, 1.0), shape=(9, 10, 8), seed=seed)
    with (tmp_path / "Doe" / "a.nii").open("ab") as file:
        file.write(b"more")
    steps = (LabelStep(label="bone", step="opening:mm=50"),)
    (oracle_folder / "postprocessing.json").write_text(Postprocessing(steps=steps).model_dump_json())
    monkeypatch.setattr(
        infer_run,
        "write_mesh",
        lambda structures, path: logging.getLogger("medunet.io").warning("%s has no structure.", path),
    )
    meshes, page = tmp_path / "meshes", tmp_path / "report.html"
    outcome = infer(tmp_path / "Doe", "-o", tmp_path / "masks", "--mesh", meshes, "--report", page)
    assert outcome.exit_code == 0, outcome.err
    skipped = "Post-processing: bone: opening:mm=50, skipped, because nothing would be left of the label."
    for name, notes in (("a", ["a.nii holds 4 bytes after its voxels; they are ignored."]), ("b", [])):
        manifest = read(tmp_path / "masks" / "manifests" / f"{name}.nii.gz.json")
        assert manifest["warnings"] == [skipped, f"{name}.vtp has no structure."]
        assert manifest["notes"] == notes
    text = " ".join(Page(page.read_text()).text)
    assert text.count(skipped) == 2
    assert text.count("a.nii holds 4 bytes") == 1


def test_json_on_the_terminal_is_the_manifests(infer: Command, scans: Path, tmp_path: Path) -> None:
    outcome = infer(scans, "-o", tmp_path / "masks", "--json")
    manifests = json.loads(outcome.out)
    assert [manifest["scan"] for manifest in manifests] == [[f"{name}.nii.gz"] for name in "abcdefghij"]
    assert manifests[3] == read(tmp_path / "masks" / "manifests" / "d.nii.gz.json")


# ---- how much is computed --------------------------------------------------------------------------------------------


SHAPE = (120, 48, 56)


class Counting(NearestIntensity):
    """Notes how many tiles each call brings, and in which numbers the arithmetic is done."""

    batches: ClassVar[list[int]] = []
    dtypes: ClassVar[set[torch.dtype]] = set()

    def forward(self, patches: Tensor) -> Tensor:
        if not torch.jit.is_tracing():
            self.batches.append(len(patches))
            self.dtypes.add(torch.matmul(patches[0, 0, 0], patches[0, 0, 0].T).dtype)
        return super().forward(patches)


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_model: Callable[..., Path]) -> Path:
    """A model whose network counts its tiles, with a small network that finds bone; beside it a scan.

    The body is a plate with a pole on it, so that the box around it holds much air; at one end of it is bone in marrow, and
    the rest is no structure.
    """
    folder = tmp_path / "counted-model"
    monkeypatch.setattr("medunet.models.folder.build_network", lambda plan: Counting([0.0] * plan.out_channels))
    body_hu = -400.0
    weights = Counting([body_hu, *ORACLE_HU[1:]]).state_dict()
    write_model(folder, plan=build_plan_for(ORACLE_TASK, (1.0, 1.0, 1.0), (16, 16, 16)), weights=weights)
    small = build_locator_task(ORACLE_TASK)
    plan = build_plan_for(small, (4.0, 4.0, 4.0), (32, 16, 16))
    write_model(folder / "locate", small, plan=plan, weights=Counting([body_hu, 900.0]).state_dict())
    array = np.full(SHAPE, -1000.0, np.float32)
    array[:, :, :8] = array[-4:, -4:, :] = body_hu
    array[8:26, 15:30, 1:7] = 300.0
    array[10:22, 20:28, 2:6] = 900.0
    write_nifti_image(Volume(array[None], np.eye(4)), tmp_path / "scan.nii.gz")
    return folder


@pytest.fixture
def compute(medunet_command: Command, counted: Path, tmp_path: Path) -> Callable[..., tuple[Any, list[int], Any]]:
    """The manifest, the tiles of each call of a network, and the mask."""

    def call(*options: object) -> tuple[Any, list[int], Any]:
        Counting.batches.clear()
        Counting.dtypes.clear()
        mask = tmp_path / "mask.nii.gz"
        outcome = medunet_command(
            "infer",
            tmp_path / "scan.nii.gz",
            "-o",
            mask,
            "--model",
            counted,
            "--device",
            "cpu",
            "--overwrite",
            *options,
        )
        assert outcome.exit_code == 0, outcome.err
        return read(tmp_path / "mask.nii.gz.manifest.json"), list(Counting.batches), read_label_map(mask).array

    return call


def test_no_skip_computes_the_air_too(compute: Callable[..., Any]) -> None:
    manifest, skipping, usual = compute()
    assert manifest["settings"]["skip_air"] is True
    manifest, batches, mask = compute("--no-skip")
    assert manifest["settings"]["skip_air"] is False
    assert sum(batches) == len(plan_tiles(SHAPE, (16, 16, 16)))
    assert 0 < sum(skipping) < 0.7 * sum(batches)
    assert np.array_equal(mask, usual)
    assert set(np.unique(mask)) == {0, 4, 7}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_tiles_at_once_are_as_many_as_asked_for(compute: Callable[..., Any], batch_size: int) -> None:
    _, usual_batches, usual = compute()
    manifest, batches, mask = compute("--batch-size", batch_size)
    assert manifest["settings"]["batch_size"] == batch_size
    assert max(batches) == batch_size
    assert sum(batches) == sum(usual_batches)
    assert np.array_equal(mask, usual)


def test_the_arithmetic_is_that_which_was_asked_for(compute: Callable[..., Any]) -> None:
    _, _, usual = compute("--precision", "fp32")
    assert Counting.dtypes == {torch.float32}
    manifest, _, mask = compute("--precision", "bf16")
    assert Counting.dtypes == {torch.bfloat16}
    assert manifest["settings"]["precision"] == "bf16"
    assert "bfloat16" in manifest["computed_by"]
    assert np.array_equal(mask, usual)


@pytest.mark.parametrize(("name", "words"), [("torch", "PyTorch"), ("openvino", "OpenVINO")])
def test_the_backend_is_that_which_was_asked_for(compute: Callable[..., Any], name: str, words: str) -> None:
    if name != "torch":
        pytest.importorskip(name)
    _, _, usual = compute()
    manifest, batches, mask = compute("--backend", name, "--precision", "fp32")
    assert manifest["settings"]["backend"] == name
    assert manifest["computed_by"].startswith(words)
    assert bool(batches) is (name == "torch")
    assert np.array_equal(mask, usual)


def test_the_box_is_looked_for_where_that_is_asked_for(compute: Callable[..., Any]) -> None:
    manifest, whole, usual = compute("--no-skip")  # nobody measured that the box is enough
    assert manifest["settings"]["locate"] == "auto"
    assert "locate" not in manifest["seconds"]
    manifest, never, _ = compute("--no-skip", "--locate", "never")
    assert never == whole
    manifest, located, mask = compute("--no-skip", "--locate", "always")
    assert manifest["settings"]["locate"] == "always"
    assert "locate" in manifest["seconds"]
    assert sum(located) < 0.7 * sum(whole)
    assert np.array_equal(mask, usual)


@pytest.mark.parametrize(("uses_flips", "words"), [(True, "used"), (False, "not used")])
def test_a_plain_model_does_and_says_what_was_measured(
    infer: Command, scans: Path, tmp_path: Path, oracle_folder: Path, uses_flips: bool, words: str
) -> None:
    (oracle_folder / "speed.json").write_text(json.dumps(SPEED | {"uses_flips": uses_flips}))
    call = (scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz", "--overwrite")
    described = {}
    for speed in ("fast", "balanced", "best"):
        outcome = infer(*call, "--speed", speed)
        assert outcome.exit_code == 0, outcome.err
        (line,) = [line for line in outcome.out.splitlines() if line.startswith("In validation")]
        balanced = "balanced Dice 0.9000 in 3.0 s" if uses_flips else "balanced Dice 0.8000 in 1.0 s"
        assert line == (
            f"In validation: fast Dice 0.8000 in 1.0 s, {balanced}, best Dice 0.9000 in 3.0 s (3 cases; mirrored passes are "
            f"{words} unless asked for otherwise)"
        )
        described[speed] = "2 mirrored passes" in read(tmp_path / "mask.nii.gz.manifest.json")["computed_by"]
    assert described == {"fast": False, "balanced": uses_flips, "best": True}
    assert ("2 mirrored passes" in load(oracle_folder, device="cpu").description) is uses_flips


# ---- going on --------------------------------------------------------------------------------------------------------


def test_row_67_a_broken_scan_in_a_list_of_ten_costs_only_itself(infer: Command, scans: Path, tmp_path: Path) -> None:
    whole = (scans / "e.nii.gz").read_bytes()
    (scans / "e.nii.gz").write_bytes(whole[: len(whole) // 2])
    outcome = infer(scans, "-o", tmp_path / "masks")
    assert outcome.exit_code == 2
    assert "e.nii.gz" in outcome.errors[0]
    assert "1 of 10 scans failed" in outcome.errors[1]
    assert {path.name for path in (tmp_path / "masks").glob("*.nii.gz")} == {f"{n}.nii.gz" for n in "abcdfghij"}
    assert len(list((tmp_path / "masks" / "manifests").iterdir())) == 9
    (scans / "e.nii.gz").write_bytes(whole)
    again = infer(scans, "-o", tmp_path / "masks", "--continue")
    assert again.exit_code == 0, again.err
    assert "9 of 10 scans are finished already" in again.out
    assert again.out.count(" -> ") == 1
    assert (tmp_path / "masks" / "e.nii.gz").is_file()


def test_what_failed_is_named_at_the_end(
    infer: Command, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scans / "b.nii.gz").write_text("no volume")
    segment = Segmenter.segment

    def run_out(self: Segmenter, scan: Any, **options: Any) -> Any:
        if scan.path.name == "d.nii.gz":
            msg = "It needs more than there is."  # of errors that do not say which scan it is
            raise InputError(msg)
        return segment(self, scan, **options)

    monkeypatch.setattr(Segmenter, "segment", run_out)
    outcome = infer(scans, "-o", tmp_path / "masks", "--json")
    assert outcome.exit_code == 2
    *_, first, second, last = outcome.err.splitlines()
    assert first.startswith(f"failed: {scans / 'b.nii.gz'} is no NIfTI file")
    assert second == f"failed: {scans / 'd.nii.gz'}: It needs more than there is."
    assert last == f"error: 2 of 10 scans failed (listed above); the masks of the others are in {tmp_path / 'masks'}."
    results = json.loads(outcome.out)
    assert [result["scan"] for result in results] == [[f"{name}.nii.gz"] for name in "abcdefghij"]
    assert [result["status"] for result in results] == ["done", "failed", "done", "failed", *["done"] * 6]
    assert results[3] == {"status": "failed", "scan": ["d.nii.gz"], "error": second.removeprefix("failed: ")}


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception, names: str) -> None:
    """Segmenting these scans fails."""
    segment = Segmenter.segment

    def fail(self: Segmenter, scan: Any, **options: Any) -> Any:
        if scan.path.name[0] in names:
            raise error
        return segment(self, scan, **options)

    monkeypatch.setattr(Segmenter, "segment", fail)


@pytest.mark.parametrize(
    ("options", "wanted", "unwanted"),
    [
        ([], ["--batch-size 1", "--flips none", "--speed fast", "--memory-gb"], ["--device cpu"]),
        (["--batch-size", 1, "--flips", "none"], ["--speed fast", "--memory-gb"], ["--batch-size", "--flips", "GPU"]),
        (["--speed", "fast", "--batch-size", 1], ["--memory-gb"], ["Try", "--speed", "--flips"]),
    ],
)
def test_too_little_memory_says_what_may_help(
    infer: Command,
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[object],
    wanted: list[str],
    unwanted: list[str],
) -> None:
    fail_with(monkeypatch, MemoryError(), "a")
    outcome = infer(scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz", *options)
    outcome.check_refused("a.nii.gz could not be segmented: memory ran out.", *wanted)
    assert not any(words in outcome.errors[0] for words in unwanted)
    monkeypatch.setattr(infer_run, "choose_device", lambda name: torch.device("cuda"))
    again = infer(scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz", *options)
    again.check_refused("memory ran out on the GPU", "--device cpu", *(words for words in wanted))


def test_a_fault_of_the_program_shows_where_it_was_raised(
    infer: Command, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, RuntimeError("shapes (3, 4) and (5) do not fit"), "cf")
    outcome = infer(scans, "-o", tmp_path / "masks")
    assert outcome.exit_code == 2
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 8
    failed = [line for line in outcome.errors if "could not be segmented" in line]
    assert ["c.nii.gz" in failed[0], "f.nii.gz" in failed[1]] == [True, True]
    assert all("RuntimeError (shapes (3, 4) and (5) do not fit). This is a fault of medunet" in line for line in failed)
    assert outcome.err.count("Traceback (most recent call last)") == 1  # both scans met the same
    assert "in fail\n" in outcome.err


def test_finished_scans_are_not_computed_again(
    infer: Command, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert infer(scans, "-o", tmp_path / "masks").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").rglob("*.*")}

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(Segmenter, "segment", fail)
    again = infer(scans, "-o", tmp_path / "masks", "--continue")
    assert again.exit_code == 0, again.err
    assert "10 of 10 scans are finished already" in again.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").rglob("*.*")} == before


def test_without_continue_nothing_is_replaced(infer: Command, scans: Path, tmp_path: Path) -> None:
    assert infer(scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz").exit_code == 0
    infer(scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz").check_refused("exists already", "--overwrite")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--step", 0.25], ["other settings (step_fraction)"]),
        (["--affine", "qform"], ["other settings (reading)"]),
    ],
)
def test_what_was_made_in_another_way_is_not_taken_for_finished(
    infer: Command, scans: Path, tmp_path: Path, change: list[object], words: list[str]
) -> None:
    assert infer(scans, "-o", tmp_path / "masks").exit_code == 0
    infer(scans, "-o", tmp_path / "masks", "--continue", *change).check_refused(*words, "--overwrite")
    redone = infer(scans, "-o", tmp_path / "masks", "--continue", "--overwrite", *change)
    assert redone.exit_code == 0, redone.err
    assert redone.out.count(" -> ") == 10


POSTPROCESSING = {"version": 1, "keep_largest": ["fat"], "tried": []}
FASTER = {"step_fraction": 0.5, "num_flips": 1, "dice": 0.8, "seconds": 1.0}
SPEED = {
    "version": 1,
    "num_cases": 3,
    "fast": FASTER,
    "balanced": FASTER,
    "best": FASTER | {"dice": 0.9, "num_flips": 2, "seconds": 3.0},
}


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("postprocessing.json", POSTPROCESSING, "postprocessing"),
        ("speed.json", SPEED | {"uses_flips": True}, "flips"),
    ],
)
def test_a_model_whose_decisions_changed_is_noticed(
    infer: Command, scans: Path, tmp_path: Path, oracle_folder: Path, name: str, content: Any, word: str
) -> None:
    call = (scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz")
    assert infer(*call).exit_code == 0
    (oracle_folder / name).write_text(json.dumps(content))
    infer(*call, "--continue").check_refused(f"the model folder has changed since ({word})", "--overwrite")
    assert infer(*call, "--continue", "--overwrite").exit_code == 0
    assert "finished already" in infer(*call, "--continue").out


def test_changed_ranges_are_noticed_and_what_does_not_count_is_not(
    infer: Command, scans: Path, tmp_path: Path, oracle_folder: Path, make_densities: Any
) -> None:
    call = (scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz", "--flips", "none")
    assert infer(*call).exit_code == 0
    (oracle_folder / "speed.json").write_text(json.dumps(SPEED | {"uses_flips": True}))
    assert "finished already" in infer(*call, "--continue").out  # nobody asks it
    manifest = tmp_path / "mask.nii.gz.manifest.json"
    facts = [measure_case(*make_densities(seed=seed), ORACLE_TASK) for seed in range(2)]
    ranges = build_quality_ranges(facts, ORACLE_TASK)
    (oracle_folder / "quality.json").write_text(ranges.model_dump_json())
    infer(*call, "--continue").check_refused("has changed since (quality)")
    older = read(manifest)
    del older["decided_by"]  # of a release that did not know it
    manifest.write_text(json.dumps(older))
    assert "finished already" in infer(*call, "--continue").out


def test_another_scan_of_the_same_name_is_noticed(
    infer: Command, scans: Path, tmp_path: Path, write_densities: Any
) -> None:
    assert infer(scans, "-o", tmp_path / "masks").exit_code == 0
    write_densities(scans / "c.nii.gz", spacing=(1.0, 1.0, 1.0), shape=(11, 12, 10), seed=77)
    infer(scans, "-o", tmp_path / "masks", "--continue").check_refused("c.nii.gz", "the scan has changed since")


def test_row_68_what_an_interrupted_run_left_is_made_again(infer: Command, scans: Path, tmp_path: Path) -> None:
    assert infer(scans, "-o", tmp_path / "masks").exit_code == 0
    path = tmp_path / "masks" / "manifests" / "b.nii.gz.json"
    path.write_text(json.dumps(read(path) | {"status": "running"}))  # killed after its mask, before the end
    (tmp_path / "masks" / "b.nii.gz").write_bytes(b"whatever was there")
    (tmp_path / "masks" / ".b.nii.gz.0a1b2c3d.partial").write_bytes(b"half of it")
    again = infer(scans, "-o", tmp_path / "masks", "--continue")
    assert again.exit_code == 0, again.err
    assert again.out.count(" -> ") == 1
    assert read_label_map(tmp_path / "masks" / "b.nii.gz").array.any()
    assert read(path)["status"] == "done"
    assert not list((tmp_path / "masks").glob(".*"))


def test_a_mask_that_no_manifest_speaks_of_is_somebody_elses(infer: Command, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "b.nii.gz").write_bytes(b"drawn by hand")
    infer(scans, "-o", tmp_path / "masks", "--continue").check_refused("b.nii.gz", "exists already")
    assert (tmp_path / "masks" / "b.nii.gz").read_bytes() == b"drawn by hand"


def test_a_missing_output_is_made_again(infer: Command, scans: Path, tmp_path: Path) -> None:
    assert infer(scans, "-o", tmp_path / "masks").exit_code == 0
    (tmp_path / "masks" / "b.nii.gz").unlink()
    (tmp_path / "masks" / "b.json").unlink()
    again = infer(scans, "-o", tmp_path / "masks", "--continue")
    assert again.exit_code == 0, again.err
    assert again.out.count(" -> ") == 1


def test_what_was_not_asked_for_before_is_made(infer: Command, scans: Path, tmp_path: Path) -> None:
    assert infer(scans, "-o", tmp_path / "masks").exit_code == 0
    again = infer(scans, "-o", tmp_path / "masks", "--continue", "--uncertainty")
    assert again.exit_code == 0, again.err
    assert len(list((tmp_path / "masks" / "uncertainty").iterdir())) == 10


def test_a_failure_leaves_an_earlier_run_as_it_was(
    infer: Command, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert infer(scans / "a.nii.gz", "-o", tmp_path / "out" / "mask.nii.gz").exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fail(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("medunet.inference.segmenter.postprocess_labels", fail)
    outcome = infer(scans / "a.nii.gz", "-o", tmp_path / "out" / "mask.nii.gz", "--overwrite", "--probabilities")
    outcome.check_refused("a.nii.gz", "memory ran out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_results_come_in_the_order_of_the_scans(infer: Command, scans: Path, tmp_path: Path) -> None:
    assert infer(scans / "c.nii.gz", scans / "f.nii.gz", "-o", tmp_path / "masks").exit_code == 0
    manifests = json.loads(infer(scans, "-o", tmp_path / "masks", "--continue", "--json").out)
    assert [manifest["scan"] for manifest in manifests] == [[f"{name}.nii.gz"] for name in "abcdefghij"]


@pytest.mark.parametrize("option", ["--mesh", "--preview"])
def test_several_scans_need_folders(infer: Command, scans: Path, tmp_path: Path, option: str) -> None:
    name = "x.stl" if option == "--mesh" else "x.png"
    infer(scans, "-o", tmp_path / "masks", option, tmp_path / name).check_refused(name, "names a file", "folder")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_row_68_a_killed_process_leaves_no_half_mask(tmp_path: Path, write_densities: Any, write_model: Any) -> None:
    model = write_model(tmp_path / "model", Task.model_validate(ORACLE_TASK.model_dump()))
    (tmp_path / "scans").mkdir()
    for number in range(12):
        write_densities(tmp_path / "scans" / f"{number:02}.nii.gz", shape=(40, 41, 42), spacing=(1.0, 1.0, 1.0))
    command = [sys.executable, "-m", "medunet", "infer", tmp_path / "scans", "-o", tmp_path / "masks"]
    command += ["--model", model, "--device", "cpu", "--backend", "torch"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    for _ in range(1200):
        if len(list((tmp_path / "masks").glob("*.nii.gz"))) >= 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    masks = list((tmp_path / "masks").glob("*.nii.gz"))
    assert 2 <= len(masks) < 12
    for mask in masks:
        assert read_label_map(mask).spatial_shape == (40, 41, 42)
    done = subprocess.run([*command, "--continue"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "of 12 scans are finished already" in done.stdout
    manifests = sorted((tmp_path / "masks" / "manifests").iterdir())
    assert [read(path)["status"] for path in manifests] == ["done"] * 12
    assert not [path for path in (tmp_path / "masks").rglob("*") if "partial" in path.name and path.stat().st_size]


# ---- row 72: locale, home, folders, clock ----------------------------------------------------------------------------
# Spaces, letters of any script and long paths: `test_row_72_odd_paths_work` in test_infer_command.py.

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}


NO_NETWORK = """
import pathlib, socket

def refuse(*arguments, **options):
    pathlib.Path({called!r}).write_text(ascii(arguments))
    raise OSError("no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def keep_from_network(environment: dict[str, str], folder: Path) -> tuple[dict[str, str], Path]:
    """A Python without a network, and the file that says whether it was called nevertheless: whoever does may go on without."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_NETWORK.format(called=str(folder / "called")))
    paths = [str(folder), *filter(None, [environment.get("PYTHONPATH")])]
    environment = environment | {"PYTHONPATH": os.pathsep.join(paths)}
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stderr.endswith("OSError: no network\n")
    (folder / "called").unlink()
    return environment, folder / "called"


@pytest.mark.skipif(sys.platform != "linux", reason="locales and permissions of Linux")
@pytest.mark.parametrize("place", ["ascii", "read-only"])
def test_row_72_infer(tmp_path: Path, write_densities: Any, write_model: Any, place: str) -> None:
    """In a process of its own: a terminal and file names in ASCII only, or nowhere to keep a conversion or a cache."""
    model = write_model(tmp_path / "Modell für Köpfe")
    scan, mask, preview = (tmp_path / name for name in ("Größe 体积.nii.gz", "Maske ö.nii.gz", "Bild ö.png"))
    write_densities(scan, shape=(17, 18, 12), spacing=(1.0, 1.0, 1.0))
    before = {path: path.read_bytes() for path in model.iterdir()}
    environment, called = keep_from_network(os.environ | {"OMP_NUM_THREADS": "1"}, tmp_path / "no network")
    command = [sys.executable, "-m", "medunet", "infer", scan, "-o", mask, "--model", model, "--device", "cpu"]
    command += ["--precision", "fp32"]
    if place == "ascii":
        environment |= ASCII
        command += ["--preview", preview, "--backend", "torch"]
    else:
        (tmp_path / "file").write_text("no folder can be made below it, not even by root")
        environment |= dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(tmp_path / "file" / "home"))
        (model / "backends").write_text("a file where the folder should be, for root may write anywhere")
        model.chmod(0o555)
    done = subprocess.run(command, capture_output=True, check=False, env=environment, umask=0o027)
    assert done.returncode == 0, done.stderr
    assert not called.exists(), called.read_text()
    assert mask.stat().st_mode & 0o777 == 0o640
    expected = load(model, device="cpu", backend="torch", precision="fp32").segment(scan).labels.array
    assert np.mean(read_label_map(mask).array != expected) <= (0 if place == "ascii" else 1e-3)
    assert read(tmp_path / "Maske ö.nii.gz.manifest.json")["status"] == "done"
    assert {path: path.read_bytes() for path in before} == before
    assert not list(tmp_path.rglob("*.partial"))
    if place == "ascii":
        assert done.stdout.isascii()
        assert preview.read_bytes().startswith(b"\x89PNG")
    elif "OpenVINO" in done.stdout.decode():
        assert "converted in memory" in done.stdout.decode()


# ---- what a run leaves alone -----------------------------------------------------------------------------------------


def test_a_link_to_nothing_costs_only_itself(infer: Command, scans: Path, tmp_path: Path) -> None:
    (scans / "k.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    (tmp_path / "gone.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes())
    given = (scans / "a.nii.gz", scans / "k.nii.gz", "-o", tmp_path / "masks")
    assert infer(*given).exit_code == 0
    (tmp_path / "gone.nii.gz").unlink()
    for options in (["--overwrite"], ["--continue"]):
        (tmp_path / "masks" / "manifests" / "a.nii.gz.json").unlink()
        (tmp_path / "masks" / "a.nii.gz").unlink()
        (tmp_path / "masks" / "a.json").unlink()
        outcome = infer(*given, *options)
        assert outcome.exit_code == 2
        assert "k.nii.gz is a link to a file that is gone" in outcome.errors[0]
        assert "1 of 2 scans failed" in outcome.errors[1]
        assert (tmp_path / "masks" / "a.nii.gz").is_file()


def test_a_folder_that_another_scan_is_about_to_use_stays(
    infer: Command, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One scan fails between the moments at which the writer of another makes a folder and opens a file in it."""
    begun, made, failed = threading.Event(), threading.Event(), threading.Event()
    begin, restore = infer_run.begin_manifest, infer_run._Before._restore

    def begin_and_fail(path: Path, *arguments: Any) -> Any:
        if path.name.startswith("b"):
            begun.set()
            assert made.wait(20)
            raise OSError(errno.EIO, "Input/output error")
        return begin(path, *arguments)

    def restore_and_tell(self: Any) -> None:
        restore(self)
        failed.set()

    def write(structures: Any, path: Path) -> None:
        assert begun.wait(20)
        path.parent.mkdir()
        made.set()
        assert failed.wait(20)
        path.write_bytes(b"mesh")  # not into a folder that is gone

    monkeypatch.setattr(infer_run, "begin_manifest", begin_and_fail)
    monkeypatch.setattr(infer_run._Before, "_restore", restore_and_tell)
    monkeypatch.setattr(infer_run, "write_mesh", write)
    jobs = (scans / "a.nii.gz", scans / "b.nii.gz")
    outcome = infer(*jobs, "-o", tmp_path / "masks", "--mesh", tmp_path / "meshes")
    assert "1 of 2 scans failed" in outcome.errors[1], outcome.err
    assert (tmp_path / "meshes" / "a.vtp").read_bytes() == b"mesh"


def test_folders_of_a_run_in_which_all_failed_are_gone(
    infer: Command, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medunet.inference.segmentation.write_structures", fail_to_write)
    assert infer(scans, "-o", tmp_path / "new" / "masks", "--mesh", tmp_path / "meshes").exit_code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"oracle-model", "scans"}


# ---- beside the mask -------------------------------------------------------------------------------------------------


def test_maps_and_meshes_lie_beside_the_mask(infer: Command, scans: Path, tmp_path: Path, oracle_folder: Path) -> None:
    outcome = infer(
        scans / "a.nii.gz", "-o", tmp_path / "out" / "mask.nii.gz",
        "--probabilities", "--uncertainty", "--mesh", tmp_path / "out" / "mesh.vtp",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.err
    expected = load(oracle_folder, device="cpu").segment(scans / "a.nii.gz", probabilities=True, uncertainty=True)
    for name, map_ in (("probabilities", expected.probabilities), ("uncertainty", expected.uncertainty)):
        assert map_ is not None
        found = read_volume(tmp_path / "out" / f"mask_{name}.nii.gz")
        assert np.abs(found.array - map_.array).max() < 0.005
        assert str(tmp_path / "out" / f"mask_{name}.nii.gz") in outcome.out
    assert b"VTKFile" in (tmp_path / "out" / "mesh.vtp").read_bytes()


def test_a_folder_of_masks_holds_nothing_but_masks(infer: Command, scans: Path, tmp_path: Path) -> None:
    outcome = infer(scans, "-o", tmp_path / "masks", "--probabilities", "--mesh", tmp_path / "meshes")
    assert outcome.exit_code == 0, outcome.err
    names = {f"{name}.nii.gz" for name in "abcdefghij"}
    assert {path.name for path in (tmp_path / "masks").glob("*.nii.gz")} == names
    assert {path.name for path in (tmp_path / "masks" / "probabilities").iterdir()} == names
    assert {path.name for path in (tmp_path / "meshes").iterdir()} == {f"{name}.vtp" for name in "abcdefghij"}


@pytest.mark.parametrize(
    "option", [["--speed", "quick"], ["--flips", "some"], ["--step", 0], ["--backend", "tpu"], ["--precision", "fp8"]]
)
def test_an_unknown_choice_is_one_line(infer: Command, scans: Path, tmp_path: Path, option: list[object]) -> None:
    infer(scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz", *option).check_refused(str(option[1]), "expected")


def test_the_meshes_that_were_written_are_named(infer: Command, scans: Path, tmp_path: Path) -> None:
    outcome = infer(scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz", "--mesh", tmp_path / "m.stl")
    assert outcome.exit_code == 0, outcome.err
    also = {Path(line.split("also: ")[1]) for line in outcome.out.splitlines() if "also: " in line}
    assert also == set(tmp_path.glob("m_*.stl"))
    assert len(also) == 5


# ---- flags -----------------------------------------------------------------------------------------------------------


def test_what_is_unlike_training_is_said_and_strict_makes_it_an_exit_code(
    infer: Command, tmp_path: Path, make_densities: Any, write_densities: Any, oracle_folder: Path
) -> None:
    facts = [measure_case(*make_densities(seed=seed, spacing=(1.0, 1.0, 1.0)), ORACLE_TASK) for seed in range(8)]
    records = read_records(oracle_folder)
    write_results(
        oracle_folder,
        records.task,
        records.plan,
        records.training,
        {},
        quality=build_quality_ranges(facts, ORACLE_TASK),
    )
    write_densities(tmp_path / "usual.nii.gz", spacing=(1.0, 1.0, 1.0), seed=50)
    write_densities(tmp_path / "coarse.nii.gz", spacing=(4.0, 4.0, 4.0), seed=50)
    usual = infer(tmp_path / "usual.nii.gz", "-o", tmp_path / "u.nii.gz", "--strict")
    assert (usual.exit_code, "look at it" in usual.out) == (0, False)
    for strict, code in (([], 0), (["--strict"], 3)):
        odd = infer(tmp_path / "coarse.nii.gz", "-o", tmp_path / "c.nii.gz", "--overwrite", *strict)
        assert odd.exit_code == code
        assert "look at it: The spacing" in odd.out or "look at it: the spacing" in odd.out.lower()
    manifest = read(tmp_path / "c.nii.gz.manifest.json")
    assert "spacing" in {flag["code"] for flag in manifest["flags"]}


# ---- whose mask, and whose work ------------------------------------------------------------------------------------------


def test_checksums_are_a_part_of_writing(
    infer: Command, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_outputs = infer_run.hash_outputs

    def hash_slowly(*arguments: Any) -> dict[str, str]:
        time.sleep(0.3)
        return hash_outputs(*arguments)

    monkeypatch.setattr(infer_run, "hash_outputs", hash_slowly)
    assert infer(scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz").exit_code == 0
    assert read(tmp_path / "mask.nii.gz.manifest.json")["seconds"]["write"] >= 0.3


def test_voxels_beside_a_header_belong_to_the_scan(infer: Command, tmp_path: Path, make_densities: Any) -> None:
    import SimpleITK

    for seed in range(2):  # the header stays as it is
        scan, _ = make_densities(spacing=(1.0, 1.0, 1.0), shape=(9, 10, 8), seed=seed)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(scan.array[0]), str(tmp_path / "scan.mhd"))
        if seed == 0:
            assert infer(tmp_path / "scan.mhd", "-o", tmp_path / "mask.nii.gz").exit_code == 0
    again = infer(tmp_path / "scan.mhd", "-o", tmp_path / "mask.nii.gz", "--continue")
    again.check_refused("the scan has changed since")


def test_another_patient_of_the_same_size_is_noticed(infer: Command, tmp_path: Path, write_densities: Any) -> None:
    for seed, site in enumerate(("first", "second")):  # not compressed: both files have as many bytes
        (tmp_path / site).mkdir()
        write_densities(tmp_path / site / "scan.nii", spacing=(1.0, 1.0, 1.0), shape=(9, 10, 8), seed=seed)
    assert infer(tmp_path / "first", "-o", tmp_path / "masks").exit_code == 0
    refused = infer(tmp_path / "second", "-o", tmp_path / "masks", "--continue")
    refused.check_refused("scan.nii.gz", "the scan has changed since")


@pytest.mark.parametrize("seconds", [1, -3600], ids=["later", "by a clock that was set back"])
def test_row_72_a_mask_that_somebody_corrected_is_not_replaced(
    infer: Command, scans: Path, tmp_path: Path, seconds: int
) -> None:
    mask = tmp_path / "mask.nii.gz"
    assert infer(scans / "a.nii.gz", "-o", mask).exit_code == 0
    mask.write_bytes(b"corrected by hand")
    set_time(mask, tmp_path / "mask.nii.gz.manifest.json", seconds)
    infer(scans / "a.nii.gz", "-o", mask, "--continue", "--uncertainty").check_refused("exists already", "--overwrite")
    assert mask.read_bytes() == b"corrected by hand"
    assert infer(scans / "a.nii.gz", "-o", mask, "--continue", "--uncertainty", "--overwrite").exit_code == 0


def set_time(path: Path, finished: Path, seconds: int) -> None:
    """As if it had been written so long after another file."""
    then = finished.stat().st_mtime_ns + seconds * 10**9
    os.utime(path, ns=(then, then))


def test_row_72_a_mask_that_was_only_touched_is_nobodys_work(infer: Command, scans: Path, tmp_path: Path) -> None:
    call = (scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz")
    assert infer(*call).exit_code == 0
    manifest = read(tmp_path / "mask.nii.gz.manifest.json")
    for name in manifest["outputs"]:
        assert manifest["outputs_sha256"][name] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    set_time(tmp_path / "mask.nii.gz", tmp_path / "mask.nii.gz.manifest.json", 60)
    assert infer(*call, "--continue", "--uncertainty").exit_code == 0


def test_times_decide_where_an_older_release_wrote_no_checksums(infer: Command, scans: Path, tmp_path: Path) -> None:
    mask, path = tmp_path / "mask.nii.gz", tmp_path / "mask.nii.gz.manifest.json"
    call = (scans / "a.nii.gz", "-o", mask, "--continue", "--uncertainty")
    assert infer(scans / "a.nii.gz", "-o", mask).exit_code == 0
    older = read(path)
    del older["outputs_sha256"]
    path.write_text(json.dumps(older))
    set_time(mask, path, 60)
    infer(*call).check_refused("exists already", "--overwrite")
    set_time(mask, path, -1)
    assert infer(*call).exit_code == 0


def test_a_picture_never_replaces_the_mask(
    infer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scans: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for preview in ("mask.png", "link/mask.png"):
        refused = infer(scans / "a.nii.gz", "-o", tmp_path / "mask.png", "--preview", preview)
        refused.check_refused("its preview", "mask.png")


def test_another_kind_of_dicom_is_not_taken_for_finished(infer: Command, scans: Path, tmp_path: Path) -> None:
    assert infer(scans, "-o", tmp_path / "masks").exit_code == 0
    again = infer(scans, "-o", tmp_path / "masks", "--continue", "--seg-type", "labelmap")
    again.check_refused("other settings (seg_type)")


def fail_to_write(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_mask_that_cannot_be_written_leaves_no_maps(
    infer: Command, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medunet.inference.segmentation.write_structures", fail_to_write)
    outcome = infer(scans, "-o", tmp_path / "masks", "--probabilities", "--uncertainty")
    assert outcome.exit_code == 2
    assert [path for path in (tmp_path / "masks").rglob("*") if path.is_file()] == []


def test_outputs_of_two_runs_are_not_taken_for_those_of_one(
    infer: Command, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = (scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz", "--probabilities")
    assert infer(*call).exit_code == 0
    before = (tmp_path / "mask.nii.gz").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("medunet.inference.segmentation.write_structures", fail_to_write)
        infer(*call, "--overwrite").check_refused("a.nii.gz")
    assert (tmp_path / "mask.nii.gz").read_bytes() == before
    # Its probabilities are already those of the second run.
    assert read(tmp_path / "mask.nii.gz.manifest.json")["status"] == "running"
    assert infer(*call, "--continue").exit_code == 0
    assert read(tmp_path / "mask.nii.gz.manifest.json")["status"] == "done"


# ---- the page about all scans ------------------------------------------------------------------------------------------


def test_the_report_names_what_failed_and_shows_the_rest(infer: Command, scans: Path, tmp_path: Path) -> None:
    (scans / "c.nii.gz").write_text("no volume")
    for name in "defghij":
        (scans / f"{name}.nii.gz").unlink()
    outcome = infer(scans, "-o", tmp_path / "masks", "--report", tmp_path / "report.html")
    assert outcome.exit_code == 2
    assert f"Report: {tmp_path / 'report.html'}" in outcome.out
    page = Page((tmp_path / "report.html").read_text())
    page.check_is_closed()
    assert str(tmp_path) not in page.source  # folders may be named after patients
    table = page.find_table("scan", "state")
    assert [row[:2] for row in table[1:]] == [["c", "failed"], ["a", "nothing unusual"], ["b", "nothing unusual"]]
    assert "c.nii.gz is no NIfTI file" in " ".join(page.text)
    for name in "ab":
        volumes = read(tmp_path / "masks" / "manifests" / f"{name}.nii.gz.json")["volumes"]
        (row,) = [row for row in table if row[0] == name]
        assert [cell.strip("≥ ").split(",")[0] for cell in row[2:7]] == [
            f"{volume['visible_ml']:.3g}" for volume in volumes.values()
        ]


def test_a_single_scan_that_fails_is_on_its_report_too(infer: Command, scans: Path, tmp_path: Path) -> None:
    (scans / "a.nii.gz").write_text("no volume")
    arguments = (scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz", "--report", tmp_path / "report.html")
    infer(*arguments).check_refused("is no NIfTI file")
    assert "is no NIfTI file" in (tmp_path / "report.html").read_text()


def test_the_report_of_a_continued_run_holds_all_scans(infer: Command, scans: Path, tmp_path: Path) -> None:
    for name in "cdefghij":
        (scans / f"{name}.nii.gz").unlink()
    report = ("--report", tmp_path / "report.html")
    infer(scans / "a.nii.gz", scans / "b.nii.gz", "-o", tmp_path / "masks", *report)
    (tmp_path / "masks" / "b.nii.gz").unlink()
    infer(scans, "-o", tmp_path / "masks", *report).check_refused("exists already")
    outcome = infer(scans, "-o", tmp_path / "masks", "--continue", *report)
    assert outcome.exit_code == 0, outcome.err
    page = Page((tmp_path / "report.html").read_text())
    assert [row[0] for row in page.find_table("scan", "state")[1:]] == ["a", "b"]
    contours = [
        attributes for tag, attributes in page.elements if tag == "img" and "contours" in str(attributes["alt"])
    ]
    assert len(contours) == 2
    assert " ".join(page.text).count("Made by an earlier run.") == 1
    (tmp_path / "report.html").write_text("somebody else's")
    infer(scans, "-o", tmp_path / "masks", "--continue", *report).check_refused("exists already")


@pytest.mark.parametrize("name", ["report.txt", "masks/a.nii.gz", "masks/manifests/a.nii.gz.json"])
def test_a_report_that_is_no_page_or_a_mask_is_refused(infer: Command, scans: Path, tmp_path: Path, name: str) -> None:
    infer(scans, "-o", tmp_path / "masks", "--report", tmp_path / name).check_refused("expected a name ending in .html")
    assert not (tmp_path / "masks").exists()


def test_a_picture_that_cannot_be_drawn_costs_no_mask(
    infer: Command, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medunet.reporting.scan_pictures.build_overlay", fail_to_write)
    outcome = infer(scans / "a.nii.gz", "-o", tmp_path / "mask.nii.gz", "--report", tmp_path / "report.html")
    assert outcome.exit_code == 0, outcome.err
    assert (tmp_path / "mask.nii.gz").exists()
    assert "could not be drawn" in (tmp_path / "report.html").read_text()
