"""What the benchmark of inference rests on: equal networks in all tools, masks like real ones, memory that is really measured."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_inference import EQUAL, MEDUNET, NNUNET, Row, Rows, Setting, judge, judge_start
from peers.inference_report import draw, read_rows
from peers.scans import compute_border_share, write_phantom
from peers.shared_model import _build_intervals, build_shared_plan, write_medunet_model, write_nnunet_model
from peers.watched import run_watched
from PIL import Image

from medunet.io import read_label_map, read_volume, write_nifti_image
from medunet.models import read_single_model
from medunet.networks import EncoderDecoder
from medunet.planning import Plan
from medunet.tasks import Task
from medunet.volume import Shape3, Volume

PATCH: Shape3 = (16, 24, 32)  # no cube, so that axes cannot be mistaken for each other


def make_plan(num_classes: int = 4) -> tuple[Plan, Task]:
    return build_shared_plan(num_classes, (20, 30, 40), 2.0, features=4, patch_size=PATCH)


def write_model(folder: Path, labels: str = "smooth", num_classes: int = 4) -> EncoderDecoder:
    plan, task = make_plan(num_classes)
    return write_medunet_model(folder, plan, task, labels)  # type: ignore[arg-type]


@pytest.mark.bench
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("labels", ["smooth", "speckled"])
def test_nnunet_answers_the_same_along_its_own_axes(labels: str, tmp_path: Path) -> None:
    module = pytest.importorskip("nnunetv2.inference.predict_from_raw_data", reason="nnunetv2 is not installed")
    plan, task = make_plan()
    ours = write_medunet_model(tmp_path / "medunet", plan, task, labels)  # type: ignore[arg-type]
    write_nnunet_model(tmp_path / "nnunet", plan, task, ours)
    predictor = module.nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(tmp_path / "nnunet"), use_folds=(0,))
    image = torch.randn((1, 1, *PATCH), generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        mine = ours(image)
        theirs = predictor.network.eval()(image.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)

    assert predictor.configuration_manager.patch_size == list(PATCH)[::-1]
    assert mine.std() > 0.1
    assert torch.allclose(mine, theirs, atol=1e-4)


def test_the_model_folder_holds_the_same_network_each_time(tmp_path: Path) -> None:
    network = write_model(tmp_path / "first")
    write_model(tmp_path / "second")
    first, second = (read_single_model(tmp_path / name) for name in ("first", "second"))

    assert first.training.weights_sha256 == second.training.weights_sha256
    image = torch.randn((1, 1, *PATCH))
    with torch.inference_mode():
        assert torch.equal(first.network(image), network(image))


def test_smooth_labels_are_intervals_of_the_image(tmp_path: Path) -> None:
    network = write_model(tmp_path / "model", num_classes=5)
    image = torch.linspace(-1, 1, PATCH[0])[None, None, :, None, None].expand(1, 1, *PATCH)

    with torch.inference_mode():
        codes = network(image).argmax(1)[0]

    inner = codes[3:-3, 6:-6, 6:-6]  # at the border the blur meets zeros
    assert (inner.diff(dim=0) >= 0).all()
    assert inner.unique().numel() >= 4


def test_speckled_labels_have_many_more_borders(tmp_path: Path) -> None:
    image = torch.randn((1, 1, *PATCH), generator=torch.Generator().manual_seed(0))
    image[..., 16:] += 10
    shares = {}
    for labels in ("smooth", "speckled"):
        with torch.inference_mode():
            codes = write_model(tmp_path / labels, labels)(image).argmax(1)[0]
        inner = codes[4:-4, 4:-4, 4:-4]  # at the border the blur meets zeros
        shares[labels] = compute_border_share(inner.numpy())

    assert shares["smooth"] < 0.5 < shares["speckled"]


def test_each_line_is_the_highest_in_its_interval() -> None:
    slopes, offsets = _build_intervals(6)
    levels = torch.linspace(1.4, 4.6, 321)

    winners = (slopes[:, None] * levels + offsets[:, None]).argmax(0)

    assert winners.tolist() == sorted(winners.tolist())
    counts = winners.bincount(minlength=6)
    assert (counts[1:-1] - 50).abs().max() <= 1  # 3 / 6 of 320 / 3.2 steps
    assert counts[[0, -1]].min() >= 50
    assert (slopes[:, None] * levels + offsets[:, None]).abs().max() < 10


def test_borders_are_counted_on_both_sides() -> None:
    codes = np.zeros((4, 4, 4), np.uint8)
    assert compute_border_share(codes) == 0
    codes[0, 0, 0] = 1
    assert compute_border_share(codes) == 4 / 64


def test_the_phantom_is_a_body_in_air_with_its_bones_behind(tmp_path: Path) -> None:
    write_phantom(tmp_path / "a.nii.gz", (40, 44, 12), (8.0, 8.0, 20.0))
    write_phantom(tmp_path / "b.nii.gz", (40, 44, 12), (8.0, 8.0, 20.0))
    scan = read_volume(tmp_path / "a.nii.gz")
    voxels = scan.array[0]

    assert np.array_equal(voxels, read_volume(tmp_path / "b.nii.gz").array[0])
    assert scan.orientation == "RAS"
    assert scan.spacing == pytest.approx((8, 8, 20))
    assert voxels[:2].mean() == pytest.approx(-1000, abs=20)
    assert voxels[19:21, 13].mean() == pytest.approx(350, abs=30)  # spine: posterior is where the second axis begins
    assert voxels[28, 24, 9].mean() == pytest.approx(-800, abs=200)


def test_memory_of_children_counts(tmp_path: Path) -> None:
    allocate = "import time; block = bytearray(200 << 20); time.sleep(3)"
    code = f"import subprocess, sys; block = bytearray(100 << 20); subprocess.run([sys.executable, '-c', '{allocate}'])"

    outcome = run_watched([sys.executable, "-c", code], memory_gib=2)

    assert outcome.stopped == ""
    assert 300 < 1024 * outcome.peak_gib < 400
    assert 1 < outcome.seconds < 60


def test_too_much_memory_ends_a_process_and_its_children() -> None:
    grow = "import time; block = bytearray(300 << 20); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{grow}'])"

    outcome = run_watched([sys.executable, "-c", code], memory_gib=0.2)

    assert "GiB of memory" in outcome.stopped
    assert outcome.seconds < 30


def test_failures_and_long_waits_are_told() -> None:
    failed = run_watched([sys.executable, "-c", "raise SystemExit('no model')"], memory_gib=2)
    late = run_watched([sys.executable, "-c", "import time; time.sleep(60)"], memory_gib=2, timeout=0.5)

    assert failed.stopped == "ended with 1: no model"
    assert "stopped after" in late.stopped
    assert late.seconds < 30


def make_rows() -> tuple[Rows, list[Setting]]:
    setting = Setting(scan="phantom", path=Path("a"), num_classes=25, models=Path("m"), voxels=2**28)
    rows = {
        ("phantom", 25, MEDUNET): Row(whole=[4.0, 5.0, 9.0], peak_gib=2.0),
        ("phantom", 25, EQUAL): Row(
            warm=[12.0], stages={"read": 0.5, "network": 11.0, "write": 0.5}, patches=20, pass_seconds=0.5
        ),
        ("phantom", 25, NNUNET): Row(whole=[30.0], peak_gib=10.0),
    }
    return rows, [setting]


def test_goals_are_judged_by_medians() -> None:
    rows, settings = make_rows()

    goals = {goal.name.split(": ")[1]: goal for goal in judge(rows, settings)}
    few = [dataclasses.replace(setting, num_classes=3) for setting in settings]
    rows_of_few = {(scan, 3, tool): row for (scan, _, tool), row in rows.items()}
    wanted = {
        device: {goal.wanted for goal in judge(rows_of_few, few, device) if "/ medunet, whole" in goal.name}
        for device in ("cpu", "cuda")
    }
    assert wanted == {"cpu": {3.0}, "cuda": {5.0}}

    ratio = goals["nnU-Net / medunet, whole process"]
    assert (ratio.found, ratio.wanted, ratio.is_reached) == (6.0, 5, True)
    assert goals["medunet / nnU-Net, peak memory"].found == pytest.approx(0.2)
    assert goals["warm, equal / floor"].found == pytest.approx(1.2)
    assert not goals["warm, equal / floor"].is_reached
    assert goals["stages outside the network / floor"].found == pytest.approx(0.1)
    assert goals["peak memory of medunet, GiB"].wanted == pytest.approx(1.5 + 2)
    assert not any("MONAI" in name for name in goals)


def test_the_start_is_judged_against_the_import_of_torch() -> None:
    goal = judge_start({"import torch": [1.0, 1.2, 3.0], "medunet infer": [2.6]})

    assert (goal.found, goal.wanted, goal.is_reached) == (2.6, pytest.approx(2.7), True)
    assert not judge_start({"import torch": [1.0], "medunet infer": []}).is_reached


def test_the_picture_needs_no_row_of_every_tool(tmp_path: Path) -> None:
    rows, _ = make_rows()

    draw(rows, tmp_path / "bars.png")

    assert (tmp_path / "bars.png").stat().st_size > 5000


def test_the_picture_in_the_documentation_is_that_of_its_table(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    draw(read_rows(docs / "benchmarks" / "inference.csv"), tmp_path / "bars.png")
    ours, theirs = (
        np.asarray(Image.open(path).convert("RGB")).astype(int)
        for path in (tmp_path / "bars.png", docs / "images" / "bench-inference.png")
    )
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 0.5  # letters may be drawn a little otherwise elsewhere


@pytest.mark.slow
def test_medunet_and_monai_find_the_same_in_one_patch(tmp_path: Path) -> None:
    scan, model, benchmarks = (
        tmp_path / "scan_0000.nii.gz",
        tmp_path / "model",
        Path(__file__).parents[2] / "benchmarks",
    )
    ramps = np.stack(np.meshgrid(*(np.linspace(-3, 3, size) for size in (32, 32, 16)), indexing="ij"))
    voxels = (100 + 200 * np.sin(ramps).sum(axis=0)).astype(np.int16)  # without air, nothing is cropped
    write_nifti_image(Volume(voxels[None], np.diag([4.0, 4, 8, 1])), scan)
    plan, task = build_shared_plan(4, (32, 32, 32), 4.0, features=4, patch_size=(32, 32, 32))
    write_medunet_model(model, plan, task, "smooth")
    codes = []
    for tool in ("medunet", "monai"):
        output = tmp_path / tool
        output.mkdir()
        places = ["--model", str(model), "--scan", str(scan), "--output", str(output)]
        command = [sys.executable, "-m", "peers.warm_inference", tool, *places, "--rounds", "1", "--equal"]
        outcome = subprocess.run(command, capture_output=True, text=True, cwd=benchmarks, check=True)
        assert '"patches": 1,' in outcome.stdout.splitlines()[-1]
        codes.append(read_label_map(output / "mask_1.nii.gz").array[0])

    assert set(np.unique(codes[0])) == {0, 1, 2, 3}
    assert (codes[0] == codes[1]).mean() > 0.9
