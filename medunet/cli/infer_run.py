"""The scans of ``medunet infer``, one after the other: read ahead, segmented, written behind; a failing one costs only itself."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medunet.cli.infer_jobs import Job, Wishes, check_outputs, check_report, list_job_outputs
from medunet.cli.infer_report import ReportWriter
from medunet.cli.reading import print_remarks
from medunet.cli.terminal import print_json
from medunet.device import choose_device, is_out_of_memory
from medunet.errors import InputError, MedunetError, OutputError
from medunet.inference.manifest import (
    Manifest,
    begin_manifest,
    describe_decisions,
    describe_settings,
    find_difference,
    finish_manifest,
    hash_outputs,
    list_own_outputs,
    list_untouched_outputs,
    read_manifest,
)
from medunet.inference.many import Done, is_fault, read_ahead, write_behind
from medunet.inference.settings import InferenceSettings
from medunet.io import is_picture_file, write_mesh
from medunet.io.atomic import remove_partial_files
from medunet.tasks import check_channels
from medunet.warned import collect_warnings, strip_folders

if TYPE_CHECKING:
    from medunet.inference import Segmentation, Segmenter
    from medunet.io import ReadOptions, Scan

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class InferOutcome:
    """What became of the scans.

    Attributes:
        manifests: Of the scans that have a mask, those of an earlier run among them.
        failures: Scans that have none, and why, in one line that names the scan.
    """

    manifests: dict[Job, Manifest] = field(default_factory=dict)
    failures: dict[Job, str] = field(default_factory=dict)

    @property
    def num_flagged(self) -> int:
        """Scans with a flag."""
        return sum(bool(manifest.flags) for manifest in self.manifests.values())


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A scan that was read, and the seconds that it took."""

    scan: Scan
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Before:
    """What was there before a scan's first output.

    Attributes:
        manifest: Where it lies.
        content: Of the manifest; None where there was none.
        files: Outputs that were there, and which they were; None for those that were not.
        missing_folders: That were not there.
        emptied: Gets these folders where something fails. They are removed when the run is over: until then another scan may
            be about to write into one of them.
    """

    manifest: Path
    content: bytes | None
    files: Mapping[Path, tuple[int, int] | None]
    missing_folders: frozenset[Path]
    emptied: set[Path]

    @classmethod
    def of(cls, manifest: Path, outputs: Sequence[Path], emptied: set[Path]) -> _Before:
        return cls(
            manifest=manifest,
            content=manifest.read_bytes() if manifest.is_file() else None,
            files={path: _identify(path) for path in outputs},
            missing_folders=frozenset(
                folder for path in (manifest, *outputs) for folder in path.parents if not folder.exists()
            ),
            emptied=emptied,
        )

    @contextlib.contextmanager
    def restored_on_failure(self) -> Iterator[None]:
        """Where something fails, files that were not there before are gone, and the manifest is what it was.

        Where an older output has been replaced, the manifest goes on to say ``"running"``: the old one would take outputs of
        two runs for those of one.
        """
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # what went wrong is more important
                self._restore()
            raise

    def _restore(self) -> None:
        self.emptied.update(self.missing_folders)
        for path, identity in self.files.items():
            if identity is None:
                path.unlink(missing_ok=True)
        if all(identity in (None, _identify(path)) for path, identity in self.files.items()):
            self.manifest.unlink(missing_ok=True)
            if self.content is not None:
                self.manifest.write_bytes(self.content)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the deepest first, in which nothing lies."""
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with contextlib.suppress(OSError):  # it holds something, or is gone
            folder.rmdir()


def _identify(path: Path) -> tuple[int, int] | None:
    """Another number after the file has been replaced; None where there is none."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A scan with its mask, not written yet."""

    found: _Found
    segmentation: Segmentation
    begun: Manifest
    before: _Before


