"""The dataset doctor's page: nothing in it runs or reaches out, and it shows what was found."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medunet.checking import CaseFacts, DatasetReport, Finding, check_dataset
from medunet.io import write_nifti_image, write_nifti_labels
from medunet.reporting import dataset_page
from medunet.reporting.dataset_charts import draw_charts
from medunet.reporting.dataset_page import Thumbnails, render_dataset_page
from medunet.reporting.scene import build_scene
from medunet.reporting.thumbnail import MAX_BYTES, draw_thumbnail, embed_thumbnail
from medunet.tasks import Case, Dataset, Task
from medunet.volume import Volume

SCRIPT = "<script>alert(1)</script>"
ATTRIBUTE = '"><img src=x onerror=alert(1)>'
TASK = Task.model_validate(
    {
        "name": "glands-ct",
        "title": f"Glands {SCRIPT}",
        "modality": "CT",
        "channels": ["ct"],
        "labels": {f"gland {ATTRIBUTE}": 3, "$x_1$ & co": 7},
        "intensity": "ct-window",
        "window_hu": [-160, 240],
    }
)
Make = Callable[..., Dataset]


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser takes them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def list_images(self) -> list[str]:
        return [attributes["src"] for tag, attributes in self.tags if tag == "img"]


@pytest.fixture
def make_dataset(tmp_path: Path) -> Make:
    def make(*case_ids: str, broken: str = "") -> Dataset:
        cases = []
        for number, case_id in enumerate(case_ids):
            rng = np.random.default_rng(number)
            image = np.where(rng.random((16, 18, 8)) < 0.3, -1000, rng.normal(40, 20, (16, 18, 8))).astype(np.float32)
            labels = np.zeros(image.shape, np.uint8)
            labels[2:6, 4 : 9 + number % 3, 2:6], labels[10:14, 4:9, 2:6] = 3, 7
            volume = Volume(image[None], np.diag([2.0, 2.0, 3.0, 1.0]))
            images, label_path = tmp_path / f"{number}.nii.gz", tmp_path / f"{number}-labels.nii.gz"
            write_nifti_image(volume, images)
            write_nifti_labels(volume.with_array(labels[None]), label_path)
            if case_id == broken:
                images.write_bytes(b"no volume")
            cases.append(Case(case_id=case_id, images=(images,), labels=label_path))
        return Dataset(name=f"data {SCRIPT}", folder=tmp_path, layout=f"layout {ATTRIBUTE}", cases=tuple(cases))

    return make


def render(dataset: Dataset) -> tuple[DatasetReport, str]:
    thumbnails = Thumbnails(TASK)
    report = check_dataset(dataset, TASK, on_volumes=thumbnails)
    return report, render_dataset_page(report, TASK, thumbnails)


def test_names_that_are_scripts_are_text(make_dataset: Make) -> None:
    _, html = render(make_dataset(SCRIPT, ATTRIBUTE, "c", broken=ATTRIBUTE))
    page = Page(html)
    assert sum(tag == "script" for tag, _ in page.tags) == 1  # the page's own, which its policy names by hash
    assert "alert(1)" not in html.split("<script>")[1].split("</script>")[0]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert SCRIPT in page.text
    assert ATTRIBUTE in page.text


def test_nothing_is_fetched_from_anywhere(make_dataset: Make) -> None:
    _, html = render(make_dataset("a", "b", "c"))
    targets = [
        value
        for _, attributes in Page(html).tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster", "background")
    ]
    assert len(targets) > 5
    assert all(target.startswith(("data:image/", "#")) for target in targets)
    assert not re.search(r"url\(|@import|https?://", html)
    assert "default-src 'none'" in html


def test_every_finding_and_case_is_on_the_page(make_dataset: Make, tmp_path: Path) -> None:
    report, html = render(make_dataset("a", "b", "c", broken="b"))
    assert str(tmp_path) not in html
    page = Page(html)
    assert report.count("error") == 1
    assert all(finding.text in page.text for finding in report.findings)
    assert "Training would fail" in page.text
    assert "cannot be read" in page.text
    rows = re.findall(r"16 × 18 × 8", page.text)
    assert len(rows) == 4  # two sound cases, in the pictures and in the table


@pytest.mark.parametrize(
    ("severity", "verdict"),
    [("error", "Training would fail."), ("warning", "Training would run, and would learn"), ("note", "can start.")],
)
def test_the_verdict_is_that_of_the_worst_finding(severity: Any, verdict: str) -> None:
    finding = Finding(severity=severity, topic="file", text="x")
    report = DatasetReport(dataset="d", layout="l", task=TASK.name, cases=(), findings=(finding,))
    assert verdict in render_dataset_page(report, TASK, Thumbnails(TASK))


def test_a_dataset_without_findings_says_so() -> None:
    cases = tuple(CaseFacts(case_id=name) for name in "ab")
    report = DatasetReport(dataset="d", layout="l", task=TASK.name, cases=cases, findings=())
    assert "Nothing was found in 2 cases." in render_dataset_page(report, TASK, Thumbnails(TASK))


def test_cases_with_findings_come_first_when_pictures_are_many(
    make_dataset: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_page, "MAX_PICTURES", 2)
    dataset = make_dataset("a", "b", "c", "d", broken="c")
    thumbnails = Thumbnails(TASK)
    report = check_dataset(dataset, TASK, on_volumes=thumbnails)
    worse = Finding(case_id="d", severity="note", topic="file", text="x")
    kept = tuple(finding for finding in report.findings if finding.severity == "error")
    html = render_dataset_page(report.model_copy(update={"findings": (*kept, worse)}), TASK, thumbnails)
    captions = re.findall(r"<figcaption><strong>(\w)</strong>", html)
    assert captions == ["c", "d"]
    assert "2 of 4 cases are shown" in html


def test_charts_of_what_there_is(make_dataset: Make) -> None:
    report, html = render(make_dataset("a", "b", "c"))
    charts = draw_charts(report, TASK)
    assert len(charts) == 4
    assert len(set(charts)) == 4
    assert len(Page(html).list_images()) == 4 + 3
    nothing = report.model_copy(update={"cases": tuple(f.model_copy(update={"grid": None}) for f in report.cases)})
    assert draw_charts(nothing, TASK) == []
    assert "No image could be read." in render_dataset_page(nothing, TASK, Thumbnails(TASK))


def test_charts_take_scales_a_thousand_apart_and_many_labels(make_dataset: Make) -> None:
    report, _ = render(make_dataset("a", "b", "c"))
    first = report.cases[0]
    bright = first.channels[0].model_copy(update={"percentile_99_5": 1e6, "percentile_00_5": -1e6})
    cases = (first.model_copy(update={"channels": (bright,)}), *report.cases[1:])
    many = TASK.model_copy(update={"labels": {f"label {n}": (n,) for n in range(1, 41)}})
    measured = {name: next(iter(first.labels.values())) for name in many.labels}
    cases = tuple(facts.model_copy(update={"labels": measured}) for facts in cases)
    charts = draw_charts(report.model_copy(update={"cases": cases}), many)
    assert "The first 30 of 40 labels." in charts[-1].description


# ---- thumbnails ------------------------------------------------------------------------------------------------------


def open_picture(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_pictures_are_small_even_of_noise() -> None:
    noise = np.random.default_rng(0).normal(40, 300, (1, 512, 512, 3)).astype(np.float32)
    labels = (np.random.default_rng(1).random((1, 512, 512, 3)) < 0.001).astype(np.uint8)
    affine = np.diag([0.7, 0.7, 3.0, 1.0])
    content = draw_thumbnail(Volume(noise, affine), Volume(labels, affine), {"a": [1]}, modality="CT").jpeg
    assert len(content) <= MAX_BYTES
    assert open_picture(content).std() > 20


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR"])
def test_the_outline_lies_on_the_organ(make_volume: Any, orientation: str) -> None:
    """A bright block at the patient's left and front: right and top of the picture, its outline around it."""
    image = make_volume((40, 44, 36), (1.0, 1.0, 1.0), orientation)
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in image.spatial_shape], indexing="ij"), axis=-1)
    world = indices @ image.affine[:3, :3].T + image.affine[:3, 3]
    offset = world - world.reshape(-1, 3).mean(axis=0) - (-8, 8, 0)
    block = (np.abs(offset) < 5).all(axis=-1)[None]
    scan = image.with_array(np.where(block, 200.0, 0.0).astype(np.float32))
    content = draw_thumbnail(scan, scan.with_array(block.astype(np.uint8)), {"a": [1]}, modality="CT").jpeg
    pixels = open_picture(content)
    bright = (pixels.min(axis=-1) > 200).nonzero()
    orange = ((pixels[..., 0] > 180) & (pixels[..., 2] < 80)).nonzero()
    assert all(len(found[0]) > 50 for found in (bright, orange))
    for axis in (0, 1):
        assert orange[axis].min() < bright[axis].min() < bright[axis].max() < orange[axis].max()
        middles = [(found[axis].min() + found[axis].max()) / 2 for found in (orange, bright)]
        assert middles[0] == pytest.approx(middles[1], abs=3)
    assert np.mean(bright[0]) < pixels.shape[0] / 2
    assert np.mean(bright[1]) > pixels.shape[1] / 2


