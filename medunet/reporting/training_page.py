"""``report.html`` of a training: how good the model is, where it fails, and how it came to be, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medunet.io import write_text_atomic
from medunet.models import SYNTHETIC_WARNING, ModelRecords, read_records
from medunet.models.members import list_members
from medunet.models.names import (
    CARD,
    ENSEMBLE,
    LOG,
    METRICS,
    PLAN,
    POSTPROCESSING,
    QUALITY,
    REPORT,
    TASK,
    TRAINING,
    WEIGHTS,
)
from medunet.models.quality import Range
from medunet.planning import Plan
from medunet.reporting.case_pictures import CasePicture, describe_planes
from medunet.reporting.page import UNDEFINED, Cell, Picture, Section, Table, Tone, embed_jpeg, number_cell, render_page
from medunet.reporting.palette import get_label_colours, to_hex
from medunet.reporting.patch_pictures import PatchPicture
from medunet.reporting.score_cells import label_cell
from medunet.reporting.training_charts import MAX_STRIPS, draw_curves, draw_dice_strips, read_curves
from medunet.tasks import Task

Fact = tuple[str, str]
Rows = list[list[Cell | str]]

_MAX_LABEL_COLUMNS = 12
_MAX_CASE_ROWS = 500
_POOR_DICE = 0.5
_SECTIONS = {
    "labels": "Dice per label",
    "pictures": "Cases to look at",
    "cases": "Every case",
    "failed": "Not scored",
    "curves": "Curves",
    "patches": "Patches",
    "plan": "Plan",
    "postprocessing": "Post-processing",
    "quality": "What the cases look like",
    "training": "Training",
    "files": "Files",
}
_FILES = {
    WEIGHTS: "the network's weights",
    PLAN: "how a scan becomes patches, and why",
    TASK: "what is segmented",
    TRAINING: "how it was trained",
    METRICS: "the numbers of this page",
    POSTPROCESSING: "what is done to a mask after the network",
    QUALITY: "what scans and masks looked like in training",
    CARD: "the model in short",
    LOG: "the curves",
    "tensorboard": "the curves, for TensorBoard",
}


def write_training_page(
    folder: Path, *, pictures: Sequence[CasePicture] = (), patches: Sequence[PatchPicture] = ()
) -> Path:
    """Write ``report.html`` into a model folder.

    Args:
        folder: Of a finished training; what it does not hold (no validation, no log) the page leaves out.
        pictures: From `medunet.reporting.case_pictures.draw_cases`.
        patches: What the network saw while it learnt.

    Returns:
        The page.

    Raises:
        ModelError: If it is no model folder.
        OutputError: If the page cannot be written.
    """
    path = folder / REPORT
    write_text_atomic(path, build_training_page(folder, pictures=pictures, patches=patches))
    return path


def build_training_page(
    folder: Path, *, pictures: Sequence[CasePicture] = (), patches: Sequence[PatchPicture] = ()
) -> str:
    """The page as HTML: one file that needs no network.

    Raises:
        ModelError: If it is no model folder.
    """
    records = read_records(folder)
    metrics, training = records.metrics, records.training
    dices = list_dices(metrics, records.task)
    parts: dict[str, Any] = {
        "labels": _build_label_table(metrics, records.task),
        "pictures": [(_build_pictures(picture), picture.view, _say_missing(picture)) for picture in pictures],
        "cases": _build_case_table(records),
        "failed": _build_failure_table(metrics),
        "curves": draw_curves(read_curves(folder / LOG)),
        "patches": [_build_patch(patch) for patch in patches],
        "plan": _describe_plan(records.plan),
        "postprocessing": _describe_postprocessing(records),
        "quality": _build_quality_table(records),
        "training": _describe_training(records),
        "files": _list_files(folder),
    }
    return render_page(
        "training.html",
        title=f"{records.task.title}: training of {training.created[:10]}",
        sections=[Section(anchor=anchor, title=title) for anchor, title in _SECTIONS.items() if parts[anchor]],
        description=f"Task {records.task.name} ({records.task.modality}), learnt from {training.dataset}.",
        numbers=_list_numbers(records),
        notices=_list_notices(records),
        strips=draw_dice_strips(dices),
        many_labels=len(dices) > MAX_STRIPS,
        folds=_build_fold_table(metrics),
        planes=describe_planes(records.task),
        with_viewer=any(picture.view is not None for picture in pictures),
        legend=[(name, to_hex(colour)) for name, colour in get_label_colours(records.task.labels).items()],
        reasons=list(records.plan.reasons.items()),
        tried=_build_tried_table(records),
        settings=[(name, _format_value(value)) for name, value in training.settings.items()],
        versions=list(training.versions.items()),
        folder_name=folder.resolve().name,
        **parts,
    )


def list_dices(metrics: Mapping[str, Any], task: Task) -> dict[str, list[float]]:
    """Dice of every label of the task in the cases where it was scored."""
    dices: dict[str, list[float]] = {name: [] for name in task.labels}
    for entry in metrics.get("cases", ()):
        if entry["dice"] is not None:
            dices[entry["label"]].append(entry["dice"])
    return dices


def compute_case_dices(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Mean Dice over the labels of each case of a ``metrics.json``; None where no label was scored."""
    per_case: dict[str, list[float]] = {}
    for entry in metrics.get("cases", ()):
        values = per_case.setdefault(entry["case_id"], [])
        if entry["dice"] is not None:
            values.append(entry["dice"])
    return {case_id: sum(values) / len(values) if values else None for case_id, values in per_case.items()}


