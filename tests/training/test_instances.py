"""What tells objects apart best is found on validation cases, and a network learns it end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import pytest
import torch
from made_up_objects import TISSUE, build_task, draw_pile, draw_row, make_probabilities
from oracles import Outcome
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu

import medunet
from medunet.evaluation import compute_instance_overlaps, score_instances
from medunet.inference.sliding_window import Slab
from medunet.io import read_label_map, read_volume, write_nifti_image, write_nifti_labels
from medunet.models import combine_instance_rules, read_records
from medunet.phantoms import make_phantom_case, write_phantom_dataset
from medunet.planning import Effort
from medunet.tasks import Case, Task, load_task, read_dataset
from medunet.training.instances import fit_instances, measure_smallest_objects
from medunet.training.losses.boundary import weigh_class_boundaries
from medunet.training.progress import Observer
from medunet.volume import Volume, build_grid

TASK = build_task()


def write_rows(folder: Path, num_cases: int = 3) -> list[Case]:
    """Rows of discs, one more in each."""
    return write_cases(folder, [draw_row(3 + number) for number in range(num_cases)])


def write_cases(folder: Path, labels: list[Volume]) -> list[Case]:
    """Images that show what is labelled."""
    for number, objects in enumerate(labels):
        write_nifti_image(objects.with_array(objects.array.astype(np.float32)), folder / "images" / f"{number}.nii.gz")
        write_nifti_labels(objects, folder / "labels" / f"{number}.nii.gz")
    return list(read_dataset(folder).cases)


@dataclass(frozen=True)
class Hesitant:
    """A segmenter that sees the objects, and is almost as sure of a thin bridge between their bodies."""

    bridge: float
    task: Task = TASK

    def segment(self, image: Volume, *, speed: Any, on_slab: Callable[[Slab, Volume, int], None]) -> Volume:
        objects = image.with_array(image.array.astype(np.uint16))
        probabilities, labels = make_probabilities(objects, self.task)
        array = probabilities.array.astype(np.float32)
        row = array[:, 10, :, 0]
        is_border = row[2] > 0.5
        row[:, is_border] = np.array([0.02, self.bridge, 0.98 - self.bridge])[:, None]
        logits = torch.from_numpy(np.log(array))
        on_slab(Slab(logits=logits, first=0), build_grid(image.spatial_shape, image.affine), 0)
        return labels


def test_the_threshold_that_finds_most_objects_is_taken(tmp_path: Path) -> None:
    cases = write_rows(tmp_path)
    unsure = fit_instances(Hesitant(0.6), cases, cases[:2], Observer())  # type: ignore[arg-type]
    assert unsure.rules.labels["nucleus"].marker_threshold == 0.65
    assert unsure.rules.num_cases == 2
    assert [one.average_precision_50 for one in unsure.instances] == [1.0, 1.0]
    sure = fit_instances(Hesitant(0.1), cases, cases[:2], Observer())  # type: ignore[arg-type]
    assert sure.rules.labels["nucleus"].marker_threshold == 0.5  # the first stays where none is better
    assert "AP at IoU 0.5 1.000" in sure.describe()[0]
    assert "7 objects in 2 validation case(s)" in sure.describe()[0]
    metrics = json.loads(json.dumps(sure.to_metrics()))
    assert metrics["dice"] == {"nucleus": 1.0}
    assert metrics["summary"][0]["recognition_quality"] == 1.0


def test_without_validation_cases_only_the_least_volume_is_learnt(tmp_path: Path) -> None:
    found = fit_instances(Hesitant(0.6), write_rows(tmp_path), [], Observer())  # type: ignore[arg-type]
    smallest = measure_smallest_objects(list(read_dataset(tmp_path).cases), TASK)["nucleus"]
    assert found.rules.labels["nucleus"].min_volume_mm3 == smallest / 2
    assert (found.rules.labels["nucleus"].marker_threshold, found.rules.num_cases) == (0.5, 0)
    assert found.describe() == []


def test_objects_that_the_border_of_a_case_cuts_do_not_tell_how_small_one_may_be(tmp_path: Path) -> None:
    objects = draw_row(2).array.copy()
    whole = int((objects == 1).sum())
    cut = Volume(np.ascontiguousarray(objects[:, :, : 10 + 14 + 4]), np.diag([2.0, 1.0, 1.0, 1.0]))
    write_nifti_image(cut.with_array(cut.array.astype(np.float32)), tmp_path / "images" / "a.nii.gz")
    write_nifti_labels(cut, tmp_path / "labels" / "a.nii.gz")
    assert measure_smallest_objects(list(read_dataset(tmp_path).cases), TASK) == {"nucleus": 2.0 * whole}


def test_the_gap_that_counts_is_the_one_between_bodies() -> None:
    codes = torch.tensor([1, 1, 2, 2, 1, 1, 2, 0, 0], dtype=torch.uint8).reshape(1, 1, -1, 1)
    weights = weigh_class_boundaries(codes, gaps=[2]).flatten()
    gaps = [1 + 10 * float(np.exp(-(distance**2) / 50)) for distance in (4, 3, 3, 3, 3, 4)]
    assert weights[:6].tolist() == pytest.approx(gaps)
    alone = torch.tensor([1, 1, 2, 0, 0, 0], dtype=torch.uint8).reshape(1, 1, -1, 1)
    assert (weigh_class_boundaries(alone, gaps=[2]) == 1).all()  # a border beside nothing is worth no more


def train_briefly(command: Callable[..., Outcome], folder: Path, task: Task) -> Outcome:
    """Two steps on the cases below ``data``."""
    recipe = folder / "task.yaml"
    recipe.write_text(task.model_dump_json())
    return command(
        "train", "--task", recipe, "--data", folder / "data", "-o", folder / "model", "--fold", "0", "--budget", "2it",
        "--device", "cpu",
    )  # fmt: skip


@pytest.mark.parametrize("is_volume", [False, True])
def test_a_training_leaves_rules_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medunet_command: Callable[..., Outcome], is_volume: bool
) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=2 * 16**3, features=4))
    cases = write_cases(tmp_path / "data", [draw_pile() if is_volume else draw_row(3 + number) for number in range(4)])
    outcome = train_briefly(medunet_command, tmp_path, TASK)
    assert outcome.exit_code == 0, outcome.err
    assert "Objects: nucleus: seeds from" in outcome.out
    records = read_records(tmp_path / "model")
    assert records.plan.network.spatial_dims == (3 if is_volume else 2)
    assert records.instances.num_cases == len(records.training.validation_cases)
    assert records.task.labels == {"nucleus": (1,), "nucleus border": (2,)}
    assert records.training.settings["loss"] == "boundary-ce"
    assert records.postprocessing.does_nothing
    assert set(records.metrics["instances"]["dice"]) == {"nucleus"}
    assert (
        medunet_command("infer", cases[0].images[0], "-o", tmp_path / "m.nii.gz", "-m", tmp_path / "model").exit_code
        == 0
    )


def test_things_and_stuff_are_learnt_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medunet_command: Callable[..., Outcome]
) -> None:
    """Train, infer and evaluate a task whose files hold 2001, 2002 and so on for nuclei and 3000 for stroma."""
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=2 * 16**3, features=4))
    rows = [draw_row(3) for _ in range(4)]
    tissue = [
        row.with_array(np.select([row.array == 2, row.array > 0], [5002, 2000 + row.array.astype(int)], 3000))
        for row in rows
    ]
    cases = write_cases(tmp_path / "data", tissue)
    outcome = train_briefly(medunet_command, tmp_path, build_task(TISSUE))
    assert outcome.exit_code == 0, outcome.err
    assert all(f"{name}: seeds from" in outcome.out for name in ("nucleus", "cell"))
    mask = tmp_path / "masks" / "0.nii.gz"
    mask.parent.mkdir()
    outcome = medunet_command("infer", cases[0].images[0], "-o", mask, "-m", tmp_path / "model", "--semantic")
    assert outcome.exit_code == 0, outcome.err
    values = read_label_map(mask).array.astype(int)
    semantic = read_label_map(mask.with_name("0_semantic.nii.gz")).array
    assert set(np.unique(semantic)) <= {0, 2, 3, 5}
    assert np.array_equal(values // 1000, semantic)
    assert set(np.unique(values[semantic == 3])) <= {3000}  # stuff has no numbers, things have
    assert (values[(semantic == 2) | (semantic == 5)] % 1000 > 0).all()
    mask.with_name("0_semantic.nii.gz").unlink()
    scores = medunet_command(
        "evaluate", mask, cases[0].labels, "--task", tmp_path / "task.yaml", "--json", "--instances"
    )
    assert scores.exit_code == 0, scores.err
    instances = {row["label"]: row for row in json.loads(scores.out)["instances"]["summary"]}
    assert {label: row["num_reference"] for label, row in instances.items()} == {"nucleus": 2, "stroma": 1, "cell": 1}


def write_tiles(picture: Volume, objects: Volume, folder: Path, *, name: str, edge: int = 40) -> None:
    """Pieces of a picture as cases, so small that a step is quick."""
    for number, (i, j) in enumerate(
        (i, j) for i in range(0, picture.spatial_shape[0], edge) for j in range(0, picture.spatial_shape[1], edge)
    ):
        for volume, kind, write in ((picture, "images", write_nifti_image), (objects, "labels", write_nifti_labels)):
            part = np.ascontiguousarray(volume.array[:, i : i + edge, j : j + edge])
            write(Volume(part, volume.affine), folder / kind / f"{name}-{number}.nii.gz")


def threshold(picture: Volume) -> np.ndarray:
    """Otsu's threshold after a little blur, and connected components."""
    smooth = gaussian_filter(picture.array[0].astype(float), (1, 1, 0))
    return cc3d.connected_components(smooth > threshold_otsu(smooth), connectivity=6)  # type: ignore[no-any-return]


