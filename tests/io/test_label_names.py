"""The JSON file of label names: what is written comes back, and anything else is refused without being quoted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medunet.errors import LabelError, OutputError, VolumeError
from medunet.io.label_names import read_label_names, write_label_names
from medunet.io.structures import Code, Structure, StructureSet
from medunet.volume import Volume

LABELS = Volume(np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4) % 4, np.diag([0.7, 1.2, 3.0, 1.0]))
STRUCTURES = (
    Structure(name="left kidney", values=(1,), color=(0, 158, 115), code=Code(value="18639004", meaning="Left kidney")),
    Structure(name="both", values=(1, 2), color=(9, 8, 7), code=Code(value="x", meaning="y", scheme="99LOCAL")),
)
GOOD = {"name": "a", "values": [1], "color": [1, 2, 3]}


def build(*labels: Any) -> Any:
    return {"medunet": {"labels": list(labels)}}


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    write_label_names(StructureSet(layers=LABELS, structures=STRUCTURES), tmp_path / "new" / "mask.json")
    assert read_label_names(tmp_path / "new" / "mask.json") == STRUCTURES


def test_no_structure_at_all(tmp_path: Path) -> None:
    write_label_names(StructureSet(layers=LABELS, structures=()), tmp_path / "mask.json")
    assert read_label_names(tmp_path / "mask.json") == ()


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ([], "Input should be an object"),
        ({}, "at 'medunet': Field required"),
        ({"labels": [GOOD]}, "at 'medunet': Field required"),
        (build(GOOD) | {"more": 1}, "at 'more': Extra inputs are not permitted"),
        (build("Canary"), "at 'medunet.labels.0': "),
        (build({**GOOD, "names": "Canary"}), "at 'medunet.labels.0.names': Extra inputs"),
        (build(GOOD, {**GOOD, "name": ""}), "at 'medunet.labels.1.name': "),
        (build({**GOOD, "name": "Canary\nsecond line"}), "at 'medunet.labels.0.name': "),
        (build({**GOOD, "name": "n" * 2000}), "at 'medunet.labels.0.name': "),
        (build({**GOOD, "name": 7}), "at 'medunet.labels.0.name': Input should be a valid string"),
        (build({**GOOD, "values": []}), "at 'medunet.labels.0.values': "),
        (build({**GOOD, "values": [0]}), "at 'medunet.labels.0.values.0': .* greater than or equal to 1"),
        (build({**GOOD, "values": [1, 2**24]}), "at 'medunet.labels.0.values.1': .* less than 16777216"),
        (build({**GOOD, "values": [1.5]}), "at 'medunet.labels.0.values.0': "),
        (build({**GOOD, "values": ["1"]}), "at 'medunet.labels.0.values.0': "),
        (build({**GOOD, "values": [True]}), "at 'medunet.labels.0.values.0': "),
        (build({**GOOD, "color": [1, 2]}), "at 'medunet.labels.0.color': "),
        (build({**GOOD, "color": [1, 2, 256]}), "at 'medunet.labels.0.color.2': "),
        (build({**GOOD, "code": {"value": "1"}}), "at 'medunet.labels.0.code.meaning': Field required"),
        (build({**GOOD, "code": "Canary"}), "at 'medunet.labels.0.code': "),
        (build(GOOD, GOOD), "names two labels 'a'; expected unique names"),
    ],
)
def test_documents_that_are_refused(tmp_path: Path, document: Any, match: str) -> None:
    path = tmp_path / "mask.json"
    path.write_text(json.dumps(document))
    with pytest.raises(LabelError, match=match) as caught:
        read_label_names(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert "Canary" not in message


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", [b"", b"Canary", b"\xff\xfe", b"{", b"[" * 10**6])
def test_text_that_is_no_json(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "mask.json").write_bytes(text)
    with pytest.raises(
        LabelError, match=r"mask\.json holds label names that cannot be understood \(it is no valid JSON"
    ):
        read_label_names(tmp_path / "mask.json")


def test_a_file_beyond_all_size(tmp_path: Path) -> None:
    with (tmp_path / "mask.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(LabelError, match=r"mask\.json is larger than 16777216 bytes"):
        read_label_names(tmp_path / "mask.json")


def test_row_35_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(VolumeError, match="is a pipe or a device"):
        read_label_names(tmp_path / "pipe.json")
    with pytest.raises(VolumeError, match="does not exist"):
        read_label_names(tmp_path / "gone.json")


@pytest.mark.parametrize(
    "structure",
    [
        Structure(name="two\nlines", values=(1,)),
        Structure(name="huge", values=(2**24,)),
        Structure(name="colour", values=(1,), color=(0, 0, 256)),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, structure: Structure) -> None:
    with pytest.raises(LabelError, match="The structure set holds label names that cannot be understood"):
        write_label_names(StructureSet(layers=LABELS, structures=(structure,)), tmp_path / "mask.json")
    assert not list(tmp_path.iterdir())


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"Cannot write .*mask\.json"):
        write_label_names(StructureSet(layers=LABELS, structures=STRUCTURES), tmp_path / "file" / "mask.json")
