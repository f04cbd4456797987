"""``state/failure.json``: why a training ended, where it ended by an error and not by a person, a signal or a kill."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from medunet.errors import ModelError, TrainingStoppedError
from medunet.io import write_json_atomic
from medunet.models.names import FAILURE, SETTINGS, STATE_FOLDER


class Failure(BaseModel):
    """The content of the file.

    Attributes:
        when: ISO date and time, UTC.
        reason: What the error said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: str
    reason: str


@contextlib.contextmanager
def recorded_failure(folder: Path) -> Iterator[None]:
    """Write down why a training fails, and forget an earlier failure when it goes on.

    An error before there is anything to go on with leaves no file: such a folder is removed again. Nor does a refusal to go on,
    because of other data for example: the run is as good as before.

    Args:
        folder: The run folder.
    """
    path = folder / STATE_FOLDER / FAILURE
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    try:
        yield
    except (TrainingStoppedError, ModelError):
        raise
    except Exception as error:
        if (folder / STATE_FOLDER / SETTINGS).is_file():
            when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            failure = Failure(when=when, reason=" ".join((str(error) or type(error).__name__).split()))
            with contextlib.suppress(OSError):  # a full disk may be the reason
                write_json_atomic(path, failure.model_dump(mode="json"))
        raise
