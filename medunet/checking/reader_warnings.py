"""Warnings that medunet's readers log while a case is read, kept per case instead of being lost in a stream of lines."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReaderWarnings(logging.Handler):
    """Collects what the logger ``medunet`` warns of, apart for every thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record where its thread is listening."""
        texts: list[str] | None = getattr(self._thread, "texts", None)
        if texts is not None:
            texts.append(record.getMessage())

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Listen to the logger for as long as this lasts."""
        logger = logging.getLogger("medunet")
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)

    @contextmanager
    def listen(self) -> Iterator[list[str]]:
        """A list that fills with what this thread warns of."""
        texts: list[str] = []
        self._thread.texts = texts
        try:
            yield texts
        finally:
            self._thread.texts = None
