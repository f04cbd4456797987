"""What ``medunet infer --report`` puts on its page, scan by scan."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from medunet.errors import MedunetError

if TYPE_CHECKING:
    from medunet.cli.infer_jobs import Job
    from medunet.inference import Segmentation
    from medunet.inference.manifest import Manifest
    from medunet.io import ReadOptions
    from medunet.reporting.scan_pictures import ScanPictures
    from medunet.volume import Volume

logger = logging.getLogger(__name__)


class ReportWriter:
    """Names scans without their paths, draws them, and hands them to the page; a context manager.

    Args:
        path: The page.
        folder: The model.

    Raises:
        ModelError: If it is no model folder.
        OutputError: If nothing can be written beside the page.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        from medunet.models import read_records
        from medunet.reporting.inference_page import InferenceReport

        self._records = read_records(folder)
        self._page = InferenceReport(path, self._records)

    def __enter__(self) -> ReportWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._page.__exit__(kind, error, traceback)

    def add(self, job: Job, manifest: Manifest, image: Volume, segmentation: Segmentation) -> None:
        """A scan that was just segmented; without pictures, and a remark, where they cannot be drawn."""
        from medunet.reporting.inference_page import ScanResult, predict_dices

        pictures, remark = self._draw(job, image, segmentation.labels)
        predicted = predict_dices(segmentation.agreement, self._records)
        result = ScanResult(
            name=name_scan(job), mask=job.mask.name, manifest=manifest, predicted=predicted, remark=remark
        )
        try:
            self._page.add(result, pictures)
        except OSError as error:  # no room for pictures, which costs no mask
            logger.warning("%s has no picture in the report: %s", name_scan(job), error)
            self._page.add(result)

    def add_failure(self, job: Job, reason: str) -> None:
        """A scan that has no mask."""
        from medunet.reporting.inference_page import ScanResult

        for image in job.images:
            reason = reason.replace(str(image.parent / image.name), image.name)  # folders may be named after patients
        self._page.add(ScanResult(name=name_scan(job), error=reason))

    def add_earlier(self, manifests: Mapping[Job, Manifest], options: ReadOptions) -> None:
        """Scans that an earlier run has finished; they are read again for their pictures, one at a time."""
        from medunet.io import read_label_map, read_scan
        from medunet.reporting.inference_page import ScanResult
        from medunet.volume import turn_to_grid

        for job, manifest in manifests.items():
            pictures, remark = None, "Made by an earlier run; its mask is not a file that can be drawn."
            try:
                mask = read_label_map(job.mask)
                image = turn_to_grid(read_scan(list(job.images), options).volume, mask)
                pictures, remark = self._draw(job, image, mask)
                remark = remark or "Made by an earlier run."
            except MedunetError as error:  # such as a DICOM object, or a file per label
                logger.info("%s of an earlier run has no picture: %s", job.mask.name, error)
            self._page.add(
                ScanResult(name=name_scan(job), mask=job.mask.name, manifest=manifest, remark=remark), pictures
            )

    def write(self, jobs: Sequence[Job]) -> Path:
        """The page, with scans of one kind in the order of the jobs."""
        return self._page.write(order=[name_scan(job) for job in jobs])

    def _draw(self, job: Job, image: Volume, mask: Volume) -> tuple[ScanPictures | None, str]:
        """A mask is worth more than its picture."""
        from medunet.reporting.scan_pictures import draw_scan

        try:
            return draw_scan(image, mask, self._records.task), ""
        except (MedunetError, MemoryError, OSError) as error:
            logger.warning("%s has no picture in the report: %s", name_scan(job), error)
            return None, "Its picture could not be drawn."


def name_scan(job: Job) -> str:
    """What people call a scan: its file or folder; of several channels, what they have in common, which names the mask."""
    from medunet.io import strip_suffix

    return strip_suffix((job.images[0] if len(job.images) == 1 else job.mask).name)
