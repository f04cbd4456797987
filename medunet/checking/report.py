"""What was measured in a dataset, and what was found in it: plain data, JSON out."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from medunet.volume import Shape3, Spacing

Severity = Literal["error", "warning", "note"]
"""``error``: training would fail. ``warning``: training would learn something wrong. ``note``: worth a look."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

Topic = Literal[
    "file", "labels", "laterality", "islands", "border", "intensity", "duplicate", "folds", "outlier", "task"
]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Facts):
    """One thing that a person should know before training.

    Attributes:
        case_id: Where; None speaks of the dataset or of several cases.
        case_ids: The cases, where it is said once for several.
        severity: How bad it is.
        topic: What it is about.
        label: Of the task, where it is about one.
        text: What was found, what was expected, what to do.
    """

    case_id: str | None = None
    case_ids: tuple[str, ...] = ()
    severity: Severity
    topic: Topic
    label: str | None = None
    text: str

    def is_about(self, case_id: str) -> bool:
        """Whether the case is meant, alone or among others."""
        return case_id == self.case_id or case_id in self.case_ids


class ChannelFacts(_Facts):
    """Intensities of one channel, in the unit of the files.

    Attributes:
        minimum: Over all voxels, as is ``maximum``; the rest is measured on at most 500,000 of the voxels in question.
        percentile_00_5: 0.5th percentile.
        median: 50th percentile.
        percentile_99_5: 99.5th percentile.
        maximum: Over all voxels.
        labelled_median: Median of voxels of any label; None without one, or where the labels cannot be read.
        share_negative: Voxels below 0, as a share.
        share_air: Voxels from -1100 to -700, which is air in HU.
        share_offset_tissue: Of the voxels above 200, those from 850 to 1250: some of the bone in HU, all soft tissue where
            1024 was added.
        sha256: Of the voxels along R, A and S as float32, and their shape.
    """

    minimum: float
    percentile_00_5: float
    median: float
    percentile_99_5: float
    maximum: float
    labelled_median: float | None
    share_negative: float
    share_air: float
    share_offset_tissue: float
    sha256: str


class LabelFacts(_Facts):
    """One label in one case.

    Attributes:
        num_voxels: At least 1.
        volume_ml: Of these voxels.
        centroid_mm: In the world, RAS+.
        num_parts: Connected components, by faces, edges and corners.
        largest_part_voxels: Size of the largest one.
        num_islands: Parts of a few voxels beside a large one.
        island_voxels: Voxels of all islands together.
        cropped_voxels: Of these, those that lie so far from the body that preprocessing crops them away.
        borders: Faces of the image that the label touches, as letters of the direction: ``"S"`` is the upper one. An axis
            of one voxel has none.
    """

    num_voxels: int
    volume_ml: float
    centroid_mm: tuple[float, float, float]
    num_parts: int
    largest_part_voxels: int
    num_islands: int
    island_voxels: int
    cropped_voxels: int
    borders: tuple[str, ...]


class GridFacts(_Facts):
    """Where the voxels of an image lie.

    Attributes:
        shape: Voxels ``(I, J, K)`` as stored.
        spacing: Their size in mm, as stored.
        orientation: Direction of each axis as stored, such as ``"LPS"``.
        ras_shape: Voxels along R, A and S.
        ras_spacing: Voxel size along R, A and S, mm.
    """

    shape: Shape3
    spacing: Spacing
    orientation: str
    ras_shape: Shape3
    ras_spacing: Spacing

    @property
    def ras_extent_mm(self) -> Spacing:
        """Edge lengths of the image along R, A and S."""
        i, j, k = (n * mm for n, mm in zip(self.ras_shape, self.ras_spacing, strict=True))
        return i, j, k


class CaseFacts(_Facts):
    """What was measured in one case.

    Attributes:
        case_id: Of the dataset.
        refusals: Why training cannot read it; empty for a sound case.
        remarks: What the readers warned of.
        annotated: Labels that were looked for in this case; None where all were.
        grid: None where the image cannot be read.
        channels: One per channel; empty where the image cannot be read.
        labels: Label -> measures, of the labels that occur; empty where the case cannot be read.
        labels_sha256: Of the label map along R, A and S; empty where no label occurs.
    """

    case_id: str
    refusals: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    annotated: tuple[str, ...] | None = None
    grid: GridFacts | None = None
    channels: tuple[ChannelFacts, ...] = ()
    labels: dict[str, LabelFacts] = {}
    labels_sha256: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether training can read the case."""
        return not self.refusals

    def was_looked_for(self, label: str) -> bool:
        """Whether the absence of a label means that the patient has none, as far as the dataset says."""
        return self.annotated is None or label in self.annotated


class DatasetReport(_Facts):
    """All that `medunet.checking.check_dataset` has to say.

    Attributes:
        dataset: Its name.
        layout: How its files are laid out.
        task: Name of the task.
        cases: Measured, in the order of the dataset.
        findings: Errors first, then warnings, then notes.
    """

    dataset: str
    layout: str
    task: str
    cases: tuple[CaseFacts, ...]
    findings: tuple[Finding, ...]

    @property
    def has_errors(self) -> bool:
        """Whether training would fail."""
        return self.count("error") > 0

    @property
    def num_usable(self) -> int:
        """Cases that training can read."""
        return sum(facts.is_usable for facts in self.cases)

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def list_findings(self, case_id: str) -> list[Finding]:
        """Findings in which a case is meant, alone or among others."""
        return [finding for finding in self.findings if finding.is_about(case_id)]
