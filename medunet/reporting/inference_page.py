"""The page of ``medunet infer``: every scan with its mask, volumes and what is unlike training, flagged scans first.

Scans are added while others are still computed. Their pictures wait in a nameless file on the disk of the page and are put
into it one after the other, so that memory does not grow with the number of scans.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from markupsafe import Markup

from medunet.io.atomic import open_scratch
from medunet.models import SYNTHETIC_WARNING, ModelRecords
from medunet.postprocessing import AgreementCounts, PredictedDice, compute_agreement, predict_dice
from medunet.reporting.evaluation_page import describe_software
from medunet.reporting.page import UNDEFINED, Cell, Picture, Section, Table, Tone, embed_jpeg, number_cell, write_page
from medunet.reporting.palette import get_label_colours, to_hex
from medunet.reporting.scan_pictures import ScanPictures
from medunet.reporting.score_cells import label_cell
from medunet.reporting.thumbnail import Thumbnail, describe_thumbnails, embed_thumbnail

if TYPE_CHECKING:
    from medunet.inference.manifest import Manifest

Fact = tuple[str, str]
Rows = list[Sequence[Cell | str]]

MAX_PICTURES = 60
"""Scans with three planes on one page, some 150 kB each: about 10 MB."""
MAX_THUMBNAILS = 300
"""Scans with a small picture, at most 30 kB each."""
MAX_VIEWERS = 20
"""Scans that can be turned over in the viewer, at most 1 MiB each."""
_MAX_OPEN = 3
_MAX_LABEL_COLUMNS = 8
_FLAG_MEANINGS = {
    "spacing": ("voxels are larger or smaller than in training", "expect blurred or missed edges"),
    "field-of-view": (
        "the scan is longer or shorter than in training",
        "look for false finds far from the organ, or organs that are not there",
    ),
    "intensity": (
        "brightness or contrast is not that of training",
        "wrong series or phase? channels swapped? HU stored without their offset?",
    ),
    "missing": (
        "nothing was found of a structure that every training case holds",
        "was it removed, or is it outside the scan? Else the mask is wrong",
    ),
    "cut": ("a structure touches the border of the scan", "its volume is not known"),
    "volume": ("a structure is larger or smaller than in training", "disease, or a mask that leaks or misses a part"),
    "num-parts": (
        "a structure is in more or fewer pieces than in training",
        "look for a second piece far away, or a paired organ without its other side",
    ),
    "position": ("a structure is elsewhere in the body than in training", "sides or ends mixed up? another organ?"),
    "predicted-dice": (
        "mirrored passes disagree as they do where masks are poor",
        "correct the mask, or do not use it",
    ),
}
"""Code -> what it means, what to do; in full in docs/quality-flags.md."""
_STAGES = {
    "read": "reading",
    "locate": "finding the structures",
    "prepare": "preprocessing",
    "network": "network",
    "low": "first network of the cascade",
    "restore": "back to the scan's voxels",
    "postprocess": "post-processing",
    "flags": "comparing with training",
    "maps": "maps",
    "objects": "telling objects apart",
    "write": "writing",
}


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """What became of one scan.

    Attributes:
        name: Of the scan, without its path.
        mask: Name of the file; empty where there is none.
        manifest: What was done; None where it failed.
        predicted: Label -> the Dice that its mask may have; labels of which nothing can be said are missing.
        error: What went wrong; empty where nothing did.
        remark: What is to be said of the pictures.
    """

    name: str
    mask: str = ""
    manifest: Manifest | None = None
    predicted: Mapping[str, PredictedDice] = field(default_factory=dict)
    error: str = ""
    remark: str = ""

    @property
    def flags(self) -> Sequence[Mapping[str, Any]]:
        """What is unlike training."""
        return [] if self.manifest is None else self.manifest.flags


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """Where pictures wait: first byte and number of bytes; and the small one without its bytes."""

    viewer: tuple[int, int]
    overlay: tuple[int, int]
    thumbnail: tuple[int, int]
    small: Thumbnail


@dataclass(frozen=True, kw_only=True)
class _ScanPart:
    """One scan on the page.

    Attributes:
        anchor: Id on the page.
        result: The scan.
        is_open: Whether its part is unfolded.
        tone: Of its flags.
        state: In a few words.
        load_overlay: Reads the large picture; None where it is not shown.
        load_thumbnail: Reads the small one; None likewise.
        load_viewer: Reads the viewer; None likewise.
        table: Labels with volumes.
        flags: Table of flags; None without one.
        facts: Time, device, remarks of the reader.
    """

    anchor: str
    result: ScanResult
    is_open: bool
    tone: Tone
    state: str
    load_overlay: Callable[[], Picture] | None
    load_thumbnail: Callable[[], Picture] | None
    load_viewer: Callable[[], Markup] | None
    table: Table | None
    flags: Table | None
    facts: list[Fact]


class InferenceReport:
    """Collects scans from any thread, then writes the page; a context manager, which gives up what was not written.

    Args:
        path: The HTML file.
        records: Of the model.

    Raises:
        OutputError: If nothing can be written beside ``path``.
    """

    def __init__(self, path: Path, records: ModelRecords) -> None:
        self.path = path
        self._records = records
        self._lock = threading.Lock()
        self._results: list[tuple[ScanResult, _Stored | None]] = []
        self._stack = ExitStack()
        self._file: BinaryIO = self._stack.enter_context(open_scratch(path))

    def __enter__(self) -> InferenceReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, result: ScanResult, pictures: ScanPictures | None = None) -> None:
        """Take a scan that is finished, or has failed.

        Raises:
            OSError: If there is no room for its pictures.
        """
        with self._lock:
            stored = None
            if pictures is not None:
                stored = _Stored(
                    viewer=self._append(pictures.viewer.encode()),
                    overlay=self._append(pictures.overlay),
                    thumbnail=self._append(pictures.thumbnail.jpeg),
                    small=replace(pictures.thumbnail, jpeg=b""),
                )
            self._results.append((result, stored))

    def write(self, *, order: Sequence[str] = ()) -> Path:
        """Write the page, whole or not at all: failed scans first, then flagged ones, then the others.

        Args:
            order: Names of the scans; those of one kind stand in this order. Others come last.

        Returns:
            The page.

        Raises:
            OutputError: If it cannot be written.
        """
        places = {name: place for place, name in enumerate(order)}
        ranked = sorted(self._results, key=lambda entry: (_rank(entry[0]), places.get(entry[0].name, len(places))))
        parts = list(self._build_parts(ranked))
        results = [result for result, _ in ranked]
        records = self._records
        num_failed = sum(bool(result.error) for result in results)
        num_flagged = sum(bool(result.flags) for result in results)
        write_page(
            self.path,
            "inference.html",
            title=f"{records.task.title}: {_count(len(results), 'scan')}",
            sections=_list_sections(parts),
            numbers=[
                (str(len(results)), "scans" if len(results) != 1 else "scan"),
                (str(num_flagged), "unlike training"),
                (str(num_failed), "failed"),
            ],
            notices=self._list_notices(num_failed, num_flagged),
            legend=[(name, to_hex(colour)) for name, colour in get_label_colours(records.task.labels).items()],
            overview=self._build_overview(parts),
            caption=describe_thumbnails(records.task.modality),
            parts=parts,
            meanings=_build_meanings(results),
            num_pictures=sum(part.load_overlay is not None for part in parts),
            with_viewer=any(part.load_viewer is not None for part in parts),
            model=self._describe_model(),
        )
        return self.path

    def _append(self, content: bytes) -> tuple[int, int]:
        start = self._file.seek(0, 2)
        self._file.write(content)
        return start, len(content)

    def _read(self, place: tuple[int, int]) -> bytes:
        self._file.seek(place[0])
        return self._file.read(place[1])

    def _build_parts(self, ranked: Sequence[tuple[ScanResult, _Stored | None]]) -> Iterator[_ScanPart]:
        num_overlays = num_thumbnails = num_viewers = 0
        for number, (result, stored) in enumerate(ranked, start=1):
            load_overlay = load_thumbnail = load_viewer = None
            if stored is not None and stored.viewer[1] > 0 and num_viewers < MAX_VIEWERS:
                num_viewers += 1
                load_viewer = partial(self._load_viewer, stored)
            if stored is not None and num_overlays < MAX_PICTURES:
                num_overlays += 1
                load_overlay = partial(self._load_overlay, stored, f"{result.name}: contours of the mask")
            if stored is not None and num_thumbnails < MAX_THUMBNAILS:
                num_thumbnails += 1
                load_thumbnail = partial(self._load_thumbnail, stored, f"{result.name}: mask in small")
            yield _ScanPart(
                anchor=f"scan-{number}",
                result=result,
                is_open=len(ranked) <= _MAX_OPEN or (bool(result.flags) and num_overlays <= _MAX_OPEN),
                tone=_choose_tone(result),
                state=_describe_state(result),
                load_overlay=load_overlay,
                load_thumbnail=load_thumbnail,
                load_viewer=load_viewer,
                table=self._build_table(result),
                flags=_build_flags(result),
                facts=_list_facts(result),
            )

    def _load_overlay(self, stored: _Stored, description: str) -> Picture:
        return Picture(source=embed_jpeg(self._read(stored.overlay)), description=description)

    def _load_viewer(self, stored: _Stored) -> Markup:
        return Markup(self._read(stored.viewer).decode())  # a template of ours made it, and escaped what is not

    def _load_thumbnail(self, stored: _Stored, description: str) -> Picture:
        return embed_thumbnail(replace(stored.small, jpeg=self._read(stored.thumbnail)), description)

    def _build_table(self, result: ScanResult) -> Table | None:
        """A row per label: its volume, what training saw, and the Dice that its mask may have."""
        if result.manifest is None:
            return None
        colours = get_label_colours(self._records.task.labels)
        has_prediction = bool(result.predicted)
        rows: Rows = []
        for name, volume in result.manifest.volumes.items():
            rows.append(
                [
                    label_cell(name, colours),
                    _volume_cell(volume),
                    self._training_cell(name),
                    *([_predicted_cell(result.predicted.get(name))] if has_prediction else []),
                    self._validation_cell(name),
                ]
            )
        return Table(
            headings=[
                "label",
                "volume ml",
                "in training, 5 % to 95 %",
                *(["predicted Dice"] if has_prediction else []),
                "Dice in validation (cases)",
            ],
            rows=rows,
            numeric=range(1, 5),
            caption="Predicted from the agreement of the networks or mirrored passes; 19 of 20 masks lie in the interval or "
            "above it."
            if has_prediction
            else "",
        )

    def _training_cell(self, label: str) -> Cell:
        quality = self._records.quality
        found = None if quality is None or label not in quality.labels else quality.labels[label].volume_ml
        if found is None:
            return Cell(text=UNDEFINED)
        return Cell(text=f"{found.percentile_05:.4g}–{found.percentile_95:.4g}", order=found.percentile_05)

    def _validation_cell(self, label: str) -> Cell:
        of_label = self._records.metrics.get("labels", {}).get(label, {})
        mean, num_scored = of_label.get("mean"), of_label.get("num_scored")
        if mean is None or num_scored is None:
            return number_cell(mean)
        return Cell(text=f"{mean:.3f} ({num_scored})", order=mean)

    def _build_overview(self, parts: Sequence[_ScanPart]) -> Table:
        labels = list(self._records.task.labels)
        shown = labels if len(labels) <= _MAX_LABEL_COLUMNS else []
        rows: Rows = []
        for part in parts:
            volumes = {} if part.result.manifest is None else part.result.manifest.volumes
            found = sum(volume["visible_ml"] > 0 for volume in volumes.values())
            seconds = None if part.result.manifest is None else sum(part.result.manifest.seconds.values())
            rows.append(
                [
                    Cell(text=part.result.name, order=part.result.name, anchor=part.anchor),
                    Cell(text=part.state, order=_rank(part.result), tone=part.tone),
                    *([_volume_cell(volumes.get(name)) for name in shown] if shown else [number_cell(found, 0)]),
                    number_cell(seconds, 1),
                ]
            )
        return Table(
            headings=[
                "scan",
                "state",
                *([f"{name} ml" for name in shown] if shown else ["structures found"]),
                "seconds",
            ],
            rows=rows,
            numeric=range(2, 4 + len(shown)),
        )

    def _list_notices(self, num_failed: int, num_flagged: int) -> list[tuple[str, Tone]]:
        notices: list[tuple[str, Tone]] = []
        if self._records.training.is_synthetic:
            notices.append((SYNTHETIC_WARNING, "warning"))
        if num_failed:
            notices.append((f"{_count(num_failed, 'scan')} failed and {_have(num_failed)} no mask.", "bad"))
        if num_flagged:
            notices.append(
                (f"Look at {_count(num_flagged, 'scan')} before the masks are used: unlike training.", "warning")
            )
        return notices

    def _describe_model(self) -> list[Fact]:
        records = self._records
        training, network = records.training, records.plan.network
        mean = records.metrics.get("mean_dice")
        validated = records.metrics.get("num_cases")
        return [
            ("model", records.folder.resolve().name),
            ("task", f"{records.task.name} ({records.task.modality}): {', '.join(records.task.labels)}"),
            ("learnt from", f"{training.dataset}, {_count(len(training.training_cases), 'case')}"),
            (
                "validation",
                f"mean Dice {mean:.3f} in {_count(validated, 'case')}" if validated and mean is not None else "none",
            ),
            (
                "network",
                f"{network.spatial_dims}D {network.architecture}, voxels of "
                f"{' × '.join(f'{mm:.3g}' for mm in records.plan.spacing)} mm",
            ),
            ("trained", f"{training.created[:10]}, {training.num_iterations:,} iterations"),
            ("weights, SHA-256", training.weights_sha256 or UNDEFINED),
            *describe_software(),
        ]


def predict_dices(agreement: AgreementCounts | None, records: ModelRecords) -> dict[str, PredictedDice]:
    """The Dice that the mask of every label may have, where validation could learn how it follows from agreement.

    Args:
        agreement: Of the members for this mask; None predicts nothing.
        records: Of the model.
    """
    if agreement is None or records.quality is None:
        return {}
    found = {}
    for name, value in compute_agreement(agreement).items():
        ranges = records.quality.labels.get(name)
        calibration = None if ranges is None else ranges.dice_calibration
        if calibration is None or calibration.members != agreement.members:
            continue
        if (predicted := predict_dice(calibration, value)) is not None:
            found[name] = predicted
    return found


def _rank(result: ScanResult) -> int:
    return 0 if result.error else 1 if result.flags else 2


def _choose_tone(result: ScanResult) -> Tone:
    return "bad" if result.error else "warning" if result.flags else "good"


def _describe_state(result: ScanResult) -> str:
    if result.error:
        return "failed"
    return _count(len(result.flags), "flag") if result.flags else "nothing unusual"


def _volume_cell(volume: Mapping[str, Any] | None) -> Cell:
    """Millilitres; "at least" where the scan cuts the structure."""
    if volume is None:
        return Cell(text=UNDEFINED)
    seen: float = volume["visible_ml"]
    text = f"{seen:.1f}" if seen >= 1 else f"{seen:.3g}"
    if volume["volume_ml"] is None:
        return Cell(text=f"≥ {text}, cut", order=seen, tone="warning")
    return Cell(text=text, order=seen, tone="plain" if seen else "faint")


def _predicted_cell(predicted: PredictedDice | None) -> Cell:
    if predicted is None:
        return Cell(text=UNDEFINED)
    return Cell(text=f"{predicted.value:.2f} ({predicted.low:.2f}–{predicted.high:.2f})", order=predicted.value)


def _build_flags(result: ScanResult) -> Table | None:
    rows: Rows = [
        [
            Cell(text=str(flag["code"]), tone="warning"),
            flag["label"] or "scan",
            flag["message"],
            _FLAG_MEANINGS.get(flag["code"], ("", UNDEFINED))[1],
        ]
        for flag in result.flags
    ]
    return Table(headings=["flag", "about", "what was found", "what to do"], rows=rows) if rows else None


def _build_meanings(results: Sequence[ScanResult]) -> Table | None:
    """What the flags on the page mean."""
    codes = dict.fromkeys(flag["code"] for result in results for flag in result.flags)
    rows: Rows = [[code, *_FLAG_MEANINGS[code]] for code in codes if code in _FLAG_MEANINGS]
    return Table(headings=["flag", "means", "what to do"], rows=rows) if rows else None


def _list_facts(result: ScanResult) -> list[Fact]:
    if result.manifest is None:
        return []
    manifest = result.manifest
    seconds = ", ".join(f"{_STAGES.get(stage, stage)} {value:.2f} s" for stage, value in manifest.seconds.items())
    files = ", ".join(manifest.scan)
    return [
        ("scan", files),
        *([("mask", result.mask)] if result.mask else []),
        ("time", f"{sum(manifest.seconds.values()):.1f} s: {seconds}"),
        *([("computed by", manifest.computed_by)] if manifest.computed_by else []),
        ("made", manifest.created),
        *[("remark of the reader", note) for note in manifest.notes],
        *[("warning", text) for text in manifest.warnings],
    ]


def _list_sections(parts: Sequence[_ScanPart]) -> list[Section]:
    sections = [Section(anchor="overview", title="Overview")]
    if parts:
        sections.append(Section(anchor="scans", title="Scans"))
    return [*sections, Section(anchor="reading", title="How to read it"), Section(anchor="model", title="Model")]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _have(number: int) -> str:
    return "has" if number == 1 else "have"
