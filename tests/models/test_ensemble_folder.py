"""An ensemble is read whole or refused: every member verified, none from elsewhere, all of one task."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_runs import COARSE_PLAN, PLAN, TASK, write_network, write_run
from oracles import build_plan_for, build_record

from medunet.errors import ModelError, OutputError
from medunet.models import (
    Ensemble,
    Model,
    combine_records,
    copy_model,
    find_newest_model,
    read_model,
    read_records,
    read_single_model,
    write_ensemble,
)
from medunet.planning import Plan
from medunet.tasks import Task


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def name_members(folder: Path, *members: object) -> None:
    edit_json(folder / "ensemble.json", members=list(members))


def read_ensemble(folder: Path) -> Ensemble:
    model = read_model(folder)
    assert isinstance(model, Ensemble)
    return model


def is_same_network(one: Model, other: Model) -> bool:
    first, second = one.network.state_dict(), other.network.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- reading -----------------------------------------------------------------------------------------------------------


def test_every_member_is_the_model_of_its_folder(run: Path) -> None:
    ensemble = read_ensemble(run)
    assert [member.folder.name for member in ensemble.members] == ["fold_0", "fold_1"]
    for member in ensemble.members:
        alone = read_single_model(member.folder)
        assert is_same_network(member, alone)
        assert alone.members == (alone,)
        assert not member.network.training
    assert not is_same_network(*ensemble.members)
    assert (ensemble.task, ensemble.plan) == (TASK, PLAN)


def test_the_records_of_an_ensemble_say_what_its_members_did_together(run: Path) -> None:
    training = read_records(run).training
    assert training.fold is None
    assert training.validation_cases == ("case_0", "case_2", "case_1")
    assert set(training.training_cases) == {"case_0", "case_1", "case_2"}
    assert (training.num_iterations, training.seconds) == (8, 3.0)


def test_what_differs_between_members_is_not_claimed_for_all() -> None:
    one = build_record().model_copy(
        update={"settings": {"loss": "dice-ce", "workers": 2}, "budget": "1h", "weights_sha256": "a"}
    )
    other = one.model_copy(
        update={
            "settings": {"loss": "tversky", "workers": 2},
            "budget": "2h",
            "is_synthetic": True,
            "created": "2027-01-01T00:00:00+00:00",
            "is_deterministic": False,
            "weights_sha256": "b",
        }
    )
    both = combine_records([one, other])
    assert both.settings == {"workers": 2}
    assert (both.budget, both.is_synthetic, both.is_deterministic) == ("1h, 2h", True, False)
    assert both.created == other.created
    assert both.training_cases == one.training_cases
    assert combine_records([other, one]).weights_sha256 != both.weights_sha256
    assert combine_records([one, one]).budget == "1h"


def test_reading_records_loads_no_torch(run: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom medunet.models import find_newest_model, read_records\n"
        f"read_records(Path({str(run)!r})); find_newest_model(Path({str(run.parent)!r}))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_ensemble_is_found_like_any_model(run: Path) -> None:
    alone = write_network(run.parent / "alone")
    os.utime(alone / "weights.safetensors", (100, 100))
    os.utime(run / "ensemble.json", (200, 200))
    assert find_newest_model(run.parent) == run
    os.utime(alone / "weights.safetensors", (300, 300))
    assert find_newest_model(run.parent) == alone


def test_the_folds_of_an_unfinished_cross_validation_are_no_model(run: Path) -> None:
    (run / "ensemble.json").unlink()
    with pytest.raises(ModelError, match="no model in"):
        find_newest_model(run.parent)
    with pytest.raises(ModelError, match=r"no complete model: weights\.safetensors missing"):
        read_model(run)


def test_where_one_network_is_needed_the_folds_are_named(run: Path) -> None:
    words = rf"ensemble of fold_0, fold_1; expected a single model.* such as {re.escape(str(run / 'fold_0'))}\."
    with pytest.raises(ModelError, match=words):
        read_single_model(run)


# ---- damage ------------------------------------------------------------------------------------------------------------


def test_row_38_a_flipped_bit_in_any_member_is_noticed(run: Path) -> None:
    path = run / "fold_1" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"checksum of .*fold_1/weights\.safetensors differs"):
        read_model(run)


def test_row_38_a_member_of_another_run_is_noticed(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", seed=1)
    shutil.rmtree(run / "fold_1")
    shutil.copytree(other / "fold_1", run / "fold_1")
    with pytest.raises(ModelError, match="not those that were put together"):
        read_model(run)


def test_members_in_another_order_are_another_ensemble(run: Path) -> None:
    name_members(run, "fold_1", "fold_0")
    with pytest.raises(ModelError, match="not those that were put together"):
        read_model(run)


@pytest.mark.parametrize("name", ["training.json", "task.json", "plan.json"])
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(ModelError, match=rf"no complete model: {re.escape(name)} missing"):
        read_model(run)


def test_a_missing_member_is_named(run: Path) -> None:
    shutil.rmtree(run / "fold_1")
    with pytest.raises(ModelError, match=r"fold_1 does not exist"):
        read_model(run)


@pytest.mark.parametrize("content", ["{", "", "\x00\xff", "[" * 100_000])
def test_damaged_json_is_named(run: Path, content: str) -> None:
    (run / "ensemble.json").write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=r"ensemble\.json is no readable JSON"):
        read_model(run)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"version": 1, "members": []}, "members"),
        ({"version": 1, "members": "fold_0"}, "members"),
        ({"version": 1, "members": [3]}, "members"),
        ({"version": 1}, "members"),
        ({"version": 2, "members": ["fold_0"]}, "version"),
        ({"version": 1, "members": ["fold_0"], "weights": [1]}, "weights"),
        ({"version": 1, "members": ["fold_0", "fold_0"]}, "named twice"),
        ([], r"ensemble\.json"),
    ],
)
def test_json_of_another_form_is_named(run: Path, content: Any, word: str) -> None:
    (run / "ensemble.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=word):
        read_model(run)


@pytest.mark.parametrize(
    "name", ["../other/fold_0", "..", ".", "", "/etc", "fold_0/", "a/b", "a\\b", "C:", "x\0", "a\nb"]
)
def test_row_40_a_name_cannot_lead_out_of_the_folder(run: Path, tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "other")
    name_members(run, "fold_0", name)
    with pytest.raises(ModelError, match="is no name of a folder directly within the model"):
        read_model(run)


def test_row_39_a_link_cannot_lead_out_of_the_folder(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "fold_1", tmp_path / "elsewhere")
    shutil.rmtree(run / "fold_1")
    (run / "fold_1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="a link that leads out of the model folder"):
        read_model(run)


def test_an_ensemble_that_is_reached_by_a_link_is_read(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    assert len(read_ensemble(tmp_path / "link").members) == 2


def test_an_ensemble_of_ensembles_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.move(write_run(tmp_path / "inner"), run / "inner")
    name_members(run, "fold_0", "inner")
    with pytest.raises(ModelError, match="inner is an ensemble within the ensemble"):
        read_model(run)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"labels": {"left": [1], "right": [2]}}, "labels"),
        ({"labels": {"right": [3], "left": [1]}}, "labels"),
        ({"channels": ["t2"]}, "channels"),
        ({"modality": "CT"}, "modality"),
    ],
)
def test_members_of_another_task_are_refused(run: Path, changes: dict[str, Any], what: str) -> None:
    edit_json(run / "fold_1" / "task.json", **changes)
    with pytest.raises(ModelError, match=f"fold_1 has other {what} than"):
        read_model(run)


# ---- cascades ------------------------------------------------------------------------------------------------------------


def make_cascade_plan(task: Task = TASK) -> Plan:
    plan = build_plan_for(task, (1.0, 1.25, 2.0), (8, 12, 8))
    num_labels = len(task.labels)
    network = plan.network.model_copy(update={"in_channels": 1 + num_labels})
    return plan.model_copy(update={"configuration": "cascade", "num_previous_labels": num_labels, "network": network})


LOW_PLAN = COARSE_PLAN.model_copy(update={"configuration": "3d-low"})


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    folder = write_network(tmp_path / "cascade", plan=make_cascade_plan(), seed=1)
    write_network(folder / "low", plan=LOW_PLAN, seed=2)
    return folder


def test_a_cascade_comes_with_its_first_stage(cascade: Path, run: Path) -> None:
    model = read_single_model(cascade)
    assert isinstance(model.low, Model)
    assert model.low.plan == LOW_PLAN
    assert is_same_network(model.low, read_single_model(cascade / "low"))
    assert read_single_model(run / "fold_0").low is None


def test_the_first_stage_may_be_an_ensemble(cascade: Path) -> None:
    shutil.rmtree(cascade / "low")
    write_run(cascade / "low", plan=LOW_PLAN)
    low = read_single_model(cascade).low
    assert isinstance(low, Ensemble)
    assert len(low.members) == 2


def test_a_cascade_without_its_first_stage_is_refused(cascade: Path) -> None:
    shutil.rmtree(cascade / "low")
    with pytest.raises(ModelError, match="low does not exist"):
        read_model(cascade)


def test_a_first_stage_elsewhere_is_refused(cascade: Path, tmp_path: Path) -> None:
    shutil.move(cascade / "low", tmp_path / "elsewhere")
    (cascade / "low").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="a link that leads out"):
        read_model(cascade)


@pytest.mark.parametrize("plan", [PLAN, make_cascade_plan()])
def test_only_3d_low_can_be_the_first_stage(cascade: Path, plan: Plan) -> None:
    shutil.rmtree(cascade / "low")
    write_network(cascade / "low", plan=plan)
    with pytest.raises(ModelError, match=f"configuration {plan.configuration}; the first stage of a cascade is 3d-low"):
        read_model(cascade)


def test_a_first_stage_that_is_its_own_first_stage_is_refused(cascade: Path) -> None:
    shutil.rmtree(cascade / "low")
    (cascade / "low").symlink_to(".")
    with pytest.raises(ModelError, match="the first stage of a cascade is 3d-low"):
        read_model(cascade)


def test_a_first_stage_with_other_labels_is_refused(cascade: Path) -> None:
    edit_json(cascade / "low" / "task.json", labels={"left": [1], "right": [2]})
    with pytest.raises(ModelError, match="low has other labels than"):
        read_model(cascade)


@pytest.mark.parametrize("changes", [{"num_previous_labels": 1}, {"configuration": "3d"}])
def test_a_cascade_sees_every_label(cascade: Path, changes: dict[str, Any]) -> None:
    edit_json(cascade / "plan.json", **changes)
    with pytest.raises(ModelError, match=r"task\.json and plan\.json do not fit"):
        read_model(cascade)


# ---- copies --------------------------------------------------------------------------------------------------------------


def test_a_copy_is_the_same_model_without_the_state_of_its_training(run: Path, tmp_path: Path) -> None:
    for folder in (run, run / "fold_0"):
        (folder / "state").mkdir()
        (folder / "state" / "state.safetensors").write_bytes(b"large")
    copy_model(run, tmp_path / "copy")
    shutil.rmtree(run)
    copied = read_ensemble(tmp_path / "copy")
    assert [member.folder.parent.name for member in copied.members] == ["copy", "copy"]
    assert not list((tmp_path / "copy").rglob("state*"))


def test_a_copied_cascade_has_its_first_stage(cascade: Path, tmp_path: Path) -> None:
    copy_model(cascade, tmp_path / "copy")
    shutil.rmtree(cascade)
    assert read_single_model(tmp_path / "copy").low is not None


def test_half_a_copy_is_no_model(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medunet.models import ensemble

    write = ensemble.write_bytes_atomic

    def fail(path: Path, content: bytes) -> None:
        if path == tmp_path / "copy" / "ensemble.json":
            msg = "the disk is full"
            raise OutputError(msg)
        write(path, content)

    monkeypatch.setattr(ensemble, "write_bytes_atomic", fail)
    with pytest.raises(OutputError, match="disk is full"):
        copy_model(run, tmp_path / "copy")
    with pytest.raises(ModelError, match="no complete model"):
        read_model(tmp_path / "copy")


def test_a_name_that_leads_out_is_not_written(run: Path) -> None:
    with pytest.raises(ValueError, match="is no name of a folder"):
        write_ensemble(run, ["../run"], build_record())
