"""What medunet warns of on its logger, kept with what it is about instead of being lost in a stream of lines."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """A list that fills with what this thread warns of while it lasts; the lines go where they always go, too.

    Example:
        >>> with collect_warnings() as warned:
        ...     logging.getLogger("medunet.somewhere").warning("The %s is odd.", "scan")
        >>> warned
        ['The scan is odd.']
    """
    texts: list[str] = []
    _LISTENER.begin(texts)
    try:
        yield texts
    finally:
        _LISTENER.end(texts)


def strip_folders(texts: Iterable[str], paths: Iterable[Path]) -> tuple[str, ...]:
    """Texts once each, which name files by their names alone: folders may be named after patients.

    Args:
        texts: What was warned of, or went wrong.
        paths: That may stand in them; of a folder, what lies in it is named from there on.

    Example:
        >>> strip_folders(["data/Doe/a.nii has one slice."], [Path("data/Doe/a.nii")])
        ('a.nii has one slice.',)
    """
    texts = list(texts)
    for path in sorted(paths, key=lambda path: -len(str(path))) if texts else ():  # a folder may lie in another
        if path.name:
            texts = [text.replace(str(path), path.name) for text in texts]
    return tuple(dict.fromkeys(texts))


class _Listener(logging.Handler):
    """Hands warnings to those who collect them in the same thread; at the logger as long as anybody does."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lists: dict[int, list[list[str]]] = {}  # by thread

    def begin(self, texts: list[str]) -> None:
        """Fill a list with what this thread warns of."""
        with _LOCK:
            self._lists.setdefault(threading.get_ident(), []).append(texts)
            logging.getLogger("medunet").addHandler(self)

    def end(self, texts: list[str]) -> None:
        """Fill it no more."""
        with _LOCK:
            thread = threading.get_ident()
            self._lists[thread] = [one for one in self._lists[thread] if one is not texts]
            if not self._lists[thread]:
                del self._lists[thread]
            if not self._lists:
                logging.getLogger("medunet").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record; where nobody else takes it, print it, as Python does where there is no handler at all."""
        for texts in self._lists.get(threading.get_ident(), []):
            texts.append(record.getMessage())
        if logging.lastResort is not None and not self._is_taken_by_others(record):
            logging.lastResort.handle(record)

    def _is_taken_by_others(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


_LOCK = threading.Lock()
_LISTENER = _Listener()