def compute_ap(objects: Volume, numbers: np.ndarray) -> float:
    score = score_instances(compute_instance_overlaps(objects.array[0], numbers))
    assert score.average_precision is not None
    return score.average_precision


@pytest.mark.slow
def test_touching_nuclei_are_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of training tells apart most of what touches; a threshold finds clumps."""
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    for seed in range(4):
        case = make_phantom_case("nuclei-2d", seed)
        write_tiles(case.image, case.labels, tmp_path / "data", name=case.case_id)
    medunet.train("nuclei-2d", tmp_path / "data", output=tmp_path / "model", fold="all", budget="100it", device="cpu")
    segmenter = medunet.load(tmp_path / "model", device="cpu")
    for seed in (100, 101):
        unseen = make_phantom_case("nuclei-2d", seed)
        own = compute_ap(unseen.labels, segmenter.segment(unseen.image).mask.array[0])
        assert own > compute_ap(unseen.labels, threshold(unseen.image)) + 0.1


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("learnt", [0, 1], ids=["first", "second"])
def test_real_nuclei_are_told_apart(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learnt: int
) -> None:
    """Learnt from one half of StarDist's example, tested on the other, as `benchmarks/bench_instances.py` does it longer."""
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    picture, objects = (read_volume(real_data / "nuclei" / name) for name in ("img2d.tif", "mask2d.tif"))
    halves = [
        [Volume(np.ascontiguousarray(one.array[:, half]), one.affine) for one in (picture, objects)]
        for half in (slice(0, 256), slice(256, 512))
    ]
    unseen, nuclei = halves[1 - learnt]
    write_tiles(*halves[learnt], tmp_path / "data", name="half")
    medunet.train("nuclei-2d", tmp_path / "data", output=tmp_path / "model", fold="all", budget="100it", device="cpu")
    found = medunet.load(tmp_path / "model", device="cpu").segment(unseen).mask
    assert compute_ap(nuclei, found.array[0]) > compute_ap(nuclei, threshold(unseen)) + 0.1


