"""A file is there whole or not at all, and an older one is never lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medunet.errors import OutputError
from medunet.io import check_output, write_bytes_atomic, write_json_atomic, write_text_atomic


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(b"old")
    return path


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_the_content_arrives_in_a_new_folder(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "a" / "b" / "file", b"content")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"
    assert list_names(tmp_path / "a" / "b") == ["file"]


def test_an_older_file_is_replaced(old_file: Path) -> None:
    write_bytes_atomic(old_file, b"new")
    assert old_file.read_bytes() == b"new"


def test_the_usual_permissions_are_kept(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes_atomic(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_file_and_folder_are_flushed_to_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(handle: int) -> None:
        events.append("folder" if Path(f"/proc/self/fd/{handle}").is_dir() else "file")
        fsync(handle)

    def record_replace(self: Path, target: Path) -> Any:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_bytes_atomic(tmp_path / "file", b"x")
    assert events == ["file", "rename", "folder"]


def test_a_file_system_that_cannot_flush_folders_is_tolerated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse_folders(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_bytes_atomic(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "the disk reports a fault"),
        (errno.EFBIG, "the file is larger than"),
        (errno.EACCES, "no permission to write there"),
        (errno.EBUSY, "Device or resource busy"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_on_the_way_leaves_the_old_file(
    old_file: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str, step: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OutputError, match=rf"Cannot write .*mask\.nii\.gz: {remedy}.* Nothing was changed\."):
        write_bytes_atomic(old_file, b"new")
    assert old_file.read_bytes() == b"old"
    assert list_names(old_file.parent) == ["mask.nii.gz"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interruption_leaves_the_old_file(
    old_file: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    def interrupt(_: int) -> None:
        raise interruption

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(interruption):
        write_bytes_atomic(old_file, b"new")
    assert old_file.read_bytes() == b"old"
    assert list_names(old_file.parent) == ["mask.nii.gz"]


def test_a_real_limit_in_the_middle_of_the_file_leaves_the_old_file(old_file: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OutputError, match="the file is larger than the file system or the user's limit"):
            write_bytes_atomic(old_file, bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert old_file.read_bytes() == b"old"
    assert list_names(old_file.parent) == ["mask.nii.gz"]


WRITE_ON_TINY_DISK = """
import sys
from pathlib import Path
from medunet.errors import OutputError
from medunet.io.atomic import write_bytes_atomic
path = Path(sys.argv[1]) / "mask.nii.gz"
write_bytes_atomic(path, b"old")
try:
    write_bytes_atomic(path, bytes(1_000_000))
except OutputError as error:
    print(error)