def test_pictures_are_to_scale() -> None:
    """A body of 60 x 120 mm, in voxels of 1 x 3 mm."""
    image = np.full((1, 60, 40, 3), 40, np.float32)
    affine = np.diag([1.0, 3.0, 5.0, 1.0])
    labels = Volume(np.ones_like(image, dtype=np.uint8), affine)
    pixels = open_picture(draw_thumbnail(Volume(image, affine), labels, {"a": [1]}, modality="CT").jpeg)
    assert pixels.shape[0] / pixels.shape[1] == pytest.approx(2.0, rel=0.02)


def test_the_bar_is_as_long_as_it_says() -> None:
    """A body of 60 x 120 mm without air fills the picture: a bar of 2 cm is a sixth of its longer edge."""
    image = np.full((1, 60, 40, 3), 40, np.float32)
    affine = np.diag([1.0, 3.0, 5.0, 1.0])
    labels = Volume(np.ones_like(image, dtype=np.uint8), affine)
    thumbnail = draw_thumbnail(Volume(image, affine), labels, {"a": [1]}, modality="CT")
    picture = embed_thumbnail(thumbnail, "a body")
    assert thumbnail.side_mm == pytest.approx(120)
    assert picture.bar_text == "2 cm"
    assert picture.bar_percent == pytest.approx(100 * 20 / 120, abs=0.001)


