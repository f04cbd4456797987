"""One case: read it as training does, and measure it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from medunet.checking.measure_labels import measure_labels
from medunet.checking.report import CaseFacts, ChannelFacts, GridFacts
from medunet.errors import MedunetError
from medunet.io import has_structure_names, read_label_map
from medunet.planning import compute_crop_box
from medunet.tasks import Case, Task, check_annotated, check_label_values, read_case, read_case_scan
from medunet.volume import Array, Volume, to_orientation
from medunet.warned import collect_warnings, strip_folders

OnVolumes = Callable[[str, Volume, Volume], None]

_NUM_SAMPLES = 500_000
_AIR_HU = (-1100.0, -700.0)
_OFFSET_TISSUE, _OFFSET_AIR = (850.0, 1250.0), 200.0
_Fault = (MedunetError, OSError, MemoryError)  # what ends training too; anything else is a fault of medunet


def measure_case(case: Case, task: Task, on_volumes: OnVolumes | None = None) -> CaseFacts:
    """Read a case as training does, and measure it; a faulty one is described by why it is refused.

    Args:
        case: To be read.
        task: Channels and labels that it must have.
        on_volumes: Called with id, image and label map, both in RAS orientation, while they are in memory.
    """
    with collect_warnings() as remarks:
        try:
            check_annotated([case], task)
            image, labels = read_case(case, task)
        except _Fault as error:
            return _describe_refused(case, task, _describe(error), remarks)
    turned, labels = to_orientation(image), to_orientation(labels)
    if on_volumes is not None:
        on_volumes(case.case_id, turned, labels)
    kept = compute_crop_box(turned.array, task.modality, turned.spacing)
    measured = measure_labels(labels, task, kept)
    is_labelled = np.isin(labels.array[0], task.all_values)
    return CaseFacts(
        case_id=case.case_id,
        remarks=_name_files(remarks, case),
        annotated=_list_annotated(case, task),
        grid=_measure_grid(image, turned),
        channels=tuple(_measure_channel(channel, is_labelled) for channel in turned.array),
        labels=measured,
        labels_sha256=_hash(labels.array[0], np.int32) if measured else "",
    )


def _describe_refused(case: Case, task: Task, refusal: str, remarks: list[str]) -> CaseFacts:
    """What can still be said: training stops at the first fault, a person wants to mend all of them at once."""
    refusals = [refusal]
    grid: GridFacts | None = None
    channels: tuple[ChannelFacts, ...] = ()
    try:
        image = read_case_scan(case, task).volume
        turned = to_orientation(image)
        grid, channels = _measure_grid(image, turned), tuple(_measure_channel(channel) for channel in turned.array)
    except _Fault as error:
        refusals.append(_describe(error))
    try:
        if not has_structure_names(case.labels):
            check_label_values(read_label_map(case.labels), task, str(case.labels))
    except _Fault as error:
        refusals.append(_describe(error))
    return CaseFacts(
        case_id=case.case_id,
        refusals=_name_files(refusals, case),
        remarks=_name_files(remarks, case),
        grid=grid,
        channels=channels,
    )


def _describe(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "There is not enough memory to read this case; expected room for image and labels. Use a larger machine."
    return " ".join(str(error).split())


def _list_annotated(case: Case, task: Task) -> tuple[str, ...] | None:
    return None if case.annotated is None else tuple(label for label in task.labels if label in case.annotated)


def _name_files(texts: list[str], case: Case) -> tuple[str, ...]:
    """Texts once each, for a page that travels: files by their names, of one name with the folder that tells them apart."""
    files = [*case.images, case.labels]
    is_one_name = case.labels.name in [path.name for path in case.images]
    return strip_folders(texts, [path.parent for path in files] if is_one_name else files)


def _measure_grid(image: Volume, turned: Volume) -> GridFacts:
    return GridFacts(
        shape=image.spatial_shape,
        spacing=image.spacing,
        orientation=image.orientation,
        ras_shape=turned.spatial_shape,
        ras_spacing=turned.spacing,
    )


def _measure_channel(channel: Array, is_labelled: Array | None = None) -> ChannelFacts:
    """Intensities of ``(I, J, K)`` voxels."""
    voxels = channel.reshape(-1)
    samples = _sample(voxels)
    labelled = channel[is_labelled] if is_labelled is not None else voxels[:0]
    low, median, high = np.percentile(samples, [0.5, 50, 99.5]).tolist()

    return ChannelFacts(
        minimum=float(voxels.min()),
        percentile_00_5=low,
        median=median,
        percentile_99_5=high,
        maximum=float(voxels.max()),
        labelled_median=float(np.median(_sample(labelled))) if labelled.size else None,
        share_negative=float((samples < 0).mean()),
        share_air=_compute_share(samples, _AIR_HU),
        share_offset_tissue=_compute_share(samples[samples > _OFFSET_AIR], _OFFSET_TISSUE),
        sha256=_hash(channel, np.float32),
    )


def _compute_share(voxels: Array, limits: tuple[float, float]) -> float:
    """Voxels within limits, as a share; 0 of none."""
    inside = (voxels >= limits[0]) & (voxels <= limits[1])
    return float(inside.mean()) if voxels.size else 0.0


def _sample(voxels: Array) -> Array:
    """At most `_NUM_SAMPLES` of the voxels ``(N,)``, the same ones each time."""
    if voxels.size <= _NUM_SAMPLES:
        return voxels
    return voxels[np.random.default_rng(1234).integers(0, voxels.size, _NUM_SAMPLES)]


def _hash(voxels: Array, dtype: type[np.generic]) -> str:
    """Equal for equal voxels, whatever the type and the axes in the file."""
    content = np.ascontiguousarray(voxels, dtype=dtype)
    if content.dtype.kind == "f":
        content = content + content.dtype.type(0)  # -0 and 0 are one value
    digest = hashlib.sha256(str(content.shape).encode())
    digest.update(content.data)
    return digest.hexdigest()
