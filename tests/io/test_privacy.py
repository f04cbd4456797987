"""A patient's name, number and birth date go in, and come out nowhere but in SEG and RTSTRUCT, which must carry them.

Every command runs on scans that hold canaries wherever the format has room; then every byte that it wrote, packed or not,
and every line that it printed is searched.
"""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from nifti_files import KINDS, build_scan
from oracles import Outcome
from PIL import Image, PngImagePlugin
from synthetic_series import CANARIES, Series, build_enhanced, build_series, set_raw, write_file, zip_folder

from medunet.io import from_label_map, read_reference, read_volume, write_image, write_structures
from medunet.planning import Effort

Command = Callable[..., Outcome]
NEEDED = (b"CANARY^PATIENT", b"4711-SECRET", b"19010203")
"""What SEG and RTSTRUCT carry, so that an archive files them with the patient."""
NEEDLESS = (b"CANARY ROAD", b"CANARY COMMENT", b"CANARY-OTHER", b"CANARY HOSPITAL")
"""What not even they need."""
TASK = """
name: tiny-mr
title: Two blobs
modality: MR
channels: [t1]
labels: {left: 1, right: 3}
intensity: zscore
budget: 2it
"""


# ---- looking for canaries ----------------------------------------------------------------------------------------------


def unpack(content: bytes) -> Iterator[bytes]:
    """The bytes themselves, and what is packed in them: gzip and zlib streams, PNG chunks, members of zips."""
    yield content
    for start in (match.start() for match in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", content)):
        stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            yield stream.decompress(content[start:], 2**24)
        except zlib.error:
            continue  # bytes that look like the start of a stream by chance
    if content.startswith(b"\x89PNG"):
        position, pixels = 8, b""
        while position < len(content):
            length, kind = struct.unpack(">I4s", content[position : position + 8])
            pixels += content[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
            position += 12 + length
        yield zlib.decompress(pixels)
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from unpack(archive.read(name))


def find_canaries(content: bytes, canaries: Iterable[str | bytes] = CANARIES) -> set[str]:
    """Those that the bytes hold, in any case, in one byte per letter or in two."""
    words = {canary if isinstance(canary, str) else canary.decode() for canary in canaries}
    found = set()
    for part in unpack(content):
        text = part.lower()
        found |= {word for word in words if word.lower().encode() in text or word.lower().encode("utf-16-le") in text}
    return found


def check_files(folder: Path, *, needed: int = 0) -> list[Path]:
    """No canary in a file or its name; but in ``needed`` DICOM objects those that the standard demands."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    objects = [path for path in paths if path.suffix == ".dcm"]
    assert len(objects) == needed
    for path in paths:
        content = path.read_bytes()
        assert not find_canaries(path.name.encode()), path
        if path in objects:
            assert all(word in content for word in NEEDED), path
            assert not find_canaries(content, NEEDLESS), path
        else:
            assert not find_canaries(content), path
    return paths


@pytest.mark.parametrize("kind", ["raw", "upper", "utf-16", "gzip", "nrrd", "zlib", "png", "zip"])
def test_a_canary_is_found_wherever_it_sits(kind: str) -> None:
    import gzip

    secret = b"..." + NEEDED[0] + b"..."
    content = {
        "raw": secret,
        "upper": secret.lower(),
        "utf-16": secret.decode().encode("utf-16-le"),
        "gzip": gzip.compress(secret),
        "nrrd": b"NRRD0004\nencoding: gzip\n\n" + gzip.compress(secret, mtime=0),
        "zlib": b"abc" + zlib.compress(secret),
    }
    if kind == "png":
        note = PngImagePlugin.PngInfo()
        note.add_text("comment", secret.decode(), zip=True)
        buffer = io.BytesIO()
        Image.new("L", (2, 2)).save(buffer, "png", pnginfo=note)
        content[kind] = buffer.getvalue()
    if kind == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.gz", gzip.compress(secret * 20))
        content[kind] = buffer.getvalue()
    assert find_canaries(content[kind]) == {"CANARY"}
    assert not find_canaries(content[kind].replace(b"CANARY", b"NOBODY") if kind == "raw" else b"nothing here")


# ---- what the tests share ----------------------------------------------------------------------------------------------


@pytest.fixture
def medunet(medunet_command: Command) -> Command:
    """Any command, with its texts searched."""

    def call(*arguments: object) -> Outcome:
        outcome = medunet_command(*arguments)
        assert not find_canaries((outcome.out + outcome.err).encode("utf-8", "backslashreplace"))
        return outcome

    return call


@pytest.fixture
def infer(medunet: Command, oracle_folder: Path) -> Command:
    def call(*arguments: object) -> Outcome:
        outcome = medunet("infer", *arguments, "--model", oracle_folder, "--device", "cpu")
        return outcome

    return call


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A series with canaries; a mask of it as SEG and RTSTRUCT lies in ``objects``."""
    folder = build_series().write(tmp_path / "scan")
    reference = read_reference(folder)
    labels = np.zeros(reference.volume.shape, dtype=np.uint8)
    labels[0, 2:5, 2:5, 2:5] = 1
    structures = from_label_map(reference.volume.with_array(labels), {"organ": (1,), "none": (2,)})
    for mask_format in ("dicom-seg", "rtstruct"):
        path = tmp_path / "objects" / f"{mask_format}.dcm"
        write_structures(structures, path, mask_format=mask_format, scan=reference)  # type: ignore[arg-type]
    return folder


def test_the_sources_hold_the_canaries(scan: Path, tmp_path: Path) -> None:
    for path in scan.iterdir():
        assert find_canaries(path.read_bytes()) == set(CANARIES)
        assert find_canaries(path.read_bytes(), NEEDLESS) == {word.decode() for word in NEEDLESS}
    for path in (tmp_path / "objects").iterdir():
        assert find_canaries(path.read_bytes()) == set(CANARIES)
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        assert find_canaries(build_scan(kind, tmp_path / kind).read_bytes()) == {"CANARY"}


# ---- DICOM in ----------------------------------------------------------------------------------------------------------


def test_row_43_segmenting_dicom(infer: Command, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, options in (
        ("m.nii.gz", ["--preview", out / "p.png"]),
        ("m.seg.nrrd", []),
        ("s.nii", ["--split"]),
        ("m.dcm", ["--format", "dicom-seg"]),
        ("labelmap.dcm", ["--format", "dicom-seg", "--seg-type", "labelmap"]),
        ("rt.dcm", ["--format", "rtstruct"]),
    ):
        outcome = infer(scan, "-o", out / name, *options, "--debug")
        assert outcome.exit_code == 0, outcome.err
    assert len(check_files(out, needed=3)) == 4 + 10 + 3 + 6  # the last are manifests


def test_row_43_converting_dicom(medunet: Command, scan: Path, tmp_path: Path) -> None:
    out, objects = tmp_path / "out", tmp_path / "objects"
    packed = zip_folder(scan, tmp_path / "scan.zip")
    enhanced = build_enhanced("MR").write(tmp_path / "enhanced")
    for number, (source, name, options) in enumerate(
        [
            (scan, "scan.nii.gz", []),
            (scan, "scan.nrrd", []),
            (packed, "scan.nii", []),
            (enhanced, "scan.nii.gz", []),
            (objects / "dicom-seg.dcm", "m.nii.gz", []),
            (objects / "dicom-seg.dcm", "m.seg.nrrd", ["--reference", scan]),
            (objects / "dicom-seg.dcm", "m.nii.gz", ["--split"]),
            (objects / "rtstruct.dcm", "m.nii.gz", ["--reference", scan]),
            (objects / "rtstruct.dcm", "m.seg.nrrd", ["--reference", scan]),
            (objects / "rtstruct.dcm", "m.dcm", ["--reference", scan, "--format", "dicom-seg"]),
            (objects / "dicom-seg.dcm", "m.dcm", ["--reference", packed, "--format", "rtstruct"]),
        ]
    ):
        outcome = medunet("convert", source, "-o", out / str(number) / name, *options, "--debug")
        assert outcome.exit_code == 0, outcome.err
    check_files(out, needed=2)


def test_row_43_a_mask_of_another_tool_becomes_dicom(medunet: Command, scan: Path, tmp_path: Path) -> None:
    write_image(read_volume(scan).with_array(np.ones((1, 9, 7, 8), dtype=np.uint8)), tmp_path / "m.nii.gz")
    for mask_format in ("dicom-seg", "rtstruct"):
        dicom = ("--format", mask_format, "--reference", scan)
        path = tmp_path / "out" / f"{mask_format}.dcm"
        assert medunet("convert", tmp_path / "m.nii.gz", "-o", path, *dicom).exit_code == 0
    check_files(tmp_path / "out", needed=2)


def test_row_43_listing_series(medunet: Command, scan: Path) -> None:
    build_series("MR", number=5).drop(2).write(scan / "gap")
    build_enhanced("MR", volumes=2, number=6).write(scan / "twin")
    for options in ([], ["--json"], ["--allow-gaps", "--debug"]):
        assert medunet("series", scan, *options).exit_code == 0


# ---- errors ------------------------------------------------------------------------------------------------------------


def cut_a_slice(series: Series, folder: Path) -> None:
    path = sorted(series.write(folder).iterdir())[2]
    path.write_bytes(path.read_bytes()[:-30])


def cut_all_headers(series: Series, folder: Path) -> None:
    for number, path in enumerate(sorted(series.write(folder).iterdir())):
        path.write_bytes(path.read_bytes()[: 300 + 37 * number])


def add_a_series(series: Series, folder: Path) -> None:
    series.write(folder)
    build_series(number=4).write(folder / "other")


def drop_a_slice(series: Series, folder: Path) -> None:
    series.drop(3).write(folder)


def mix_patients(series: Series, folder: Path) -> None:
    series.datasets[3].PatientID = "4711-SECRET-2"
    series.datasets[4].PatientName = "CANARY^SISTER"
    series.write(folder)


def break_numbers(series: Series, folder: Path) -> None:
    # Values of the patient where numbers belong, as a shifted export writes them.
    for keyword in ("ImagePositionPatient", "PixelSpacing", "RescaleSlope"):
        set_raw(series.datasets[2], keyword, b"CANARY^PATIENT")
    series.write(folder)


def break_rows(series: Series, folder: Path) -> None:
    set_raw(series.datasets[2], "Rows", b"CANARY", vr="LO")
    series.write(folder)


def break_orientation(series: Series, folder: Path) -> None:
    set_raw(series.datasets[0], "ImageOrientationPatient", b"1\\0\\CANARY\\0\\1\\4711-SECRET")
    series.write(folder)


def add_garbage(series: Series, folder: Path) -> None:
    series.write(folder)
    for name in ("IM0099.dcm", "broken.zip"):
        (folder / name).write_bytes(b"CANARY^PATIENT 4711-SECRET 19010203\n" * 10)


@pytest.mark.parametrize(
    "damage",
    [
        cut_a_slice,
        cut_all_headers,
        add_a_series,
        drop_a_slice,
        mix_patients,
        break_numbers,
        break_rows,
        break_orientation,
        add_garbage,
    ],
)
def test_row_43_errors_of_reading(
    medunet: Command, infer: Command, tmp_path: Path, damage: Callable[[Series, Path], None]
) -> None:
    damage(build_series(), tmp_path / "in")
    before = sorted(tmp_path.iterdir())
    medunet("convert", tmp_path / "in", "-o", tmp_path / "o.nii.gz").check_refused("in")
    infer(tmp_path / "in", "-o", tmp_path / "o.dcm", "--format", "rtstruct").check_refused("in")
    assert medunet("series", tmp_path / "in").exit_code == 0  # with the problems
    assert medunet("series", tmp_path / "in", "--json").exit_code == 0
    assert sorted(tmp_path.iterdir()) == before


def test_row_43_errors_of_writing(medunet: Command, infer: Command, scan: Path, tmp_path: Path) -> None:
    other = build_series(origin=(0.0, 0.0, 0.0)).write(tmp_path / "other")
    write_image(read_volume(other), tmp_path / "scan.nii.gz")
    for mask_format in ("dicom-seg", "rtstruct"):
        dicom = ("-o", tmp_path / "o.dcm", "--format", mask_format, "--reference", scan)
        infer(tmp_path / "scan.nii.gz", *dicom).check_refused("grids")
        medunet("convert", tmp_path / "scan.nii.gz", *dicom).check_refused("scan.nii.gz")
    for name in ("dicom-seg", "rtstruct"):
        back = ("-o", tmp_path / "o.nii.gz", "--reference", other)
        medunet("convert", tmp_path / "objects" / f"{name}.dcm", *back).check_refused(f"{name}.dcm")
        cut = tmp_path / "objects" / f"{name}.dcm"
        cut.write_bytes(cut.read_bytes()[:-40])
        medunet("convert", cut, "-o", tmp_path / "o.nii.gz", "--reference", scan).check_refused(f"{name}.dcm")
    assert not list(tmp_path.glob("o.*"))


def test_row_43_a_whole_traceback(tmp_path: Path) -> None:
    break_numbers(build_series(), tmp_path / "in")
    ended = subprocess.run(
        [sys.executable, "-m", "medunet", "convert", tmp_path / "in", "-o", tmp_path / "o.nii.gz", "--debug"],
        capture_output=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )
    assert ended.returncode == 1
    assert b"Traceback" in ended.stderr
    assert not find_canaries(ended.stdout + ended.stderr)


def test_row_43_values_against_the_standard(medunet: Command, infer: Command, tmp_path: Path) -> None:
    # pydicom warns about such values, and quotes them.
    series = build_series()
    for dataset in series.datasets:
        set_raw(dataset, "PatientBirthDate", b"19010203-CANARY")
        set_raw(dataset, "PatientID", b"4711-SECRET" * 9)
        set_raw(dataset, "PatientName", b"CANARY^" + b"\xff\xfe" * 3 + b"=" * 5)
        set_raw(dataset, "PatientAge", b"CANARY")
        set_raw(dataset, "StudyDate", b"CANARY")
        set_raw(dataset, "AccessionNumber", b"CANARY" * 5)
        set_raw(dataset, "PatientWeight", b"CANARY")
    folder = tmp_path / "in"
    folder.mkdir()
    for dataset, name in zip(series.datasets, series.names, strict=True):
        write_file(dataset, folder / name)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # shown on stderr, which is searched, rather than raised
        assert medunet("series", folder).exit_code == 0
        assert medunet("convert", folder, "-o", tmp_path / "out" / "o.nii.gz").exit_code == 0
        for mask_format in ("dicom-seg", "rtstruct"):
            path = tmp_path / f"{mask_format}.dcm"
            assert infer(folder, "-o", path, "--format", mask_format).exit_code == 0
            back = ("-o", tmp_path / "out" / f"{mask_format}.nii.gz", "--reference", folder)
            assert medunet("convert", path, *back).exit_code == 0
    check_files(tmp_path / "out")


# ---- NIfTI and others in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_row_36_free_texts_of_nifti_stay_behind(infer: Command, medunet: Command, tmp_path: Path, kind: str) -> None:
    source, out = build_scan(kind, tmp_path), tmp_path / "out"
    for call, name in ((infer, "m.nii.gz"), (infer, "m.seg.nrrd")):
        assert call(source, "-o", out / name).exit_code == 0
    for name in ("s.nii", "s.nrrd"):
        assert medunet("convert", source, "-o", out / name).exit_code == 0
    assert len(check_files(out)) == 7  # two of them manifests
    header: Any = nib.load(out / "m.nii.gz").header
    assert bytes(header["descrip"]).startswith(b"medunet")  # a text of ours took the place


def test_row_36_free_texts_of_masks_stay_behind(medunet: Command, tmp_path: Path) -> None:
    image: Any = nib.Nifti1Image(np.eye(5, dtype=np.uint8)[None], np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARY^PATIENT"))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("dicom", b""))
    image.header["descrip"] = b"4711-SECRET"
    nib.save(image, tmp_path / "m.nii.gz")
    (tmp_path / "m.json").write_text('{"PatientName": "CANARY^PATIENT"}')  # of dcm2niix
    for number, (name, options) in enumerate([("a.nii.gz", []), ("b.seg.nrrd", []), ("c.nii.gz", ["--split"])]):
        outcome = medunet("convert", tmp_path / "m.nii.gz", "-o", tmp_path / "out" / str(number) / name, *options)
        assert outcome.exit_code == 0, outcome.err
    check_files(tmp_path / "out")


def write_nrrd(path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetMetaData("0010|0010", "CANARY^PATIENT")
    image.SetMetaData("PatientID", "4711-SECRET")
    SimpleITK.WriteImage(image, str(path))


def write_png(path: Path) -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("Patient", "CANARY^PATIENT")
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)).save(path, pnginfo=note)


def write_tiff(path: Path) -> None:
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)).save(path, description="CANARY 4711-SECRET")


@pytest.mark.parametrize(
    ("name", "write", "output"),
    [
        ("s.nrrd", write_nrrd, "m.nii.gz"),
        ("s.nrrd", write_nrrd, "m.seg.nrrd"),
        ("s.mha", write_nrrd, "m.seg.nrrd"),
        ("s.png", write_png, "m.png"),
        ("s.tif", write_tiff, "m.tif"),
    ],
)
def test_row_36_free_texts_of_other_formats_stay_behind(
    infer: Command, medunet: Command, tmp_path: Path, name: str, write: Callable[[Path], None], output: str
) -> None:
    write(tmp_path / name)
    assert "CANARY" in find_canaries((tmp_path / name).read_bytes())
    assert infer(tmp_path / name, "-o", tmp_path / "out" / output).exit_code == 0
    assert medunet("convert", tmp_path / name, "-o", tmp_path / "out" / "s.nii.gz").exit_code == 0
    check_files(tmp_path / "out")
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-70])
    infer(tmp_path / name, "-o", tmp_path / "x.nii.gz").check_refused(name)
    medunet("convert", tmp_path / name, "-o", tmp_path / "x.nii.gz").check_refused(name)


