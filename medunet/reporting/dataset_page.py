"""The dataset doctor's page: findings, distributions, labels and a picture per case, in one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medunet.checking import SEVERITIES, CaseFacts, DatasetReport, Finding, Severity
from medunet.reporting.dataset_charts import draw_charts
from medunet.reporting.page import UNDEFINED, Cell, Picture, Section, Table, Tone, number_cell, render_page
from medunet.reporting.palette import get_label_colours, to_hex
from medunet.reporting.score_cells import label_cell
from medunet.reporting.thumbnail import Thumbnail, describe_thumbnails, draw_thumbnail, embed_thumbnail
from medunet.reporting.window import get_task_window
from medunet.tasks import Task
from medunet.volume import Volume

MAX_PICTURES = 200
"""Pictures on one page: with 30 kB each it stays below 10 MB."""
_TONES: dict[Severity, Tone] = {"error": "bad", "warning": "warning", "note": "plain"}
_SECTIONS = (
    Section(anchor="findings", title="Findings"),
    Section(anchor="distributions", title="Distributions"),
    Section(anchor="labels", title="Labels"),
    Section(anchor="pictures", title="Pictures"),
    Section(anchor="cases", title="Cases"),
)


class Thumbnails:
    """Small pictures, drawn while `medunet.checking.check_dataset` has a case in memory: its ``on_volumes``."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._pictures: dict[str, Thumbnail] = {}

    def __call__(self, case_id: str, image: Volume, label_map: Volume) -> None:
        """Draw one case; from any thread."""
        self._pictures[case_id] = draw_thumbnail(
            image,
            label_map,
            self._task.labels,
            modality=self._task.modality,
            window=get_task_window(self._task),
        )  # one assignment, which threads do not split

    def get(self, case_id: str) -> Thumbnail | None:
        """The picture of a case; None where it could not be read."""
        return self._pictures.get(case_id)


@dataclass(frozen=True, kw_only=True)
class _CasePicture:
    """One case among the pictures.

    Attributes:
        picture: None where the case could not be read.
        case_id: Below it.
        facts: One line: grid and spacing.
        findings: What is to be said of the case: tone and text.
    """

    picture: Picture | None
    case_id: str
    facts: str
    findings: list[tuple[Tone, str]]


def render_dataset_page(report: DatasetReport, task: Task, thumbnails: Thumbnails) -> str:
    """The page as HTML: one file without any reference to another; it prints well.

    Args:
        report: What was measured and found.
        task: Of the report.
        thumbnails: Filled by `medunet.checking.check_dataset`. With more than `MAX_PICTURES` cases, those with errors,
            warnings and notes come before the others.
    """
    chosen = _choose_cases(report)
    colours = get_label_colours(task.labels)
    return render_page(
        "dataset.html",
        title=f"Dataset {report.dataset}",
        sections=_SECTIONS,
        report=report,
        numbers=[
            (str(len(report.cases)), "cases"),
            *((str(report.count(severity)), f"{severity}s") for severity in SEVERITIES),
        ],
        task=task,
        findings=_build_findings(report),
        charts=draw_charts(report, task),
        labels=_build_labels(report, task),
        legend=[(label, to_hex(colours[label])) for label in task.labels],
        caption=describe_thumbnails(task.modality),
        pictures=[_build_picture(facts, report, thumbnails) for facts in chosen],
        cases=_build_cases(report, task),
    )


def _choose_cases(report: DatasetReport) -> list[CaseFacts]:
    """At most `MAX_PICTURES` cases in the order of the dataset, those with the worst findings before the others."""

    def rank(facts: CaseFacts) -> int:
        found = [SEVERITIES.index(finding.severity) for finding in report.list_findings(facts.case_id)]
        return min(found, default=len(SEVERITIES))

    ranked = sorted(report.cases, key=rank)[:MAX_PICTURES]
    ids = {facts.case_id for facts in ranked}
    return [facts for facts in report.cases if facts.case_id in ids]


def _build_findings(report: DatasetReport) -> Table:
    return Table(
        headings=("Severity", "Case", "About", "What was found, what was expected, what to do"),
        rows=[
            (
                Cell(text=finding.severity, order=SEVERITIES.index(finding.severity), tone=_TONES[finding.severity]),
                Cell(text=_name_cases(finding), order=finding.case_id or ""),
                finding.topic,
                finding.text,
            )
            for finding in report.findings
        ],
        caption="error: training would fail. warning: training would learn something wrong. note: worth a look.",
    )


