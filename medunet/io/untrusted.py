"""Reading files that nobody vouches for: in a process of its own, with limits on memory and time.

A decoder that crashes, or a small file that unfolds to gigabytes, then ends that process and not the pipeline; the caller gets
an error that names the file. Files from a hospital's own archive do not need this.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medunet.errors import VolumeError
from medunet.io.scan import ReadOptions, Scan
from medunet.volume import Volume

logger = logging.getLogger(__name__)

MEMORY_GIB = 8.0
SECONDS = 300.0

_CHILD = "import sys; from medunet.io.untrusted import main; main(sys.argv[1])"


def read_scan_apart(
    source: str | Path | Sequence[str | Path],
    options: ReadOptions | None = None,
    *,
    memory_gib: float = MEMORY_GIB,
    seconds: float = SECONDS,
) -> Scan:
    """`medunet.io.read_scan` in a child process.

    Args:
        source: As `read_scan`.
        options: As `read_scan`.
        memory_gib: Address space that the child may use, where the system can limit it (not on Windows).
        seconds: Time that it may take.

    Returns:
        As `read_scan`. Of a DICOM series, headers are read again in this process, after the child has read all of it.

    Raises:
        VolumeError: As `read_scan`, and if the child crashes or exceeds a limit.
    """
    options = options or ReadOptions()
    paths = [source] if isinstance(source, (str, Path)) else list(source)
    name = str(paths[0]) if paths else "an empty list"
    with tempfile.TemporaryDirectory(prefix="medunet-") as folder:
        order = {
            "paths": [str(Path(path).absolute()) for path in paths],
            "options": asdict(options),
            "memory_gib": memory_gib,
            "seconds": seconds,
        }
        Path(folder, "order.json").write_text(json.dumps(order), encoding="utf-8")
        _run_child(folder, name, memory_gib, seconds)
        answer = json.loads(Path(folder, "answer.json").read_text(encoding="utf-8"))
        for level, text in answer["log"]:
            logger.log(level, "%s", text)
        if "error" in answer:
            raise VolumeError(answer["error"])
        array = np.load(Path(folder, "array.npy"), allow_pickle=False)
    volume = Volume(array, np.array(answer["affine"]))
    scan = Scan(
        volume=volume,
        path=Path(paths[0]),
        notes=tuple(answer["notes"]),
        other_paths=tuple(map(Path, answer["other_paths"])),
    )
    return _add_stack(scan, options) if answer["is_dicom"] else scan


def main(folder: str) -> None:
    """What the child process does: read, and leave ``answer.json`` and ``array.npy`` in the folder of the order."""
    from medunet.errors import MedunetError
    from medunet.io.reading import read_scan

    order = json.loads(Path(folder, "order.json").read_text(encoding="utf-8"))
    _set_limits(order["memory_gib"], order["seconds"])
    log = _Log()
    logging.getLogger("medunet").addHandler(log)
    answer: dict[str, Any]
    try:
        scan = read_scan(order["paths"], ReadOptions(**order["options"]))
        np.save(Path(folder, "array.npy"), np.ascontiguousarray(scan.volume.array), allow_pickle=False)
        answer = {
            "affine": scan.volume.affine.tolist(),
            "notes": list(scan.notes),
            "is_dicom": scan.stack is not None,
            "other_paths": [str(path) for path in scan.other_paths],
        }
    except MedunetError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {
            "error": f"{order['paths'][0]} needs more than {order['memory_gib']:g} GiB to be read; it was given up."
        }
    answer["log"] = log.lines
    Path(folder, "answer.json").write_text(json.dumps(answer), encoding="utf-8")


class _Log(logging.Handler):
    """Keeps what is logged in the child, to be said in the parent."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep level and text."""
        self.lines.append((record.levelno, record.getMessage()))


def _set_limits(memory_gib: float, seconds: float) -> None:
    if sys.platform == "win32":
        return
    import resource

    num_bytes = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the patient's data


def _run_child(folder: str, name: str, memory_gib: float, seconds: float) -> None:
    try:
        child = subprocess.run(
            [sys.executable, "-c", _CHILD, folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{name} was not read within {seconds:g} s; it was given up. It is damaged, hostile, or very large."
        raise VolumeError(msg) from error
    if child.returncode == 0 and Path(folder, "answer.json").is_file():
        return
    how = f"ended with code {child.returncode}"
    if child.returncode < 0:
        how = f"was ended by {signal.Signals(-child.returncode).name}"
    msg = (
        f"{name} could not be read: the process that read it {how} (limits: {memory_gib:g} GiB, {seconds:g} s). The file is "
        "damaged or hostile."
    )
    raise VolumeError(msg)


def _add_stack(scan: Scan, options: ReadOptions) -> Scan:
    from dataclasses import replace

    from medunet.io.dicom.read import read_stack

    assert scan.path is not None
    return replace(scan, stack=read_stack(scan.path, options))
