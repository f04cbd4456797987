"""One of several processes that learn together; `medunet.training.launch` runs it as ``python -m medunet.training.worker``.

Standard input holds the arguments of `medunet.training.train` as one line of JSON, and stays open for as long as the first
process lives.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from medunet.errors import MedunetError, TrainingStoppedError
from medunet.training.run import train


def run_worker(function: Callable[..., Any]) -> None:
    """Call a function with the arguments of the first process; that one reports, so nothing is said here but errors."""
    arguments = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_first, name="medunet-first-process", daemon=True).start()
    logging.getLogger("medunet").setLevel(logging.ERROR)
    try:
        function(**arguments)
    except (TrainingStoppedError, KeyboardInterrupt):
        return
    except (MedunetError, OSError) as error:
        sys.exit("error: " + " ".join(str(error).split("\n")))


def _end_with_first() -> None:
    """End at once when the first process does, even when it is killed: the pipe is then closed."""
    os.read(0, 1)  # not `sys.stdin`, whose lock would be held while Python shuts down
    os._exit(1)


if __name__ == "__main__":
    run_worker(train)
