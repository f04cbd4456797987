"""``report.html`` of a pretraining: the loss, and patches as they were shown, restored and in truth."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medunet.io import write_bytes_atomic, write_text_atomic
from medunet.models.names import LOG, REPORT
from medunet.models.pretraining import PretrainingRecord
from medunet.planning import Plan
from medunet.reporting.chart import INK, build_chart
from medunet.reporting.page import Picture, embed_png, render_page
from medunet.reporting.planes import PLANES, cut_plane, find_flat_plane
from medunet.reporting.training_charts import draw_curves, read_curves
from medunet.tasks import Task
from medunet.volume import Array

RESTORED = "restored.png"
_TITLES = ("shown", "restored", "truth")
_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, kw_only=True)
class PatchRow:
    """A patch in three states, the first channel ``(I, J, K)`` of each, axes along R, A and S.

    Attributes:
        case_id: Of the scan.
        shown: With holes.
        restored: By the network.
        truth: As it is.
    """

    case_id: str
    shown: Array
    restored: Array
    truth: Array


def write_page(folder: Path, task: Task, plan: Plan, record: PretrainingRecord, rows: Sequence[PatchRow]) -> None:
    """Write ``report.html`` and, if there are rows, ``restored.png``.

    Args:
        folder: Of the pretraining, with its log.
        task: Of the pretraining.
        plan: Of its network.
        record: What was learnt.
        rows: Patches to show.

    Raises:
        OutputError: If a file cannot be written.
    """
    picture = None
    if rows:
        content = draw_rows(rows)
        write_bytes_atomic(folder / RESTORED, content)
        picture = Picture(
            source=embed_png(content), description="Patches as they were shown, as the network restored them, in truth."
        )
    page = render_page(
        "pretraining.html",
        title=task.title,
        facts=_list_facts(plan, record),
        picture=picture,
        curves=draw_curves(read_curves(folder / LOG)),
        folder_name=folder.resolve().name,
    )
    write_text_atomic(folder / REPORT, page)


def draw_rows(rows: Sequence[PatchRow]) -> bytes:
    """A PNG with a row per patch: its middle slice in three states, with the same range of gray."""
    figure = build_chart(6.6, 2.2 * len(rows))
    for number, row in enumerate(rows):
        plane = find_flat_plane(row.truth.shape) or PLANES[0]  # a patch of a 2D network is flat
        low, high = np.percentile(row.truth, _PERCENTILES)
        index = row.truth.shape[plane.axis] // 2
        for place, (title, array) in enumerate(zip(_TITLES, (row.shown, row.restored, row.truth), strict=True)):
            axes = figure.add_subplot(len(rows), len(_TITLES), number * len(_TITLES) + place + 1)
            axes.imshow(cut_plane(array, plane, index), cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
            axes.set_axis_off()
            if number == 0:
                axes.set_title(title, fontsize=9, color=INK)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _list_facts(plan: Plan, record: PretrainingRecord) -> list[tuple[str, str]]:
    block, patch = ("x".join(map(str, size)) for size in (record.block, plan.patch_size))
    facts = [
        ("Hidden", f"{record.hidden_share:.0%} of the blocks of {block} voxels in patches of {patch}"),
        ("Compared by", {"l1": "absolute differences", "l2": "squared differences"}[record.distance]),
    ]
    if record.score is not None:
        score = record.score
        facts += [
            ("Scans kept apart", f"{score.num_scans}, of which {score.num_patches} patches were restored"),
            ("Mean absolute error of what was hidden", f"{score.error:.4f}"),
            ("The same of the mean of what was shown", f"{score.error_of_mean:.4f}"),
        ]
    if record.num_left_out:
        facts.append(("Left out", f"{record.num_left_out} scans that cannot be used"))
    return facts
