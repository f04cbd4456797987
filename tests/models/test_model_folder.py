"""What is written is what is read; what was damaged, swapped or smuggled in is refused with a reason."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import ORACLE_TASK, build_plan_for, build_record
from safetensors.torch import save_file

import medunet
from medunet.errors import MedunetError, ModelError, OutputError
from medunet.models import (
    Postprocessing,
    TriedStep,
    check_is_model,
    find_newest_model,
    get_runs_folder,
    read_model,
    read_records,
    write_results,
    write_weights,
)
from medunet.models.folder import compute_weights_sha256
from medunet.postprocessing import measure_case
from medunet.postprocessing.quality import build_quality_ranges

FILES = ["card.md", "metrics.json", "plan.json", "task.json", "training.json", "weights.safetensors"]


@pytest.fixture
def folder(write_model: Callable[..., Path], tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---- round trip --------------------------------------------------------------------------------------------------------


def test_a_model_reads_back_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == FILES
    model = read_model(folder)
    assert model.folder == folder
    assert model.task == ORACLE_TASK
    assert model.plan == build_plan_for(ORACLE_TASK, (1.0, 1.0, 1.0), (16, 16, 8))
    assert not model.network.training
    sha256 = compute_weights_sha256(dict(model.network.state_dict()))
    assert model.training == build_record().model_copy(update={"weights_sha256": sha256})
    write_weights(tmp_path / "again", model.network.state_dict(), model.training)
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()


def test_weights_are_kept_as_float32(write_model: Callable[..., Path], tmp_path: Path, folder: Path) -> None:
    weights = {name: tensor.double() for name, tensor in read_model(folder).network.state_dict().items()}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float64}
    write_model(tmp_path / "double", weights=weights)
    assert (tmp_path / "double" / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()


def test_the_checksum_knows_names_shapes_and_values() -> None:
    zeros, ones = torch.zeros(2, 3), torch.ones(2, 3)
    sums = [
        compute_weights_sha256({"a": zeros, "b": ones}),
        compute_weights_sha256({"a": ones, "b": zeros}),
        compute_weights_sha256({"a": zeros.reshape(3, 2), "b": ones}),
        compute_weights_sha256({"a": zeros, "c": ones}),
    ]
    assert len(set(sums)) == 4
    assert compute_weights_sha256({"b": ones, "a": zeros}) == sums[0]


def test_a_model_without_metrics_can_be_used(folder: Path) -> None:
    # What Ctrl-C leaves behind.
    (folder / "metrics.json").unlink()
    (folder / "card.md").unlink()
    assert read_model(folder).metrics == {}


@pytest.mark.parametrize(("is_synthetic", "expected"), [(True, True), (False, False)])
def test_the_card_warns_of_phantoms(
    write_model: Callable[..., Path], tmp_path: Path, is_synthetic: bool, expected: bool
) -> None:
    card = (write_model(tmp_path / "model", is_synthetic=is_synthetic) / "card.md").read_text()
    assert ("synthetic" in card) is expected
    assert "oracle-ct" in card
    assert "bone (7)" in card


def test_old_weights_outlive_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    weights = {name: tensor + 1 for name, tensor in read_model(folder).network.state_dict().items()}
    with pytest.raises(OutputError, match="disk is full"):
        write_weights(folder, weights, build_record())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    read_model(folder)


def test_a_kill_between_weights_and_record_leaves_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medunet.models.folder.write_json_atomic", die)
    weights = {name: tensor + 1 for name, tensor in read_model(folder).network.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        write_weights(folder, weights, build_record())
    monkeypatch.undo()
    read = read_model(folder).network.state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())


# ---- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [-1, -1000, -5000])
def test_row_38_a_flipped_bit_is_noticed(folder: Path, position: int) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"checksum of .*weights\.safetensors differs"):
        read_model(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_row_38_truncated_weights_are_refused(folder: Path, share: float) -> None:
    path = folder / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match="no whole safetensors file"):
        read_model(folder)


def test_row_37_pickle_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    (folder / "weights.safetensors").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ModelError, match="Pickle is never loaded"):
        read_model(folder)
    torch.save({"a": torch.zeros(1)}, folder / "weights.safetensors")
    with pytest.raises(ModelError, match="Pickle is never loaded"):
        read_model(folder)
    assert not (tmp_path / "owned").exists()


def test_row_38_weights_without_a_checksum_are_refused(folder: Path) -> None:
    save_file(read_model(folder).network.state_dict(), folder / "weights.safetensors")
    with pytest.raises(ModelError, match="none when it was written"):
        read_model(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "plan.json", "task.json", "training.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=rf"no complete model: {re.escape(name)} missing"):
        read_model(folder)


def test_what_is_no_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        check_is_model(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        check_is_model(tmp_path / "file")


@pytest.mark.parametrize("name", ["plan.json", "task.json", "training.json", "metrics.json"])
@pytest.mark.parametrize("content", ["{", "", "\x00\xff"])
def test_corrupt_json_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=rf"{re.escape(name)} is no readable JSON"):
        read_model(folder)


@pytest.mark.parametrize("name", ["plan.json", "task.json", "training.json"])
@pytest.mark.parametrize("content", ["[]", "3", '"text"', "{}"])
def test_json_of_another_kind_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(MedunetError, match=re.escape(name)):
        read_model(folder)


def test_row_38_the_weights_of_another_plan_are_refused(folder: Path) -> None:
    network = json.loads((folder / "plan.json").read_text())["network"]
    edit_json(folder / "plan.json", network=network | {"features": [4, 12]})
    with pytest.raises(ModelError, match=r"does not fit plan\.json: \d+ tensors differ, the first is"):
        read_model(folder)


def test_a_key_of_the_future_is_named(folder: Path) -> None:
    edit_json(folder / "plan.json", flux=3)
    with pytest.raises(ModelError, match="flux"):
        read_model(folder)


def test_a_task_that_the_network_does_not_speak_is_refused(folder: Path) -> None:
    edit_json(folder / "task.json", labels={"fat": [1]}, name="oracle-ct")
    with pytest.raises(ModelError, match="labels"):
        read_model(folder)


# ---- post-processing and quality ranges ----------------------------------------------------------------------------------


def write_results_again(folder: Path, **options: Any) -> None:
    model = read_model(folder)
    write_results(folder, model.task, model.plan, model.training, {"num_cases": 0}, **options)


def test_what_was_learnt_after_training_reads_back(folder: Path, make_densities: Any) -> None:
    tried = TriedStep(
        step="label bone", is_used=True, reason="raises it", dice_without={"bone": 0.5}, dice_with={"bone": None}
    )
    postprocessing = Postprocessing(
        keep_largest_foreground=True, keep_largest=("bone", "fat"), num_cases=3, tried=(tried,)
    )
    quality = build_quality_ranges([measure_case(*make_densities(), ORACLE_TASK)], ORACLE_TASK, {"bone": [0.5, 0.75]})
    write_results_again(folder, postprocessing=postprocessing, quality=quality)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "postprocessing.json", "quality.json"])
    model = read_model(folder)
    assert model.postprocessing == postprocessing
    assert model.quality == quality
    assert model.quality is not None
    assert model.quality.labels["bone"].dice is not None
    assert model.quality.labels["bone"].dice.median == 0.625
    card = (folder / "card.md").read_text()
    assert "| Post-processing | largest part kept of all labels as one, bone, fat |" in card


def test_a_model_of_before_leaves_masks_as_they_are(folder: Path) -> None:
    model = read_model(folder)
    assert model.postprocessing == Postprocessing()
    assert model.postprocessing.does_nothing
    assert model.quality is None
    assert "| Post-processing | none |" in (folder / "card.md").read_text()


def test_without_the_file_the_steps_of_the_task_are_taken(folder: Path) -> None:
    recipe = json.loads((folder / "task.json").read_text())
    recipe["postprocessing"] = {"bone": ["fill-holes", {"remove-small": {"ml": 0.5}}]}
    (folder / "task.json").write_text(json.dumps(recipe))
    assert read_model(folder).postprocessing.describe() == "bone: fill-holes; bone: remove-small:ml=0.5"
    (folder / "postprocessing.json").write_text('{"version": 1, "keep_largest": ["fat"], "num_cases": 3}')
    assert read_model(folder).postprocessing == Postprocessing(version=1, keep_largest=("fat",), num_cases=3)


def test_the_records_need_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.models.folder.build_network", lambda plan: pytest.fail("built"))
    assert read_records(folder).task == ORACLE_TASK


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("postprocessing.json", '{"keep_largest": ["bine"]}', "names the label 'bine'; task.json has fat, muscle"),
        (
            "postprocessing.json",
            '{"steps": [{"label": "bine", "step": "fill-holes"}]}',
            "names the label 'bine'; task.json has fat, muscle",
        ),
        (
            "postprocessing.json",
            '{"steps": [{"label": "bone", "step": "fil-holes"}]}',
            "there is no step 'fil-holes'; did you mean 'fill-holes'",
        ),
        ("postprocessing.json", '{"keep_smallest": ["bone"]}', "keep_smallest"),
        ("postprocessing.json", "{", "no readable JSON"),
        ("quality.json", '{"num_cases": 3}', "spacing_mm"),
        ("quality.json", "", "no readable JSON"),
    ],
)
def test_damage_is_named_there_too(folder: Path, name: str, content: str, words: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=f"{re.escape(name)}.*{re.escape(words)}"):
        read_model(folder)


def test_a_run_counts_as_finished_only_when_everything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "metrics.json").unlink()
    written: list[str] = []

    def write(path: Path, _: object) -> None:
        written.append(path.name)

    for function in ("write_json_atomic", "write_text_atomic"):
        monkeypatch.setattr(f"medunet.models.folder.{function}", write)
    write_results_again(folder, postprocessing=Postprocessing())
    assert written == ["postprocessing.json", "card.md", "metrics.json"]


def test_the_card_says_that_cases_failed(folder: Path) -> None:
    model = read_model(folder)
    row = {"mean": 0.5, "num_scored": 2}
    metrics = {"num_cases": 2, "mean_dice": 0.5, "labels": {"bone": row}, "failed": [{"case_id": "x", "reason": "y"}]}
    write_results(folder, model.task, model.plan, model.training, metrics)
    assert "1 more could not be scored" in (folder / "card.md").read_text()


def test_the_card_counts_the_cases_of_every_candidate(folder: Path) -> None:
    model = read_model(folder)
    one = {"name": "3d", "mean_dice": 0.5, "num_cases": 11, "num_networks": 5, "is_chosen": False}
    metrics = {"num_cases": 12, "mean_dice": 0.6, "labels": {"bone": {"mean": 0.6, "num_scored": 12}}}
    metrics["candidates"] = [one, one | {"name": "2d", "mean_dice": 0.6, "num_cases": 12, "is_chosen": True}]
    write_results(folder, model.task, model.plan, model.training, metrics)
    card = (folder / "card.md").read_text()
    for row in ("| Candidate | Dice | Cases | Networks |", "| 3d | 0.500 | 11 | 5 |", "| **2d** | 0.600 | 12 | 5 |"):
        assert row in card


def test_the_card_of_a_cross_validation_claims_no_more_than_it_is(folder: Path) -> None:
    model = read_model(folder)
    metrics = {"num_cases": 2, "mean_dice": 0.5, "labels": {"bone": {"mean": 0.5, "num_scored": 2}}, "folds": [{}, {}]}
    record = model.training.model_copy(update={"fold": None})
    write_results(folder, model.task, model.plan, record, metrics)
    card = (folder / "card.md").read_text()
    assert "2 networks, each of which has not seen one fold" in card
    assert "all cases" not in card


# ---- finding -----------------------------------------------------------------------------------------------------------


def test_the_newest_model_is_found(write_model: Callable[..., Path], tmp_path: Path) -> None:
    old, new, newest = (write_model(tmp_path / name) for name in ("c", "a", "b"))
    (tmp_path / "unfinished" / "state").mkdir(parents=True)
    os.utime(old / "weights.safetensors", (1, 1))
    os.utime(new / "weights.safetensors", (2, 2))
    os.utime(newest / "weights.safetensors", (3, 3))
    assert find_newest_model(tmp_path) == newest


def test_where_there_is_no_model_three_ways_out_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model in .*medunet train.*--model.*MEDUNET_HOME"):
        find_newest_model(tmp_path / "nowhere")


def test_runs_lie_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "my runs"))
    assert get_runs_folder() == tmp_path / "my runs"
    monkeypatch.delenv("MEDUNET_HOME")
    assert get_runs_folder() == Path("runs")


# ---- no pickle ---------------------------------------------------------------------------------------------------------


def test_nothing_in_the_package_can_load_pickle() -> None:
    forbidden = re.compile(
        r"^\s*(import|from) (pickle|cPickle|dill|joblib|cloudpickle|shelve|marshal)\b|torch\.(load|save)\(|"
        r"yaml\.(load|unsafe_load|full_load)\(|allow_pickle=True|\beval\(|\bexec\(|os\.system",
        re.MULTILINE,
    )
    package = Path(medunet.__file__).parent
    sources = sorted(package.rglob("*.py"))
    assert len(sources) > 50
    found = [
        f"{path.relative_to(package)}: {match.group()}"
        for path in sources
        for match in forbidden.finditer(path.read_text().replace("network.eval()", "").replace(").eval()", ")"))
    ]
    assert found == []
