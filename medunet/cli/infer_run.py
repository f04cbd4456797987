"""The scans of ``medunet infer``, one after the other: read ahead, segmented, written behind; a failing one costs only itself."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medunet.cli.infer_jobs import Job, Wishes, check_outputs, list_job_outputs
from medunet.cli.reading import print_remarks
from medunet.errors import InputError, MedunetError, OutputError
from medunet.inference.manifest import (
    Manifest,
    begin_manifest,
    describe_settings,
    find_difference,
    finish_manifest,
    list_own_outputs,
    read_manifest,
)
from medunet.inference.many import Done, read_ahead, write_behind
from medunet.inference.settings import InferenceSettings
from medunet.io import write_mesh
from medunet.tasks import check_channels

if TYPE_CHECKING:
    from medunet.inference import Segmentation, Segmenter
    from medunet.io import ReadOptions, Scan


@dataclass(kw_only=True)
class InferOutcome:
    """What became of the scans.

    Attributes:
        manifests: Of the scans that have a mask, in order; those of an earlier run among them.
        num_failed: Scans that have none.
        num_flagged: Scans with a flag.
    """

    manifests: list[Manifest] = field(default_factory=list)
    num_failed: int = 0
    num_flagged: int = 0


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A scan with its mask, not written yet."""

    scan: Scan
    segmentation: Segmentation
    begun: Manifest


@dataclass(frozen=True, kw_only=True)
class InferRun:
    """One call of the command.

    Attributes:
        jobs: All scans.
        wishes: Formats and what comes beside the masks.
        options: How scans are read.
        settings: How much is computed.
        folder: The model.
        device: That computes.
        is_quiet: Whether nothing but errors is printed.
    """

    jobs: Sequence[Job]
    wishes: Wishes
    options: ReadOptions
    settings: InferenceSettings
    folder: Path
    device: str
    is_quiet: bool

    def process(self, names: Sequence[str], *, continues: bool) -> InferOutcome:
        """Segment what is not finished yet.

        Args:
            names: Of the task's labels.
            continues: Whether to pass over what an earlier run has finished.

        Raises:
            InputError: If an output exists, or the only scan fails.
        """
        outcome = InferOutcome()
        earlier = {job: read_manifest(job.manifest) if continues else None for job in self.jobs}
        remaining = [job for job in self.jobs if not self._is_finished(job, earlier[job])]
        for job in remaining:
            begun = earlier[job]
            is_own = begun is not None and begun.status == "running"
            own = (
                [job.manifest.absolute(), *list_own_outputs(begun, job.manifest)]
                if begun is not None and is_own
                else []
            )
            check_outputs(job, self.jobs, names, self.wishes, own)
        for job in self.jobs:
            if job not in remaining and (done := earlier[job]) is not None:
                self._note(done, outcome)
        if len(remaining) < len(self.jobs):
            self._print(f"{len(self.jobs) - len(remaining)} of {len(self.jobs)} scans are finished already.")
        if remaining:
            self._segment(remaining, outcome)
        return outcome

    def print_json(self, outcome: InferOutcome) -> None:
        """Everything as one JSON document."""
        print(json.dumps([manifest.model_dump(mode="json") for manifest in outcome.manifests], indent=2))

    def _is_finished(self, job: Job, manifest: Manifest | None) -> bool:
        if manifest is None or manifest.status != "done":
            return False
        if not all(path.exists() for path in list_own_outputs(manifest, job.manifest)):
            return False
        from medunet.models import read_records

        weights = read_records(self.folder).training.weights_sha256
        difference = find_difference(
            manifest, job.images, weights, describe_settings(self.settings, self._describe_reading())
        )
        if difference is None:
            return True
        if self.wishes.overwrite:
            return False
        msg = f"{job.mask} is finished, but {difference}. Choose another output, or make it anew with --overwrite."
        raise OutputError(msg)

    def _segment(self, jobs: Sequence[Job], outcome: InferOutcome) -> None:
        from medunet.inference import load

        segmenter = load(self.folder, device=self.device, settings=self.settings)
        self._print(f"Model: {self.folder} ({segmenter.task.name}) on {segmenter.device}: {segmenter.description}")
        if segmenter.model.speed is not None:
            self._print(f"In validation: {segmenter.model.speed.describe()}")

        def make(job: Job, scan: Scan) -> _Made:
            return self._make(segmenter, job, scan)

        def write(job: Job, made: _Made) -> Manifest:
            return self._write(segmenter, job, made)

        for done in write_behind(read_ahead(jobs, self._read, make), write):
            self._report(done, outcome)

    def _read(self, job: Job) -> Scan:
        from medunet.io import read_scan, read_scan_apart

        return (read_scan_apart if self.wishes.untrusted else read_scan)(list(job.images), self.options)

    def _make(self, segmenter: Segmenter, job: Job, scan: Scan) -> _Made:
        if not self.is_quiet:
            print_remarks(scan)
        check_channels(scan.volume, segmenter.task, str(scan.path))
        outputs = list_job_outputs(job, list(segmenter.task.labels), self.wishes)
        with _undo_on_failure(job.manifest):
            begun = begin_manifest(job.manifest, job.images, outputs, segmenter, self._describe_reading())
            segmentation = segmenter.segment(
                scan,
                options=self.options,
                probabilities=job.probabilities or False,
                uncertainty=job.uncertainty or False,
            )
        return _Made(scan=scan, segmentation=segmentation, begun=begun)

    def _write(self, segmenter: Segmenter, job: Job, made: _Made) -> Manifest:
        began = time.perf_counter()
        with _undo_on_failure(job.manifest):
            made.segmentation.save(
                job.mask,
                mask_format=self.wishes.mask_format,
                reference=self.wishes.reference,
                split=self.wishes.split,
                seg_kind=self.wishes.seg_kind,
                overwrite=True,  # `check_outputs` has asked before anything was computed
            )
            if job.mesh is not None:
                write_mesh(made.segmentation.structures, job.mesh)
            if job.preview is not None:
                _draw(made, segmenter, job, job.preview)
            seconds = {"write": round(time.perf_counter() - began, 4)}
            return finish_manifest(job.manifest, made.begun, made.segmentation, seconds)

    def _report(self, done: Done[Job, Manifest], outcome: InferOutcome) -> None:
        if done.error is not None:
            if len(self.jobs) == 1:
                raise InputError(_describe_failure(done.error, done.job)) from done.error
            outcome.num_failed += 1
            print(f"error: {_describe_failure(done.error, done.job)}", file=sys.stderr)
            return
        assert done.result is not None
        self._note(done.result, outcome)
        self._print(_describe_result(done.job, done.result, self.wishes))
        for flag in done.result.flags:
            self._print(f"  look at it: {flag['message']}")
        for path in (done.job.preview, done.job.mesh, done.job.probabilities, done.job.uncertainty):
            if path is not None:
                self._print(f"  also: {path}")

    def _note(self, manifest: Manifest, outcome: InferOutcome) -> None:
        outcome.manifests.append(manifest)
        outcome.num_flagged += bool(manifest.flags)

    def _describe_reading(self) -> dict[str, object]:
        return {"reading": asdict(self.options), "mask_format": self.wishes.mask_format, "split": self.wishes.split}

    def _print(self, text: str) -> None:
        if not self.is_quiet:
            print(text)