@dataclass(kw_only=True)
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
    _emptied: set[Path] = field(default_factory=set, init=False)
    _faults: set[str] = field(default_factory=set, init=False)

    def process(self, names: Sequence[str], *, continues: bool) -> InferOutcome:
        """Segment what is not finished yet.

        Args:
            names: Of the task's labels.
            continues: Whether to pass over what an earlier run has finished.

        Raises:
            InputError: If an output exists, or the only scan fails.
        """
        check_report(self.jobs, names, self.wishes, continues=continues)
        outcome = InferOutcome()
        earlier = {job: read_manifest(job.manifest) if continues else None for job in self.jobs}
        remaining = []
        for job in self.jobs:
            begun = earlier[job]
            if begun is None:
                own = []
            elif self._is_finished(job, begun, names):
                outcome.manifests[job] = begun
                continue
            else:
                own = [job.manifest.absolute(), *list_untouched_outputs(begun, job.manifest)]
            remaining.append(job)
            check_outputs(job, self.jobs, names, self.wishes, own)
            if begun is not None and begun.status == "running":
                for path in own:  # a process that is killed leaves the file that it was writing
                    remove_partial_files(path)
        if outcome.manifests:
            self._print(f"{len(outcome.manifests)} of {len(self.jobs)} scans are finished already.")
        with self._open_report() as report:
            if report is not None:
                report.add_earlier(outcome.manifests, self.options)
            if remaining:
                self._segment(remaining, outcome, report)
            if report is not None:
                self._print(f"Report: {report.write(self.jobs)}")
        return outcome

    def _open_report(self) -> contextlib.AbstractContextManager[ReportWriter | None]:
        if self.wishes.report is None:
            return contextlib.nullcontext()
        return ReportWriter(self.wishes.report, self.folder)

    def print_json(self, outcome: InferOutcome) -> None:
        """Everything as one JSON document, in the order of the scans."""
        results: list[Manifest | dict[str, object]] = []
        for job in self.jobs:
            if job in outcome.manifests:
                results.append(outcome.manifests[job])
            elif job in outcome.failures:
                names = [image.name for image in job.images]
                results.append({"status": "failed", "scan": names, "error": outcome.failures[job]})
        print_json(results)

    def _is_finished(self, job: Job, manifest: Manifest, names: Sequence[str]) -> bool:
        """Whether nothing is left to do; a finished run of another kind is refused, unless it may be replaced."""
        if manifest.status != "done":
            return False
        settings = describe_settings(self.settings, self._describe_reading())
        try:
            difference = find_difference(
                manifest, job.manifest, job.images, self._weights_sha256, settings, self._decided_by
            )
        except OSError:  # the scan is gone; whoever reads it says so
            return False
        if difference is not None:
            if self.wishes.overwrite:
                return False
            msg = f"{job.mask} is finished, but {difference}. Choose another output, or make it anew with --overwrite."
            raise OutputError(msg)
        own = list_own_outputs(manifest, job.manifest)
        wanted = {Path(os.path.normpath(path.absolute())) for path in list_job_outputs(job, names, self.wishes)}
        return wanted <= set(own) and all(path.exists() for path in own)

    @functools.cached_property
    def _weights_sha256(self) -> str:
        from medunet.models import read_records

        return read_records(self.folder).training.weights_sha256

    @functools.cached_property
    def _decided_by(self) -> dict[str, Any]:
        return describe_decisions(self.folder, self.settings)

    def _segment(self, jobs: Sequence[Job], outcome: InferOutcome, report: ReportWriter | None) -> None:
        from medunet.inference import load

        segmenter = load(self.folder, device=self.device, settings=self.settings)
        self._print(f"Model: {self.folder} ({segmenter.task.name}) on {segmenter.device}: {segmenter.description}")
        if segmenter.model.speed is not None:
            whose = "" if len(segmenter.model.members) == 1 else ", one network alone"
            self._print(f"In validation{whose}: {segmenter.model.speed.describe()}")
        if segmenter.int8 is not None:
            self._print(f"In eight bits, as now: {segmenter.int8.describe()}")

        def make(job: Job, found: _Found) -> _Made:
            return self._make(segmenter, job, found)

        def write(job: Job, made: _Made) -> Manifest:
            manifest = self._write(segmenter, job, made)
            if report is not None:
                report.add(job, manifest, made.found.scan.volume, made.segmentation)
            return manifest

        try:
            for done in write_behind(read_ahead(jobs, self._read, make), write):
                if done.error is not None and report is not None:
                    report.add_failure(done.job, self._describe_failure(done.error, done.job))
                    if len(self.jobs) == 1:  # which ends the command
                        report.write(self.jobs)
                self._report(done, outcome)
        finally:
            _remove_empty(self._emptied)

    def _read(self, job: Job) -> _Found:
        from medunet.io import read_scan, read_scan_apart

        began = time.perf_counter()
        scan = (read_scan_apart if self.wishes.untrusted else read_scan)(list(job.images), self.options)
        return _Found(scan=scan, seconds=time.perf_counter() - began)

    def _make(self, segmenter: Segmenter, job: Job, found: _Found) -> _Made:
        scan = found.scan
        if not self.is_quiet:
            print_remarks(scan)
        check_channels(scan.volume, segmenter.task, str(scan.path))
        outputs = list_job_outputs(job, list(segmenter.task.semantic_labels), self.wishes)
        before = _Before.of(job.manifest, outputs, self._emptied)
        with before.restored_on_failure():
            begun = begin_manifest(
                job.manifest, job.images, outputs, segmenter, self._describe_reading(), self._decided_by
            )
            segmentation = segmenter.segment(
                scan,
                options=self.options,
                probabilities=job.probabilities or False,
                uncertainty=job.uncertainty or False,
                overwrite=True,  # as for the mask
            )
        return _Made(found=found, segmentation=segmentation, begun=begun, before=before)

    def _write(self, segmenter: Segmenter, job: Job, made: _Made) -> Manifest:
        began = time.perf_counter()
        with made.before.restored_on_failure(), collect_warnings() as warned:
            made.segmentation.save(
                job.mask,
                mask_format=self.wishes.mask_format,
                reference=self.wishes.reference,
                split=self.wishes.split,
                seg_kind=self.wishes.seg_kind,
                overwrite=True,  # `check_outputs` has asked before anything was computed
            )
            if job.semantic is not None:
                made.segmentation.save_semantic(job.semantic, overwrite=True)
            if job.mesh is not None:
                write_mesh(made.segmentation.structures, job.mesh)
            if job.preview is not None:
                _draw(made, segmenter, job, job.preview)
            checksums = hash_outputs(made.begun, job.manifest)
            seconds = {"read": round(made.found.seconds, 4), "write": round(time.perf_counter() - began, 4)}
            written = [path for path in (job.mask, job.semantic, job.mesh, job.preview) if path is not None]
            warnings = strip_folders(warned, written)
            return finish_manifest(job.manifest, made.begun, made.segmentation, checksums, seconds, warnings)

    def _report(self, done: Done[Job, Manifest], outcome: InferOutcome) -> None:
        if done.error is not None:
            if is_fault(done.error):
                self._show_fault(done.error)
            reason = self._describe_failure(done.error, done.job)
            if len(self.jobs) == 1:
                raise InputError(reason) from done.error
            outcome.failures[done.job] = reason
            print(f"error: {reason}", file=sys.stderr)
            return
        assert done.result is not None
        outcome.manifests[done.job] = done.result
        self._print(_describe_result(done.job, done.result, self.wishes))
        for name, found in done.result.objects.items():
            self._print(f"  {_describe_objects(name, found)}")
        for flag in done.result.flags:
            self._print(f"  look at it: {flag['message']}")
        for path in _list_more(done.job, done.result):
            self._print(f"  also: {path}")

    def _show_fault(self, error: Exception) -> None:
        """Where it was raised, once for all scans that meet the same."""
        if (what := f"{type(error).__name__}: {error}") not in self._faults:
            self._faults.add(what)
            logger.error("A fault of medunet:", exc_info=error)

    def _describe_failure(self, error: Exception, job: Job) -> str:
        """One line that names the scan, whatever went wrong with it."""
        text = " ".join(str(error).split("\n"))
        if isinstance(error, MedunetError):
            return text if any(str(image) in text for image in job.images) else f"{job.images[0]}: {text}"
        words = f"{job.images[0]} could not be segmented"
        if is_out_of_memory(error):
            return f"{words}: {self._advise_on_memory()}"
        words = f"{words}: {type(error).__name__}{f' ({text[:200]})' if text else ''}."
        return (
            f"{words} This is a fault of medunet: please report it, with the traceback." if is_fault(error) else words
        )

    def _advise_on_memory(self) -> str:
        is_gpu = choose_device(self.device).type != "cpu"
        options = ["--batch-size 1"] if self.settings.batch_size != 1 else []
        options += ["--flips none"] if self.settings.flips != "none" and self.settings.speed != "fast" else []
        options += ["--speed fast"] if self.settings.speed != "fast" else []
        options += ["--device cpu"] if is_gpu else []
        tried = f" Try {', '.join(options)};" if options else ""
        return (
            f"memory ran out{' on the GPU or beside it' if is_gpu else ''}.{tried} --memory-gb N, with the GB that it may take, says "
            "beforehand whether a scan fits, and what needs most of it."
        )

    def _describe_reading(self) -> dict[str, object]:
        return {
            "reading": asdict(self.options),
            "mask_format": self.wishes.mask_format,
            "split": self.wishes.split,
            "seg_type": self.wishes.seg_kind,
            # By its name, like the scan: the folder may be another one tomorrow.
            "reference": self.wishes.reference and Path(self.wishes.reference).name,
        }

    def _print(self, text: str) -> None:
        if not self.is_quiet:
            print(text)