# ---- the head of the page ----------------------------------------------------------------------------------------------


def _list_numbers(records: ModelRecords) -> list[Fact]:
    metrics, training = records.metrics, records.training
    validated = [(_format_dice(metrics["mean_dice"]), "mean Dice")] if metrics.get("num_cases") else []
    validated += [(str(metrics["num_cases"]), "cases validated")] if validated else []
    return [
        *validated,
        (str(len(training.training_cases)), "cases learnt from"),
        (f"{training.num_iterations:,}", "iterations"),
        (_format_duration(training.seconds), "in the loop"),
    ]


def _list_notices(records: ModelRecords) -> list[tuple[str, Tone]]:
    metrics = records.metrics
    notices: list[tuple[str, Tone]] = []
    if records.training.is_synthetic:
        notices.append((SYNTHETIC_WARNING, "warning"))
    if not (metrics.get("num_cases") or metrics.get("cases")):  # cases where no side has a label give no number
        notices.append(("It was not validated: no number on this page says how good it is.", "warning"))
    if failed := len(metrics.get("failed", ())):
        notices.append((f"{failed} validation case(s) could not be scored and are in no mean.", "bad"))
    labels = metrics.get("labels", {})
    if poor := [name for name, row in labels.items() if row["mean"] is not None and row["mean"] < _POOR_DICE]:
        notices.append((f"Mean Dice below {_POOR_DICE}: {', '.join(poor)}.", "bad"))
    if unknown := [name for name, row in labels.items() if row["mean"] is None]:
        notices.append((f"No validation case says how well it finds {', '.join(unknown)}.", "warning"))
    return notices


# ---- tables ------------------------------------------------------------------------------------------------------------


def _build_label_table(metrics: Mapping[str, Any], task: Task) -> Table | None:
    labels: Mapping[str, Any] = metrics.get("labels", {})
    if not labels:
        return None
    before: Mapping[str, Any] = metrics.get("without_postprocessing", {})
    colours = get_label_colours(task.labels)
    rows: Rows = [
        [
            label_cell(name, colours),
            *_build_label_cells(row),
            *([_dice_cell(before["labels"][name]["mean"])] if before else []),
        ]
        for name, row in labels.items()
    ]
    dices = compute_case_dices(metrics).values()
    num_scored = sum(dice is not None for dice in dices)
    totals = {
        "num_scored": num_scored,
        "num_missed": sum(row["num_missed"] for row in labels.values()),
        "num_invented": sum(row["num_invented"] for row in labels.values()),
        "num_both_empty": len(dices) - num_scored,
    }
    mean: list[Cell | str] = ["mean over labels", _dice_cell(metrics["mean_dice"]), *[Cell(text="")] * 2]
    mean += _build_count_cells(totals)
    mean += [_dice_cell(before["mean_dice"])] if before else []
    headings = ["label", "Dice", "95 % interval", "median", "cases", "missed", "invented", "neither has it"]
    return Table(
        headings=[*headings, *(["without post-processing"] if before else [])],
        rows=rows,
        numeric=range(1, 9),
        footer=[mean],
        caption="The interval is that of the mean over cases (bootstrap). A missed or invented structure counts as 0. "
        "In the last line, cases are those of which a label was scored.",
    )


def _build_label_cells(row: Mapping[str, Any]) -> list[Cell]:
    low, high = row["interval_low"], row["interval_high"]
    interval = Cell(text=UNDEFINED if low is None else f"{low:.3f}–{high:.3f}", order=low)
    return [_dice_cell(row["mean"]), interval, number_cell(row["median"]), *_build_count_cells(row)]


def _build_count_cells(row: Mapping[str, Any]) -> list[Cell]:
    return [
        Cell(
            text=str(row[key]),
            order=row[key],
            tone="bad" if key in ("num_missed", "num_invented") and row[key] else "plain",
        )
        for key in ("num_scored", "num_missed", "num_invented", "num_both_empty")
    ]