@contextlib.contextmanager
def _undo_on_failure(manifest: Path) -> Iterator[None]:
    """Where something fails, no manifest speaks of it, and folders that were made for it are gone."""
    missing = [folder for folder in manifest.parents if not folder.exists()]
    try:
        yield
    except BaseException:
        manifest.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else lies there by now
            for folder in missing:
                folder.rmdir()
        raise


def _describe_result(job: Job, manifest: Manifest, wishes: Wishes) -> str:
    from medunet.io import strip_suffix

    volumes = [_describe_volume(name, volume) for name, volume in manifest.volumes.items() if volume["visible_ml"] > 0]
    where = job.mask.with_name(f"{strip_suffix(job.mask.name)}_<label>") if wishes.split else job.mask
    seconds = sum(manifest.seconds.values())
    return f"{job.images[0].name} -> {where}  {seconds:.1f} s  {', '.join(volumes) or 'no structure found'}"


def _describe_volume(name: str, volume: dict[str, float | None]) -> str:
    is_cut = volume["volume_ml"] is None
    return f"{name} {volume['visible_ml']:.1f} ml{' or more (cut by the border)' if is_cut else ''}"


def _describe_failure(error: Exception, job: Job) -> str:
    """One line that names the scan, whatever went wrong with it."""
    text = " ".join(str(error).split("\n"))
    if isinstance(error, MedunetError):
        return text
    return f"{job.images[0]} could not be segmented: {type(error).__name__}{f' ({text[:200]})' if text else ''}."


def _draw(made: _Made, segmenter: Segmenter, job: Job, path: Path) -> None:
    from medunet.reporting import draw_overlay

    draw_overlay(
        made.scan.volume,
        made.segmentation.labels,
        None,
        made.segmentation.label_values,
        path,
        title=job.mask.name,
        modality=segmenter.task.modality,
    )
