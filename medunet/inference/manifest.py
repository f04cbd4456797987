"""`Manifest`: what was done to a scan, as a JSON file beside its mask.

It is written twice: before anything else as ``"running"``, with the files that will be written, and last as ``"done"``. So an
interrupted run is never taken for a finished one, and what it left behind is known to be its own.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version as get_version
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict

import medunet
from medunet.errors import ModelError, OutputError
from medunet.inference.segmentation import Segmentation
from medunet.inference.segmenter import Segmenter
from medunet.inference.settings import InferenceSettings
from medunet.io import list_parts, write_json_atomic
from medunet.models import is_ensemble, list_members, read_records
from medunet.models.documents import read_document
from medunet.models.names import LOCATE, LOW, WEIGHTS
from medunet.warned import strip_folders

MANIFEST_VERSION: Final = 1
_BACKEND_PACKAGES: Final = ("openvino", "onnxruntime", "nncf")
_NUM_SAMPLES, _SAMPLE_BYTES = 16, 2**12


class Manifest(BaseModel):
    """What was done to a scan.

    Attributes:
        version: Of this format.
        status: ``"running"`` until all outputs are written.
        created: ISO date and time, UTC.
        medunet_version: That wrote it.
        versions: Of the packages beneath; of those that compute networks on the CPU, the ones that were loaded.
        scan: Names of the files or the folder, without the path.
        scan_bytes: Their sizes; of a folder, that of its files together.
        scan_samples: SHA-256 of blocks spread over their bytes: uncompressed scans of two patients are of the same size.
        task: Name of the task.
        weights_sha256: Of the model.
        is_synthetic: Whether the model learnt from phantoms, which makes no mask for patients; None of older releases.
        settings: How much was computed (`InferenceSettings`), and how the scan was read.
        decided_by: What of the model folder decides about masks and flags beside the weights, see `describe_decisions`.
        outputs: Names of the files that were or will be written, relative to the manifest's folder.
        outputs_sha256: Of those that were written, by their names in ``outputs``; empty while running, and of older releases.
        computed_by: Device, backend, precision, networks and passes.
        seconds: Per stage.
        estimated_memory_mib: What this scan was expected to take: ``host``, ``device``, and the terms of both.
        peak_memory_mib: ``host``: most memory that the process has taken until then; ``device``: of a CUDA device, for this scan.
        volumes: Label -> ``volume_ml``, ``visible_ml`` and the reason where the volume is not known.
        objects: Of a task with instances: label -> how many objects it has, and how large they are.
        flags: What is unlike training.
        notes: What the reader changed, left out or found odd.
        warnings: What was warned of from loading the model to writing, see `Segmentation.warnings`.
    """

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = MANIFEST_VERSION
    status: Literal["running", "done"]
    created: str
    medunet_version: str
    versions: dict[str, str]
    scan: list[str]
    scan_bytes: list[int]
    scan_samples: list[str] = []
    task: str
    weights_sha256: str
    is_synthetic: bool | None = None
    settings: dict[str, Any]
    decided_by: dict[str, Any] = {}
    outputs: list[str]
    outputs_sha256: dict[str, str] = {}
    computed_by: str = ""
    seconds: dict[str, float] = {}
    estimated_memory_mib: dict[str, float] = {}
    peak_memory_mib: dict[str, float] = {}
    volumes: dict[str, dict[str, Any]] = {}
    objects: dict[str, dict[str, float]] = {}
    flags: list[dict[str, Any]] = []
    notes: list[str] = []
    warnings: list[str] = []


def begin_manifest(
    path: Path,
    images: Sequence[Path],
    outputs: Sequence[Path],
    segmenter: Segmenter,
    reading: Mapping[str, Any],
    decided_by: Mapping[str, Any],
) -> Manifest:
    """Say what is going to be done, before anything is written.

    Args:
        path: Of the manifest.
        images: The scan.
        outputs: All files that will be written.
        segmenter: That computes.
        reading: How the scan is read; plain JSON.
        decided_by: From `describe_decisions`.

    Raises:
        OutputError: If it cannot be written.
    """
    manifest = Manifest(
        status="running",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        medunet_version=medunet.__version__,
        versions=_list_versions(),
        scan=[image.name for image in images],
        scan_bytes=[_count_bytes(image, [path, *outputs]) for image in images],
        scan_samples=[_hash_samples(image, [path, *outputs]) for image in images],
        task=segmenter.task.name,
        weights_sha256=segmenter.model.training.weights_sha256,
        is_synthetic=segmenter.model.training.is_synthetic,
        settings=describe_settings(segmenter.settings, reading),
        decided_by=dict(decided_by),
        outputs=[_name_output(output, path) for output in outputs],
        computed_by=segmenter.description,
    )
    write_json_atomic(path, manifest.model_dump(mode="json"))
    return manifest


def hash_outputs(manifest: Manifest, path: Path) -> dict[str, str]:
    """SHA-256 of the files that a manifest at a path speaks of and that were written, by their names in it."""
    outputs = zip(manifest.outputs, list_own_outputs(manifest, path), strict=True)
    return {name: _hash_file(output) for name, output in outputs if output.is_file()}


def finish_manifest(
    path: Path,
    begun: Manifest,
    segmentation: Segmentation,
    outputs_sha256: Mapping[str, str],
    seconds: Mapping[str, float],
    warnings: Sequence[str] = (),
) -> Manifest:
    """Say what was done, after everything else is written.

    Args:
        path: Of the manifest.
        begun: From `begin_manifest`.
        segmentation: The result.
        outputs_sha256: From `hash_outputs`; reading all files once more is a part of what writing takes.
        seconds: Of stages that the segmentation does not know, such as writing.
        warnings: Of the same stages.

    Raises:
        OutputError: If it cannot be written.
    """
    scan = segmentation.scan
    manifest = begun.model_copy(
        update={
            "status": "done",
            "outputs_sha256": dict(outputs_sha256),
            "seconds": {**segmentation.timings, **seconds},
            "estimated_memory_mib": segmentation.memory.to_json() if segmentation.memory is not None else {},
            "peak_memory_mib": _describe_peak_memory(segmentation),
            "volumes": {name: asdict(volume) for name, volume in segmentation.volumes.items()},
            "objects": {}
            if segmentation.objects is None
            else {name: asdict(found) for name, found in segmentation.objects.summarize().items()},
            "flags": [asdict(flag) for flag in segmentation.flags],
            "notes": [] if scan is None else list(strip_folders(scan.notes, scan.list_files())),
            "warnings": list(dict.fromkeys((*segmentation.warnings, *warnings))),
        }
    )
    write_json_atomic(path, manifest.model_dump(mode="json"))
    return manifest


def read_manifest(path: Path) -> Manifest | None:
    """What a run said; None where there is no manifest.

    Raises:
        OutputError: If the file is something else.
    """
    if not path.is_file():
        return None
    try:
        return read_document(Manifest, path)
    except ModelError as error:
        msg = f"{path} is no manifest of medunet ({error}); move it away, or choose another output."
        raise OutputError(msg) from error


def list_own_outputs(manifest: Manifest, path: Path) -> list[Path]:
    """The files that a manifest speaks of, as absolute paths."""
    return [Path(os.path.normpath(path.parent.absolute() / name)) for name in manifest.outputs]


def list_untouched_outputs(manifest: Manifest, path: Path) -> list[Path]:
    """The files that may be replaced: those of an interrupted run, and of a finished one those that nobody has changed since.

    What they hold decides, not their times: a clock may have been set back between a run and the correction of its mask. A
    manifest of an older release does not say what they held; there, a corrected mask is newer than it, for it was written last.
    """
    outputs = list_own_outputs(manifest, path)
    if manifest.status == "running":
        return outputs
    if not manifest.outputs_sha256:
        finished = path.stat().st_mtime_ns
        return [output for output in outputs if not output.exists() or output.stat().st_mtime_ns <= finished]
    return [
        output
        for name, output in zip(manifest.outputs, outputs, strict=True)
        if not output.exists() or (output.is_file() and _hash_file(output) == manifest.outputs_sha256.get(name))
    ]


def find_difference(
    manifest: Manifest,
    path: Path,
    images: Sequence[Path],
    weights_sha256: str,
    settings: dict[str, Any],
    decided_by: Mapping[str, Any],
) -> str | None:
    """Why what a manifest at a path speaks of is not what would be made now; None where it is.

    Raises:
        OSError: If the scan cannot be looked at any more.
    """
    if manifest.weights_sha256 != weights_sha256:
        return "it was made with another model"
    if manifest.settings != settings:
        changed = [name for name in settings if manifest.settings.get(name) != settings[name]]
        return f"it was made with other settings ({', '.join(changed) or 'fewer are known now'})"
    if manifest.decided_by and manifest.decided_by != decided_by:
        changed = [name for name in decided_by if manifest.decided_by.get(name) != decided_by[name]]
        return f"the model folder has changed since ({', '.join(changed) or 'fewer files count now'})"
    written = [path, *list_own_outputs(manifest, path)]
    if (
        manifest.scan != [image.name for image in images]
        or manifest.scan_bytes != [_count_bytes(image, written) for image in images]
        or manifest.scan_samples != [_hash_samples(image, written) for image in images]
    ):
        return "the scan has changed since"
    return None


def describe_settings(settings: InferenceSettings, reading: Mapping[str, Any]) -> dict[str, Any]:
    """All choices that may change a mask, as plain JSON; a limit of memory does not."""
    return {name: value for name, value in asdict(settings).items() if name != "memory_gb"} | dict(reading)


def describe_decisions(folder: Path, settings: InferenceSettings) -> dict[str, Any]:
    """What of a model folder decides about masks and flags beside the weights, as plain JSON; reads no weights.

    Args:
        folder: The model folder.
        settings: They say which of it counts: a measured gain of mirrored passes does only where ``--flips auto`` asks.

    Returns:
        ``postprocessing``, ``instances``, ``quality``: SHA-256 of what the files say. ``flips``, ``locate``: what speed and
        ``speed.json`` come to. ``int8``: SHA-256 of what was measured, where eight bits may be taken. ``first_stages``: of a
        cascade, checksums of the networks before, and whether they make mirrored passes.

    Raises:
        ModelError: If it is no model folder.
    """
    records = read_records(folder)
    members = [read_records(member) for member in list_members(folder)] if is_ensemble(folder) else [records]
    members = members[:1] if settings.takes_one_network else members
    uses_locator = settings.resolve_locate(records.speed) and (members[0].folder / LOCATE / WEIGHTS).is_file()
    low = [read_records(member.folder / LOW) for member in members if member.plan.num_previous_labels > 0]
    usual = settings.keep_only_computing()
    return {
        "postprocessing": _hash_document(records.postprocessing),
        "instances": _hash_document(records.instances),
        "quality": _hash_document(records.quality),
        "flips": settings.resolve_flips(records.speed),
        "locate": read_records(members[0].folder / LOCATE).training.weights_sha256 if uses_locator else None,
        "int8": _hash_document(members[0].int8) if settings.speed == "fast" else None,
        "first_stages": [[one.training.weights_sha256, usual.resolve_flips(one.speed)] for one in low],
    }


def _describe_peak_memory(segmentation: Segmentation) -> dict[str, float]:
    """MiB: of this process so far, and of the CUDA device for one scan."""
    peak: dict[str, float] = {}
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
        peak["host"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if segmentation.peak_device_bytes is not None:
        peak["device"] = round(segmentation.peak_device_bytes / 2**20, 1)
    return peak


def _list_versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": get_version("numpy")}
    loaded = {name: sys.modules.get(name) for name in _BACKEND_PACKAGES}
    # Asked themselves: the same module comes from packages of several names (onnxruntime-gpu).
    return versions | {name: str(getattr(module, "__version__", "?")) for name, module in loaded.items() if module}


def _count_bytes(image: Path, written: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in _list_files(image, written))


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_samples(image: Path, written: Sequence[Path]) -> str:
    """SHA-256 of names, sizes and blocks of all files of a scan: a hash of all bytes would read every scan once more."""
    digest = hashlib.sha256()
    for path in _list_files(image, written):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            for number in range(_NUM_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * number // (_NUM_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _list_files(image: Path, written: Sequence[Path]) -> list[Path]:
    """The files of a scan, the voxels beside a header too; a mask that was written into its folder is none."""
    if not image.is_dir():
        return list_parts(image)
    own = {path.resolve() for path in written}
    return sorted(path for path in image.rglob("*") if path.is_file() and path.resolve() not in own)


def _hash_document(document: BaseModel | None) -> str | None:
    return None if document is None else hashlib.sha256(document.model_dump_json().encode()).hexdigest()


def _name_output(output: Path, manifest: Path) -> str:
    return os.path.relpath(output, manifest.parent)
