"""`Segmenter`: a model that is loaded once and turns scans into masks. It needs a model folder and a scan, no more."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from medunet.device import choose_device, choose_precision, measure_peak_memory, restart_peak_memory
from medunet.errors import InputError, ModelError, OutputError
from medunet.inference.many import is_fault, read_ahead
from medunet.inference.maps import (
    ArraySink,
    Box,
    MapPainter,
    MapSink,
    OpenSink,
    ProbabilityListener,
    compute_certain_probabilities,
    list_outside,
)
from medunet.inference.predictor import Predictor
from medunet.inference.segmentation import Segmentation
from medunet.inference.settings import InferenceSettings
from medunet.inference.sliding_window import OnTiles, Slab
from medunet.io import (
    MapWriter,
    ReadOptions,
    Scan,
    check_nifti_name,
    check_not_beside_slices,
    check_output,
    describe_source,
    is_nifti,
    merge_options,
    read_scan,
    scan_from_memory,
)
from medunet.models import SYNTHETIC_WARNING, AnyModel, Int8Record, find_newest_model, read_model
from medunet.networks import PatchNetwork
from medunet.planning import Plan
from medunet.postprocessing import Flag, Objects, find_flags, postprocess_labels, separate_objects
from medunet.tasks import Task, check_channels, suggest
from medunet.volume import Volume, build_grid
from medunet.warned import collect_warnings, strip_folders

logger = logging.getLogger(__name__)


class Segmenter:
    """Turns scans into masks with one model, which may be an ensemble.

    Args:
        model: Read from a model folder.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        settings: How much is computed for a scan.

    Attributes:
        model: Task, plan, weights and record.
        device: That computes.
        settings: How much is computed for a scan.
    """

    def __init__(self, model: AnyModel, device: str = "auto", settings: InferenceSettings | None = None) -> None:
        self.model = model
        self.settings = settings or InferenceSettings()
        self.device = choose_device(device)
        self.precision = choose_precision(self.device, self.settings.precision)
        with collect_warnings() as warned:
            self._predictor = Predictor(model, self.device, self.precision, self.settings)
            if model.training.is_synthetic:
                logger.warning(SYNTHETIC_WARNING)
        self._warnings = strip_folders(warned, [model.folder])

    @property
    def description(self) -> str:
        """One line for people: what computes the networks, and how often."""
        return self._predictor.description

    @property
    def int8(self) -> Int8Record | None:
        """What eight bits cost and scored, where the network computes in them; None where it does not."""
        return self._predictor.int8

    @property
    def network(self) -> PatchNetwork:
        """The bare network, a ``torch.nn.Module`` from patches ``(B, C, *patch_size)`` to logits.

        Raises:
            ModelError: If the model is an ensemble; ``model.members`` holds its networks.
        """
        if len(self.model.members) > 1:
            msg = f"{self.model.folder} is an ensemble of {len(self.model.members)} networks; take them from model.members."
            raise ModelError(msg)
        return self.model.members[0].network

    @property
    def task(self) -> Task:
        """What is segmented."""
        return self.model.task

    @property
    def plan(self) -> Plan:
        """How; the members of an ensemble may have others."""
        return self.model.plan

    def segment(
        self,
        scan: Any,
        *,
        probabilities: bool | str | Path = False,
        uncertainty: bool | str | Path = False,
        overwrite: bool = False,
        agreement: bool = False,
        on_tiles: OnTiles | None = None,
        options: ReadOptions | None = None,
        **choices: Any,
    ) -> Segmentation:
        """Segment one scan.

        Args:
            scan: A path (a list of paths for one file per channel) of a NIfTI, NRRD, MetaImage, PNG or TIFF file or of a
                DICOM folder or zip; a list of pydicom datasets; a nibabel, SimpleITK, MONAI or TorchIO image;
                ``(array, affine)`` in RAS+ mm; a `Volume`; or a `Scan`.
            probabilities: Whether to keep the probability of every class: in memory, or, with the path of a NIfTI file,
                on the disk. Air is computed then, too.
            uncertainty: The same for the entropy of the probabilities.
            overwrite: Whether these files may replace others; never the scan.
            agreement: Whether to count how far networks or mirrored passes agree, where the model has no use for it either.
            on_tiles: Called with the number of finished tiles and of all; where the plans of an ensemble differ, for one
                after the other.
            options: What to take where the scan leaves it open.
            **choices: Fields of ``options``, such as ``series="t2"``, ``volume_index=0``, ``allow_gaps=True``.

        Returns:
            The mask on the scan's own grid.

        Raises:
            VolumeError: If the scan cannot be read or is no volume.
            DatasetError: If it has other channels than the task.
            OutputError: If a map cannot be written, or would replace the scan or the other map.
            InputError: If maps are asked for, and the networks of the ensemble do not share a plan; if the scan does not fit
                into the memory that the settings allow.
        """
        clock = _Clock()
        options = self.merge_options(options, choices)
        origin = _read_scan(scan, options)
        image = origin.volume
        check_channels(image, self.task, str(origin.path) if origin.path else describe_source(scan))
        _check_maps([probabilities, uncertainty], origin, scan, overwrite=overwrite)
        with collect_warnings() as warned:
            segmentation = self._segment(
                origin, probabilities, uncertainty, options, clock, counts_agreement=agreement, on_tiles=on_tiles
            )
        return replace(segmentation, warnings=(*self._warnings, *strip_folders(warned, origin.list_files())))

    def _segment(
        self,
        origin: Scan,
        probabilities: bool | str | Path,
        uncertainty: bool | str | Path,
        options: ReadOptions,
        clock: _Clock,
        *,
        counts_agreement: bool,
        on_tiles: OnTiles | None,
    ) -> Segmentation:
        """From a scan that was read and checked to what is known of it, but for the warnings."""
        image = origin.volume
        memory = self._predictor.estimate_memory(image)
        logger.debug("Memory that this scan will take: %s", memory.describe())
        clock.stop("read")
        restart_peak_memory(self.device)
        in_memory: dict[str, ArraySink] = {}
        painter = MapPainter(
            self.task,
            image,
            probabilities=self._choose_sink("probabilities", probabilities, origin, options, in_memory),
            uncertainty=self._choose_sink("uncertainty", uncertainty, origin, options, in_memory),
        )
        listener = ProbabilityListener(self.task, image) if self._needs_probabilities else None

        def listen(slab: Slab, grid: Volume, axis: int) -> None:
            painter.add(slab, grid, axis)
            if listener is not None:
                listener.add(slab, grid, axis)

        try:
            labels, counted = self._predictor.segment_with_agreement(
                image,
                counts_agreement=counts_agreement or self._predicts_dice,
                on_tiles=on_tiles,
                on_stage=clock.stop,
                on_slab=listen if painter.is_wanted or listener is not None else None,
            )
            painter.close()
        finally:
            painter.abandon()  # what is closed already stays
        if painter.is_wanted:
            clock.stop("maps")
        if self.settings.postprocessing == "model":
            postprocessed = postprocess_labels(labels, self.task, self.model.postprocessing)
            labels = postprocessed.labels
            for note in postprocessed.notes:
                logger.warning("Post-processing: %s.", note)
        clock.stop("postprocess")
        flags = find_flags(image, labels, self.task, self.model.quality, agreement=counted)
        clock.stop("flags")
        objects: Objects | None = None
        if self.task.has_instances:
            known = listener.finish() if listener else compute_certain_probabilities(labels, self.task)
            objects, labels = separate_objects(known, labels, self.task, self.model.instances)
            flags = tuple(flag for flag in flags if _is_worth_saying(flag, self.task))
            clock.stop("objects")
        maps = {name: sink.volume for name, sink in in_memory.items()}
        return Segmentation(
            labels=labels,
            label_values=dict(self.task.semantic_labels),
            timings=clock.seconds,
            device=str(self.device),
            codes=self.task.codes,
            scan=_drop_voxels(origin),
            options=options,
            model=self._name,
            flags=flags,
            agreement=counted,
            memory=memory,
            peak_device_bytes=measure_peak_memory(self.device),
            objects=objects,
            probabilities=maps.get("probabilities"),
            uncertainty=maps.get("uncertainty"),
        )

    @property
    def _predicts_dice(self) -> bool:
        """Whether validation has learnt what the agreement of these members says about the Dice."""
        labels = self.model.quality.labels.values() if self.model.quality is not None else ()
        calibrations = [label.dice_calibration for label in labels]
        return any(one is not None and one.members == self._predictor.members for one in calibrations)

    @property
    def _needs_probabilities(self) -> bool:
        """Networks of several plans have none in common; their objects are told apart by the label map."""
        return self.task.has_instances and self._predictor.shares_plan

    @property
    def _name(self) -> tuple[str, str]:
        return "medunet", f"{self.model.training.medunet_version} {self.task.name}"

    def _choose_sink(
        self, name: str, wanted: bool | str | Path, origin: Scan, options: ReadOptions, in_memory: dict[str, ArraySink]
    ) -> OpenSink | None:
        if wanted is False:
            return None
        is_probability = name == "probabilities"
        outside = list_outside(self.task) if is_probability else [0.0]
        grid = origin.volume

        def open_sink(num_channels: int, axis: int, box: Box) -> MapSink:
            if wanted is True:
                in_memory[name] = ArraySink(num_channels, axis, box, grid=grid, outside=outside)
                return in_memory[name]
            return MapWriter(
                Path(wanted),
                grid,
                num_channels=num_channels,
                axis=axis,
                box=box,
                outside=outside,
                names=_name_outputs(self.task) if is_probability else (),
                like=origin.path if origin.path is not None and is_nifti(origin.path) else None,
                affine=options.affine,
                description=" ".join(self._name),
            )

        return open_sink

    def segment_many(
        self, scans: Iterable[Any], *, keeps_going: bool = False, options: ReadOptions | None = None, **choices: Any
    ) -> Iterator[Segmentation | ScanFailure]:
        """Segment one scan after the other; while one is computed, the next one is read.

        Args:
            scans: As for `segment`; taken one ahead.
            keeps_going: Whether a scan that cannot be read or segmented gives a `ScanFailure` in its place, and the
                others go on; otherwise its error is raised when its turn comes.
            options: As for `segment`.
            **choices: As for `segment`.

        Yields:
            Masks in the order of the scans, each as soon as it is made.
        """
        read_options = self.merge_options(options, choices)

        def read(scan: Any) -> Scan:
            return _read_scan(scan, read_options)

        def make(scan: Any, found: Scan) -> Segmentation:
            return self.segment(found, options=read_options)

        for done in read_ahead(scans, read, make):
            if done.error is None:
                assert done.result is not None
                yield done.result
            elif keeps_going:
                if is_fault(done.error):
                    logger.error("A fault of medunet, please report it:", exc_info=done.error)
                yield ScanFailure(scan=done.job, error=done.error)
            else:
                raise done.error

    def merge_options(self, options: ReadOptions | None, choices: dict[str, Any]) -> ReadOptions:
        """How scans are read: as asked for, and of the task's modality where nothing is asked for."""
        return merge_options(options or ReadOptions(modality=self.task.modality), choices)