def _build_case_table(records: ModelRecords) -> Table | None:
    """Worst case first; with very many labels, each case names its worst instead of all."""
    case_dices = compute_case_dices(records.metrics)
    if not case_dices:
        return None
    entries: dict[str, dict[str, Any]] = {}
    for entry in records.metrics["cases"]:
        entries.setdefault(entry["case_id"], {})[entry["label"]] = entry
    ranked = sorted(case_dices, key=lambda case_id: (case_dices[case_id] is None, case_dices[case_id] or 0.0))
    labels = list(records.task.labels)
    has_column_per_label = len(labels) <= _MAX_LABEL_COLUMNS
    rows: Rows = []
    for case_id in ranked[:_MAX_CASE_ROWS]:
        of_case = entries[case_id]
        cells = (
            [_score_cell(of_case.get(name)) for name in labels] if has_column_per_label else _build_worst_cells(of_case)
        )
        rows.append([case_id, _dice_cell(case_dices[case_id]), *cells])
    hidden = len(ranked) - len(rows)
    return Table(
        headings=["case", "mean Dice", *(labels if has_column_per_label else ["worst label", "its Dice"])],
        rows=rows,
        numeric=range(1, 2 + len(labels)) if has_column_per_label else (1, 3),
        caption=(f"The {len(rows)} worst cases; {hidden} better ones are in {METRICS}. " if hidden else "")
        + f"{UNDEFINED}: neither reference nor prediction has it, or the case was not searched for it.",
    )


def _build_worst_cells(of_case: Mapping[str, Any]) -> list[Cell]:
    scored = [entry for entry in of_case.values() if entry["dice"] is not None]
    worst = min(scored, key=lambda entry: entry["dice"], default=None)
    return [Cell(text=worst["label"] if worst else UNDEFINED), _score_cell(worst)]


def _score_cell(entry: Mapping[str, Any] | None) -> Cell:
    if entry is None or entry["dice"] is None:
        return number_cell(None, tone="faint")
    if entry["status"] in ("missed", "invented"):
        return Cell(text=entry["status"], order=0.0, tone="bad")
    return _dice_cell(entry["dice"])


def _build_failure_table(metrics: Mapping[str, Any]) -> Table | None:
    rows = [[entry["case_id"], entry["reason"]] for entry in metrics.get("failed", ())]
    return Table(headings=["case", "reason"], rows=rows) if rows else None


def _build_fold_table(metrics: Mapping[str, Any]) -> Table | None:
    rows = [
        [number_cell(fold, 0), number_cell(entry["num_cases"], 0), _dice_cell(entry["mean_dice"])]
        for fold, entry in enumerate(metrics.get("folds", ()))
    ]
    return Table(headings=["fold", "cases", "mean Dice"], rows=rows, numeric=range(3)) if rows else None


def _build_tried_table(records: ModelRecords) -> Table | None:
    rows: Rows = [
        [
            step.step if ": " in step.step else f"largest part of {step.step.removeprefix('label ')}",
            Cell(text="taken", tone="good") if step.is_used else Cell(text="not taken", tone="faint"),
            step.reason,
            number_cell(_average(step.dice_without), 4),
            number_cell(_average(step.dice_with), 4),
        ]
        for step in records.postprocessing.tried
    ]
    headings = ["post-processing step", "", "reason", "mean Dice before", "after"]
    return Table(headings=headings, rows=rows, numeric=(3, 4)) if rows else None


def _build_quality_table(records: ModelRecords) -> Table | None:
    if records.quality is None:
        return None
    rows: Rows = [
        [
            name,
            number_cell(row.num_cases, 0),
            number_cell(row.num_without, 0),
            number_cell(row.num_cut, 0),
            *_build_range_cells(row.volume_ml),
            Cell(text=_format_counts(row.num_parts)),
        ]
        for name, row in records.quality.labels.items()
    ]
    return Table(
        headings=["label", "cases", "without", "cut by the border", "median ml", "5 % to 95 % ml", "parts"],
        rows=rows,
        numeric=range(1, 7),
        caption=f"Of {records.quality.num_cases} cases; a mask far from these ranges deserves a look. More is in {QUALITY}.",
    )


def _build_range_cells(values: Range | None) -> list[Cell]:
    if values is None:
        return [number_cell(None), number_cell(None)]
    spread = f"{values.percentile_05:.4g}–{values.percentile_95:.4g}"
    return [Cell(text=f"{values.median:.4g}", order=values.median), Cell(text=spread, order=values.percentile_05)]


def _format_counts(values: Range | None) -> str:
    if values is None:
        return UNDEFINED
    return f"{values.minimum:g}" + (f"–{values.maximum:g}" if values.maximum > values.minimum else "")


# ---- facts -------------------------------------------------------------------------------------------------------------