def _list_more(job: Job, manifest: Manifest) -> list[Path]:
    """What was written beside the mask, as it lies on the disk: a structure may have a mesh of its own."""
    from medunet.io import list_mesh_outputs

    meshes = [] if job.mesh is None else list_mesh_outputs(job.mesh, list(manifest.volumes))
    return [
        path for path in (job.preview, *meshes, job.probabilities, job.uncertainty, job.semantic) if path is not None
    ]


def _describe_result(job: Job, manifest: Manifest, wishes: Wishes) -> str:
    from medunet.io import strip_suffix

    has_one_page = is_picture_file(job.images[0]) and not job.images[0].suffix.lower().startswith(".tif")
    describe = _describe_area if has_one_page else _describe_volume
    volumes = [describe(name, volume) for name, volume in manifest.volumes.items() if volume["visible_ml"] > 0]
    where = job.mask.with_name(f"{strip_suffix(job.mask.name)}_<label>") if wishes.split else job.mask
    seconds = sum(manifest.seconds.values())
    return f"{job.images[0].name} -> {where}  {seconds:.1f} s  {', '.join(volumes) or 'no structure found'}"


def _describe_objects(name: str, found: dict[str, float]) -> str:
    volumes = f"{found['smallest_mm3']:.4g} to {found['largest_mm3']:.4g} mm3, median {found['median_mm3']:.4g} mm3"
    return f"{name}: {found['count']:.0f} object{'' if found['count'] == 1 else 's'} of {volumes}"


def _describe_volume(name: str, volume: dict[str, float | None]) -> str:
    is_cut = volume["volume_ml"] is None
    return f"{name} {volume['visible_ml']:.1f} ml{' or more (cut by the border)' if is_cut else ''}"


def _describe_area(name: str, volume: dict[str, float | None]) -> str:
    """The page of a picture is 1 mm thick, so that its volume is an area; 1 mm² is a pixel where the file names no size."""
    assert volume["visible_ml"] is not None
    return f"{name} {1000 * volume['visible_ml']:,.0f} mm²"


def _draw(made: _Made, segmenter: Segmenter, job: Job, path: Path) -> None:
    from medunet.reporting import draw_overlay
    from medunet.reporting.window import get_task_window

    draw_overlay(
        made.found.scan.volume,
        made.segmentation.labels,
        None,
        made.segmentation.label_values,
        path,
        title=job.mask.name,
        modality=segmenter.task.modality,
        window=get_task_window(segmenter.task),
    )
