"""The viewer in headless Chromium: what is drawn is the scan and its masks, left is left, and nothing is asked of anyone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Browser
from oracles import ORACLE_TASK

from medunet.evaluation import evaluate
from medunet.evaluation.sides import SideOptions
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.models import read_records
from medunet.reporting import figure
from medunet.reporting.case_pictures import draw_evaluated_cases
from medunet.reporting.evaluation_page import build_evaluation_page
from medunet.reporting.inference_page import InferenceReport, ScanResult
from medunet.reporting.page import render_page
from medunet.reporting.palette import get_colour
from medunet.reporting.scan_pictures import draw_scan
from medunet.reporting.view import View, build_small_view, build_view
from medunet.reporting.viewer_page import build_viewer_html, write_viewer_page
from medunet.reporting.viewer_server import PageServer
from medunet.volume import Volume, to_orientation

CANVAS = ".viewer-stage canvas"
READY = "const v = window.medunetViewers?.[arguments[0] ?? 0]; return v && (v.isReady || v.error)"
SHAPE = (24, 20, 12)
SCRIPT = "</script><script>window.isBad = true</script><img src=x onerror='window.isBad = true'>"


@pytest.fixture
def scan(make_volume: Any) -> Volume:
    """Grey that the soft tissue window shows in its middle."""
    volume = make_volume(shape=SHAPE, spacing=(2.0, 2.5, 4.0), orientation="LPI")
    return volume.with_array(np.full(volume.shape, 40, dtype=np.int16))


def mark(scan: Volume, box: tuple[slice, slice, slice], value: int = 1) -> Volume:
    labels = np.zeros(scan.shape, dtype=np.uint8)
    labels[(0, *box)] = value
    return scan.with_array(labels)


def show(browser: Browser, view: View, folder: Path) -> None:
    write_viewer_page(view, folder / "page.html")
    browser.open((folder / "page.html").as_uri())
    assert browser.wait(READY) is True


def choose(browser: Browser, selector: str, value: object) -> None:
    """As a hand on the control does."""
    script = """
        const control = document.querySelector(arguments[0]);
        if (control.type === "checkbox") { if (control.checked !== arguments[1]) control.click(); return; }
        control.value = arguments[1];
        for (const type of ["input", "change"]) control.dispatchEvent(new Event(type));
    """
    browser.run(script, selector, value)


def get_place(browser: Browser) -> dict[str, Any]:
    found: dict[str, Any] = browser.run("return window.medunetViewers.at(-1).place")
    return found


def capture_axial(browser: Browser, ras_voxel: tuple[int, int, int], scan: Volume) -> np.ndarray:
    """The pixel where radiological convention puts a voxel of the axial plane, as RGB 0..1, without the crosshair.

    The plane stands in the middle of the canvas, as large as it fits.
    """
    choose(browser, ".viewer-planes", "0")
    browser.run("medunetViewers[0].nv.opts.crosshairWidth = 0; medunetViewers[0].nv.drawScene()")
    picture = browser.capture(CANVAS)
    ras = to_orientation(scan, "RAS")
    width_mm, height_mm = (n * mm for n, mm in zip(ras.spatial_shape[:2], ras.spacing[:2], strict=True))
    pixels_per_mm = min(picture.shape[1] / width_mm, picture.shape[0] / height_mm)
    right_mm = (ras.spatial_shape[0] / 2 - 0.5 - ras_voxel[0]) * ras.spacing[0]
    down_mm = (ras.spatial_shape[1] / 2 - 0.5 - ras_voxel[1]) * ras.spacing[1]
    row = int(picture.shape[0] / 2 + down_mm * pixels_per_mm)
    column = int(picture.shape[1] / 2 + right_mm * pixels_per_mm)
    pixel: np.ndarray = picture[row, column] / 255
    return pixel


def test_scan_and_mask_are_drawn(browser: Browser, scan: Volume, tmp_path: Path) -> None:
    box = (slice(4, 14), slice(5, 15), slice(2, 9))
    view = build_view(scan, mark(scan, box), labels={"gland": [1]})
    show(browser, view, tmp_path)
    assert browser.list_errors() == []
    inside, outside = (24 - 1 - 9, 20 - 1 - 10, view.start[2]), (1, 1, view.start[2])
    grey = capture_axial(browser, outside, scan)
    assert grey == pytest.approx([0.5, 0.5, 0.5], abs=0.03)  # 40 HU in -160 to 240

    choose(browser, ".viewer-opacity", 100)
    assert capture_axial(browser, inside, scan) == pytest.approx(get_colour(0), abs=0.03)
    assert capture_axial(browser, outside, scan) == pytest.approx(grey, abs=0.01)
    choose(browser, ".viewer-opacity", 50)
    assert capture_axial(browser, inside, scan) == pytest.approx((np.array(get_colour(0)) + grey) / 2, abs=0.03)
    choose(browser, ".viewer-opacity", 0)
    assert capture_axial(browser, inside, scan) == pytest.approx(grey, abs=0.01)
    choose(browser, ".viewer-opacity", 100)
    choose(browser, ".viewer-label", False)
    assert capture_axial(browser, inside, scan) == pytest.approx(grey, abs=0.01)
    choose(browser, ".viewer-label", True)
    choose(browser, ".viewer-mask", False)
    assert capture_axial(browser, inside, scan) == pytest.approx(grey, abs=0.01)
    choose(browser, ".viewer-mask", True)
    assert capture_axial(browser, inside, scan) == pytest.approx(get_colour(0), abs=0.03)
    choose(browser, ".viewer-window", "5")  # all values: the scan is constant
    assert browser.list_errors() == []


def test_the_smallest_region_that_is_shown_colours_a_voxel(browser: Browser, scan: Volume, tmp_path: Path) -> None:
    labels = np.zeros(scan.shape, dtype=np.uint8)
    labels[0, 4:20, 4:16, 2:10] = 1
    labels[0, 8:16, 7:13, 4:8] = 2
    view = build_view(scan, scan.with_array(labels), labels={"whole": [1, 2], "core": [2]})
    show(browser, view, tmp_path)
    choose(browser, ".viewer-opacity", 100)
    core, rim = (11, 9, view.start[2]), (5, 5, view.start[2])
    assert capture_axial(browser, core, scan) == pytest.approx(get_colour(1), abs=0.03)
    assert capture_axial(browser, rim, scan) == pytest.approx(get_colour(0), abs=0.03)
    choose(browser, ".viewer-label[value='1']", False)
    assert capture_axial(browser, core, scan) == pytest.approx(get_colour(0), abs=0.03)


def test_a_reference_is_outlined(browser: Browser, scan: Volume, tmp_path: Path) -> None:
    box = (slice(4, 14), slice(5, 15), slice(2, 9))
    view = build_view(scan, None, mark(scan, box, 3), {"other": [1], "gland": [3]})
    show(browser, view, tmp_path)
    inside = capture_axial(browser, (24 - 1 - 9, 20 - 1 - 10, view.start[2]), scan)
    assert inside == pytest.approx([0.5, 0.5, 0.5], abs=0.03)
    colour = np.array(get_colour(1)) * 255

    def count_coloured() -> int:
        return int((np.abs(browser.capture(CANVAS).astype(float) - colour).max(axis=2) < 12).sum())

    edge = count_coloured()
    assert edge > 300  # one pixel wide, all around
    for opacity in (50, 0):
        choose(browser, ".viewer-opacity", opacity)
        assert count_coloured() == 0  # fainter, then gone
    choose(browser, ".viewer-opacity", 100)
    choose(browser, ".viewer-label[value='1']", False)
    assert count_coloured() == 0
    choose(browser, ".viewer-label[value='1']", True)
    assert count_coloured() == pytest.approx(edge, rel=0.05)


def test_wheel_and_keys_change_the_slice(browser: Browser, scan: Volume, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    rows = np.arange(SHAPE[2], dtype=np.int16) * 30 - 150
    shaded = scan.with_array(np.broadcast_to(rows, scan.shape).copy())
    show(browser, build_view(shaded), tmp_path)
    choose(browser, ".viewer-planes", "0")
    before, picture = get_place(browser), browser.capture(CANVAS)
    canvas = browser.driver.find_element("css selector", CANVAS)
    ActionChains(browser.driver).scroll_from_origin(ScrollOrigin.from_element(canvas), 0, 120).perform()
    browser.wait("return medunetViewers[0].place.voxel[2] !== arguments[0]", before["voxel"][2])
    after = get_place(browser)
    assert abs(after["voxel"][2] - before["voxel"][2]) == 1
    assert after["voxel"][:2] == before["voxel"][:2]
    assert abs(after["mm"][2] - before["mm"][2]) == pytest.approx(4.0)
    assert abs(after["value"] - before["value"]) == 30
    assert np.abs(browser.capture(CANVAS).astype(int) - picture).mean() > 5

    ras = to_orientation(shaded, "RAS")
    for key, axis, step in (
        (Keys.PAGE_UP, 2, 1), (Keys.PAGE_DOWN, 2, -1), (Keys.ARROW_LEFT, 0, 1), (Keys.ARROW_RIGHT, 0, -1),
        (Keys.ARROW_UP, 1, 1), (Keys.ARROW_DOWN, 1, -1),
    ):  # fmt: skip
        voxel = get_place(browser)["voxel"]
        canvas.send_keys(key)
        expected = [place + step * (of_axis == axis) for of_axis, place in enumerate(voxel)]
        assert get_place(browser)["voxel"] == expected
        assert get_place(browser)["value"] == ras.array[(0, *expected)]
    assert browser.list_errors() == []


@pytest.mark.parametrize("orientation", ["LPI", "RAS", "SRP"])
def test_left_is_left(browser: Browser, make_volume: Any, tmp_path: Path, orientation: str) -> None:
    """One bright voxel on an oblique grid: its millimetres lead to it, and it is drawn on its own side."""
    upright = make_volume(shape=(15, 18, 21), spacing=(2.0, 3.0, 2.5), orientation=orientation)
    angle = np.deg2rad(12)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    array = np.zeros(upright.shape, dtype=np.int16)
    oblique = Volume(array, turn @ upright.affine)
    # Left of the middle (negative x of the scan's own axes), in front, above: asymmetric in every axis.
    ras = to_orientation(oblique, "RAS")
    voxel = [2, int(0.75 * ras.spatial_shape[1]), int(0.6 * ras.spatial_shape[2])]
    ras.array[0][tuple(voxel)] = 777
    world = (ras.affine @ [*voxel, 1])[:3]
    scan = to_orientation(ras, orientation)
    assert scan.affine == pytest.approx(oblique.affine)
    mask = scan.with_array((scan.array > 0).astype(np.uint8))
    show(browser, build_view(scan, mask, labels={"mark": [1]}), tmp_path)
    browser.run("medunetViewers[0].goTo(arguments[0])", world.tolist())
    place = get_place(browser)
    assert place["mm"] == pytest.approx(world, abs=1e-4)
    assert place["value"] == 777
    assert place["found"] == ["prediction: mark"]
    # NiiVue by itself, which knows nothing of `goTo`, finds the same voxel below the crosshair.
    own = browser.run("""
        const nv = medunetViewers[0].nv, mm = nv.frac2mm(nv.scene.crosshairPos, 0, true);
        return [...mm.slice(0, 3), nv.volumes[0].getValue(...nv.volumes[0].mm2vox([...mm]))];
    """)
    assert own == pytest.approx([*world, 777], abs=1e-2)
    choose(browser, ".viewer-opacity", 100)
    colour = capture_axial(browser, tuple(voxel), scan)
    assert colour == pytest.approx(get_colour(0), abs=0.05)
    picture = browser.capture(CANVAS).astype(float)
    drawn = np.argwhere(np.abs(picture / 255 - get_colour(0)).max(axis=2) < 0.05)
    assert drawn[:, 1].mean() > picture.shape[1] / 2  # the patient's left is on the right side
    assert drawn[:, 0].mean() < picture.shape[0] / 2  # in front is above
    assert browser.run("return document.querySelector('.viewer-place').textContent").startswith(
        f"{'R' if world[0] >= 0 else 'L'} {abs(world[0]):.1f}"
    )


def test_nothing_runs_and_nothing_is_fetched(browser: Browser, scan: Volume, tmp_path: Path) -> None:
    view = build_view(scan, mark(scan, (slice(3), slice(3), slice(3))), labels={SCRIPT: [1]}, title=SCRIPT)
    show(browser, view, tmp_path)
    choose(browser, ".viewer-planes", "3")
    browser.capture(CANVAS)
    assert browser.run("return window.isBad ?? null") is None
    assert SCRIPT in browser.run("return document.body.textContent")
    assert browser.list_errors() == []
    assert browser.list_requests() == [(tmp_path / "page.html").as_uri()]
    resources = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in resources if not name.startswith("data:")] == []


def test_values_that_are_no_integers_keep_their_steps(browser: Browser, make_volume: Any, tmp_path: Path) -> None:
    volume = make_volume(shape=(9, 8, 7))
    show(browser, build_view(volume, modality="MR"), tmp_path)
    ras = to_orientation(volume, "RAS")
    for voxel in ((0, 0, 0), (8, 7, 6), (3, 1, 5)):
        browser.run("medunetViewers[0].goTo(arguments[0])", (ras.affine @ [*voxel, 1])[:3].tolist())
        step = float(np.ptp(volume.array)) / 65_534
        assert get_place(browser)["value"] == pytest.approx(float(ras.array[(0, *voxel)]), abs=step)


def test_a_single_slice_is_shown(browser: Browser, make_volume: Any, tmp_path: Path) -> None:
    volume = make_volume(shape=(30, 20, 1), orientation="RAS")
    flat = volume.with_array(np.full(volume.shape, 40, dtype=np.uint8))
    show(browser, build_view(flat, mark(flat, (slice(10), slice(8), slice(1)))), tmp_path)
    choose(browser, ".viewer-opacity", 100)
    assert capture_axial(browser, (3, 3, 0), flat) == pytest.approx(get_colour(0), abs=0.03)
    assert capture_axial(browser, (22, 15, 0), flat) == pytest.approx([0.5] * 3, abs=0.03)
    assert browser.list_errors() == []


def test_cases_of_a_report_open_one_at_a_time(
    browser: Browser, scan: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jinja2 import ChoiceLoader, DictLoader

    from medunet.reporting import page

    template = """{% extends "base.html" %}{% from "viewer_parts.html" import show_viewer %}
        {% block content %}{% for view in views %}{{ show_viewer(view) }}{% endfor %}{% endblock %}"""
    environment = page._get_environment()
    monkeypatch.setattr(environment, "loader", ChoiceLoader([environment.loader, DictLoader({"cases.html": template})]))
    views = [build_small_view(scan, title=f"case {number}") for number in (1, 2)]
    html = render_page("cases.html", title="Cases", with_viewer=True, views=views)
    assert html.count(page.read_viewer_scripts()[0].text) == 1
    (tmp_path / "page.html").write_text(html)
    browser.open((tmp_path / "page.html").as_uri())
    assert browser.run("return medunetViewers.map((viewer) => Boolean(viewer.nv))") == [False, False]
    assert browser.run("return document.querySelector('.viewer-body').offsetHeight") == 0
    for number in (0, 1, 0):
        browser.run("document.querySelectorAll('.viewer-open')[arguments[0]].click()", number)
        assert browser.wait(READY, number) is True
        assert browser.run("return medunetViewers.map((viewer) => Boolean(viewer.nv))") == [number == 0, number == 1]
        picture = browser.capture(f".viewer:nth-of-type({number + 1}) canvas")
        assert (np.abs(picture.astype(int) - 128).max(axis=2) < 8).mean() > 0.2
    # Of ten impatient clicks the last one counts.
    browser.run("for (let n = 0; n < 10; n++) document.querySelectorAll('.viewer-open')[n % 2].click()")
    assert browser.wait(READY, 1) is True
    browser.run("document.querySelectorAll('.viewer-open')[1].click()")
    assert browser.run("return [...document.querySelectorAll('.viewer-body')].map((body) => body.hidden)") == [
        True,
        True,
    ]
    assert browser.list_errors() == []


def test_a_page_without_its_volume_says_so(browser: Browser, scan: Volume, tmp_path: Path) -> None:
    view = build_view(scan)
    html = build_viewer_html(view).replace(view.base64, view.base64[:40])
    (tmp_path / "page.html").write_text(html)
    browser.open((tmp_path / "page.html").as_uri())
    assert "cannot be shown" in str(browser.wait(READY))
    assert "cannot be shown" in browser.run("return document.querySelector('.viewer-message').textContent")


def test_the_local_server_shows_the_same(browser: Browser, scan: Volume) -> None:
    server = PageServer(build_viewer_html(build_view(scan)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        link = server.take_link()
        browser.open(link)
        assert browser.wait(READY) is True
        assert browser.run("return location.href") == server.url
        assert get_place(browser)["value"] == 40
        assert browser.list_errors() == []
        assert browser.list_requests() == [link, server.url]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_page_of_many_scans_opens_one(
    browser: Browser, write_model: Callable[..., Path], make_densities: Any, tmp_path: Path
) -> None:
    """The page of an inference is written piece by piece; its viewers are the same."""
    scan, mask = make_densities(spacing=(1.0, 1.0, 1.0))
    path = tmp_path / "report.html"
    with InferenceReport(path, read_records(write_model(tmp_path / "model"))) as report:
        for name in ("a", "b"):
            report.add(ScanResult(name=name), draw_scan(scan, mask, ORACLE_TASK))
        report.write()
    browser.open(path.as_uri())
    assert browser.run("return medunetViewers.length") == 2
    browser.run("document.querySelectorAll('.viewer-open')[1].click()")
    assert browser.wait(READY, 1) is True
    assert browser.run("return medunetViewers[1].nv.volumes.length") > 1
    assert browser.list_errors() == []


def test_a_case_of_an_evaluation_shows_scan_and_both_masks(
    browser: Browser, scan: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "_PAGE_DPI", 30)
    mask = mark(scan, (slice(4, 14), slice(5, 15), slice(2, 9)))
    reference = mark(scan, (slice(8, 18), slice(5, 15), slice(2, 9)))
    write_nifti_image(scan, tmp_path / "scans" / "p1.nii.gz")
    write_nifti_labels(mask, tmp_path / "masks" / "p1.nii.gz")
    write_nifti_labels(reference, tmp_path / "labels" / "p1.nii.gz")
    evaluation = evaluate(tmp_path / "masks", tmp_path / "labels")
    pictures = draw_evaluated_cases(evaluation, SideOptions(), images=tmp_path / "scans")
    page = tmp_path / "page.html"
    page.write_text(build_evaluation_page(evaluation, pictures=pictures))
    browser.open(page.as_uri())
    assert browser.run("return medunetViewers.map((viewer) => Boolean(viewer.nv))") == [False]
    browser.run("document.querySelector('.viewer-open').click()")
    assert browser.wait(READY) is True
    for voxel, found in (
        ((5, 9, 5), ["prediction: label 1", "reference: no label"]),
        ((10, 9, 5), ["prediction: label 1", "reference: label 1"]),
        ((16, 9, 5), ["prediction: no label", "reference: label 1"]),
        ((20, 9, 5), ["prediction: no label", "reference: no label"]),
    ):
        browser.run("medunetViewers[0].goTo(arguments[0])", (scan.affine @ [*voxel, 1])[:3].tolist())
        assert (get_place(browser)["found"], get_place(browser)["value"]) == (found, 40)
    choose(browser, ".viewer-opacity", 100)
    filled = np.abs(browser.capture(CANVAS) / 255 - get_colour(0)).max(axis=2) < 0.05
    assert filled.mean() > 0.02
    assert browser.list_errors() == []
    assert browser.list_requests() == [page.as_uri()]