@dataclass(frozen=True, kw_only=True)
class ScanFailure:
    """A scan that has no mask.

    Attributes:
        scan: As it was given.
        error: Why.
    """

    scan: Any
    error: Exception


def load(
    model: str | Path | None = None, *, device: str = "auto", settings: InferenceSettings | None = None, **choices: Any
) -> Segmenter:
    """Load a model once, to segment many scans.

    Args:
        model: A model folder; None takes the newest of ``$MEDUNET_HOME`` or ``./runs``.
        device: ``"auto"`` or a torch device.
        settings: How much is computed for a scan.
        **choices: Fields of ``settings``, such as ``speed="fast"``.

    Raises:
        ModelError: If there is no such model, or it is damaged.
        InputError: If the device is absent, or a choice is none.
    """
    known = {field.name for field in fields(InferenceSettings)}
    if unknown := sorted(set(choices) - known):
        msg = f"There is no setting '{unknown[0]}'; {suggest(unknown[0], known)}."
        raise InputError(msg)
    settings = replace(settings or InferenceSettings(), **choices)
    return Segmenter(read_model(model if model is not None else find_newest_model()), device, settings)


def _is_worth_saying(flag: Flag, task: Task) -> bool:
    """Not about borders, which only the network knows, nor about how many parts the bodies have before the watershed."""
    return flag.label not in task.borders.values() and not (flag.code == "num-parts" and flag.label in task.things)


