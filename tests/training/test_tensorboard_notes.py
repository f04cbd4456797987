"""What TensorBoard itself reads beside the curves."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_runs import write_scored_run
from PIL import Image

from medunet.training import TrainingStart
from medunet.training.log import TENSORBOARD
from medunet.training.tensorboard_notes import TensorBoardNotes

PARAMETERS: dict[str, Any] = {"seed": 3, "loss": "dice-ce", "deterministic": True, "plan.patch_size": "8x12x8"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_scored_run(tmp_path / "run", {"left": [0.5, 0.7], "right": [0.9, 0.9]})
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[1, 2] = (255, 0, 0)
    Image.fromarray(picture).save(folder / "validation.png")
    return folder


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / TENSORBOARD)).Reload()


def start(folder: Path, *, resumes: bool = False) -> TrainingStart:
    return TrainingStart(folder=folder, resumes=resumes, parameters=PARAMETERS, tags={})


def test_parameters_scores_pictures_and_the_row_of_the_run(run: Path) -> None:
    notes = TensorBoardNotes()
    notes.on_training(start(run))
    notes.on_model(run)
    found = read(run)
    tags = found.Tags()
    assert {tag: found.Scalars(tag)[0].value for tag in tags["scalars"]} == {
        "final_dice/mean": pytest.approx(0.75),
        "final_dice/left": pytest.approx(0.6),
        "final_dice/right": pytest.approx(0.9),
    }
    assert tags["images"] == ["validation"]
    image = found.Images("validation")[0]
    assert (image.width, image.height) == (6, 4)
    text = found.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| plan.patch_size | 8x12x8 |" in text
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert values["seed"].number_value == 3
    assert values["loss"].string_value == "dice-ce"
    assert values["deterministic"].number_value == 1


def test_a_run_that_goes_on_says_its_parameters_once(run: Path) -> None:
    notes = TensorBoardNotes()
    notes.on_training(start(run))
    notes.on_training(start(run, resumes=True))
    assert len(list((run / TENSORBOARD).iterdir())) == 1


def test_an_ensemble_has_scores_and_no_parameters(run: Path) -> None:
    TensorBoardNotes().on_model(run)
    assert "final_dice/mean" in read(run).Tags()["scalars"]


def test_what_cannot_be_written_is_a_warning(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / TENSORBOARD).write_text("a file")
    with caplog.at_level(logging.WARNING):
        TensorBoardNotes().on_training(start(run))
        TensorBoardNotes().on_model(run)
    assert ["TensorBoard does not show the" in record.message for record in caplog.records] == [True, True]
