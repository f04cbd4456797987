"""``medunet view``: every format that is read can be looked at, and what cannot is refused in one line."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from oracles import Outcome
from synthetic_series import Series, assert_private, build_series

from medunet.io import from_masks, read_scan, write_image, write_nifti_image, write_nifti_labels, write_structures
from medunet.reporting import get_colour, viewer_server
from medunet.reporting.palette import to_hex
from medunet.volume import Volume, to_orientation

View = Callable[..., Outcome]
TASK = """
name: glands-test
title: Two glands
modality: MR
channels: [t2]
labels: {gland: 2, duct: 1}
ignore: 9
intensity: zscore
"""


@pytest.fixture
def view(medunet_command: Callable[..., Outcome]) -> View:
    return lambda *arguments: medunet_command("view", *arguments)


@pytest.fixture
def scan(make_volume: Any, tmp_path: Path) -> Volume:
    volume = make_volume(dtype=np.int16)
    write_nifti_image(volume, tmp_path / "scan.nii.gz")
    return volume  # type: ignore[no-any-return]


def write_mask(scan: Volume, path: Path, value: int = 1, box: slice = slice(3, 9)) -> Path:
    labels = np.zeros(scan.shape, np.uint8)
    labels[0, box, box, box] = value
    write_nifti_labels(scan.with_array(labels), path)
    return path


def open_page(path: Path) -> tuple[dict[str, Any], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Facts, and the volumes as a reader of NIfTI takes them."""
    parts = dict(re.findall(r'data-part="([^"]+)">(.*?)</script>', path.read_text("utf-8"), flags=re.DOTALL))
    facts = json.loads(parts.pop("facts"))
    images = {name: nib.Nifti1Image.from_bytes(gzip.decompress(b64decode(text))) for name, text in parts.items()}
    return facts, {name: (np.asarray(image.get_fdata()), np.asarray(image.affine)) for name, image in images.items()}


def name_codes(
    facts: dict[str, Any], volumes: dict[str, tuple[np.ndarray, np.ndarray]], number: int
) -> dict[str, np.ndarray]:
    """Label -> its voxels, for those that a mask holds."""
    codes, _ = volumes[f"mask-{number}"]
    members = facts["masks"][number]["members"]
    found: dict[str, np.ndarray] = {}
    for place, labels in enumerate(members, start=1):
        for label in labels:
            name = facts["labels"][label]["name"]
            found[name] = found.get(name, np.zeros(codes.shape, bool)) | (codes == place)
    return found


def test_a_page_is_written(view: View, scan: Volume, tmp_path: Path) -> None:
    mask = write_mask(scan, tmp_path / "mask.nii.gz")
    reference = write_mask(scan, tmp_path / "truth.nii.gz", 3, slice(4, 10))
    page = tmp_path / "out" / "page.html"
    outcome = view(tmp_path / "scan.nii.gz", mask, reference, "-o", page)
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert re.fullmatch(rf"Page: {page} \(\d+\.\d MiB\)\. It holds the scan itself\.\n", outcome.out)
    facts, volumes = open_page(page)
    ras = to_orientation(scan, "RAS")
    array, affine = volumes["scan"]
    assert (array == ras.array[0]).all()
    assert affine == pytest.approx(ras.affine, abs=1e-4)
    assert [mask["name"] for mask in facts["masks"]] == ["mask.nii.gz", "truth.nii.gz"]
    assert facts["windows"][0]["name"] == "1st to 99th percentile"  # nothing as dark as air in CT
    assert {name: int(voxels.sum()) for name, voxels in name_codes(facts, volumes, 0).items()} == {"label 1": 216}
    assert {name: int(voxels.sum()) for name, voxels in name_codes(facts, volumes, 1).items()} == {"label 3": 216}


