"""The page about a pretraining: the loss, and patches as they were shown, restored and in truth."""

from __future__ import annotations

from pathlib import Path

from medunet.models.pretraining import PretrainingRecord
from medunet.planning import Plan
from medunet.reporting.pretraining_page import PatchRow, write_page
from medunet.tasks import Task
from medunet.training.pretraining.validation import RestoredPatches


def write_pretraining_page(
    folder: Path, task: Task, plan: Plan, record: PretrainingRecord, restored: RestoredPatches | None
) -> None:
    """Write ``report.html`` and, where scans were kept apart, ``restored.png`` into the folder of a pretraining.

    Args:
        folder: With its log.
        task: Of the pretraining.
        plan: Of its network.
        record: What was learnt.
        restored: Patches of scans that were kept apart; None where there are none.
    """
    rows = []
    if restored is not None:
        parts = zip(restored.case_ids, restored.shown, restored.restored, restored.truth, strict=True)
        rows = [
            PatchRow(case_id=case_id, shown=shown[0].numpy(), restored=found[0].numpy(), truth=truth[0].numpy())
            for case_id, shown, found, truth in parts
        ]
    write_page(folder, task, plan, record, rows)
