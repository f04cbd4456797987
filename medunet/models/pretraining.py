"""``pretraining.json``: what a network was given to learn before it ever saw a label."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from medunet.errors import ModelError
from medunet.models.documents import read_document
from medunet.models.names import PRETRAINING
from medunet.volume import Shape3


class RestoringScore(BaseModel):
    """How well hidden voxels of scans are restored that the network had not seen, in units of the network's range.

    Attributes:
        num_scans: That were looked at.
        num_patches: Of them.
        error: Mean absolute difference within what was hidden.
        error_of_mean: The same of the mean of what was shown, which is what a network that learnt nothing could say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_scans: int
    num_patches: int
    error: float
    error_of_mean: float


class PretrainingRecord(BaseModel):
    """A network that restores hidden parts of images. It segments nothing; its outputs are the channels of the image.

    Attributes:
        version: Of this document.
        task: Recipe whose channels and intensity rule it took; None where only a modality was given.
        block: Voxels of what is hidden at once, ``(I, J, K)``.
        hidden_share: Of all blocks.
        distance: ``"l1"`` or ``"l2"`` between what was hidden and what the network says.
        num_left_out: Scans that could not be used.
        score: On scans that were kept apart; None before the end, or without such scans.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    task: str | None
    block: Shape3
    hidden_share: float
    distance: Literal["l1", "l2"]
    num_left_out: int = 0
    score: RestoringScore | None = None


def read_pretraining(folder: Path) -> PretrainingRecord | None:
    """What a model folder says about its pretraining; None where it is none.

    Raises:
        ModelError: If the document is damaged.
    """
    path = folder / PRETRAINING
    return read_document(PretrainingRecord, path) if path.is_file() else None


def check_segments(folder: Path) -> None:
    """Refuse a model that was only pretrained, where a mask is wanted.

    Raises:
        ModelError: Says what it is good for.
    """
    if (folder / PRETRAINING).is_file():
        msg = (
            f"{folder} was pretrained to restore hidden parts of images, and has not learnt to segment anything. Train on "
            f"labelled cases with it first: medunet train --from {folder}."
        )
        raise ModelError(msg)