def test_a_task_names_the_labels(view: View, scan: Volume, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(TASK)
    labels = np.zeros(scan.shape, np.uint8)
    labels[0, 1, 1, :4] = [2, 9, 5, 2]
    write_nifti_labels(scan.with_array(labels), tmp_path / "mask.nii.gz")
    options = ("--task", tmp_path / "task.yaml", "-o", tmp_path / "page.html")
    assert view(tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz", *options).exit_code == 0
    facts, volumes = open_page(tmp_path / "page.html")
    assert [label["name"] for label in facts["labels"]] == ["gland", "duct", "ignored", "value 5"]
    sizes = {name: int(voxels.sum()) for name, voxels in name_codes(facts, volumes, 0).items()}
    assert sizes == {"gland": 2, "ignored": 1, "value 5": 1}


def test_air_as_in_ct_offers_its_windows(view: View, scan: Volume, tmp_path: Path) -> None:
    write_image(scan.with_array(scan.array - 1000), tmp_path / "ct.nrrd")
    assert view(tmp_path / "ct.nrrd", "-o", tmp_path / "page.html").exit_code == 0
    assert open_page(tmp_path / "page.html")[0]["windows"][0]["name"] == "soft tissue"
    assert view(tmp_path / "ct.nrrd", "--modality", "MR", "-o", tmp_path / "page.html", "--overwrite").exit_code == 0
    assert "percentile" in open_page(tmp_path / "page.html")[0]["windows"][0]["name"]


def test_dicom_objects_lie_on_their_series(view: View, tmp_path: Path) -> None:
    """Overlapping structures too, which no label map could show."""
    series: Series = build_series()
    folder = series.write(tmp_path / "series")
    scan = read_scan(folder)
    one, other = np.zeros((2, *scan.volume.spatial_shape), bool)
    one[1:6, 1:6, 1:4], other[4:9, 2:5, 2:5] = True, True
    structures = from_masks([("gland", one), ("duct", other)], scan.volume)
    write_structures(structures, tmp_path / "seg.dcm", mask_format="dicom-seg", scan=scan)
    write_structures(structures, tmp_path / "rt.dcm", mask_format="rtstruct", scan=scan)
    outcome = view(folder, tmp_path / "seg.dcm", tmp_path / "rt.dcm", "-o", tmp_path / "page.html")
    assert outcome.exit_code == 0
    assert_private(outcome.out + outcome.err)
    assert_private((tmp_path / "page.html").read_text("utf-8"))
    facts, volumes = open_page(tmp_path / "page.html")
    assert [label["name"] for label in facts["labels"]] == ["gland", "duct"]
    expected = {
        name: to_orientation(scan.volume.with_array(voxels[None]), "RAS").array[0]
        for name, voxels in (("gland", one), ("duct", other))
    }
    for number in (0, 1):
        found = name_codes(facts, volumes, number)
        assert found.keys() == expected.keys()
        assert all((found[name] == expected[name]).all() for name in found), number
    # Each structure keeps all of its voxels, those that lie in both too.
    assert int((expected["gland"] & expected["duct"]).sum()) > 0


def test_cropping_and_reduction_are_printed(view: View, scan: Volume, tmp_path: Path) -> None:
    mask = write_mask(scan, tmp_path / "mask.nii.gz")
    outcome = view(tmp_path / "scan.nii.gz", mask, "--crop", 0, "-o", tmp_path / "page.html")
    assert outcome.out.startswith("Cropped around the labels: 6 × 6 × 6 of 17 × 22 × 31 voxels are shown.\n")
    assert open_page(tmp_path / "page.html")[0]["shape"] == [6, 6, 6]


REFUSED = {
    "no scan": (["gone.nii.gz"], "gone.nii.gz does not exist"),
    "no mask": (["scan.nii.gz", "gone.nii.gz"], "gone.nii.gz does not exist"),
    "other grid": (["scan.nii.gz", "other.nii.gz"], "other.nii.gz and scan.nii.gz lie on different grids.*0.8x.*0.7x"),
    "other grid of the second": (
        ["scan.nii.gz", "mask.nii.gz", "other.nii.gz"],
        "other.nii.gz and scan.nii.gz lie on diff",
    ),
    "text": (["text.nii.gz"], "text.nii.gz"),
    "no label map": (["scan.nii.gz", "scan.nii.gz"], "scan.nii.gz"),
    "no page": (["scan.nii.gz", "-o", "page.png"], r"page.png would not open in a browser: its name must end in .html"),
    "input as page": (["scan.nii.gz", "-o", "mask.html"], "mask.html exists already"),
    "unknown task": (["scan.nii.gz", "--task", "nothing-ct"], "nothing-ct"),
    "map alone": (["scan.nii.gz", "mask.nii.gz", "--map", "a=b"], "name the task with --task"),
    "affine": (["scan.nii.gz", "--affine", "bform"], "There is no --affine bform"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_shown_is_refused_in_one_line(
    view: View, scan: Volume, make_volume: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("a server was started")

    monkeypatch.setattr(viewer_server, "serve_page", fail)
    monkeypatch.chdir(tmp_path)
    write_mask(scan, tmp_path / "mask.nii.gz")
    write_mask(make_volume(spacing=(0.8, 1.2, 3.0)), tmp_path / "other.nii.gz")
    (tmp_path / "text.nii.gz").write_text("<html>")
    (tmp_path / "mask.html").write_text("old")
    arguments, message = REFUSED[case]
    outcome = view(*arguments)
    assert outcome.exit_code == 2
    assert re.search(message, outcome.err)
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert (tmp_path / "mask.html").read_text() == "old"


def test_the_browser_is_given_a_link_that_works_once(
    view: View, scan: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    is_open = threading.Event()
    monkeypatch.setattr("webbrowser.open", lambda url: (opened.append(url), is_open.set()))
    expects_browser = True

    def serve(html: str, *, port: int, on_ready: Callable[[viewer_server.PageServer], None]) -> None:
        with viewer_server.PageServer(html, port=port) as server:
            on_ready(server)
            assert is_open.wait(10 if expects_browser else 0.2) == expects_browser
            if expects_browser:
                assert server.token not in opened[0]
                assert server.use_link(opened[0].rpartition("/")[2])

    monkeypatch.setattr(viewer_server, "serve_page", serve)
    assert view(tmp_path / "scan.nii.gz").exit_code == 0
    is_open.clear()
    expects_browser = False
    outcome = view(tmp_path / "scan.nii.gz", "--no-browser")
    assert outcome.exit_code == 0
    assert "(Ctrl-C ends)" in outcome.out
    assert len(opened) == 1


@pytest.fixture
def _takes_ctrl_c() -> Generator[None, None, None]:
    """A suite in the background ignores Ctrl-C, and so would every process that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_takes_ctrl_c")
def test_ctrl_c_ends_the_server_with_0(scan: Volume, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medunet", "view", str(tmp_path / "scan.nii.gz"), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = ""
        while "http" not in line:
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
        url = line.split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/  \(Ctrl-C ends\)\n", line)
        with urllib.request.urlopen(url, timeout=20) as response:
            assert b"data-viewer" in response.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_page_takes_over_the_colours_of_files(view: View, scan: Volume, tmp_path: Path) -> None:
    """Where two files give one colour to two names, the second name has another."""
    one, other = np.zeros((2, *scan.spatial_shape), bool)
    one[2:5, 2:5, 2:5], other[6:9, 6:9, 6:9] = True, True
    first = from_masks([("gland", one), ("duct", other)], scan, colors={"gland": (1, 2, 3), "duct": (200, 100, 0)})
    second = from_masks([("gland", one), ("cyst", other)], scan, colors={"gland": (9, 9, 9), "cyst": (200, 100, 0)})
    paths = [tmp_path / "a.seg.nrrd", tmp_path / "b.seg.nrrd"]
    for structures, path in zip((first, second), paths, strict=True):
        write_structures(structures, path)
    page = tmp_path / "page.html"
    assert view(tmp_path / "scan.nii.gz", *paths, "-o", page).exit_code == 0
    colours = {label["name"]: label["colour"] for label in open_page(page)[0]["labels"]}
    assert colours == {"gland": "#010203", "duct": "#c86400", "cyst": to_hex(get_colour(2))}
    assert 'style="background:#c86400"' in page.read_text("utf-8")
    task = tmp_path / "task.yaml"
    task.write_text(TASK)
    assert view(tmp_path / "scan.nii.gz", paths[0], "--task", task, "-o", page, "--overwrite").exit_code == 0
    colours = {label["name"]: label["colour"] for label in open_page(page)[0]["labels"]}
    assert (colours["gland"], colours["duct"]) == (to_hex(get_colour(0)), to_hex(get_colour(1)))
