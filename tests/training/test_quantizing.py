"""Eight bits are taken where they were measured to be faster and as good, and nowhere else."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import CASES, TASK, write_blobs, write_network
from messages import Messages
from oracles import Outcome

from medunet.errors import InputError
from medunet.inference import Predictor, load
from medunet.models import MeasuredSpeed, copy_model, read_model
from medunet.models.int8 import Int8Record
from medunet.networks import build_network
from medunet.preprocessing import preprocess_image
from medunet.tasks import Case, read_case, read_dataset
from medunet.training import Observer, quantizing
from medunet.training.quantizing import draw_patches, quantize, quantize_after_training, quantize_model

CPU = torch.device("cpu")
needs_nncf = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("openvino", "nncf")), reason="needs medunet[int8]"
)
BETTER, EQUAL, WORSE = (0.9, 2.0), (0.8981, 1.0), (0.898, 1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return write_network(tmp_path / "model")


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the two ways, in turns, Dice and seconds of our choice; they are segmented all the same."""

    def choose(*rows: tuple[float, float] | None) -> None:
        answers: Iterator[Any] = iter(rows * 20)

        def answer(segment: Any, case: Case, task: Any) -> Any:
            segment(read_case(case, task)[0])
            return next(answers)

        monkeypatch.setattr(quantizing, "measure_case", answer)

    return choose