def _name_cases(finding: Finding) -> str:
    return finding.case_id or (f"{len(finding.case_ids)} cases" if finding.case_ids else "dataset")


def _build_labels(report: DatasetReport, task: Task) -> Table:
    rows: list[Sequence[Cell | str]] = []
    colours = get_label_colours(task.labels)
    for label, values in task.labels.items():
        held = [facts.labels[label] for facts in report.cases if label in facts.labels]
        volumes = [facts.volume_ml for facts in held]
        statistics = (float(np.median(volumes)), min(volumes), max(volumes)) if volumes else (None,) * 3
        rows.append(
            (
                label_cell(label, colours),
                ", ".join(map(str, values)),
                Cell(text=f"{len(held)} of {report.num_usable}", order=len(held), tone="plain" if held else "warning"),
                *(_volume_cell(ml) for ml in statistics),
                number_cell(sum(facts.num_islands > 0 for facts in held), 0),
                number_cell(sum(bool(facts.borders) for facts in held), 0),
            )
        )
    return Table(
        headings=(
            "Label",
            "Values",
            "Cases",
            "Median ml",
            "Smallest ml",
            "Largest ml",
            "With islands",
            "At the border",
        ),
        rows=rows,
        numeric=(2, 3, 4, 5, 6, 7),
        caption="With islands, at the border: cases in which the label has parts of a few voxels, or touches the edge of "
        "the image. Cases that cannot be read are not counted.",
    )


def _build_picture(facts: CaseFacts, report: DatasetReport, thumbnails: Thumbnails) -> _CasePicture:
    thumbnail = thumbnails.get(facts.case_id)
    picture = None
    if thumbnail is not None:
        picture = embed_thumbnail(thumbnail, f"Labels of case {facts.case_id}")
    return _CasePicture(
        picture=picture,
        case_id=facts.case_id,
        facts=describe_grid_facts(facts),
        findings=[(_TONES[finding.severity], _shorten(finding)) for finding in report.list_findings(facts.case_id)],
    )


def _shorten(finding: Finding) -> str:
    about = f" ({finding.label})" if finding.label else ""
    return f"{finding.severity}: {finding.topic}{about}"


def describe_grid_facts(facts: CaseFacts) -> str:
    """Shape, spacing and orientation as stored, such as ``128 x 128 x 60, 0.98 x 0.98 x 3 mm, LPS``."""
    if facts.grid is None:
        return UNDEFINED
    shape = " × ".join(map(str, facts.grid.shape))
    spacing = " × ".join(f"{mm:.3g}" for mm in facts.grid.spacing)
    return f"{shape}, {spacing} mm, {facts.grid.orientation}"


def _build_cases(report: DatasetReport, task: Task) -> Table:
    headings = ("Case", "Shape", "mm", "Axes", "Intensity", *(f"{label} ml" for label in task.labels))
    return Table(
        headings=headings,
        rows=[_build_case_row(facts, task) for facts in report.cases],
        numeric=range(5, len(headings)),
        caption="Shape, mm and axes as stored. Intensity from the 0.5th to the 99.5th percentile, per channel.",
    )


def _build_case_row(facts: CaseFacts, task: Task) -> Sequence[Cell | str]:
    grid = facts.grid
    shape, spacing, axes = UNDEFINED, UNDEFINED, UNDEFINED
    if grid is not None:
        shape = " × ".join(map(str, grid.shape))
        spacing = " × ".join(f"{mm:.3g}" for mm in grid.spacing)
        axes = grid.orientation
    ranges = [f"{channel.percentile_00_5:.4g} to {channel.percentile_99_5:.4g}" for channel in facts.channels]
    name = Cell(text=facts.case_id, order=facts.case_id, tone="plain" if facts.is_usable else "bad")
    volumes = [_volume_cell(facts.labels[label].volume_ml if label in facts.labels else None) for label in task.labels]
    return (name, shape, spacing, axes, "; ".join(ranges) or UNDEFINED, *volumes)


def _volume_cell(volume_ml: float | None) -> Cell:
    return Cell(text=UNDEFINED if volume_ml is None else f"{volume_ml:.3g}", order=volume_ml)
