"""The page of an evaluation: how good masks are, on which labels and cases they fail, and how that looks."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as get_version
from pathlib import Path
from typing import Any

from medunet.evaluation import (
    METRICS,
    Evaluation,
    LabelMetrics,
    LabelScore,
    MetricSettings,
    MetricSummary,
    give_advice,
    summarize_instances,
    summarize_metrics,
)
from medunet.evaluation.cohort import OnCase
from medunet.evaluation.sides import SideOptions
from medunet.io import write_text_atomic
from medunet.reporting.case_pictures import CasePicture, describe_planes, draw_evaluated_cases
from medunet.reporting.page import (
    UNDEFINED,
    Cell,
    Picture,
    Section,
    Table,
    Tone,
    embed_jpeg,
    number_cell,
    render_page,
)
from medunet.reporting.palette import Colour, get_label_colours, to_hex
from medunet.reporting.score_cells import (
    POOR_DICE,
    SUMMARY_HEADINGS,
    build_empty_sides_table,
    build_summary_cells,
    count_cell,
    label_cell,
    metric_cell,
    score_cell,
)
from medunet.reporting.score_charts import draw_metric
from medunet.reporting.score_table import say_agreement
from medunet.reporting.view import View
from medunet.tasks import Task, load_task

Fact = tuple[str, str]
Rows = list[Sequence[Cell | str]]

SHOWN_METRICS = ("dice", "nsd", "hd95_mm")
MAX_LABEL_COLUMNS = 12
MAX_ROWS = 2000
"""Of one table: some 500 kB."""
_CASE_METRICS = ("dice", "nsd", "hd95_mm", "assd_mm", "volume_error_ml")
_SECTIONS = {
    "labels": "Labels",
    "cases_shown": "Cases to look at",
    "cases": "Every case",
    "failed": "Not scored",
    "instances": "Instances",
    "reading": "How to read it",
    "everything": "Every metric",
    "made": "How it was made",
}


@dataclass(frozen=True, kw_only=True)
class MetricPart:
    """One metric of all labels.

    Attributes:
        title: Of the metric.
        chart: Box plots; None without a value.
        table: A row per label.
    """

    title: str
    chart: Picture | None
    table: Table


@dataclass(frozen=True, kw_only=True)
class CasePart:
    """One case with its pictures and numbers.

    Attributes:
        anchor: Id on the page.
        case_id: The case.
        role: Why it is shown.
        overlay: Contours; None where the case could not be drawn.
        errors: Where the mask is wrong; None where it was not drawn.
        remark: What is to be said of the pictures.
        view: For the viewer; None shows none.
        table: Its scores, a row per label.
    """

    anchor: str
    case_id: str
    role: str
    overlay: Picture | None
    errors: Picture | None
    remark: str
    view: View | None
    table: Table


def write_evaluation_page(
    evaluation: Evaluation,
    path: Path | str,
    *,
    task: Task | str | None = None,
    images: Path | str | None = None,
    options: SideOptions | None = None,
    settings: MetricSettings | None = None,
    sources: Mapping[str, str] | None = None,
    title: str = "",
    on_case: OnCase | None = None,
) -> Path:
    """Write the page of an evaluation with pictures of its worst cases, the median one and the best, whole or not at all.

    Args:
        evaluation: From `medunet.evaluate`; files are read once more for the pictures.
        path: The HTML file.
        task: As given to `medunet.evaluate`.
        images: Scan, or folder of scans named after the cases, which lie below the contours.
        options: How the sides were read, where `task` and `images` do not say all.
        settings: As given to `medunet.evaluate`.
        sources: As `build_evaluation_page`.
        title: As `build_evaluation_page`.
        on_case: Told of every case when it is drawn.

    Returns:
        The page.

    Raises:
        OutputError: If the page cannot be written.

    Example:
        >>> scores = medunet.evaluate("masks/", "labels/", task="spleen-ct")  # doctest: +SKIP
        >>> write_evaluation_page(scores, "scores.html", task="spleen-ct", images="scans/")  # doctest: +SKIP
    """
    path = Path(path)
    task = load_task(task) if isinstance(task, str) else task
    images = None if images is None else Path(images)
    options = options or SideOptions(task=task, images=images)
    pictures = draw_evaluated_cases(evaluation, options, images=images, on_case=on_case)
    page = build_evaluation_page(
        evaluation, title=title, task=task, settings=settings, pictures=pictures, sources=sources
    )
    write_text_atomic(path, page)
    return path


def build_evaluation_page(
    evaluation: Evaluation,
    *,
    title: str = "",
    task: Task | None = None,
    settings: MetricSettings | None = None,
    pictures: Sequence[CasePicture] = (),
    sources: Mapping[str, str] | None = None,
) -> str:
    """The page as HTML: one file that needs no network.

    Args:
        evaluation: What was scored; it may hold no case.
        title: Of the page; default: of the task.
        task: Named on the page.
        settings: Named on the page.
        pictures: From `medunet.reporting.case_pictures.draw_evaluated_cases`.
        sources: What else is to be said of where the masks come from: name -> text, without paths.
    """
    labels = list_labels(evaluation)
    colours = get_label_colours(labels)
    anchors = {picture.case_id: f"case-{number}" for number, picture in enumerate(pictures, start=1)}
    summaries = summarize_metrics(evaluation.scores)
    measured = [name for name in METRICS if any(summary.metric == name for summary in summaries)]
    parts: dict[str, Any] = {
        "labels": [
            _build_metric_part(evaluation.scores, summaries, name, labels, anchors)
            for name in SHOWN_METRICS
            if name in measured
        ],
        "cases_shown": [_build_case_part(picture, evaluation, anchors, colours) for picture in pictures],
        "cases": _build_case_table(evaluation, labels, anchors),
        "failed": _build_failure_table(evaluation),
        "instances": _build_instance_table(evaluation, colours, task),
        "reading": True,
        "everything": _build_full_table(summaries, colours, anchors),
        "made": _describe_making(evaluation, task, settings, sources or {}),
    }
    return render_page(
        "evaluation.html",
        title=title or (f"{task.title}: evaluation" if task else "Evaluation"),
        sections=[Section(anchor=anchor, title=text) for anchor, text in _SECTIONS.items() if parts[anchor]],
        numbers=_list_numbers(evaluation),
        notices=_list_notices(evaluation, pictures),
        advice=give_advice(evaluation),
        rules=build_empty_sides_table(measured),
        rows=_build_row_table(evaluation, colours),
        legend=[(name, to_hex(colour)) for name, colour in colours.items()],
        num_cases=_count_cases(evaluation),
        has_objects=_has_objects(task),
        planes=describe_planes(task),
        error_map=any(picture.error_map is not None for picture in pictures),
        with_viewer=any(picture.view is not None for picture in pictures),
        **parts,
    )


def list_labels(evaluation: Evaluation) -> list[str]:
    """All labels in the order of the task or of their values: a label keeps its colour in every picture."""
    if evaluation.label_values is not None:
        return list(evaluation.label_values)
    return list(dict.fromkeys(score.label for score in evaluation.scores))


# ---- the head of the page ------------------------------------------------------------------------------------------------


def _list_numbers(evaluation: Evaluation) -> list[Fact]:
    missed, invented = (sum(score.status == status for score in evaluation.scores) for status in ("missed", "invented"))
    mean = evaluation.mean_dice
    return [
        (UNDEFINED if mean is None else f"{mean:.3f}", "mean Dice"),
        (str(evaluation.num_scored_cases), "cases scored"),
        (str(len(list_labels(evaluation))), "labels"),
        (str(missed), "structures missed"),
        (str(invented), "structures invented"),
    ]


def _count_cases(evaluation: Evaluation) -> int:
    return len({score.case_id for score in evaluation.scores})


def _list_notices(evaluation: Evaluation, pictures: Sequence[CasePicture]) -> list[tuple[str, Tone]]:
    notices: list[tuple[str, Tone]] = []
    if evaluation.failures:
        notices.append((f"{len(evaluation.failures)} case(s) could not be scored and are in no mean.", "bad"))
    if evaluation.unmatched:
        notices.append((f"{len(evaluation.unmatched)} file(s) have no partner and are in no mean.", "warning"))
    if not evaluation.scores:
        notices.append(("No case was scored: no number on this page says how good the masks are.", "warning"))
    elif evaluation.mean_dice is None:
        notices.append(("No reference and no mask holds any label, so there is nothing to score.", "warning"))
    poor = [row.label for row in evaluation.summaries if row.mean is not None and row.mean < POOR_DICE]
    if poor:
        notices.append((f"Mean Dice below {POOR_DICE}: {', '.join(poor)}.", "bad"))
    return notices


# ---- labels --------------------------------------------------------------------------------------------------------------


def _build_metric_part(
    scores: Sequence[LabelScore],
    summaries: Sequence[MetricSummary],
    metric: str,
    labels: Sequence[str],
    anchors: dict[str, str],
) -> MetricPart:
    colours = get_label_colours(labels)
    of_metric = [summary for summary in summaries if summary.metric == metric]
    rows: Rows = [[label_cell(summary.label, colours), *build_summary_cells(summary, anchors)] for summary in of_metric]
    means = [summary.mean for summary in of_metric if summary.mean is not None]
    lost = [sum(getattr(summary, name) for summary in of_metric) for name in ("num_missed", "num_invented")]
    scored = {score.case_id for score in scores if getattr(score, metric, None) is not None}
    footer: Rows = [
        [
            "mean over labels",
            metric_cell(metric, sum(means) / len(means) if means else None),
            *[Cell(text="")] * 3,
            count_cell(len(scored)),
            *(count_cell(number, is_fault=True) for number in lost),
            count_cell(len({score.case_id for score in scores} - scored)),
            Cell(text=""),
        ]
    ]
    return MetricPart(
        title=METRICS[metric].title,
        chart=draw_metric(scores, metric, labels),
        table=Table(
            headings=["label", *SUMMARY_HEADINGS],
            rows=rows,
            numeric=range(1, 9),
            footer=footer if len(rows) > 1 else (),
            caption="In the last line, cases are those of which a label was scored." if len(rows) > 1 else "",
        ),
    )


def _build_full_table(
    summaries: Sequence[MetricSummary], colours: Mapping[str, Colour], anchors: dict[str, str]
) -> Table | None:
    rows: Rows = [
        [
            label_cell(summary.label, colours),
            METRICS[summary.metric].title,
            *build_summary_cells(summary, anchors),
        ]
        for summary in summaries
    ]
    hidden = len(rows) - MAX_ROWS
    return (
        Table(
            headings=["label", "metric", *SUMMARY_HEADINGS],
            rows=rows[:MAX_ROWS],
            numeric=range(2, 10),
            caption=f"{hidden} more rows are in the JSON file." if hidden > 0 else "",
        )
        if rows
        else None
    )


# ---- cases ---------------------------------------------------------------------------------------------------------------


def _build_case_part(
    picture: CasePicture, evaluation: Evaluation, anchors: Mapping[str, str], colours: Mapping[str, Colour]
) -> CasePart:
    about = f"Case {picture.case_id}, {picture.role}, mean Dice {picture.dice:.3f}"
    of_case = [score for score in evaluation.scores if score.case_id == picture.case_id]
    metrics = [name for name in _CASE_METRICS if of_case and hasattr(of_case[0], name)]
    rows: Rows = [
        [
            label_cell(score.label, colours),
            _status_cell(score),
            *(metric_cell(name, getattr(score, name)) for name in metrics),
            number_cell(score.reference_ml, 2),
            number_cell(score.prediction_ml, 2),
        ]
        for score in of_case
        if score.dice is not None
    ]
    return CasePart(
        anchor=anchors[picture.case_id],
        case_id=picture.case_id,
        role=f"{picture.role}, mean Dice {picture.dice:.3f}",
        overlay=None
        if picture.jpeg is None
        else Picture(source=embed_jpeg(picture.jpeg), description=f"{about}: contours of reference and mask"),
        errors=None
        if picture.error_map is None
        else Picture(source=embed_jpeg(picture.error_map), description=f"{about}: voxels where the mask is wrong"),
        remark=picture.remark,
        view=picture.view,
        table=Table(
            headings=["label", "status", *(METRICS[name].title for name in metrics), "reference ml", "mask ml"],
            rows=rows,
            numeric=range(2, 4 + len(metrics)),
        ),
    )


def _status_cell(score: LabelScore) -> Cell:
    is_lost = score.status in ("missed", "invented")
    return Cell(text=score.status, order=score.status, tone="bad" if is_lost else "plain")


def _build_case_table(evaluation: Evaluation, labels: Sequence[str], anchors: Mapping[str, str]) -> Table | None:
    """Worst case first; with very many labels, each case names its worst instead of all."""
    dices = evaluation.mean_dice_per_case()
    if not dices:
        return None
    by_case: dict[str, dict[str, LabelScore]] = {}
    for score in evaluation.scores:
        by_case.setdefault(score.case_id, {})[score.label] = score
    ranked = sorted(dices, key=lambda case_id: (dices[case_id] is None, dices[case_id] or 0.0, case_id))
    has_column_per_label = len(labels) <= MAX_LABEL_COLUMNS
    agreements = {one.case_id: one for one in evaluation.agreements}
    headings = ["case", "mean Dice", *(labels if has_column_per_label else ["worst label", "its Dice"])]
    numeric = [*range(1, 2 + len(labels))] if has_column_per_label else [1, 3]
    if agreements:
        numeric += [len(headings), len(headings) + 1]
        headings += ["pixel accuracy", "mean pixel accuracy"]
    rows: Rows = []
    for case_id in ranked[:MAX_ROWS]:
        of_case = by_case[case_id]
        cells = [score_cell(of_case.get(name)) for name in labels] if has_column_per_label else _name_worst(of_case)
        case = Cell(text=case_id, order=case_id, anchor=anchors.get(case_id, ""))
        accuracies = [
            metric_cell("accuracy", value)
            for value in (
                (agreements[case_id].pixel_accuracy, agreements[case_id].mean_pixel_accuracy)
                if case_id in agreements
                else (None, None)
            )
        ]
        rows.append([case, metric_cell("dice", dices[case_id]), *cells, *(accuracies if agreements else [])])
    hidden = len(ranked) - len(rows)
    more = f"The {len(rows)} worst cases; {hidden} better ones are in the CSV file. " if hidden else ""
    return Table(
        headings=headings,
        rows=rows,
        numeric=numeric,
        caption=f"{more}{UNDEFINED}: neither the reference nor the mask has it, so there is nothing to score. "
        f"{say_agreement(evaluation)}",
    )


def _name_worst(of_case: Mapping[str, LabelScore]) -> list[Cell]:
    scored = [score for score in of_case.values() if score.dice is not None]
    worst = min(scored, key=lambda score: score.dice or 0.0, default=None)
    return [Cell(text=worst.label if worst else UNDEFINED), score_cell(worst)]


def _build_row_table(evaluation: Evaluation, colours: Mapping[str, Colour]) -> Table | None:
    """A row per case and label, as in the CSV file: the worst first where not all fit."""
    if not evaluation.scores:
        return None
    scores = evaluation.scores
    if len(scores) > MAX_ROWS:
        scores = sorted(scores, key=lambda score: (score.dice is None, score.dice or 0.0))[:MAX_ROWS]
    metrics = [name for name in _CASE_METRICS if hasattr(scores[0], name)]
    rows: Rows = [
        [
            score.case_id,
            label_cell(score.label, colours),
            _status_cell(score),
            *(metric_cell(name, getattr(score, name)) for name in metrics),
            number_cell(score.reference_ml, 2),
            number_cell(score.prediction_ml, 2),
        ]
        for score in scores
    ]
    hidden = len(evaluation.scores) - len(rows)
    return Table(
        headings=["case", "label", "status", *(METRICS[name].title for name in metrics), "reference ml", "mask ml"],
        rows=rows,
        numeric=range(3, 5 + len(metrics)),
        caption=f"The {MAX_ROWS} worst rows; {hidden} better ones are in the CSV file." if hidden else "",
    )


def _build_failure_table(evaluation: Evaluation) -> Table | None:
    rows = [[failure.case_id, failure.reason] for failure in evaluation.failures]
    rows += [[UNDEFINED, text] for text in evaluation.unmatched]
    return Table(headings=["case", "reason"], rows=rows) if rows else None


def _has_objects(task: Task | None) -> bool:
    """Whether files number their objects, so that these are matched and not connected parts."""
    return task is not None and task.has_instances


def _build_instance_table(evaluation: Evaluation, colours: Mapping[str, Colour], task: Task | None) -> Table | None:
    if not evaluation.instances:
        return None
    rows: Rows = [
        [
            label_cell(row.label, colours),
            *(count_cell(number) for number in (row.num_scans, row.num_reference, row.num_found)),
            *(number_cell(value) for value in (row.sensitivity, row.false_positives_per_scan)),
            count_cell(row.num_scored),
            *(number_cell(value) for value in (row.panoptic_quality, row.average_precision_50, row.average_precision)),
        ]
        for row in summarize_instances(evaluation.instances)
    ]
    return Table(
        headings=[
            "label",
            "scans",
            "objects" if _has_objects(task) else "lesions",
            "found",
            "sensitivity",
            "false per scan",
            "scored",
            "PQ",
            "AP50",
            "AP",
        ],
        rows=rows,
        numeric=range(1, 10),
        caption="PQ, AP50 and AP are means over the scored scans: those where a side has one.",
    )


# ---- how it was made -----------------------------------------------------------------------------------------------------


def _describe_making(
    evaluation: Evaluation, task: Task | None, settings: MetricSettings | None, sources: Mapping[str, str]
) -> list[Fact]:
    facts = list(sources.items())
    if task is not None:
        facts.append(("task", f"{task.name}: {task.title} ({task.modality})"))
    settings = settings or MetricSettings()
    tolerances = sorted({score.tolerance_mm for score in evaluation.scores if isinstance(score, LabelMetrics)})
    if tolerances:
        facts.append(("tolerance of the NSD", ", ".join(f"{tolerance:g} mm" for tolerance in tolerances)))
        kind = {"elements": "surface elements, weighted by their area", "voxels": "the outermost voxels"}
        facts.append(("surface", kind[settings.surface]))
    return [*facts, *describe_software()]


def describe_software() -> list[Fact]:
    """When a page was made, and with what."""
    import medunet

    return [
        ("made", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
        (
            "versions",
            f"medunet {medunet.__version__}, Python {platform.python_version()}, numpy {get_version('numpy')}, "
            f"scipy {get_version('scipy')}",
        ),
    ]
