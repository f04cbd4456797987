"""JSON files of a model folder, read with messages that name the file and the fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from medunet.errors import ModelError
from medunet.tasks import describe_first_fault

Document = TypeVar("Document", bound=BaseModel)


def read_document(kind: type[Document], path: Path) -> Document:
    """One document of a known form.

    Raises:
        ModelError: If the file cannot be read, is no JSON or has another form.
    """
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        msg = f"{path}: {describe_first_fault(error)}. Was it written by another version of medunet?"
        raise ModelError(msg) from error


def read_json(path: Path) -> Any:
    """Whatever a JSON file holds.

    Raises:
        ModelError: If the file cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path} is no readable JSON ({str(error).splitlines()[0]}). Copy the model folder again."
        raise ModelError(msg) from error
