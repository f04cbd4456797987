"""``ensemble.json``: which model folders below a folder answer together. Reading it loads no torch."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from medunet.errors import ModelError
from medunet.models.documents import read_document
from medunet.models.names import ENSEMBLE

ENSEMBLE_VERSION: Final = 1


class EnsembleRecord(BaseModel):
    """The content of ``ensemble.json``.

    Attributes:
        version: Of this format.
        members: Names of model folders that lie directly in the folder of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = ENSEMBLE_VERSION
    members: tuple[str, ...] = Field(min_length=1)

    @field_validator("members")
    @classmethod
    def _check_names(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        for name in members:
            # A model may come from anywhere: no name may lead out of its folder, on any system.
            is_plain = name.isprintable() and {PurePosixPath(name).name, PureWindowsPath(name).name} == {name}
            if name in ("", "..") or not is_plain:
                msg = f"'{name[:80]}' is no name of a folder directly within the model"
                raise ValueError(msg)
            if members.count(name) > 1:
                msg = f"'{name[:80]}' is named twice"
                raise ValueError(msg)
        return members


def is_ensemble(folder: Path) -> bool:
    """Whether a model folder holds several models that answer together."""
    return (folder / ENSEMBLE).is_file()


def list_members(folder: Path) -> tuple[Path, ...]:
    """The model folders of an ensemble, in the order in which it names them.

    Raises:
        ModelError: If ``ensemble.json`` is damaged, names a folder that is missing, leads out of the ensemble or is an
            ensemble itself.
    """
    record = read_document(EnsembleRecord, folder / ENSEMBLE)
    members = tuple(folder / name for name in record.members)
    for member in members:
        check_lies_within(member, folder)
        if is_ensemble(member):
            msg = (
                f"{member} is an ensemble within the ensemble {folder}; expected single models. Copy the folder again."
            )
            raise ModelError(msg)
    return members


def check_lies_within(path: Path, folder: Path) -> None:
    """Refuse a part of a model that is a link to somewhere else.

    Raises:
        ModelError: If it is.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        msg = f"{path} is a link that leads out of the model folder {folder}; copy the folder again, with its content."
        raise ModelError(msg)
