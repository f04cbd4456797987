"""What the values of a label map mean, as JSON: names, values, colours and coded terms.

```json
{"medunet": {"labels": [
  {"name": "bladder", "values": [1], "color": [230, 159, 0],
   "code": {"value": "89837001", "meaning": "Urinary bladder", "scheme": "SCT"}}]}}
```

The same text stands in a header extension of masks (`medunet.io.nifti_labels`) and in a file beside them.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medunet.errors import LabelError
from medunet.io.atomic import write_bytes_atomic
from medunet.io.formats import strip_suffix
from medunet.io.regular_file import check_regular_file
from medunet.io.structures import Code, Structure, StructureSet
from medunet.io.voxels import LABEL_LIMIT

_LARGEST_BYTES = 2**24
_Channel = Annotated[int, Field(ge=0, le=255)]
_Value = Annotated[int, Field(ge=1, lt=LABEL_LIMIT)]


class _Label(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, Field(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$")]  # one line: it stands in messages
    values: Annotated[list[_Value], Field(min_length=1)]
    color: Annotated[list[_Channel], Field(min_length=3, max_length=3)]
    code: Code | None = None


class _Labels(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    labels: list[_Label]


class _Document(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    medunet: _Labels


def name_sidecar(path: Path) -> Path:
    """Where the label names of a mask stand: beside it, with the ending ``.json``.

    Example:
        >>> name_sidecar(Path("out/p012.nii.gz")).as_posix()
        'out/p012.json'
    """
    return path.with_name(f"{strip_suffix(path.name)}.json")


def write_label_names(structure_set: StructureSet, path: Path) -> None:
    """Write the names, values, colours and codes of a structure set as a JSON file, whole or not at all.

    Args:
        structure_set: What the label map shows; of one layer.
        path: The JSON file; `name_sidecar` gives the place where readers look for it.

    Raises:
        LabelError: If the structures lie in several layers, whose values mean different things.
        OutputError: If the file cannot be written.
    """
    write_bytes_atomic(path, (format_label_names(structure_set, indent=2) + "\n").encode())


def read_label_names(path: Path) -> tuple[Structure, ...]:
    """Read what `write_label_names` wrote; an empty tuple where the file lists no structure.

    Raises:
        VolumeError: If the file is missing or no regular file.
        LabelError: If it cannot be read, or holds anything but label names.
    """
    text = _read_text(path)
    return parse_label_names(text, str(path))


def read_sidecar(path: Path) -> tuple[Structure, ...] | None:
    """The label names in a JSON file beside a mask; None where there is none, or one of another program (BIDS).

    Raises:
        LabelError: If the file is one of medunet, and damaged.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a folder may not be searched
        return None
    text = _read_text(path)
    return parse_label_names(text, str(path)) if is_label_names(text) else None


def is_label_names(text: bytes) -> bool:
    """Whether a JSON text begins as those that are written here."""
    return re.match(rb'\s*\{\s*"medunet"\s*:', text) is not None


def format_label_names(structure_set: StructureSet, *, indent: int | None = None) -> str:
    """The JSON text, in ASCII.

    Raises:
        LabelError: If the structures lie in several layers, or one has a name, a value or a colour that readers refuse.
    """
    structure_set.to_label_map()  # refuses several layers
    labels = [_describe_structure(structure) for structure in structure_set.structures]
    text = json.dumps({"medunet": {"labels": labels}}, indent=indent)
    parse_label_names(text.encode(), "The structure set")
    return text


def parse_label_names(text: bytes, name: str) -> tuple[Structure, ...]:
    """The structures that a JSON text lists, all in layer 0.

    Args:
        text: UTF-8.
        name: What messages call its file.

    Raises:
        LabelError: With the place in the document and what was expected there; the text itself is not quoted.
    """
    try:
        document = _Document.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        where = f"at '{place}': " if place else ""
        what = "it is no valid JSON" if fault["type"] == "json_invalid" else fault["msg"]
        msg = (
            f"{name} holds label names that cannot be understood ({where}{what}); expected "
            '{"medunet": {"labels": [{"name", "values", "color", "code"}]}}. Correct or delete them.'
        )
        raise LabelError(msg) from None  # the cause would quote the text
    structures = tuple(
        Structure(name=label.name, values=tuple(label.values), color=_to_color(label.color), code=label.code)
        for label in document.medunet.labels
    )
    names = [structure.name for structure in structures]
    if len(set(names)) < len(names):
        twice = next(label for label in names if names.count(label) > 1)
        msg = f"{name} names two labels '{twice}'; expected unique names. Rename one."
        raise LabelError(msg)
    return structures


def _describe_structure(structure: Structure) -> dict[str, Any]:
    label = {"name": structure.name, "values": list(structure.values), "color": list(structure.color)}
    return label if structure.code is None else {**label, "code": structure.code.model_dump()}


def _to_color(channels: list[int]) -> tuple[int, int, int]:
    red, green, blue = channels
    return red, green, blue


def _read_text(path: Path) -> bytes:
    check_regular_file(path)
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}. Check its permissions."
        raise LabelError(msg) from error
    if len(text) > _LARGEST_BYTES:
        msg = f"{path} is larger than {_LARGEST_BYTES} bytes; expected a list of label names. Check the path."
        raise LabelError(msg)
    return text
