"""`Segmenter`: a model that is loaded once and turns scans into masks. It needs a model folder and a scan, no more."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medunet.device import choose_device, choose_precision
from medunet.inference.segmentation import Segmentation
from medunet.inference.sliding_window import apply_sliding_window
from medunet.io import ReadOptions, Scan, describe_source, merge_options, read_scan, scan_from_memory
from medunet.models import SYNTHETIC_WARNING, Model, find_newest_model, read_model
from medunet.planning import Plan
from medunet.postprocessing import apply_postprocessing
from medunet.preprocessing import preprocess_image, resample_linear, resample_winner
from medunet.tasks import Task, check_channels, list_class_values
from medunet.volume import Volume, build_grid

logger = logging.getLogger(__name__)

OnTiles = Callable[[int, int], None]


class Segmenter:
    """Turns scans into masks with one model.

    Args:
        model: Read from a model folder.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Attributes:
        model: Task, plan, weights and record.
        device: That computes.
    """

    def __init__(self, model: Model, device: str = "auto") -> None:
        self.model = model
        self.device = choose_device(device)
        self.precision = choose_precision(self.device)
        self.network = model.network.to(self.device).eval()
        if model.training.is_synthetic:
            logger.warning(SYNTHETIC_WARNING)

    @property
    def task(self) -> Task:
        """What is segmented."""
        return self.model.task

    @property
    def plan(self) -> Plan:
        """How."""
        return self.model.plan

    def segment(
        self, scan: Any, *, on_tiles: OnTiles | None = None, options: ReadOptions | None = None, **choices: Any
    ) -> Segmentation:
        """Segment one scan.

        Args:
            scan: A path (a list of paths for one file per channel) of a NIfTI, NRRD, MetaImage, PNG or TIFF file or of a
                DICOM folder or zip; a list of pydicom datasets; a nibabel, SimpleITK, MONAI or TorchIO image;
                ``(array, affine)`` in RAS+ mm; a `Volume`; or a `Scan`.
            on_tiles: Called with the number of finished tiles and of all.
            options: What to take where the scan leaves it open.
            **choices: Fields of ``options``, such as ``series="t2"``, ``volume_index=0``, ``allow_gaps=True``.

        Returns:
            The mask on the scan's own grid.

        Raises:
            VolumeError: If the scan cannot be read or is no volume.
            DatasetError: If it has other channels than the task.
        """
        clock = _Clock()
        options = merge_options(options or ReadOptions(modality=self.task.modality), choices)
        origin = _read_scan(scan, options)
        image = origin.volume
        check_channels(image, self.task, str(origin.path) if origin.path else describe_source(scan))
        clock.stop("read")
        prepared = preprocess_image(image, self.plan)
        clock.stop("prepare")
        logits = compute_logits(self.network, prepared, self.plan, self.device, self.precision, on_tiles=on_tiles)
        clock.stop("network")
        labels = restore_label_map(logits, prepared, image, self.task)
        clock.stop("restore")
        labels = apply_postprocessing(labels, self.task, self.model.postprocessing)
        clock.stop("postprocess")
        return Segmentation(
            labels=labels,
            label_values=dict(self.task.labels),
            timings=clock.seconds,
            device=str(self.device),
            codes=self.task.codes,
            scan=_drop_voxels(origin),
            options=options,
            model=("medunet", f"{self.model.training.medunet_version} {self.task.name}"),
            quality=self.model.quality,
        )

    def segment_many(self, scans: Iterable[Any]) -> Iterator[Segmentation]:
        """Segment one scan after the other; an unreadable scan raises when its turn comes."""
        for scan in scans:
            yield self.segment(scan)


def load(model: str | Path | None = None, *, device: str = "auto") -> Segmenter:
    """Load a model once, to segment many scans.

    Args:
        model: A model folder; None takes the newest of ``$MEDUNET_HOME`` or ``./runs``.
        device: ``"auto"`` or a torch device.

    Raises:
        ModelError: If there is no such model, or it is damaged.
        InputError: If the device is absent.
    """
    return Segmenter(read_model(model if model is not None else find_newest_model()), device)


def compute_logits(
    network: torch.nn.Module,
    prepared: Volume,
    plan: Plan,
    device: torch.device,
    precision: str,
    *,
    on_tiles: OnTiles | None = None,
) -> Tensor:
    """Logits ``(num_outputs, I, J, K)`` float32 on the network's grid.

    Args:
        network: On ``device``, in evaluation mode.
        prepared: Result of `preprocess_image`.
        plan: Patch size.
        device: That computes.
        precision: Of the network's arithmetic.
        on_tiles: Called with the number of finished tiles and of all.
    """
    image = torch.from_numpy(prepared.array).to(device)
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)

    def predict(tiles: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits: Tensor = network(tiles)
        return logits

    with torch.inference_mode():
        return apply_sliding_window(
            image,
            predict,
            plan.patch_size,
            fill=image.amin(dim=(1, 2, 3)),
            batch_size=max(1, plan.batch_size // 2),
            on_tiles=on_tiles,
        )


def restore_label_map(logits: Tensor, prepared: Volume, scan: Volume, task: Task) -> Volume:
    """Logits on the network's grid to a label map on the scan's.

    Args:
        logits: ``(num_outputs, I, J, K)``.
        prepared: The volume that the network saw: its affine places the logits.
        scan: Gives the grid of the result; voxels outside the network's grid are background.
        task: Gives the values.
    """
    box = _find_covered_box(prepared, scan)
    covered_affine = scan.affine.copy()
    covered_affine[:3, 3] += scan.affine[:3, :3] @ [edge.start for edge in box]
    shape = (box[0].stop - box[0].start, box[1].stop - box[1].start, box[2].stop - box[2].start)
    values = _choose_dtype(task)
    if task.has_regions:
        covered = np.zeros(shape, dtype=values)
        names = list(task.labels)
        for name, value in task.compute_region_values():
            region = resample_linear(logits[names.index(name)], prepared.affine, covered_affine, shape)
            covered[(region > 0).cpu().numpy()] = value  # a logit above 0 is a probability above one half
    else:
        winners = resample_winner(logits, prepared.affine, covered_affine, shape)
        covered = np.array(list_class_values(task), dtype=values)[winners.numpy()]
    restored = np.zeros(scan.spatial_shape, dtype=values)
    restored[box] = covered
    return Volume(restored[None], scan.affine)


def _read_scan(scan: Any, options: ReadOptions) -> Scan:
    is_paths = isinstance(scan, list) and all(isinstance(path, (str, Path)) for path in scan)
    if isinstance(scan, (str, Path)) or is_paths:
        return read_scan(scan, options)
    return scan if isinstance(scan, Scan) else scan_from_memory(scan, options)


def _drop_voxels(scan: Scan) -> Scan:
    """The scan as its mask needs it: a pipeline that collects results must not collect images."""
    return replace(scan, volume=build_grid(scan.volume.spatial_shape, scan.volume.affine))


def _find_covered_box(prepared: Volume, scan: Volume) -> tuple[slice, slice, slice]:
    """The scan's voxels whose centres lie within the network's grid, borders of half a voxel included."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in prepared.spatial_shape], indexing="ij")).reshape(3, -1)
    to_scan = np.linalg.inv(scan.affine) @ prepared.affine
    positions = to_scan[:3, :3] @ corners + to_scan[:3, 3:]
    edges = []
    for axis, length in enumerate(scan.spatial_shape):
        # A tolerance, so that rounding of the affines does not cost a plane.
        first = int(np.clip(np.ceil(positions[axis].min() - 1e-3), 0, length - 1))
        last = int(np.clip(np.floor(positions[axis].max() + 1e-3), first, length - 1))
        edges.append(slice(first, last + 1))
    i, j, k = edges
    return i, j, k


def _choose_dtype(task: Task) -> type[np.integer[Any]]:
    return np.uint8 if max(task.all_values) <= 255 else np.int32


class _Clock:
    """Seconds between stops."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 4)
        self._last = now
