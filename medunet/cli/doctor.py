"""``medunet doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from typing import Any

from medunet.cli.options import JsonOption
from medunet.cli.terminal import build_console, print_json


def doctor(as_json: JsonOption = False) -> None:
    """Print versions, devices, memory, disk, cores, and what is missing for which feature."""
    from rich.table import Table

    found = _examine()
    if as_json:
        print_json(found)
        return
    table = Table("what", "found", show_header=False)
    table.add_row("medunet", found["medunet"])
    table.add_row("python", found["python"])
    for package, version in found["packages"].items():
        table.add_row(package, version or f"missing, needed for {_PACKAGES[package]}: pip install {package}")
    table.add_row("cores", str(found["cores"]))
    table.add_row("memory", f"{found['free_memory_gib']:.1f} of {found['memory_gib']:.1f} GiB free")
    writable = "" if found["is_runs_folder_writable"] else ", NOT WRITABLE"
    table.add_row("runs", f"{found['runs_folder']} ({found['free_disk_gib']:.1f} GiB free{writable})")
    for name, description in found["devices"].items():
        table.add_row(name, description)
    build_console().print(table)


def _examine() -> dict[str, Any]:
    import psutil

    import medunet
    from medunet.device import count_cores, measure_free_memory
    from medunet.models import get_runs_folder

    memory, runs = psutil.virtual_memory(), get_runs_folder().resolve()
    existing = next(path for path in (runs, *runs.parents) if path.exists())
    return {
        "medunet": medunet.__version__,
        "python": platform.python_version(),
        "packages": {package: _find_version(package) for package in _PACKAGES},
        "cores": count_cores(),
        "memory_gib": memory.total / 2**30,
        "free_memory_gib": measure_free_memory() / 2**30,
        "runs_folder": runs,
        "free_disk_gib": shutil.disk_usage(existing).free / 2**30,
        "is_runs_folder_writable": os.access(existing, os.W_OK),
        "devices": _list_devices(),
    }


_PACKAGES = {
    "torch": "everything",
    "monai": "preprocessing",
    "torchio": "--augmentation torchio",
    "nibabel": "reading and writing NIfTI",
    "pydicom": "reading and writing DICOM",
    "highdicom": "writing DICOM SEG",
    "pylibjpeg": "compressed DICOM (JPEG 2000, RLE)",
    "python-gdcm": "compressed DICOM (JPEG)",
    "contourpy": "writing RTSTRUCT",
    "pillow": "PNG and TIFF",
    "SimpleITK": "SimpleITK images in Python, --augmentation torchio",
    "lightning-fabric": "training",
    "safetensors": "models",
    "tensorboard": "training",
    "matplotlib": "pictures",
    "openvino": "faster inference on the CPU, --format openvino",
    "onnxruntime": "--format onnx",
    "mlflow-skinny": "train --mlflow",
}


def _find_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _list_devices() -> dict[str, str]:
    try:
        import torch
    except ImportError as error:
        return {"devices": f"unknown, torch cannot be imported: {error}"}

    from medunet.device import choose_device, choose_precision

    devices = {"cpu": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    chosen = choose_device()
    return devices | {"--device auto": f"{chosen}, {choose_precision(chosen)}"}
