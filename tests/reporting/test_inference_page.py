"""The page of an inference: flagged scans first, failed ones named, pictures from the disk, whole or not at all."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_pages import Page
from oracles import ORACLE_TASK
from PIL import Image

from medunet.errors import OutputError
from medunet.inference.manifest import Manifest
from medunet.models import ModelRecords, read_records
from medunet.models.quality import DiceCalibration
from medunet.postprocessing import AgreementCounts, PredictedDice
from medunet.reporting import inference_page
from medunet.reporting.inference_page import InferenceReport, ScanResult, predict_dices
from medunet.reporting.page import read_viewer_scripts
from medunet.reporting.scan_pictures import ScanPictures, draw_scan
from medunet.reporting.thumbnail import Thumbnail

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def records(write_model: Callable[..., Path], tmp_path: Path) -> ModelRecords:
    return read_records(write_model(tmp_path / "model"))


def build_result(name: str, *, flags: int = 0, **changes: Any) -> ScanResult:
    manifest = Manifest(
        status="done",
        created="2026-01-02T03:04:05+00:00",
        medunet_version="0",
        versions={},
        scan=[f"{name}.nii.gz"],
        scan_bytes=[1],
        task="t",
        weights_sha256="0",
        settings={},
        outputs=[],
        computed_by="one pass",
        seconds={"read": 0.25, "network": 2.0},
        volumes={
            "bone": {"volume_ml": 12.345, "visible_ml": 12.345, "reason": None},
            "fat": {"volume_ml": None, "visible_ml": 3.21, "reason": "cut"},
        },
        flags=[{"code": "spacing", "label": None, "message": f"wide {SCRIPT}"}] * flags,
        notes=[f"a note {SCRIPT}"],
    )
    return ScanResult(**{"name": name, "mask": f"{name}.nii.gz", "manifest": manifest} | changes)


def build_pictures(shade: int) -> ScanPictures:
    file = io.BytesIO()
    Image.new("L", (30, 10), shade).save(file, "JPEG")
    return ScanPictures(overlay=file.getvalue(), thumbnail=Thumbnail(jpeg=file.getvalue(), side_mm=80.0))


def read_shade(source: str) -> int:
    return int(np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))).mean().round())


def list_shades(page: Page, words: str) -> list[int]:
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    return [read_shade(str(image["src"])) for image in images if words in str(image["alt"])]


def test_failed_scans_come_first_then_flagged_ones(records: ModelRecords, tmp_path: Path) -> None:
    with InferenceReport(tmp_path / "report.html", records) as report:
        report.add(build_result("plain"), build_pictures(10))
        report.add(build_result("late"), build_pictures(60))
        report.add(build_result("flagged", flags=2), build_pictures(120))
        report.add(ScanResult(name="broken", error=f"it is a text file {SCRIPT}"))
        report.write(order=["broken", "late", "plain", "flagged"])
    page = Page((tmp_path / "report.html").read_text())
    page.check_is_closed()
    table = page.find_table("scan", "state")
    assert [row[:2] for row in table[1:]] == [
        ["broken", "failed"],
        ["flagged", "2 flags"],
        ["late", "nothing unusual"],
        ["plain", "nothing unusual"],
    ]
    assert list_shades(page, "contours") == list_shades(page, "in small") == [120, 60, 10]
    text = " ".join(page.text)
    assert f"it is a text file {SCRIPT}" in text
    assert "1 scan failed and has no mask." in text
    assert f"wide {SCRIPT}" in text
    assert "expect blurred or missed edges" in text  # what to do
    assert "network 2.00 s" in text


def test_volumes_are_those_of_the_manifest(records: ModelRecords, tmp_path: Path) -> None:
    predicted = {"bone": PredictedDice(value=0.87654, low=0.8, high=0.9)}
    with InferenceReport(tmp_path / "report.html", records) as report:
        report.add(build_result("a", predicted=predicted), build_pictures(10))
        report.write()
    page = Page((tmp_path / "report.html").read_text())
    (cells,) = [table for table in page.cells if table[0][0][0] == "label"]
    assert cells[1][:2] == [("bone", "bone"), ("12.3", "12.345")]
    assert cells[2][:2] == [("fat", "fat"), ("≥ 3.2, cut", "3.21")]  # so much can be seen; the rest is not known
    assert cells[1][3] == ("0.88 (0.80–0.90)", "0.87654")
    assert cells[2][3] == ("–", None)


def test_the_dice_of_validation_has_its_cases(records: ModelRecords, tmp_path: Path) -> None:
    labels = {"bone": {"mean": 0.91234, "num_scored": 12}, "fat": {"mean": None, "num_scored": 0}}
    records = replace(records, metrics=records.metrics | {"labels": labels})
    with InferenceReport(tmp_path / "report.html", records) as report:
        report.add(build_result("a"), build_pictures(10))
        report.write()
    page = Page((tmp_path / "report.html").read_text())
    (cells,) = [table for table in page.cells if table[0][0][0] == "label"]
    assert cells[0][-1][0] == "Dice in validation (cases)"
    assert [row[-1] for row in cells[1:]] == [("0.912 (12)", "0.91234"), ("–", None)]


def test_a_picture_that_is_not_there_leaves_no_hole(records: ModelRecords, tmp_path: Path) -> None:
    with InferenceReport(tmp_path / "report.html", records) as report:
        report.add(build_result("a", remark=f"could not be drawn {SCRIPT}"))
        report.write()
    page = Page((tmp_path / "report.html").read_text())
    page.check_is_closed()
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert f"could not be drawn {SCRIPT}" in " ".join(page.text)


def test_no_scan_at_all(records: ModelRecords, tmp_path: Path) -> None:
    with InferenceReport(tmp_path / "report.html", records) as report:
        report.write()
    Page((tmp_path / "report.html").read_text()).check_is_closed()


def test_there_are_only_so_many_pictures(
    records: ModelRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference_page, "MAX_PICTURES", 2)
    monkeypatch.setattr(inference_page, "MAX_THUMBNAILS", 3)
    with InferenceReport(tmp_path / "report.html", records) as report:
        for number in range(5):
            report.add(build_result(f"s{number}", flags=number == 4), build_pictures(40 * number))
        report.write()
    page = Page((tmp_path / "report.html").read_text())
    assert list_shades(page, "contours") == [160, 0]  # the flagged one has one for certain
    assert list_shades(page, "in small") == [160, 0, 40]
    assert "2 of 5 have pictures" in " ".join(page.text)


def test_pictures_wait_on_disk(records: ModelRecords, tmp_path: Path) -> None:
    """A hundred pictures of 200 kB add less than two of them to the memory in use."""
    import tracemalloc

    picture = ScanPictures(overlay=b"\xff" * 200_000, thumbnail=Thumbnail(jpeg=b"\xff" * 10, side_mm=80.0))
    with InferenceReport(tmp_path / "report.html", records) as report:
        report.add(build_result("first"), picture)
        report.write()  # templates are compiled once
        tracemalloc.start()
        for number in range(100):
            report.add(ScanResult(name=f"s{number}", error="so that its manifest takes no memory"), picture)
        collected = tracemalloc.get_traced_memory()[0]
        report.write()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert collected < 400_000
    assert peak < 12 * 200_000 * 4 / 3  # a few copies of one picture, as base64
    assert (tmp_path / "report.html").stat().st_size > 60 * 200_000


def test_the_page_is_there_whole_or_not_at_all(records: ModelRecords, tmp_path: Path) -> None:
    path = tmp_path / "pages" / "report.html"

    def interrupt() -> None:
        with InferenceReport(path, records) as report:
            report.add(build_result("a"), build_pictures(10))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert not list(path.parent.iterdir())
    path.write_text("older")
    with InferenceReport(path, records) as report:
        report.add(build_result("a"), build_pictures(20))
        report._file.close()  # pictures are gone: writing fails in the middle of the page
        with pytest.raises(ValueError, match="closed"):
            report.write()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert path.read_text() == "older"


def test_a_place_where_nothing_can_be_written_is_refused_at_once(records: ModelRecords, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        InferenceReport(tmp_path / "file" / "report.html", records)


def test_dice_is_predicted_only_for_the_same_members(records: ModelRecords) -> None:
    from dataclasses import replace
    from types import SimpleNamespace

    calibration = DiceCalibration(
        members="2 flips",
        num_cases=10,
        intercept=2.0,
        slope=1.0,
        mean_agreement=2.0,
        highest_agreement=4.0,
        sum_squares=5.0,
        half_width=0.5,
        level=0.9,
        poor_dice=0.5,
    )
    quality: Any = SimpleNamespace(labels={"bone": SimpleNamespace(dice_calibration=calibration)})
    known = replace(records, quality=quality)
    counts = AgreementCounts(
        members="2 flips", common={"bone": (9, 9), "fat": (9, 9)}, total={"bone": (20, 20), "fat": (20, 20)}
    )
    predicted = predict_dices(counts, known)
    assert list(predicted) == ["bone"]
    assert predicted["bone"].low < predicted["bone"].value < predicted["bone"].high
    assert predict_dices(counts.__class__(members="5 networks", common=counts.common, total=counts.total), known) == {}
    assert predict_dices(None, known) == predict_dices(counts, records) == {}


def test_a_scan_is_drawn_with_its_mask(make_densities: Any) -> None:
    scan, mask = make_densities(spacing=(1.0, 1.0, 1.0))
    pictures = draw_scan(scan, mask, ORACLE_TASK)
    assert len(pictures.thumbnail.jpeg) <= 30_000
    assert 1400 < Image.open(io.BytesIO(pictures.overlay)).size[0] < 1700
    assert 'class="viewer"' in pictures.viewer
    assert len(pictures.viewer) < 2**20 + 100_000


def test_there_are_only_so_many_viewers(
    records: ModelRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_densities: Any
) -> None:
    """Those of flagged scans first; NiiVue is in the page once, and not at all where nothing needs it."""
    monkeypatch.setattr(inference_page, "MAX_VIEWERS", 2)
    scan, mask = make_densities(spacing=(1.0, 1.0, 1.0))
    drawn = draw_scan(scan, mask, ORACLE_TASK)
    path, niivue = tmp_path / "report.html", read_viewer_scripts()[0].text
    with InferenceReport(path, records) as report:
        for number in range(3):
            viewer = drawn.viewer.replace('class="viewer"', f'class="viewer" data-scan="{number}"', 1)
            report.add(build_result(f"s{number}", flags=number == 2), replace(drawn, viewer=viewer))
        report.write()
    html = path.read_text()
    assert re.findall('data-scan="(.)"', html) == ["2", "0"]
    assert html.count(niivue) == 1
    with InferenceReport(path, records) as report:
        report.add(build_result("s"), build_pictures(40))
        report.write()
    assert niivue not in path.read_text()
