"""Malformed and hostile DICOM: each gets one error of one line that names the file, soon and without much memory.

What could cost minutes or gigabytes is read in a process of its own, with limits. Times are processor times, so that a
busy machine does not fail a test.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from synthetic_series import (
    Series,
    assert_mentions,
    assert_private,
    build_enhanced,
    build_series,
    check_exact,
    count_of,
    deflate_zeros,
    find_note,
    read,
    refuse,
    set_raw,
    write_dicomdir,
    write_file,
    zip_folder,
)

pytestmark = pytest.mark.timeout(60)

GIB = 2**30
MAX_SECONDS = 2.0

SCRIPT = """
import json, logging, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (40, 40))
import medunet.io, medunet.io.dicom.series, pydicom, pydicom.pixels, numpy
from medunet.errors import MedunetError
from medunet.io import read_scan
from medunet.io.scan import ReadOptions
def cpu():
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
start, found = cpu(), {"error": None}
try:
    scan = read_scan(sys.argv[1], ReadOptions())
    found["shape"] = list(scan.volume.shape)
except MedunetError as error:
    found["error"] = str(error)
found["seconds"] = cpu() - start
# Not ru_maxrss: a child inherits that of the process that started it, here a pytest of a gigabyte.
with open("/proc/self/status") as status:
    found["bytes"] = 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps(found))
"""


@pytest.fixture(autouse=True)
def _private_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert_private(caplog.text)


@dataclass(frozen=True)
class Outcome:
    """What a read in a process of its own came to."""

    error: str
    seconds: float
    num_bytes: int


def refuse_apart(path: Path, *expected: str | re.Pattern[str]) -> Outcome:
    """Read what must be refused, in a process of its own: soon, without much memory, and without a crash."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, timeout=50, check=False
    )
    assert_private(done.stdout + done.stderr)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-1500:]}"
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["error"], f"was read: {found}"
    assert "\n" not in found["error"]
    assert_mentions(found["error"], *expected)
    assert found["seconds"] < MAX_SECONDS, f"took {found['seconds']:.1f} s: {found['error']}"
    assert found["bytes"] < GIB, f"took {found['bytes'] / GIB:.2f} GiB: {found['error']}"
    return Outcome(found["error"], found["seconds"], found["bytes"])


@pytest.fixture
def series() -> Series:
    return build_series(shape=(7, 9, 6))


# ---- files that are cut or garbled


def _cut(data: bytes, where: float) -> bytes:
    return data[: int(len(data) * where)]