print(path.read_bytes(), [item.name for item in path.parent.iterdir()])
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A tiny disk in a name space of its own needs no privileges on most Linux systems."""
    mount = f'mount -t tmpfs -o size=64k tmpfs "{tmp_path}"'
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("no tiny disk can be mounted here")
    command = f'{mount} && "{sys.executable}" -c "$0" "{tmp_path}"'
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command, WRITE_ON_TINY_DISK], capture_output=True, text=True)
    message, state = done.stdout.splitlines()
    assert message.endswith(
        "mask.nii.gz: the disk is full; free some space or choose another place. Nothing was changed."
    )
    assert state == "b'old' ['mask.nii.gz']"


def test_the_folder_is_a_file(old_file: Path) -> None:
    with pytest.raises(OutputError, match="a part of the path is a file, not a folder"):
        write_bytes_atomic(old_file / "mask.nii", b"new")
    assert old_file.read_bytes() == b"old"


def test_the_path_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mask.nii").mkdir()
    with pytest.raises(OutputError, match="this is a folder; give the path of a file"):
        write_bytes_atomic(tmp_path / "mask.nii", b"new")
    assert list_names(tmp_path) == ["mask.nii"]


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="it is a pipe or a device"):
        write_bytes_atomic(tmp_path / "pipe", b"new")
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "annexed").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("annexed")
    write_bytes_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "annexed").read_bytes() == b"kept"
    assert (tmp_path / "link").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "心" * 85, "👁" * 63, "a👁" * 51])
def test_the_longest_names(tmp_path: Path, name: str) -> None:
    write_bytes_atomic(tmp_path / name, b"x")
    assert list_names(tmp_path) == [name]


@pytest.mark.parametrize("name", ["n" * 256, "心" * 86])
def test_names_that_are_too_long(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="the name is too long for the file system; choose a shorter one"):
        write_bytes_atomic(tmp_path / name, b"x")
    assert list_names(tmp_path) == []


def test_a_name_with_a_zero_byte(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the name holds a zero byte"):
        write_bytes_atomic(tmp_path / "a\0b", b"x")


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.nii")
    write_bytes_atomic(tmp_path / name, b"x")
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [b"caf\xe9.nii"]


def test_text_is_utf8_and_odd_file_names_do_not_stop_it(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "log", "Größe " + os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "log").read_bytes() == "Größe caf\\udce9".encode()


def test_json_comes_back(tmp_path: Path) -> None:
    content = {"größe": [1, 2.5, None], "path": os.fsdecode(b"caf\xe9")}
    write_json_atomic(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == content
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")


def test_json_refuses_nan_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(tmp_path / "a.json", float("nan"))
    assert list_names(tmp_path) == []


# ---- asking first ----------------------------------------------------------------------------------------------------


def test_a_new_path_is_free(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "folder" / "mask.nii", [tmp_path / "scan.nii"])
    assert list_names(tmp_path) == []


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["itself", "symlink", "hardlink", "dots"])
def test_the_output_is_the_input(old_file: Path, kind: str, overwrite: bool) -> None:
    output = {"itself": old_file, "dots": old_file.parent / "x" / ".." / old_file.name}.get(kind, old_file.parent / "o")
    if kind == "dots":
        (old_file.parent / "x").mkdir()
    elif kind == "symlink":
        output.symlink_to(old_file)
    elif kind == "hardlink":
        output.hardlink_to(old_file)
    with pytest.raises(OutputError, match=r"is the input .*mask\.nii\.gz; it was left as it is"):
        check_output(output, [old_file], overwrite=overwrite)
    assert old_file.read_bytes() == b"old"


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_output_is_a_folder(tmp_path: Path, overwrite: bool) -> None:
    with pytest.raises(OutputError, match=r"is a folder; give the path of a file, for example .*mask\.nii\.gz"):
        check_output(tmp_path, overwrite=overwrite)


def test_the_output_exists(old_file: Path) -> None:
    with pytest.raises(
        OutputError, match=r"exists already; it was left as it is\. Allow replacing it with --overwrite"
    ):
        check_output(old_file)
    check_output(old_file, overwrite=True)


def test_a_broken_link_exists(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(OutputError, match="exists already"):
        check_output(tmp_path / "link")


def test_a_device_is_no_output() -> None:
    with pytest.raises(OutputError, match="/dev/null: it is a pipe or a device"):
        check_output(Path("/dev/null"), overwrite=True)


def test_a_name_too_long_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the name is too long"):
        check_output(tmp_path / ("n" * 300))


def test_a_file_in_the_path_is_refused_before_work(old_file: Path) -> None:
    with pytest.raises(OutputError, match="a part of the path is a file"):
        check_output(old_file / "a" / "mask.nii")


@pytest.fixture
def locked_folder() -> Iterator[Path]:
    """A folder in which the test may not write; root, who may, becomes nobody for the while."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(65534, 65534, 0)
    yield folder
    if is_root:
        os.setresuid(0, 0, 0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_folder_is_refused_before_work(locked_folder: Path) -> None:
    with pytest.raises(OutputError, match=r"Cannot write .*mask\.nii: no permission to write there; choose another"):
        check_output(locked_folder / "new" / "mask.nii")


def test_a_read_only_folder_is_refused_at_work(locked_folder: Path) -> None:
    with pytest.raises(OutputError, match=r"Cannot write .*mask\.nii: no permission to write there; choose another"):
        write_bytes_atomic(locked_folder / "new" / "mask.nii", b"x")