def test_every_picture_has_its_sides_and_its_bar(make_dataset: Make) -> None:
    _, html = render(make_dataset("a", "b", "c", broken="b"))
    tags = Page(html).tags
    letters = re.findall(r'<b class="side (\w+)">(\w)</b>', html)
    assert letters == [("left", "R"), ("right", "L"), ("top", "A"), ("bottom", "P")] * 2
    bars = [attributes["style"] for _, attributes in tags if attributes.get("class") == "bar"]
    assert len(bars) == 2
    assert all(0 < float(style.removeprefix("width: ").removesuffix("%")) <= 25 for style in bars)
    assert ".gallery .side.left { left: .3rem; }" in html


@pytest.mark.parametrize(
    ("shape", "letters", "ratio"),
    [
        ((1, 30, 20), "APSI", 20 * 5 / (30 * 3)),
        ((24, 1, 20), "RLSI", 20 * 5 / (24 * 2)),
        ((24, 30, 1), "RLAP", 90 / 48),
    ],
    ids=["sagittal", "coronal", "axial"],
)
def test_a_scan_of_one_slice_is_shown_as_that_slice(shape: Any, letters: str, ratio: float) -> None:
    """A bright quarter at the patient's right, in front and on top, as far as the slice has these: on the left of all, on top."""
    image = np.full((1, *shape), 20, np.float32)
    front = tuple(slice(n // 2, None) for n in shape)
    low = tuple(slice(n // 2) if n > 1 else slice(None) for n in shape)
    image[(0, *front)] = 200
    labels = np.zeros(image.shape, np.uint8)
    labels[(0, *low)] = 1
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    thumbnail = draw_thumbnail(Volume(image, affine), Volume(labels, affine), {"a": [1]}, modality="MR")
    picture = embed_thumbnail(thumbnail, "a slice")
    assert "".join(picture.sides) == letters
    pixels = open_picture(thumbnail.jpeg)
    assert pixels.shape[0] / pixels.shape[1] == pytest.approx(ratio, rel=0.03)
    grey = pixels[10:-10, 10:-10].mean(axis=-1)
    rows, columns = (n // 2 for n in grey.shape)
    bright = grey[:rows, :columns].mean()
    assert bright > 150
    assert all(part.mean() < 100 for part in (grey[:rows, columns:], grey[rows:, :columns], grey[rows:, columns:]))


def test_pictures_have_colours_and_no_sides(tmp_path: Path) -> None:
    """Red above blue; the side is known in pixels alone."""
    array = np.zeros((3, 40, 60, 1), np.uint8)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])  # as pictures are read: columns run to the left, rows down
    array[0, :, :30], array[2, :, 30:] = 250, 250
    labels = np.zeros((1, 40, 60, 1), np.uint8)
    labels[0, :, 28:32] = 1
    thumbnail = draw_thumbnail(Volume(array, affine), Volume(labels, affine), {"a": [1]}, modality="microscopy")
    pixels = open_picture(thumbnail.jpeg)
    rows = pixels.shape[0]
    assert pixels[rows // 10, pixels.shape[1] // 2] == pytest.approx((250, 0, 0), abs=12)
    assert pixels[-rows // 10, pixels.shape[1] // 2] == pytest.approx((0, 0, 250), abs=12)
    picture = embed_thumbnail(thumbnail, "a picture")
    assert (list(picture.sides), picture.bar_text) == ([], "10 px")
    sized = Volume(array, np.diag([-0.001, -0.001, 1.0, 1.0]))
    small = draw_thumbnail(sized, Volume(labels, sized.affine), {"a": [1]}, modality="photo")
    assert embed_thumbnail(small, "a picture").bar_text == "10 µm"
    grey = Volume(array[:1], affine)
    shades = open_picture(draw_thumbnail(grey, Volume(labels * 0, affine), {"a": [1]}, modality="microscopy").jpeg)
    assert np.ptp(shades, axis=-1).max() <= 2
    assert np.ptp(shades) > 240


def test_colours_of_16_bits_are_those_of_all_channels() -> None:
    """Bright green above blue half as bright, and nothing in the red."""
    array = np.zeros((3, 40, 60, 1), np.uint16)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    array[1, :, :30], array[2, :, 30:] = 60_000, 30_000
    labels = np.zeros((1, 40, 60, 1), np.uint8)
    labels[0, :, 28:32] = 1
    thumbnail = draw_thumbnail(Volume(array, affine), Volume(labels, affine), {"a": [1]}, modality="microscopy")
    pixels = open_picture(thumbnail.jpeg)
    rows, middle = pixels.shape[0], pixels.shape[1] // 2
    assert pixels[rows // 10, middle] == pytest.approx((0, 255, 0), abs=12)
    assert pixels[-rows // 10, middle] == pytest.approx((0, 0, 127), abs=12)
    scene = build_scene(Volume(array, affine), None, Volume(labels, affine), {"a": [1]}, modality="microscopy")
    assert scene.rgb is not None
    np.testing.assert_allclose(scene.rgb.max(axis=(0, 1, 2)), (0, 1, 0.5), atol=1e-3)


def test_the_page_of_pictures_names_no_sides() -> None:
    task = TASK.model_copy(update={"modality": "microscopy", "intensity": "zscore"})
    facts = CaseFacts(case_id="a")
    report = DatasetReport(dataset="d", layout="l", task=task.name, cases=(facts,), findings=())
    thumbnails = Thumbnails(task)
    image = Volume(np.zeros((3, 9, 8, 1), np.uint8), np.eye(4))
    thumbnails("a", image, Volume(np.ones((1, 9, 8, 1), np.uint8), np.eye(4)))
    html = render_dataset_page(report, task, thumbnails)
    assert 'class="side' not in html
    assert "the patient's right" not in Page(html).text
    assert "The pictures with the outlines of their labels." in html


def test_small_organs_are_shown_with_their_surroundings() -> None:
    """A gland of 20 mm in a body of 400 mm fills some of the picture."""
    image = np.full((1, 200, 200, 3), 0, np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[0, 30:40, 150:160, 1] = 1
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    pixels = open_picture(draw_thumbnail(Volume(image, affine), Volume(labels, affine), {"a": [1]}, modality="CT").jpeg)
    columns = ((pixels[..., 0] > 150) & (pixels[..., 2] < 100)).nonzero()[1]
    assert 0.2 < np.ptp(columns) / pixels.shape[1] < 0.5


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("value", [0.0, -1000.0, 1e6])
def test_constant_scans_without_labels_have_a_picture(value: float, modality: str) -> None:
    image = Volume(np.full((1, 9, 8, 1), value, np.float32), np.eye(4))
    empty = Volume(np.zeros((1, 9, 8, 1), np.uint8), np.eye(4))
    pixels = open_picture(draw_thumbnail(image, empty, {"a": [1]}, modality=modality).jpeg)
    assert pixels.shape[0] / pixels.shape[1] == pytest.approx(8 / 9, rel=0.02)


def test_a_ct_that_is_not_in_hu_is_not_black() -> None:
    image = np.random.default_rng(0).random((1, 30, 30, 3)).astype(np.float32)
    empty = Volume(np.zeros(image.shape, np.uint8), np.eye(4))
    pixels = open_picture(draw_thumbnail(Volume(image, np.eye(4)), empty, {"a": [1]}, modality="CT").jpeg)
    assert pixels.max() - pixels.min() > 200


def test_pictures_are_embedded_as_jpeg(make_dataset: Make) -> None:
    _, html = render(make_dataset("a", "b"))
    pictures = [source for source in Page(html).list_images() if source.startswith("data:image/jpeg;base64,")]
    assert len(pictures) == 2
    for source in pictures:
        assert open_picture(base64.b64decode(source.split(",")[1])).shape[2] == 3