@pytest.fixture(scope="module")
def kept(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose eight bits are good enough."""
    folder = write_network(tmp_path_factory.mktemp("kept") / "model")
    with pytest.MonkeyPatch.context() as patch:
        answers = iter([BETTER, EQUAL] * 2)
        patch.setattr(quantizing, "measure_case", lambda *arguments: next(answers))
        quantize(folder, data, num_patches=4)
    return folder


def read_record(folder: Path) -> Any:
    return json.loads((folder / "int8.json").read_text())


def list_converted(folder: Path) -> set[str]:
    return {path.name for path in (folder / "backends").glob("*")}


# ---- making --------------------------------------------------------------------------------------------------------------


@needs_nncf
def test_what_is_measured_is_what_both_ways_give(data: Path, model_folder: Path) -> None:
    done = quantize(model_folder, data, num_patches=4)
    assert done.record is not None
    assert (done.record.num_cases, done.record.num_patches) == (2, 4)  # case_0 and case_2 are those of the validation
    assert read_record(model_folder) == done.record.model_dump(mode="json")
    cases = {case.case_id: case for case in read_dataset(data).cases}
    segmenter = load(model_folder, device="cpu", speed="fast", precision="fp32", backend="torch")
    dices = []
    for name in ("case_0", "case_2"):
        image, reference = read_case(cases[name], TASK)
        labels = segmenter.segment(image).labels.array
        for value in (1, 3):
            found, wanted = labels == value, reference.array == value
            dices.append(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))
    assert done.record.floating.dice == pytest.approx(np.mean(dices), abs=0.02)
    assert "int8" in done.record.computed_by


@needs_nncf
@pytest.mark.parametrize(
    ("int8", "is_used"), [(EQUAL, True), (WORSE, False), ((0.95, 2.0), False)], ids=["good", "worse", "not faster"]
)
def test_only_what_is_faster_and_as_good_is_kept(
    data: Path, model_folder: Path, measure: Callable[..., None], int8: tuple[float, float], is_used: bool
) -> None:
    measure(BETTER, int8)
    done = quantize(model_folder, data, num_patches=4)
    assert done.record is not None
    assert done.record.is_used is is_used
    assert ("--speed fast uses them" in done.message) is is_used
    assert any("int8" in name for name in list_converted(model_folder)) is is_used
    segmenter = load(model_folder, device="cpu", speed="fast")
    assert (segmenter.int8 is not None) is is_used
    assert ("int8" in segmenter.description) is is_used


@needs_nncf
def test_an_older_file_goes_when_a_new_one_is_not_kept(
    kept: Path, data: Path, tmp_path: Path, measure: Callable[..., None]
) -> None:
    copy_model(kept, tmp_path / "copy")
    assert any("int8" in name for name in list_converted(tmp_path / "copy"))
    measure(BETTER, WORSE)
    quantize(tmp_path / "copy", data, num_patches=4)
    assert not any("int8" in name for name in list_converted(tmp_path / "copy"))


def test_patches_show_every_label_and_what_the_network_sees(data: Path, model_folder: Path) -> None:
    model = read_model(model_folder).members[0]
    predictor = Predictor(model, CPU, "32-true")
    cases = [case for case in read_dataset(data).cases if case.case_id == CASES[1]]
    patches = draw_patches(model, predictor, cases, 4)
    assert patches.shape == (4, 1, 8, 12, 8)
    image, _ = read_case(cases[0], TASK)
    seen = torch.from_numpy(preprocess_image(image, model.plan).array)
    windows = seen.unfold(1, 8, 1).unfold(2, 12, 1).unfold(3, 8, 1)[0].reshape(-1, 8, 12, 8)
    for patch in patches[:, 0]:
        assert (windows == patch).all(dim=(1, 2, 3)).any()
    assert (patches > 1.5).sum() > 20  # the bright blob
    assert (patches < -1.5).sum() > 20  # the dark one


def test_without_cases_of_the_model_it_says_so(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizing, "check_packages", lambda *arguments: None)
    folder = write_network(tmp_path / "other", folds=(("x", "y"), ("z",)))
    with pytest.raises(InputError, match=r"holds 0 training and 0 validation cases.*--fold all"):
        quantize(folder, data)


# ---- after training --------------------------------------------------------------------------------------------------------


def test_of_all_folds_the_first_is_quantised_when_its_model_is_finished(
    train_tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool, int, int]] = []

    def record(folder: Path, training: Any, validation: Any, seconds: float, observer: Observer) -> None:
        seen.append((folder.name, (folder / "metrics.json").is_file(), len(training), len(validation)))

    monkeypatch.setattr("medunet.training.fold.quantize_after_training", record)
    train_tiny(tmp_path / "one", budget="1it")
    train_tiny(tmp_path / "all", budget="1it", fold="all")  # nothing to measure on
    train_tiny(tmp_path / "every", budget="1it", fold="cv")
    assert seen == [("one", True, 4, 1), ("fold_0", True, 4, 1)]


def finish_training(folder: Path, data: Path, seconds: float) -> list[str]:
    cases = read_dataset(data).cases
    recorder = Messages()
    quantize_after_training(folder, cases[1:2], cases[:1], seconds, recorder)
    return recorder.texts


def test_a_short_training_is_not_prolonged(
    data: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quantizing, "quantize_model", None)
    with caplog.at_level(logging.INFO, "medunet"):
        assert finish_training(model_folder, data, 1199.0) == []
    assert "training was short" in caplog.text


def test_what_is_not_installed_is_said(data: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizing, "is_installed", lambda package: package != "nncf")
    (message,) = finish_training(model_folder, data, 1201.0)
    assert "pip install 'medunet[int8]'" in message


def test_a_fault_costs_no_training(
    data: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quantizing, "is_installed", lambda package: True)

    def fail(*arguments: Any, **options: Any) -> None:
        msg = "the moon is full"
        raise RuntimeError(msg)

    monkeypatch.setattr(quantizing, "quantize_model", fail)
    assert finish_training(model_folder, data, 1201.0) == []
    assert "the moon is full" in caplog.text


def test_a_slow_network_is_left_to_whoever_has_the_time(
    data: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizing, "_time_pass", lambda predictor, model: 10.0)
    cases = read_dataset(data).cases
    done = quantize_model(read_model(model_folder).members[0], cases[1:2], cases[:1], Observer(), limit_seconds=300.0)
    assert done.record is None
    assert f"medunet quantize {model_folder}" in done.message
    assert not (model_folder / "int8.json").exists()


@needs_nncf
def test_a_limit_takes_fewer_patches_and_one_case_at_least(
    data: Path, model_folder: Path, measure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(BETTER, EQUAL)
    monkeypatch.setattr(quantizing, "_time_pass", lambda predictor, model: 0.001)
    cases = read_dataset(data).cases
    model = read_model(model_folder).members[0]
    done = quantize_model(model, cases[1:2], [cases[0], cases[2]], Observer(), limit_seconds=0.06)
    assert done.record is not None
    assert (done.record.num_patches, done.record.num_cases) == (5, 1)


# ---- using -----------------------------------------------------------------------------------------------------------------


def spoil_weights(folder: Path) -> None:
    from medunet.models import read_records, write_weights

    records = read_records(folder)
    torch.manual_seed(7)
    write_weights(folder, build_network(records.plan.network).state_dict(), records.training)


def spoil_file(folder: Path) -> None:
    (path,) = (folder / "backends").glob("*int8*")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def remove_file(folder: Path) -> None:
    next((folder / "backends").glob("*int8*")).unlink()


@needs_nncf
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_weights, "measured with other weights"),
        (spoil_file, "is damaged"),
        (remove_file, "is not there"),
    ],
)
def test_what_does_not_fit_is_left_out_and_said(
    kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], reason: str
) -> None:
    folder = tmp_path / "copy"
    copy_model(kept, folder)
    assert load(folder, device="cpu", speed="fast").int8 is not None  # a copy has it, too
    spoil(folder)
    segmenter = load(folder, device="cpu", speed="fast")
    assert segmenter.int8 is None
    assert "int8" not in segmenter.description
    assert reason in caplog.text
    assert "medunet quantize" in caplog.text


@needs_nncf
def test_another_release_is_named(
    kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("medunet.__version__", "99.1")
    assert load(kept, device="cpu", speed="fast").int8 is None
    assert "was made by medunet" in caplog.text
    assert "99.1 is installed" in caplog.text


@needs_nncf
@pytest.mark.parametrize(
    "choices", [{"speed": "balanced"}, {"speed": "best"}, {"precision": "fp32"}, {"backend": "torch"}]
)
def test_nobody_else_gets_eight_bits(kept: Path, choices: dict[str, Any]) -> None:
    assert load(kept, device="cpu", **({"speed": "fast"} | choices)).int8 is None


@needs_nncf
def test_the_command_makes_uses_and_says_it(
    medunet_command: Callable[..., Outcome],
    data: Path,
    model_folder: Path,
    tmp_path: Path,
    measure: Callable[..., None],
) -> None:
    measure(BETTER, EQUAL)
    made = medunet_command("quantize", model_folder, "--data", data, "--patches", 4)
    assert made.exit_code == 0, made.err
    assert "Eight bits: Dice 0.8981 in 1.00 s, floating point Dice 0.9000 in 2.00 s (2 cases)" in made.out
    scan = data / "images" / "case_0.nii.gz"
    arguments = ("infer", scan, "-m", model_folder, "--device", "cpu")
    used = medunet_command(*arguments, "-o", tmp_path / "fast.nii.gz", "--speed", "fast")
    assert "In eight bits, as now: Dice 0.8981" in used.out
    assert "int8" in json.loads((tmp_path / "fast.nii.gz.manifest.json").read_text())["computed_by"]
    usual = medunet_command(*arguments, "-o", tmp_path / "usual.nii.gz")
    assert "ight bits" not in usual.out


def test_the_boundary_of_what_is_good_enough() -> None:
    def judge(dice: float, seconds: float) -> bool:
        def measured(dice: float, seconds: float) -> MeasuredSpeed:
            return MeasuredSpeed(step_fraction=0.75, num_flips=1, dice=dice, seconds=seconds)

        return Int8Record(
            weights_sha256="",
            num_patches=1,
            num_cases=1,
            computed_by="",
            int8=measured(dice, seconds),
            floating=measured(0.5, 2.0),
        ).is_used

    assert judge(0.4981, 1.9)
    assert not judge(0.498, 1.9)
    assert not judge(0.6, 2.0)