def test_the_phantom_is_a_task_of_its_own(tmp_path: Path) -> None:
    task = load_task("nuclei-2d")
    write_phantom_dataset("nuclei-2d", tmp_path, num_cases=1, num_workers=1)
    (case,) = read_dataset(tmp_path).cases
    assert int(read_label_map(case.labels).array.max()) > 20
    assert task.phantom == "nuclei-2d"


@pytest.mark.slow
def test_folds_become_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    cases = write_rows(tmp_path / "data", 4)
    (tmp_path / "task.yaml").write_text(TASK.model_dump_json())
    (tmp_path / "folds.csv").write_text("case,fold\n0,0\n1,0\n2,1\n3,1\n")
    medunet.train(
        tmp_path / "task.yaml", tmp_path / "data", output=tmp_path / "model", fold="cv",
        splits=str(tmp_path / "folds.csv"), budget="2it", device="cpu",
    )  # fmt: skip
    whole, *folds = (read_records(tmp_path / "model" / part) for part in ("", "fold_0", "fold_1"))
    assert whole.instances.num_cases == 4
    assert whole.instances == combine_instance_rules([fold.instances for fold in folds])
    assert all("instances" in fold for fold in whole.metrics["folds"])
    assert medunet.load(tmp_path / "model", device="cpu").segment(cases[0].images[0]).objects is not None
