"""`Case`: the files of one labelled image set; no layout and no voxel."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Case:
    """One labelled image set.

    Attributes:
        case_id: Unique name within the dataset; part of file names.
        images: One file per channel, or a single file that holds all channels, or a DICOM folder.
        labels: The label map, or a DICOM SEG or RTSTRUCT object.
        series: SeriesInstanceUID of the image in a DICOM folder; empty where nothing says it.
        mapping: Name of a structure in ``labels`` -> label of the task, beside the names that the task knows.
        group: Cases of one group are never divided between training and validation; None is a group of its own. It may
            be a patient's number, so it is written nowhere.
        annotated: Labels of the task that were looked for in this case; the others may hide in its background, so
            training takes nothing there as certain. None: all.
    """

    case_id: str
    images: tuple[Path, ...]
    labels: Path
    series: str = ""
    mapping: Mapping[str, str] = field(default_factory=dict, hash=False)
    group: str | None = field(default=None, repr=False)
    annotated: frozenset[str] | None = None


def suggest_case(case_id: str, known: Collection[str]) -> str:
    """``"did you mean 'p012'?"``, or one of the ids as an example; ends like a sentence."""
    nearest = difflib.get_close_matches(case_id, known, n=1, cutoff=0.5)
    return f"did you mean '{nearest[0]}'?" if nearest else f"its {len(known)} case ids are such as '{min(known)}'."