def _overwrite(start: int, count: int, seed: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        noise = np.random.default_rng(seed).integers(0, 256, count).astype(np.uint8).tobytes()
        return data[:start] + noise + data[start + count :]

    return change


GARBLED: dict[str, Callable[[bytes], bytes]] = {
    "zero-byte": lambda data: b"",
    "one-byte": lambda data: data[:1],
    "inside-the-preamble": lambda data: data[:90],
    "after-the-preamble": lambda data: data[:132],
    "inside-the-meta-information": lambda data: data[:200],
    "after-a-tenth": lambda data: _cut(data, 0.1),
    "after-a-third": lambda data: _cut(data, 0.33),
    "after-two-thirds": lambda data: _cut(data, 0.66),
    "inside-the-pixels": lambda data: data[:-60],
    "last-byte": lambda data: data[:-1],
    "meta-information-garbled": _overwrite(136, 60, 1),
    "data-set-garbled": _overwrite(400, 300, 2),
    "ones-after-the-meta-information": lambda data: data[:380] + b"\xff" * (len(data) - 380),
    "zeros-after-the-meta-information": lambda data: data[:380] + bytes(len(data) - 380),
    "prefix-only-then-text": lambda data: data[:132] + b"<html>not found</html>" * 20,
}


@pytest.mark.parametrize("which", [2, 5], ids=["middle", "last"])
@pytest.mark.parametrize("kind", GARBLED)
def test_a_garbled_slice_is_named(tmp_path: Path, series: Series, kind: str, which: int) -> None:
    folder = series.write(tmp_path / "in")
    file = folder / series.names[which]
    file.write_bytes(GARBLED[kind](file.read_bytes()))
    refuse(folder, series.names[which])


@pytest.mark.parametrize("kind", GARBLED)
def test_a_garbled_file_alone_is_named(tmp_path: Path, series: Series, kind: str) -> None:
    file = write_file(series.datasets[0], tmp_path / "alone.dcm")
    file.write_bytes(GARBLED[kind](file.read_bytes()))
    refuse(file, "alone.dcm")


def test_cuts_at_many_offsets_are_refused(tmp_path: Path) -> None:
    series = build_series(shape=(3, 4, 3))
    folder = series.write(tmp_path / "in")
    file = folder / series.names[2]
    data = file.read_bytes()
    for keep in range(0, len(data), 37):
        file.write_bytes(data[:keep])
        refuse(folder, series.names[2])


# ---- attributes that lie

LIES: dict[str, dict[str, Any]] = {
    "no-rows": {"Rows": 0},
    "no-columns": {"Columns": 0},
    "more-rows-than-pixels": {"Rows": 60000},
    "huge": {"Rows": 65535, "Columns": 65535},
    "more-bits-stored-than-allocated": {"BitsStored": 20},
    "no-bits-stored": {"BitsStored": 0},
    "strange-bits-allocated": {"BitsAllocated": 13},
    "no-bits-allocated": {"BitsAllocated": 0},
    "huge-bits-allocated": {"BitsAllocated": 65528},
    "strange-representation": {"PixelRepresentation": 7},
    "three-samples-of-one": {"SamplesPerPixel": 3},
    "no-samples": {"SamplesPerPixel": 0},
    "many-frames": {"NumberOfFrames": "1000000000"},
    "minus-one-frame": {"NumberOfFrames": "-1"},
    "no-frame": {"NumberOfFrames": "0"},
    "unknown-photometric": {"PhotometricInterpretation": b"CANARY"},
}


@pytest.mark.parametrize("extent", ["last", "all"])
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_the_pixels_is_refused(tmp_path: Path, series: Series, lie: str, extent: str) -> None:
    for dataset in series.datasets[5:] if extent == "last" else series.datasets:
        for keyword, value in LIES[lie].items():
            if isinstance(value, bytes):
                set_raw(dataset, keyword, value)
            else:
                setattr(dataset, keyword, value)
    # A folder in which no file is an image may be named as a whole.
    name = re.escape(series.names[5]) if extent == "last" else "IM0|in"
    refuse(series.write(tmp_path / "in"), re.compile(name))


@pytest.mark.parametrize("extent", ["last", "all"])
def test_more_pixels_than_rows_are_refused_or_noted(tmp_path: Path, series: Series, extent: str) -> None:
    for dataset in series.datasets[5:] if extent == "last" else series.datasets:
        dataset.Rows = 3
    from medunet.errors import MedunetError

    folder = series.write(tmp_path / "in")
    try:
        assert read(folder).notes
    except MedunetError:
        refuse(folder, re.compile("IM0"))


MISSING = [
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "SOPClassUID",
    "PixelData",
    "SeriesInstanceUID",
]


@pytest.mark.parametrize("keyword", MISSING)
def test_a_slice_without_what_an_image_needs_is_refused_or_not_needed(
    tmp_path: Path, series: Series, keyword: str
) -> None:
    folder = series.write(tmp_path / "in")
    dataset = copy.deepcopy(series.datasets[5])
    file = write_file(dataset, folder / series.names[5])
    whole = file.read_bytes()
    del dataset[keyword]
    if keyword != "SOPClassUID":
        write_file(dataset, file)
    else:  # the file meta information still says it
        element = b"\x08\0\x16\0UI"
        start = whole.index(element)
        length = int.from_bytes(whole[start + 6 : start + 8], "little")
        file.write_bytes(whole[:start] + whole[start + 8 + length :])
    from medunet.errors import MedunetError

    try:
        scan = read(folder)
    except MedunetError:
        refuse(folder, series.names[5])
    else:
        if keyword == "SeriesInstanceUID" and scan.volume.spatial_shape[2] == 5:
            find_note(scan, series.names[5])  # left out, but said
            return
        check_exact(scan.volume, series.slices)


def test_numbers_that_overflow_are_refused(tmp_path: Path, series: Series) -> None:
    for dataset in series.datasets:
        set_raw(dataset, "RescaleSlope", b"1e308")
    refuse(series.write(tmp_path / "in"), re.compile("RescaleSlope|infinite"))


def test_a_series_as_wide_as_the_solar_system_is_refused(tmp_path: Path, series: Series) -> None:
    for dataset in series.datasets:
        set_raw(dataset, "PixelSpacing", b"1e12\\1e12")
    refuse(series.write(tmp_path / "in"), "PixelSpacing", re.compile("IM0"))


def test_gaps_that_would_fill_the_memory_are_refused_even_when_gaps_are_allowed(tmp_path: Path, series: Series) -> None:
    # One slice a kilometre away: an even grid would have 400 000 slices.
    set_raw(series.datasets[5], "ImagePositionPatient", b"0\\0\\1000000")
    folder = series.write(tmp_path / "in")
    refuse(folder, series.names[5])
    refuse(folder, series.names[5], allow_gaps=True)


# ---- multi-frame


def test_a_billion_frames_in_an_enhanced_file(tmp_path: Path) -> None:
    series = build_enhanced("CT")
    series.datasets[0].NumberOfFrames = "1000000000"
    refuse_apart(series.write(tmp_path / "in"), "enhanced.dcm", "frame")


def test_a_billion_frames_without_groups(tmp_path: Path, series: Series) -> None:
    dataset = series.datasets[0]
    dataset.NumberOfFrames = "1000000000"
    write_file(dataset, tmp_path / "many.dcm")
    refuse_apart(tmp_path / "many.dcm", "many.dcm", "frame")


def test_an_enhanced_file_without_groups(tmp_path: Path) -> None:
    series = build_enhanced("CT")
    del series.datasets[0].PerFrameFunctionalGroupsSequence
    refuse(series.write(tmp_path / "in"), "enhanced.dcm", re.compile("PerFrameFunctionalGroups|functional groups"))


def test_an_enhanced_file_with_empty_groups(tmp_path: Path) -> None:
    series = build_enhanced("CT")
    series.datasets[0].SharedFunctionalGroupsSequence = []
    refuse(series.write(tmp_path / "in"), "enhanced.dcm")


@pytest.mark.parametrize("value", [b"nan\\0\\0", b"CANARY\\0\\0", b"1\\2"])
def test_an_enhanced_file_with_a_wrong_position(tmp_path: Path, value: bytes) -> None:
    series = build_enhanced("CT")
    group = series.datasets[0].PerFrameFunctionalGroupsSequence[4]
    set_raw(group.PlanePositionSequence[0], "ImagePositionPatient", value)
    refuse(series.write(tmp_path / "in"), "enhanced.dcm", "ImagePositionPatient")


# ---- compressed streams


def _garble_pixels(file: Path, syntax: str, seed: int) -> None:
    data = bytearray(file.read_bytes())
    start = data.find(b"\xe0\x7f\x10\x00") + 12
    # Behind the empty offset table lies the item of the frame; its header stays.
    start = data.find(b"\xfe\xff\x00\xe0", start + 8) + 8
    noise = np.random.default_rng(seed).integers(0, 256, len(data) - start - 8).astype(np.uint8)
    data[start : len(data) - 8] = noise.tobytes()
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("extent", ["one", "all"])
def test_garbage_in_a_compressed_stream(tmp_path: Path, syntax: Any, extent: str) -> None:
    series = build_series(shape=(36, 40, 3), gradient=(2.7, -4.3, 11.1))
    folder = series.write(tmp_path / "in", syntax=syntax)
    names = series.names[2:] if extent == "one" else series.names
    for name in names:
        _garble_pixels(folder / name, syntax, seed=4)
    # Decoders are C: in a process of its own, a crash is a failed test and not the end of all tests.
    (refuse_apart if extent == "all" else refuse)(folder, re.compile("|".join(map(re.escape, names))))


@pytest.mark.parametrize("size", [(36, 33), (32, 40), (40, 36), (72, 80)])
def test_a_stream_of_another_size_than_the_header_says(tmp_path: Path, size: tuple[int, int]) -> None:
    series = build_series(shape=(36, 40, 3), gradient=(2.7, -4.3, 11.1))
    other = build_series(shape=(*size, 1), gradient=(2.7, -4.3, 11.1))
    folder = series.write(tmp_path / "in", syntax=JPEG2000Lossless)
    foreign = write_file(other.datasets[0], tmp_path / "foreign.dcm", syntax=JPEG2000Lossless).read_bytes()
    file = folder / series.names[2]
    data, element = file.read_bytes(), b"\xe0\x7f\x10\x00OB"
    file.write_bytes(data[: data.index(element)] + foreign[foreign.index(element) :])
    refuse(folder, series.names[2])


def test_fewer_frames_in_the_stream_than_promised(tmp_path: Path) -> None:
    series = build_enhanced("CT", shape=(36, 40, 4), gradient=(2.7, -4.3, 11.1))
    folder = series.write(tmp_path / "in", syntax=RLELossless)
    data = (folder / "enhanced.dcm").read_bytes()
    last = data.rindex(b"\xfe\xff\x00\xe0")
    (folder / "enhanced.dcm").write_bytes(data[:last] + b"\xfe\xff\xdd\xe0\0\0\0\0")
    refuse(folder, "enhanced.dcm")


def test_compressed_pixels_without_encapsulation(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in")
    file = folder / series.names[5]
    plain, rle = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"
    assert file.read_bytes().count(plain) == 1
    file.write_bytes(file.read_bytes().replace(plain, rle))
    refuse(folder, series.names[5])


# ---- bombs


def test_row_42_a_deflate_bomb_in_an_unknown_element(tmp_path: Path, series: Series) -> None:
    file = _write_deflated(series, tmp_path / "bomb.dcm", _explicit_header(0x0009, 0x1010, b"OB", 0x60000000))
    assert file.stat().st_size < 4 * 2**20
    refuse_apart(file, "bomb.dcm")


def test_row_42_a_deflate_bomb_in_the_pixel_data(tmp_path: Path, series: Series) -> None:
    for dataset in series.datasets:
        dataset.Rows = dataset.Columns = 28000
    element = _explicit_header(0x7FE0, 0x0010, b"OW", 28000 * 28000 * 2)
    file = _write_deflated(series, tmp_path / "in/bomb.dcm", element)
    refuse_apart(file, "bomb.dcm")
    refuse_apart(file.parent, "bomb.dcm")


def test_row_42_a_deflate_bomb_among_good_slices(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in")
    _write_deflated(series, folder / "bomb.dcm", _explicit_header(0x0009, 0x1010, b"OB", 0x60000000))
    refuse_apart(folder, "bomb.dcm")


def test_deflated_garbage(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in", syntax=DeflatedExplicitVRLittleEndian)
    file = folder / series.names[5]
    data = bytearray(file.read_bytes())
    data[-200:-100] = bytes(range(100))
    file.write_bytes(bytes(data))
    refuse(folder, series.names[5])


@pytest.mark.parametrize("is_defined", [False, True], ids=["undefined-length", "defined-length"])
@pytest.mark.parametrize("depth", [300, 10_000])
def test_row_42_deeply_nested_sequences(tmp_path: Path, series: Series, depth: int, is_defined: bool) -> None:
    file = write_file(series.datasets[0], tmp_path / "nested.dcm")
    data = file.read_bytes()
    start = data.index(b"\xe0\x7f\x10\x00OW")
    file.write_bytes(data[:start] + _nest(depth, is_defined) + data[start:])
    if depth > 1000 and not is_defined:
        refuse_apart(file, "nested.dcm")
        return
    # Shallow nests are legal; deep ones of known length may be skipped unread. Neither may crash.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["error"] is None or "nested.dcm" in found["error"]
    assert found["seconds"] < MAX_SECONDS
    assert found["bytes"] < GIB


def test_an_element_that_promises_4_gigabytes(tmp_path: Path, series: Series) -> None:
    file = write_file(series.datasets[0], tmp_path / "liar.dcm")
    data = file.read_bytes()
    start = data.index(b"\xe0\x7f\x10\x00OW")
    file.write_bytes(data[:start] + _explicit_header(0x7FE0, 0x0010, b"OW", 0xFFFFFFFE) + data[start + 12 :])
    # What the image needs is there: it may be read, and must not be believed.
    _refuse_or_exact(file, Series([], series.slices[:1], series.field, series.affine), "liar.dcm")


def test_a_sparse_file_of_a_terabyte(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in")
    with (folder / "sparse.dcm").open("wb") as file:
        file.truncate(2**40)
    refuse_apart(folder, "sparse.dcm")


def _write_deflated(series: Series, path: Path, element: bytes) -> Path:
    """A deflated data set that ends with ``element`` and 1.5 GiB of zeros."""
    dataset = copy.deepcopy(series.datasets[0])
    del dataset.PixelData
    plain = write_file(dataset, path).read_bytes()
    # The data set starts with SpecificCharacterSet (0008,0005).
    start = plain.index(b"\x08\0\x05\0CS")
    meta, body = plain[:start], plain[start:]
    if element[:2] < b"\x7f" and element[1:2] == b"\0":
        cut = body.index(b"\x10\0\x10\0PN")  # groups must rise: 0009 lies before the patient
        body = body[:cut]
    old, new = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    group = int.from_bytes(meta[140:144], "little") + len(new) - len(old)
    at = meta.index(old)
    meta = (
        meta[:140]
        + group.to_bytes(4, "little")
        + meta[144 : at - 2]
        + len(new).to_bytes(2, "little")
        + new
        + meta[at + len(old) :]
    )
    path.write_bytes(meta + deflate_zeros(1536 * 2**20, body + element))
    return path


def _explicit_header(group: int, element: int, vr: bytes, length: int) -> bytes:
    return struct.pack("<HH2sHI", group, element, vr, 0, length)


def _nest(depth: int, is_defined: bool) -> bytes:
    """Sequences in sequences, explicit little endian."""
    if not is_defined:
        opening = _explicit_header(0x5400, 0x0100, b"SQ", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return opening * depth + closing * depth
    parts = []
    for level in range(depth, 0, -1):
        inner = 20 * (level - 1)
        parts.append(_explicit_header(0x5400, 0x0100, b"SQ", inner + 8) + struct.pack("<HHI", 0xFFFE, 0xE000, inner))
    return b"".join(parts)


# ---- archives


@pytest.mark.parametrize(
    "name", ["../evil.dcm", "a/../../evil.dcm", "/tmp/evil.dcm", "..\\evil.dcm", "C:\\evil.dcm", "\\\\host\\evil.dcm"]
)
def test_row_39_a_zip_with_a_member_outside_is_refused(tmp_path: Path, series: Series, name: str) -> None:
    archive = zip_folder(series.write(tmp_path / "in"), tmp_path / "in.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, (tmp_path / "in" / series.names[0]).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    refuse(archive, "in.zip", "evil.dcm")
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/evil.dcm").exists()


def test_row_39_a_link_in_a_zip_is_not_followed(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in")
    archive = zip_folder(folder, tmp_path / "in.zip")
    link = zipfile.ZipInfo("link.dcm")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(link, "/etc/passwd")
    _refuse_or_exact(archive, series, "link.dcm")


def test_row_39_a_zip_bomb(tmp_path: Path, series: Series) -> None:
    archive = zip_folder(series.write(tmp_path / "in"), tmp_path / "in.zip")
    _add_zeros(archive, "bomb.dcm", 1536)
    assert archive.stat().st_size < 4 * 2**20
    refuse_apart(archive, "in.zip", "bomb.dcm")


def test_row_39_a_zip_bomb_of_many_members(tmp_path: Path, series: Series) -> None:
    archive = zip_folder(series.write(tmp_path / "in"), tmp_path / "in.zip")
    for k in range(16):
        _add_zeros(archive, f"bomb{k}.dcm", 150)
    refuse_apart(archive, "in.zip")


def test_row_39_a_zip_that_lies_about_its_sizes(tmp_path: Path, series: Series) -> None:
    archive = zip_folder(series.write(tmp_path / "in"), tmp_path / "in.zip")
    _add_zeros(archive, "bomb.dcm", 1536)
    data = archive.read_bytes()
    size = struct.pack("<I", 1536 * 2**20)
    assert data.count(size) >= 2
    archive.write_bytes(data.replace(size, struct.pack("<I", 2000)))
    refuse_apart(archive, "in.zip", "bomb.dcm")


def test_a_zip_of_zips_is_refused(tmp_path: Path, series: Series) -> None:
    inner = zip_folder(series.write(tmp_path / "in"), tmp_path / "inner.zip")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as file:
        file.write(inner, "inner.zip")
    refuse(tmp_path / "outer.zip", "outer.zip")


def test_a_cut_zip_is_refused(tmp_path: Path, series: Series) -> None:
    archive = zip_folder(series.write(tmp_path / "in"), tmp_path / "in.zip")
    archive.write_bytes(archive.read_bytes()[:-300])
    refuse(archive, "in.zip")


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_STORED) as file:
        for name in series.names:
            file.write(folder / name, name)
    data = bytearray((tmp_path / "in.zip").read_bytes())
    pixels = (folder / series.names[5]).read_bytes()[-126:]
    data[bytes(data).index(pixels) + 50] ^= 1
    (tmp_path / "in.zip").write_bytes(bytes(data))
    refuse(tmp_path / "in.zip", "in.zip", series.names[5])


def test_an_encrypted_member_is_refused(tmp_path: Path, series: Series) -> None:
    archive = zip_folder(series.write(tmp_path / "in"), tmp_path / "in.zip")
    data = bytearray(archive.read_bytes())
    name = series.names[5].encode()
    local, central = bytes(data).index(name) - 30, bytes(data).rindex(name) - 46
    data[local + 6] |= 1
    data[central + 8] |= 1
    archive.write_bytes(bytes(data))
    refuse(archive, "in.zip", "encrypted")


def test_two_members_of_one_name_are_not_mixed_up(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in")
    archive = tmp_path / "in.zip"
    with zipfile.ZipFile(archive, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the names are the same
        for name in series.names:
            file.writestr("slice.dcm", (folder / name).read_bytes())
    _refuse_or_exact(archive, series, "in.zip")


def test_text_called_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.zip").write_text("CANARY^PATIENT")
    refuse(tmp_path / "in.zip", "in.zip")


def _add_zeros(archive: Path, name: str, mebibytes: int) -> None:
    """A member of zeros; made by writing the same compressed block many times, so that it costs no time."""
    import zlib

    packed = deflate_zeros(mebibytes * 2**20)
    crc = zlib.crc32(b"")
    block = bytes(2**20)
    for _ in range(mebibytes):
        crc = zlib.crc32(block, crc)
    info = zipfile.ZipInfo(name)
    with zipfile.ZipFile(archive, "a") as file:
        # Stored raw, then declared as deflated: zipfile has no way to add what is compressed already.
        file.writestr(info, packed)
        info.compress_type, info.file_size, info.CRC = zipfile.ZIP_DEFLATED, mebibytes * 2**20, crc
        assert file.fp is not None
        end = file.fp.tell()
        file.fp.seek(info.header_offset)
        file.fp.write(info.FileHeader(zip64=False))
        file.fp.seek(end)


# ---- folders


@pytest.mark.parametrize("target", ["parent", "absolute"])
def test_row_40_a_dicomdir_that_points_outside_is_refused(tmp_path: Path, series: Series, target: str) -> None:
    paths = write_dicomdir(series, tmp_path / "in")
    directory = tmp_path / "in/DICOMDIR"
    inside = "\\".join(paths[-1].relative_to(tmp_path / "in").parts).encode()
    outside = b"..\\plain\\" + series.names[-1].encode()
    if target == "absolute":
        outside = b"\\tmp\\x\\" + series.names[-1].encode()
    data = directory.read_bytes()
    assert data.count(inside) == 1
    assert len(outside) <= len(inside)
    directory.write_bytes(data.replace(inside, outside.ljust(len(inside))))
    paths[-1].unlink()
    refuse(directory, "DICOMDIR")


@pytest.mark.parametrize("cut", [170, 320, 620, 1070])
def test_row_40_a_dicomdir_cut_short(tmp_path: Path, series: Series, cut: int) -> None:
    write_dicomdir(series, tmp_path / "in")
    directory = tmp_path / "in/DICOMDIR"
    directory.write_bytes(directory.read_bytes()[:-cut])
    refuse(directory, "DICOMDIR")


@pytest.mark.timeout(15)
def test_row_35_a_fifo_in_the_folder_does_not_hang(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in")
    os.mkfifo(folder / "pipe.dcm")
    _refuse_or_exact(folder, series, "pipe.dcm")


@pytest.mark.timeout(15)
def test_row_35_a_fifo_itself_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.dcm")
    refuse(tmp_path / "pipe.dcm", "pipe.dcm")


def test_row_35_a_device_in_the_folder_does_not_hang(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in")
    (folder / "zero.dcm").symlink_to("/dev/zero")
    _refuse_or_exact(folder, series, "zero.dcm")


def test_row_35_a_broken_link_among_the_slices_is_named(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in")
    (folder / series.names[5]).unlink()
    (folder / series.names[5]).symlink_to(tmp_path / "gone.dcm")
    refuse(folder, series.names[5])


@pytest.mark.timeout(15)
def test_row_35_a_folder_that_contains_itself(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in")
    (folder / "self").symlink_to(folder)
    (folder / "deep").mkdir()
    (folder / "deep/up").symlink_to(tmp_path)
    _refuse_or_exact(folder, series, "in")


def test_a_folder_nested_beyond_reason(tmp_path: Path, series: Series) -> None:
    folder = tmp_path / "in"
    for _ in range(300):
        folder = folder / "d"
    series.write(folder)
    _refuse_or_exact(tmp_path / "in", series, "in")


def test_row_26_many_files_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(300):
        (tmp_path / "in" / f"{k}.bin").write_bytes(b"no image")
    refuse(tmp_path / "in", "no DICOM images", count_of(300))


def test_names_that_would_break_a_line_or_a_terminal_are_shown_safely(tmp_path: Path, series: Series) -> None:
    folder = series.write(tmp_path / "in")
    (folder / "a\nb\x1b[31m.dcm").write_bytes((folder / series.names[5]).read_bytes()[:300])
    text = refuse(folder)
    assert "\x1b" not in text


def test_row_41_a_description_with_control_characters_stays_one_line(tmp_path: Path, series: Series) -> None:
    other = build_series(number=9, prefix="Z", like=series)
    for dataset in series.datasets:
        set_raw(dataset, "SeriesDescription", b"two\r\nlines \x1b[31m<script>")
    series.write(tmp_path / "in")
    other.write(tmp_path / "in")
    text = refuse(tmp_path / "in", "two")
    assert "\x1b" not in text
    assert "\r" not in text


def test_row_40_a_uid_that_is_a_path_is_harmless(tmp_path: Path, series: Series) -> None:
    for dataset in series.datasets:
        set_raw(dataset, "SeriesInstanceUID", b"../../../etc/CANARY")
    before = sorted(tmp_path.rglob("*"))
    folder = series.write(tmp_path / "in")
    from medunet.errors import MedunetError

    try:
        read(folder)
    except MedunetError:
        refuse(folder, re.compile("SeriesInstanceUID|IM0"))
    assert [path for path in sorted(tmp_path.rglob("*")) if folder not in (path, *path.parents)] == before


def test_text_in_what_a_listing_shows_is_private(tmp_path: Path, series: Series) -> None:
    other = build_series(number=9, prefix="Z", like=series)
    for dataset in series.datasets:
        for keyword in ("SeriesNumber", "InstanceNumber", "AcquisitionNumber", "ProtocolName", "BodyPartExamined"):
            set_raw(dataset, keyword, b"CANARY")
    series.write(tmp_path / "in")
    other.write(tmp_path / "in")
    refuse(tmp_path / "in", "series")
    check_exact(read(tmp_path / "in", series="9").volume, other.slices)


def _refuse_or_exact(path: Path, series: Series, name: str) -> None:
    """Either the whole series, with a note, or an error that names the file; nothing between."""
    from medunet.errors import MedunetError

    try:
        scan = read(path)
    except MedunetError:
        refuse(path, name)
    else:
        check_exact(scan.volume, series.slices)