# ---- training ----------------------------------------------------------------------------------------------------------


def test_row_43_training_on_dicom(medunet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDUNET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("medunet.training.fit_plan.CPU_EFFORT", Effort(voxels=2 * 16**3, features=4))
    (tmp_path / "task.yaml").write_text(TASK)
    for number in range(3):
        folder = tmp_path / "data" / f"case_{number}"
        build_series("MR", shape=(20, 18, 16), spacing=(1.0, 1.0, 1.5), offset=3000.0 + number).write(folder)
        reference = read_reference(folder)
        labels = np.zeros(reference.volume.shape, dtype=np.uint8)
        labels[0, 3:8, 4:12, 3:9], labels[0, 10:15, 4:12, 3:9] = 1, 2
        structures = from_label_map(reference.volume.with_array(labels), {"left": (1,), "right": (2,)})
        mask_format: Any = ("dicom-seg", "rtstruct", "dicom-seg")[number]
        write_structures(structures, folder / "object.dcm", mask_format=mask_format, scan=reference)

    given = ("--task", tmp_path / "task.yaml", "--data", tmp_path / "data", "--device", "cpu")
    run = tmp_path / "home" / "run"
    outcome = medunet("train", *given, "--budget", "2it", "--deterministic", "--output", run)
    assert outcome.exit_code == 0, outcome.err
    mask = ("-o", tmp_path / "home" / "m.dcm", "--format", "dicom-seg", "--preview", tmp_path / "home" / "p.png")
    outcome = medunet("infer", tmp_path / "data" / "case_0", *mask, "--model", run, "--device", "cpu")
    assert outcome.exit_code == 0, outcome.err
    names = {path.name for path in check_files(tmp_path / "home", needed=1)}
    assert {"weights.safetensors", "training.json", "metrics.json", "card.md", "log.csv", "validation.png"} <= names
    assert pydicom.dcmread(tmp_path / "home" / "m.dcm").PatientName == "CANARY^PATIENT"

    damaged = sorted((tmp_path / "data" / "case_1").glob("IM*"))[4]
    damaged.write_bytes(damaged.read_bytes()[:-50])
    medunet("train", *given, "--budget", "2it", "--output", tmp_path / "home" / "no").check_refused(damaged.name)
    check_files(tmp_path / "home", needed=1)
