"""What is warned of is kept by those who listen in the same thread, and still printed."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from medunet.warned import _LISTENER, collect_warnings, strip_folders

LOGGER = logging.getLogger("medunet.somewhere.deep")


def test_warnings_are_kept_while_somebody_listens() -> None:
    with collect_warnings() as outer:
        LOGGER.warning("one of %d", 2)
        with collect_warnings() as inner:
            LOGGER.error("two")
            LOGGER.info("nothing worth keeping")
            logging.getLogger("elsewhere").warning("not ours")
    LOGGER.warning("too late")
    assert (outer, inner) == (["one of 2", "two"], ["two"])
    assert _LISTENER not in logging.getLogger("medunet").handlers


def test_threads_hear_only_themselves() -> None:
    together = threading.Barrier(2)
    heard: dict[str, list[str]] = {}

    def warn(name: str) -> None:
        with collect_warnings() as texts:
            together.wait()
            LOGGER.warning(name)
            together.wait()
        heard[name] = texts

    threads = [threading.Thread(target=warn, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {"first": ["first"], "second": ["second"]}


@pytest.mark.parametrize("propagates", [False, True])
def test_a_program_without_handlers_still_prints_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, propagates: bool
) -> None:
    """Python prints warnings that no handler takes; listening must not count as taking. Once, however many listen."""
    printed: list[str] = []

    class Last(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            printed.append(record.getMessage())

    monkeypatch.setattr(logging, "lastResort", Last())
    monkeypatch.setattr(logging.getLogger("medunet"), "propagate", propagates)
    with collect_warnings(), collect_warnings():
        LOGGER.warning("said")
    assert printed == ([] if propagates else ["said"])  # pytest listens at the root
    assert ("said" in caplog.text) is propagates


def test_files_are_named_without_their_folders() -> None:
    texts = ["x/Doe/a.nii is odd.", "The small network found nothing.", "x/Doe/a.nii is odd."]
    assert strip_folders(texts, [Path("x/Doe/a.nii"), Path()]) == ("a.nii is odd.", "The small network found nothing.")


def test_a_folder_within_another_keeps_only_its_own_name() -> None:
    folders = [Path("x/Doe"), Path("x/Doe/labels")]
    assert strip_folders(["x/Doe/labels/a.nii is odd."], folders) == ("labels/a.nii is odd.",)