def _name_outputs(task: Task) -> list[str]:
    return list(task.labels) if task.has_regions else ["background", *task.labels]


def _read_scan(scan: Any, options: ReadOptions) -> Scan:
    if isinstance(scan, (str, Path)) or (isinstance(scan, list) and _are_paths(scan)):
        return read_scan(scan, options)
    return scan if isinstance(scan, Scan) else scan_from_memory(scan, options)


def _check_maps(maps: Sequence[bool | str | Path], origin: Scan, scan: Any, *, overwrite: bool) -> None:
    """Refuse maps that would be lost, or other files with them, before anything is computed."""
    paths = [Path(path) for path in maps if not isinstance(path, bool)]
    files = [Path(path) for path in scan] if isinstance(scan, list) and _are_paths(scan) else []
    files += origin.list_files()
    for path in paths:
        check_nifti_name(path)
        check_not_beside_slices(path, files)
        check_output(path, files, overwrite=overwrite)
    if len(paths) > len({path.resolve() for path in paths}):
        msg = f"Probabilities and uncertainty would both be written to {paths[0]}; give them different names."
        raise OutputError(msg)


def _are_paths(scan: list[Any]) -> bool:
    return all(isinstance(path, (str, Path)) for path in scan)


def _drop_voxels(scan: Scan) -> Scan:
    """The scan as its mask needs it: a pipeline that collects results must not collect images."""
    return replace(scan, volume=build_grid(scan.volume.spatial_shape, scan.volume.affine))


class _Clock:
    """Seconds between stops, added up for stages that come again."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 4)
        self._last = now
