"""`Case`: the files of one labelled image set; no layout and no voxel."""

from __future__ import annotations

from collections.abc import Mapping
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
    """

    case_id: str
    images: tuple[Path, ...]
    labels: Path
    series: str = ""
    mapping: Mapping[str, str] = field(default_factory=dict, hash=False)
    group: str | None = field(default=None, repr=False)