def _describe_plan(plan: Plan) -> list[Fact]:
    network = plan.network
    return [
        ("configuration", plan.configuration),
        ("voxels", f"{_format_value(plan.spacing)} mm"),
        ("median case", f"{_format_value(plan.median_shape)} voxels"),
        ("patch", f"{_format_value(plan.patch_size)} voxels, {plan.batch_size} per iteration"),
        (
            "network",
            f"{network.spatial_dims}D {network.architecture}, channels {_format_value(network.features, ', ')}",
        ),
        ("strides", ", ".join(_format_value(stride) for stride in network.strides)),
        ("kernels", ", ".join(_format_value(kernel) for kernel in network.kernels)),
        ("intensities", "; ".join(rule.rule for rule in plan.normalization)),
        (
            "optimiser",
            f"{plan.optimizer.name}, learning rate {plan.optimizer.learning_rate:g}, {plan.optimizer.schedule}",
        ),
    ]


def _describe_postprocessing(records: ModelRecords) -> str:
    postprocessing = records.postprocessing
    if not postprocessing.num_cases:
        return "None was tried: there was no case to try it on."
    what = (
        "nothing helped; masks stay as the network makes them"
        if postprocessing.does_nothing
        else postprocessing.describe()
    )
    return (
        f"Tried on {postprocessing.num_cases} validation cases: {what}. It was chosen on the cases that it is scored on, "
        "so its gain is a little too rosy."
        + ("" if postprocessing.is_search_complete else " Time was over before every candidate had been tried.")
    )


def _describe_training(records: ModelRecords) -> list[Fact]:
    training = records.training
    return [
        ("finished", training.created),
        ("data", training.dataset + (" (synthetic)" if training.is_synthetic else "")),
        ("fold", _describe_fold(records)),
        ("cases", f"{len(training.training_cases)} to learn from, {len(training.validation_cases)} to validate"),
        ("budget", training.budget),
        ("iterations", f"{training.num_iterations:,} in {_format_duration(training.seconds)}"),
        ("device", f"{training.device}, {training.precision}"),
        ("seed", f"{training.seed}{', deterministic' if training.is_deterministic else ''}"),
        ("weights, SHA-256", training.weights_sha256 or UNDEFINED),
    ]


def _describe_fold(records: ModelRecords) -> str:
    if folds := records.metrics.get("folds"):
        num_networks = records.metrics.get("num_networks", len(folds))
        return f"cross-validation: {num_networks} networks, each case scored by the one that had not seen it"
    fold = records.training.fold
    return "none: all cases were learnt from" if fold is None else str(fold)


def _list_files(folder: Path) -> list[Fact]:
    files = [(name, what) for name, what in _FILES.items() if (folder / name).exists()]
    members = list_members(folder) if (folder / ENSEMBLE).is_file() else ()
    return files + [(member.name, "one of the networks, a model by itself") for member in members]


# ---- how values look -----------------------------------------------------------------------------------------------------


def _describe_case(picture: CasePicture) -> str:
    return f"{picture.case_id}: {picture.role}, mean Dice {picture.dice:.3f}"


def _say_missing(picture: CasePicture) -> str:
    return "" if picture.jpeg is not None else f"{_describe_case(picture)}. {picture.remark}"


def _build_pictures(picture: CasePicture) -> list[Picture]:
    if picture.jpeg is None:
        return []
    caption = _describe_case(picture)
    built = [
        Picture(source=embed_jpeg(picture.jpeg), caption=caption, description=f"Contours on three planes. {caption}")
    ]
    if picture.error_map is not None:
        errors = f"Where the mask of {picture.case_id} is wrong"
        built.append(Picture(source=embed_jpeg(picture.error_map), caption=errors, description=errors))
    return built


def _build_patch(patch: PatchPicture) -> Picture:
    description = f"Patch of case {patch.case_id} after augmentation, with its labels"
    return Picture(source=embed_jpeg(patch.jpeg), caption=patch.case_id, description=description)


def _dice_cell(dice: float | None) -> Cell:
    return number_cell(dice, tone="bad" if dice is not None and dice < _POOR_DICE else "plain")


def _format_dice(dice: float | None) -> str:
    return UNDEFINED if dice is None else f"{dice:.3f}"


def _format_duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes / 60:.1f} h" if minutes >= 120 else f"{minutes:.1f} min"


def _format_value(value: object, separator: str = " × ") -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format_value(part)}" for name, part in value.items()) or UNDEFINED
    if isinstance(value, (list, tuple)):
        return separator.join(_format_value(part) for part in value) or UNDEFINED
    return UNDEFINED if value is None or value == "" else str(value)


def _average(dices: Mapping[str, float | None]) -> float | None:
    values = [dice for dice in dices.values() if dice is not None]
    return sum(values) / len(values) if values else None
